# SPDX-License-Identifier: BSD-3-Clause
"""Trial refinements of a few patterns, from scratch, with the positions in different orientations.

In a wrong orientation, overlapping patterns contradict each other, and the deviance stays high. Trials are comparable:
they have the same patterns, probe and number of passes. The probe is fixed, because a refined probe would compensate
negated positions by the sign of its phase.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import centre_offset, fill_pixels
from ptychopinn.physics.propagation import far_field, inverse_far_field, squared_modulus
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
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
    """

    counts: Tensor
    positions: Tensor
    probe: Tensor
    good: Tensor | None
    offset: tuple[float, float]
    members: NDArray[np.int64]
    scale: float


def select_sample(scan: Scan, *, shape_probe: bool = True, patterns: int = _PATTERNS) -> Sample:
    """Select neighbouring patterns from the part of the scan where patterns differ most.

    Args:
        scan: the scan.
        shape_probe: give the probe the power and the aperture of the mean pattern; False: leave it as it is.
        patterns: of 64 px; of another size, as many as have the same cost, within bounds.
    """
    good = np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels
    mean, totals = np.zeros(scan.counts.shape[1:]), np.empty(scan.n)
    for part, block in blocks_of(scan.counts):
        mean += block.sum(0, dtype=np.float64)
        totals[part] = block[:, good].sum(1, dtype=np.float64)
    usable, kept = totals > _FAINT * np.median(totals), np.arange(scan.n)
    if usable.sum() > 1 and not usable.all():  # empty patterns differ from all others, and would be chosen
        scan, kept = scan.subset(usable), np.flatnonzero(usable)
    mean = fill_pixels(mean / len(totals), ~good)
    offset = centre_offset(mean, scan.probe)
    back = tuple(-round(shift) for shift in offset)
    subsampled = torch.from_numpy(_subsample(scan, good))
    mean, good = np.roll(mean, back, (0, 1)), np.roll(good, back, (0, 1))
    side = _central_side(mean)
    size = scan.patch_size
    centre = slice(size // 2 - side // 2, size // 2 + side // 2)

    positions = torch.from_numpy(scan.positions)
    number = int(np.clip(patterns * (_SIDE / side) ** 2, _FEWEST, 2 * patterns))
    chosen = select_trial_patterns(subsampled, positions, number)
    counts = np.roll(scan.counts[chosen.numpy()], back, (1, 2))[:, centre, centre].astype(np.float32)

    good = good[centre, centre]
    mask = None if good.all() else _fft_order(good)
    fields = torch.fft.fftshift(far_field(torch.from_numpy(scan.probe)), (-2, -1))[:, centre, centre]
    probe = inverse_far_field(torch.fft.ifftshift(fields, (-2, -1)))
    if shape_probe:  # scaled to the counts, so that the initial object is 1
        probe = probe * math.sqrt(float(mean[centre, centre].sum()) / float(squared_modulus(probe).sum()))
        probe = impose_aperture(probe, _fft_order(mean[centre, centre].astype(np.float32))[None], mask)
    members, scale = kept[chosen.numpy()], side / size
    return Sample(_fft_order(counts), positions[chosen] * scale, probe, mask, offset, members, scale)


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
    positions = positions - positions.amin(0).floor() + _MARGIN
    height, width = (int(v) for v in positions.amax(0).ceil() + sample.counts.shape[-1] + _MARGIN)
    if height * width * _BYTES > available_memory():
        raise InputError(
            f"the orientation of the positions cannot be checked: neighbouring patterns need a canvas of {height} x "
            f"{width} px, more than fits into memory; check the unit of the positions, or state --orientation given"
        )
    objective = Objective(sample.counts, sample.good, (height, width), config)
    number = len(sample.counts)
    state = State(
        torch.ones(height, width, dtype=torch.complex64, device="cpu"),
        sample.probe.clone(),
        positions,
        torch.zeros(number, dtype=torch.float64, device="cpu"),
    )
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
