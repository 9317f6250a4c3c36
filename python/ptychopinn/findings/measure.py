# SPDX-License-Identifier: BSD-3-Clause
"""Statistics of the patterns of a scan, in one pass over the counts; the rules that judge them are in rules.py."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychopinn._one_line import one_line
from ptychopinn.findings.beamstop import beamstop_shadow
from ptychopinn.findings.centre import centre_offset, fill_pixels, pattern_of_probe
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of

#: Intensity, relative to the maximum, from which detector pixels are bright.
_BRIGHT = 0.01
#: Expected counts of a pixel over the scan from which a total of zero is significant.
_SIGNIFICANT = 25.0
#: Mean of a hot pixel, relative to the median of its neighbours and to the ratio that the probe explains.
_HOT = 5.0
_HOT_FRACTION = 0.95  # of the patterns
#: The same of the largest count of a pixel that is hot in a few patterns, and the smallest such count.
_INTERMITTENT, _INTERMITTENT_COUNTS = 10.0, 50.0
#: And relative to the largest count of all pixels: single photons in a unit of their own are no faults.
_INTERMITTENT_HEIGHT = 0.02
#: Fraction of the pixels whose mean is the least count of all, from which that is a background: photons are noisy.
_BACKGROUND_PIXELS = 0.1
#: Minimum number of patterns to detect stuck pixels.
_STUCK_PATTERNS = 10
#: Counts of a pattern, relative to the median of all, below and above which it is an outlier.
FAINT, BRIGHT = 0.01, 5.0
#: Saturation: minimum of the largest count, its minimum number, and that number relative to counts within 3 %, or so
#: many counts, below.
_CEILING, _CEILING_TIMES, _CEILING_RATIO, _BELOW, _BELOW_COUNTS = 12, 10, 2, 0.97, 2
#: Attributes -> their former names, which are also the keys of the JSON report.
FORMER_NAMES = {
    "integer": "whole",
    "bright": "glaring",
    "edge_fraction": "edge_light",
    "illuminated": "lit",
}
_AROUND = np.ones((5, 5), np.bool_)
_AROUND[2, 2] = False


class FormerNames:
    """Attributes under the names of 0.1, with a warning."""

    def __getattr__(self, name: str) -> Any:
        for present, former in FORMER_NAMES.items():
            if name == former and present in vars(self):
                text = f"{name} is now {present}; the old name will be removed"
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                return getattr(self, present)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True)
class PatternStatistics(FormerNames):
    """Statistics of the counts, without the scan's bad pixels.

    Attributes:
        number, size, type: n, N, and the type of the counts.
        integer: whether all counts are integers.
        mean_total, lowest, highest: mean, minimum and maximum of the total counts of a pattern.
        mean_intact: the mean without suspect pixels and patterns without counts.
        totals, intact: (n,), total counts of every pattern; the same without suspect pixels.
        largest: maximum count of a pixel.
        saturated_at: count at which the detector saturates, or None.
        saturated, empty, faint, bright: indices of patterns with a saturated pixel; and, of intact pixels, without
            counts, and with total counts far below and far above the median.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x), pixels.
        repeated: indices of patterns that equal the previous one, count by count.
        dead, constant, hot, intermittent: number of pixels that are always zero in spite of illumination; that have the
            same count in all patterns; that are always far brighter than their neighbours; that are so at times.
        dead_fraction, constant_fraction, hot_fraction: counts that dead pixels miss, judged by their neighbours, and
            counts of the constant and the hot pixels, relative to those of all other pixels.
        background: count that all pixels have in all patterns, and many hardly ever more; 0 without one.
        hidden_fraction: fraction of the probe's far field on the scan's bad pixels.
        similarity: correlation of the root of the mean pattern with the modulus of the probe's far field, 0 to 1.
        mean: (N, N), the mean pattern.
        masked, suspects, saturated_pixels: bool, (N, N), the scan's bad pixels; dead, constant, hot and intermittent
            pixels and those behind a beamstop; pixels that are saturated in any pattern.
        beamstop, beamstop_fraction: number of pixels in a compact shadow in the middle, which are not counted as dead,
            and the counts that they miss, as of dead ones.
        far: whether the detector is in the far field; else the probe's far field is its intensity at the detector.
    """

    number: int
    size: int
    type: str
    integer: bool
    mean_total: float
    lowest: float
    highest: float
    mean_intact: float
    totals: NDArray[np.float64]
    intact: NDArray[np.float64]
    largest: float
    saturated_at: float | None
    saturated: list[int]
    empty: list[int]
    faint: list[int]
    bright: list[int]
    repeated: list[int]
    offset: tuple[float, float]
    dead: int
    constant: int
    hot: int
    intermittent: int
    dead_fraction: float
    constant_fraction: float
    hot_fraction: float
    similarity: float
    background: float
    hidden_fraction: float
    mean: NDArray[np.float64]
    masked: NDArray[np.bool_]
    suspects: NDArray[np.bool_]
    saturated_pixels: NDArray[np.bool_]
    beamstop: int
    beamstop_fraction: float
    far: bool

    @property
    def faulty(self) -> NDArray[np.bool_]:
        """Mask (N, N) of pixels to ignore besides the scan's: suspects and saturated ones."""
        return self.suspects | self.saturated_pixels

    __repr__ = one_line


def measure_patterns(scan: Scan) -> PatternStatistics:
    """Compute the statistics of the counts of a scan, which may be on disk.

    What the scan states of its experiment is taken into account: the counts of a background are subtracted where
    patterns are compared with the probe, and pixels that are known to be saturated are not reported.
    """
    size = scan.patch_size
    masked = np.zeros((size, size), np.bool_) if scan.bad_pixels is None else scan.bad_pixels
    good = ~masked
    totals, tops = np.empty(scan.n), np.empty(scan.n)
    mean, low, high = np.zeros((size, size)), np.full((size, size), np.inf), np.zeros((size, size))
    integer, repeated, previous = True, list[int](), None
    with progress("inspect", scan.n) as advance:
        for part, block in blocks_of(scan.counts):
            values = block.reshape(len(block), -1) if good.all() else block[:, good]
            totals[part] = values.sum(1, dtype=np.float64)
            tops[part] = values.max(1, initial=0)
            mean += block.sum(0, dtype=np.float64) / scan.n
            written = block if totals[part].all() else block[totals[part] > 0]  # frames that were never written
            if len(written):
                low, high = np.minimum(low, written.min(0)), np.maximum(high, written.max(0))
            integer = integer and (block.dtype.kind == "u" or bool(np.all(values == np.rint(values))))
            repeated += _repeated(block, totals, part.start, previous)
            previous = block[-1].copy()
            advance(len(block))
    mean[masked] = 0
    stated, far = scan.experiment.saturation, scan.experiment.fresnel_number is None
    far_field = pattern_of_probe(scan)
    scattered = mean if scan.experiment.background is None else _without_background(scan, mean, masked)
    constant = good & (low == high) & (high > 0) & (scan.n >= _STUCK_PATTERNS)
    least = float(low[good].min(initial=np.inf))
    background = least if least > 0 and float((mean[good] < least + 0.5).mean()) > _BACKGROUND_PIXELS else 0.0
    if background:  # its pixels are as good as the others
        constant = constant & (high > background)
    first_offset = centre_offset(fill_pixels(scattered, masked | constant), scan.probe) if far else (0.0, 0.0)
    expected = np.roll(far_field, [round(shift) for shift in first_offset], (0, 1))
    if stated is not None:
        constant = constant & (high < stated)
    always_full = constant & _as_bright_as_expected(mean, expected, good & ~constant)
    # A gap of constant counts outshines the pattern: what is dead and hot is judged without it.
    ordinary = np.where(constant, 0, mean)
    dead = good & (high == 0) & _bright(fill_pixels(ordinary, masked | constant | (high == 0)), expected, scan.n)
    hot = _hot(scan, mean, expected, masked | dead | constant)
    intermittent = _intermittent(high, expected, masked | dead | constant | hot)
    suspects = dead | constant | hot | intermittent
    ceiling, saturated = _saturation(scan, tops, (good & ~suspects) | always_full)
    if ceiling is not None:  # which is constant where it is reached in all patterns
        constant = constant & (high < ceiling)
        if stated is not None and ceiling >= stated:
            ceiling, saturated = None, []
    usable = good & ~(constant | hot | intermittent)
    shadow = beamstop_shadow(scattered, expected, usable, first_offset) if far else np.zeros_like(good)
    if shadow.any():
        shadow = ndimage.binary_propagation(shadow, mask=shadow | dead)
    dead = dead & ~shadow
    suspects = dead | constant | hot | intermittent | shadow
    intact = _totals(scan, good & ~suspects) if suspects.any() else totals
    written = intact[intact > 0]
    median = float(np.median(written)) if written.size else 0.0
    filled = fill_pixels(scattered, masked | suspects)
    others = max(float(mean[good & ~suspects].sum()), 1e-300)
    offset = centre_offset(filled, scan.probe) if far else (0.0, 0.0)
    return PatternStatistics(
        number=scan.n, size=size, type=str(scan.counts.dtype), integer=integer,
        mean_total=float(totals.mean()), lowest=float(totals.min()), highest=float(totals.max()),
        mean_intact=others * scan.n / max(1, written.size), totals=totals, intact=intact,
        largest=float(tops.max()), saturated_at=ceiling, saturated=saturated,
        empty=_indices(intact == 0),
        faint=_indices((intact > 0) & (intact < FAINT * median)),
        bright=_indices(intact > BRIGHT * median) if median > 0 else [],
        repeated=repeated,
        offset=offset,
        dead=int(dead.sum()), constant=int(constant.sum()), hot=int(hot.sum()), intermittent=int(intermittent.sum()),
        dead_fraction=float(filled[dead].sum()) / others, beamstop_fraction=float(filled[shadow].sum()) / others,
        constant_fraction=float(mean[constant].sum()) / others, hot_fraction=float(mean[hot].sum()) / others,
        similarity=_similarity(filled, far_field, offset), background=background,
        hidden_fraction=float(expected[masked].sum() / expected.sum()),
        mean=mean, masked=masked, suspects=suspects, beamstop=int(shadow.sum()), far=far,
        saturated_pixels=good & ~suspects & (high >= ceiling) if ceiling is not None else np.zeros_like(good),
    )  # fmt: skip


def _without_background(scan: Scan, mean: NDArray[np.float64], masked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean pattern (N, N) without the background that a scan states."""
    background, factors = scan.experiment.background, scan.experiment.background_factors
    assert background is not None
    background = background * (1.0 if factors is None else factors.mean())
    left: NDArray[np.float64] = np.where(masked, 0, np.maximum(mean - background, 0))
    return left


def _as_bright_as_expected(
    mean: NDArray[np.float64], expected: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels (N, N) that have at most twice the counts that the probe predicts, scaled to the other pixels."""
    scale = float(mean[others].sum()) / max(float(expected[others].sum()), 1e-300)
    found: NDArray[np.bool_] = mean < 2 * scale * expected
    return found


def _repeated(block: NDArray[Any], totals: NDArray[np.float64], start: int, previous: NDArray[Any] | None) -> list[int]:
    """Indices of the patterns of a block that equal the one before them; empty ones are not counted."""
    found = []
    here = totals[start : start + len(block)]
    before = np.concatenate([[totals[start - 1] if start else -1.0], here[:-1]])
    for k in np.flatnonzero((here == before) & (here > 0)):
        other = block[k - 1] if k else previous
        if other is not None and np.array_equal(block[k], other):
            found.append(start + int(k))
    return found


def _similarity(mean: NDArray[np.float64], expected: NDArray[np.float64], offset: tuple[float, float]) -> float:
    """Correlation of the roots of a mean pattern and of a probe's far field, both (N, N), centred; 0 to 1."""
    pattern = np.sqrt(np.roll(mean, [-round(shift) for shift in offset], (0, 1)))
    field = np.sqrt(expected)
    norm = float(np.linalg.norm(pattern) * np.linalg.norm(field))
    return float((pattern * field).sum()) / norm if norm > 0 else 0.0


def _intermittent(
    high: NDArray[np.float64], expected: NDArray[np.float64], faulty: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels, (N, N), whose largest count is far above the largest ones of their neighbours and above the probe's.

    The largest count over many patterns is a smooth envelope of the patterns, in which a pixel that is hot in a few of
    them is a spike.
    """
    high = fill_pixels(high, faulty)
    around = ndimage.median_filter(high, footprint=_AROUND)
    expected_around = ndimage.median_filter(expected, footprint=_AROUND)
    explained = np.maximum(1.0, expected / np.maximum(expected_around, 1e-12 * expected.max()))
    noise = 5 * np.sqrt(around) + 5
    enough = max(_INTERMITTENT_COUNTS, _INTERMITTENT_HEIGHT * float(around.max()))
    found: NDArray[np.bool_] = ~faulty & (high > enough) & (high > _INTERMITTENT * explained * (around + noise))
    return found


def _totals(scan: Scan, pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Total counts (n,) of every pattern on these pixels (N, N)."""
    totals = np.empty(scan.n)
    for part, block in blocks_of(scan.counts):
        totals[part] = block[:, pixels].sum(1, dtype=np.float64)
    return totals


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


def _saturation(scan: Scan, tops: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float | None, list[int]]:
    """The count at which the detector saturates, or None, and the patterns that reach it."""
    ceiling = float(tops.max())
    reached = np.flatnonzero(tops == ceiling)
    if ceiling < _CEILING or not good.any():
        return None, []
    least = min(_BELOW * ceiling, ceiling - _BELOW_COUNTS)
    candidates = np.flatnonzero(tops >= least)
    at = below = 0
    for part in np.array_split(candidates, max(1, len(candidates) // 256)):
        values = scan.counts[part][:, good]
        at += int((values == ceiling).sum())
        below += int(((values >= least) & (values < ceiling)).sum())
    if at >= _CEILING_TIMES and at >= _CEILING_RATIO * below:
        return ceiling, [int(index) for index in reached]
    return None, []


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.flatnonzero(mask)]
