# SPDX-License-Identifier: BSD-3-Clause
"""A setting of the whole process that a call changes while it runs, also where calls in several threads overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")
State = TypeVar("State")


class SharedSetting(Generic[Value, State]):
    """Save a setting of the process, change it, and restore it when no call holds it any more.

    The value of the latest call is in effect, for every thread. When that call ends, the value of the latest one that
    still runs is; after the last one, what was saved before the first.

    Args:
        save: returns the state before the first call.
        apply: puts a value into effect.
        restore: puts the saved state back.

    Example:
        >>> setting = {"digits": 4}
        >>> digits = SharedSetting(setting.copy, lambda value: setting.update(digits=value), setting.update)
        >>> with digits.hold(8):
        ...     setting["digits"]
        8
        >>> setting["digits"]
        4
    """

    def __init__(
        self, save: Callable[[], State], apply: Callable[[Value], object], restore: Callable[[State], object]
    ) -> None:
        self._save, self._apply, self._restore = save, apply, restore
        self._lock = threading.Lock()
        self._held: list[tuple[object, Value]] = []  # a key of the call, and its value

    @contextmanager
    def hold(self, value: Value) -> Iterator[None]:
        """Context manager with this value in effect."""
        entry = (object(), value)
        with self._lock:
            if not self._held:
                self._saved = self._save()
            self._held.append(entry)
            self._apply(value)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(entry)
                if self._held:
                    self._apply(self._held[-1][1])
                else:
                    self._restore(self._saved)
