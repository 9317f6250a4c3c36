# SPDX-License-Identifier: BSD-3-Clause
"""Frames of one data set of a growing HDF5 file, and which of them are written.

A frame is there if a value of it differs from the fill value of its data set, or if its chunk exists in the file. So
data sets may be resized as frames come, or be made at once for all frames. Of virtual data sets the sources are read,
one by one, because HDF5 itself fills in constant values where a source is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.lazy import h5py
from ptychopinn.streaming.sources.counts import frame_bytes

#: Selections without an end count as so long.
_ENDLESS = 1 << 62


class UnusableError(InputError):
    """A file that waiting does not mend."""


class Block(NamedTuple):
    """Frames of a data set, one after another.

    Attributes:
        counts: (n, h, w), as stored.
        there: (n,), False for frames that are not written yet.
    """

    counts: NDArray[Any]
    there: NDArray[np.bool_]


class Part(Protocol):
    """Frames of one data set.

    Attributes:
        shape: of a frame, (h, w).
        dtype: of the values.
        total: number of frames for which it has space.
        announced: number of frames that it will have at most; None if that is open.
        fixed: the space is for all frames, whether they are written or not.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    total: int
    announced: int | None
    fixed: bool

    def read(self, first: int, last: int) -> Block:
        """Read the frames from `first` to `last` - 1, which are within `total`; OSError if they are damaged."""


class Plain:
    """Frames of a data set (n, h, w), of a raster (rows, columns, h, w), or of one frame (h, w).

    Args:
        dataset: open.
        where: file and key, for errors.

    Raises:
        UnusableError: it has no frames.
    """

    def __init__(self, dataset: h5py.Dataset, where: str) -> None:
        shape = tuple(int(side) for side in dataset.shape or ())
        if len(shape) not in (2, 3, 4):
            raise UnusableError(f"{where}: expected patterns (n, h, w), found shape {shape}")
        _check_frame(shape[-2:], dataset.dtype, where)
        self.dataset = dataset
        self.shape, self.dtype = (shape[-2], shape[-1]), dataset.dtype
        self._line = shape[1] if len(shape) == 4 else 1  # frames for an index of the first axis
        self.total = (shape[0] if len(shape) > 2 else 1) * self._line
        limit = dataset.maxshape[0] if len(shape) > 2 else 1
        self.announced = None if limit is None else int(limit) * self._line
        self.fixed = self.announced == self.total

    def read(self, first: int, last: int) -> Block:
        """Read frames."""
        top, bottom = first // self._line, -(-last // self._line)
        frames = self.dataset[top:bottom] if self.dataset.ndim > 2 else self.dataset[()]
        counts = frames.reshape(-1, *self.shape)[first - top * self._line :][: last - first]
        there = _differs(counts, self.dataset.fillvalue)
        end = int(there.nonzero()[0].max(initial=-1)) + 1
        for k in (~there[:end]).nonzero()[0]:
            there[k] = self._has_chunk(first + int(k))
        while end < len(there) and self._has_chunk(first + end):
            there[end], end = True, end + 1
        return Block(counts, there)

    def _has_chunk(self, index: int) -> bool:
        """Whether a frame has been written, even if all its values are the fill value; False where that is open."""
        chunks, axes = self.dataset.chunks, self.dataset.ndim - 2
        if chunks is None or set(chunks[:axes]) != {1}:
            return False
        if self.dataset.id.get_create_plist().get_alloc_time() != h5py.h5d.ALLOC_TIME_INCR:
            return False
        place = (index,) if axes == 1 else divmod(index, self._line)
        return self.dataset.id.get_chunk_info_by_coord((*place, 0, 0)).byte_offset is not None


class Virtual:
    """Frames of a virtual data set (n, h, w), read from those of its sources that are there.

    Args:
        dataset: open.
        where: file and key, for errors.
        opened: gives the source with a name of its file and a key there; InputError if it is missing so far.

    Raises:
        UnusableError: it has no frames, or its sources are no rectangles of them.
    """

    fixed = False

    def __init__(self, dataset: h5py.Dataset, where: str, opened: Callable[[str, str], Part]) -> None:
        shape = tuple(int(side) for side in dataset.shape or ())
        if len(shape) != 3:
            raise UnusableError(f"{where}: expected virtual patterns (n, h, w), found shape {shape}")
        _check_frame(shape[1:], dataset.dtype, where)
        self._fill = dataset.fillvalue
        self.shape, self.dtype = (shape[1], shape[2]), dataset.dtype
        limit = dataset.maxshape[0]
        self.announced = None if limit is None else int(limit)
        self._tiles = [_Tile(source, shape, where, opened) for source in dataset.virtual_sources()]
        self.total = max([shape[0], *(tile.open_end() for tile in self._tiles)])

    def read(self, first: int, last: int) -> Block:
        """Read frames."""
        counts = np.full((last - first, *self.shape), self._fill, self.dtype)
        wanted, found = np.zeros(last - first, np.int64), np.zeros(last - first, np.int64)
        for tile in self._tiles:
            rows, which = tile.rows(first, last)
            wanted[which] += 1
            found[which] += tile.read(counts, rows, which)
        return Block(counts, (wanted > 0) & (found == wanted))


class _Axis(NamedTuple):
    """Which indexes of an axis a hyperslab selects: blocks at equal distances."""

    start: int
    stride: int
    blocks: int
    block: int

    @classmethod
    def of(cls, start: int, stride: int, blocks: int, block: int) -> _Axis:
        """An axis of a regular hyperslab of HDF5, where the stride of one block is of no consequence."""
        blocks, block = min(int(blocks), _ENDLESS), min(int(block), _ENDLESS)
        return cls(int(start), block if blocks == 1 else int(stride), blocks, block)

    def at(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indexes of the first, second, ... that is selected."""
        return self.start + self.stride * (ranks // self.block) + ranks % self.block

    def ranks(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the indexes from `first` to `last` - 1 those that are selected, and their rank in the selection."""
        indexes = np.arange(max(first, self.start), max(last, self.start))
        number, rest = np.divmod(indexes - self.start, self.stride)
        inside = (number < self.blocks) & (rest < self.block)
        return indexes[inside], number[inside] * self.block + rest[inside]

    def slice(self) -> slice | None:
        """The same as a slice; None if there are gaps."""
        one = self.blocks == 1 or self.stride == self.block
        return slice(self.start, self.start + self.blocks * self.block) if one else None


class _Tile:
    """A part of a virtual data set that comes from one source: some rows, and a rectangle of their frames."""

    def __init__(self, source: Any, shape: Sequence[int], where: str, opened: Callable[[str, str], Part]) -> None:
        self._name, self._open = (str(source.file_name), str(source.dset_name)), opened
        to, self._from = _axes(source.vspace), _axes(source.src_space)
        self._to, *sides = [_Axis.of(0, 1, 1, side) for side in shape] if to is None else to
        self._area = [axis.slice() for axis in sides]
        all_of = slice(None)
        self._area_from = [all_of, all_of] if self._from is None else [axis.slice() for axis in self._from[-2:]]
        if None in (*self._area, *self._area_from):
            raise UnusableError(
                f"{where}: expected rectangles of frames as parts of a virtual data set, found others "
                f"from {':'.join(self._name)}; state patterns= of a source"
            )
        self._part: Part | None = None

    def open_end(self) -> int:
        """The end of rows that go as far as the source; 0 for a fixed number of rows."""
        if self._to.blocks * self._to.block < _ENDLESS:
            return 0
        part = self._opened()
        start = 0 if self._from is None else self._from[0].start
        ranks = 0 if part is None else max(0, part.total - start)
        return 0 if ranks == 0 else int(self._to.at(np.array(ranks - 1))) + 1

    def rows(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the source for the frames from `first` to `last` - 1 that it covers, and which these are, from 0."""
        indexes, ranks = self._to.ranks(first, last)
        rows = ranks if self._from is None or len(self._from) < 3 else self._from[0].at(ranks)
        return rows, indexes - first

    def read(self, counts: NDArray[Any], rows: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Fill in the tile of frames `which` from rows of the source, and tell for which it is there."""
        there = np.zeros(len(rows), np.bool_)
        part = self._opened() if len(rows) else None
        if part is None:
            return there
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            low, high = int(rows[run[0]]), min(int(rows[run[-1]]) + 1, part.total)
            if low < high:
                block, run = part.read(low, high), run[: high - low]
                counts[which[run], self._area[0], self._area[1]] = block.counts[
                    :, self._area_from[0], self._area_from[1]
                ]
                there[run] = block.there
        return there

    def _opened(self) -> Part | None:
        """The source; None if it is missing so far."""
        if self._part is None:
            try:
                self._part = self._open(*self._name)
            except UnusableError:
                raise
            except InputError:
                return None
        return self._part


def _check_frame(shape: Sequence[int], dtype: np.dtype[Any], where: str) -> None:
    try:
        frame_bytes(shape, dtype)
    except InputError as error:
        raise UnusableError(f"{where}: {error}; state patterns= (--patterns PATH_IN_FILE)") from None


def _differs(counts: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    """Whether a frame of (n, h, w) has a value other than the fill value."""
    other = counts if fill == 0 else ~np.isnan(counts) if fill != fill else counts != fill
    return np.asarray(other.any(axis=(1, 2)))


def _axes(space: Any) -> list[_Axis] | None:
    """What a space selects on each axis; None for all of it."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return None
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return [_Axis(0, 2, 2, 1)] * len(space.get_simple_extent_dims())  # not a rectangle
    return [_Axis.of(*axis) for axis in zip(*space.get_regular_hyperslab(), strict=True)]
