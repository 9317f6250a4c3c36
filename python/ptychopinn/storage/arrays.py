# SPDX-License-Identifier: BSD-3-Clause
"""Operations on patterns block by block, in memory or on disk, without a second copy of all patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.storage.stored import StoredPatterns

_BLOCK_ELEMENTS = 1 << 22


def compact_counts(counts: NDArray[Any]) -> NDArray[Any]:
    """Convert counts, integers that are not negative, to the smallest unsigned integer type that holds all of them.

    Example:
        >>> compact_counts(np.array([0.0, 300.0])).dtype
        dtype('uint16')
    """
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))), copy=False)


def pattern_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices along the first axis of an array of `shape`, each of at most 2^22 elements, or one row."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, int(np.prod(shape[1:]))))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def total_counts(counts: NDArray[Any] | StoredPatterns) -> float:
    """Sum of all counts, including bad pixels."""
    return sum(float(counts[part].sum(dtype=np.float64)) for part in pattern_blocks(counts.shape))
