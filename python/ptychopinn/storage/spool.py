# SPDX-License-Identifier: BSD-3-Clause
"""Frames and positions of a running scan in a folder, appended as they come and never rewritten.

A frame is written before its record, so whatever ends the program, the records that are there are of complete frames;
what follows the last one is cut off when the folder is opened again. Counts are in one file of one type; where a frame
needs a wider one, the file is written again. In memory there are 24 bytes for a frame.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn.errors import InputError
from ptychopinn.storage.atomic import atomic_file, storage_error, write_text
from ptychopinn.storage.blocks import FlatFile
from ptychopinn.storage.stored import StoredPatterns

#: File of the facts, by which a folder is known to be one of these.
FACTS_NAME = "spool.json"
_VERSION = 1
_RECORD = np.dtype([("index", "<i8"), ("crc", "<u4"), ("reserved", "<u4")])
_POSITION = np.dtype([("index", "<i8"), ("y", "<f8"), ("x", "<f8")])
_TYPES = ("uint8", "uint16", "uint32", "uint64", "float32")
#: Frames at the end whose checksums are verified when a folder is opened again.
_VERIFIED = 256
#: Indexes of a chunk of the tables in memory.
_CHUNK = 4096
#: Bytes of frames that are converted at a time.
_BLOCK = 64 << 20


class Spool:
    """Frames (N, N) of a scan and their positions, by index, in a folder.

    Args:
        folder: of an earlier spool, or one that :meth:`create` has made.

    Raises:
        InputError: the folder is not a spool, or of a later version of the package.

    Attributes:
        facts: JSON values that were given when it was made.
        size: N.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            stated = json.loads((self.folder / FACTS_NAME).read_text())
            version, self.size, self.facts = int(stated["version"]), int(stated["size"]), dict(stated["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.folder}: expected the folder of the frames of a live run, found no valid {FACTS_NAME}; "
                "`ptychopinn live` makes one, NAME.frames"
            ) from None
        if version != _VERSION:
            raise InputError(f"{self.folder}: is of a later version of this package; update it")
        self._rows, self._positions = _ByIndex(1, np.int64, -1), _ByIndex(2, np.float64, np.nan)
        self._indexes = _Growing(np.int64)
        self.dtype: np.dtype[Any] | None = None
        found = [name for name in _TYPES if self._frames(name).exists() and self._log(name).exists()]
        if found:  # two, where the end came before the narrower copy was removed
            self.dtype = max((np.dtype(name) for name in found), key=lambda kind: (kind.itemsize, kind.kind == "f"))
        self._read_records()

    @classmethod
    def create(cls, folder: str | Path, size: int, facts: Mapping[str, Any]) -> Spool:
        """Make an empty spool for frames (size, size).

        Args:
            folder: a new or empty one.
            size: N.
            facts: JSON values.

        Raises:
            InputError: the folder has files, or cannot be made.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: expected a new folder for the frames, found one with files; remove it")
        write_text(folder / FACTS_NAME, json.dumps({"version": _VERSION, "size": size, "facts": facts}, indent=1))
        return cls(folder)

    def __len__(self) -> int:
        return len(self._indexes)

    @property
    def indexes(self) -> NDArray[np.int64]:
        """Indexes of the frames in the order of their arrival, (n,)."""
        return self._indexes.values

    def has(self, index: int) -> bool:
        """Whether there is a frame of this index."""
        return bool(self._rows.get(np.array([index]))[0, 0] >= 0)

    def positions(self, indexes: ArrayLike) -> NDArray[np.float64]:
        """Positions (k, 2), (y, x), of frames; NaN where none has come."""
        return self._positions.get(np.asarray(indexes, np.int64))

    def complete(self) -> NDArray[np.int64]:
        """Indexes of the frames that have a position, ascending."""
        indexes = np.sort(self.indexes)
        return indexes[np.isfinite(self.positions(indexes)).all(1)]

    def patterns(self, indexes: ArrayLike) -> StoredPatterns:
        """Counts of frames, which stay on disk."""
        assert self.dtype is not None
        shape = (len(self), self.size, self.size)
        rows = self._rows.get(np.asarray(indexes, np.int64))[:, 0]
        return StoredPatterns(FlatFile(self._frames(self.dtype.name), 0, shape, self.dtype)).subset(rows)

    def add_frames(self, frames: Sequence[tuple[int, NDArray[Any]]]) -> None:
        """Append frames, (index, counts (N, N)) each, of new indexes; all of them, or none.

        Raises:
            InputError: the disk is full, or fails.
        """
        if not frames:
            return
        with self._sentences():
            kind = _common_type([counts for _, counts in frames], self.dtype)
            if self.dtype is not None and kind != self.dtype:
                self._widen(kind)
            self.dtype = kind
            block = np.stack([counts.astype(kind, copy=False) for _, counts in frames])
            records = np.zeros(len(frames), _RECORD)
            records["index"] = [index for index, _ in frames]
            records["crc"] = [zlib.crc32(counts.data) for counts in block]
            nbytes = self.size**2 * kind.itemsize
            _append(self._frames(kind.name), len(self) * nbytes, block)
            _append(self._log(kind.name), len(self) * _RECORD.itemsize, records)
        self._add_rows(records["index"])

    def add_positions(self, positions: Sequence[tuple[int, float, float]]) -> None:
        """Append positions, (index, y, x) each; a later one of an index replaces the former.

        Raises:
            InputError: the disk is full, or fails.
        """
        if not positions:
            return
        records = np.array([tuple(position) for position in positions], _POSITION)
        with self._sentences():
            path = self.folder / "positions.log"
            size = path.stat().st_size // _POSITION.itemsize * _POSITION.itemsize if path.exists() else 0
            _append(path, size, records)
        self._add_position_records(records)

    def save_array(self, name: str, array: NDArray[Any]) -> None:
        """Write an array that belongs to the frames, such as "probe", to a file of its name."""
        with atomic_file(self.folder / f"{name}.npy") as file:
            np.save(file, array, allow_pickle=False)

    def array(self, name: str) -> NDArray[Any] | None:
        """An array of :meth:`save_array`; None if there is none.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / f"{name}.npy"
        if not path.exists():
            return None
        try:
            loaded: NDArray[Any] = np.load(path, allow_pickle=False)
            return loaded
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: expected an array, found a damaged file; copy the folder again") from error

    def _frames(self, name: str) -> Path:
        return self.folder / f"frames.{name}"

    def _log(self, name: str) -> Path:
        return self.folder / f"frames.{name}.log"

    def _read_records(self) -> None:
        """Read the tables; what is behind the last complete frame is ignored, and overwritten by the next one."""
        table = self.folder / "positions.log"
        if self.dtype is not None:
            records = _read(self._log(self.dtype.name), _RECORD)
            nbytes, path = self.size**2 * self.dtype.itemsize, self._frames(self.dtype.name)
            records = records[: path.stat().st_size // nbytes]
            self._add_rows(records["index"][: _intact(path, nbytes, records)])
        if table.exists():
            self._add_position_records(_read(table, _POSITION))

    def _add_rows(self, indexes: NDArray[np.int64]) -> None:
        self._rows.set(indexes, np.arange(len(self), len(self) + len(indexes))[:, None])
        self._indexes.extend(indexes)

    def _add_position_records(self, records: NDArray[Any]) -> None:
        self._positions.set(records["index"], np.stack([records["y"], records["x"]], 1))

    def _widen(self, kind: np.dtype[Any]) -> None:
        """Write the counts again in a wider type."""
        assert self.dtype is not None
        old, shape = self.dtype.name, (len(self), self.size, self.size)
        source = np.memmap(self._frames(old), self.dtype, "r", shape=shape)
        records = np.zeros(len(self), _RECORD)
        records["index"] = self.indexes
        step = max(1, _BLOCK // (self.size**2 * kind.itemsize))
        with atomic_file(self._frames(kind.name)) as file:
            for start in range(0, len(self), step):
                wide = source[start : start + step].astype(kind)
                records["crc"][start : start + step] = [zlib.crc32(counts.data) for counts in wide]
                file.write(wide.tobytes())
        with atomic_file(self._log(kind.name)) as file:  # from now on the wider copy counts
            file.write(records.tobytes())
        self._frames(old).unlink()
        self._log(old).unlink()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Errors of the storage as sentences."""
        try:
            yield
        except OSError as error:
            if storage_error(error) is None:
                raise
            raise InputError(
                f"{self.folder}: {error.strerror}; the {len(self)} frames before are complete: make room and continue "
                "with --resume"
            ) from error


class _ByIndex:
    """A table with a row for every index, of which any may be set; memory is taken for chunks that are used."""

    def __init__(self, columns: int, dtype: Any, empty: Any) -> None:
        self.columns, self.dtype, self.empty = columns, np.dtype(dtype), empty
        self.chunks: dict[int, NDArray[Any]] = {}

    def get(self, indexes: NDArray[np.int64]) -> NDArray[Any]:
        found = np.full((len(indexes), self.columns), self.empty, self.dtype)
        for number, rows, offsets in self._parts(indexes):
            if number in self.chunks:
                found[rows] = self.chunks[number][offsets]
        return found

    def set(self, indexes: NDArray[np.int64], values: NDArray[Any]) -> None:
        for number, rows, offsets in self._parts(indexes):
            chunk = self.chunks.get(number)
            if chunk is None:
                chunk = self.chunks[number] = np.full((_CHUNK, self.columns), self.empty, self.dtype)
            chunk[offsets] = values[rows]

    @staticmethod
    def _parts(indexes: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Number of each chunk, rows of the indexes in it, in their order, and their offsets in it."""
        chunks, offsets = np.divmod(indexes, _CHUNK)
        for number in np.unique(chunks):
            rows = np.flatnonzero(chunks == number)
            yield int(number), rows, offsets[rows]


class _Growing:
    """A one-dimensional array that grows at its end."""

    def __init__(self, dtype: Any) -> None:
        self._values, self._count = np.empty(_CHUNK, dtype), 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> NDArray[Any]:
        return self._values[: self._count]

    def extend(self, values: NDArray[Any]) -> None:
        needed = self._count + len(values)
        if needed > len(self._values):
            larger = np.empty(max(needed, 2 * len(self._values)), self._values.dtype)
            larger[: self._count] = self.values
            self._values = larger
        self._values[self._count : needed] = values
        self._count = needed


def _common_type(frames: Sequence[NDArray[Any]], known: np.dtype[Any] | None) -> np.dtype[Any]:
    """The type that holds all frames exactly, of those that a spool has."""
    kinds = {np.dtype(known)} if known is not None else set()
    for counts in frames:
        kind = counts.dtype.newbyteorder("=")
        if kind.name not in _TYPES:
            raise InputError(f"frames must be of {', '.join(_TYPES)}, got {kind}")
        kinds.add(kind)
    if len(kinds) == 1:
        return kinds.pop()
    if any(kind.kind == "f" for kind in kinds):
        raise InputError("frames must all be integers or all be float32, got both; restart with another --out")
    return max(kinds, key=lambda kind: kind.itemsize)


def _append(path: Path, offset: int, array: NDArray[Any]) -> None:
    """Write an array at the end of the complete part of a file; if that fails, the file ends there."""
    mode = "r+b" if path.exists() else "w+b"
    with open(path, mode, buffering=0) as file:
        try:
            file.seek(offset)
            _write_all(file, np.ascontiguousarray(array).tobytes())
        except OSError:
            os.ftruncate(file.fileno(), offset)
            raise


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of it; a call of the system may write a part only."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The complete records of a file."""
    data = path.read_bytes()
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def _intact(path: Path, nbytes: int, records: NDArray[Any]) -> int:
    """The number of frames up to the first one, among the last, whose checksum is wrong."""
    first = max(0, len(records) - _VERIFIED)
    with path.open("rb") as file:
        file.seek(first * nbytes)
        for number in range(first, len(records)):
            if zlib.crc32(file.read(nbytes)) != int(records["crc"][number]):
                return number
    return len(records)
