# SPDX-License-Identifier: BSD-3-Clause
"""How well an image explains the patterns of its scan, from a sample of them.

The loss of patterns that are predicted from the stitched image is compared with what photon noise alone would leave,
and with what an empty sample of the same mean transmission leaves. Groups of the network each explain their own
patterns, also where positions are wrong; their average does not. Patterns are predicted by the model of the experiment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry, exit_waves
from ptychopinn._one_line import one_line
from ptychopinn.acquisition import wavelength_of
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.likelihood import poisson_loss
from ptychopinn.physics.noise_floor import noise_floor, poisson_terms
from ptychopinn.physics.propagation import far_field, mode_intensity
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.stitching.stores import Box

#: Patterns that are predicted, and those that are predicted at once.
_SAMPLE, _AT_ONCE = 200, 50

_log = logging.getLogger(__name__)


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


def experiment_of_result(result: Reconstruction, scan: Scan) -> Experiment:
    """The experiment with which a result explains a scan.

    Returns:
        What the result found beside object and probe, if it has any and it belongs to these patterns, else what the
        scan states; of a thick sample that has one image, not its slices, without their distances.
    """
    experiment, images = scan.experiment, 1 if result.slices is None else len(result.slices)
    if not result.experiment.plain:
        try:
            experiment = result.experiment.checked("Reconstruction", scan.n, scan.patch_size)
        except InputError:  # of other patterns
            _log.info("%s: what the result found of the experiment belongs to other patterns", scan.name)
    if images != experiment.slices:
        experiment = replace(experiment, slice_distances=())
    return experiment


@torch.no_grad()
def fit_of(
    part: Callable[[Box], Tensor],
    geometry: CanvasGeometry,
    scan: Scan,
    probe: Tensor,
    experiment: Experiment | None = None,
) -> Fit:
    """Predict a sample of the patterns from an image.

    Args:
        part: the image in a box of its rows and columns, complex, on any device; of a thick sample its slices.
        geometry: its shape and origin; all patches lie on it.
        scan: the scan, with the positions that the image was made with.
        probe: complex, (M, N, N), on the CPU.
        experiment: of the prediction; None: the scan's, of a thin sample.

    Returns:
        What the image leaves of up to 200 patterns, spread over the scan.
    """
    if experiment is None:
        experiment = replace(scan.experiment, slice_distances=())
    chosen = np.unique(np.linspace(0, scan.n - 1, min(_SAMPLE, scan.n)).round().astype(np.int64))
    good, saturation = good_pixels(scan), experiment.saturation
    counts = _counts(scan, chosen)
    totals = (counts if good is None else counts * good).sum((-2, -1))
    canvas = (part, geometry.shape, probe)
    predictor = _Plain(*canvas) if experiment.plain else _General(*canvas, scan, experiment)
    empty = predictor.empty(totals.mean(), good)
    positions = geometry.to_canvas(torch.from_numpy(scan.positions[chosen]))
    sums, photons = np.zeros(3), 0.0
    for rows in torch.arange(len(chosen), device="cpu").split(_AT_ONCE):
        predicted, measured = predictor.predict(positions[rows], torch.from_numpy(chosen)[rows]), counts[rows]
        weight = float(totals[rows].sum().clamp_min(1.0))
        values = (
            _loss(predicted, measured, good, saturation),
            noise_floor(predicted, "poisson", good, saturation),
            _loss(empty.expand_as(measured), measured, good, saturation),
        )
        sums += weight * np.array([float(value) for value in values])
        photons += weight
    loss, floor, without = (sums / max(photons, 1e-30)).tolist()
    return Fit(len(chosen), loss, floor, without)


def fit_of_result(result: Reconstruction, scan: Scan) -> Fit:
    """The same of a result as it is, with its own probe and the experiment that it found.

    Args:
        result: an image with a probe.
        scan: the scan, with the positions that the image was made with.
    """
    assert result.probe is not None
    experiment = experiment_of_result(result, scan)
    thick = result.slices is not None and experiment.slices > 1
    image = torch.from_numpy(result.slices if thick else result.object)
    origin = (round(result.origin[0]), round(result.origin[1]))
    geometry = CanvasGeometry(origin, (image.shape[-2], image.shape[-1]))
    probe = torch.from_numpy(result.probe)
    if not experiment.plain and result.positions is not None and len(result.positions) == scan.n:
        scan = replace(scan, positions=result.positions)  # to which the paths of exposures belong
    return fit_of(lambda box: image[..., box[0], box[1]], geometry, scan, probe, experiment)


class _Plain:
    """Predictions of the plain model; arguments are those of :func:`fit_of`, and the canvas (H, W)."""

    def __init__(self, part: Callable[[Box], Tensor], shape: tuple[int, int], probe: Tensor) -> None:
        self.part, self.shape, self.size, self.probe = part, shape, probe.shape[-1], probe

    def empty(self, total: Tensor, good: Tensor | None) -> Tensor:
        """Counts (N, N) behind an empty sample with which good pixels have this total."""
        pattern = mode_intensity(far_field(self.probe))
        on_good = pattern if good is None else pattern * good
        return (total / on_good.sum().clamp_min(1e-30)) * pattern

    def predict(self, positions: Tensor, members: Tensor) -> Tensor:
        """Counts (k, N, N) at positions (k, 2) on the canvas, of patterns with these indices."""
        side = self.size + 2
        corners = positions.floor().long()
        patches = torch.zeros(len(positions), side, side, dtype=torch.complex64, device="cpu")
        for index, (top, left) in enumerate(corners.tolist()):
            box = (slice(top, min(top + side, self.shape[0])), slice(left, min(left + side, self.shape[1])))
            found = self.part(box).cpu()
            patches[index, : found.shape[0], : found.shape[1]] = found
        waves = exit_waves(patches, (positions - corners)[:, None], self.probe)
        return mode_intensity(far_field(waves))[:, 0]


class _General(_Plain):
    """Predictions of the model of an experiment."""

    def __init__(
        self,
        part: Callable[[Box], Tensor],
        shape: tuple[int, int],
        probe: Tensor,
        scan: Scan,
        experiment: Experiment,
    ) -> None:
        super().__init__(part, shape, probe)
        cpu = torch.device("cpu")
        wavelength = None if scan.energy is None else wavelength_of(scan.energy, experiment.radiation)
        self.model = ForwardModel(experiment, self.size, scan.pixel_size, wavelength, cpu)
        empty = torch.zeros(0, self.size, self.size, dtype=torch.complex64, device=cpu)
        shapes, coefficients = experiment.probe_variations, experiment.variation_coefficients
        self.variations = empty if shapes is None else torch.from_numpy(shapes)
        self.coefficients = None if coefficients is None else torch.from_numpy(coefficients)
        self.slices = experiment.slices
        self.distances = torch.tensor(experiment.slice_distances, dtype=torch.float64, device=cpu)
        background = experiment.background
        if background is not None:
            background = np.fft.ifftshift(background)
        self.background = None if background is None else torch.from_numpy(background.copy())

    def empty(self, total: Tensor, good: Tensor | None) -> Tensor:
        points = self.model.points.shape[1]
        ones = torch.ones(self.slices, self.size, self.size, dtype=torch.complex64, device="cpu")
        middle = torch.zeros(1, points, 2, dtype=torch.float64, device="cpu")
        fields = self.model.fields(ones, self.probe[None], middle, middle, self.distances)
        unit = torch.ones(1, dtype=torch.float32, device="cpu")
        pattern, background = self.model.expected(fields, unit)[0], torch.zeros_like(unit)
        if self.background is not None:
            factors = self.model.background_factors
            background = self.background * (1.0 if factors is None else factors.mean())
        on_good, dark = (image if good is None else image * good for image in (pattern, background))
        level = (total - dark.sum()).clamp_min(0.0) / on_good.sum().clamp_min(1e-30)
        return level * pattern + background

    def predict(self, positions: Tensor, members: Tensor) -> Tensor:
        points = positions[:, None] + self.model.points_of(members)
        last = torch.tensor([length - self.size for length in self.shape], dtype=torch.float64, device="cpu")
        cuts = torch.minimum(torch.floor(points + 0.5).clamp_min(0.0), last)
        corners, ends = cuts.amin(1).long(), cuts.amax(1).long() + self.size
        rows = None if self.coefficients is None else self.coefficients[members]
        unit = torch.ones(1, dtype=torch.float32, device="cpu")
        predicted = torch.empty(len(positions), self.size, self.size, dtype=torch.float32, device="cpu")
        for index, ((top, left), (bottom, right)) in enumerate(zip(corners.tolist(), ends.tolist(), strict=True)):
            here = slice(index, index + 1)
            canvas = self.part((slice(top, bottom), slice(left, right))).cpu()
            own = torch.zeros(1, 0, dtype=torch.float64, device="cpu") if rows is None else rows[here]
            probes = self.model.probes_of(self.probe, self.variations, own)
            anchors, offsets = cuts[here] - corners[here, None], points[here] - cuts[here]
            fields = self.model.fields(canvas, probes, anchors, offsets, self.distances)
            predicted[index] = self.model.expected(fields, unit, self.background, members[here])[0]
        return predicted


def _loss(predicted: Tensor, measured: Tensor, good: Tensor | None, saturation: float | None) -> Tensor:
    """Poisson loss of patterns (k, N, N), nats per photon."""
    if saturation is None:
        return poisson_loss(predicted, measured, good)
    terms = poisson_terms(predicted, measured, saturation)
    if good is not None:
        terms, measured = terms * good, measured * good
    return terms.sum() / measured.sum().clamp_min(1.0)


def _counts(scan: Scan, chosen: NDArray[np.int64]) -> Tensor:
    """Counts of patterns, float32 (k, N, N) in FFT order."""
    counts = np.fft.ifftshift(np.asarray(scan.counts[chosen], np.float32), axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(counts))
