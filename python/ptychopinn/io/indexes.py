# SPDX-License-Identifier: BSD-3-Clause
"""Pairing of patterns and positions by frame index, for formats that store them separately.

Patterns without a position and positions without a pattern are omitted with a warning; positions are never
interpolated.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Pairing
from ptychopinn.io.fields import OpenFile
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def indexes_of(file: OpenFile, key: str, n: int) -> NDArray[np.int64] | None:
    """The n frame indexes at `key`, checked to be unique; None if there is no such key."""
    return unique_indexes(file, key, file.numeric(key, "iuf", ndim=1), n) if file.has(key) else None


def unique_indexes(file: OpenFile, key: str, array: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Check an array, which was read from `key`, to be n unique frame indexes (n,)."""
    indexes = array.astype(np.int64)
    if not np.array_equal(indexes, array):
        file.fail(key, "integer frame indexes", "fractions")
    if len(indexes) != n:
        file.fail(key, f"{n} frame indexes", f"{len(indexes)}")
    values, counts = np.unique(indexes, return_counts=True)
    if len(values) < n:
        twice = int(values[np.argmax(counts > 1)])
        file.fail(key, "each frame index once", f"{int((counts > 1).sum())} that repeat, the first {twice}")
    return indexes


class Pairs(NamedTuple):
    """The pairs of patterns and positions, in the order of the patterns.

    Attributes:
        patterns: (n,) rows of the patterns; None: all, in order.
        positions: (n,) rows of the positions.
        frame_indexes: (n,) see :class:`Scan`.
        pairing: how many were omitted; None: none.
    """

    patterns: NDArray[np.int64] | None
    positions: NDArray[np.int64]
    frame_indexes: NDArray[np.int64] | None
    pairing: Pairing | None


def pair_by_index(
    file: OpenFile,
    pattern_indexes: NDArray[np.int64] | None,
    position_indexes: NDArray[np.int64] | None,
    patterns: int,
    positions: int,
) -> Pairs:
    """Pair patterns and positions by their frame indexes.

    Args:
        file: the file of the patterns, for errors.
        pattern_indexes: (patterns,) frame indexes of the patterns, None if they have none.
        position_indexes: (positions,) frame indexes of the positions, None if they have none. If either is None, pairs
            are formed by order.
        patterns: number of patterns.
        positions: number of positions.

    Returns:
        The pairs.

    Raises:
        InputError: no index is in both, or there are no indexes and the numbers differ.
    """
    if pattern_indexes is None or position_indexes is None:
        if patterns != positions:
            expected = f"{positions} patterns, one for each position, or indexes in both files"
            file.fail("patterns", expected, f"{patterns}")
        pattern_indexes = position_indexes = np.arange(patterns)
    common, pattern_rows, position_rows = np.intersect1d(
        pattern_indexes, position_indexes, assume_unique=True, return_indices=True
    )
    if not common.size:
        expected = f"frame indexes of the positions, {_span(position_indexes)}"
        file.fail("indexes", expected, f"none of them, {_span(pattern_indexes)}")
    order = np.argsort(pattern_rows)
    pattern_rows, position_rows = pattern_rows[order], position_rows[order]
    pairing = None
    if common.size < max(patterns, positions):
        pairing = Pairing(patterns - int(common.size), positions - int(common.size), "frame indexes without a partner")
        _log.warning(
            "%s: %d patterns have no position and %d positions no pattern: omitted",
            *(file.path, pairing.patterns, pairing.positions),
        )
    return Pairs(
        None if len(pattern_rows) == patterns else pattern_rows,
        position_rows,
        unless_in_order(pattern_indexes[pattern_rows]),
        pairing,
    )


def with_pairing(record: ScanRecord, pairs: Pairs) -> ScanRecord:
    """The record with the pairing in its decisions; an earlier pairing stays if this one omitted nothing."""
    if pairs.pairing is None:
        return record
    return replace(record, decisions=replace(record.decisions, pairing=pairs.pairing))


def unless_in_order(indexes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Frame indexes for `Scan.frame_indexes`: None if they are 0, 1, 2, ... ."""
    return None if np.array_equal(indexes, np.arange(len(indexes))) else indexes


def frame_indexes(scan: Scan) -> NDArray[np.int64]:
    """Frame indexes (n,) of a scan's patterns, for writers."""
    return np.arange(scan.n) if scan.frame_indexes is None else scan.frame_indexes


def _span(indexes: NDArray[np.int64]) -> str:
    return f"{indexes.min()} to {indexes.max()}" if indexes.size else "none"
