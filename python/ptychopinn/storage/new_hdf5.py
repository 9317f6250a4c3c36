# SPDX-License-Identifier: BSD-3-Clause
"""New HDF5 files, on disks that may be full.

HDF5 does not survive a write that fails: it writes again when objects are closed, prints tracebacks, and ends in a
segmentation fault. So it writes through :class:`_Target`, which keeps the first error to itself, drops what follows,
and lets HDF5 close the file in peace; then the error is raised.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychopinn.storage.atomic import atomic_path

if TYPE_CHECKING:
    import h5py

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


class _Target(io.RawIOBase):
    """A file that HDF5 writes to, see the head of this module.

    Args:
        path: the file, which is created.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._name = f"new-hdf5-{os.getpid()}-{next(_count)}"
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def __repr__(self) -> str:
        return self._name

    def check(self) -> None:
        """Raise the first error."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()  # some file systems tell only now that they are full
        except OSError as error:
            self.error = self.error or error
        super().close()

    # What HDF5 calls.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (count := self._file.readinto(view[done:])):
            done += count
        view[done:] = bytes(len(view) - done)  # beyond the end: dropped
        return len(view)

    def write(self, data: Any) -> int:
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view) and self.error is None:
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        pass  # there is no buffer
