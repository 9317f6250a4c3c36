# SPDX-License-Identifier: BSD-3-Clause
"""The exception for errors that the user can correct.

Invalid files, keys and options raise :class:`InputError` with one sentence that names the file, the key and what was
expected. The command line prints the sentence and exits with status 2. Any other exception is a defect of the program
and has a traceback.
"""

from __future__ import annotations

import difflib
from pathlib import Path


class InputError(ValueError):
    """A file, an option or an argument that cannot be used; the message names it and the correction."""


class RemoteError(InputError):
    """An error that another process reports: this process ends without printing it.

    Args:
        sentence: the error of the other process.
        lost: the other process has ended unexpectedly; otherwise this process has the same error.
    """

    def __init__(self, sentence: str, *, lost: bool = False) -> None:
        super().__init__(sentence)
        self.lost = lost


def not_found(path: str | Path, expected: str = "") -> InputError:
    """Make the error about a file or folder that does not exist, with the most similar name in its folder.

    Args:
        path: as the user wrote it.
        expected: kind of file, for the message.

    Returns:
        The error, to raise.

    Example:
        >>> str(not_found("no_such_scan.npz"))
        'no_such_scan.npz: not found'
    """
    folder, sentence = Path(path).parent, f"{path}: not found"
    if Path(path).is_symlink():
        return InputError(f"{path}: a link to {Path(path).readlink()}, which was not found")
    try:
        names = [entry.name for entry in folder.iterdir() if entry.suffix or not Path(path).suffix]  # files, of a file
        similar = difflib.get_close_matches(Path(path).name, names, n=1)
    except OSError:
        similar = []
        sentence += f", nor is its folder {folder}"
    if similar:
        sentence += f"; did you mean {folder / similar[0]}?"
    return InputError(f"{sentence}{f'; expected {expected}' if expected else ''}")
