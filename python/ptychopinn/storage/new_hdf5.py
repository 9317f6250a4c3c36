# SPDX-License-Identifier: BSD-3-Clause
"""New HDF5 files, on disks that may be full.

HDF5 does not survive a write that fails: it writes again when objects are closed, prints tracebacks, and ends in a
segmentation fault. So it writes through :class:`_Target`, which keeps the first error to itself, drops what follows,
and lets HDF5 close the file in peace; then the error is raised.

Arrays that :func:`put_array` writes have the checksum Fletcher32 in every chunk, which HDF5 verifies, and the rest of
the file has one at its end (:mod:`ptychopinn.storage.checksums`).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ptychopinn.storage.atomic import RememberingFile, atomic_path
from ptychopinn.storage.checksums import seal

if TYPE_CHECKING:
    import h5py

#: Bytes of a chunk at most: what is read and checked at a time, and the size of HDF5's cache.
_CHUNK = 1 << 20

_count = itertools.count()
#: Files that are open, by their name in h5py.
_targets: dict[str, _Target] = {}


@contextmanager
def new_hdf5(path: str | Path, needed: int = 0) -> Iterator[h5py.File]:
    """Context manager of a new file to write, which replaces `path` when the block succeeds.

    Args:
        path: the file; missing parent folders are created.
        needed: bytes that will be written, at least.

    Raises:
        InputError: see :func:`~ptychopinn.storage.atomic.atomic_path`.
    """
    with atomic_path(path, needed) as temporary, open_new_hdf5(temporary) as file:
        yield file


@contextmanager
def open_new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Context manager of a new file to write, for paths of :func:`~ptychopinn.storage.atomic.atomic_path`.

    Raises:
        OSError: the first write that failed.
    """
    import h5py  # imported here, because the command line must answer without it

    target = _Target(path)
    _targets[repr(target)] = target
    try:
        with h5py.File(target, "w") as file:
            yield file
        target.check()
        seal(path, target)
    except Exception:
        if target.error is None:
            raise  # otherwise it is a consequence: HDF5 reads what it has written
    finally:
        del _targets[repr(target)]
        target.close()
    target.check()


def check_written(group: h5py.Group) -> None:
    """Raise OSError if a write to the file of this group has failed, to end a long loop of writes."""
    target = _targets.get(group.file.filename)
    if target is not None:
        target.check()


def put_array(group: h5py.Group, name: str, values: ArrayLike) -> h5py.Dataset:
    """Write an array of numbers with checksums; a single number or a text is a part of the rest of the file.

    Args:
        group: of a file of :func:`new_hdf5`.
        name: of the data set.
        values: the array.
    """
    array = np.asarray(values)
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "biufc":
        return group.create_dataset(name, data=values)
    return group.create_dataset(name, data=array, chunks=chunks_of(array.shape, array.dtype), fletcher32=True)


def chunks_of(shape: tuple[int, ...], dtype: DTypeLike) -> tuple[int, ...]:
    """Shape of the chunks of an array, of at most 2^20 bytes, whole rows if possible.

    Example:
        >>> chunks_of((5000, 4000), "complex64")
        (32, 4000)
    """
    chunk, most = list(shape), _CHUNK // np.dtype(dtype).itemsize
    for axis in range(len(shape)):
        rest = math.prod(chunk[axis + 1 :])
        chunk[axis] = max(1, min(shape[axis], most // max(1, rest)))
        if chunk[axis] > 1:
            break
    return tuple(max(1, side) for side in chunk)


class _Target(RememberingFile):
    """A file that HDF5 writes to, see the head of this module."""

    def __init__(self, path: Path) -> None:
        self._name = f"new-hdf5-{os.getpid()}-{next(_count)}"
        super().__init__(path)

    def __repr__(self) -> str:
        return self._name

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (count := super().readinto(view[done:])):
            done += count
        view[done:] = bytes(len(view) - done)  # beyond the end: dropped
        return len(view)
