# SPDX-License-Identifier: BSD-3-Clause
"""Residuals of a result: predicted against measured counts, over the detector, over the scan and over time."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ext import CanvasGeometry
from ptychopinn._one_line import one_line
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.config import RefineConfig
from ptychopinn.diagnosis.trials import losses
from ptychopinn.inference.fit import experiment_of_result
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.physics.noise_floor import expected_terms, poisson_terms, up_to_saturation
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.counts import upload_counts
from ptychopinn.refinement.experiment_objective import make_objective
from ptychopinn.refinement.initial import initial_state
from ptychopinn.scan import Scan

#: Largest number of counts that are compared; of a larger scan, patterns at equal distances are.
_MAX_COUNTS = 1 << 25
_BLOCK = 32
_MARGIN = 8


@dataclass(frozen=True, eq=False)
class Residuals:
    """Comparison of predicted and measured counts.

    Attributes:
        members: int64, (k,), indices of the patterns that were compared.
        positions: float64, (k, 2), theirs in the result, pixels.
        detector: float64, (N, N), zero frequency in the middle: sum of measured minus predicted counts, in standard
            deviations of the photon noise; NaN at bad pixels.
        pixel_ratio: float64, (N, N), loss over noise floor of every pixel; NaN at bad pixels.
        ratios: float64, (k,), loss over noise floor of every pattern.
        intensities: float64, (k,), measured over predicted counts of every pattern.
        ratio: loss over noise floor of all.
        measured, predicted: float64, (N, N), means over the patterns; of a saturated pixel no more than its limit is
            predicted.
    """

    members: NDArray[np.int64]
    positions: NDArray[np.float64]
    detector: NDArray[np.float64]
    pixel_ratio: NDArray[np.float64]
    ratios: NDArray[np.float64]
    intensities: NDArray[np.float64]
    ratio: float
    measured: NDArray[np.float64]
    predicted: NDArray[np.float64]

    __repr__ = one_line

    def radial(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measured and predicted mean counts, (N/2,) each, over rings of one pixel around the zero frequency."""
        size = len(self.measured)
        axis = np.arange(size) - size // 2
        ring = np.hypot(axis[:, np.newaxis], axis).astype(int)
        good = np.isfinite(self.detector) & (ring < size // 2)
        number = np.maximum(np.bincount(ring[good], minlength=size // 2), 1)
        measured, predicted = (
            np.bincount(ring[good], image[good], minlength=size // 2) / number
            for image in (self.measured, self.predicted)
        )
        return measured, predicted


def measure_residuals(scan: Scan, result: Reconstruction) -> Residuals:
    """Predict the patterns of a scan from a result, and compare them with the counts.

    Args:
        scan: the scan.
        result: object, and probe, positions and experiment where it has them, see
            :func:`~ptychopinn.inference.fit.experiment_of_result`.
    """
    step = max(1, math.ceil(math.prod(scan.counts.shape) / _MAX_COUNTS))
    members = np.arange(0, scan.n, step)
    positions = scan.positions if result.positions is None or len(result.positions) != scan.n else result.positions
    experiment = experiment_of_result(result, scan)
    part = dataclasses.replace(scan, experiment=experiment)
    part = part if step == 1 else part.subset(members)
    part = dataclasses.replace(part, positions=positions[members].copy())
    reach = math.ceil(np.abs(exposure_points(part.experiment)[0]).max())
    geometry = CanvasGeometry.from_positions(part.positions, scan.patch_size, _MARGIN + reach)
    config, saturation = RefineConfig(), experiment.saturation
    state = initial_state(part, result, geometry, part.positions, config)
    experiment = part.experiment
    if result.intensities is not None and len(result.intensities) == scan.n:
        state.intensities = torch.from_numpy(np.log(np.maximum(result.intensities[members], 1e-6)).astype(np.float64))
    counts, good = upload_counts(part.counts, torch.device("cpu")), good_pixels(scan)
    cpu = torch.device("cpu")
    objective = make_objective(
        part, experiment, counts, good, geometry.shape, config, cpu, len(state.probe), experiment.plain
    )
    size = scan.patch_size
    sums = torch.zeros(4, size, size, dtype=torch.float64, device="cpu")
    terms, floors = np.empty(part.n), np.empty(part.n)
    totals = np.empty((2, part.n))
    with torch.no_grad():
        for block in torch.arange(part.n, device="cpu").split(_BLOCK):
            rows = block.numpy()  # a tensor of one element would index as a scalar
            measured, predicted = counts[block].float(), objective.predict(state, block)
            terms[rows], floors[rows] = losses(predicted, measured, good, saturation)
            sums[2] += poisson_terms(predicted, measured, saturation).sum(0)
            sums[3] += expected_terms(predicted, "poisson", saturation).sum(0)
            predicted = up_to_saturation(predicted, measured, saturation)
            sums[0] += measured.sum(0)
            sums[1] += predicted.sum(0)
            for total, images in zip(totals, (measured, predicted), strict=True):
                total[rows] = (images if good is None else images * good).sum((1, 2)).numpy()
    if good is not None:
        sums[:, ~good] = torch.nan
    measured, predicted, loss, floor = np.fft.fftshift(sums.numpy(), axes=(1, 2))
    return Residuals(
        members=members,
        positions=part.positions,
        detector=(measured - predicted) / np.sqrt(np.maximum(predicted, 1)),
        pixel_ratio=loss / np.maximum(floor, 1e-9),
        ratios=terms / np.maximum(floors, 1e-9),
        intensities=totals[0] / np.maximum(totals[1], 1e-9),
        ratio=float(terms.sum() / max(floors.sum(), 1e-9)),
        measured=measured / part.n,
        predicted=predicted / part.n,
    )
