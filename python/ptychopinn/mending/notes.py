# SPDX-License-Identifier: BSD-3-Clause
"""A note of what a mend did to a scan, in words and for the metadata of the scan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ptychopinn._one_line import one_line
from ptychopinn.scan import Scan

#: Key of a scan's metadata with the notes, oldest first. They are a log for people.
KEY = "mended"


@dataclass(frozen=True)
class Note:
    """What a mend did.

    Attributes:
        name: of the mend, as its option in Python.
        text: a sentence with the numbers.
        values: the numbers by name, JSON types.
    """

    name: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)

    __repr__ = one_line

    def __str__(self) -> str:
        return f"{self.name.replace('_', '-')}: {self.text}"


def with_notes(scan: Scan, notes: Iterable[Note], origin: str | None = None) -> Scan:
    """The scan with these notes added to those in its metadata.

    Args:
        scan: the scan.
        notes: what was done to it, in order.
        origin: path of the file that was mended.
    """
    log = [
        {"mend": note.name, "text": note.text, **note.values, **({} if origin is None else {"file": origin})}
        for note in notes
    ]
    metadata = dict(scan.metadata)
    metadata[KEY] = [*metadata.get(KEY, []), *log]
    return replace(scan, metadata=metadata)


def quantity(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> quantity(1, "pixel"), quantity(2, "pixel")
        ('1 pixel', '2 pixels')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
