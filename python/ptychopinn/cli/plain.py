# SPDX-License-Identifier: BSD-3-Clause
"""Output on terminals without Unicode, as batch systems and pipes have them: plain text instead of an error.

What the encoding of standard output or standard error lacks is written in ASCII: signs of units as letters, and other
characters, as in names of files, as escapes.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HANDLER = "ptychopinn.plain"

#: Signs that have a usual notation in ASCII.
_ASCII = {
    "\N{MICRO SIGN}": "u",
    "\N{GREEK SMALL LETTER MU}": "u",
    "\N{ANGSTROM SIGN}": "A",
    "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": "A",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{DEGREE SIGN}": " deg",
    "\N{SUPERSCRIPT TWO}": "^2",
    "\N{MINUS SIGN}": "-",
    "\N{HYPHEN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{NO-BREAK SPACE}": " ",
}


@contextmanager
def plain_output() -> Iterator[None]:
    """Context manager in which what standard output and standard error cannot encode is written in ASCII.

    Streams that encode nothing, such as those of a notebook, are left alone.
    """
    codecs.register_error(_HANDLER, _in_ascii)
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # closed, or nobody reads it any more
                stream.reconfigure(errors=errors)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """The handler of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_written(character) for character in error.object[error.start : error.end]), error.end


def _written(character: str) -> str:
    if character in _ASCII:
        return _ASCII[character]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()
