# SPDX-License-Identifier: BSD-3-Clause
"""Patterns and positions that were written apart, brought together by the frame index that both carry.

A pattern without a position, or the other way round, is omitted with a warning; no position is ever made up.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Pairing
from ptychopinn.io.fields import Source
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def indexes_of(source: Source, key: str, n: int) -> NDArray[np.int64] | None:
    """The n frame indexes under `key`, none of which may repeat; None if there is no such key."""
    return unique_indexes(source, key, source.numbers(key, "iuf", ndim=1), n) if source.has(key) else None


def unique_indexes(source: Source, key: str, array: NDArray[Any], n: int) -> NDArray[np.int64]:
    """`array`, which stood under `key`, as n frame indexes, none of which may repeat."""
    indexes = array.astype(np.int64)
    if not np.array_equal(indexes, array):
        source.fail(key, "whole frame indexes", "fractions")
    if len(indexes) != n:
        source.fail(key, f"{n} frame indexes", f"{len(indexes)}")
    values, counts = np.unique(indexes, return_counts=True)
    if len(values) < n:
        twice = int(values[np.argmax(counts > 1)])
        source.fail(key, "each frame index once", f"{int((counts > 1).sum())} that repeat, the first {twice}")
    return indexes


class Pairs(NamedTuple):
    """Patterns in their own order, and the position of each.

    Attributes:
        patterns: their rows; None: all as they are.
        positions: the row of the position of each.
        frame_indexes: of each, see :class:`Scan`.
        pairing: what was omitted; None: nothing.
    """

    patterns: NDArray[np.int64] | None
    positions: NDArray[np.int64]
    frame_indexes: NDArray[np.int64] | None
    pairing: Pairing | None


def pair_by_index(
    source: Source,
    ours: NDArray[np.int64] | None,
    theirs: NDArray[np.int64] | None,
    patterns: int,
    positions: int,
) -> Pairs:
    """Which patterns to take, and the position of each.

    Args:
        source: the file of the patterns, for complaints.
        ours: (patterns,) frame indexes of the patterns, None if they have none.
        theirs: (positions,) frame indexes of the positions, None if they have none; both go by order then.
        patterns: how many there are.
        positions: how many there are.
    """
    if ours is None or theirs is None:
        if patterns != positions:
            expected = f"{positions} patterns, one for each position, or indexes in both files"
            source.fail("patterns", expected, f"{patterns}")
        ours = theirs = np.arange(patterns)
    common, rows, places = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    if not common.size:
        expected = f"frame indexes that positions have too, {_span(theirs)}"
        source.fail("indexes", expected, f"none of them, {_span(ours)}")
    order = np.argsort(rows)
    rows, places = rows[order], places[order]
    pairing = None
    if common.size < max(patterns, positions):
        pairing = Pairing(patterns - int(common.size), positions - int(common.size), "frame indexes without a partner")
        _log.warning(
            "%s: %d patterns have no position and %d positions no pattern: omitted",
            *(source.path, pairing.patterns, pairing.positions),
        )
    return Pairs(None if len(rows) == patterns else rows, places, unless_in_order(ours[rows]), pairing)


def with_pairing(record: ScanRecord, pairs: Pairs) -> ScanRecord:
    """A record with what this pairing omitted; that of an earlier one stays where this omitted nothing."""
    if pairs.pairing is None:
        return record
    return replace(record, decisions=replace(record.decisions, pairing=pairs.pairing))


def unless_in_order(indexes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Frame indexes as a scan keeps them: None where they are 0, 1, 2, ... ."""
    return None if np.array_equal(indexes, np.arange(len(indexes))) else indexes


def frame_indexes(scan: Scan) -> NDArray[np.int64]:
    """(n,) the indexes of a scan's patterns, for writers."""
    return np.arange(scan.n) if scan.frame_indexes is None else scan.frame_indexes


def _span(indexes: NDArray[np.int64]) -> str:
    return f"{indexes.min()} to {indexes.max()}" if indexes.size else "none"
