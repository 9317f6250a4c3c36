# SPDX-License-Identifier: BSD-3-Clause
"""A table that grows while a program runs: a CSV file of whole lines, also on a disk that becomes full."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ptychopinn.storage.atomic import cannot_be_written, make_folder, storage_error, write_text


class GrowingTable:
    """Rows of a CSV file with a header, which are added at its end; new columns rewrite the file.

    Args:
        path: the file; an earlier one is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self._lines: list[Mapping[str, Any]] = []  # those in the file
        self._size = 0

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, all or none.

        Args:
            rows: values by column.

        Raises:
            InputError: the disk is full, or fails.
        """
        if not rows:
            return
        columns = sorted({*self.columns, *(name for row in rows for name in row)})
        if columns != self.columns or self._size == 0:
            text = _text(columns, [*self._lines, *rows], header=True)
            write_text(self.path, text)
            self._size = len(text.encode())
        else:
            self._add(_text(columns, rows).encode())
        self.columns = columns
        self._lines += rows

    def _add(self, data: bytes) -> None:
        make_folder(self.path.parent, self.path)
        done = 0
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.seek(self._size)
                while done < len(data):
                    done += file.write(data[done:]) or 0
        except OSError as error:
            _cut(self.path, self._size)
            cause = storage_error(error)
            if cause is None:
                raise
            raise cannot_be_written(self.path, cause, len(data)) from error
        self._size += len(data)


def _cut(path: Path, size: int) -> None:
    """Remove what a failed write has left at the end."""
    with suppress(OSError):  # the next write begins there
        os.truncate(path, size)


def _text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], header: bool = False) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
