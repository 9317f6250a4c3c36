# SPDX-License-Identifier: BSD-3-Clause
"""Positions of a table that grows while a scan runs: a text file, or data sets of an HDF5 file.

What is read is compared with what was handed over, so that a row that is written again counts only if it differs. A row
that is no pair of finite numbers is a position that is not known yet.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.links import DAMAGED
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.positions_table import (
    Columns,
    Line,
    Row,
    cells_like,
    columns_of,
    split_spec,
    split_table,
    values_of,
)
from ptychopinn.io.sniff import HDF5_SUFFIXES
from ptychopinn.streaming.frames import POSITION_UNITS
from ptychopinn.streaming.sources.growing_hdf5 import GrowingFile
from ptychopinn.streaming.sources.hdf5_layout import find_positions, read_positions

#: Bytes of a text file that are read at a time, and of a line and of the lines before the first row, at most.
_MOST_BYTES, _LONGEST = 1 << 24, 1 << 20
#: Bytes at the end of what was read that are compared, to see that a file was written again.
_TAIL = 256
#: Seconds between two looks at an HDF5 file.
_PAUSE = 0.05
#: Seconds without positions after which that is logged.
_PATIENCE = 2.0
_LARGEST_INDEX = 1 << 40
_SCAN, _LABELS = "#S ", "#L"

_log = logging.getLogger(__name__)

#: Frame index, y, x.
Indexed = list[tuple[int, float, float]]


class TablePositions:
    """Positions of a growing table.

    A text table has columns of y and x and perhaps one of frame indexes, found as for finished tables
    (:mod:`ptychopinn.io.positions_table`); without indexes, rows are counted from 0. Its last line waits for its
    end. Of a SPEC file, the scan that the options name is read, or each one as it begins.

    Args:
        path: of a text file, or of an HDF5 file with the key of the positions after a colon, `FILE.h5:KEY` for (n, 2)
            with columns y and x, `FILE.h5:KEY_Y,KEY_X` for two data sets; `FILE.h5` alone is searched by its format.
        unit: of the positions, "m" or "px". Metres are converted from the unit that the table states; object pixels
            have none there.
        options: from the caller; `position_columns`, `position_unit` and `position_scan`.
        first: index in the table of the frame 0.

    Raises:
        InputError: the unit is not one of these.
    """

    def __init__(
        self, path: str | Path, unit: str = "m", options: ReadOptions | None = None, *, first: int = 0
    ) -> None:
        if unit not in POSITION_UNITS:
            raise InputError(f"{path}: expected the unit of positions, one of m, px, found {unit!r}; state another")
        self.address, self.unit = str(path), unit
        options = options or ReadOptions()
        name, colon, key = self.address.rpartition(":")
        if colon and Path(name).suffix.lower() in HDF5_SUFFIXES:
            self._table: _Text | _Hdf5 = _Hdf5(Path(name), key, unit)
        elif Path(path).suffix.lower() in HDF5_SUFFIXES:
            self._table = _Hdf5(Path(path), None, unit)
        else:
            self._table = _Text(Path(path), unit, options)
        self._first = first

    def read(self) -> Indexed:
        """What has come since the last call, or has changed: frame index, y, x.

        Raises:
            InputError: the columns of the table, or the keys of the file, are none of positions.
        """
        return [(index - self._first, y, x) for index, y, x in self._table.read() if index >= self._first]

    def close(self) -> None:
        """Do nothing: no file is open between two calls."""


class _Text:
    """A text table, read from where it was read before."""

    def __init__(self, path: Path, unit: str, options: ReadOptions) -> None:
        self._path, self._unit, self._options = path, unit, options
        self._known: dict[int, tuple[float, float]] = {}
        self._warned = False
        self._state: tuple[int, int, int] | None = None
        self._restart()

    def _restart(self) -> None:
        """Read the file from its beginning."""
        self._offset, self._tail, self._number = 0, b"", 0
        self._is_spec = False
        self._begin_rows()

    def _begin_rows(self) -> None:
        """Count rows from 0, of columns that are not known yet."""
        self._head: list[Line] = []
        self._columns: Columns | None = None
        self._sample = ""
        self._rows = 0
        self._skipped = False

    def read(self) -> Indexed:
        try:
            status = self._path.stat()
        except OSError:
            return []
        state = status.st_ino, status.st_size, status.st_mtime_ns
        if state == self._state and self._offset >= status.st_size:
            return []
        lines = self._new_lines(state)
        self._state = state
        found: dict[int, tuple[float, float]] = {}  # of a repeated row, the last one counts
        for line in lines:
            self._number += 1
            text = line.strip()
            if text:
                found |= {index: (y, x) for index, y, x in self._of_line(Line(self._number, text))}
        found = {index: position for index, position in found.items() if self._known.get(index) != position}
        self._known |= found
        return [(index, y, x) for index, (y, x) in found.items()]

    def _new_lines(self, state: tuple[int, int, int]) -> list[str]:
        """Lines that are complete and were not read before."""
        try:
            with self._path.open("rb") as file:
                if self._state is not None and state != self._state:
                    file.seek(self._offset - len(self._tail))
                    again = state[0] != self._state[0] or file.read(len(self._tail)) != self._tail
                    if again or state[1] <= self._state[1]:  # written again, perhaps with the same number of bytes
                        self._restart()
                file.seek(self._offset)
                data = file.read(_MOST_BYTES)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) > _LONGEST:
            raise InputError(
                f"{self._path}: expected a table of positions, found a line of more than {_LONGEST >> 20} MiB; "
                "state another with --positions"
            )
        data = data[:end]
        self._tail = (self._tail + data)[-_TAIL:]
        self._offset += end
        try:
            return data.decode("utf-8-sig" if self._number == 0 else "utf-8").split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._path}: expected a table of positions y, x, found no text ({error}); export it as CSV"
            ) from error

    def _of_line(self, line: Line) -> Indexed:
        """The position of a line, and those of lines before it that waited for the columns."""
        if line.text.startswith(_SCAN):
            self._begin_rows()
            self._is_spec = True
            wanted = self._options.position_scan
            self._skipped = wanted is not None and line.text.split()[1:2] != [str(wanted)]
        if self._skipped or (self._columns is not None and line.text.startswith(("#", "%", "//", "@"))):
            return []
        if self._columns is not None:
            return self._of_row((line, cells_like(line.text, self._sample)))
        self._head.append(line)
        if sum(len(line.text) for line in self._head) > _LONGEST:
            raise InputError(
                f"{self._path}: expected rows of positions, found none in {len(self._head)} lines; state another table"
            )
        if line.text.startswith(("#", "%", "//", "@")):
            return []
        names, rows = split_spec(self._head) if self._is_spec else split_table(self._path, self._head)
        if not rows:
            return []
        self._columns = columns_of(self._path, names, len(rows[0][1]), self._options)
        if self._unit == "px" and self._columns.factors != (1.0, 1.0):
            raise InputError(
                f"{self._path}: expected positions in object pixels, as stated, found a unit of length in its header; "
                "state the unit m"
            )
        self._sample = "" if self._is_spec else rows[0][0].text
        return [one for row in rows for one in self._of_row(row)]

    def _of_row(self, row: Row) -> Indexed:
        assert self._columns is not None
        values = values_of(self._columns, row[1])
        number, self._rows = self._rows, self._rows + 1
        if values is None:
            self._warn(row)
            return []
        y, x, index = values
        if self._columns.indexes is None:
            index = float(number)
        elif not (index.is_integer() and 0 <= index < _LARGEST_INDEX):
            self._warn(row)
            return []
        return [(int(index), y * self._columns.factors[0], x * self._columns.factors[1])]

    def _warn(self, row: Row) -> None:
        """Log the first row that is no position."""
        if not self._warned and "nan" not in row[0].text.lower():
            self._warned = True
            line, text = row[0].number, row[0].text[:60]
            _log.warning("%s: line %d: expected a position, found %r; it is ignored", self._path, line, text)


class _Hdf5:
    """Positions in an HDF5 file, which is read again as long as it may grow."""

    def __init__(self, path: Path, key: str | None, unit: str) -> None:
        self._path, self._key, self._unit = path, key, unit
        self._known: NDArray[np.float64] = np.empty((0, 2))
        self._last = -np.inf
        self._failing: float | None = None
        self._warned = False

    def read(self) -> Indexed:
        now = time.monotonic()
        if now - self._last < _PAUSE or not self._path.is_file():
            return []
        self._last = now
        try:
            file = GrowingFile(self._path)
        except InputError as error:  # for a moment, or until the writer closes it
            return self._not_read(error)
        try:
            keys = find_positions(file, self._key)
            positions = read_positions(file, keys)
        except DAMAGED as error:
            if isinstance(error, InputError) and file.closed:
                raise
            return self._not_read(error)
        finally:
            file.close()
        self._failing = None
        if keys.unit != self._unit:
            raise InputError(
                f"{self._path}: expected positions in {self._unit}, as stated, found the unit {keys.unit}; state that"
            )
        before = np.full_like(positions, np.nan)
        before[: len(self._known)] = self._known[: len(positions)]
        changed = np.isfinite(positions).all(axis=1) & (positions != before).any(axis=1)
        self._known = positions
        return [(int(k), *positions[k].tolist()) for k in changed.nonzero()[0]]

    def _not_read(self, error: Exception) -> Indexed:
        """Log once that there have been no positions for a time."""
        now = time.monotonic()
        self._failing = self._failing or now
        if not self._warned and now - self._failing > _PATIENCE:
            self._warned = True
            _log.warning("%s; positions are waited for", error)
        return []
