# SPDX-License-Identifier: BSD-3-Clause
"""Plain arrays: patterns in `.npy`, or in an HDF5 file with one data set of three axes, and positions in CSV.

The CSV has columns y, x in metres, as in ptychodus; a header can state another order. Energy, distance and pixel sizes
are options of the caller. Probe and bad pixels can be `.npy` files in the same folder.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.build import Contents, assemble, bad_pixels_of
from ptychopinn.io.candidates import candidates, choices, patterns_key
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import HDF5_SUFFIXES, Content, content_of
from ptychopinn.scan import Scan

_LARGEST_CSV = 1 << 30


def read_arrays(path: Path, options: ReadOptions) -> Scan:
    """Read patterns from an array, and positions from a CSV file in the same folder.

    Args:
        path: `.npy` of shape (n, N, N), or an HDF5 file with one data set of three axes. The folder has
            `positions.csv`, and optionally `probe.npy` and `bad_pixels.npy`; see :func:`beside` for other names.
        options: from the caller; energy, distance and detector pixel size, or the object pixel size, are required.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    world = stated_positions(path, options)
    if content_of(path).kind != "hdf5" and path.suffix.lower() not in HDF5_SUFFIXES:
        file = _Arrays(path)
        patterns = file.check("patterns", file.array("patterns"), "iuf", ndim=3, finite=False)
        if patterns.shape[1] != patterns.shape[2] or not patterns.size:
            file.fail("patterns", "square patterns, (n, N, N)", f"shape {patterns.shape}")
        return _assemble(file, "patterns", patterns, world, path, options)
    with Hdf5(path) as hdf5:
        key = _only_cube(hdf5) if options.patterns is None else patterns_key(hdf5, options)
        return _assemble(hdf5, key, Frames(hdf5, [key]), world, path, options)


def stated_positions(path: Path, options: ReadOptions) -> NDArray[np.float64]:
    """Positions (n, 2), (y, x) in metres, from the CSV file that the caller states, or the one in the same folder.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    table = Path(options.positions) if options.positions is not None else beside(path, "positions", ".csv")
    if table is None:
        raise InputError(
            f"{path}: expected the positions of its patterns beside it, found no {path.with_name('positions.csv')}; "
            "state positions= (--positions)"
        )
    return read_positions(table)


def beside(path: Path, what: str, suffix: str) -> Path | None:
    """Find the file of positions, probe or bad pixels for patterns at `path`.

    Names in order: that of the patterns with "patterns" replaced by `what`, the stem with `_what`, and `what`.

    Args:
        path: of the patterns.
        what: "positions", "probe" or "bad_pixels".
        suffix: of the file, with the dot.

    Returns:
        The path, None if there is no such file.
    """
    names = [f"{path.stem}_{what}", what]
    if "patterns" in path.stem:
        names.insert(0, path.stem.replace("patterns", what))
    found = (path.with_name(name + suffix) for name in names)
    return next((name for name in found if name.is_file()), None)


def read_positions(path: Path) -> NDArray[np.float64]:
    """Read positions from a CSV file.

    Lines that begin with # are comments. A first line of words is a header; if two of its words begin with y and x,
    they name the columns. Otherwise the first column is y and the second x.

    Args:
        path: the CSV file.

    Returns:
        (n, 2) float64 (y, x) in metres.

    Raises:
        InputError: the file is not such a table; the error names the line.
    """
    if not path.exists():
        raise not_found(path)
    if not path.is_file() or not 0 < path.stat().st_size < _LARGEST_CSV:
        found = "a folder" if path.is_dir() else f"{path.stat().st_size} bytes"
        raise InputError(f"{path}: expected a CSV file of positions y, x in metres, found {found}")
    rows: list[tuple[float, float]] = []
    columns = (0, 1)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or cells[0].startswith("#"):
                    continue
                if not rows and number == 1 and not _is_number(cells[0]):
                    columns = _columns(cells)
                    continue
                if len(cells) < 2 or not all(_is_number(cells[column]) for column in columns):
                    raise InputError(
                        f"{path}: line {number}: expected finite metres y, x, found {','.join(row)[:60]!r}"
                    )
                rows.append((float(cells[columns[0]]), float(cells[columns[1]])))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file of positions y, x in metres, found no text ({error})") from error
    if not rows:
        raise InputError(f"{path}: expected positions y, x in metres, found a table without rows")
    return np.asarray(rows, np.float64)


class _Arrays(OpenFile):
    """An `.npy` file as an open file; every key is its array."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "an .npy file")
        with path.open("rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # NumPy treats any other file as a pickle
                raise InputError(f"{path}: expected an .npy file, found no array")
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            found = "Python objects (pickle), which are never loaded" if "object" in str(error) else "a damaged one"
            raise InputError(f"{path}: expected an .npy file of numbers, found {found}") from error

    def has(self, key: str) -> bool:
        return True

    def array(self, key: str) -> NDArray[Any]:
        array: NDArray[Any] = self._array  # a memory map: patterns can stay on disk
        return array


def _assemble(
    file: OpenFile, key: str, patterns: Any, world: NDArray[np.float64], path: Path, options: ReadOptions
) -> Scan:
    size = patterns.shape[-1]
    probe = None if options.probe is not None else beside(path, "probe", ".npy")
    mask = beside(path, "bad_pixels", ".npy")
    contents = Contents(
        file=file,
        key=key,
        patterns=patterns,
        world=world,
        probe=None if probe is None else stacked(*_of(probe), size),
        bad_pixels=None if mask is None else bad_pixels_of(_Arrays(mask), "bad_pixels", size),
    )
    return assemble(contents, options)


def _of(path: Path) -> tuple[OpenFile, str, NDArray[Any]]:
    file = _Arrays(path)
    return file, "probe", file.numeric("probe", "iufc")


def _only_cube(file: Hdf5) -> str:
    """The path of the one data set of three axes, else of four."""
    for axes in (3, 4):
        cubes = list(candidates(file, (axes,)))
        if len(cubes) == 1:
            return cubes[0]
        if cubes:
            break
    found = ", ".join(cubes[:8]) or "none"
    raise InputError(f"{file.path}: expected one data set of three axes, found {found}; {choices(file)}")


def _columns(header: list[str]) -> tuple[int, int]:
    names = [cell.lower()[:1] for cell in header]
    return (names.index("y"), names.index("x")) if "y" in names and "x" in names else (0, 1)


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _is_arrays(content: Content) -> bool:
    """Patterns that no other format recognises, with positions in the same folder if they are in HDF5."""
    if content.kind == "hdf5":
        return beside(content.path, "positions", ".csv") is not None
    return content.kind == "npy" and content.path.suffix.lower() == ".npy"


register(
    Format(
        "arrays",
        "patterns in .npy or .h5 with positions.csv",
        (".npy",),
        _is_arrays,
        read_arrays,
        takes=("positions", "patterns"),
        last_resort=True,
        order=80,
    )
)
