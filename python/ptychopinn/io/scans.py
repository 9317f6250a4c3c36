# SPDX-License-Identifier: BSD-3-Clause
"""Reading and writing of scan files, implementing :meth:`Scan.load` and :meth:`Scan.save`.

The format of a file to read is recognised by its content, or by its suffix if it is damaged. The suffix also selects
the format to write. To add a format, see :mod:`ptychopinn.io.registry`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from ptychopinn.errors import InputError, not_found
from ptychopinn.io.candidates import choices_in
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, load_entry_points, registered
from ptychopinn.io.sniff import HDF5_SUFFIXES, Content, content_of
from ptychopinn.scan import Scan

#: First bytes of compressed files -> the program, and the command that unpacks them.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip FILE.gz"),
    b"BZh": ("bzip2", "bunzip2 FILE.bz2"),
    b"\xfd7zXZ": ("xz", "unxz FILE.xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd FILE.zst"),
}

_log = logging.getLogger(__name__)
_loading = threading.RLock()
_loaded = False


def formats() -> dict[str, Format]:
    """All formats by name, sorted by their `order`; imported on the first call."""
    global _loaded
    with _loading:
        if not _loaded:
            _loaded = True
            import ptychopinn.io.formats  # noqa: F401  each module of it registers its formats

            load_entry_points()
    return registered()


def read_scan(path: str | Path, format: str = "auto", **stated: Any) -> Scan:
    """Read a scan; see :meth:`Scan.load`.

    Args:
        path: the file, or for some formats a folder.
        format: name of the format, or "auto".
        **stated: fields of :class:`~ptychopinn.io.options.ReadOptions`.

    Raises:
        InputError: an option is for another format, or the file cannot be used.
    """
    options = ReadOptions(**stated)
    found = format_to_read(path, format, options)
    for option in ("positions", "partner", "patterns"):
        if getattr(options, option) is not None and option not in found.takes:
            owners = " or ".join(name for name, other in formats().items() if option in other.takes)
            raise InputError(
                f"{path}: {option} can be stated for scans of the format {owners} only, found one of {found.name}; "
                "format= (--format) reads it as another"
            )
    began = time.perf_counter()
    scan = found.read(Path(path), options)
    _log.debug(
        "%s: read as %s in %.2f s: %d patterns of %d px, %s",
        path, found.name, time.perf_counter() - began, scan.n, scan.patch_size, scan.decisions,
    )  # fmt: skip
    return scan


def write_scan(scan: Scan, path: str | Path, format: str = "auto", overwrite: bool = True) -> None:
    """Write a scan atomically; see :meth:`Scan.save`.

    Raises:
        InputError: the format is read-only, a file exists and `overwrite` is False, or the scan lacks a value.
    """
    target = format_to_write(path, format)
    if target.write is None:
        raise InputError(f"{path}: scans of the format {target.name} can be read but not written; {_writable()}")
    for file in target.files_of(Path(path)):
        if not overwrite and file.exists():
            raise InputError(f"{file}: the file exists and overwrite is False")
    target.write(scan, Path(path))


def format_named(name: str) -> Format:
    """The format of this name; InputError if there is none."""
    known = formats()
    if name not in known:
        raise InputError(f"format must be auto or one of {', '.join(known)}, got {name!r}")
    return known[name]


def format_to_read(path: str | Path, name: str = "auto", options: ReadOptions | None = None) -> Format:
    """Determine the format of a file: the named one, or the one that recognises the content.

    A file that none recognises is one of plain arrays, or an NPZ file, if the caller states where its patterns are.

    Raises:
        InputError: no format or several formats recognise the file, or it cannot be opened.
    """
    if name != "auto":
        return format_named(name)
    content = content_of(path)
    if content.kind == "missing":
        raise not_found(path)
    # Here, since these modules register formats, whose order is that of :func:`formats`.
    from ptychopinn.io.products import is_nexus_result
    from ptychopinn.io.reconstructions import has_reconstruction

    known = formats().values()
    if has_reconstruction(content) or is_nexus_result(content):
        raise InputError(
            f"{path}: expected a scan, found a reconstruction, which has no patterns; `ptychopinn plot` draws one, and "
            "`ptychopinn evaluate RECON.h5 SCAN` compares it with the truth of a scan"
        )
    found = [format for format in known if not format.last_resort and format.recognise(content)]
    found = found or [format for format in known if format.last_resort and format.recognise(content)]
    if len(found) == 1:
        return found[0]
    if not found and options is not None and (options.patterns or options.positions):
        plain = {"hdf5": "arrays", "npz": "npz"}.get(content.kind)
        if plain is not None:
            return format_named(plain)
    listed = ", ".join(formats())
    if found:
        several = " and ".join(format.name for format in found)
        raise InputError(
            f"{path}: expected a scan of one format, found what {several} read; name one with format= (--format)"
        )
    by_suffix = _with_suffix(path)
    if len(by_suffix) == 1:
        return by_suffix[0]  # its reader raises the error
    if content.kind in ("empty", "other") and Path(path).suffix.lower() in HDF5_SUFFIXES:
        raise InputError(
            f"{path}: expected an HDF5 file, found {_described(content)}; "
            "copy it again, or name its format with --format"
        )
    raise InputError(
        f"{path}: expected a scan in one of the formats {listed}, found {_described(content)}; "
        f"name its format with format= (--format) if it is one{choices_in(Path(path)) if content.names else ''}"
    )


def format_to_write(path: str | Path, name: str = "auto") -> Format:
    """Determine the format to write: the named one, or the one of the suffix.

    Raises:
        InputError: no format that can be written has the suffix, or several have it.
    """
    if name != "auto":
        return format_named(name)
    found = [format for format in _with_suffix(path) if format.write is not None]
    if len(found) != 1:
        suffix = Path(path).suffix
        raise InputError(
            f"{path}: expected a scan file ending in {' or '.join(_suffixes())}, found {suffix or 'no suffix'!r}; "
            f"or name a format with format= (--to): {_writable()}"
        )
    return found[0]


def _writable() -> str:
    return f"{', '.join(format.name for format in formats().values() if format.write)} can be written"


def _with_suffix(path: str | Path) -> list[Format]:
    return [format for format in formats().values() if Path(path).suffix.lower() in format.suffixes]


def _suffixes() -> list[str]:
    return [format.suffixes[0] for format in formats().values() if format.write and format.suffixes]


def _described(content: Content) -> str:
    """The content of a file in words, for errors."""
    if content.kind in ("npz", "hdf5", "folder"):
        names = sorted(name for name in content.names if "/" not in name)[:8]
        holder = {"npz": "a zip archive", "hdf5": "HDF5", "folder": "a folder"}[content.kind]
        return f"{holder} with {', '.join(names) or 'nothing in it'}"
    if content.kind == "other":
        with content.path.open("rb") as file:
            start = file.read(8)
        if start == b"\x89HDF\r\n\x1a\n":
            return content.fault or "an HDF5 file that is truncated, damaged or still being written"
        for magic, (name, command) in _COMPRESSED.items():
            if start.startswith(magic):
                return f"a file compressed with {name}: unpack it first ({command})"
    texts = {"empty": "an empty file (0 bytes)", "npy": "an array without positions"}
    return texts.get(content.kind, "neither HDF5 nor an NPZ archive")
