# SPDX-License-Identifier: BSD-3-Clause
"""A file that marks a folder as in use by a process, and tells whether that process still runs.

Of a process of another host nothing is known but the age of its file, which is touched every minute.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.owners import Owner, parse_owner, this_process

#: Seconds between two touches, and the age from which the process of another host counts as ended.
_TOUCH, _SILENT = 60.0, 600.0


@dataclass(frozen=True)
class Holder:
    """The process that a file names.

    Attributes:
        owner: the process, None if the file is damaged.
        host: name of its host.
        begun: date and time, for people.
        age: seconds since the last touch.
    """

    owner: Owner | None
    host: str
    begun: str
    age: float

    __repr__ = one_line

    @property
    def runs(self) -> bool:
        """Whether the process still runs, as far as can be known."""
        runs = None if self.owner is None else self.owner.runs
        return self.age < _SILENT if runs is None else runs

    def __str__(self) -> str:
        if self.owner is None:
            return "a process that cannot be identified"
        return f"process {self.owner.pid} on {self.host}, begun {self.begun}"


def holder_of(path: Path) -> Holder | None:
    """The process that holds a folder by this file; None without one."""
    age = 0.0
    try:
        age = time.time() - path.stat().st_mtime
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return Holder(None, "", "", age)
    values = found if isinstance(found, dict) else {}
    return Holder(parse_owner(str(values.get("process"))), str(values.get("host")), str(values.get("begun")), age)


class Claim:
    """Holds a folder by a file in it, from :meth:`take` to the end of the context.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine: str | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self._held():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def take(self) -> None:
        """Write the file, in place of that of another process.

        Raises:
            InputError: it cannot be written, or another process wrote one at the same moment.
        """
        self._mine = json.dumps(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
                "process": str(this_process()),
                "token": secrets.token_hex(4),
            },
            indent=1,
        )
        with atomic_path(self.path, durable=False) as temporary:
            temporary.write_text(self._mine + "\n", encoding="utf-8")
        self.check()
        self._thread = threading.Thread(target=self._touch, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that no other process has taken the folder since.

        Raises:
            InputError: one has.
        """
        if self._mine is not None and not self._held():
            found = holder_of(self.path)
            taker = "its file was deleted" if found is None else f"taken over by {found}"
            raise InputError(f"{self.path.parent}: no longer held by this process ({taker}), so it ends here")

    def _held(self) -> bool:
        try:
            return self._mine is not None and self.path.read_text(encoding="utf-8").strip() == self._mine
        except (OSError, ValueError):
            return False

    def _touch(self) -> None:
        while not self._end.wait(_TOUCH):
            if self._held():
                with suppress(OSError):
                    os.utime(self.path)
