# SPDX-License-Identifier: BSD-3-Clause
"""Arrays that a caller states as an array, a number, or a file: `.npy`, `.npz`, `FILE.npz:KEY` or `FILE.h5:PATH`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.candidates import data_sets
from ptychopinn.io.hdf5 import Hdf5

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def split_path(stated: str | Path) -> tuple[Path, str | None]:
    """The file and the path in it of ``FILE:PATH``; the file alone has None."""
    if not Path(stated).exists() and ":" in str(stated):
        file, _, inside = str(stated).rpartition(":")
        if Path(file).is_file():
            return Path(file), inside
    return Path(stated), None


def read_array(stated: Any, name: str, option: str) -> tuple[str, NDArray[np.float64]]:
    """Real numbers that a caller states.

    Args:
        stated: an array, a number, the text of a number, or a file; of an HDF5 or NPZ file with several arrays the path
            in it is needed.
        name: of the argument, for errors.
        option: of the command line, for errors.

    Returns:
        Where the numbers come from, for errors; and float64 of any shape.

    Raises:
        InputError: the file is not found, has no or several arrays, or the values are no finite real numbers.
    """
    where, values = name, stated
    if isinstance(stated, str | Path):
        try:
            values = float(str(stated))
        except ValueError:
            where, values = _of_file(stated, option)
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not array.size:
        raise InputError(f"{where}: expected real numbers, found {array.dtype}; state others with {option}")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: expected finite values, found others; state others with {option}")
    return where, array.astype(np.float64)


def is_hdf5(path: Path, content: str, option: str) -> bool:
    """Whether a file is HDF5, by its first bytes; InputError if there is no such file."""
    if not path.exists():
        raise not_found(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of {content}, found a folder; name a file with {option}")
    with path.open("rb") as opened:
        return opened.read(8) == _HDF5_MAGIC


def _of_file(stated: str | Path, option: str) -> tuple[str, NDArray[Any]]:
    path, key = split_path(stated)
    if is_hdf5(path, "an array", option):
        with Hdf5(path, "an HDF5 file of an array") as file:
            arrays = data_sets(file, lambda node: node.dtype.kind in "iuf" and len(node.shape or ()) >= 1)
            key = _only(path, key, [*arrays, *([key] if key and file.is_array(key) else [])], option)
            return f"{path}: key '{key}'", file.numeric(key, "iuf")
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                key = _only(path, key, list(archive.files), option)
                return f"{path}: key '{key}'", archive[key]
        return str(path), np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected an .npy, .npz or HDF5 file of an array, found another or a damaged file; numpy.save "
            f"writes one for {option}"
        ) from error


def _only(path: Path, key: str | None, names: list[str], option: str) -> str:
    """The stated key, or the only one there is."""
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        listed = ", ".join(names[:8]) or "none"
        raise InputError(
            f"{path}: expected {'one array' if key is None else f'the array {key}'}, found {listed}; state FILE:PATH "
            f"({option} FILE:PATH)"
        )
    return key
