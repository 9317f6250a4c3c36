# SPDX-License-Identifier: BSD-3-Clause
"""HDF5 files that another program is still writing: opened without locks, and read as far as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.lazy import h5py
from ptychopinn.io.links import DAMAGED, Links
from ptychopinn.storage.hdf5_files import missing_filter, open_to_read, reason_of
from ptychopinn.streaming.sources.counts import frame_bytes
from ptychopinn.streaming.sources.hdf5_parts import Block, Part, Plain, UnusableError, Virtual

_DEEPEST = 4
#: Version of the superblock from which on a file records that it is open for writing.
_RECORDS_WRITERS = 3


def _open(path: Path) -> Any:
    """Open a file without a lock, which would keep its writer from opening it again."""
    try:
        return open_to_read(path, locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return open_to_read(path)  # this process has it open, with locks


class _GrowingLinks(Links):
    """Links whose files are opened without locks."""

    def source(self, dataset: h5py.Dataset, name: str, inside: str, key: str) -> h5py.Dataset:
        """The data set that a virtual data set names; InputError if it is missing."""
        if "%" in name or "%" in inside:
            raise UnusableError(
                f"{self._owner.path}: key '{key}': expected sources by their full names, found numbered ones, "
                f"{name}:{inside}; state patterns= of one of them"
            )
        file = dataset.file if name == "." else self._open(name, key, Path(dataset.file.filename), exact=False)
        found = self._follow(file, inside, key, 1)
        if not isinstance(found, h5py.Dataset):
            self._owner.fail(key, f"the data set {inside} of {name}, a source of this one", "none of this name")
        return found

    def _open(self, name: str, key: str, holder: Path, exact: bool) -> h5py.File:
        path = self._beside(name, key, holder, exact)
        if path not in self._files:
            try:
                self._files[path] = _open(path)
            except OSError as error:
                self._owner.fail(key, f"an HDF5 file {path.name}, to which it links", reason_of(error))
        return self._files[path]


class GrowingFile(Hdf5):
    """An HDF5 file that may be open in its writer; what has been written since it was opened may not be seen.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, perhaps for a moment only.
    """

    _links: _GrowingLinks

    def __init__(self, path: Path) -> None:
        OpenFile.__init__(self, path, "an HDF5 file")
        try:
            self._file = _open(path.resolve())
        except OSError as error:
            raise InputError(f"{path}: expected an HDF5 file, found {reason_of(error)}; name another") from error
        self._links = _GrowingLinks(self, self._file)

    @property
    def root(self) -> h5py.File:
        """The open file of h5py."""
        return self._file

    @property
    def closed(self) -> bool:
        """Whether it is known that no program is writing the file; files of older layouts do not tell."""
        version = self._file.id.get_create_plist().get_version()[0]
        return version >= _RECORDS_WRITERS and self._file.mode == "r" and not self.growing

    def close(self) -> None:
        """Close the file, and those to which it links."""
        self._links.close()

    def part(self, key: str) -> Part:
        """The frames of a data set.

        Raises:
            InputError: it is missing so far.
            UnusableError: it has no frames, or needs a filter that is missing.
        """
        node = self.node(self.need(key))
        if not isinstance(node, h5py.Dataset):
            self.fail(key, "an array", "a group")
        return self._part(node, key, 0)

    def _part(self, dataset: h5py.Dataset, key: str, depth: int) -> Part:
        where = f"{self.path}: key '{key}'"

        def source(name: str, inside: str) -> Part:
            return self._part(self._links.source(dataset, name, inside, key), key, depth + 1)

        try:
            if dataset.is_virtual:
                if depth == _DEEPEST:
                    self.fail(key, "a virtual data set over data", "circular virtual data sets")
                return Virtual(dataset, where, source)
            if (needed := missing_filter(dataset)) is not None:
                raise UnusableError(f"{where}: expected data that can be decompressed, found {needed}")
            self._links.check(dataset, key)
            return Plain(dataset, where)
        except InputError:
            raise
        except DAMAGED as error:
            self.damaged(key, error)


class Parts:
    """Frames of one data set, or of several one after another, such as ``data_000001`` and so on.

    Args:
        file: open.
        keys: of the data sets.
        lengths: of the first data sets, which are complete; extended when the next one begins.
        written: number of frames that are written, as a counter in the file states it; None without one.
    """

    def __init__(self, file: GrowingFile, keys: Sequence[str], lengths: list[int], written: int | None = None) -> None:
        self._file, self._keys, self._lengths, self._written = file, keys, lengths, written
        self._opened: dict[int, Part] = {}
        first = self._part(len(lengths))
        self.shape, self.dtype = first.shape, first.dtype
        self.announced = first.announced if len(keys) == 1 else None
        self.fixed = first.fixed and written is None

    @property
    def total(self) -> int:
        """Number of frames for which there is space so far."""
        while len(self._lengths) + 1 < len(self._keys):
            try:
                begun = self._part(len(self._lengths) + 1).total > 0
            except UnusableError:
                raise
            except InputError:
                break
            if not begun:
                break
            self._lengths.append(self._part(len(self._lengths)).total)
        total = sum(self._lengths) + self._part(len(self._lengths)).total
        return total if self._written is None else min(total, self._written)

    def read(self, first: int, last: int) -> Block:
        """Read frames from `first` on, up to `last` - 1 or the end of a data set; `first` is below `total`."""
        number, start = 0, 0
        while number < len(self._lengths) and first >= start + self._lengths[number]:
            start, number = start + self._lengths[number], number + 1
        part = self._part(number)
        block = part.read(first - start, min(last - start, part.total))
        return block if self._written is None else Block(block.counts, np.ones_like(block.there))

    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return frame_bytes(self.shape, self.dtype)

    def _part(self, number: int) -> Part:
        if number not in self._opened:
            self._opened[number] = self._file.part(self._keys[number])
        return self._opened[number]
