# SPDX-License-Identifier: BSD-3-Clause
"""Progress bars with rate and time left, on a terminal or in a notebook, for what takes longer than a second."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
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


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, whose output shows bars although it is no terminal."""
    shell = sys.modules.get("IPython")
    current = None if shell is None else shell.get_ipython()
    return current is not None and hasattr(current, "kernel")


def shows_bars(stream: Any) -> bool:
    """Whether a progress bar on this stream is seen while it advances."""
    return is_terminal(stream) or in_notebook()


@contextmanager
def progress(label: str, total: int | None, unit: str = "patterns") -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, from the first call after :data:`DELAY` seconds on.

    There is none where standard error is neither a terminal nor a notebook, inside another bar, within :func:`quiet`,
    and in the processes of torchrun but the first.

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
    if _quiet.get() or not shows_bars(sys.stderr) or os.environ.get("RANK", "0") != "0":
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
            self._shown = _tqdm()(
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


def _tqdm() -> Any:
    """The class of bars: a widget in a notebook that has widgets. It takes as long to import as a short task."""
    if in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        return widget
    from tqdm import tqdm

    return tqdm


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """No progress bars inside, if `silent`."""
    token = _quiet.set(_quiet.get() or silent)
    try:
        yield
    finally:
        _quiet.reset(token)
