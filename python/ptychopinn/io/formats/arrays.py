# SPDX-License-Identifier: BSD-3-Clause
"""Plain arrays: patterns in `.npy`, or in an HDF5 file with one data set of three axes, or four of a raster.

Positions are in a table (:mod:`ptychopinn.io.positions_table`), or those of a raster that the caller states. Energy,
distance and pixel sizes are options of the caller. Probe and bad pixels can be `.npy` files in the same folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.build import Contents, assemble, bad_pixels_of
from ptychopinn.io.candidates import candidates, choices, patterns_key
from ptychopinn.io.counts import RawPatterns
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import HDF5_SUFFIXES, Content, content_of
from ptychopinn.scan import Scan

#: Suffixes of tables of positions, the first found is used.
TABLES = (".csv", ".txt", ".dat", ".tsv", ".spec")


def read_arrays(path: Path, options: ReadOptions) -> Scan:
    """Read patterns from an array, and positions from a table in the same folder.

    Args:
        path: `.npy` of shape (n, h, w) or (rows, columns, h, w), or an HDF5 file with one data set of such a shape. The
            folder has `positions.csv`, unless positions are stated, and optionally `probe.npy` and `bad_pixels.npy`;
            see :func:`beside` for other names.
        options: from the caller; energy, distance and detector pixel size, or the object pixel size, are required.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    if content_of(path).kind != "hdf5" and path.suffix.lower() not in HDF5_SUFFIXES:
        file = _Arrays(path)
        patterns = file.check("patterns", file.array("patterns"), "iuf", finite=False)
        return assemble_arrays(file, "patterns", *flattened(file, "patterns", patterns), path, options)
    with Hdf5(path) as hdf5:
        key = only_cube(hdf5) if options.patterns is None else patterns_key(hdf5, options)
        frames = Frames(hdf5, [key])
        return assemble_arrays(hdf5, key, frames, frames.raster, path, options)


def flattened(file: OpenFile, key: str, patterns: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, int] | None]:
    """Patterns (n, h, w) of an array of three axes, or of four, which is a raster, with its rows and columns."""
    if patterns.ndim not in (3, 4) or not patterns.size:
        file.fail(key, "patterns (n, y, x) or (rows, columns, y, x)", f"shape {patterns.shape}")
    if patterns.ndim == 3:
        return patterns, None
    rows, columns = (int(length) for length in patterns.shape[:2])
    return patterns.reshape(rows * columns, *patterns.shape[2:]), (rows, columns)


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


def table_beside(path: Path) -> Path | None:
    """The table of positions for patterns at `path`, see :func:`beside`; None if there is none."""
    return next((found for suffix in TABLES if (found := beside(path, "positions", suffix)) is not None), None)


class _Arrays(OpenFile):
    """An `.npy` file as an open file; every key is its array."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "an .npy file")
        with path.open("rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # NumPy treats any other file as a pickle
                raise InputError(
                    f"{path}: expected an .npy file, found no array; name its format with format= (--format)"
                )
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            found = "Python objects (pickle), which are never loaded" if "object" in str(error) else "a damaged one"
            raise InputError(
                f"{path}: expected an .npy file of numbers, found {found}; save it again with numpy.save"
            ) from error

    def has(self, key: str) -> bool:
        return True

    def array(self, key: str) -> NDArray[Any]:
        array: NDArray[Any] = self._array  # a memory map: patterns can stay on disk
        return array


def assemble_arrays(
    file: OpenFile,
    key: str,
    patterns: RawPatterns,
    raster: tuple[int, int] | None,
    path: Path,
    options: ReadOptions,
) -> Scan:
    """Build a scan from patterns alone, with what is beside them.

    Args:
        file: the open file, for errors.
        key: of the patterns.
        patterns: (n, h, w).
        raster: (rows, columns) if they are in a raster.
        path: the file or folder of the patterns.
        options: from the caller.
    """
    probe = None if options.probe is not None else beside(path, "probe", ".npy")
    mask = beside(path, "bad_pixels", ".npy")
    contents = Contents(
        file=file,
        key=key,
        patterns=patterns,
        table=table_beside(path),
        raster=raster,
        probe=None if probe is None else stacked(*_of(probe)),
        bad_pixels=None if mask is None else bad_pixels_of(_Arrays(mask), "bad_pixels"),
    )
    return assemble(contents, options)


def _of(path: Path) -> tuple[OpenFile, str, NDArray[Any]]:
    file = _Arrays(path)
    return file, "probe", file.numeric("probe", "iufc")


def only_cube(file: Hdf5) -> str:
    """The path of the one data set of three axes, else of four."""
    for axes in (3, 4):
        cubes = list(candidates(file, (axes,)))
        if len(cubes) == 1:
            return cubes[0]
        if cubes:
            break
    found = ", ".join(cubes[:8]) or "none"
    raise InputError(f"{file.path}: expected one data set of three axes, found {found}; {choices(file)}")


def _is_arrays(content: Content) -> bool:
    """Patterns that no other format recognises: one array."""
    if content.kind == "hdf5":
        return len(content.cubes or content.rasters) == 1 or table_beside(content.path) is not None
    return content.kind == "npy" and content.path.suffix.lower() == ".npy"


register(
    Format(
        "arrays",
        "patterns in .npy or .h5 with a table of positions",
        (".npy",),
        _is_arrays,
        read_arrays,
        takes=("positions", "patterns"),
        last_resort=True,
        order=80,
    )
)
