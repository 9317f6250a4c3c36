# SPDX-License-Identifier: BSD-3-Clause
"""Physical memory of the machine, and memory available to this process.

psutil ignores the limit of a control group (of a container or a job), which is read here.
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
    """Bytes available to this process, on the machine and within the limits of its control groups."""
    return min([int(psutil.virtual_memory().available), *_available_in_groups()])


def _available_in_groups() -> Iterator[int]:
    """Bytes available within the limit of this process's control group (version 2) and each of its parents."""
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
    """Whether `nbytes` is at most a quarter of the available memory, which is the rule of "auto"."""
    return nbytes <= LARGEST_FRACTION * available_memory()


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return int(psutil.virtual_memory().total)
