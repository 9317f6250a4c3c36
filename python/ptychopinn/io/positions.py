# SPDX-License-Identifier: BSD-3-Clause
"""Positions of a scan in this order: a table or a raster that the caller states, the file's own, a table beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.io.contents import Contents
from ptychopinn.io.indexes import pair_by_index, with_pairing
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.positions_table import read_positions
from ptychopinn.storage.stored import StoredPatterns

#: Ways to state positions, for errors.
WAYS = (
    "state positions= (--positions TABLE), or scan_step= (--scan-step Y,X) and scan_shape= "
    "(--scan-shape ROWS,COLUMNS) of a raster"
)


def raster_positions(shape: tuple[int, int], step: tuple[float, float]) -> NDArray[np.float64]:
    """Positions (rows * columns, 2) of a raster (y, x), row by row, every row in the same direction.

    Example:
        >>> raster_positions((2, 2), (3.0, 1.0)).tolist()
        [[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 1.0]]
    """
    rows, columns = np.indices(shape)
    return np.stack([rows.ravel() * step[0], columns.ravel() * step[1]], axis=1)


def with_positions(contents: Contents, options: ReadOptions) -> Contents:
    """Contents with positions from the options, from the file, or from the table or raster that its reader found.

    Raises:
        InputError: there are none, or not one for each pattern.
    """
    own = contents.world is not None or contents.pixels is not None
    if options.positions is not None:
        return _from_table(_without_own(contents), Path(options.positions), options)
    if options.scan_step is not None or options.scan_shape is not None:
        return _from_raster(contents, options, own)
    if own:
        return contents
    if contents.table is not None:
        return _from_table(contents, contents.table, options)
    if contents.step is not None and contents.raster is not None:
        return replace(contents, world=raster_positions(contents.raster, contents.step))
    n = contents.patterns.shape[0]
    known = f"{n} patterns" if contents.raster is None else "{} x {} patterns".format(*contents.raster)
    raise InputError(
        f"{contents.file.path}: expected positions of its patterns, in it or in a table beside it, found {known} "
        f"without; {WAYS}"
    )


def _from_table(contents: Contents, path: Path, options: ReadOptions) -> Contents:
    table = read_positions(path, options)
    n, rows = contents.patterns.shape[0], len(table.world)
    if table.indexes is None:
        if rows != n:
            raise InputError(
                f"{path}: expected {n} positions, one for each pattern of {contents.file.path}, found {rows}; state "
                "the table of this scan, add a column 'index' with the pattern of each row, from 0, or take the scan "
                "of a SPEC file with position_scan= (--position-scan)"
            )
        return replace(contents, world=table.world)
    first = 1 if table.indexes.min() >= 1 and table.indexes.max() == n else 0
    pairs = pair_by_index(contents.file, np.arange(n), table.indexes - first, n, rows)
    return replace(
        contents,
        patterns=contents.patterns if pairs.patterns is None else _rows(contents.patterns, pairs.patterns),
        world=table.world[pairs.positions],
        frame_indexes=pairs.frame_indexes,
        experiment=contents.experiment if pairs.patterns is None else contents.experiment.subset(pairs.patterns),
        record=with_pairing(contents.record, pairs),
    )


def _from_raster(contents: Contents, options: ReadOptions, own: bool) -> Contents:
    n = contents.patterns.shape[0]
    shape, step = options.scan_shape or contents.raster, options.scan_step or contents.step
    if shape is None or step is None:
        absent, option = ("shape", "scan_shape= (--scan-shape ROWS,COLUMNS)")
        if shape is not None:
            absent, option = ("step", "scan_step= (--scan-step Y,X)")
        raise InputError(
            f"{contents.file.path}: expected shape and step of a raster, found no {absent}; state {option}"
        )
    if shape[0] * shape[1] != n:
        raise InputError(
            f"{contents.file.path}: expected {shape[0]} x {shape[1]} = {shape[0] * shape[1]} patterns of the raster, "
            f"found {n}; state its rows and columns in scan_shape= (--scan-shape)"
        )
    first, second = np.broadcast_to(step, (2,))
    world = raster_positions(shape, (float(first), float(second)))
    return replace(_without_own(contents) if own else contents, world=world)


def _without_own(contents: Contents) -> Contents:
    """Contents without positions and the object, which is at these positions."""
    record = contents.record
    if contents.truth is not None:
        omitted = Decision("omitted", "it belongs to the positions of the file, and others are stated")
        record = replace(record, decisions=replace(record.decisions, truth=omitted))
    acquisition = replace(contents.acquisition, world_origin=None)
    return replace(
        contents,
        world=None,
        pixels=None,
        positions_without_unit=None,
        truth=None,
        acquisition=acquisition,
        record=record,
    )


def _rows(patterns: Any, rows: NDArray[np.int64]) -> Any:
    """Some patterns of an array, of stored patterns or of frames of an open file."""
    if isinstance(patterns, StoredPatterns):
        return patterns.subset(rows)
    return patterns[rows] if isinstance(patterns, np.ndarray) else patterns.take(rows)
