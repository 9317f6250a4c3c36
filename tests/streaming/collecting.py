# SPDX-License-Identifier: BSD-3-Clause
"""What tests of sources do with their items."""

from __future__ import annotations

import time
from collections.abc import Callable

from ptychopinn.streaming.frames import End, Frame, Item, Source

#: Seconds for which a source is read, at most.
TIMEOUT = 20.0


def collect(source: Source, done: int | Callable[[list[Item]], bool] | None = None) -> list[Item]:
    """Items until there are so many frames, until a condition holds, or until the end of the series."""
    items: list[Item] = []
    deadline = time.monotonic() + TIMEOUT

    def is_done() -> bool:
        if done is None:
            return any(isinstance(item, End) for item in items)
        return len(frames_of(items)) >= done if isinstance(done, int) else done(items)

    while not is_done():
        assert time.monotonic() < deadline, items
        items += source.read(0.2)
    return items


def frames_of(items: list[Item]) -> list[Frame]:
    """The frames among them."""
    return [item for item in items if isinstance(item, Frame)]
