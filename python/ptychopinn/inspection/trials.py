# SPDX-License-Identifier: BSD-3-Clause
"""Trial refinements of a few patterns, from scratch, with the positions in different orientations.

In a wrong orientation, overlapping patterns contradict each other, and the deviance stays high. Trials are comparable:
they have the same patterns, probe and number of passes. The probe is fixed, because a refined probe would compensate
negated positions by the sign of its phase. Of an experiment, a source of finite size is neglected here, and the path of
an exposure has a few points: they are the same in all orientations, and take the longest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.acquisition import wavelength_of
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.findings.centre import centre_offset, fill_pixels
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.propagation import far_field, inverse_far_field, squared_modulus
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.search import impose_aperture, select_trial_patterns
from ptychopinn.refinement.state import State
from ptychopinn.runtime.memory import available_memory
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of

#: Number of patterns of 64 px in a trial; of another size, as many as have the same cost: at least the second number,
#: and at most twice the first.
_PATTERNS, _FEWEST = 100, 24
#: Minimum side, detector pixels, to which patterns are cropped, and the fraction of the counts it must contain.
_SIDE = 64
_CROPPED_FRACTION = 0.97
_PASSES = {"pie": 5, "lbfgs": 15}
_MARGIN = 2
#: Bytes of a refinement for every pixel of its canvas: the object, its gradient and the history of the engine.
_BYTES = 256
#: Total counts, relative to the median, below which a pattern is not used.
_FAINT = 0.01
#: Points of the path of an exposure.
_POINTS = 3
#: Maximum number of counts that are used to choose the patterns; larger scans are subsampled.
_MAX_COUNTS = 1 << 26


@dataclass(frozen=True)
class Sample:
    """Neighbouring patterns of a scan, centred and cropped, with their positions and probe.

    Attributes:
        counts: float32, (k, K, K), FFT order.
        positions: float64, (k, 2), pixels of the object behind cropped patterns.
        probe: complex64, (M, K, K), with the aperture of the mean pattern.
        good: bool, (K, K), FFT order, or None.
        offset: of the zero frequency in the scan, (y, x), pixels; corrected in ``counts``.
        members: int64, (k,), indices of the patterns in the scan.
        scale: pixels of the object behind cropped patterns, relative to those of the scan.
        experiment: of these patterns, for these pixels.
        pixel_size: metres per pixel of the object behind cropped patterns, or None.
        energy: of the scan, eV, or None.
    """

    counts: Tensor
    positions: Tensor
    probe: Tensor
    good: Tensor | None
    offset: tuple[float, float]
    members: NDArray[np.int64]
    scale: float
    experiment: Experiment
    pixel_size: float | None
    energy: float | None

    def reach(self) -> int:
        """Pixels around the positions that the points of the exposures need."""
        return math.ceil(float(np.abs(exposure_points(self.experiment)[0]).max()))

    def state(self, image: Tensor, probe: Tensor, positions: Tensor) -> State:
        """Initial state of a trial, with what the experiment has beside object (H, W), probe and positions."""
        experiment, device = self.experiment, torch.device("cpu")
        state = State(image, probe.clone(), positions, torch.zeros(len(positions), dtype=torch.float64, device=device))
        if experiment.probe_variations is not None:
            assert experiment.variation_coefficients is not None
            state.variations = torch.from_numpy(experiment.probe_variations.copy())
            state.coefficients = torch.from_numpy(experiment.variation_coefficients.copy())
        if experiment.background is not None:
            state.background = torch.from_numpy(np.fft.ifftshift(np.sqrt(experiment.background.astype(np.float64))))
        if experiment.slice_distances:
            state.distances = torch.tensor(experiment.slice_distances, dtype=torch.float64, device=device)
            state.object = (image ** (1 / experiment.slices)).expand(experiment.slices, *image.shape).clone()
        return state

    def objective(self, counts: Tensor, canvas_size: tuple[int, int], config: RefineConfig) -> Objective:
        """Objective of counts (k, K, K) of these patterns, by the model of the experiment."""
        if self.experiment.plain and not config.probe_variations:
            return Objective(counts, self.good, canvas_size, config)
        wavelength = None if self.energy is None else wavelength_of(self.energy, self.experiment.radiation)
        device = torch.device("cpu")
        model = ForwardModel(self.experiment, counts.shape[-1], self.pixel_size, wavelength, device)
        return ExperimentObjective(counts, self.good, canvas_size, config, model)


def select_sample(
    scan: Scan, *, shape_probe: bool = True, patterns: int = _PATTERNS, all_points: bool = False
) -> Sample:
    """Select neighbouring patterns from the part of the scan where patterns differ most.

    Args:
        scan: the scan.
        shape_probe: give the probe the power and the aperture of the mean pattern; False: leave it as it is.
        patterns: of 64 px; of another size, as many as have the same cost, within bounds.
        all_points: of the exposures; then there are fewer patterns. False: only a few points of a path, and no source.
    """
    good = np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels
    mean, totals = np.zeros(scan.counts.shape[1:]), np.empty(scan.n)
    for part, block in blocks_of(scan.counts):
        mean += block.sum(0, dtype=np.float64)
        totals[part] = block[:, good].sum(1, dtype=np.float64)
    usable, kept = totals > _FAINT * np.median(totals), np.arange(scan.n)
    if usable.sum() > 1 and not usable.all():  # empty patterns differ from all others, and would be chosen
        scan, kept = scan.subset(usable), np.flatnonzero(usable)
    experiment = scan.experiment if all_points else _few_points(scan.experiment)
    far = experiment.fresnel_number is None
    patterns = max(_FEWEST, patterns * _POINTS // max(_POINTS, exposure_points(experiment)[0].shape[1]))
    mean = mean / len(totals)
    if experiment.background is not None:
        mean = np.maximum(mean - experiment.background, 0)
    mean = fill_pixels(mean, ~good)
    offset = centre_offset(mean, scan.probe) if far else (0.0, 0.0)
    back = tuple(-round(shift) for shift in offset)
    subsampled = torch.from_numpy(_subsample(scan, good))
    mean, good = np.roll(mean, back, (0, 1)), np.roll(good, back, (0, 1))
    side = _central_side(mean) if far else scan.patch_size
    size = scan.patch_size
    centre = slice(size // 2 - side // 2, size // 2 + side // 2)

    positions = torch.from_numpy(scan.positions)
    number = int(np.clip(patterns * (_SIDE / side) ** 2, _FEWEST, 2 * patterns))
    chosen = select_trial_patterns(subsampled, positions, number)
    counts = np.roll(scan.counts[chosen.numpy()], back, (1, 2))[:, centre, centre].astype(np.float32)

    good = good[centre, centre]
    mask = None if good.all() else _fft_order(good)
    probe, level = _cropped(scan.probe, centre), 1.0
    if shape_probe:  # scaled to the counts, so that the initial object is 1
        level = math.sqrt(float(mean[centre, centre].sum()) / float(squared_modulus(probe).sum()))
        probe = probe * level
        if far:
            probe = impose_aperture(probe, _fft_order(mean[centre, centre].astype(np.float32))[None], mask)
    members, scale = kept[chosen.numpy()], side / size
    values: dict[str, object] = {}
    if experiment.exposure is not None:
        values["exposure"] = experiment.exposure * scale
    if experiment.source_size is not None:
        values["source_size"] = (experiment.source_size[0] * scale, experiment.source_size[1] * scale)
    if experiment.background is not None:
        values["background"] = np.roll(experiment.background, back, (0, 1))[centre, centre].copy()
    if experiment.probe_variations is not None:
        values["probe_variations"] = (_cropped(experiment.probe_variations, centre) * level).numpy()
    return Sample(
        _fft_order(counts),
        positions[chosen] * scale,
        probe,
        mask,
        offset,
        members,
        scale,
        replace(experiment, **values).subset(chosen.numpy()),  # type: ignore[arg-type]
        None if scan.pixel_size is None else scan.pixel_size / scale,
        scan.energy,
    )


def _cropped(waves: NDArray[np.complex64], centre: slice) -> Tensor:
    """Waves (M, K, K) whose far field is the middle of that of others (M, N, N)."""
    fields = torch.fft.fftshift(far_field(torch.from_numpy(waves)), (-2, -1))[:, centre, centre]
    return inverse_far_field(torch.fft.ifftshift(fields, (-2, -1)))


def _few_points(experiment: Experiment) -> Experiment:
    """The experiment with a point source, and at most a few points in the path of an exposure."""
    experiment, path = replace(experiment, source_size=None), experiment.exposure
    if path is None or path.shape[-2] <= _POINTS:
        return experiment
    parts = [part.mean(-2) for part in np.array_split(path, _POINTS, axis=-2)]
    return replace(experiment, exposure=np.stack(parts, axis=-2))


def fit_trial(sample: Sample, matrix: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Refine a sample with its positions multiplied by a matrix.

    Args:
        sample: the patterns.
        matrix: (2, 2), of (y, x).
        seed: of the order of the batches.

    Returns:
        (k,), deviance of every pattern per detector pixel.

    Raises:
        InputError: the positions need a canvas that exceeds the memory.
    """
    config = RefineConfig(learn_probe=False, total_variation=0.0, seed=seed)
    positions = sample.positions @ torch.from_numpy(matrix.T.astype(np.float64))
    if sample.experiment.exposure is not None:
        path = np.ascontiguousarray(sample.experiment.exposure @ matrix.T, np.float64)
        sample = replace(sample, experiment=replace(sample.experiment, exposure=path))
    margin = _MARGIN + sample.reach()
    positions = positions - positions.amin(0).floor() + margin
    height, width = (int(v) for v in positions.amax(0).ceil() + sample.counts.shape[-1] + margin)
    if height * width * _BYTES > available_memory():
        raise InputError(
            f"the orientation of the positions cannot be checked: neighbouring patterns need a canvas of {height} x "
            f"{width} px, more than fits into memory; check the unit of the positions, or state --orientation given"
        )
    objective = sample.objective(sample.counts, (height, width), config)
    image = torch.ones(height, width, dtype=torch.complex64, device="cpu")
    state = sample.state(image, sample.probe, positions)
    with torch.no_grad():
        warmup = PieEngine(objective, state, config, _no_penalty, _identity)
        for _ in range(_PASSES["pie"]):
            warmup.advance()
        engine = LbfgsEngine(objective, warmup.state, config, _no_penalty, _identity)
        for _ in range(_PASSES["lbfgs"]):
            engine.advance()
    return engine.residuals.numpy()


def fit_trials(sample: Sample, matrices: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, NDArray[np.float64]]:
    """Call :func:`fit_trial` for every matrix; results by name."""
    deviances = {}
    with progress("orientation", len(matrices), "trials") as advance:
        for name, matrix in matrices.items():
            deviances[name] = fit_trial(sample, matrix, seed)
            advance(1)
    return deviances


def margin(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    """Mean of log(worse / better) over patterns, in standard errors.

    Ratios are used because the deviance varies more between patterns than between trials.

    Args:
        better: (k,), deviance of every pattern in the first trial.
        worse: (k,), the same of the second.

    Returns:
        The margin, positive where ``worse`` has the larger deviance; 0 for one pattern, or without variation.

    Example:
        >>> round(margin(np.array([1.0, 2.0, 4.0]), np.array([2.0, 5.0, 7.0])), 1)
        6.9
    """
    steps = np.log(np.maximum(worse, 1e-30)) - np.log(np.maximum(better, 1e-30))
    error = steps.std(ddof=1) / math.sqrt(len(steps)) if len(steps) > 1 else 0.0
    return float(steps.mean() / error) if error > 0 else 0.0


def twin_similarity(probe: NDArray[np.complex64]) -> float:
    """Maximum correlation of the strongest mode with its twin image ``conj(P(-r))`` over shifts, 0 to 1.

    The far field of the twin has the same modulus and the opposite phase. A probe that equals its twin, as without
    defocus and aberrations, predicts the same patterns for negated positions and the twin of the object.

    Args:
        probe: (M, N, N).

    Example:
        >>> from ptychopinn.physics.probes import defocused, disk
        >>> round(twin_similarity(disk(32)), 2), twin_similarity(defocused(32)) < 0.5
        (1.0, True)
    """
    strongest = probe[int(np.argmax(np.square(np.abs(probe)).sum((1, 2))))].astype(np.complex128)
    field = np.fft.fft2(strongest)
    overlap = np.abs(np.fft.ifft2(field**2)).max() * field.size
    return float(overlap / np.square(np.abs(field)).sum())


def _subsample(scan: Scan, good: NDArray[np.bool_]) -> NDArray[np.generic]:
    """Counts of every s-th pixel along both axes, (n, N/s, N/s), zero for bad ones, of a scan that may be on disk."""
    stride = max(1, math.ceil(math.sqrt(math.prod(scan.counts.shape) / _MAX_COUNTS)))
    kept = good[::stride, ::stride]
    subsampled = np.empty((scan.n, *kept.shape), scan.counts.dtype)
    for part, block in blocks_of(scan.counts):
        subsampled[part] = np.where(kept, block[:, ::stride, ::stride], 0)
    return subsampled


def _central_side(mean: NDArray[np.float64]) -> int:
    """Even side, at least `_SIDE` pixels, of the smallest central part that contains nearly all counts."""
    size = len(mean)
    for side in range(_SIDE, size, 16):
        part = np.s_[size // 2 - side // 2 : size // 2 + side // 2]
        if mean[part, part].sum() >= _CROPPED_FRACTION * mean.sum():
            return side
    return size


def _fft_order(images: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.fft.ifftshift(images, axes=(-2, -1)).copy())


def _no_penalty(state: State, illumination: Tensor, gradient: State) -> float:
    return 0.0


def _identity(moves: Tensor) -> Tensor:
    return moves
