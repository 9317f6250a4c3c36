# SPDX-License-Identifier: BSD-3-Clause
"""Priors on the object (total variation, smoothness) and the loss against a known object."""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.physics.propagation import squared_modulus

#: Steps between neighbouring pixels, relative to the object's mean modulus, below which the variation is quadratic.
_SMALL = 1e-3


def total_variation(canvases: Tensor, illumination: Tensor) -> Tensor:
    """Isotropic total variation of complex canvases, weighted by the illumination and relative to their modulus.

    ``sum_r w(r) sqrt(|O(y+1, x) - O|^2 + |O(y, x+1) - O|^2 + s^2) / (m sum_r w(r))`` minus its value for a constant
    object, with the illumination w, the root mean square m of |O| weighted by w, and s = m / 1000.

    Args:
        canvases: complex, (B, H, W).
        illumination: real, (B, H, W), >= 0.

    Returns:
        scalar, dimensionless, the mean over the batch; zero for a constant object.

    Source:
        L. I. Rudin, S. Osher and E. Fatemi, Physica D 60, 259 (1992).
    """
    weight = illumination / illumination.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(illumination.dtype).tiny)
    # The root mean square, because |O| has no derivative at zero.
    level = torch.sqrt((weight * squared_modulus(canvases)).sum((-2, -1), keepdim=True).clamp_min(1e-24))
    unit = canvases / level
    down = squared_modulus(unit[:, 1:, :-1] - unit[:, :-1, :-1])
    right = squared_modulus(unit[:, :-1, 1:] - unit[:, :-1, :-1])
    steps = torch.sqrt(down + right + _SMALL**2) - _SMALL
    return (weight[:, :-1, :-1] * steps).sum((-2, -1)).mean()


def roughness(canvases: Tensor, illumination: Tensor) -> Tensor:
    """Mean square difference of neighbouring pixels, weighted by the illumination, relative to the mean square modulus.

    ``sum_r w(r) (|O(y+1, x) - O|^2 + |O(y, x+1) - O|^2) / sum_r w(r) |O|^2``. Arguments as for :func:`total_variation`.

    Returns:
        scalar, dimensionless, the mean over the batch; zero for a constant object.
    """
    weight = illumination / illumination.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(illumination.dtype).tiny)
    level = (weight * squared_modulus(canvases)).sum((-2, -1)).clamp_min(1e-24)
    down = squared_modulus(canvases[:, 1:, :-1] - canvases[:, :-1, :-1])
    right = squared_modulus(canvases[:, :-1, 1:] - canvases[:, :-1, :-1])
    return ((weight[:, :-1, :-1] * (down + right)).sum((-2, -1)) / level).mean()


def supervised_loss(canvases: Tensor, truth: Tensor, illumination: Tensor) -> Tensor:
    """Normalised squared error of canvases against the true object, minimised over a constant phase per canvas.

    ``min over |s| = 1 of sum_r w |O - s T|^2 / sum_r w |T|^2 = (sum w |O|^2 + sum w |T|^2 - 2 |sum w O T^*|) / sum w
    |T|^2``. Patterns do not determine the constant phase of the object.

    Args:
        canvases: complex, (B, H, W).
        truth: complex, (B, H, W).
        illumination: real, (B, H, W), >= 0.

    Returns:
        scalar, dimensionless, the mean over the batch.
    """
    power, product = (
        (illumination * squared_modulus(truth)).sum((-2, -1)),
        (illumination * canvases * truth.conj()).sum((-2, -1)),
    )
    modulus = torch.sqrt(squared_modulus(product).clamp_min(1e-30))
    distance = (illumination * squared_modulus(canvases)).sum((-2, -1)) + power - 2 * modulus
    return (distance / power.clamp_min(1e-30)).mean()
