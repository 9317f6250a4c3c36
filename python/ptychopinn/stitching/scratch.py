# SPDX-License-Identifier: BSD-3-Clause
"""Arrays in scratch files, for data that exceed memory.

Files are read and written instead of mapped, since mapped pages count as resident memory. They have no name, so the
system removes them when the process ends. Their space is reserved when they are made.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptychopinn.errors import InputError
from ptychopinn.storage.atomic import storage_error


class ScratchArray:
    """An array in an unnamed temporary file, read and written in blocks of its first axis.

    Args:
        folder: of the file, which is removed with this object.
        shape: of the array; initial values are zero.
        dtype: of the array.

    Raises:
        InputError: the folder's disk has too little space, now or when rows are written.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._bytes = math.prod(shape[1:]) * self.dtype.itemsize
        free = shutil.disk_usage(folder).free
        if self._bytes * shape[0] > free:
            raise InputError(
                f"{folder}: expected {self._bytes * shape[0] / 1e9:.1f} GB of free space for a scratch file, found "
                f"{free / 1e9:.1f} GB; free some, or set TMPDIR to another folder"
            )
        self._folder = folder
        with self._space():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  open as long as the array
            _allocate(self._file.fileno(), self._bytes * shape[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop` (exclusive) into a new array."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        rest = memoryview(out.reshape(-1).view(np.uint8).data)
        self._file.seek(start * self._bytes)
        while len(rest):
            rest = rest[self._file.readinto(rest) :]
        return out

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """Write rows, beginning with row `start`."""
        rest = memoryview(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
        self._file.seek(start * self._bytes)
        with self._space():
            while len(rest):
                rest = rest[_write(self._file, rest) :]

    @contextmanager
    def _space(self) -> Iterator[None]:
        """Words the error of a disk that is full, of a quota that is used up, or of a storage that fails."""
        try:
            yield
        except OSError as error:
            if storage_error(error) is None:
                raise
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"{self._folder}: a scratch file cannot be written: {error.strerror}; set TMPDIR to another folder"
                ) from None
            raise InputError(
                f"{self._folder}: the disk became full while a scratch file of {self._bytes * self.shape[0] / 1e9:.1f} "
                "GB was written; free some space, or set TMPDIR to another folder"
            ) from None


def _write(file: IO[bytes], rest: memoryview) -> int:
    """Write to a file without a buffer; returns how many bytes it took."""
    return file.write(rest)


def _allocate(file: int, size: int) -> None:
    """Give a file its length, and its space on the disk where the system can reserve it."""
    os.ftruncate(file, size)
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
