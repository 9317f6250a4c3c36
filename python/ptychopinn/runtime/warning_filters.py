# SPDX-License-Identifier: BSD-3-Clause
"""Warnings that are expected while a call runs.

``warnings.catch_warnings`` replaces the list of filters and puts the old list back, so that of two threads the later
one restores what the earlier one had added. Here single filters are added and removed.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_calls: Counter[str] = Counter()
_added: set[str] = set()


@contextmanager
def ignored_warnings(*messages: str) -> Iterator[None]:
    """Context manager that ignores warnings whose text begins with one of these regular expressions.

    Filters are those of the process. Calls in several threads may overlap; a filter is removed after the last of them.

    Example:
        >>> with ignored_warnings("nothing of note"):
        ...     warnings.warn("nothing of note, as expected")
    """
    with _lock:
        for message in messages:
            _calls[message] += 1
            if _calls[message] == 1 and _filter(message) not in warnings.filters:
                warnings.filterwarnings("ignore", message=message)
                _added.add(message)
    try:
        yield
    finally:
        with _lock:
            for message in messages:
                _calls[message] -= 1
                if _calls[message] == 0 and message in _added:
                    _added.remove(message)
                    if _filter(message) in warnings.filters:
                        warnings.filters.remove(_filter(message))  # type: ignore[attr-defined]


def _filter(message: str) -> tuple[object, ...]:
    """The entry that ``warnings.filterwarnings`` makes."""
    return ("ignore", re.compile(message, re.IGNORECASE), Warning, None, 0)
