# SPDX-License-Identifier: BSD-3-Clause
"""Progress bars with rate and time left, on a terminal only, and only for what takes longer than a second."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: Seconds before a bar appears: one that flashes is noise.
DELAY = 1.0

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one of a notebook or a window, which may be None or know little, is none."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # ValueError: it is closed
        return False


@contextmanager
def progress(label: str, total: int | None, unit: str = "patterns") -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, from the first call after :data:`DELAY` seconds on.

    There is none where standard error is no terminal, inside another bar, within :func:`quiet`, and in the processes of
    torchrun but the first.

    Args:
        label: what is done, such as "reconstruct".
        total: number of items; None: unknown.
        unit: of the items.

    Yields:
        A function that is told how many more items are done.

    Example:
        >>> with progress("load", 3) as advance:
        ...     _ = advance(3)
    """
    if _quiet.get() or not is_terminal(sys.stderr) or os.environ.get("RANK", "0") != "0":
        yield lambda count: None
        return
    token = _quiet.set(True)
    bar = _Bar(label, total, unit)
    try:
        yield bar.advance
    finally:
        _quiet.reset(token)
        bar.close()


class _Bar:
    """A bar of tqdm that is made when it is first shown."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._began, self._done = time.monotonic(), 0
        self._shown: Any = None

    def advance(self, count: int) -> None:
        self._done += count
        if self._shown is not None:
            self._shown.update(count)
        elif time.monotonic() - self._began >= DELAY and self._done != self._total:
            from tqdm import tqdm  # takes as long to import as a short task

            self._shown = tqdm(
                total=self._total,
                initial=self._done,
                desc=self._label,
                unit=f" {self._unit}",
                unit_scale=True,
                leave=False,
                dynamic_ncols=True,
            )

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """No progress bars inside, if `silent`."""
    token = _quiet.set(_quiet.get() or silent)
    try:
        yield
    finally:
        _quiet.reset(token)
