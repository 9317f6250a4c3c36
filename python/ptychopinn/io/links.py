# SPDX-License-Identifier: BSD-3-Clause
"""Links of an HDF5 file to other files, and virtual data sets: followed in the folder of the file, refused elsewhere.

A file of another person could otherwise name any file of this machine. Links are resolved here and not by HDF5, which
would search other folders as well. HDF5 itself reads the sources of a virtual data set, so these are checked to be
files that it can find in the folder only, and to be there: HDF5 fills in constant values where a source is missing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.lazy import h5py
from ptychopinn.storage.hdf5_files import missing_filter, open_to_read, reason_of

#: Exceptions of h5py for files that are damaged.
DAMAGED = (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError)
_MOST_LINKS = 16
_WAY_OUT = "copy the data files beside it"


def damaged_words(error: BaseException) -> str:
    """The words for data that cannot be read."""
    return f"a damaged one ({' '.join(str(error).split())}); copy or export the file again"


class Links:
    """Resolves paths in an HDF5 file, through soft links and links to files in its folder.

    Args:
        owner: named in errors.
        file: open, by its real path.
    """

    def __init__(self, owner: OpenFile, file: h5py.File) -> None:
        self._owner, self._root = owner, file
        real = Path(file.filename).resolve()
        self._folder = real.parent
        self._files: dict[Path, h5py.File] = {real: file}
        self._checked: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def find(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """The group or data set at a path, None if there is none.

        Raises:
            InputError: a link leads out of the folder, to a missing file, or in a circle.
        """
        return self._follow(self._root, path, path, 0)

    def check(self, dataset: h5py.Dataset, key: str) -> None:
        """Raise InputError if a data set has data outside of the folder, or needs files or filters that are missing."""
        self._check(dataset, key, 0)

    def _check(self, dataset: h5py.Dataset, key: str, depth: int) -> None:
        holder, fail = Path(dataset.file.filename), self._owner.fail
        if depth > _MOST_LINKS:
            fail(key, "a virtual data set over data", "circular virtual data sets")
        if (str(holder), dataset.name) in self._checked:
            return
        if (others := [name for name, *_ in dataset.external or ()]) != []:
            fail(key, "data in this file", f"data in the other file {others[0]}; save the data set in the file itself")
        if (needed := missing_filter(dataset)) is not None:
            fail(key, "data that can be decompressed", needed)
        if dataset.is_virtual:
            shapes: dict[tuple[str, str], tuple[int, ...]] = {}
            for part in dataset.virtual_sources():
                name = part.file_name, part.dset_name
                if name not in shapes:
                    shapes[name] = self._source(dataset, *name, key, depth)
                if not _complete(part, shapes[name]):
                    fail(key, f"a source {':'.join(name)} as large as its part here", f"shape {shapes[name]}")
        self._checked.add((str(holder), dataset.name))

    def _source(self, dataset: h5py.Dataset, name: str, inside: str, key: str, depth: int) -> tuple[int, ...]:
        """The shape of a source of a virtual data set, which is checked: the data set `inside` of the file `name`."""
        if "%" in name or "%" in inside:
            self._owner.fail(key, "sources by their full names", f"numbered ones, {name}:{inside}")
        file = dataset.file if name == "." else self._open(name, key, Path(dataset.file.filename), exact=True)
        source = self._follow(file, inside, key, depth + 1, exact=True)
        if not isinstance(source, h5py.Dataset):
            self._owner.fail(key, f"the data set {inside} of {name}, a source of this one", "none of this name")
        self._check(source, key, depth + 1)
        return tuple(int(side) for side in source.shape or ())

    def _follow(
        self, start: h5py.Group, path: str, key: str, depth: int, exact: bool = False
    ) -> h5py.Group | h5py.Dataset | None:
        if depth > _MOST_LINKS:
            self._owner.fail(key, "a link to data", "circular links")
        try:
            node: Any = start.file if path.startswith("/") else start
            for name in path.split("/"):
                if name in ("", "."):
                    continue
                if not isinstance(node, h5py.Group):
                    return None
                link = node.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    other = self._open(link.filename, key, Path(node.file.filename), exact)
                    node = self._follow(other, link.path, key, depth + 1, exact)
                elif isinstance(link, h5py.SoftLink):
                    node = self._follow(node, link.path, key, depth + 1, exact)
                else:
                    node = node.get(name)
                if node is None:
                    return None
        except InputError:
            raise
        except DAMAGED as error:
            self._owner.fail(key, "an intact array", damaged_words(error))
        return node if isinstance(node, h5py.Group | h5py.Dataset) else None

    def _open(self, name: str, key: str, holder: Path, exact: bool) -> h5py.File:
        """Open the file that a link names.

        Args:
            name: of the file, in the link.
            key: for errors.
            holder: the file of the link.
            exact: only where HDF5 itself would find this very file.
        """
        path = self._beside(name, key, holder, exact)
        if path not in self._files:
            try:
                self._files[path] = open_to_read(path)
            except OSError as error:
                self._owner.fail(key, f"an HDF5 file {path.name}, to which it links", reason_of(error))
        return self._files[path]

    def _beside(self, name: str, key: str, holder: Path, exact: bool) -> Path:
        """The real path of a file that a link names, in the folder; an absolute name may have been moved there."""
        named, fail = Path(name), self._owner.fail
        inward = not named.is_absolute() and ".." not in named.parts
        try:
            candidates = [holder.parent / named] if inward else [named] if named.is_absolute() else []
            moved = named.is_absolute() and not named.exists()
            if not inward and (moved or not exact):
                candidates.append(holder.parent / named.name)
            resolved = [candidate.resolve() for candidate in candidates]
            found = [path for path in resolved if path.is_relative_to(self._folder) and path.is_file()]
        except (OSError, ValueError, RuntimeError):  # names that are too long, or hold a null
            found, resolved = [], []
        if found:
            return found[0]
        if inward and all(path.is_relative_to(self._folder) for path in resolved):
            fail(key, f"the file {name}, to which it links, in the folder of the file", f"none there; {_WAY_OUT}")
        way_out = "save the data set in the file itself" if exact else _WAY_OUT
        fail(key, "data in the folder of the file", f"a link to the other file {name}; {way_out}")


def _complete(part: Any, shape: tuple[int, ...]) -> bool:
    """Whether a source of this shape has all values that a virtual data set takes from it; True if that is open."""
    try:
        if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
            return bool(part.vspace.get_select_npoints() == math.prod(shape))
        end = np.asarray(part.src_space.get_select_bounds()[1]) + 1
    except (RuntimeError, ValueError, TypeError, OverflowError):  # a selection without an end
        return True
    return len(end) != len(shape) or bool((end <= np.asarray(shape)).all())
