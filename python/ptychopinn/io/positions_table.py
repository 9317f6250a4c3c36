# SPDX-License-Identifier: BSD-3-Clause
"""Positions from a table in a text file: CSV, columns between blanks, or a scan of a SPEC file.

Columns are found by their names in the header (the first line, or the last comment before the data), by what the
caller states, or are the first two, y and x. Units are in the names, or stated; otherwise they are metres.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.options import LENGTHS, ReadOptions

_LARGEST = 1 << 30
_COMMENTS = ("#", "%", "//")
_INDEX_NAMES = {"index", "idx", "frame", "frame_index", "frame_number", "pattern"}
_UNITS = {name.lower(): factor for name, factor in LENGTHS.items()}
_UNITS |= {"micron": 1e-6, "microns": 1e-6, "µm": 1e-6, "μm": 1e-6, "metre": 1.0, "meter": 1.0, "metres": 1.0}
_UNITS |= {"meters": 1.0, "angstrom": 1e-10, "å": 1e-10}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_UNIT = re.compile(r"^(.*?)(?:[\[(]\s*([^\])]*?)\s*[\])]|_([^\W_]+))$")
_STATE = "state position_columns= (--position-columns Y,X)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Table:
    """Positions of a table.

    Args:
        world: (n, 2) float64 (y, x) in metres.
        indexes: (n,) frame index of each row; None if the table has none.
    """

    world: NDArray[np.float64]
    indexes: NDArray[np.int64] | None = None


class Line(NamedTuple):
    """A line of a table: its number from 1, and its text without blanks around it."""

    number: int
    text: str


#: A line of numbers, and its cells.
Row = tuple[Line, list[str]]


class Columns(NamedTuple):
    """Which columns of a table are read.

    Attributes:
        positions: numbers of the columns y and x.
        indexes: of the column of frame indexes; None if there is none.
        factors: of y and x, to metres.
    """

    positions: tuple[int, int]
    indexes: int | None
    factors: tuple[float, float]


def read_positions(path: Path, options: ReadOptions | None = None) -> Table:
    """Read positions from a table.

    Args:
        path: text; lines that begin with #, % or // are comments.
        options: from the caller; `position_columns`, `position_unit` and `position_scan`.

    Raises:
        InputError: the file is not such a table; the error names the line.
    """
    options = options or ReadOptions()
    if not path.exists():
        raise not_found(path)
    if not path.is_file() or not 0 < path.stat().st_size < _LARGEST:
        found = "a folder" if path.is_dir() else f"{path.stat().st_size} bytes"
        raise InputError(
            f"{path}: expected a table of positions y, x in metres, found {found}; state another with --positions"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a table of positions y, x in metres, found no text ({error}); export it as CSV"
        ) from error
    lines = [Line(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if any(line.text.startswith("#S ") for line in lines):
        names, rows = _of_spec(path, lines, options.position_scan)
    else:
        if options.position_scan is not None:
            raise InputError(
                f"{path}: expected a SPEC file with scans (#S) for position_scan=, found none; omit --position-scan"
            )
        names, rows = split_table(path, lines)
    if not rows:
        raise InputError(
            f"{path}: expected positions y, x in metres, found a table without rows; state another with --positions"
        )
    return _table(path, names, rows, options)


def _of_spec(path: Path, lines: list[Line], scan: int | None) -> tuple[list[str] | None, list[Row]]:
    """Labels and rows of one scan of a SPEC file."""
    scans: dict[str, list[Line]] = {}
    here: list[Line] | None = None
    for line in lines:
        if line.text.startswith("#S "):
            here = scans.setdefault(line.text.split()[1], [])
        elif here is not None:
            here.append(line)
    name = next(iter(scans)) if scan is None else str(scan)
    if name not in scans:
        raise InputError(
            f"{path}: expected the scan that position_scan= (--position-scan) names, one of {', '.join(scans)}, "
            f"found no {name}"
        )
    if scan is None and len(scans) > 1:
        _log.warning("%s: the first of %d scans is read, #S %s; state position_scan=", path, len(scans), name)
    return split_spec(scans[name])


def split_spec(lines: Sequence[Line]) -> tuple[list[str] | None, list[Row]]:
    """Labels and rows of the lines of one scan of a SPEC file; no labels without a line #L."""
    labels = [line.text[2:].strip() for line in lines if line.text.startswith("#L")]
    data = [line for line in lines if not line.text.startswith(("#", "@"))]
    return (re.split(r"\s{2,}|\t", labels[-1]) if labels else None), [(line, line.text.split()) for line in data]


def split_table(path: Path, lines: list[Line]) -> tuple[list[str] | None, list[Row]]:
    """Names of the columns, if there are any, and the rows.

    Raises:
        InputError: numbers have decimal commas.
    """
    comment: str | None = None
    body: list[Line] = []
    for line in lines:
        if not line.text.startswith(_COMMENTS):
            body.append(line)
        elif not body:
            comment = line.text.lstrip("#%/").strip()
    if not body:
        return None, []
    first = body[0]
    sample = body[1] if len(body) > 1 and not _is_number(_cells(first.text, _separator(first.text))[0]) else first
    separator = _separator(sample.text)
    _refuse_decimal_commas(path, sample, separator)
    rows = [(line, _cells(line.text, separator)) for line in body]
    width = len(_cells(sample.text, separator))
    if sample is not first or not _is_number(rows[0][1][0]):
        return _names(first.text, separator), rows[1:]
    names = None if comment is None else _names(comment.removeprefix("L "), separator)
    return names if names is not None and len(names) == width else None, rows


def _refuse_decimal_commas(path: Path, line: Line, separator: str | None) -> None:
    cells = line.text.split() if separator == "," else _cells(line.text, separator)
    if (separator != "," or len(cells) > 1) and any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells):
        raise InputError(
            f"{path}: line {line.number}: expected numbers with a decimal point, found decimal commas, "
            f"{line.text[:60]!r}; replace them by points, or export the table again"
        )


def _separator(line: str) -> str | None:
    """The character between columns; None for blanks."""
    return next((separator for separator in ("\t", ";", ",") if separator in line), None)


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip() for cell in line.split(separator)]


def _names(header: str, separator: str | None) -> list[str]:
    """Names of a header; a unit in brackets belongs to the name before it."""
    header = re.sub(r"\s+([\[(])", r"\1", header)
    if separator is None or separator not in header:
        separator = _separator(header)
    if separator is None and re.search(r"\S\s{2,}\S", header):
        return re.split(r"\s{2,}", header)
    return _cells(header, separator)


def _table(path: Path, names: list[str] | None, rows: Sequence[Row], options: ReadOptions) -> Table:
    columns = columns_of(path, names, len(rows[0][1]), options)
    values = np.empty((len(rows), 3))
    for k, (line, cells) in enumerate(rows):
        row = values_of(columns, cells)
        if row is None:
            expected = "finite metres y, x" if options.position_columns is None else "finite numbers in the columns"
            raise InputError(f"{path}: line {line.number}: expected {expected}, found {line.text[:60]!r}; {_STATE}")
        values[k] = row
    world = np.ascontiguousarray(values[:, :2] * columns.factors)
    if columns.indexes is None:
        return Table(world)
    indexes = values[:, 2].astype(np.int64)
    if not np.array_equal(indexes, values[:, 2]) or len(np.unique(indexes)) < len(indexes):
        found = "fractions or indexes that repeat"
        raise InputError(
            f"{path}: expected integer frame indexes, each once, in column {columns.indexes}, found {found}; "
            "name the columns with --position-columns"
        )
    return Table(world, indexes)


def columns_of(path: Path, names: list[str] | None, width: int, options: ReadOptions) -> Columns:
    """Find the columns of a table.

    Args:
        path: for errors.
        names: of the columns, if there are any.
        width: number of columns.
        options: from the caller; `position_columns` and `position_unit`.

    Raises:
        InputError: the names leave a choice, or a unit is no length.
    """
    y, x = _columns(path, names, width, options)
    factors = [_factor(path, None if names is None else names[column], options) for column in (y, x)]
    return Columns((y, x), _index_column(names, width, (y, x)), (factors[0], factors[1]))


def values_of(columns: Columns, cells: Sequence[str]) -> tuple[float, float, float] | None:
    """The numbers y and x in a row, as written, and its index (0 without one); None unless all are finite numbers."""
    chosen = [*columns.positions, columns.positions[0] if columns.indexes is None else columns.indexes]
    if len(cells) <= max(chosen) or not all(_is_number(cells[column]) for column in chosen):
        return None
    y, x, index = (float(cells[column]) for column in chosen)
    return y, x, 0.0 if columns.indexes is None else index


def cells_like(line: str, sample: str) -> list[str]:
    """Cells of a line, which is separated like another one."""
    return _cells(line, _separator(sample))


def _columns(path: Path, names: list[str] | None, width: int, options: ReadOptions) -> tuple[int, int]:
    """Columns of y and x."""
    known = [] if names is None else [_base(name).lower() for name in names]
    listed = f"{width} columns" + (f" named {', '.join(names)}" if names else " without names")
    if options.position_columns is not None:
        found = []
        for column in options.position_columns:
            text = str(column)
            full = [name.lower() for name in names or []]
            if text.isdigit() and int(text) < width:
                found.append(int(text))
            elif text.lower() in full or text.lower() in known:
                found.append((full if text.lower() in full else known).index(text.lower()))
            else:
                raise InputError(f"{path}: expected a column {text!r} for the positions, found {listed}; {_STATE}")
        return found[0], found[1]
    if width < 2:
        raise InputError(f"{path}: expected columns y and x in metres, found {listed}; {_STATE}")
    pairs = [(y, x) for y, x in _pairs(known) if y < width and x < width]
    if len(pairs) == 1:
        return pairs[0]
    first = [name[:1] for name in known]
    if first.count("y") == 1 and first.count("x") == 1:
        return first.index("y"), first.index("x")
    if pairs or (names is not None and width > 2):
        raise InputError(f"{path}: expected one column of y and one of x, found {listed}; {_STATE}")
    return (0, 1) if names is None or width == 2 else pairs[0]


def _pairs(names: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of columns whose names differ in a letter only, which is y in one and x in the other: samy and samx."""
    for i, y in enumerate(names):
        for k, letter in enumerate(y):
            if letter == "y" and (x := f"{y[:k]}x{y[k + 1 :]}") in names:
                yield i, names.index(x)


def _index_column(names: list[str] | None, width: int, columns: tuple[int, int]) -> int | None:
    """The column of frame indexes: by its name."""
    for column, name in enumerate(names or []):
        if _base(name).lower() in _INDEX_NAMES and column not in columns and column < width:
            return column
    return None


def _factor(path: Path, name: str | None, options: ReadOptions) -> float:
    """Metres of the unit of a column."""
    if options.position_unit is not None:
        return LENGTHS[options.position_unit]
    match = None if name is None else _UNIT.match(name)
    if match is None:
        return 1.0
    bracket, word = match[2], match[3]
    if bracket is not None and bracket.lower() not in _UNITS:
        raise InputError(
            f"{path}: expected a length as the unit of column {name!r}, one of {', '.join(LENGTHS)}, found "
            f"{bracket!r}; state position_unit= (--position-unit)"
        )
    return _UNITS[bracket.lower()] if bracket is not None else _UNITS.get(word.lower(), 1.0)


def _base(name: str) -> str:
    """The name of a column without its unit."""
    match = _UNIT.match(name)
    if match is None or (match[2] is None and match[3].lower() not in _UNITS):
        return name.strip()
    return match[1].strip()


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
