# SPDX-License-Identifier: BSD-3-Clause
"""Faulty pixels and outlying counts of single pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.mending.blocks import changed, extremes_of, largest_of, totals_of
from ptychopinn.mending.experiments import subtracted
from ptychopinn.mending.notes import Note, quantity
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of

#: A fault can hide others, such as a gap of 65535 the saturation of other pixels: measured again, so many times.
_PASSES = 4
#: Minimum number of patterns to detect stuck pixels.
_STUCK_PATTERNS = 10


@dataclass(frozen=True, eq=False)
class FaultyPixels:
    """Faulty pixels of a scan besides its bad pixels.

    Attributes:
        mask: (N, N), True at all of them.
        kinds: number by kind, without those that are 0.
        saturated_at: count at which the detector saturates, or None.
    """

    mask: NDArray[np.bool_]
    kinds: dict[str, int]
    saturated_at: float | None

    __repr__ = one_line


def good_pixels(scan: Scan) -> NDArray[np.bool_]:
    """Mask (N, N), True at pixels that are not bad."""
    return np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels


def with_counts(scan: Scan) -> Scan:
    """The patterns that have counts on good pixels; all of them if none has."""
    totals = totals_of(scan.counts, good_pixels(scan))
    return scan if totals.all() or not totals.any() else scan.subset(totals > 0)


def find_faulty(scan: Scan) -> FaultyPixels:
    """Find dead, stuck, hot and saturated pixels, and gaps: rows and columns that are constant in all patterns.

    Patterns without counts are not used. A row or column without counts is a gap if any of its pixels must have had
    some.

    Raises:
        InputError: all pixels are faulty.
    """
    before, written = good_pixels(scan), with_counts(scan)
    low, high = extremes_of(written.counts)
    # Stuck pixels first: a gap that reads 65535 hides what is dead and hot.
    new = before & (low == high) & (high > 0) & (written.n >= _STUCK_PATTERNS)
    good, kinds, ceiling = before & ~new, {"stuck": int(new.sum())}, None
    for _ in range(_PASSES):
        if not good.any():
            raise InputError(
                f"{scan.name}: expected at least one sound pixel, found faulty pixels only; omit --mask-faulty"
            )
        found = measure_patterns(replace(written, bad_pixels=~good))
        gaps = good & ~found.suspects & _in_gap(found.suspects, found.suspects | ~good | (low == high))
        new = found.suspects | gaps
        counted = {"dead": found.dead, "stuck": found.constant, "hot": found.hot, "in gaps": int(gaps.sum())}
        counted["suspect"] = int(new.sum()) - sum(counted.values())  # of kinds that the measurement may add
        if not new.any() and found.saturated_at is not None:
            ceiling = found.saturated_at if ceiling is None else ceiling
            new = good & (high >= found.saturated_at)
            counted["saturated"] = int(new.sum())
        if not new.any():
            break
        good &= ~new
        for kind, number in counted.items():
            kinds[kind] = kinds.get(kind, 0) + number
    return FaultyPixels(before & ~good, {kind: number for kind, number in kinds.items() if number}, ceiling)


def _in_gap(suspects: NDArray[np.bool_], constant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels, (N, N), of rows and columns that are constant and have a suspect pixel."""
    rows, columns = (suspects.any(axis, keepdims=True) & constant.all(axis, keepdims=True) for axis in (1, 0))
    return np.asarray(rows | columns)


def mask_faulty(scan: Scan, found: FaultyPixels | None = None) -> tuple[Scan, Note]:
    """Add faulty pixels to the scan's bad pixels.

    Args:
        scan: the scan.
        found: the faulty pixels; None: those of :func:`find_faulty`.

    Raises:
        InputError: no pixel is left.
    """
    found = find_faulty(scan) if found is None else found
    number = int(found.mask.sum())
    at = "" if found.saturated_at is None else f" at {found.saturated_at:.6g} counts"
    kinds = ", ".join(f"{count} {kind}{at if kind == 'saturated' else ''}" for kind, count in found.kinds.items())
    text = f"{quantity(number, 'pixel')} masked{f' ({kinds})' if number else ''}"
    values = {"pixels": number, "kinds": found.kinds, "saturated_at": found.saturated_at}
    return with_bad(scan, found.mask), Note("mask_faulty", text, values)


def mask_above(scan: Scan, limit: float) -> tuple[Scan, Note]:
    """Add every pixel that reaches `limit` counts in any pattern to the scan's bad pixels.

    Raises:
        InputError: the limit is not positive, or no pixel is left.
    """
    _check_limit("mask_above", limit)
    mask = good_pixels(scan) & (largest_of(scan.counts) >= limit)
    text = f"{quantity(int(mask.sum()), 'pixel')} masked that {'reaches' if mask.sum() == 1 else 'reach'} {limit:.6g}"
    return with_bad(scan, mask), Note("mask_above", f"{text} counts", {"pixels": int(mask.sum()), "limit": limit})


def with_bad(scan: Scan, mask: NDArray[np.bool_]) -> Scan:
    """The scan with further bad pixels (N, N)."""
    mask = mask | ~good_pixels(scan)
    if mask.all():
        raise InputError(f"{scan.name}: expected at least one good pixel after masking, found none; mask fewer")
    return replace(scan, bad_pixels=mask if mask.any() else None)


def invert_mask(scan: Scan) -> tuple[Scan, Note]:
    """Make bad pixels good and good ones bad, for a mask of the other convention.

    Raises:
        InputError: the scan has no mask.
    """
    if scan.bad_pixels is None:
        raise InputError(
            f"{scan.name}: expected a mask of bad pixels to invert, found none; state it with --bad-pixels"
        )
    mask = ~scan.bad_pixels
    text = f"mask inverted: {quantity(int(mask.sum()), 'bad pixel')}"
    return replace(scan, bad_pixels=mask if mask.any() else None), Note(
        "invert_mask", text, {"pixels": int(mask.sum())}
    )


@dataclass(frozen=True)
class _Subtract:
    background: float

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        if block.dtype.kind == "u" and float(self.background).is_integer():
            level = block.dtype.type(min(int(self.background), np.iinfo(block.dtype).max))
            left: NDArray[Any] = np.maximum(block, level) - level
        else:
            left = np.maximum(block.astype(np.float32) - np.float32(self.background), 0)
        return left


def subtract(scan: Scan, background: float) -> tuple[Scan, Note]:
    """Subtract a constant background, such as the offset of a detector; what would be negative becomes 0.

    Raises:
        InputError: the background is not positive, nothing would be left, or the scan has a background of its own that
            differs between patterns.
    """
    _check_limit("subtract", background)
    if background >= float(largest_of(scan.counts)[good_pixels(scan)].max(initial=0)):
        raise InputError(f"{scan.name}: subtract must be below the largest count, got {background:g}")
    note = Note("subtract", f"{background:g} counts subtracted from every pixel", {"counts": background})
    experiment = subtracted(scan.experiment, background)
    return replace(scan, counts=changed(scan.counts, _Subtract(background)), experiment=experiment), note


@dataclass(frozen=True, eq=False)
class _Clip:
    limit: float
    good: NDArray[np.bool_]

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        index = np.nonzero((block > self.limit) & self.good)
        out: NDArray[Any] = block.copy()
        if len(index[0]):
            out[index] = self._ordinary(block, *index)
        return out

    def _ordinary(
        self, block: NDArray[Any], k: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Median of the good pixels up to the limit in the 5 x 5 about each pixel; the limit if there are none."""
        size, steps = block.shape[-1], np.mgrid[-2:3, -2:3].reshape(2, -1)
        rows, columns = y[:, np.newaxis] + steps[0], x[:, np.newaxis] + steps[1]
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        rows, columns = np.clip(rows, 0, size - 1), np.clip(columns, 0, size - 1)
        around = block[k[:, np.newaxis], rows, columns].astype(np.float64)
        around[~inside | ~self.good[rows, columns] | (around > self.limit)] = np.inf
        valid = np.isfinite(around).sum(1)
        values = np.sort(around, axis=1)[np.arange(len(k)), np.maximum(valid - 1, 0) // 2]  # the lower median: a count
        return np.where(valid > 0, values, math.floor(self.limit) if block.dtype.kind == "u" else self.limit)


def clip(scan: Scan, limit: float) -> tuple[Scan, Note]:
    """Replace outlying counts of single patterns, such as cosmic rays, by the median of their neighbours there.

    Every count above `limit` of a good pixel becomes the (lower) median of the good pixels among the 5 x 5 about it
    that are not above the limit, or the limit itself if there are none: no count is above the limit afterwards, and a
    spike in a dim region becomes as dim as that. Other counts do not change.

    Raises:
        InputError: the limit is not positive.
    """
    _check_limit("clip", limit)
    good = good_pixels(scan)
    replaced = patterns = 0
    for _, block in blocks_of(scan.counts):
        above = ((block > limit) & good).sum((1, 2))
        replaced, patterns = replaced + int(above.sum()), patterns + int((above > 0).sum())
    text = f"{quantity(replaced, 'count')} above {limit:.6g} in {quantity(patterns, 'pattern')} replaced"
    note = Note("clip", text, {"counts": replaced, "patterns": patterns, "limit": limit})
    if not replaced:
        return scan, note
    return replace(scan, counts=changed(scan.counts, _Clip(limit, good))), note


def _check_limit(name: str, limit: float) -> None:
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(f"{name} must be a positive number of counts, got {limit!r}")
