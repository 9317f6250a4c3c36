# SPDX-License-Identifier: BSD-3-Clause
"""Several scans as one: their patterns behind one another, in one coordinate system.

Scans of one sample are where they were measured; those of several samples lie side by side, so far apart that no patch
overlaps another sample. Counts, positions and what belongs to patterns are concatenated; the rest must agree.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import KDTree, QhullError
from torch import Tensor

from ptychopinn._one_line import one_line
from ptychopinn.decisions import Decisions
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.refinement.state import State
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Relative difference of pixel sizes and energies that are the same.
_SAME = 1e-3
#: Fraction of the detector by which the bad pixels of scans may differ.
_MOST_BAD = 0.05
#: Pixels beside the patches of a sample, for positions that move.
SIDE = 24
#: Patterns at most this fraction of a patch apart see the same part of the sample.
_NEAR = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Joint:
    """What a refinement of several scans as one has beside a single scan.

    Args:
        factors: (n,) float64, of the photons of every pattern, relative to the probe's power.
        groups: (n,) int64, of patterns whose positions have an affine part of their own; None: all have one in common.
        labels: (n,) int64, ascending, of patterns that have a probe of their own, see
            :mod:`ptychopinn.refinement.probe_of_each`; None: all have one in common.
        probes: number of these.
    """

    factors: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None
    probes: int = 1

    __repr__ = one_line

    def subset(self, rows: NDArray[np.int64]) -> Joint:
        """That of a part of the patterns."""
        groups, labels = (None if part is None else part[rows] for part in (self.groups, self.labels))
        return Joint(self.factors[rows], groups, labels, self.probes)

    def probes_of(self, probe: Tensor) -> list[tuple[Tensor, slice]]:
        """The modes (M, N, N) of every probe among those of all, (S M, N, N), and its patterns."""
        if self.labels is None:
            return [(probe, slice(None))]
        ends = np.searchsorted(self.labels, np.arange(self.probes + 1)).tolist()
        return [(modes, slice(*rows)) for modes, rows in zip(probe.chunk(self.probes), pairwise(ends), strict=True)]

    def prepare(self, state: State, scratch: bool) -> Tensor | None:
        """Give an initial state, on the CPU, the factors, and an even object its level.

        Returns:
            (n,) the factors, or None where they are all 1.
        """
        state.intensities.copy_(torch.from_numpy(np.log(self.factors)))
        if scratch:
            slices = len(state.object) if state.object.dim() == 3 else 1
            power = float(self.factors.mean())
            if self.labels is not None:  # the level is for the power of all probes
                powers = (state.probe.abs().square()).sum((1, 2)).view(self.probes, -1).sum(1)
                power = float(powers[torch.from_numpy(self.labels)].mean() / powers.sum())
            state.object.div_(power ** (0.5 / slices))
        return torch.from_numpy(self.factors) if (self.factors != 1).any() else None


@dataclass(frozen=True, eq=False)
class Combined:
    """Several scans as one.

    Args:
        scan: all patterns.
        labels: (n,) int64, number of the scan of every pattern.
        offsets: (S, 2) float64, position in the combined scan minus that in its own, pixels.
    """

    scan: Scan
    labels: NDArray[np.int64]
    offsets: NDArray[np.float64]

    __repr__ = one_line

    def rows(self, number: int) -> NDArray[np.int64]:
        """Indices of the patterns of a scan."""
        return np.flatnonzero(self.labels == number)


def combined(scans: Sequence[Scan], side_by_side: bool) -> Combined:
    """Make one scan of several.

    Args:
        scans: at least one; the probe and what is not per pattern are those of the first.
        side_by_side: they are of different samples.

    Raises:
        InputError: the scans differ in what they must have in common.
    """
    first = scans[0]
    for other in scans[1:]:
        _check_same(first, other)
    offsets = _side_by_side(scans) if side_by_side else _common_frame(scans)
    positions = np.concatenate([scan.positions + offset for scan, offset in zip(scans, offsets, strict=True)])
    labels = np.repeat(np.arange(len(scans)), [scan.n for scan in scans]).astype(np.int64)
    scan = Scan(
        counts=np.concatenate([scan.counts[:] for scan in scans]),
        positions=positions,
        probe=first.probe,
        bad_pixels=_bad_pixels(scans),
        pixel_size=first.pixel_size,
        energy=first.energy,
        name=" + ".join(scan.name for scan in scans),
        acquisition=replace(first.acquisition, world_origin=None) if side_by_side else first.acquisition,
        orientation=first.orientation,
        decisions=Decisions(),
        experiment=_experiment(scans),
    )
    return Combined(scan, labels, offsets)


def doses(combination: Combined, scans: Sequence[Scan]) -> NDArray[np.float64]:
    """Photons of a pattern of every scan of one sample relative to the largest, (S,), by counts.

    They are compared where patterns of a scan are between patterns of those before it, and else by their mean.
    """
    totals = np.concatenate([_totals(scan) for scan in scans])
    positions = combination.scan.positions
    found = np.ones(len(scans))
    for number in range(1, len(scans)):
        rows, before = combination.rows(number), np.flatnonzero(combination.labels < number)
        scaled = totals[before] / found[combination.labels[before]]
        expected = _interpolated(positions[before], scaled, positions[rows], _NEAR * combination.scan.patch_size)
        near = np.isfinite(expected)
        measured, reference = (totals[rows][near], expected[near]) if near.any() else (totals[rows], scaled)
        ratio = float(measured.mean() / max(reference.mean(), 1e-9))
        found[number] = ratio if 0 < ratio < math.inf else 1.0
    relative: NDArray[np.float64] = found / found.max()
    return relative


def _interpolated(
    known: NDArray[np.float64], values: NDArray[np.float64], positions: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """Values at positions, (n,), linear between known ones; NaN farther than ``reach`` from all of these."""
    distance, nearest = KDTree(known).query(positions)
    try:
        result = np.asarray(LinearNDInterpolator(known, values)(positions), np.float64)
    except QhullError:  # positions in a line
        result = np.asarray(values[nearest], np.float64)
    result[distance > reach] = np.nan
    return result


def overlap_of(combination: Combined, number: int) -> bool:
    """Whether patches of a scan overlap patches of those before it."""
    positions = combination.scan.positions
    before = KDTree(positions[combination.labels < number])
    distance, _ = before.query(positions[combination.rows(number)], p=np.inf)
    return bool(distance.min() < combination.scan.patch_size / 2)


def mean_counts(scan: Scan) -> float:
    """Mean counts of a pattern, in good pixels."""
    return float(_totals(scan).mean())


def _totals(scan: Scan) -> NDArray[np.float64]:
    good: Any = slice(None) if scan.bad_pixels is None else ~scan.bad_pixels
    parts = [
        np.asarray(scan.counts[part])[:, good].reshape(len(scan.counts[part]), -1).sum(1, dtype=np.float64)
        for part in pattern_blocks(scan.counts.shape)
    ]
    return np.concatenate(parts)


def _check_same(first: Scan, other: Scan) -> None:
    """Refuse scans that differ in what one forward model has once."""
    pair = f"{first.name} and {other.name}"
    if first.patch_size != other.patch_size:
        raise InputError(
            f"{pair}: expected patterns of one size to refine scans together, found {first.patch_size} and "
            f"{other.patch_size} px; read both with the same crop= (--crop)"
        )
    for name, unit, option in (("pixel_size", "m", "--pixel-size"), ("energy", "eV", "--energy")):
        a, b = getattr(first, name), getattr(other, name)
        if (a is None) != (b is None) or (a is not None and abs(a - b) > _SAME * a):
            shown = ["none" if value is None else f"{value:.6g} {unit}" for value in (a, b)]
            raise InputError(
                f"{pair}: expected one {name} to refine scans together, found {shown[0]} and {shown[1]}; state "
                f"{name}= ({option})"
            )
    if first.experiment.probe_variations is not None or other.experiment.probe_variations is not None:
        raise InputError(
            f"{pair}: expected scans whose experiments have no probe_variations to refine them together, found some; "
            "remove them, and refine.probe_variations finds those of all"
        )
    for field in fields(Experiment):
        a, b = (getattr(scan.experiment, field.name) for scan in (first, other))
        if field.name == "background_factors" or (field.name == "exposure" and _paths(a) == _paths(b) is not None):
            continue
        same = np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b
        if not same:
            raise InputError(
                f"{pair}: expected one experiment to refine scans together, found different {field.name}; read both "
                "with the same options"
            )


def _paths(exposure: NDArray[np.float64] | None) -> int | None:
    """Number of points of a path for every pattern; None where there is one for all."""
    return exposure.shape[1] if exposure is not None and exposure.ndim == 3 else None


def _experiment(scans: Sequence[Scan]) -> Experiment:
    """The common experiment, with the values of all patterns."""
    experiments = [scan.experiment for scan in scans]
    found: dict[str, Any] = {}
    if any(one.background_factors is not None for one in experiments):
        found["background_factors"] = np.concatenate(
            [np.ones(scan.n) if (own := scan.experiment.background_factors) is None else own for scan in scans]
        )
    if _paths(experiments[0].exposure) is not None:
        found["exposure"] = np.concatenate([one.exposure for one in experiments if one.exposure is not None])
    return replace(experiments[0], **found)


def _bad_pixels(scans: Sequence[Scan]) -> NDArray[np.bool_] | None:
    """Pixels that are bad in any scan."""
    shape = scans[0].counts.shape[1:]
    masks = [np.zeros(shape, np.bool_) if scan.bad_pixels is None else scan.bad_pixels for scan in scans]
    union, common = np.logical_or.reduce(masks), np.logical_and.reduce(masks)
    differing = float((union & ~common).mean())
    if differing > _MOST_BAD:
        raise InputError(
            f"{scans[0].name}: expected bad pixels that differ in at most {_MOST_BAD:.0%} of the detector to refine "
            f"scans together, found {differing:.1%}; state one mask for all, bad_pixels= (--bad-pixels)"
        )
    if differing:
        _log.warning("%s: pixels that are bad in any of the scans are ignored in all", scans[0].name)
    return union if union.any() else None


def _common_frame(scans: Sequence[Scan]) -> NDArray[np.float64]:
    """Offsets (S, 2) of scans of one sample, by their world coordinates where they have them."""
    origins = [scan.acquisition.world_origin for scan in scans]
    if all(origin is None for origin in origins):
        return np.zeros((len(scans), 2))
    if any(origin is None or scan.pixel_size is None for scan, origin in zip(scans, origins, strict=True)):
        raise InputError(
            f"{scans[0].name}: expected scans of one sample that all have world coordinates (acquisition.world_origin "
            "and a pixel size) or none, found both; set it for all, or None where positions in pixels have one origin"
        )
    pixel = scans[0].pixel_size
    assert pixel is not None
    return (np.array(origins, np.float64) - np.array(origins[0], np.float64)) / pixel


def _side_by_side(scans: Sequence[Scan]) -> NDArray[np.float64]:
    """Offsets (S, 2), whole pixels, by which the samples lie behind one another along x; that of the first is 0."""
    size = scans[0].patch_size
    reach = max(math.ceil(np.abs(exposure_points(scan.experiment)[0]).max()) for scan in scans)
    offsets = np.zeros((len(scans), 2))
    top, end = np.floor(scans[0].positions.min(0)[0]), np.ceil(scans[0].positions.max(0)[1])
    for number, scan in enumerate(scans[1:], 1):
        begin = end + size + 2 * (SIDE + reach)
        low, high = np.floor(scan.positions.min(0)), np.ceil(scan.positions.max(0))
        offsets[number] = top - low[0], begin - low[1]
        end = high[1] + offsets[number, 1]
    return offsets
