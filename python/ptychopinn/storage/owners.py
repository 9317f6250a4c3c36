# SPDX-License-Identifier: BSD-3-Clause
"""Which process a file belongs to, and whether that process still runs.

A process is known by its host, its number and the time of its start, since numbers are used again. Of a process of
another host, as on a shared disk, nothing is known but the age of its files. Containers whose numbers are their own are
hosts of their own.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from dataclasses import dataclass
from zlib import crc32

import psutil

#: Seconds by which two readings of the start of a process may differ: clocks are corrected.
_CORRECTION = 3


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: number of the host and its space of process numbers.
        pid: number of the process.
        started: when it was started, seconds since 1970.
    """

    host: int
    pid: int
    started: int

    def __str__(self) -> str:
        return f"{self.host:08x}-{self.pid}-{self.started:x}"

    @property
    def runs(self) -> bool | None:
        """Whether the process still runs; None for a process of another host."""
        if self.host != _host():
            return None
        started = _started(self.pid)
        return started is not None and abs(started - self.started) <= _CORRECTION


#: Pattern of an owner in the name of a file.
OWNER = "[0-9a-f]{8}-[0-9]+-[0-9a-f]+"


def parse_owner(text: str) -> Owner | None:
    """The owner of ``str(owner)``, None for another text.

    Example:
        >>> parse_owner(str(this_process())) == this_process(), parse_owner("x")
        (True, None)
    """
    if not re.fullmatch(OWNER, text):
        return None
    host, pid, started = text.split("-")
    return Owner(int(host, 16), int(pid), int(started, 16))


def this_process() -> Owner:
    """The process that asks."""
    return _owner(os.getpid())


@functools.lru_cache(4)
def _owner(pid: int) -> Owner:
    return Owner(_host(), pid, _started(pid) or 0)


@functools.lru_cache(1)
def _host() -> int:
    try:
        space = os.readlink("/proc/self/ns/pid")  # a container counts its own processes
    except OSError:
        space = ""
    return crc32(f"{socket.gethostname()} {space}".encode())


def _started(pid: int) -> int | None:
    """When a process was started; None if it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else int(process.create_time())
    except psutil.Error:
        return None
