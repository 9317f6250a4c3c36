# SPDX-License-Identifier: BSD-3-Clause
"""Container and member names of a file, by which formats recognise it.

The file is opened once for all formats, and no array is read.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ptychopinn.storage.hdf5_files import open_to_read, reason_of

if TYPE_CHECKING:
    import h5py

_DEEPEST = 5
_MOST_NAMES = 4000
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HDF5_SUFFIXES = (".h5", ".hdf5", ".he5", ".nx", ".nxs", ".cxi", ".ptyd")


@dataclass(frozen=True)
class Content:
    """Container and member names of a path.

    Args:
        path: the file or folder.
        kind: "missing", "folder", "empty", "npz", "hdf5", "npy", "tiff" or "other".
        names: members of a zip without `.npy`, files of a folder, or paths in an HDF5 file ("entry_1/data_1").
        classes: NeXus class of each HDF5 group that has one.
        cubes: paths of HDF5 data sets with three axes.
        rasters: paths of HDF5 data sets with four axes.
        fault: why an HDF5 file cannot be opened, in words.
    """

    path: Path
    kind: str
    names: frozenset[str] = frozenset()
    classes: dict[str, str] = field(default_factory=dict)
    cubes: tuple[str, ...] = ()
    rasters: tuple[str, ...] = ()
    fault: str = ""

    def has(self, *names: str) -> bool:
        """Whether the file has all of these names."""
        return set(names) <= self.names


def content_of(path: str | Path) -> Content:
    """Inspect a file or folder; damaged files have the kind "other"."""
    path = Path(path)
    if path.is_dir():
        return Content(path, "folder", frozenset(entry.name for entry in path.iterdir()))
    if not path.is_file():
        return Content(path, "missing")
    if path.stat().st_size == 0:
        return Content(path, "empty")
    with path.open("rb") as file:
        start = file.read(8)
    if start[:6] == b"\x93NUMPY":
        return Content(path, "npy")
    if start[:4] in TIFF_MAGIC:
        return Content(path, "tiff")
    if start[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return Content(path, "npz", frozenset(name.removesuffix(".npy") for name in archive.namelist()))
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
            return Content(path, "other")
    try:
        with open_to_read(path) as file5:
            return _hdf5(path, file5)
    except OSError as error:
        return Content(path, "other", fault=reason_of(error) if start == b"\x89HDF\r\n\x1a\n" else "")
    except (RuntimeError, ValueError, KeyError):
        return Content(path, "other")


def _hdf5(path: Path, file: h5py.File) -> Content:
    """Names of groups and data sets, breadth first; links are listed and not followed."""
    import h5py  # deferred: the command line lists formats without it

    names: set[str] = set()
    classes: dict[str, str] = {}
    arrays: dict[int, list[str]] = {3: [], 4: []}
    level: list[tuple[str, h5py.Group]] = [("", file)]
    for _ in range(_DEEPEST):
        below: list[tuple[str, h5py.Group]] = []
        for prefix, group in level:
            for name in group:
                if len(names) >= _MOST_NAMES:
                    break
                full = f"{prefix}{name}"
                names.add(full)
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                member = group.get(name)
                if isinstance(member, h5py.Dataset):
                    arrays.get(len(member.shape or ()), []).append(full)
                elif isinstance(member, h5py.Group):
                    kind = member.attrs.get("NX_class")
                    if isinstance(kind, bytes | str):
                        classes[full] = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else kind
                    below.append((f"{full}/", member))
        level = below
    return Content(path, "hdf5", frozenset(names), classes, tuple(arrays[3]), tuple(arrays[4]))
