# SPDX-License-Identifier: BSD-3-Clause
"""Patterns to omit: without counts, with far too few or too many, far from all others, or named by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.findings.geometry import outlying_positions
from ptychopinn.findings.measure import BRIGHT, FAINT, measure_patterns
from ptychopinn.findings.rules import indices_in_words
from ptychopinn.io.indexes import frame_indexes, unless_in_order
from ptychopinn.mending.notes import Note, quantity
from ptychopinn.scan import Scan


@dataclass(frozen=True)
class Outliers:
    """Rows of patterns to omit, ascending, by reason.

    Attributes:
        empty: without counts on good pixels.
        faint, bright: with total counts below 1 % and above 5 times the median.
        far: position far from all others.
    """

    empty: list[int]
    faint: list[int]
    bright: list[int]
    far: list[int]

    __repr__ = one_line

    @property
    def rows(self) -> list[int]:
        """All of them, ascending."""
        return sorted({*self.empty, *self.faint, *self.bright, *self.far})


def keep(scan: Scan, rows: NDArray[np.int64]) -> Scan:
    """The patterns of these rows; each keeps its frame index."""
    return replace(scan.subset(rows), frame_indexes=unless_in_order(frame_indexes(scan)[rows]))


def drop(scan: Scan, indices: ArrayLike) -> tuple[Scan, Note]:
    """Omit patterns.

    Args:
        scan: the scan.
        indices: rows of the scan, 0 to n - 1.

    Raises:
        InputError: an index is out of range, or no pattern is left.
    """
    rows = np.unique(np.asarray(indices, np.int64).ravel())
    if rows.size and (rows[0] < 0 or rows[-1] >= scan.n):
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise InputError(f"drop must be indices from 0 to {scan.n - 1} of the {scan.n} patterns, got {wrong}")
    text = f"{quantity(len(rows), 'pattern')} omitted: {indices_in_words(rows.tolist())}"
    return _without(scan, rows), Note("drop", text, {"patterns": rows.tolist()})


def find_outliers(scan: Scan) -> Outliers:
    """Find patterns to omit; counts of faulty pixels are not used."""
    found = measure_patterns(scan)
    far, _ = outlying_positions(scan.positions, scan.patch_size)
    return Outliers(found.empty, found.faint, found.bright, far)


def drop_outliers(
    scan: Scan, found: Outliers | None = None, numbering: Sequence[int] | NDArray[np.int64] | None = None
) -> tuple[Scan, Note]:
    """Omit patterns without counts, far below or above the median, and with a position far from all others.

    Args:
        scan: the scan.
        found: the patterns; None: those of :func:`find_outliers`.
        numbering: (n,) indices of the patterns, for the note; None: 0, 1, 2, ... .

    Raises:
        InputError: no pattern is left.
    """
    found = find_outliers(scan) if found is None else found
    reasons = {
        "without counts": found.empty,
        f"with less than {FAINT:.0%} of the median counts": found.faint,
        f"with more than {BRIGHT:g} times the median counts": found.bright,
        "far from all others": found.far,
    }
    index = np.arange(scan.n) if numbering is None else np.asarray(numbering)
    parts = [
        f"{len(rows)} {reason} ({indices_in_words(index[rows].tolist())})" for reason, rows in reasons.items() if rows
    ]
    text = f"{quantity(len(found.rows), 'pattern')} omitted{': ' if parts else ''}{', '.join(parts)}"
    values = {
        name: index[getattr(found, name)].tolist()
        for name in ("empty", "faint", "bright", "far")
        if getattr(found, name)
    }
    return _without(scan, np.asarray(found.rows, np.int64)), Note("drop_outliers", text, {"patterns": values})


def _without(scan: Scan, rows: NDArray[np.int64]) -> Scan:
    if not rows.size:
        return scan
    kept = np.setdiff1d(np.arange(scan.n), rows)
    if not kept.size:
        raise InputError(
            f"{scan.name}: expected at least one pattern to keep, found that all would be omitted; drop fewer"
        )
    return keep(scan, kept)
