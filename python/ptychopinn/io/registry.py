# SPDX-License-Identifier: BSD-3-Clause
"""The table of scan formats: what a :class:`Format` is, and how one is entered.

Each module of :mod:`ptychopinn.io.formats` enters its own at its end. Other distributions have an entry point of the
group ``ptychopinn.formats`` that names a :class:`Format`, or a module that registers some when it is imported. This
module imports none of them: :mod:`ptychopinn.io.scans`, which everybody asks, fills the table before it looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ptychopinn.io.options import ReadOptions
from ptychopinn.io.sniff import Content
from ptychopinn.scan import Scan

#: Entry points of other distributions that have formats.
GROUP = "ptychopinn.formats"

_log = logging.getLogger(__name__)
_table: dict[str, Format] = {}


def _itself(path: Path) -> tuple[Path, ...]:
    return (path,)


@dataclass(frozen=True)
class Format:
    """A file format of scans.

    Args:
        name: what `format=` calls it.
        description: a line for people.
        suffixes: of its files, lower case, with the dot; the first is the usual one.
        recognise: whether what is in a file is of this format.
        read: the scan in a file, under what the caller states; InputError if it cannot be used.
        write: write a scan, whole or not at all; None if the format can only be read.
        files_of: all files that writing to a path makes.
        takes: options that only some formats understand ("positions", "partner"), of those that this one does.
        last_resort: the format is asked only about files that no other one recognises.
        order: people are told of formats in ascending order; those of this package have 10 to 80.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    recognise: Callable[[Content], bool]
    read: Callable[[Path, ReadOptions], Scan]
    write: Callable[[Scan, Path], None] | None = None
    files_of: Callable[[Path], tuple[Path, ...]] = _itself
    takes: tuple[str, ...] = ()
    last_resort: bool = False
    order: int = 100


def register(format: Format) -> Format:
    """Enter a format.

    Raises:
        ValueError: its name is that of another one, or "auto".
    """
    if format.name == "auto" or _table.get(format.name, format) is not format:
        raise ValueError(f"the name of the format {format.name!r} is taken")
    _table[format.name] = format
    return format


def registered() -> dict[str, Format]:
    """Name -> format, of those entered so far, in the order in which people are told of them."""
    return {format.name: format for format in sorted(_table.values(), key=lambda format: format.order)}


def load_entry_points() -> None:
    """Enter the formats of other distributions; one that fails is named in a warning, and the others are entered."""
    for entry in metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if isinstance(loaded, Format):
                register(loaded)
        except Exception as error:  # whatever another distribution does wrong must not stop this one
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _log.warning("the format %r of %s cannot be used: %s", entry.name, entry.value, reason)
