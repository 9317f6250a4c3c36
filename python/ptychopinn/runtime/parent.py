# SPDX-License-Identifier: BSD-3-Clause
"""A process that a Python program has started to work for it: each is notified of the other's end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time

#: Seconds that a process has to end by itself.
_GRACE = 5.0
_served = threading.Event()
_log = logging.getLogger(__name__)


def serve_parent() -> None:
    """Have SIGTERM raise SystemExit, and the end of the program, whatever ended it, be a SIGTERM.

    The caller can then report that it ends, where a program would wait for ever otherwise. Seconds later the process is
    over for certain. In a process that no program has started, and when called again, it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None or _served.is_set() or threading.current_thread() is not threading.main_thread():
        return
    _served.set()

    def give_up() -> None:
        time.sleep(_GRACE)
        os._exit(1)

    def end(*_: object) -> None:
        threading.Thread(target=give_up, daemon=True).start()
        raise SystemExit("terminated")

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    _log.info("working in process %d", os.getpid())
    threading.Thread(target=watch, daemon=True).start()
