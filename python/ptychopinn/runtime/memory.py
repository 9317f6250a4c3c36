# SPDX-License-Identifier: BSD-3-Clause
"""How much memory there is: of the machine, and of it what this process can still take.

psutil asks the system; it does not know the limit of a control group (of a container or a job), which is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

#: Fraction of the available memory that patterns may fill before "auto" leaves them on disk.
LARGEST_FRACTION = 0.25

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Bytes that this process can still take: what the machine has available, or less in a smaller control group."""
    return min([int(psutil.virtual_memory().available), *_available_in_groups()])


def _available_in_groups() -> Iterator[int]:
    """What is left of each limit on this process: that of its control group (version 2), and of those around it."""
    try:
        own = next(line for line in _OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "0::/"
    group = _GROUPS / own.removeprefix("0::").strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(_GROUPS):
            return
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                yield max(int(limit) - int((folder / "memory.current").read_text()), 0)
        except (OSError, ValueError):
            continue


def fits_in_memory(nbytes: int) -> bool:
    """Whether so many bytes are at most a quarter of what is available: the rule of "auto"."""
    return nbytes <= LARGEST_FRACTION * available_memory()


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return int(psutil.virtual_memory().total)
