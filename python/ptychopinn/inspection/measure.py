# SPDX-License-Identifier: BSD-3-Clause
"""What is measured of a scan: its patterns in one pass over the counts, its positions and its probe.

Only numbers are made here; what they mean is said in report.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from ptychopinn.inspection.centre import centre_offset, filled, probe_far_field
from ptychopinn.refinement.objective import accumulate_weight
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Share of the probe's light in the circle that is taken for its diameter.
ENCIRCLED = 0.9
#: Pixels within which two positions are the same.
SAME_PLACE = 1e-3
#: Relative to the brightest: light from which a pixel of the object counts as lit, and a detector pixel as bright.
_LIT, _BRIGHT = 0.1, 0.01
#: Expected counts over the whole scan from which zero is no accident.
_NO_ACCIDENT = 25.0
#: A hot pixel's mean relative to its neighbours' median, in itself and beyond what the probe makes there.
_HOT = 5.0
_HOT_ALWAYS = 0.95  # of the patterns
#: Fewest patterns that say whether a pixel is stuck.
_STUCK_PATTERNS = 10
#: Shares of the median of all patterns' counts below and above which a pattern is an outlier.
FAINT, GLARING = 0.01, 5.0
#: A ceiling is a largest count that comes so often, and so much more often than the counts within 3 % below it.
_CEILING, _CEILING_TIMES, _CEILING_RATIO, _BELOW = 100, 10, 2, 0.97
_AROUND = np.ones((5, 5), np.bool_)
_AROUND[2, 2] = False


@dataclass(frozen=True)
class Patterns:
    """Of the counts; bad pixels of the scan do not count.

    Attributes:
        number, size, type: n, N, and the type of the counts.
        whole: whether all counts are whole numbers.
        mean_total, lowest, highest: counts of a pattern.
        totals: (n,), counts of every pattern.
        largest: count of any pixel.
        saturated_at: the detector's ceiling, if there seems to be one.
        saturated, empty, faint, glaring: indices of patterns that reach it; have no counts; have far less, and far
            more, than the others.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x).
        dead, constant, hot: pixels that are always zero where there is light; that never change; that are always far
            brighter than their neighbours.
        mean: (N, N), the mean pattern.
        masked, suspects: (N, N), the scan's bad pixels, and the three kinds above together.
    """

    number: int
    size: int
    type: str
    whole: bool
    mean_total: float
    lowest: float
    highest: float
    totals: NDArray[np.float64]
    largest: float
    saturated_at: float | None
    saturated: list[int]
    empty: list[int]
    faint: list[int]
    glaring: list[int]
    offset: tuple[float, float]
    dead: int
    constant: int
    hot: int
    mean: NDArray[np.float64]
    masked: NDArray[np.bool_]
    suspects: NDArray[np.bool_]


@dataclass(frozen=True)
class Geometry:
    """Of positions and probe.

    Attributes:
        extent: of the positions, (y, x) pixels.
        canvas: of all patches, (H, W) pixels.
        step: median distance to the nearest neighbour, pixels; 0 of a single pattern.
        duplicates: pairs of patterns at the same place, the first one there and another.
        modes: of the probe.
        diameter: of the circle about the probe's centre of mass with 90 % of its light, pixels.
        probe_offset: of the probe's centre of mass from sample (N//2, N//2), (y, x), on a periodic grid.
        edge_light: share of the probe's light on the border of its patch, one pixel wide.
        overlap: linear, ``1 - step / diameter``; may be negative.
        oversampling: linear, ``N / diameter``.
        lit: pixels of the object with a tenth of the strongest illumination or more.
        dose: counts of the whole scan for each of these.
        transmission: mean counts of a pattern over the probe's power.
    """

    extent: tuple[float, float]
    canvas: tuple[int, int]
    step: float
    duplicates: list[tuple[int, int]]
    modes: int
    diameter: float
    probe_offset: tuple[float, float]
    edge_light: float
    overlap: float
    oversampling: float
    lit: int
    dose: float
    transmission: float


def measure_patterns(scan: Scan) -> Patterns:
    """Everything about the counts."""
    size = scan.patch_size
    masked = np.zeros((size, size), np.bool_) if scan.bad_pixels is None else scan.bad_pixels
    good = ~masked
    totals, tops = np.empty(scan.n), np.empty(scan.n)
    mean, low, high = np.zeros((size, size)), np.full((size, size), np.inf), np.zeros((size, size))
    whole = True
    for part in pattern_blocks(scan.counts.shape):
        block = scan.counts[part]
        totals[part] = block[:, good].sum(1, dtype=np.float64)
        tops[part] = block[:, good].max(1, initial=0)
        mean += block.sum(0, dtype=np.float64) / scan.n
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
        whole = whole and (block.dtype.kind == "u" or bool(np.all(block[:, good] == np.rint(block[:, good]))))
    mean[masked] = 0
    expected = probe_far_field(scan.probe)
    constant = good & (low == high) & (high > 0) & (scan.n >= _STUCK_PATTERNS)
    dead = good & (high == 0) & _bright(filled(mean, masked | (high == 0)), expected, scan.n)
    hot = _hot(scan, mean, expected, masked | dead | constant)
    suspects = dead | constant | hot
    ceiling, saturated = _saturation(scan, tops, good & ~suspects, whole)
    middle = np.median(totals)
    return Patterns(
        number=scan.n, size=size, type=str(scan.counts.dtype), whole=whole,
        mean_total=float(totals.mean()), lowest=float(totals.min()), highest=float(totals.max()), totals=totals,
        largest=float(tops.max()), saturated_at=ceiling, saturated=saturated,
        empty=_indices(totals == 0),
        faint=_indices((totals > 0) & (totals < FAINT * middle)),
        glaring=_indices(totals > GLARING * middle) if middle > 0 else [],
        offset=centre_offset(filled(mean, masked | suspects), scan.probe),
        dead=int(dead.sum()), constant=int(constant.sum()), hot=int(hot.sum()),
        mean=mean, masked=masked, suspects=suspects,
    )  # fmt: skip


def measure_geometry(scan: Scan, patterns: Patterns) -> Geometry:
    """Everything about positions and probe."""
    size = scan.patch_size
    low = scan.positions.min(0)
    extent = np.ptp(scan.positions, axis=0)
    canvas = (int(np.ceil(extent[0])) + size, int(np.ceil(extent[1])) + size)
    tree = KDTree(scan.positions)
    nearest = tree.query(scan.positions, k=2)[0][:, 1] if scan.n > 1 else np.zeros(1)
    apart = nearest[nearest > SAME_PLACE]
    step = float(np.median(apart)) if apart.size else 0.0
    light = np.square(np.abs(scan.probe.astype(np.complex128))).sum(0)
    offset = _periodic_centre(light)
    diameter = _encircled_diameter(light, offset)
    lit = _lit_pixels(scan, light, canvas, low)
    border = light.sum() - light[1:-1, 1:-1].sum()
    return Geometry(
        extent=(float(extent[0]), float(extent[1])), canvas=canvas, step=step,
        duplicates=_duplicates(tree), modes=scan.modes, diameter=diameter, probe_offset=offset,
        edge_light=float(border / light.sum()),
        overlap=1 - step / diameter, oversampling=size / diameter,
        lit=lit, dose=float(patterns.totals.sum()) / lit, transmission=patterns.mean_total / float(light.sum()),
    )  # fmt: skip


def _duplicates(tree: KDTree) -> list[tuple[int, int]]:
    """Every pattern that stands where an earlier one does, after the first of these; no list of all pairs."""
    first = np.array([min(members) for members in tree.query_ball_point(tree.data, SAME_PLACE)])
    return [(int(first[index]), int(index)) for index in np.flatnonzero(first < np.arange(len(first)))]


def _bright(mean: NDArray[np.float64], expected: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Where neighbours and the probe say that there is light, so much that zero counts in all patterns are no accident.

    Holes of an annular aperture are dark by right: there the probe sends no light.
    """
    threshold = max(_BRIGHT * float(mean.max()), _NO_ACCIDENT / number)
    lit = ndimage.binary_closing(np.pad(mean > threshold, 8), iterations=4)[8:-8, 8:-8]
    level = expected * (mean.sum() / expected.sum())
    found: NDArray[np.bool_] = lit & (level > threshold)
    return found


def _hot(
    scan: Scan, mean: NDArray[np.float64], expected: NDArray[np.float64], faulty: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels far above the median of their 5 x 5 neighbours, more than the probe explains, in all patterns."""
    mean = filled(mean, faulty)
    around = ndimage.median_filter(mean, footprint=_AROUND)
    usual = ndimage.median_filter(expected, footprint=_AROUND)
    explained = np.maximum(1.0, expected / np.maximum(usual, 1e-12 * expected.max()))
    noise = 5 * np.sqrt(np.maximum(around, 1 / scan.n) / scan.n)
    hot: NDArray[np.bool_] = ~faulty & (mean > _HOT * around * explained) & (mean - around > noise)
    rows, columns = np.mgrid[-2:3, -2:3][:, _AROUND]
    neighbours = {}
    for y, x in np.argwhere(hot):
        near = np.clip(y + rows, 0, len(mean) - 1), np.clip(x + columns, 0, len(mean) - 1)
        sound = tuple(axis[~faulty[near]] for axis in near)
        if len(sound[0]):
            neighbours[int(y), int(x)] = sound
    times = dict.fromkeys(neighbours, 0)
    for part in pattern_blocks(scan.counts.shape) if neighbours else ():  # one pass for all, since it may be on disk
        block = scan.counts[part]
        for (y, x), sound in neighbours.items():
            usual_now = np.median(block[:, sound[0], sound[1]], axis=1)
            times[y, x] += int((block[:, y, x].astype(np.float64) > _HOT / 2 * usual_now).sum())
    for place, number in times.items():
        hot[place] = number / scan.n >= _HOT_ALWAYS
    return hot


def _saturation(
    scan: Scan, tops: NDArray[np.float64], good: NDArray[np.bool_], whole: bool
) -> tuple[float | None, list[int]]:
    """The ceiling, and the patterns that reach it: a largest count that comes far more often than those below it."""
    ceiling = float(tops.max())
    reached = np.flatnonzero(tops == ceiling)
    if not whole or ceiling < _CEILING or not good.any():
        return None, []
    candidates = np.flatnonzero(tops >= _BELOW * ceiling)
    at = below = 0
    for part in np.array_split(candidates, max(1, len(candidates) // 256)):
        values = scan.counts[part][:, good]
        at += int((values == ceiling).sum())
        below += int(((values >= _BELOW * ceiling) & (values < ceiling)).sum())
    if at >= _CEILING_TIMES and at >= _CEILING_RATIO * below:
        return ceiling, [int(index) for index in reached]
    return None, []


def _periodic_centre(light: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of mass from sample (N//2, N//2) where the patch is a torus, so that light in the corners is one spot."""
    size = len(light)
    turn = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)
    y, x = (float(np.angle(light.sum(1 - axis) @ turn)) * size / (2 * np.pi) for axis in (0, 1))
    return y, x


def _encircled_diameter(light: NDArray[np.float64], offset: tuple[float, float]) -> float:
    size = len(light)
    y, x = ((np.arange(size) - size // 2 - shift + size / 2) % size - size / 2 for shift in offset)
    radius = np.hypot(y[:, np.newaxis], x).ravel()
    order = np.argsort(radius)
    share = np.cumsum(light.ravel()[order]) / light.sum()
    return max(1.0, 2 * float(np.interp(ENCIRCLED, share, radius[order])))


def _lit_pixels(scan: Scan, light: NDArray[np.float64], canvas: tuple[int, int], low: NDArray[np.float64]) -> int:
    # A canvas of any size that positions in wrong units ask for is not to be made.
    if canvas[0] * canvas[1] > max(1 << 22, 4 * scan.n * light.size):
        return int((light > _LIT * light.max()).sum()) * scan.n
    places = torch.from_numpy(np.floor(scan.positions - low + 0.5))
    weight = torch.from_numpy(light.astype(np.float32))
    total = accumulate_weight(weight, places, torch.ones(scan.n), (canvas[0] + 1, canvas[1] + 1))
    return int((total > _LIT * total.max()).sum())


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.flatnonzero(mask)]
