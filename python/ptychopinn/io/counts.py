# SPDX-License-Identifier: BSD-3-Clause
"""Conversion of stored patterns to photon counts, and the decision whether they are counts or amplitudes.

Every format converts its patterns with :func:`counts_of`. The function needs a shape, a type and slices along the first
axis (:class:`RawPatterns`), so patterns can be an array or frames of an open file. It is the only function that reads
all patterns into memory.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.io.fields import OpenFile
from ptychopinn.runtime.progress import progress
from ptychopinn.storage.arrays import blocks_of, pattern_blocks
from ptychopinn.storage.stored import LARGEST_BAD, StoredPatterns, left_on_disk

LARGEST_COUNT = float(2**53)
_IN_CACHE = 1 << 18  # elements that are handled at a time
_AT_ONCE = 8  # patterns in float64 that must fit in memory, even if patterns stay on disk
_DEFAULT_REASONS = {
    "amplitude": (
        "the contract's default, since neither the values nor their squares are integers "
        "(the option 'measurement' states it)"
    ),
    "counts": (
        "the format's default, since neither the values nor their squares are integers "
        "(the option 'measurement' states it)"
    ),
}

_OTHER = "state measurement= (--measurement) if the values are the other kind, or mask these pixels (--bad-pixels)"

_log = logging.getLogger(__name__)


@dataclass
class _Survey:
    """What is known of all values of good pixels: whether they, and their squares, are integers.

    Attributes:
        integral, squares_integral: within the rounding of the stored type.
        largest: value, that of bad pixels included unless it is no count.
        valid: no value of a bad pixel is to be replaced by 0.
        rounding: see :func:`_relative_rounding`.
        work: arrays for the squares of a block.
    """

    integral: bool = True
    squares_integral: bool = True
    largest: float = 0.0
    valid: bool = True
    rounding: float | None = None
    work: NDArray[np.float64] | None = None


class RawPatterns(Protocol):
    """Patterns (n, N, N) as stored, read in blocks of frames: an array, or frames of an open file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


def counts_of(
    file: OpenFile,
    key: str,
    patterns: RawPatterns,
    bad: NDArray[np.bool_] | None,
    requested: str = "auto",
    stated: str | None = None,
    default: str = "amplitude",
    memory: str = "load",
) -> tuple[NDArray[Any] | StoredPatterns, Decision]:
    """Convert stored patterns to photon counts.

    Whether they are counts or amplitudes is decided in this order: `requested`; `stated`; an integer type or integer
    values are counts; values whose squares are integers are amplitudes; `default`, with a warning. Amplitudes are
    squared in float64. If all squares are integers within the rounding of the stored type, the counts are exactly these
    integers.

    Args:
        file: named in errors.
        key: of the patterns.
        patterns: (n, N, N) real numbers of any type.
        bad: (N, N) bool, bad pixels, which may have any value; values that are not counts are replaced by 0.
        requested: "amplitude", "counts" or "auto", by the caller.
        stated: "amplitude" or "counts" in the file, None if it does not state it.
        default: "amplitude" or "counts", of the format.
        memory: see :meth:`Scan.load`; patterns that stay on disk are read once for the decision.

    Returns:
        (n, N, N) counts, of an unsigned integer type if all are integers and float32 otherwise; and the decision, for
        `Scan.decisions.measurement`.

    Raises:
        InputError: values of good pixels are NaN, negative, too large or all zero; or memory is too small.
    """
    stored = _loaded_or_stored(file, key, patterns, bad, memory)
    found = _survey(file, key, stored, bad)
    largest = found.largest
    if largest == 0:
        file.fail(key, "photons", "patterns that are all zero", "name the file of the frames")

    decision = _decide(stored.dtype, found.integral and largest > 1, found.squares_integral, requested, stated, default)
    value = decision.value
    inferred = logging.WARNING if decision.by_default else logging.INFO
    level = inferred if requested == "auto" and stated is None else logging.DEBUG
    _log.log(level, "%s: '%s' read as %s: %s", file.path, key, value, decision.reason)
    power = 2 if value == "amplitude" else 1
    if not largest**power < LARGEST_COUNT:
        file.fail(key, "at most 2^53 photons in a pixel", f"{value} of up to {largest:g}", _OTHER)
    if value == "counts" and stored.dtype.kind == "u":
        return stored if isinstance(stored, StoredPatterns) else np.ascontiguousarray(stored), decision
    exact = found.squares_integral if value == "amplitude" else found.integral
    dtype = np.min_scalar_type(round(largest**power)) if exact else np.dtype(np.float32)
    if isinstance(stored, StoredPatterns):
        return stored.converted(bad=bad, power=power, dtype=dtype), decision
    counts = np.empty(stored.shape, dtype)
    squares: NDArray[Any] = np.empty(0)  # one array for all blocks
    for part in pattern_blocks(stored.shape, _IN_CACHE):
        block = stored[part] if found.valid else _valid_block(stored[part], bad)
        if power == 2:
            squares = squares if squares.shape == block.shape else np.empty(block.shape)
            block = np.multiply(block, block, out=squares, dtype=np.float64)  # exact for uint16 and float32
        if exact and block.dtype.kind == "f":
            block = np.rint(block, out=squares if power == 2 else None)
        counts[part] = block
    return counts, decision


def _loaded_or_stored(
    file: OpenFile, key: str, patterns: RawPatterns, bad: NDArray[np.bool_] | None, memory: str
) -> NDArray[Any] | StoredPatterns:
    """Patterns in memory, or on disk if `memory` and the file permit it."""
    file.check_memory(key, (_AT_ONCE, *patterns.shape[1:]), np.dtype(np.float64))
    if isinstance(patterns, np.ndarray) and not isinstance(patterns, np.memmap):
        return patterns
    if isinstance(patterns, StoredPatterns):
        return patterns.converted(bad=bad)
    if isinstance(patterns, np.memmap):
        stored = left_on_disk(lambda: StoredPatterns.npy(file.path), file.path, memory)
    else:
        stored = left_on_disk(lambda: frames_on_disk(patterns, file.path), file.path, memory)
    if stored is not None:
        return stored.converted(bad=bad)
    file.check_memory(key, patterns.shape, patterns.dtype)
    loaded: NDArray[Any] = np.empty(patterns.shape, patterns.dtype.newbyteorder("="))
    with progress("load", len(loaded)) as advance:
        read_into = getattr(patterns, "read_into", None)
        if read_into is not None:
            read_into(loaded, advance)
        else:
            for part in pattern_blocks(patterns.shape):
                loaded[part] = patterns[part]
                advance(part.stop - part.start)
    return loaded


def _decide(
    dtype: np.dtype[Any], integral: bool, squares_integral: bool, requested: str, stated: str | None, default: str
) -> Decision:
    if requested != "auto":
        return Decision(requested, "as requested")
    if stated is not None:
        return Decision(stated, "stated by the key 'measurement'")
    if dtype.kind != "f":
        return Decision("counts", f"the type is {dtype}")
    if integral:
        return Decision("counts", "all values are integers")
    if squares_integral:
        return Decision("amplitude", "all squares are integers within rounding")
    return Decision(default, _DEFAULT_REASONS[default], by_default=True)


def frames_on_disk(patterns: RawPatterns, path: Path) -> StoredPatterns:
    """Frames of an open file as patterns that stay on disk.

    Raises:
        InputError: the frames are in several data sets, or in a raster (ny, nx, N, N).
    """
    found: StoredPatterns | None = getattr(patterns, "on_disk", lambda: None)()
    if found is None:
        raise InputError(
            f'{path}: expected one data set (n, N, N), which can stay on disk, found another layout; use memory="load"'
        )
    return found


def _survey(
    file: OpenFile, key: str, patterns: NDArray[Any] | StoredPatterns, bad: NDArray[np.bool_] | None
) -> _Survey:
    """Check all values in one pass, in the type of the file; float64 is used for the squares of fractions only.

    Raises:
        InputError: good pixels are not counts; see :func:`_refuse_invalid`.
    """
    good = np.ones(patterns.shape[1:], np.bool_) if bad is None else ~bad
    found = _Survey()
    if not isinstance(patterns, np.ndarray):
        with progress("check", len(patterns)) as advance:
            for part, block in blocks_of(patterns):
                _survey_block(found, file, key, block, bad, good)
                advance(part.stop - part.start)
        return found
    try:
        for part in pattern_blocks(patterns.shape, _IN_CACHE):
            _survey_block(found, file, key, patterns[part], bad, good)
    except InputError:
        _refuse_invalid(file, key, patterns, good)  # the sentence counts the values of all patterns
        raise
    return found


def _survey_block(
    found: _Survey,
    file: OpenFile,
    key: str,
    block: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    good: NDArray[np.bool_],
) -> None:
    kind, marker = block.dtype.kind, _dead_pixel_marker(block.dtype)
    lowest, largest = 0 if kind == "u" else block.min(), block.max()  # NaN if there is one
    ceiling = np.inf if bad is None else LARGEST_BAD
    if lowest >= 0 and largest < ceiling and largest != marker:
        found.largest = max(found.largest, float(largest))
        values = block
    else:
        _refuse_invalid(file, key, block, good)
        valid = _valid_block(block, bad)
        found.largest, found.valid = max(found.largest, float(valid.max(initial=0))), False
        values = valid
    if kind != "f" or not (found.integral or found.squares_integral):
        return
    if found.rounding is None:
        found.rounding = _relative_rounding(block.dtype, values[0][good])
    if bad is not None:
        values = values[:, good]
    if found.integral and np.array_equal(values, np.rint(values)):
        return  # and so are the squares
    found.integral = False
    if found.squares_integral:
        if found.work is None or found.work.shape[1:] != values.shape:
            found.work = np.empty((2, *values.shape))
        squares, distance = found.work
        np.multiply(values, values, out=squares, dtype=np.float64)
        np.subtract(squares, np.rint(squares, out=distance), out=distance)
        np.abs(distance, out=distance)
        squares *= found.rounding
        found.squares_integral = bool((distance <= squares).all())


def _dead_pixel_marker(dtype: np.dtype[Any]) -> int | None:
    """The largest value of integers of 32 or 64 bits, which marks dead pixels."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" and dtype.itemsize >= 4 else None


def _refuse_invalid(file: OpenFile, key: str, patterns: NDArray[Any], good: NDArray[np.bool_]) -> None:
    """Raise InputError if good pixels are not counts, with the number of such values."""
    way = "mask_invalid= (--mask-invalid) masks these pixels"
    marker = _dead_pixel_marker(patterns.dtype)
    if marker is not None and (wrong := (patterns == marker) & good).any():
        file.fail_values(key, "counts (or a mask of bad pixels)", "dead-pixel", patterns, wrong, way)
    if (wrong := ~np.isfinite(patterns) & good).any():
        file.fail_values(key, "finite values", "NaN or infinite", patterns, wrong, way)
    if (wrong := (patterns < 0) & good).any():
        clip = ", clip_negative= (--clip-negative) makes them 0" if patterns.dtype.kind == "f" else ""
        file.fail_values(key, "values that are not negative", "negative", patterns, wrong, way + clip)


def _valid_block(block: NDArray[Any], bad: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Patterns in float64; NaN, infinite, negative and very large values of bad pixels are replaced by 0."""
    values = block.astype(np.float64)
    if bad is not None:
        values[~(np.isfinite(values) & (values >= 0) & ((values < LARGEST_BAD) | ~bad))] = 0
    return values


def _relative_rounding(dtype: np.dtype[Any], first: NDArray[Any]) -> float:
    """Largest relative difference of a squared amplitude from an integer that rounding to the stored type explains.

    Args:
        dtype: floating point type of the file.
        first: good pixels of the first pattern.
    """
    rounded = dtype == np.float64 and np.array_equal(first, first.astype(np.float32))
    return 1.5 * float(np.finfo(np.float32 if rounded else dtype.type).eps)
