# SPDX-License-Identifier: BSD-3-Clause
"""TIFF stacks: a file of several pages, or a folder of files with a frame each, read with tifffile.

Files of a folder are in natural order, frame 2 before frame 10. Positions, probe and bad pixels are found as for plain
arrays (:mod:`ptychopinn.io.formats.arrays`), beside the file, or in the folder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.counts import RawPatterns
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.formats.arrays import TABLES, assemble_arrays, beside, flattened
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.scan import Scan
from ptychopinn.storage.blocks import FlatFile
from ptychopinn.storage.stored import StoredPatterns, left_on_disk

SUFFIXES = (".tif", ".tiff")
_KEY = "pages"


def read_tiff(path: Path, options: ReadOptions) -> Scan:
    """Read patterns from a TIFF stack, or from a folder of TIFF files.

    Args:
        path: pages of grey values, integers or float32; three axes, or four of a raster as ImageJ writes it. Or a
            folder of such files, with a frame in each.
        options: from the caller, as for plain arrays.

    Raises:
        InputError: tifffile is not installed, or the files cannot be used.
    """
    if not path.exists():
        raise not_found(path)
    if path.is_dir():
        frames = _Folder(path)
        inside = path / "patterns"  # names beside it are those in the folder
        holder = inside if any(beside(inside, "positions", suffix) for suffix in TABLES) else path
        return assemble_arrays(_File(frames.names[0]), _KEY, frames, None, holder, options)
    file = _File(path)
    patterns: RawPatterns | None = left_on_disk(lambda: _contiguous(path), path, options.memory)
    raster = None
    if patterns is None:
        patterns, raster = flattened(file, _KEY, file.numeric(_KEY, "iuf", finite=False))
    return assemble_arrays(file, _KEY, patterns, raster, path, options)


def natural_order(names: list[Path]) -> list[Path]:
    """Paths in the order of the numbers in their names: img_2 before img_10."""
    return sorted(
        names,
        key=lambda path: [
            (len(part.lstrip("0")), part.lstrip("0")) if part.isdigit() else (0, part.lower())
            for part in re.split(r"(\d+)", path.name)
        ],
    )


class _File(OpenFile):
    """A TIFF file as an open file with one key."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a TIFF file")

    def has(self, key: str) -> bool:
        return True

    def array(self, key: str) -> NDArray[Any]:
        with opened_tiff(self.path) as tiff:
            series = only_series(self.path, tiff)
            self.check_memory(key, series.shape, series.dtype)
            array: NDArray[Any] = series.asarray()
        return array[np.newaxis] if array.ndim == 2 else array


class _Folder:
    """Frames (n, h, w), each in a file of its own."""

    def __init__(self, path: Path) -> None:
        found = [name for name in path.iterdir() if name.suffix.lower() in SUFFIXES and name.is_file()]
        self.names = natural_order(found)
        if not self.names:
            raise InputError(
                f"{path}: expected a folder of TIFF files, found none with the suffix .tif or .tiff; "
                "name another folder, or --format"
            )
        first = self._read(self.names[0])
        self.shape, self.dtype = (len(self.names), *first.shape), first.dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        names = self.names[part]
        block = np.empty((len(names), *self.shape[1:]), self.dtype)
        for k, name in enumerate(names):
            frame = self._read(name)
            if frame.shape != self.shape[1:] or frame.dtype != self.dtype:
                raise InputError(
                    f"{name}: expected a frame like {self.names[0].name}, {self.dtype} of shape {self.shape[1:]}, "
                    f"found {frame.dtype} of shape {frame.shape}; move other images out of the folder"
                )
            block[k] = frame
        return block

    def take(self, rows: NDArray[np.int64]) -> _Folder:
        """The frames with these indexes, in this order."""
        made = object.__new__(_Folder)
        made.names = [self.names[row] for row in rows]
        made.shape, made.dtype = (len(made.names), *self.shape[1:]), self.dtype
        return made

    @staticmethod
    def _read(name: Path) -> NDArray[Any]:
        array = _File(name).numeric(_KEY, "iuf", finite=False)
        if len(array) != 1 or array.ndim != 3:
            raise InputError(
                f"{name}: expected one frame, as in a folder of TIFF files, found shape {array.shape}; name the file "
                "of a stack itself"
            )
        frame: NDArray[Any] = array[0]
        return frame


@contextmanager
def opened_tiff(path: Path) -> Iterator[Any]:
    """An open TIFF file of tifffile, whose errors are InputErrors."""
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        raise InputError(f"{path}: expected tifffile to read TIFF files, found none; pip install tifffile") from None
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except InputError:
        raise
    except Exception as error:  # of any type: tifffile, its codecs and zlib have their own
        reason = " ".join(str(error).split())
        way = "pip install imagecodecs" if "imagecodecs" in reason else "copy or export the file again"
        raise InputError(f"{path}: expected an intact TIFF file, found a damaged one ({reason}); {way}") from error


def only_series(path: Path, tiff: Any) -> Any:
    """The only series of pages, of grey values."""
    series = [one for one in tiff.series if one.shape]
    if len(series) != 1:
        listed = ", ".join(f"{one.dtype} {tuple(one.shape)}" for one in series[:4])
        raise InputError(f"{path}: expected pages of one shape and type, found {listed or 'none'}; export them again")
    if "S" in series[0].axes or series[0].dtype is None:
        raise InputError(
            f"{path}: expected grey values, found colour, axes {series[0].axes}; export the counts of the detector"
        )
    return series[0]


def _contiguous(path: Path) -> StoredPatterns:
    """Pages that are one array in the file, so that they can stay on disk."""
    with opened_tiff(path) as tiff:
        series = only_series(path, tiff)
        if series.dataoffset is None or len(series.shape) not in (3, 4):
            raise InputError(
                f"{path}: expected uncompressed pages one after the other, which can stay on disk, found others; use "
                'memory="load"'
            )
        shape = (int(np.prod(series.shape[:-2])), *(int(side) for side in series.shape[-2:]))
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        return StoredPatterns(FlatFile(path, int(series.dataoffset), (shape[0], shape[1], shape[2]), dtype))


def _is_tiff(content: Content) -> bool:
    if content.kind == "folder":
        return any(Path(name).suffix.lower() in SUFFIXES for name in content.names)
    return content.kind == "tiff"


register(
    Format(
        "tiff",
        "TIFF stacks, or folders of TIFF files, with a table of positions",
        SUFFIXES,
        _is_tiff,
        read_tiff,
        takes=("positions",),
        order=76,
    )
)
