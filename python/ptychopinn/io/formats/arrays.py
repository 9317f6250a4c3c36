# SPDX-License-Identifier: BSD-3-Clause
"""Plain arrays, as a beamline hands them over: patterns in `.npy` (or the one cube of an HDF5 file), positions in CSV.

The CSV has columns y, x in metres, as ptychodus has it; a header may name them in the other order. What a plain array
cannot say (energy, distance, pixels) the caller states. Probe and bad pixels may lie beside as `.npy`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.build import Contents, assemble, bad_pixels_of
from ptychopinn.io.fields import Source
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import HDF5_SUFFIXES, Content, content_of
from ptychopinn.scan import Scan

_LARGEST_CSV = 1 << 30


def read_arrays(path: Path, options: ReadOptions) -> Scan:
    """Read patterns from an array and their positions from the CSV file beside it.

    Args:
        path: `.npy` of shape (n, N, N), or an HDF5 file with one data set of three axes. Beside it, with "patterns" in
            its name replaced or a name of their own: `positions.csv`, and optionally `probe.npy`, `bad_pixels.npy`.
        options: what the caller states; the geometry is needed.

    Raises:
        InputError: one sentence with the file, the key, what was expected and what was found.
    """
    table = Path(options.positions) if options.positions is not None else beside(path, "positions", ".csv")
    if table is None:
        raise InputError(
            f"{path}: expected the positions of its patterns beside it, found no {path.with_name('positions.csv')}; "
            "state positions= (--positions)"
        )
    world = read_positions(table)
    if content_of(path).kind != "hdf5" and path.suffix.lower() not in HDF5_SUFFIXES:
        source = _Arrays(path)
        patterns = source.check("patterns", source.array("patterns"), "iuf", ndim=3, finite=False)
        if patterns.shape[1] != patterns.shape[2] or not patterns.size:
            source.fail("patterns", "square patterns, (n, N, N)", f"shape {patterns.shape}")
        return _assemble(source, "patterns", patterns, world, path, options)
    with Hdf5(path) as file:
        key = _only_cube(path)
        return _assemble(file, key, Frames(file, [key]), world, path, options)


def beside(path: Path, what: str, suffix: str) -> Path | None:
    """The file of `what` that belongs to patterns at `path`, if there is one."""
    names = [f"{path.stem}_{what}", what]
    if "patterns" in path.stem:
        names.insert(0, path.stem.replace("patterns", what))
    found = (path.with_name(name + suffix) for name in names)
    return next((name for name in found if name.is_file()), None)


def read_positions(path: Path) -> NDArray[np.float64]:
    """(n, 2) metres (y, x) from a CSV file.

    Lines that begin with # are left out. A first line of words is a header; where it begins columns with x and y they
    are taken from there, else the first column is y and the second x.

    Raises:
        InputError: the file is no such table; the sentence names the line.
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


class _Arrays(Source):
    """An `.npy` file as a source with one key."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "an .npy file")
        with path.open("rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # NumPy takes any other file for a pickle and words it so
                raise InputError(f"{path}: expected an .npy file, found no array")
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            found = "Python objects (pickle), which are never loaded" if "object" in str(error) else "a damaged one"
            raise InputError(f"{path}: expected an .npy file of numbers, found {found}") from error

    def has(self, key: str) -> bool:
        return True

    def array(self, key: str) -> NDArray[Any]:
        array: NDArray[Any] = self._array  # a memory map: patterns may stay where they are
        return array


def _assemble(
    source: Source, key: str, patterns: Any, world: NDArray[np.float64], path: Path, options: ReadOptions
) -> Scan:
    size = patterns.shape[-1]
    probe = None if options.probe is not None else beside(path, "probe", ".npy")
    mask = beside(path, "bad_pixels", ".npy")
    contents = Contents(
        source=source,
        key=key,
        patterns=patterns,
        world=world,
        probe=None if probe is None else stacked(*_of(probe), size),
        bad_pixels=None if mask is None else bad_pixels_of(_Arrays(mask), "bad_pixels", size),
    )
    return assemble(contents, options)


def _of(path: Path) -> tuple[Source, str, NDArray[Any]]:
    source = _Arrays(path)
    return source, "probe", source.numbers("probe", "iufc")


def _only_cube(path: Path) -> str:
    cubes = content_of(path).cubes
    if len(cubes) != 1:
        found = ", ".join(cubes[:8]) or "none"
        raise InputError(f"{path}: expected one data set of three axes, found {found}")
    return cubes[0]


def _columns(header: list[str]) -> tuple[int, int]:
    names = [cell.lower()[:1] for cell in header]
    return (names.index("y"), names.index("x")) if "y" in names and "x" in names else (0, 1)


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _is_arrays(content: Content) -> bool:
    """An array that has positions beside it and says nothing else."""
    if content.kind == "hdf5":
        return len(content.cubes) == 1 and beside(content.path, "positions", ".csv") is not None
    return content.kind == "npy" and content.path.suffix.lower() == ".npy"


register(
    Format(
        "arrays",
        "patterns in .npy or .h5 with positions.csv",
        (".npy",),
        _is_arrays,
        read_arrays,
        takes=("positions",),
        last_resort=True,
        order=80,
    )
)
