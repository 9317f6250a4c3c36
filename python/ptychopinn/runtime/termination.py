# SPDX-License-Identifier: BSD-3-Clause
"""The end of a process that SIGTERM asks to end, also where it is stuck and looks at no flag."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_pipes = 0  # that are in use


@contextmanager
def ended_after_grace(seconds: float) -> Iterator[None]:
    """Context manager in which the process ends this long after SIGTERM, and at once with a second one.

    A handler of SIGTERM, such as Lightning's, gets the signal first and has this time to end in order. The exit status
    is 143. It has no effect outside the main thread, nor in a program that has a file descriptor for signals of its own
    (:func:`signal.set_wakeup_fd`), such as an event loop.

    Args:
        seconds: the grace time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python's handlers wait for the interpreter, which a stuck call does not return to; a thread reads this pipe.
    global _pipes
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _pipes += 1
    if previous != -1:
        signal.set_wakeup_fd(previous)
    watcher = threading.Thread(target=_watch, args=(reading, seconds, os.getpid()), name="termination", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _pipes -= 1
        if previous == -1:
            signal.set_wakeup_fd(-1)
        os.write(writing, b"\0")
        watcher.join(1.0)
        os.close(writing)
        if not watcher.is_alive():
            os.close(reading)


def _leave_to_parent() -> None:
    """Have a forked process, such as one that prepares batches, report no signals to the pipe of its parent."""
    if _pipes:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _watch(pipe: int, seconds: float, pid: int) -> None:
    """End the process unless a zero arrives in time."""
    deadline = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe], [], [], left)
        received = os.read(pipe, 256) if ready else b""
        if 0 in received:
            return
        count = received.count(signal.SIGTERM)
        if (deadline is not None and not ready) or count > 1 or (deadline is not None and count):
            reason = "second SIGTERM" if ready else f"it did not end within {seconds:g} s of SIGTERM"
            os.write(2, f"process {pid} terminated: {reason}\n".encode())
            os._exit(128 + signal.SIGTERM)
        if count:
            deadline = time.monotonic() + seconds
