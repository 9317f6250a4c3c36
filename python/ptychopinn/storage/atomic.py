# SPDX-License-Identifier: BSD-3-Clause
"""Atomic writes: a temporary file beside the destination, which is renamed to it when it is complete.

A reader never sees a partial file, and a failed run does not change the previous one. The temporary file is in the
destination folder because a rename is atomic only within one file system. Every writer of the package uses this, so
that a full disk is the same sentence for all of them; tests/test_writers.py looks for others.

The name of a temporary file has the process that writes it. What a process left that was killed is removed by the next
one that writes to the same destination.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ptychopinn.errors import InputError
from ptychopinn.storage.owners import OWNER, parse_owner, this_process

#: Errors of the storage, which the user can correct, and no defect of the program.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_STORAGE_ERRORS = (
    *_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT,
    *(getattr(errno, name) for name in ("EREMOTEIO", "ENOTCONN") if hasattr(errno, name)),
)  # fmt: skip
_QUOTA = 1 << 16
_BUFFER = 1 << 20
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
#: Seconds after which the temporary file of a process of another host counts as left behind.
_ABANDONED = 24 * 3600.0
#: Bytes of the destination's name in that of a temporary file: names have at most 255.
_STEM = 120
_WRITER = re.compile(rf"\.({OWNER})-[0-9a-f]{{8}}")
_TEMPORARY = re.compile(rf"\.+(?P<stem>.+?)(?:\.{OWNER}-[0-9a-f]{{8}})+(?P<suffix>\.[^.]*)?")

#: Temporary path -> destination, for the sentences of a writer that is given a temporary path.
_destinations: dict[Path, Path] = {}


@contextmanager
def atomic_path(path: str | Path, needed: int = 0, *, durable: bool = True) -> Iterator[Path]:
    """Context manager that yields a temporary path, renamed to `path` when the block succeeds and removed otherwise.

    Args:
        path: the destination; missing parent folders are created and an existing file is replaced.
        needed: bytes that will be written, at least; they are known to fit before the block begins.
        durable: the file is on the disk before it replaces an earlier one, so that a power failure leaves the one or
            the other. It costs milliseconds; a picture does without.

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
        raise InputError(f"{path}: expected the name of a file to write, found a folder; name a file in it")
    make_folder(path.parent, path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: expected a folder that can be written to, found {path.parent} read-only; name another"
        )
    shown = _destinations.get(path, path)
    remove_leftovers(path.parent, path.name)
    if (free := free_space(path.parent)) is not None and needed > free:
        raise InputError(f"{shown}: {_full(shown.parent, needed, free, '')}")
    # A name of our own instead of mkstemp: the writer then creates the file with the permissions of the user's umask.
    name = f".{_short(path.stem)}.{this_process()}-{secrets.token_hex(4)}{path.suffix}"
    temporary = path.with_name(name)
    _destinations[temporary] = shown
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)
    except Exception as error:
        if isinstance(error, InputError):
            raise
        cause = storage_error(error)
        if cause is None:
            raise
        raise InputError(_sentence(shown, temporary, needed, cause)) from error
    finally:
        del _destinations[temporary]
        _remove(temporary)


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Context manager of a new binary file that replaces `path` when the block succeeds, see :func:`atomic_path`.

    For libraries that lose the reason why a write failed: it is raised here, whatever they raise.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "data.bin"
        >>> with atomic_file(target) as file:
        ...     _ = file.write(b"complete")
        >>> target.read_bytes()
        b'complete'
    """
    with atomic_path(path, durable=durable) as temporary:
        raw = RememberingFile(temporary)
        file = io.BufferedWriter(raw, _BUFFER)
        try:
            yield cast("BinaryIO", file)
        except Exception:
            file.close()
            raw.check()  # what the library raises is a consequence
            raise
        finally:
            file.close()
        raw.check()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file, atomically."""
    with atomic_file(path, durable=durable) as file:
        file.write(data)


class RememberingFile(io.RawIOBase):
    """A new file without a buffer, which keeps its first error, and drops what is written after it.

    Args:
        path: the file, which is created.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the first error."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()  # some file systems tell only now that they are full
        except OSError as error:
            self.error = self.error or error
        super().close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view) and self.error is None:
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        pass  # there is no buffer


def make_folder(folder: Path, shown: Path | None = None) -> None:
    """Make a folder and its parents, if they are missing.

    Args:
        folder: the folder.
        shown: what it is made for, for the error.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        subject = f"{folder}:" if shown is None else f"{shown}: its folder"
        wanted = "expected a folder that can be made, found:" if shown is None else "cannot be created:"
        raise InputError(f"{subject} {wanted} {error.strerror}") from error


def _short(stem: str) -> str:
    """The beginning of a name, whose length systems count in bytes."""
    return os.fsdecode(os.fsencode(stem)[:_STEM].decode("utf-8", "ignore").encode("utf-8"))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of processes that have ended.

    Those of another host are removed a day after their last change.

    Args:
        folder: of the files.
        name: of the destination; None: of any.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name) if entry.name.startswith(".") else None
            if found is None or (name is not None and not _is_for(found, Path(name))):
                continue
            owner = parse_owner(_WRITER.findall(entry.name)[-1])
            runs = True if owner is None else owner.runs
            if runs is None:
                runs = time.time() - entry.stat().st_mtime < _ABANDONED
            if not runs:
                _remove(Path(entry.path))


def _is_for(temporary: re.Match[str], name: Path) -> bool:
    return temporary["stem"].lstrip(".") == _short(name.stem).lstrip(".") and (temporary["suffix"] or "") == name.suffix


def free_space(folder: str | Path) -> int | None:
    """Bytes that can be written to a folder, None if the file system does not tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def storage_error(error: BaseException | None) -> OSError | None:
    """The error of the storage that an exception is, or that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def cannot_be_written(path: Path, error: OSError, written: int = 0) -> InputError:
    """The error for a file on a storage that is full, or fails.

    Args:
        path: the file.
        error: of the storage, see :func:`storage_error`.
        written: bytes that it has taken.
    """
    if error.errno not in _FULL:
        return InputError(f"{path}: cannot be written: {os.strerror(error.errno or 0)}")
    return InputError(f"{path}: {_full(path.parent, written, free_space(path.parent), 'more than ')}")


def _sentence(path: Path, temporary: Path, needed: int, error: OSError) -> str:
    try:
        written = temporary.stat().st_size
    except OSError:
        written = 0
    _remove(temporary)  # what is free without it
    if error.errno not in _FULL or not needed:
        return str(cannot_be_written(path, error, written))
    return f"{path}: {_full(path.parent, needed, free_space(path.parent), '')}"


def _full(folder: Path, needed: int, free: int | None, more: str) -> str:
    quota = free is not None and free > needed + _QUOTA  # what others wrote meanwhile, or a limit of this user
    available = "" if free is None else f", {_size(free)} available"
    return (
        f"the disk is full{' or a quota is used up' if quota else ''}: {more}{_size(needed)} needed{available} in "
        f"{folder}; free some space, or write to another disk"
    )


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: they are not; some storages tell only now.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if folder:  # as on Windows
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if storage_error(error) is not None and not folder:
            raise
        # Otherwise a file system that does not flush, or a file that is in place already.
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a storage that fails; the error that led here is the one to report
        path.unlink(missing_ok=True)


def _size(count: int) -> str:
    name, unit = next(((name, unit) for name, unit in _UNITS if count >= unit), ("bytes", 1))
    return f"{count / unit:.3g} {name}"
