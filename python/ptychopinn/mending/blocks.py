# SPDX-License-Identifier: BSD-3-Clause
"""Changes of all patterns, block by block: at once for patterns in memory, when they are read for those on disk."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.storage.arrays import blocks_of
from ptychopinn.storage.stored import StoredPatterns

Counts = NDArray[Any] | StoredPatterns


class Change(Protocol):
    """A change of patterns. Objects can be pickled, as stored patterns are."""

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """The changed patterns (k, N', N') of patterns (k, N, N), without changing those."""


class _Changed:
    """A source of stored patterns: other stored patterns with a change."""

    def __init__(self, patterns: StoredPatterns, change: Change, size: int, dtype: np.dtype[Any]) -> None:
        self.name = repr(patterns)
        self.shape: tuple[int, int, int] = (len(patterns), size, size)
        self.dtype = dtype
        self._patterns, self._change = patterns, change

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._change(self._patterns[rows]).astype(self.dtype, copy=False)


def changed(counts: Counts, change: Change, size: int | None = None, dtype: np.dtype[Any] | None = None) -> Counts:
    """Change all patterns.

    Patterns in memory become a new array. Patterns on disk stay there: they are changed each time they are read, so
    that a file of changed patterns is written without all of them in memory.

    Args:
        counts: (n, N, N).
        change: of a block of patterns.
        size: N of the result; None: the same.
        dtype: of the result; None: the same.

    Example:
        >>> changed(np.arange(128).reshape(2, 8, 8), lambda block: block + 1)[1, 0, 0]
        np.int64(65)
    """
    size, dtype = size or counts.shape[-1], dtype or counts.dtype
    if isinstance(counts, StoredPatterns):
        return StoredPatterns(_Changed(counts, change, size, dtype))
    out = np.empty((len(counts), size, size), dtype)
    for part, block in blocks_of(counts):
        out[part] = change(block)
    return out


def largest_of(counts: Counts) -> NDArray[Any]:
    """Largest count of every pixel, (N, N)."""
    largest = np.zeros(counts.shape[1:], counts.dtype)
    for _, block in blocks_of(counts):
        np.maximum(largest, block.max(0), out=largest)
    return largest


class _Scaled:
    """A source of stored patterns: other stored patterns, each multiplied by its factor."""

    def __init__(self, patterns: StoredPatterns, factors: NDArray[np.float64]) -> None:
        self.name, self.shape, self.dtype = repr(patterns), patterns.shape, np.dtype(np.float32)
        self._patterns, self._factors = patterns, factors

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return _product(self._patterns[rows], self._factors[rows])


def scaled(counts: Counts, factors: NDArray[np.float64]) -> Counts:
    """Multiply every pattern by its factor (n,); the result is float32, and on disk if `counts` are."""
    if isinstance(counts, StoredPatterns):
        return StoredPatterns(_Scaled(counts, factors))
    out = np.empty(counts.shape, np.float32)
    for part, block in blocks_of(counts):
        out[part] = _product(block, factors[part])
    return out


def _product(block: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (block * factors[:, np.newaxis, np.newaxis]).astype(np.float32)


def extremes_of(counts: Counts) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest count of every pixel, each (N, N)."""
    low, high = counts[0].copy(), counts[0].copy()
    for _, block in blocks_of(counts):
        np.minimum(low, block.min(0), out=low)
        np.maximum(high, block.max(0), out=high)
    return low, high


def totals_of(counts: Counts, good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Total counts on good pixels of every pattern, (n,)."""
    totals = np.empty(len(counts))
    for part, block in blocks_of(counts):
        totals[part] = block[:, good].sum(1, dtype=np.float64)
    return totals


def mean_of(counts: Counts) -> NDArray[np.float64]:
    """Mean pattern, (N, N)."""
    total = np.zeros(counts.shape[1:])
    for _, block in blocks_of(counts):
        total += block.sum(0, dtype=np.float64)
    return total / len(counts)
