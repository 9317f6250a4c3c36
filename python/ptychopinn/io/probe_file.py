# SPDX-License-Identifier: BSD-3-Clause
"""Probes in files of their own, as the caller states them: `.npy`, `.npz`, or HDF5 of several programs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import positive
from ptychopinn.errors import InputError
from ptychopinn.io.array_files import is_hdf5, split_path
from ptychopinn.io.candidates import data_sets
from ptychopinn.io.hdf5 import Hdf5

_NPZ_KEYS = ("probe", "probeGuess")
#: Where programs have the probe: products of ptychodus and results of this package, CXI.
_HDF5_KEYS = ("probe", "probeGuess", "entry_1/image_1/data", "entry_1/instrument_1/source_1/illumination")
#: Where they have its pixel size: attributes of the file or of the probe, and data sets.
_PIXELS = (("probe", "pixel_width_m"), ("/", "pixel_size"))
_PIXEL_KEYS = ("entry_1/ptychodus/probe_pixel_width_m", "entry_1/ptychopinn/pixel_size", "ptychopinn/pixel_size")


def read_probe_file(stated: str | Path) -> tuple[str, NDArray[Any]]:
    """Read the array of a probe from a file.

    Args:
        stated: an `.npy` file; an `.npz` or HDF5 file that holds a probe, such as a result of this package, a product
            of ptychodus, CXI, or a reconstruction of ptypy (`.ptyr`); or such a file and the path in it, `FILE:PATH`.

    Returns:
        The name of the file and the path, for errors; and the array as stored.

    Raises:
        InputError: the file is not found or damaged, or it is not clear which of its arrays is the probe.
    """
    path, key = split_path(stated)
    if is_hdf5(path, "a probe", "--probe"):
        return _of_hdf5(path, key)
    try:
        if zipfile.is_zipfile(path):
            return _of_npz(path, key)
        return f"{path}", np.load(path, allow_pickle=False)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected an .npy, .npz or HDF5 file of a probe, found another or a damaged file; "
            "np.save writes one for --probe"
        ) from error


def probe_pixel_size(stated: str | Path) -> float | None:
    """Metres per pixel of the probe in a file, as results of this package and products of ptychodus have it.

    Args:
        stated: as for :func:`read_probe_file`, which has read it.
    """
    path, _ = split_path(stated)
    if is_hdf5(path, "a probe", "--probe"):
        with Hdf5(path, "an HDF5 file of a probe") as file:
            found = [file.attribute(*place) for place in _PIXELS if place[0] == "/" or file.has(place[0])]
            found += [file.scalar(key) for key in _PIXEL_KEYS]
            return next((value for value in map(positive, found) if value is not None), None)
    if not zipfile.is_zipfile(path):
        return None
    with np.load(path, allow_pickle=False) as archive:
        value = archive["pixel_size"] if "pixel_size" in archive.files else np.zeros(0)
    return positive(value.item()) if value.size == 1 and value.dtype.kind in "iuf" else None


def _of_npz(path: Path, key: str | None) -> tuple[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        key = key or next((name for name in _NPZ_KEYS if name in names), names[0] if len(names) == 1 else None)
        if key not in names:
            raise InputError(
                f"{path}: expected {f'the key {key}' if key else 'a probe'}, found {', '.join(names)}; "
                "state FILE.npz:KEY (--probe FILE.npz:KEY)"
            )
        return f"{path}: key '{key}'", archive[key]


def _of_hdf5(path: Path, key: str | None) -> tuple[str, NDArray[Any]]:
    with Hdf5(path, "an HDF5 file of a probe") as file:
        if key is None:
            key = next((name for name in _HDF5_KEYS if file.is_array(name)), None)
        if key is None:
            arrays = data_sets(file, lambda node: len(node.shape or ()) >= 2 and node.dtype.kind in "fcV")
            named = [name for name in arrays if "probe" in name.lower()]
            if len(named) != 1:
                found = ", ".join(f"{name} {arrays[name]}" for name in (named or list(arrays))[:8]) or "no array"
                raise InputError(
                    f"{path}: expected one data set of a probe, found {found}; "
                    "state FILE.h5:PATH (--probe FILE.h5:PATH)"
                )
            key = named[0]
        return f"{path}: key '{key}'", file.numeric(key, "iufc")
