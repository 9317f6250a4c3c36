# SPDX-License-Identifier: BSD-3-Clause
"""From stored patterns to photon counts: the one place where it is decided what a file's patterns are.

:func:`counts_of` is the only way from a file's patterns to `Scan.counts`, for every format. It asks little of what it
is given (:class:`RawPatterns`: a shape, a type and slices along the first axis), so patterns that stay on the disk can
be put in its place; it is also the only place where patterns are read into memory whole.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.io.fields import Source
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.stored import LARGEST_BAD, StoredPatterns, left_on_disk

LARGEST_COUNT = float(2**53)
_AT_ONCE = 8  # patterns in float64 that must fit in memory in any case
_DEFAULT_REASONS = {
    "amplitude": (
        "the contract's default, since neither the values nor their squares are whole numbers "
        "(the option 'measurement' states it)"
    ),
    "counts": (
        "the format's default, since neither the values nor their squares are whole numbers "
        "(the option 'measurement' states it)"
    ),
}

_log = logging.getLogger(__name__)


class RawPatterns(Protocol):
    """Patterns (n, N, N) as a file stores them, read a block at a time: an array, or frames of an open file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


def counts_of(
    source: Source,
    key: str,
    patterns: RawPatterns,
    bad: NDArray[np.bool_] | None,
    requested: str = "auto",
    stated: str | None = None,
    default: str = "amplitude",
    memory: str = "load",
) -> tuple[NDArray[Any] | StoredPatterns, Decision]:
    """Photon counts from stored patterns, with the decision what was stored and its reason.

    The caller's word goes before the file's word, then an integer type or whole values mean counts, whole squares mean
    amplitudes, and else the format's default holds, which is logged as a warning. Amplitudes are squared in float64,
    and where the squares are integers within the rounding of the file's type, the counts are those integers exactly.

    Args:
        source: the file, for complaints.
        key: where the patterns stand in it.
        patterns: (n, N, N) real numbers of any type.
        bad: (N, N) bool, pixels that may hold anything; what is no count there becomes 0.
        requested: "amplitude", "counts" or "auto".
        stated: what the file itself says, if anything.
        default: what the format holds where nothing else decides.
        memory: see :meth:`Scan.load`; patterns that stay on disk are read through once to decide.

    Returns:
        (n, N, N) counts, an unsigned integer type where all are whole and float32 otherwise, and what was stored, for
        `Scan.decisions.measurement`.

    Raises:
        InputError: values of good pixels are NaN, negative, no plausible counts, or all zero; or memory is too small.
    """
    stored = _kept(source, key, patterns, bad, memory)
    good = np.ones(stored.shape[1:], np.bool_) if bad is None else ~bad
    _refuse_invalid(source, key, stored, good)
    whole = squares_whole = True
    largest = 0.0
    rounding = _relative_rounding(stored, good)
    for part in pattern_blocks(stored.shape):
        block = _valid_block(stored[part], bad)
        largest = max(largest, float(block.max(initial=0)))
        block = block[:, good]
        whole = whole and bool(np.all(block == np.rint(block)))
        squares = np.square(block)
        squares_whole = squares_whole and bool(np.all(np.abs(squares - np.rint(squares)) <= rounding * squares))
    if largest == 0:
        source.fail(key, "photons", "patterns that are all zero")

    decision = _decide(stored.dtype, whole and largest > 1, squares_whole, requested, stated, default)
    value = decision.value
    level = logging.WARNING if decision.by_default else logging.INFO
    _log.log(level, "%s: '%s' read as %s: %s", source.path, key, value, decision.reason)
    power = 2 if value == "amplitude" else 1
    if not largest**power < LARGEST_COUNT:
        source.fail(key, "at most 2^53 photons in a pixel", f"{value} of up to {largest:g}")
    if value == "counts" and stored.dtype.kind == "u":
        return stored if isinstance(stored, StoredPatterns) else np.ascontiguousarray(stored), decision
    exact = squares_whole if value == "amplitude" else whole
    dtype = np.min_scalar_type(round(largest**power)) if exact else np.dtype(np.float32)
    if isinstance(stored, StoredPatterns):
        return stored.converted(bad=bad, power=power, dtype=dtype), decision
    counts = np.empty(stored.shape, dtype)
    for part in pattern_blocks(stored.shape):
        block = _valid_block(stored[part], bad) ** power  # float64: squares of uint16 or float32 lose nothing here
        counts[part] = np.rint(block) if exact else block
    return counts, decision


def _kept(
    source: Source, key: str, patterns: RawPatterns, bad: NDArray[np.bool_] | None, memory: str
) -> NDArray[Any] | StoredPatterns:
    """The patterns in memory, or on disk where they can stay there; those refuse by themselves what is no count."""
    source.check_memory(key, (_AT_ONCE, *patterns.shape[1:]), np.dtype(np.float64))
    if isinstance(patterns, np.ndarray) and not isinstance(patterns, np.memmap):
        return patterns
    if isinstance(patterns, StoredPatterns):
        return patterns.converted(bad=bad)
    if isinstance(patterns, np.memmap):
        stored = left_on_disk(lambda: StoredPatterns.npy(source.path), source.path, memory)
    else:
        stored = left_on_disk(lambda: frames_on_disk(patterns, source.path), source.path, memory)
    if stored is not None:
        return stored.converted(bad=bad)
    source.check_memory(key, patterns.shape, patterns.dtype)
    stored = np.empty(patterns.shape, patterns.dtype.newbyteorder("="))
    for part in pattern_blocks(patterns.shape):
        stored[part] = patterns[part]
    return stored


def _decide(
    dtype: np.dtype[Any], whole: bool, squares_whole: bool, requested: str, stated: str | None, default: str
) -> Decision:
    if requested != "auto":
        return Decision(requested, "as requested")
    if stated is not None:
        return Decision(stated, "the key 'measurement' says so")
    if dtype.kind != "f":
        return Decision("counts", f"the type is {dtype}")
    if whole:
        return Decision("counts", "all values are whole numbers")
    if squares_whole:
        return Decision("amplitude", "all squares are whole numbers within rounding")
    return Decision(default, _DEFAULT_REASONS[default], by_default=True)


def frames_on_disk(patterns: RawPatterns, path: Path) -> StoredPatterns:
    """The frames of an open file as patterns that stay there.

    Raises:
        InputError: they are spread over several data sets, or lie in another order than one after the other.
    """
    found: StoredPatterns | None = getattr(patterns, "on_disk", lambda: None)()
    if found is None:
        raise InputError(
            f"{path}: expected patterns in one data set (n, N, N) to leave on disk, found others: load them"
        )
    return found


def _refuse_invalid(source: Source, key: str, patterns: NDArray[Any] | StoredPatterns, good: NDArray[np.bool_]) -> None:
    """Good pixels must hold counts; detectors mark dead ones with the largest value of 32 or 64 bits."""
    dtype = patterns.dtype
    marker = np.iinfo(dtype).max if dtype.kind in "iu" and dtype.itemsize >= 4 else None
    if dtype.kind == "u" and marker is None:
        return
    for part in pattern_blocks(patterns.shape):
        block = patterns[part]
        valid = np.isfinite(block) & (block >= 0)
        if marker is not None:
            valid &= block != marker
        if np.all(valid | ~good):
            continue
        if isinstance(patterns, StoredPatterns):
            patterns = block
        if marker is not None and (wrong := (patterns == marker) & good).any():
            source.fail_values(key, "counts (or a mask of bad pixels)", "dead-pixel", patterns, wrong)
        if (wrong := ~np.isfinite(patterns) & good).any():
            source.fail_values(key, "finite values", "NaN or infinite", patterns, wrong)
        wrong = (patterns < 0) & good
        source.fail_values(key, "values that are not negative", "negative", patterns, wrong)


def _valid_block(block: NDArray[Any], bad: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Patterns in float64, zero where a bad pixel holds NaN, infinity or a marker that is negative or huge."""
    values = block.astype(np.float64)
    if bad is not None:
        values[~(np.isfinite(values) & (values >= 0) & ((values < LARGEST_BAD) | ~bad))] = 0
    return values


def _relative_rounding(patterns: NDArray[Any] | StoredPatterns, good: NDArray[np.bool_]) -> float:
    """How far a square may be from an integer, relative to it, when the amplitudes were rounded to the file's type."""
    if patterns.dtype.kind != "f":
        return 0.0
    dtype = patterns.dtype.type
    first = patterns[0][good]
    if dtype == np.float64 and np.array_equal(first, first.astype(np.float32)):
        dtype = np.float32  # float64 in the file, but rounded to float32 before
    return 1.5 * float(np.finfo(dtype).eps)
