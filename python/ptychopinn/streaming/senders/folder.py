# SPDX-License-Identifier: BSD-3-Clause
"""A folder with a file for each frame, as a camera's program writes it, and a table of positions that grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.storage.atomic import atomic_path, make_folder, write_bytes
from ptychopinn.streaming.frames import Series

#: Name of the table in the folder.
TABLE = "positions.csv"
_DAMAGED = np.lib.format.MAGIC_PREFIX + b"\1\0"  # the beginning of a file of NumPy


class FolderSender:
    """A writer of a folder: ``frame_000000.npy`` and so on, and ``positions.csv`` with the columns index, y and x.

    A series removes the files of the one before.

    Args:
        path: of the folder, which is made if it is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.address = str(path)
        self._path = Path(path)
        self._written: set[Path] = set()
        make_folder(self._path)

    def begin(self, series: Series, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Begin with an empty table; a second call begins another series."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()
        unit = "_m" if series.position_unit == "m" else ""
        write_bytes(self._path / TABLE, f"index,y{unit},x{unit}\n".encode(), durable=False)

    def send(self, index: int, counts: NDArray[Any], position: tuple[float, float] | None) -> None:
        """Write a frame (h, w), with its position (y, x) if it is known, in the unit of the series."""
        if position is not None:
            with (self._path / TABLE).open("a") as table:
                table.write(f"{index},{position[0]!r},{position[1]!r}\n")
        with atomic_path(self._file(index), durable=False) as temporary:
            np.save(temporary, counts, allow_pickle=False)

    def send_damaged(self, index: int) -> None:
        """Write the beginning of a file in place of a frame."""
        write_bytes(self._file(index), _DAMAGED, durable=False)

    def end(self) -> None:
        """End the series; the folder has no sign of it."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _file(self, index: int) -> Path:
        path = self._path / f"frame_{index:06d}.npy"
        self._written.add(path)
        return path
