# SPDX-License-Identifier: BSD-3-Clause
"""Arrays in scratch files, for data that exceed memory.

Files are read and written instead of mapped, since mapped pages count as resident memory. They have no name, so the
system removes them when the process ends.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptychopinn.errors import InputError


class ScratchArray:
    """An array in an unnamed temporary file, read and written in blocks of its first axis.

    Args:
        folder: of the file, which is removed with this object.
        shape: of the array; initial values are zero.
        dtype: of the array.

    Raises:
        InputError: the folder's disk has too little space.
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
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  open as long as the array
        self._file.truncate(self._bytes * shape[0])

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
        while len(rest):
            rest = rest[self._file.write(rest) :]
