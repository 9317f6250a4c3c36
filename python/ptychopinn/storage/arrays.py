# SPDX-License-Identifier: BSD-3-Clause
"""Operations on patterns block by block, in memory or on disk, without a second copy of all patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.storage.ahead import read_ahead
from ptychopinn.storage.stored import StoredPatterns

_BLOCK_ELEMENTS = 1 << 22


def compact_counts(counts: NDArray[Any]) -> NDArray[Any]:
    """Convert counts, integers that are not negative, to the smallest unsigned integer type that holds all of them.

    Example:
        >>> compact_counts(np.array([0.0, 300.0])).dtype
        dtype('uint16')
    """
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))), copy=False)


def pattern_blocks(shape: tuple[int, ...], elements: int = _BLOCK_ELEMENTS) -> Iterator[slice]:
    """Slices along the first axis of an array of `shape`, each of at most `elements` (2^22) elements, or one row."""
    rows = max(1, elements // max(1, int(np.prod(shape[1:]))))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def blocks_of(counts: NDArray[Any] | StoredPatterns) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Iterate over all patterns as (slice, patterns of that slice), see :func:`pattern_blocks`.

    Patterns in memory are views; those on disk are read on a thread while the previous block is used.

    Example:
        >>> [(part, block.shape) for part, block in blocks_of(np.zeros((3, 8, 8)))]
        [(slice(0, 3, None), (3, 8, 8))]
    """
    if isinstance(counts, np.ndarray):
        yield from ((part, counts[part]) for part in pattern_blocks(counts.shape))
    else:
        stored = counts
        yield from read_ahead(lambda part: (part, stored[part]), pattern_blocks(stored.shape))


def total_counts(counts: NDArray[Any] | StoredPatterns) -> float:
    """Sum of all counts, including bad pixels."""
    return sum(float(block.sum(dtype=np.float64)) for _, block in blocks_of(counts))
