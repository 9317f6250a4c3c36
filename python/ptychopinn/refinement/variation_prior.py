# SPDX-License-Identifier: BSD-3-Clause
"""The prior of the probe's variation, which selects one of many solutions that explain the patterns equally well.

The object times a smooth phase factor, with opposite tilts of all probes, and the object with a smooth distortion, with
opposite shifts of all probes, give the same patterns. So tilts and shifts that neighbouring patterns have in common
belong to the object: their smooth part is suppressed. What the patterns do not determine otherwise is as small as
possible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptychopinn.refinement.state import State

#: Nats for every photon of the power by which the probe varies, and of its smooth tilts and shifts.
POWER_WEIGHT = 1e-4
SMOOTH_WEIGHT = 1.0
#: Smooth functions per axis, at most.
_MOST = 16


class VariationPrior:
    """Prior of variations and coefficients.

    Args:
        positions: float64, (n, 2), of the scan, pixels.
        probe: complex, (M, N, N), whose first mode varies: its tilts and shifts.
    """

    def __init__(self, positions: Tensor, probe: Tensor) -> None:
        self.smooth = smooth_functions(positions, probe.shape[-1])
        self.probe = probe
        self.motions = torch.view_as_real(tilts_and_shifts(probe[0])).flatten(1).double()

    def __call__(self, state: State, gradient: State) -> Tensor:
        """Value, float64, (); adds half the gradient by variations and coefficients."""
        coefficients, size = state.coefficients, state.variations.shape
        shapes = torch.view_as_real(state.variations).flatten(1).double()
        products, squares = shapes @ shapes.T, coefficients.T @ coefficients
        parts = self.smooth.T @ coefficients  # (K, V)
        along = shapes @ self.motions.T  # (V, 4)
        common = parts @ along
        by_coefficients = POWER_WEIGHT * (coefficients @ products)
        by_coefficients += SMOOTH_WEIGHT * (self.smooth @ (common @ along.T))
        by_shapes = POWER_WEIGHT * (squares @ shapes) + SMOOTH_WEIGHT * (parts.T @ common @ self.motions)
        gradient.coefficients.add_(by_coefficients)
        gradient.variations.add_(torch.view_as_complex(by_shapes.to(state.probe.real.dtype).view(*size, 2)))
        value: Tensor = POWER_WEIGHT * (products * squares).sum() + SMOOTH_WEIGHT * common.square().sum()
        return value

    def without_smooth_motion(self, variations: Tensor, coefficients: Tensor) -> Tensor:
        """Coefficients (n, V) without smooth tilts and shifts, as far as the variations can express them."""
        shapes = torch.view_as_real(variations).flatten(1).double()
        smooth = self.smooth @ (self.smooth.T @ coefficients)
        motion = self.motions.T @ (self.motions @ (shapes.T @ smooth.T))  # (2 N^2, n)
        rest: Tensor = coefficients - (torch.linalg.pinv(shapes.T) @ motion).T
        return rest


def tilts_and_shifts(probe: Tensor) -> Tensor:
    """Orthonormal changes (4, N, N) of a probe (N, N), for real coefficients: tilts and shifts along y and x."""
    size = probe.shape[-1]
    pixel = torch.arange(size, dtype=torch.float32, device=probe.device) - (size - 1) / 2
    k = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float32, device=probe.device)
    spectrum = torch.fft.fft2(probe)
    shifts = torch.fft.ifft2(torch.stack([spectrum * (1j * k)[:, None], spectrum * (1j * k)]))
    changes = torch.cat([torch.stack([1j * pixel[:, None] * probe, 1j * pixel * probe]), shifts])
    flat = torch.view_as_real(changes).flatten(1).double()
    orthogonal = torch.linalg.qr(flat.T).Q.T.float()
    return torch.view_as_complex(orthogonal.view(4, size, size, 2).contiguous())


def smooth_functions(positions: Tensor, size: int) -> Tensor:
    """Orthonormal functions (n, K) of the positions (n, 2), cosines of periods of at least twice ``size`` pixels."""
    extent = (positions.amax(0) - positions.amin(0)).clamp_min(1.0)
    unit = (positions - positions.amin(0)) / extent
    counts = [min(_MOST, 1 + int(side / size)) for side in extent.tolist()]
    waves = [
        torch.cos(math.pi * unit[:, axis, None] * torch.arange(count, dtype=unit.dtype, device=unit.device))
        for axis, count in enumerate(counts)
    ]
    products = (waves[0][:, :, None] * waves[1][:, None, :]).flatten(1)
    centred = torch.cat([products, unit], 1)
    basis, values, _ = torch.linalg.svd(centred, full_matrices=False)
    kept: Tensor = basis[:, values > 1e-6 * values[0]]
    return kept
