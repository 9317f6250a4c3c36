# SPDX-License-Identifier: BSD-3-Clause
"""Progress bars with rate and time left, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def progress(label: str, total: int | None, unit: str = "patterns") -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error; none where that is no terminal, inside another bar, or within :func:`quiet`.

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
    if _quiet.get() or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm  # takes as long to import as a short task

    token = _quiet.set(True)
    try:
        with tqdm(total=total, desc=label, unit=f" {unit}", unit_scale=True, leave=False, dynamic_ncols=True) as bar:
            yield bar.update
    finally:
        _quiet.reset(token)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """No progress bars inside, if `silent`."""
    token = _quiet.set(_quiet.get() or silent)
    try:
        yield
    finally:
        _quiet.reset(token)
