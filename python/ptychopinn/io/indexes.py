# SPDX-License-Identifier: BSD-3-Clause
"""Patterns and positions that were written apart, brought together by the scan index that both carry.

A pattern without a position, or the other way round, is left out and said; no position is ever made up.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.io.fields import Source
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def indexes_of(source: Source, key: str, n: int) -> NDArray[np.int64] | None:
    """The n scan indexes under `key`, none of which may repeat; None if there is no such key."""
    return unique_indexes(source, key, source.numbers(key, "iuf", ndim=1), n) if source.has(key) else None


def unique_indexes(source: Source, key: str, array: NDArray[Any], n: int) -> NDArray[np.int64]:
    """`array`, which stood under `key`, as n scan indexes, none of which may repeat."""
    indexes = array.astype(np.int64)
    if not np.array_equal(indexes, array):
        source.fail(key, "whole scan indexes", "fractions")
    if len(indexes) != n:
        source.fail(key, f"{n} scan indexes", f"{len(indexes)}")
    values, counts = np.unique(indexes, return_counts=True)
    if len(values) < n:
        twice = int(values[np.argmax(counts > 1)])
        source.fail(key, "each scan index once", f"{int((counts > 1).sum())} that repeat, the first {twice}")
    return indexes


def pair_by_index(
    source: Source,
    ours: NDArray[np.int64] | None,
    theirs: NDArray[np.int64] | None,
    patterns: int,
    positions: int,
    metadata: dict[str, Any],
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Which patterns to take, and the position of each.

    Args:
        source: the file of the patterns, for complaints.
        ours: (patterns,) scan indexes of the patterns, None if they have none.
        theirs: (positions,) scan indexes of the positions, None if they have none; both go by order then.
        patterns: how many there are.
        positions: how many there are.
        metadata: of the scan; gets `pairing` where something is left out, and `scan_indexes`.

    Returns:
        Rows of the patterns in their own order (None: all as they are), and the row of the position of each.
    """
    if ours is None or theirs is None:
        if patterns != positions:
            expected = f"{positions} patterns, one for each position, or indexes in both files"
            source.fail("patterns", expected, f"{patterns}")
        ours = theirs = np.arange(patterns)
    common, rows, places = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    if not common.size:
        expected = f"scan indexes that positions have too, {_span(theirs)}"
        source.fail("indexes", expected, f"none of them, {_span(ours)}")
    order = np.argsort(rows)
    rows, places = rows[order], places[order]
    alone = {"patterns": patterns - int(common.size), "positions": positions - int(common.size)}
    if any(alone.values()):
        _log.warning(
            "%s: %d patterns have no position and %d positions no pattern: left out",
            *(source.path, alone["patterns"], alone["positions"]),
        )
        metadata["pairing"] = {"left_out": alone, "reason": "scan indexes without a partner"}
    keep_indexes(metadata, ours[rows])
    return (None if len(rows) == patterns else rows), places


def keep_indexes(metadata: dict[str, Any], indexes: NDArray[np.int64]) -> None:
    """Keep the scan indexes of a scan's patterns for its writers, unless they are 0, 1, 2, ... ."""
    metadata.pop("scan_indexes", None)
    if not np.array_equal(indexes, np.arange(len(indexes))):
        metadata["scan_indexes"] = [int(value) for value in indexes]


def scan_indexes(scan: Scan) -> NDArray[np.int64]:
    """(n,) the indexes that the scan's file gave its patterns, or 0, 1, 2, ... where it has none or others."""
    kept = scan.metadata.get("scan_indexes")
    if isinstance(kept, list) and len(kept) == scan.n and all(isinstance(value, int) for value in kept):
        return np.asarray(kept, np.int64)
    return np.arange(scan.n)


def _span(indexes: NDArray[np.int64]) -> str:
    return f"{indexes.min()} to {indexes.max()}" if indexes.size else "none"
