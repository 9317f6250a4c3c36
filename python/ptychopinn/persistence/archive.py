# SPDX-License-Identifier: BSD-3-Clause
"""Members of a zip archive: read by name, with bounded size and one error for every fault."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from ptychopinn.errors import InputError

_MAX_BYTES = 4 << 30


def read_member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    """Read a member of an archive.

    Args:
        archive: the open archive.
        path: of the archive, for errors.
        name: of the member.

    Raises:
        InputError: the member is missing, too large or damaged.
    """
    if name not in archive.namelist():
        fail(path, name, "a bundle with this member", f"only {', '.join(archive.namelist()) or 'an empty archive'}")
    size = archive.getinfo(name).file_size
    if size > _MAX_BYTES:
        fail(path, name, f"at most {_MAX_BYTES} bytes", f"{size}")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        fail(path, name, "an intact member", f"a damaged one: {error}")


def fail(path: Path, member: str, expected: str, found: str, way: str = "copy it again, or train again") -> NoReturn:
    """Raise the InputError of a member: what was expected, what was found, and the way out."""
    raise InputError(f"{path}: {member}: expected {expected}, found {found}; {way}") from None
