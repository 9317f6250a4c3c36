# SPDX-License-Identifier: BSD-3-Clause
"""Members of a zip archive, read by name and of bounded size, with one sentence for whatever is wrong with them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from ptychopinn.errors import InputError

_LARGEST = 4 << 30


def read_member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    """The member ``name`` of the archive at ``path``.

    Raises:
        InputError: there is none, it is too large, or it is damaged.
    """
    if name not in archive.namelist():
        fail(path, name, "a bundle with this member", f"only {', '.join(archive.namelist()) or 'an empty archive'}")
    size = archive.getinfo(name).file_size
    if size > _LARGEST:
        fail(path, name, f"at most {_LARGEST} bytes", f"{size}")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        fail(path, name, "an intact member", f"a damaged one: {error}")


def fail(path: Path, member: str, expected: str, found: str) -> NoReturn:
    """Raise the InputError about a member."""
    raise InputError(f"{path}: {member}: expected {expected}, found {found}") from None
