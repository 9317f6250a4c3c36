# SPDX-License-Identifier: BSD-3-Clause
"""How much memory there is: of the machine, and of it what this process can still take."""

from __future__ import annotations

import os

#: Share of the available memory that patterns may fill before "auto" leaves them on disk.
LARGEST_SHARE = 0.25

_FALLBACK_MEMORY = 1 << 36


def available_memory() -> int:
    """Bytes that this process can still take: what the machine has free, and less in a smaller control group."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    try:  # free pages alone leave out what the system keeps as a cache
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            used = int(file.read())
    except (OSError, StopIteration, ValueError):
        return free
    return free if limit == "max" else min(free, max(int(limit) - used, 0))


def fits_in_memory(nbytes: int) -> bool:
    """Whether so many bytes are at most a quarter of what is available: the rule of "auto"."""
    return nbytes <= LARGEST_SHARE * available_memory()


def physical_memory() -> int:
    """Bytes of memory of this machine; a large guess where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _FALLBACK_MEMORY
