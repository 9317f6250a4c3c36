# SPDX-License-Identifier: BSD-3-Clause
"""Processes that prepare batches, and scripts that cannot start them.

With the start methods "spawn" and "forkserver" a new process imports the script that runs. If the script trains at its
top level, the import would train again; and multiprocessing waits for ever for a process that dies while it imports.
"""

from __future__ import annotations

import multiprocessing
import time

from ptychopinn.errors import InputError

#: Seconds that a first process may take to import the script.
_PATIENCE = 120.0
_checked: set[str] = set()


def refuse_import_by_worker() -> None:
    """End this process if it is a worker that imports the script of its parent, which begins a workflow.

    Raises:
        SystemExit: it is; the parent reports it (:func:`check_workers`).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def check_workers(count: int) -> None:
    """Check that this program can start processes that prepare batches, with one that does nothing.

    Args:
        count: how many there will be; none are not checked, nor are those that are forked.

    Raises:
        InputError: they end, or hang, while they import the script.
    """
    method = multiprocessing.get_start_method()
    if not count or method == "fork" or method in _checked:
        return
    process = multiprocessing.Process(target=time.monotonic, daemon=True)
    try:
        process.start()
        process.join(_PATIENCE)
        code = process.exitcode
        if code is None:
            process.kill()
    except (EOFError, OSError, RuntimeError):
        code = 1
    if code != 0:
        raise InputError(
            f"execution.workers: with the start method {method!r} a process that prepares batches imports the script, "
            f"and {'hangs' if code is None else 'ends'} there: put what the script does under "
            'if __name__ == "__main__":, or set execution.workers to 0'
        )
    _checked.add(method)
