# SPDX-License-Identifier: BSD-3-Clause
"""HDF5 files opened for reading, also while they are written (SWMR), and the filters that their data sets need.

The readers of :mod:`ptychopinn.io` and patterns that stay on disk share these functions, so that both open a file in
the same way. h5py is imported in them, because ``--help`` must not need it.
"""

from __future__ import annotations

import errno
import importlib
from pathlib import Path
from typing import Any

from ptychopinn.errors import InputError

#: Names of filters by their registered number
#: (https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md).
FILTERS = {
    4: "SZIP",
    305: "LZO",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32018: "FCIDECOMP",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
#: Filters of the package hdf5plugin (http://www.silx.org/doc/hdf5plugin/latest/).
_OF_HDF5PLUGIN = {307, 32001, 32004, 32008, 32013, 32015, 32017, 32018, 32024, 32026, 32028}
_WAY_OUT = "pip install hdf5plugin"


def open_to_read(path: str | Path, **settings: Any) -> Any:
    """Open an HDF5 file for reading; one that is being written in SWMR mode (single writer, multiple readers) as such.

    Args:
        path: the file.
        **settings: of `h5py.File`, such as the size of the chunk cache.

    Returns:
        The open `h5py.File`; its attribute `swmr_mode` is True if another program writes it.

    Raises:
        OSError: it cannot be opened; :func:`reason_of` has the words for it.
    """
    import h5py

    try:
        return h5py.File(path, "r", **settings)
    except OSError as error:
        if "already open" not in str(error):
            raise
        try:
            return h5py.File(path, "r", swmr=True, **settings)
        except OSError:
            raise error from None


def reason_of(error: OSError) -> str:
    """What an HDF5 file is that cannot be opened, in words, with a way out."""
    text = " ".join(str(error).split())
    if isinstance(error, BlockingIOError) or error.errno == errno.EAGAIN or "unable to lock file" in text:
        return (
            "one that is open for writing by another program; copy it, or set the environment variable "
            f"HDF5_USE_FILE_LOCKING=FALSE ({text})"
        )
    if "already open for write" in text:
        return (
            "one that is still being written, not in SWMR mode, or was not closed by its writer; "
            f"read it when it is closed, or try h5clear -s on a copy ({text})"
        )
    return f"one that is truncated, damaged or still being written ({text})"


def missing_filter(dataset: Any) -> str | None:
    """The filter that a data set needs and that cannot be loaded, in words with the way out; None if there is none.

    The package hdf5plugin is imported where a filter needs it and it is installed; the filters stay registered.
    """
    import h5py

    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        number = int(plist.get_filter(index)[0])
        if h5py.h5z.filter_avail(number):
            continue
        if number in _OF_HDF5PLUGIN:
            try:
                importlib.import_module("hdf5plugin")
            except ImportError:
                return f"data compressed with {FILTERS[number]} (filter {number}): {_WAY_OUT}"
            if h5py.h5z.filter_avail(number):
                continue
        name = FILTERS.get(number, "an unknown filter")
        return (
            f"data compressed with {name} (filter {number}), which this HDF5 library lacks; install its plugin "
            "and set HDF5_PLUGIN_PATH, or rewrite the data with gzip (h5repack -f GZIP=1)"
        )
    return None


def need_filters(dataset: Any, name: str) -> None:
    """Raise InputError if a data set needs a filter that cannot be loaded.

    Args:
        dataset: an open data set.
        name: of the file and the data set, for the error.
    """
    found = missing_filter(dataset)
    if found is not None:
        raise InputError(f"{name}: expected data that can be decompressed, found {found}")
