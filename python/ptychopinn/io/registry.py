# SPDX-License-Identifier: BSD-3-Clause
"""Registry of scan formats.

Each module of :mod:`ptychopinn.io.formats` registers its formats. Other distributions provide an entry point of the
group ``ptychopinn.formats`` that names a :class:`Format`, or a module that registers formats when it is imported. This
module imports no format; :func:`ptychopinn.io.scans.formats` loads them on first use.
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

#: Entry point group of formats of other distributions.
GROUP = "ptychopinn.formats"

_log = logging.getLogger(__name__)
_table: dict[str, Format] = {}


def _itself(path: Path) -> tuple[Path, ...]:
    return (path,)


@dataclass(frozen=True)
class Format:
    """A file format of scans.

    Args:
        name: value of the option `format`.
        description: one line for help texts.
        suffixes: of its files, lower case, with the dot; the first is the usual one.
        recognise: whether the content of a file has this format.
        read: read a scan from a file with the caller's options; InputError if the file cannot be used.
        write: write a scan atomically; None if the format is read-only.
        files_of: all files that are written for a path.
        takes: options "positions", "partner" and "patterns", if this format uses them.
        last_resort: only for files that no other format recognises.
        order: position in lists of formats, ascending; formats of this package have 10 to 80.
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
    """Add a format to the registry, and return it.

    Raises:
        ValueError: the name is that of another format, or "auto".
    """
    if format.name == "auto" or _table.get(format.name, format) is not format:
        raise ValueError(f"the name of the format {format.name!r} is taken")
    _table[format.name] = format
    return format


def registered() -> dict[str, Format]:
    """Registered formats by name, sorted by their `order`."""
    return {format.name: format for format in sorted(_table.values(), key=lambda format: format.order)}


def load_entry_points() -> None:
    """Register the formats of other distributions; one that fails is omitted with a warning."""
    for entry in metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if isinstance(loaded, Format):
                register(loaded)
        except Exception as error:  # an error in another distribution must not prevent the use of other formats
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _log.warning("the format %r of %s cannot be used: %s", entry.name, entry.value, reason)
