# SPDX-License-Identifier: BSD-3-Clause
"""A CSV whose rows are added one by one, by one or several processes, and found again by their facts."""

from __future__ import annotations

import csv
import fcntl
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def text(value: Any) -> str:
    """A value as it is in the CSV; nothing for one that is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


class Table:
    """A CSV to which several processes add rows; columns that only some rows have are empty in the others.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, str]]:
        """All rows, as text."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def has(self, facts: Row) -> bool:
        """Whether there is a row with these facts."""
        return any(_same(row, facts) for row in self.read())

    def add(self, facts: Row, row: Row) -> None:
        """Add a row, or replace the one with these facts."""
        with self._alone():
            rows = self.read()
            written = {name: text(value) for name, value in row.items()}
            position = next((i for i, other in enumerate(rows) if _same(other, facts)), len(rows))
            rows[position : position + 1] = [written]
            names = list(dict.fromkeys(name for other in rows for name in other))
            temporary = self.path.with_suffix(".csv.new")
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other processes wait."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _same(row: dict[str, str], facts: Row) -> bool:
    return all(row.get(name, "") == text(value) for name, value in facts.items())
