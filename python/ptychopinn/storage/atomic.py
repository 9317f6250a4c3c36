# SPDX-License-Identifier: BSD-3-Clause
"""Atomic writes: a temporary file beside the destination, which is renamed to it when it is complete.

A reader never sees a partial file, and a failed run does not change the previous one. The temporary file is in the
destination folder because a rename is atomic only within one file system. Every writer of the package uses this.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptychopinn.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Context manager that yields a temporary path, renamed to `path` when the block succeeds and removed otherwise.

    Args:
        path: the destination; missing parent folders are created and an existing file is replaced.

    Yields:
        A path in the same folder with the same suffix; the block must create that file.

    Raises:
        InputError: the destination is a folder, or its folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "note.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("complete")
        >>> target.read_text()
        'complete'
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected the name of a file to write, found a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be created: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: expected a folder that can be written to, found {path.parent} read-only")
    # A random name instead of mkstemp: the writer then creates the file with the permissions of the user's umask.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
