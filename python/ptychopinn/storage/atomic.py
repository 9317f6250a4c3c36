# SPDX-License-Identifier: BSD-3-Clause
"""Atomic writes: a temporary file beside the destination, which is renamed to it when it is complete.

A reader never sees a partial file, and a failed run does not change the previous one. The temporary file is in the
destination folder because a rename is atomic only within one file system. Every writer of the package uses this, so
that a full disk is the same sentence for all of them.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptychopinn.errors import InputError

#: Errors of the storage, which the user can correct, and no defect of the program.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_STORAGE_ERRORS = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
_RETRIED = 1 << 16
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))

#: Temporary path -> destination, for the sentences of a writer that is given a temporary path.
_destinations: dict[Path, Path] = {}


@contextmanager
def atomic_path(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """Context manager that yields a temporary path, renamed to `path` when the block succeeds and removed otherwise.

    Args:
        path: the destination; missing parent folders are created and an existing file is replaced.
        needed: bytes that will be written, at least; they are known to fit before the block begins.

    Yields:
        A path in the same folder with the same suffix; the block must create that file.

    Raises:
        InputError: the destination is a folder, or its folder cannot be made or written to; the disk is full, or fails
            while the block writes.

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
    shown = _destinations.get(path, path)
    if (free := free_space(path.parent)) is not None and needed > free:
        raise InputError(f"{shown}: {_full(shown.parent, needed, free, '')}")
    # A random name instead of mkstemp: the writer then creates the file with the permissions of the user's umask.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    _destinations[temporary] = shown
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if isinstance(error, InputError):
            raise
        cause = _storage_error(error) or (_retried(temporary) if isinstance(error, RuntimeError) else None)
        if cause is None:
            raise
        raise InputError(f"{shown}: {_sentence(shown, temporary, needed, cause)}") from error
    finally:
        del _destinations[temporary]
        _remove(temporary)


def free_space(folder: str | Path) -> int | None:
    """Bytes that can be written to a folder, None if the file system does not tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _storage_error(error: BaseException | None) -> OSError | None:
    """The error of the storage that an exception is, or that led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None


def _retried(path: Path) -> OSError | None:
    """The error of one more write to a file, None without one: torch.save does not tell why a write failed."""
    try:
        with path.open("ab", buffering=0) as file:
            file.write(bytes(_RETRIED))
            file.write(bytes(_RETRIED))  # the first may end early
    except OSError as error:
        return _storage_error(error)
    return None


def _sentence(path: Path, temporary: Path, needed: int, error: OSError) -> str:
    if error.errno not in _FULL:
        return f"cannot be written: {os.strerror(error.errno or 0)}"
    try:
        written = temporary.stat().st_size
    except OSError:
        written = 0
    _remove(temporary)  # what is free without it
    free = free_space(path.parent)
    return _full(path.parent, needed or written, free, "" if needed else "more than ")


def _full(folder: Path, needed: int, free: int | None, more: str) -> str:
    quota = free is not None and free > needed + _RETRIED  # what others wrote meanwhile, or a limit of this user
    available = "" if free is None else f", {_size(free)} available"
    return (
        f"the disk is full{' or a quota is used up' if quota else ''}: {more}{_size(needed)} needed{available} in "
        f"{folder}; free some space, or write to another disk"
    )


def _remove(path: Path) -> None:
    with suppress(OSError):  # a storage that fails; the error that led here is the one to report
        path.unlink(missing_ok=True)


def _size(count: int) -> str:
    name, unit = next(((name, unit) for name, unit in _UNITS if count >= unit), ("bytes", 1))
    return f"{count / unit:.3g} {name}"
