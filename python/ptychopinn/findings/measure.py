# SPDX-License-Identifier: BSD-3-Clause
"""Statistics of a scan: of the patterns, in one pass over the counts, and of positions and probe.

The rules that judge them are in rules.py.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from ptychopinn._one_line import one_line
from ptychopinn.findings.centre import centre_offset, fill_pixels, probe_far_field
from ptychopinn.physics.overlap import accumulate_weight
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of

#: Fraction of the probe's intensity in the circle that defines its diameter.
ENCIRCLED = 0.9
#: Distance, pixels, within which two positions are duplicates.
SAME_POSITION = 1e-3
#: Intensity, relative to the maximum, from which object pixels are illuminated, and detector pixels bright.
_ILLUMINATED, _BRIGHT = 0.1, 0.01
#: Expected counts of a pixel over the scan from which a total of zero is significant.
_SIGNIFICANT = 25.0
#: Mean of a hot pixel, relative to the median of its neighbours and to the ratio that the probe explains.
_HOT = 5.0
_HOT_FRACTION = 0.95  # of the patterns
#: Minimum number of patterns to detect stuck pixels.
_STUCK_PATTERNS = 10
#: Counts of a pattern, relative to the median of all, below and above which it is an outlier.
FAINT, BRIGHT = 0.01, 5.0
#: Saturation: minimum of the largest count, its minimum number, and that number relative to counts within 3 % below.
_CEILING, _CEILING_TIMES, _CEILING_RATIO, _BELOW = 100, 10, 2, 0.97
#: Attributes -> their former names, which are also the keys of the JSON report.
FORMER_NAMES = {
    "integer": "whole",
    "bright": "glaring",
    "edge_fraction": "edge_light",
    "illuminated": "lit",
}
_AROUND = np.ones((5, 5), np.bool_)
_AROUND[2, 2] = False


class _FormerNames:
    def __getattr__(self, name: str) -> Any:
        for present, former in FORMER_NAMES.items():
            if name == former and present in vars(self):
                text = f"{name} is now {present}; the old name will be removed"
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                return getattr(self, present)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True)
class PatternStatistics(_FormerNames):
    """Statistics of the counts, without the scan's bad pixels.

    Attributes:
        number, size, type: n, N, and the type of the counts.
        integer: whether all counts are integers.
        mean_total, lowest, highest: mean, minimum and maximum of the total counts of a pattern.
        totals: (n,), total counts of every pattern.
        largest: maximum count of a pixel.
        saturated_at: count at which the detector saturates, or None.
        saturated, empty, faint, bright: indices of patterns with a saturated pixel, without counts, and with total
            counts far below and far above the median.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x), pixels.
        dead, constant, hot: number of pixels that are always zero in spite of illumination; that have the same count in
            all patterns; that are always far brighter than their neighbours.
        mean: (N, N), the mean pattern.
        masked, suspects: bool, (N, N), the scan's bad pixels; dead, constant and hot pixels.
    """

    number: int
    size: int
    type: str
    integer: bool
    mean_total: float
    lowest: float
    highest: float
    totals: NDArray[np.float64]
    largest: float
    saturated_at: float | None
    saturated: list[int]
    empty: list[int]
    faint: list[int]
    bright: list[int]
    offset: tuple[float, float]
    dead: int
    constant: int
    hot: int
    mean: NDArray[np.float64]
    masked: NDArray[np.bool_]
    suspects: NDArray[np.bool_]

    __repr__ = one_line


@dataclass(frozen=True)
class ScanGeometry(_FormerNames):
    """Statistics of positions and probe.

    Attributes:
        extent: of the positions, (y, x), pixels.
        canvas: size that contains all patches, (H, W), pixels.
        step: median distance to the nearest neighbour, pixels; 0 for a single pattern.
        duplicates: pairs of patterns at the same position: the first there, and a later one.
        modes: number of probe modes.
        diameter: of the circle about the probe's centre of mass with 90 % of its intensity, pixels.
        probe_offset: of the probe's centre of mass from sample (N//2, N//2), (y, x), on a periodic grid, pixels.
        edge_fraction: fraction of the probe's intensity on the border of its patch, one pixel wide.
        overlap: linear, ``1 - step / diameter``; may be negative.
        oversampling: linear, ``N / diameter``.
        illuminated: number of object pixels with at least a tenth of the maximum illumination.
        dose: total counts of the scan per illuminated pixel.
        transmission: mean total counts of a pattern, relative to the probe's power.
    """

    extent: tuple[float, float]
    canvas: tuple[int, int]
    step: float
    duplicates: list[tuple[int, int]]
    modes: int
    diameter: float
    probe_offset: tuple[float, float]
    edge_fraction: float
    overlap: float
    oversampling: float
    illuminated: int
    dose: float
    transmission: float

    __repr__ = one_line


def measure_patterns(scan: Scan) -> PatternStatistics:
    """Compute the statistics of the counts of a scan, which may be on disk."""
    size = scan.patch_size
    masked = np.zeros((size, size), np.bool_) if scan.bad_pixels is None else scan.bad_pixels
    good = ~masked
    totals, tops = np.empty(scan.n), np.empty(scan.n)
    mean, low, high = np.zeros((size, size)), np.full((size, size), np.inf), np.zeros((size, size))
    integer = True
    with progress("inspect", scan.n) as advance:
        for part, block in blocks_of(scan.counts):
            values = block.reshape(len(block), -1) if good.all() else block[:, good]
            totals[part] = values.sum(1, dtype=np.float64)
            tops[part] = values.max(1, initial=0)
            mean += block.sum(0, dtype=np.float64) / scan.n
            low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
            integer = integer and (block.dtype.kind == "u" or bool(np.all(values == np.rint(values))))
            advance(len(block))
    mean[masked] = 0
    expected = probe_far_field(scan.probe)
    constant = good & (low == high) & (high > 0) & (scan.n >= _STUCK_PATTERNS)
    dead = good & (high == 0) & _bright(fill_pixels(mean, masked | (high == 0)), expected, scan.n)
    hot = _hot(scan, mean, expected, masked | dead | constant)
    suspects = dead | constant | hot
    ceiling, saturated = _saturation(scan, tops, good & ~suspects, integer)
    median = np.median(totals)
    return PatternStatistics(
        number=scan.n, size=size, type=str(scan.counts.dtype), integer=integer,
        mean_total=float(totals.mean()), lowest=float(totals.min()), highest=float(totals.max()), totals=totals,
        largest=float(tops.max()), saturated_at=ceiling, saturated=saturated,
        empty=_indices(totals == 0),
        faint=_indices((totals > 0) & (totals < FAINT * median)),
        bright=_indices(totals > BRIGHT * median) if median > 0 else [],
        offset=centre_offset(fill_pixels(mean, masked | suspects), scan.probe),
        dead=int(dead.sum()), constant=int(constant.sum()), hot=int(hot.sum()),
        mean=mean, masked=masked, suspects=suspects,
    )  # fmt: skip


def measure_geometry(scan: Scan, patterns: PatternStatistics) -> ScanGeometry:
    """Compute the statistics of positions and probe of a scan."""
    size = scan.patch_size
    low = scan.positions.min(0)
    extent = np.ptp(scan.positions, axis=0)
    canvas = (int(np.ceil(extent[0])) + size, int(np.ceil(extent[1])) + size)
    tree = KDTree(scan.positions)
    nearest = tree.query(scan.positions, k=2)[0][:, 1] if scan.n > 1 else np.zeros(1)
    distinct = nearest[nearest > SAME_POSITION]
    step = float(np.median(distinct)) if distinct.size else 0.0
    intensity = np.square(np.abs(scan.probe.astype(np.complex128))).sum(0)
    offset = _periodic_centre(intensity)
    diameter = _encircled_diameter(intensity, offset)
    illuminated = _count_illuminated(scan, intensity, canvas, low)
    border = intensity.sum() - intensity[1:-1, 1:-1].sum()
    return ScanGeometry(
        extent=(float(extent[0]), float(extent[1])), canvas=canvas, step=step,
        duplicates=_duplicates(tree), modes=scan.modes, diameter=diameter, probe_offset=offset,
        edge_fraction=float(border / intensity.sum()),
        overlap=1 - step / diameter, oversampling=size / diameter,
        illuminated=illuminated, dose=float(patterns.totals.sum()) / illuminated,
        transmission=patterns.mean_total / float(intensity.sum()),
    )  # fmt: skip


def _duplicates(tree: KDTree) -> list[tuple[int, int]]:
    """Pairs of the first pattern at a position and every later one there."""
    first = np.array([min(members) for members in tree.query_ball_point(tree.data, SAME_POSITION)])
    return [(int(first[index]), int(index)) for index in np.flatnonzero(first < np.arange(len(first)))]


def _bright(mean: NDArray[np.float64], expected: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Detector pixels, (N, N), where zero counts in all of ``number`` patterns are significant.

    Both the neighbours in the mean pattern and the far field of the probe must be bright there: the second excludes the
    centre of an annular aperture.
    """
    threshold = max(_BRIGHT * float(mean.max()), _SIGNIFICANT / number)
    surrounded = ndimage.binary_closing(np.pad(mean > threshold, 8), iterations=4)[8:-8, 8:-8]
    level = expected * (mean.sum() / expected.sum())
    bright: NDArray[np.bool_] = surrounded & (level > threshold)
    return bright


def _hot(
    scan: Scan, mean: NDArray[np.float64], expected: NDArray[np.float64], faulty: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels, (N, N), far above the median of their 5 x 5 neighbours in nearly all patterns, relative to the probe."""
    mean = fill_pixels(mean, faulty)
    around = ndimage.median_filter(mean, footprint=_AROUND)
    expected_around = ndimage.median_filter(expected, footprint=_AROUND)
    explained = np.maximum(1.0, expected / np.maximum(expected_around, 1e-12 * expected.max()))
    noise = 5 * np.sqrt(np.maximum(around, 1 / scan.n) / scan.n)
    hot: NDArray[np.bool_] = ~faulty & (mean > _HOT * around * explained) & (mean - around > noise)
    rows, columns = np.mgrid[-2:3, -2:3][:, _AROUND]
    neighbours = {}
    for y, x in np.argwhere(hot):
        near = np.clip(y + rows, 0, len(mean) - 1), np.clip(x + columns, 0, len(mean) - 1)
        valid = tuple(axis[~faulty[near]] for axis in near)
        if len(valid[0]):
            neighbours[int(y), int(x)] = valid
    times = dict.fromkeys(neighbours, 0)
    for _, block in blocks_of(scan.counts) if neighbours else ():  # counts may be on disk: one pass
        for (y, x), valid in neighbours.items():
            median = np.median(block[:, valid[0], valid[1]], axis=1)
            times[y, x] += int((block[:, y, x].astype(np.float64) > _HOT / 2 * median).sum())
    for pixel, number in times.items():
        hot[pixel] = number / scan.n >= _HOT_FRACTION
    return hot


def _saturation(
    scan: Scan, tops: NDArray[np.float64], good: NDArray[np.bool_], integer: bool
) -> tuple[float | None, list[int]]:
    """The count at which the detector saturates, or None, and the patterns that reach it."""
    ceiling = float(tops.max())
    reached = np.flatnonzero(tops == ceiling)
    if not integer or ceiling < _CEILING or not good.any():
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


def _periodic_centre(intensity: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of mass (y, x) from sample (N//2, N//2), pixels, on a periodic grid."""
    size = len(intensity)
    turn = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)
    y, x = (float(np.angle(intensity.sum(1 - axis) @ turn)) * size / (2 * np.pi) for axis in (0, 1))
    return y, x


def _encircled_diameter(intensity: NDArray[np.float64], offset: tuple[float, float]) -> float:
    size = len(intensity)
    y, x = ((np.arange(size) - size // 2 - shift + size / 2) % size - size / 2 for shift in offset)
    radius = np.hypot(y[:, np.newaxis], x).ravel()
    order = np.argsort(radius)
    fraction = np.cumsum(intensity.ravel()[order]) / intensity.sum()
    return max(1.0, 2 * float(np.interp(ENCIRCLED, fraction, radius[order])))


def _count_illuminated(
    scan: Scan, intensity: NDArray[np.float64], canvas: tuple[int, int], low: NDArray[np.float64]
) -> int:
    # Positions in wrong units can need a canvas that exceeds memory: count the pixels of separate patches instead.
    if canvas[0] * canvas[1] > max(1 << 22, 4 * scan.n * intensity.size):
        return int((intensity > _ILLUMINATED * intensity.max()).sum()) * scan.n
    positions = torch.from_numpy(np.floor(scan.positions - low + 0.5))
    weight = torch.from_numpy(intensity.astype(np.float32))
    total = accumulate_weight(
        weight, positions, torch.ones(scan.n, dtype=torch.float32, device="cpu"), (canvas[0] + 1, canvas[1] + 1)
    )
    return int((total > _ILLUMINATED * total.max()).sum())


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.flatnonzero(mask)]
