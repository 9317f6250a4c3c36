# SPDX-License-Identifier: BSD-3-Clause
"""Sources of stored patterns: an HDF5 dataset, an array in a plain file, or repeated patterns.

A source reads sorted rows, successive ones at once. Plain files are read, not mapped: mapped pages count as resident
memory, and a truncated file would kill the process instead of raising an error. Sources can be pickled; every process
opens the file itself.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import os
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.runtime.memory import available_memory
from ptychopinn.storage.checksums import DAMAGED, RunningChecksum
from ptychopinn.storage.hdf5_files import need_filters, open_to_read, reason_of

#: Smallest and largest size of HDF5's chunk cache, in bytes, and the largest relative to the available memory. HDF5's
#: own size of 1 MiB is smaller than one chunk of a modern detector.
_CHUNK_CACHE = 64 << 20, 4 << 30
_CACHE_FRACTION = 1 / 16
#: Slots of the cache for each chunk that fits into it; two chunks in one slot evict each other.
_SLOTS = 10
_ENCRYPTED = 1
#: Files of joined sources that stay open.
_OPEN_FILES = 8


class PatternSource(Protocol):
    """Source of patterns (n, h, w) of one native type, read by row.

    Attributes:
        name: the file and the array in it, for messages.
        shape: (n, h, w).
        dtype: in native byte order.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the patterns of rows (k,), unique and ascending, into a new array (k, h, w).

        Raises:
            InputError: the file cannot be read.
        """


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int, slice]]:
    """Iterate over runs of successive rows, as (first row, last row + 1, slice of the rows); rows are ascending.

    Example:
        >>> list(runs(np.array([3, 4, 5, 9])))
        [(3, 6, slice(0, 3, None)), (9, 10, slice(3, 4, None))]
    """
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            yield int(rows[start]), int(rows[stop - 1]) + 1, slice(start, stop)


class FlatFile:
    """Contiguous patterns in a file.

    Args:
        path: the file.
        offset: of the first pattern, in bytes.
        shape: (n, h, w).
        dtype: type in the file.
        key: name of the array in the file, for messages.

    Raises:
        InputError: the file is too short.
    """

    def __init__(
        self, path: str | Path, offset: int, shape: tuple[int, int, int], dtype: np.dtype[Any], key: str = ""
    ) -> None:
        self.path, self.offset, self.shape, self.stored = Path(path), offset, shape, dtype
        self.dtype = dtype.newbyteorder("=")
        self.name = f"{path}: key '{key}'" if key else f"{path}"
        expected, found = offset + math.prod(shape) * dtype.itemsize, self.path.stat().st_size
        if found < expected:
            raise InputError(
                f"{self.name}: expected {shape[0]} patterns in a file of at least {expected} bytes, found {found} "
                "bytes, truncated or still being written; copy it again"
            )
        self._checksum: RunningChecksum | None = None

    @classmethod
    def npy(cls, path: str | Path) -> FlatFile:
        """Source of a .npy file; the first two of four axes are a raster, row by row.

        Raises:
            InputError: not found, not a .npy file, or not an array of three or four axes in C order.
        """
        path = _existing(path)
        with path.open("rb") as file:
            shape, dtype = _npy_header(file, f"{path}")
            return cls(path, file.tell(), shape, dtype)

    @classmethod
    def npz(cls, path: str | Path, key: str) -> FlatFile:
        """Source of an array in an uncompressed .npz file, of axes as in :meth:`npy`.

        Raises:
            InputError: the file or the key is not found, the array is compressed, or not of such axes in C order.
        """
        path, name = _existing(path), f"{path}: key '{key}'"
        try:
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(f"{key}.npy")
        except KeyError:
            raise InputError(
                f"{name}: expected the key to be there, found none of this name; --patterns names another"
            ) from None
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(
                f"{path}: expected an NPZ file, found another or damaged file: {error}; copy it again"
            ) from None
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise InputError(
                f"{name}: expected an uncompressed array (numpy.savez) to read single patterns from, found a "
                "compressed one; write it without compression, or load it into memory (memory='load')"
            )
        with path.open("rb") as file:
            # The lengths of name and extra field in the local header may differ from those in the central directory.
            file.seek(member.header_offset)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise InputError(f"{name}: expected an intact array, found a damaged archive; copy the file again")
            file.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
            begin = file.tell()
            shape, dtype = _npy_header(file, name)
            made = cls(path, file.tell(), shape, dtype, key)
            file.seek(begin)
            header = file.read(made.offset - begin)
        if member.file_size == len(header) + math.prod(shape) * dtype.itemsize:
            made._checksum = RunningChecksum(member.CRC, header, shape[0])
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_checksum": None}

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape[1:]), self.stored)
        size = math.prod(self.shape[1:]) * self.stored.itemsize
        try:
            with self.path.open("rb", buffering=0) as file:
                for first, _, part in runs(rows):
                    file.seek(self.offset + first * size)
                    remaining = out[part].reshape(-1).view(np.uint8)
                    while len(remaining):
                        count = file.readinto(remaining.data)
                        if not count:
                            raise InputError(
                                f"{self.name}: expected {self.shape[0]} patterns, found the file's end; copy it again"
                            )
                        remaining = remaining[count:]
        except OSError as error:
            raise InputError(f"{self.name}: the patterns cannot be read: {error.strerror}") from error
        if self._checksum is not None and not self._checksum.agrees(rows, out):
            raise InputError(f"{self.name}: {DAMAGED}")
        return out.astype(self.dtype, copy=False)


class Hdf5Dataset:
    """Dataset of an HDF5 file, chunked or contiguous, with any filter that h5py supports.

    The file is opened at the first read and closed before the process forks, so that no handle is shared.

    Args:
        path: the file.
        key: of the dataset.
        axis: axis of the patterns, 0 or 2.

    Raises:
        InputError: the file or dataset is not found, or is not an array of real numbers with three axes.
    """

    def __init__(self, path: str | Path, key: str, axis: int = 0) -> None:
        self.path, self.key, self.axis = _existing(path), key, axis
        self.name = f"{path}: key '{key}'"
        self._file: Any = None
        self._cache: dict[str, int] = {}
        self._plugin = False
        self._lock = threading.RLock()
        dataset = self._dataset()
        if not hasattr(dataset, "chunks"):  # nothing, or a group
            raise InputError(f"{self.name}: expected a dataset, found none of this name; --patterns names another")
        if dataset.ndim != 3 or dataset.dtype.kind not in "iuf":
            raise InputError(
                f"{self.name}: expected 3 axes of real numbers, found {dataset.dtype} of {dataset.shape}; "
                "use --memory load"
            )
        need_filters(dataset, self.name)
        self._plugin = sys.modules.get("hdf5plugin") is not None
        shape = dataset.shape if axis == 0 else (dataset.shape[2], *dataset.shape[:2])
        self.shape: tuple[int, int, int] = shape
        self.dtype = dataset.dtype.newbyteorder("=")
        self._cache = chunk_cache(dataset, axis)
        self._close()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        with self._lock:
            for first, last, part in runs(rows):
                try:
                    dataset = self._dataset()
                    if self.axis == 0:
                        dataset.read_direct(out[part], np.s_[first:last])
                    else:
                        out[part] = dataset[:, :, first:last].transpose(2, 0, 1)
                except (OSError, KeyError, ValueError, TypeError) as error:
                    raise InputError(
                        f"{self.name}: patterns {first} to {last - 1} cannot be read, the file is damaged or was "
                        f"changed: {error}"
                    ) from error
        return out

    def _dataset(self) -> Any:
        if self._file is None:
            if self._plugin:
                importlib.import_module("hdf5plugin")  # registers its filters, in every process that reads
            try:
                self._file = open_to_read(self.path, **self._cache)
            except OSError as error:
                raise InputError(
                    f"{self.path}: expected an HDF5 file, found another or damaged file: "
                    f"{reason_of(error)}; copy it again"
                ) from None
            _close_before_fork(self)
        return self._file.get(self.key)

    def _close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_file", "_lock", "_guarded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _file=None, _lock=threading.RLock())

    _guarded = False


class Joined:
    """Sources one after another, such as the data files of a detector.

    Args:
        sources: of patterns of one size and type, in order.

    Raises:
        InputError: they are not alike.
    """

    def __init__(self, sources: Sequence[Hdf5Dataset]) -> None:
        self._sources = list(sources)
        first = self._sources[0]
        for source in self._sources:
            if source.shape[1:] != first.shape[1:] or source.dtype != first.dtype:
                raise InputError(
                    f"{source.name}: expected patterns like those of {first.name}, {first.dtype} "
                    f"{first.shape[1:]}, found {source.dtype} {source.shape[1:]}; use --memory load"
                )
        self._starts = np.cumsum([0, *(source.shape[0] for source in self._sources)])
        self.name = f"{first.name} and {len(self._sources) - 1} more"
        self.shape: tuple[int, int, int] = (int(self._starts[-1]), *first.shape[1:])
        self.dtype = first.dtype
        self._recent: list[int] = []
        self._lock = threading.Lock()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for index in np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist():
            first, last = np.searchsorted(rows, self._starts[index : index + 2])
            out[first:last] = self._sources[index].read(rows[first:last] - self._starts[index])
            self._keep_open(index)
        return out

    def _keep_open(self, index: int) -> None:
        """Close the files that were not read lately: a process may have about a thousand files open."""
        with self._lock:
            if index in self._recent:
                self._recent.remove(index)
            self._recent.append(index)
            closed = [self._recent.pop(0) for _ in range(len(self._recent) - _OPEN_FILES)]
        for other in closed:
            self._sources[other]._close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_recent", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _recent=[], _lock=threading.Lock())


class Repeated:
    """Repeated patterns, for tests and benchmarks: pattern k is ``patterns[which[k]]``.

    Args:
        patterns: (m, h, w).
        which: (n,) integers below m.
    """

    def __init__(self, patterns: NDArray[Any], which: NDArray[np.integer]) -> None:
        self.patterns, self.which = patterns.astype(patterns.dtype.newbyteorder("="), copy=False), which
        self.name = f"virtual patterns, {len(which)} of {len(patterns)}"
        height, width = patterns.shape[1:]
        self.shape: tuple[int, int, int] = (len(which), height, width)
        self.dtype = self.patterns.dtype

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        patterns: NDArray[Any] = self.patterns[self.which[rows]]
        return patterns


def chunk_cache(dataset: Any, axis: int) -> dict[str, int]:
    """Arguments of `h5py.File` for a cache that holds all chunks of one pattern, so that none is decompressed twice.

    Args:
        dataset: of three axes, chunked or contiguous.
        axis: of the patterns.
    """
    if dataset.chunks is None:
        return {}
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    sides = [(dataset.shape[k], dataset.chunks[k]) for k in range(3) if k != axis]
    needed = chunk * math.prod(-(-length // side) for length, side in sides)
    smallest, largest = _CHUNK_CACHE
    limit = min(largest, int(_CACHE_FRACTION * available_memory()))
    size = needed if smallest < needed <= limit else smallest
    return {"rdcc_nbytes": size, "rdcc_nslots": min(_SLOTS * (size // chunk) + 1, 1 << 20)}


def _close_before_fork(source: Hdf5Dataset) -> None:
    """Close the source's file before every fork: HDF5 would share the file descriptor with the forked process."""
    if source._guarded or not hasattr(os, "register_at_fork"):
        return
    source._guarded = True
    reference = weakref.ref(source)

    def call(method: Callable[[Hdf5Dataset], object]) -> None:
        if (dataset := reference()) is not None:
            method(dataset)

    def lock_and_close(dataset: Hdf5Dataset) -> None:
        dataset._lock.acquire()
        dataset._close()

    release = functools.partial(call, lambda dataset: dataset._lock.release())
    os.register_at_fork(before=functools.partial(call, lock_and_close), after_in_parent=release, after_in_child=release)


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise not_found(path)
    if not Path(path).is_file():
        raise InputError(f"{path}: expected a file of patterns, found a folder; name a file in it")
    return Path(path)


def _npy_header(file: Any, name: str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    def fail(found: str) -> NoReturn:
        raise InputError(
            f"{name}: expected patterns (n, N, N) of real numbers in C order, found {found}; use --memory load"
        )

    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        fail(f"no array in NumPy's format: {error}")
    if len(shape) not in (3, 4) or dtype.kind not in "iuf" or fortran:
        fail(f"{dtype} of shape {shape}{' in Fortran order' if fortran else ''}")
    return (math.prod(shape[:-2]), shape[-2], shape[-1]), dtype
