# SPDX-License-Identifier: BSD-3-Clause
"""A source that hands over a list of items, a few at a time, and positions that come by themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ptychopinn.scan import Scan
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series

__all__ = ["MemoryPositions", "MemorySource", "frames_of"]


class MemorySource:
    """Hands over items in this order; then it waits, or ends.

    Args:
        items: to hand over; an exception is raised where it comes.
        at_once: items of a read.
        ends: whether :class:`End` follows.
    """

    address = "memory"

    def __init__(self, items: Iterable[Item | Exception], at_once: int = 16, ends: bool = True) -> None:
        self.items = [*items, *([End()] if ends else [])]
        self.at_once = at_once
        self.closed = False
        self.wait = threading.Event()

    def read(self, timeout: float) -> list[Item]:
        some, self.items = self.items[: self.at_once], self.items[self.at_once :]
        if not some:
            self.wait.wait(timeout)
        for item in some:
            if isinstance(item, Exception):
                raise item
        return some  # type: ignore[return-value]

    def close(self) -> None:
        self.closed = True


class MemoryPositions:
    """Hands over positions, a few at a time."""

    address, unit = "table", "px"

    def __init__(self, rows: Iterable[tuple[int, float, float]], at_once: int = 7) -> None:
        self.rows, self.at_once = list(rows), at_once

    def read(self) -> list[tuple[int, float, float]]:
        some, self.rows = self.rows[: self.at_once], self.rows[self.at_once :]
        return some

    def close(self) -> None:
        pass


def frames_of(scan: Scan, order: Iterable[int] | None = None, positions: bool = True) -> list[Item]:
    """The items of a scan in an order."""
    series = Series("test", scan.n, scan.energy, bad_pixels=scan.bad_pixels, position_unit="px")
    rows = range(scan.n) if order is None else order
    return [series, *(Frame(int(k), scan.counts[k], tuple(scan.positions[k]) if positions else None) for k in rows)]


def faults(kind: str = "damaged") -> Fault:
    """A fault of a kind."""
    return Fault(kind, f"test: something is {kind}")
