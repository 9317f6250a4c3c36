# SPDX-License-Identifier: BSD-3-Clause
"""The one exception that means "the user can mend this".

Everything a user can get wrong (a file, a key, an option) raises :class:`InputError` with one sentence that names
the file, the key and what was expected. The command line prints that sentence and exits with status 2; any other
exception is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from pathlib import Path


class InputError(ValueError):
    """A file, an option or an argument is not usable; the message says which, and how to mend it."""


class RemoteError(InputError):
    """Another of several processes reports the error and fails for all: this one ends without printing anything.

    Args:
        sentence: what is wrong.
        lost: this process cannot continue because the other one has ended, rather than for the same reason.
    """

    def __init__(self, sentence: str, *, lost: bool = False) -> None:
        super().__init__(sentence)
        self.lost = lost


def not_found(path: str | Path, expected: str = "") -> InputError:
    """The error about a file or folder that does not exist, with the most similar name in its folder if there is one.

    Args:
        path: as the user wrote it.
        expected: what it should be, where the name alone does not tell.

    Example:
        >>> str(not_found("no_such_scan.npz"))
        'no_such_scan.npz: not found'
    """
    folder, sentence = Path(path).parent, f"{path}: not found"
    try:
        similar = difflib.get_close_matches(Path(path).name, [entry.name for entry in folder.iterdir()], n=1)
    except OSError:
        similar = []
        sentence += f", nor is its folder {folder}"
    if similar:
        sentence += f"; did you mean {folder / similar[0]}?"
    return InputError(f"{sentence}{f'; expected {expected}' if expected else ''}")
