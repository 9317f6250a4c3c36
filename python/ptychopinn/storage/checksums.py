# SPDX-License-Identifier: BSD-3-Clause
"""Checksums of our own files, so that a flipped bit is an error and never another number.

HDF5 verifies chunks with the filter Fletcher32; it has no checksum for what lies between: headers, attributes, texts
and single numbers. So a CRC-32 of everything but those chunks is added after the end of the HDF5 data, where other
programs do not look. A program that changes the file cuts the addition off, and with it the check. Zip archives (NPZ,
bundles, checkpoints) have a CRC-32 of every member.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError

_MAGIC = b"ptychopinn-crc32"
#: Bytes of HDF5 data, number of chunk ranges, CRC-32; before it (first byte, end) of each range.
_FOOTER = struct.Struct(f"<QQI{len(_MAGIC)}s")
_RANGE = struct.Struct("<QQ")
_BLOCK = 1 << 20
#: What is wrong with a damaged file, and what to do.
DAMAGED = "expected the data that were written, found others, so the file is damaged: copy or export it again"


def seal(path: Path, file: io.RawIOBase) -> None:
    """Add a checksum to an HDF5 file that is complete.

    Args:
        path: the file.
        file: the same, open to write.
    """
    import h5py

    with h5py.File(path, "r") as written:
        ranges = list(_merged(sorted(_chunks(written))))
    size = path.stat().st_size
    packed = b"".join(_RANGE.pack(*part) for part in ranges)
    with path.open("rb") as stream:
        crc = zlib.crc32(packed, _crc(stream, ranges, size))
    file.seek(size)
    file.write(packed + _FOOTER.pack(size, len(ranges), crc, _MAGIC))


def check_seal(path: Path) -> None:
    """Verify the checksum of an HDF5 file that this package wrote; other files have none.

    Raises:
        InputError: the file is damaged.
    """
    with path.open("rb") as stream:
        total = stream.seek(0, io.SEEK_END)
        if total < _FOOTER.size:
            return
        stream.seek(total - _FOOTER.size)
        size, count, crc, magic = _FOOTER.unpack(stream.read(_FOOTER.size))
        if magic != _MAGIC:
            return
        if size + count * _RANGE.size + _FOOTER.size == total:
            stream.seek(size)
            packed = stream.read(count * _RANGE.size)
            ranges = list(_RANGE.iter_unpack(packed))
            if _ordered(ranges, size) and zlib.crc32(packed, _crc(stream, ranges, size)) == crc:
                return
    raise InputError(f"{path}: {DAMAGED}")


class RunningChecksum:
    """The CRC-32 of an array that is read in parts, known after the first pass over all rows in order.

    Args:
        expected: of the whole array and what precedes it.
        before: bytes that precede the array.
        rows: number of rows.
    """

    def __init__(self, expected: int, before: bytes, rows: int) -> None:
        self._expected, self._rows = expected, rows
        self._crc, self._next = zlib.crc32(before), 0
        self._lock = threading.Lock()

    def agrees(self, rows: NDArray[np.int64], values: NDArray[Any]) -> bool:
        """Take the next rows; False if all were read, and are others than were written. Other rows are passed over."""
        with self._lock:
            if self._next == self._rows or not len(rows) or rows[0] != self._next:
                return True
            if len(rows) != rows[-1] - rows[0] + 1:
                return True
            self._crc = zlib.crc32(values.reshape(-1).view(np.uint8).data, self._crc)
            self._next += len(rows)
            return self._next < self._rows or self._crc == self._expected


#: Bytes of the record at the end of an archive, and of the longest comment after it.
_ARCHIVE_END, _LONGEST_COMMENT = 22, 0xFFFF
#: What NumPy raises for a header that is damaged.
NOT_AN_ARRAY = (ValueError, SyntaxError, EOFError, tokenize.TokenError)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_names(archive: zipfile.ZipFile) -> None:
    """Verify what the checksums of an archive's members do not cover, so that a flipped bit cannot hide data.

    That are the names, which an archive holds twice; the number of members, of which a damaged directory skips some;
    and the shapes in the headers of arrays: one that is too small ends before the checksum is compared.

    Raises:
        zipfile.BadZipFile: the archive is damaged.
    """
    members = archive.infolist()
    stated = _stated_members(archive)
    if stated is not None and stated != len(members):
        raise zipfile.BadZipFile(f"{stated} members are stated, {len(members)} are listed")
    for member in members:
        with archive.open(member) as stream:
            expected = _array_bytes(stream) if member.filename.endswith(".npy") else None
        if expected is not None and expected < member.file_size:  # the reader reports larger ones
            raise zipfile.BadZipFile(f"{member.filename}: {member.file_size} bytes, its header states {expected}")


def _stated_members(archive: zipfile.ZipFile) -> int | None:
    """The number of members that the end of an archive states; None where it is in an extension for large ones."""
    file = archive.fp
    if file is None:
        return None
    before, size = file.tell(), file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _ARCHIVE_END - _LONGEST_COMMENT))
    end = file.read()
    file.seek(before)
    found = end.rfind(b"PK\x05\x06")
    if found < 0 or found + _ARCHIVE_END > len(end):
        return None
    number = int.from_bytes(end[found + 10 : found + 12], "little")
    return None if number == 0xFFFF else number


def _array_bytes(stream: IO[bytes]) -> int | None:
    """Bytes of an .npy member by its header, which is included; None for objects and for what is no array."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            return None
        shape, _, dtype = _HEADERS[version](stream)
    except (*NOT_AN_ARRAY, zipfile.BadZipFile, zlib.error):
        return None  # the reader reports it
    return None if dtype.hasobject else stream.tell() + math.prod(shape) * dtype.itemsize


def check_zip(path: Path) -> None:
    """Verify all members of a zip archive, for readers that do not, as torch.load; other files are left to them.

    Raises:
        InputError: the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise InputError(f"{path}: {DAMAGED} ({error})") from None
    if broken is not None:
        raise InputError(f"{path}: {broken}: {DAMAGED}")


def _chunks(file: Any) -> Iterator[tuple[int, int]]:
    """First byte and end of all chunks that have a checksum of their own."""
    import h5py

    found: list[tuple[int, int]] = []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.fletcher32 and node.chunks is not None:
            # The filter mask is not 0 where a chunk was stored without its filters.
            node.id.chunk_iter(
                lambda chunk: (
                    found.append((chunk.byte_offset, chunk.byte_offset + chunk.size)) if not chunk.filter_mask else None
                )
            )

    file.visititems(look)
    yield from found


def _merged(parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges in order, with those that touch as one."""
    begin, end = 0, 0
    for first, last in parts:
        if first > end:
            if end > begin:
                yield begin, end
            begin = first
        elif end == begin:
            begin = first
        end = max(end, last)
    if end > begin:
        yield begin, end


def _ordered(ranges: list[tuple[int, ...]], size: int) -> bool:
    edges = [edge for part in ranges for edge in part]
    return edges == sorted(edges) and (not edges or edges[-1] <= size)


def _crc(stream: IO[bytes], ranges: list[Any], size: int) -> int:
    """CRC-32 of the first `size` bytes without these ranges."""
    crc, position = 0, 0
    for first, end in [*ranges, (size, size)]:
        stream.seek(position)
        while position < first:
            block = stream.read(min(_BLOCK, first - position))
            if not block:
                return -1
            crc = zlib.crc32(block, crc)
            position += len(block)
        position = end
    return crc
