# SPDX-License-Identifier: BSD-3-Clause
"""Reading ahead: the next block is read on a thread while the last one is used.

h5py and zlib release Python's lock while they read and decompress, so that reading costs no time where using a block
takes longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Block = TypeVar("Block")


def read_ahead(read: Callable[[Item], Block], items: Iterable[Item], ahead: int = 1) -> Iterator[Block]:
    """Iterate over `read(item)` for each item in order, read on one thread up to `ahead` items before they are used.

    At most ``ahead + 2`` blocks are in memory: those read ahead, the one being read, and the one in use. The thread
    ends with the iteration, also where that is left early.

    Args:
        read: reads one block; called on the thread, for one item at a time.
        items: what to read; taken in the caller's thread.
        ahead: number of blocks to read ahead, at least 1.

    Raises:
        Exception: what `read` raises, when its block is due.

    Example:
        >>> list(read_ahead(lambda k: k * k, range(4)))
        [0, 1, 4, 9]
    """
    pending: deque[Future[Block]] = deque()
    pool = ThreadPoolExecutor(1, "read-ahead")
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
