# SPDX-License-Identifier: BSD-3-Clause
"""Closed-loop trials: an object is refined from nothing with the positions turned, and how well it fits is compared.

Patterns that overlap must agree on the object between them. In a wrong orientation neighbours disagree, whatever the
object; the same few patterns, the same probe and the same number of passes make the trials comparable. The probe is
held fixed: if it were refined, it would make up for the negation of the positions, which only its phase tells apart.
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
from ptychopinn.inspection.centre import centre_offset, filled
from ptychopinn.physics.propagation import far_field, squared_modulus
from ptychopinn.physics.propagation import inverse_far_field as near_field
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.search import most_telling, with_aperture
from ptychopinn.refinement.state import State
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Patterns of a trial: as many as cost what 100 of 64 px do, within these bounds.
_PATTERNS, _FEWEST, _MOST = 100, 24, 200
#: Detector pixels along a side to which patterns are cut, if so many hold nearly all light.
_SIDE = 64
_LIGHT = 0.97
_PASSES = {"pie": 5, "lbfgs": 15}
_MARGIN = 2
#: Share of the median counts below which a pattern is not taken.
_FAINT = 0.01
#: Detector pixels that are looked at to choose the patterns; more are thinned out.
_LOOKED_AT = 1 << 26


@dataclass(frozen=True)
class Sample:
    """Neighbouring patterns of a scan, centred, cut to the light, and what a trial needs besides.

    Attributes:
        counts: float32, (k, K, K), FFT order.
        places: float64, (k, 2), in pixels of the cut patterns' object.
        probe: complex64, (M, K, K), with the aperture of the mean pattern.
        good: bool, (K, K), FFT order, or None.
        offset: of the zero frequency in the scan, (y, x) pixels; it has been taken out.
    """

    counts: Tensor
    places: Tensor
    probe: Tensor
    good: Tensor | None
    offset: tuple[float, float]


def take_sample(scan: Scan) -> Sample:
    """Neighbours from where the scan's patterns differ most."""
    good = np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels
    mean, totals = np.zeros(scan.counts.shape[1:]), np.empty(scan.n)
    for part in pattern_blocks(scan.counts.shape):
        mean += scan.counts[part].sum(0, dtype=np.float64)
        totals[part] = scan.counts[part][:, good].sum(1, dtype=np.float64)
    usable = totals > _FAINT * np.median(totals)
    if usable.sum() > 1 and not usable.all():  # empty ones would be chosen, since they differ from all others
        scan = scan.subset(usable)
    mean = filled(mean / len(totals), ~good)
    offset = centre_offset(mean, scan.probe)
    back = tuple(-round(shift) for shift in offset)
    thinned = torch.from_numpy(_thinned(scan, good))
    mean, good = np.roll(mean, back, (0, 1)), np.roll(good, back, (0, 1))
    side = _cut_side(mean)
    size = scan.patch_size
    window = np.s_[size // 2 - side // 2 : size // 2 + side // 2]

    positions = torch.from_numpy(scan.positions)
    number = int(np.clip(_PATTERNS * (_SIDE / side) ** 2, _FEWEST, _MOST))
    chosen = most_telling(thinned, positions, number)
    counts = np.roll(scan.counts[chosen.numpy()], back, (1, 2))[:, window, window].astype(np.float32)

    good = good[window, window]
    mask = None if good.all() else _fft_order(good)
    fields = torch.fft.fftshift(far_field(torch.from_numpy(scan.probe)), (-2, -1))[:, window, window]
    probe = near_field(torch.fft.ifftshift(fields, (-2, -1)))
    # Its scale may be anything: that of the counts, so that the object begins at 1.
    probe = probe * math.sqrt(float(mean[window, window].sum()) / float(squared_modulus(probe).sum()))
    probe = with_aperture(probe, _fft_order(mean[window, window].astype(np.float32))[None], mask)
    return Sample(_fft_order(counts), positions[chosen] * (side / size), probe, mask, offset)


def fit(sample: Sample, turn: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Deviance per detector pixel of each pattern, (k,), after a few passes with the positions turned by a matrix."""
    config = RefineConfig(learn_probe=False, total_variation=0.0, seed=seed)
    places = sample.places @ torch.from_numpy(turn.T.astype(np.float64))
    places = places - places.amin(0).floor() + _MARGIN
    height, width = (int(v) for v in places.amax(0).ceil() + sample.counts.shape[-1] + _MARGIN)
    objective = Objective(sample.counts, sample.good, (height, width), config)
    number = len(sample.counts)
    state = State(
        torch.ones(height, width, dtype=torch.complex64),
        sample.probe.clone(),
        places,
        torch.zeros(number, dtype=torch.float64),
    )
    with torch.no_grad():
        warm = PieEngine(objective, state, config, _no_penalty, _as_it_is)
        for _ in range(_PASSES["pie"]):
            warm.advance()
        engine = LbfgsEngine(objective, warm.state, config, _no_penalty, _as_it_is)
        for _ in range(_PASSES["lbfgs"]):
            engine.advance()
    return engine.residuals.numpy()


def fit_all(sample: Sample, turns: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, NDArray[np.float64]]:
    """:func:`fit` for each of several turns, by name."""
    return {name: fit(sample, turn, seed) for name, turn in turns.items()}


def margin(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    """By how many standard errors ``worse`` (k,) has the larger logarithms of deviance, pattern by pattern.

    Ratios, because patterns differ in how well they fit by far more than trials do.

    Example:
        >>> round(margin(np.array([1.0, 2.0, 4.0]), np.array([2.0, 5.0, 7.0])), 1)
        6.9
    """
    steps = np.log(np.maximum(worse, 1e-30)) - np.log(np.maximum(better, 1e-30))
    error = steps.std(ddof=1) / math.sqrt(len(steps)) if len(steps) > 1 else 0.0
    return float(steps.mean() / error) if error > 0 else 0.0


def twin_likeness(probe: NDArray[np.complex64]) -> float:
    """How much the strongest mode of a probe is like its twin ``conj(P(-r))``, 0 to 1, at the best shift.

    The twin sends the same light to the detector with the phase reversed: a probe like its twin, which is one without
    defocus and aberrations, cannot tell a scan from the same scan with all positions negated.

    Example:
        >>> from ptychopinn.physics.probes import defocused, disk
        >>> round(twin_likeness(disk(32)), 2), twin_likeness(defocused(32)) < 0.5
        (1.0, True)
    """
    strongest = probe[int(np.argmax(np.square(np.abs(probe)).sum((1, 2))))].astype(np.complex128)
    field = np.fft.fft2(strongest)
    overlap = np.abs(np.fft.ifft2(field**2)).max() * field.size
    return float(overlap / np.square(np.abs(field)).sum())


def _thinned(scan: Scan, good: NDArray[np.bool_]) -> NDArray[np.generic]:
    """Counts of good pixels at every s-th along both axes, (n, N/s, N/s): all that is held of a scan at once."""
    stride = max(1, math.ceil(math.sqrt(math.prod(scan.counts.shape) / _LOOKED_AT)))
    kept = good[::stride, ::stride]
    thinned = np.empty((scan.n, *kept.shape), scan.counts.dtype)
    for part in pattern_blocks(scan.counts.shape):
        thinned[part] = np.where(kept, scan.counts[part][:, ::stride, ::stride], 0)
    return thinned


def _cut_side(mean: NDArray[np.float64]) -> int:
    """Even side of the smallest central part, of `_SIDE` pixels or more, that holds nearly all light."""
    size = len(mean)
    for side in range(_SIDE, size, 16):
        part = np.s_[size // 2 - side // 2 : size // 2 + side // 2]
        if mean[part, part].sum() >= _LIGHT * mean.sum():
            return side
    return size


def _fft_order(images: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.fft.ifftshift(images, axes=(-2, -1)).copy())


def _no_penalty(state: State, light: Tensor, gradient: State) -> float:
    return 0.0


def _as_it_is(moves: Tensor) -> Tensor:
    return moves
