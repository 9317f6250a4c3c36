# SPDX-License-Identifier: BSD-3-Clause
"""How well an image explains the patterns of its scan, from a sample of them.

The loss of patterns that are predicted from the stitched image is compared with what photon noise alone would leave,
and with what an empty sample of the same mean transmission leaves. Groups of the network each explain their own
patterns, also where positions are wrong; their average does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry, exit_waves
from ptychopinn._one_line import one_line
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.physics.likelihood import poisson_loss
from ptychopinn.physics.noise_floor import noise_floor
from ptychopinn.physics.propagation import far_field, mode_intensity
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.stitching.stores import Box

#: Patterns that are predicted, and those that are predicted at once.
_SAMPLE, _AT_ONCE = 200, 50


@dataclass(frozen=True)
class Fit:
    """Losses of a sample of the patterns, Poisson, in nats per photon.

    Attributes:
        patterns: number of those that were predicted.
        loss: of the image.
        floor: expected of photon noise, for the intensity that the image predicts.
        empty: of an empty sample of the same mean transmission.
    """

    patterns: int
    loss: float
    floor: float
    empty: float

    __repr__ = one_line

    @property
    def ratio(self) -> float:
        """The loss in units of photon noise; 1 is as good as the photons permit."""
        return self.loss / max(self.floor, 1e-12)

    @property
    def unexplained(self) -> float:
        """Fraction of what an empty sample leaves that the image leaves too, both above photon noise."""
        return max(0.0, self.loss - self.floor) / max(self.empty - self.floor, 1e-12)


@torch.no_grad()
def fit_of(part: Callable[[Box], Tensor], geometry: CanvasGeometry, scan: Scan, probe: Tensor) -> Fit:
    """Predict a sample of the patterns from an image.

    Args:
        part: the image in a box of its rows and columns, complex, on any device.
        geometry: its shape and origin; all patches lie on it.
        scan: the scan, with the positions that the image was made with.
        probe: complex, (M, N, N), on the CPU.

    Returns:
        What the image leaves of up to 200 patterns, spread over the scan.
    """
    chosen = np.unique(np.linspace(0, scan.n - 1, min(_SAMPLE, scan.n)).round().astype(np.int64))
    size, good = scan.patch_size, good_pixels(scan)
    counts = _counts(scan, chosen)
    totals, empty_pattern = counts.sum((-2, -1)), mode_intensity(far_field(probe))
    if good is not None:
        totals = (counts * good).sum((-2, -1))
        empty_pattern = empty_pattern * good
    empty = (totals.mean() / empty_pattern.sum().clamp_min(1e-30)) * mode_intensity(far_field(probe))
    positions = geometry.to_canvas(torch.from_numpy(scan.positions[chosen]))
    corners = positions.floor().long()
    sums, photons = np.zeros(3), 0.0
    for rows in torch.arange(len(chosen), device="cpu").split(_AT_ONCE):
        patches = torch.zeros(len(rows), size + 2, size + 2, dtype=torch.complex64, device="cpu")
        for index, (top, left) in enumerate(corners[rows].tolist()):
            box = (slice(top, min(top + size + 2, geometry.shape[0])),
                   slice(left, min(left + size + 2, geometry.shape[1])))  # fmt: skip
            found = part(box).cpu()
            patches[index, : found.shape[0], : found.shape[1]] = found
        waves = exit_waves(patches, (positions[rows] - corners[rows])[:, None], probe)
        predicted, measured = mode_intensity(far_field(waves))[:, 0], counts[rows]
        weight = float(totals[rows].sum().clamp_min(1.0))
        values = (
            poisson_loss(predicted, measured, good),
            noise_floor(predicted, "poisson", good),
            poisson_loss(empty.expand_as(measured), measured, good),
        )
        sums += weight * np.array([float(value) for value in values])
        photons += weight
    loss, floor, without = (sums / max(photons, 1e-30)).tolist()
    return Fit(len(chosen), loss, floor, without)


def fit_of_result(result: Reconstruction, scan: Scan) -> Fit:
    """The same of a result as it is, with its own probe.

    Args:
        result: an image with a probe.
        scan: the scan, with the positions that the image was made with.
    """
    assert result.probe is not None
    image = torch.from_numpy(result.object)
    origin = (round(result.origin[0]), round(result.origin[1]))
    geometry = CanvasGeometry(origin, (image.shape[0], image.shape[1]))
    return fit_of(lambda box: image[box], geometry, scan, torch.from_numpy(result.probe))


def _counts(scan: Scan, chosen: NDArray[np.int64]) -> Tensor:
    """Counts of patterns, float32 (k, N, N) in FFT order."""
    counts = np.fft.ifftshift(np.asarray(scan.counts[chosen], np.float32), axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(counts))
