# SPDX-License-Identifier: BSD-3-Clause
"""Files with one frame or a stack of them, as a camera's program leaves them in a folder: NumPy, TIFF and HDF5.

A file may be incomplete, or another than its name promises: sizes are checked before memory is taken.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.candidates import candidates, choices
from ptychopinn.io.formats import npz, tiff
from ptychopinn.io.sniff import HDF5_SUFFIXES
from ptychopinn.storage.checksums import NOT_AN_ARRAY
from ptychopinn.streaming.sources.growing_hdf5 import GrowingFile

#: Bytes of the frames of a file, at most.
_LARGEST_FILE = 1 << 30
#: Pixels along one side of a frame, at least: smaller arrays are positions or scalars.
_SMALLEST = 8


def read_frames(path: Path) -> NDArray[Any]:
    """Frames (n, h, w) of a file, as stored.

    Args:
        path: with one of :data:`SUFFIXES`.

    Raises:
        InputError: it is damaged, incomplete, or has no frames.
        OSError: it cannot be read.
    """
    frames = _READERS[path.suffix.lower()](path)
    if frames.ndim not in (2, 3, 4) or 0 in frames.shape:
        raise InputError(
            f"{path}: expected one frame (h, w) or several (n, h, w), found shape {frames.shape}; move it elsewhere"
        )
    return frames.reshape(-1, *frames.shape[-2:])


def lacks_library(path: Path) -> bool:
    """Whether the library that reads such files is missing."""
    return path.suffix.lower() in tiff.SUFFIXES and importlib.util.find_spec("tifffile") is None


def _npy(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            _check_size(path, shape, dtype)
            here, needed = path.stat().st_size - file.tell(), math.prod(shape) * dtype.itemsize
            if here < needed:
                raise InputError(f"{path}: expected {needed} bytes of frames, found {here}; copy the file again")
        frames: NDArray[Any] = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except NOT_AN_ARRAY as error:
        raise InputError(f"{path}: expected an .npy file, found a damaged one ({error}); save it again") from error
    return frames


def _npz(path: Path) -> NDArray[Any]:
    with npz.Archive(path) as archive:
        found: list[NDArray[Any]] = []
        for key in sorted(archive.keys):
            _check_size(path, (archive._npz.zip.getinfo(f"{key}.npy").file_size,), np.dtype(np.uint8))
            array = archive.array(key)
            if array.ndim in (2, 3) and array.dtype.kind in "biuf" and min(array.shape[-2:]) >= _SMALLEST:
                found.append(array)
    most = max((array.ndim for array in found), default=0)
    found = [array for array in found if array.ndim == most]
    if len(found) != 1:
        listed = ", ".join(str(array.shape) for array in found[:4]) or "none"
        raise InputError(f"{path}: expected one array of frames, found {listed}; save the frames alone")
    return found[0]


def _tiff(path: Path) -> NDArray[Any]:
    with tiff.opened_tiff(path) as file:
        series = tiff.only_series(path, file)
        _check_size(path, series.shape, series.dtype)
        frames: NDArray[Any] = series.asarray()
    return frames


def _hdf5(path: Path) -> NDArray[Any]:
    file = GrowingFile(path)
    try:
        keys = next((found for axes in (3, 4, 2) if (found := list(candidates(file, (axes,))))), [])
        if len(keys) != 1:
            raise InputError(f"{path}: expected one data set of frames, found {len(keys)}; {choices(file)}")
        part = file.part(keys[0])
        _check_size(path, (part.total, *part.shape), part.dtype)
        return part.read(0, part.total).counts
    finally:
        file.close()


def _check_size(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    if dtype.hasobject or not 0 < math.prod(shape) * dtype.itemsize <= _LARGEST_FILE:
        raise InputError(
            f"{path}: expected frames of at most {_LARGEST_FILE >> 20} MiB in a file, found {dtype} of shape "
            f"{tuple(shape)}; write smaller stacks"
        )


_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    ".npy": _npy,
    ".npz": _npz,
    **dict.fromkeys(tiff.SUFFIXES, _tiff),
    **dict.fromkeys(HDF5_SUFFIXES, _hdf5),
}
#: Suffixes of files that are read, in lower case.
SUFFIXES = tuple(_READERS)
