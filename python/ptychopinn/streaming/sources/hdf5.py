# SPDX-License-Identifier: BSD-3-Clause
"""Frames of an HDF5 file that another program is still writing, in SWMR mode or with a flush from time to time.

The file is opened again for each look at it: only so is the growth seen of files that are not in SWMR mode, of external
links and of sources of virtual data sets. Nothing is locked, so that the writer is not disturbed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.lazy import h5py
from ptychopinn.io.links import DAMAGED, damaged_words
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.sources.counts import as_counts
from ptychopinn.streaming.sources.growing_hdf5 import GrowingFile, Parts
from ptychopinn.streaming.sources.hdf5_layout import Layout, find_layout, find_series, read_counter, read_positions
from ptychopinn.streaming.sources.hdf5_parts import Block, UnusableError

#: Frames and bytes that are read at a time, at most.
_MOST_FRAMES, _MOST_BYTES = 64, 1 << 26
#: Seconds between two looks at the file, at least; and how often the time that a look takes is waited for.
_PAUSE, _RATIO = 0.1, 6.0
#: Seconds for which a file is unreadable before that is reported, and for which frames are before they are given up.
_GRACE = 0.5
#: Seconds after which a file that its writer has closed does not grow any more.
_SETTLED = 1.0
#: Seconds after the last write in which a frame at the end of a data set with space for all may be half written.
_HALF_WRITTEN = 0.1
#: Frames that were passed over and are looked at again, at most; and how many of them at a time.
_MOST_HOLES, _SOME_HOLES = 1 << 16, 64


class _Signature(NamedTuple):
    """What of a file changes when it is written."""

    inode: int
    size: int
    changed: int


class Hdf5Source:
    """Frames of a growing HDF5 file: CXI, NeXus, files of an Eiger, or one data set of patterns.

    A frame is handed over when its counts are there. Its position comes with it if it is written within `hold` seconds;
    later ones are found by :mod:`ptychopinn.streaming.sources.tables` of the same file. In a data set with
    space for all frames, and no counter of those that are written, frames wait for their position up to `quiet`
    seconds. The series ends when all frames that are announced have come, or when the file does not grow any more.

    Args:
        path: the file, which may not exist yet.
        patterns: key of the patterns; None: found by the format.
        positions: key of the positions in the file, or two keys Y,X; None: found by the format.
        written: key of the number of frames that are written; None: `frames_written` beside the patterns, if it exists.
        quiet: seconds without a new frame after which the series has ended.
        hold: seconds for which a frame waits for its position.
    """

    def __init__(
        self,
        path: str | Path,
        patterns: str | None = None,
        positions: str | None = None,
        *,
        written: str | None = None,
        quiet: float = 30.0,
        hold: float = 2.0,
    ) -> None:
        self.address = str(path)
        self._path, self._stated = Path(path), (patterns, positions, written)
        self._quiet, self._hold = quiet, hold
        self._file: GrowingFile | None = None
        self._parts: Parts | None = None
        self._signature: _Signature | None = None
        self._last_change = time.monotonic()
        self._trouble: float | None = None  # since when the file cannot be used
        self._reported = False
        self._closed = threading.Event()
        self._next_look = 0.0
        self._restart()

    def _restart(self) -> None:
        """Forget the series."""
        self._layout: Layout | None = None
        self._series: Series | None = None
        self._lengths: list[int] = []
        self._next = 0  # the first frame that was not looked at
        self._gap, self._ahead = False, 0  # none of the next frames is there, and how far behind them was looked
        self._holes: deque[int] = deque(maxlen=_MOST_HOLES)
        self._unplaced: dict[int, float] = {}  # frames that wait for their position -> since when
        self._failing: dict[int, float] = {}  # the first of frames that cannot be read -> since when
        self._progress = time.monotonic()
        self._positions: NDArray[np.float64] = np.empty((0, 2))  # up to the last position that is there
        self._waiting: tuple[int, float] | None = None  # for a position with this index, and since when
        self._in_vain = -1  # the position that frames last waited for in vain
        self._ended = False

    def read(self, timeout: float) -> list[Item]:
        """What has come; waits for the first item, and not longer than this many seconds.

        Raises:
            InputError: the file is of another format, or is closed and has no patterns, and does not change for `quiet`
                seconds; or frames can never be read. A file that may still be open in its writer is waited for.
        """
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            self._closed.wait(max(0.0, min(deadline, self._next_look) - time.monotonic()))
            began = time.monotonic()
            if began < self._next_look:
                return []
            items = self._look()
            now = time.monotonic()
            if self._file is None:  # all of it was read
                self._next_look = now + max(_PAUSE, _RATIO * (now - began))
            if items or now >= deadline:
                return items
        return []

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        self._release()

    def _release(self) -> None:
        file, self._file, self._parts = self._file, None, None
        if file is not None:
            file.close()

    def _look(self) -> list[Item]:
        """Items of one look at the file."""
        found = _signature(self._path)
        if found != self._signature:
            self._last_change = time.monotonic()
            if found is None or self._signature is None or found.inode != self._signature.inode:
                self._release()
            if found is not None and self._signature is not None and found.inode != self._signature.inode:
                self._restart()
        if found is None:
            sentence = f"{self.address}: expected an HDF5 file, found none; it is waited for"
            return self._interrupted(sentence)
        self._signature = found
        try:
            items = self._frames()
        except UnusableError:
            self._release()
            raise
        except InputError as error:
            final = self._file.closed if self._file is not None else _is_other_format(self._path)
            self._release()
            return self._interrupted(str(error), final)
        except DAMAGED as error:
            self._release()
            return self._interrupted(f"{self.address}: expected an HDF5 file, found {damaged_words(error)}")
        self._trouble, self._reported = None, False
        return items

    def _interrupted(self, sentence: str, final: bool = False) -> list[Item]:
        """The file cannot be used: reported once, and the end, or an error if no writer will change it."""
        now = time.monotonic()
        self._trouble = self._trouble or now
        if self._series is not None and not self._ended and now - self._progress > self._quiet:
            self._ended = True
            return [End()]
        unchanged = now - max(self._trouble, self._last_change)
        if final and self._series is None and unchanged > self._quiet:
            raise InputError(sentence)
        if self._reported or now - self._trouble < _GRACE:
            return []
        self._reported = True
        return [Fault("interrupted", sentence)]

    def _frames(self) -> list[Item]:
        """What is new in the file."""
        file, parts = self._opened()
        total = parts.total
        if total < self._next:  # written again
            self._restart()
            self._release()
            return []
        if self._ended:
            self._release()
            return []
        most = max(1, min(_MOST_FRAMES, _MOST_BYTES // parts.frame_bytes()))
        last = min(total, self._next + most)
        items = self._new(parts, self._next, last) or self._passed_over(parts)
        if not items and self._gap:
            items = self._from_further_on(parts, total, most)
        if items:
            self._progress, self._ahead = time.monotonic(), 0
        else:
            items = self._end(file.closed, total)
        if not items or self._next != last or last == total:  # otherwise there are more
            self._release()
        return items

    def _opened(self) -> tuple[GrowingFile, Parts]:
        """The open file, and its frames as they were when it was opened."""
        if self._file is None or self._parts is None:
            self._file = GrowingFile(self._path)
            if self._layout is None or self._trouble is not None or len(self._layout.patterns) > 1:
                layout = find_layout(self._file, *self._stated)
                if self._layout is not None and layout.patterns[0] != self._layout.patterns[0]:
                    self._restart()
                self._layout = layout
            keys, counter = self._layout, self._layout.counter
            written = None if counter is None else read_counter(self._file, counter)
            self._parts = Parts(self._file, keys.patterns, self._lengths, written)
            self._positions = np.empty((0, 2)) if keys.positions is None else read_positions(self._file, keys.positions)
        return self._file, self._parts

    def _new(self, parts: Parts, first: int, last: int) -> list[Item]:
        """Hand over frames from `first` on, up to the last one that is there; those that are not are holes."""
        self._gap = False
        if first >= last or (block := self._read(parts, first, last)) is None:
            return []
        there = (block.there | block.damaged).nonzero()[0]
        self._gap = len(there) == 0
        if parts.fixed and len(there) and self._is_written():
            self._progress, there = time.monotonic(), there[:-1]
        end = self._with_positions(parts, first, int(there.max(initial=-1)) + 1)
        items = self._handed_over(parts, first, block, range(end))
        self._holes.extend((first + (~block.there & ~block.damaged)[:end].nonzero()[0]).tolist())
        self._next = first + end
        return items

    def _is_written(self) -> bool:
        """Whether the file changes, and has changed while it was read."""
        recent = time.monotonic() - self._last_change < _HALF_WRITTEN
        return recent or _signature(self._path) != self._signature

    def _passed_over(self, parts: Parts) -> list[Item]:
        """Frames that were not there when later ones came."""
        items: list[Item] = []
        for _ in range(min(len(self._holes), _SOME_HOLES)):
            index = self._holes.popleft()
            block = self._read(parts, index, index + 1)
            if block is None or not (block.there[0] or block.damaged[0]):
                self._holes.append(index)
            else:
                items += self._handed_over(parts, index, block, range(1))
        return items

    def _from_further_on(self, parts: Parts, total: int, most: int) -> list[Item]:
        """Frames beyond a block of which none is there; one block for each look at the file."""
        self._ahead = self._ahead + most if self._next + self._ahead + most < total else 0
        first = self._next + self._ahead
        block = self._read(parts, first, min(total, first + most)) if self._ahead else None
        if block is None or not block.there.any():
            return []
        self._holes.extend(range(self._next, first))
        self._next = first
        return self._new(parts, first, min(total, first + most))

    def _read(self, parts: Parts, first: int, last: int) -> _Read | None:
        """Read frames; None where they cannot be read, until they are given up."""
        try:
            block = parts.read(first, last)
        except InputError:
            raise
        except DAMAGED:
            now = time.monotonic()
            if now - self._failing.setdefault(first, now) < _GRACE:
                return None
            del self._failing[first]
            return self._one_by_one(parts, first, last)
        self._failing.pop(first, None)
        return _Read(block.counts, block.there, np.zeros(len(block.there), np.bool_))

    @staticmethod
    def _one_by_one(parts: Parts, first: int, last: int) -> _Read:
        blocks: list[Block | None] = []
        for index in range(first, last):
            try:
                blocks.append(parts.read(index, index + 1))
            except InputError:
                raise
            except DAMAGED:
                blocks.append(None)
        empty = np.zeros((1, *parts.shape), parts.dtype)
        counts = np.concatenate([empty if block is None else block.counts for block in blocks])
        there = np.array([block is not None and bool(block.there[0]) for block in blocks])
        return _Read(counts, there, np.array([block is None for block in blocks]))

    def _with_positions(self, parts: Parts, first: int, end: int) -> int:
        """The end of the frames that need not wait for their position."""
        assert self._layout is not None
        known = len(self._positions)
        if self._layout.positions is None or first + end <= known or known == self._in_vain:
            return end
        now = time.monotonic()
        if self._waiting is None or self._waiting[0] != known:
            self._waiting = known, now
        if now - self._waiting[1] < (self._quiet if parts.fixed else self._hold):
            self._progress = now
            return max(0, known - first)
        self._in_vain, self._waiting = known, None
        return end

    def _awaits_position(self, index: int) -> bool:
        """Whether a frame among others waits for its position, which may have been written after they were read."""
        if index >= len(self._positions) or np.isfinite(self._positions[index]).all():
            return False
        now = time.monotonic()
        waits = now - self._unplaced.setdefault(index, now) < self._hold
        if not waits:
            del self._unplaced[index]
        return waits

    def _handed_over(self, parts: Parts, first: int, block: _Read, which: range) -> list[Item]:
        """Items of frames of a block, after the series that they begin."""
        items: list[Item] = []
        if self._series is None and len(which):
            assert self._layout is not None and self._file is not None
            self._series = find_series(self._file, self._layout, parts)
            items.append(self._series)
        for k in which:
            index = first + k
            if block.damaged[k]:
                sentence = f"frame {index} of {self.address}: expected counts, found a damaged chunk; it is lost"
                items.append(Fault("damaged", sentence))
            elif block.there[k] and self._awaits_position(index):
                self._holes.append(index)
            elif block.there[k]:
                assert self._series is not None
                try:
                    counts = as_counts(block.counts[k], self._series.bad_pixels)
                except InputError as error:
                    items.append(Fault("damaged", f"frame {index} of {self.address}: {error}"))
                    continue
                position = self._positions[index].tolist() if index < len(self._positions) else (np.nan, np.nan)
                items.append(Frame(index, counts, tuple(position) if np.isfinite(position).all() else None))
        return items

    def _end(self, closed: bool, total: int) -> list[Item]:
        """The end of the series, if it has come."""
        if self._series is None:
            return []
        idle, announced = time.monotonic() - self._progress, self._series.frames
        complete = self._next >= (total if announced is None else announced)
        if not (
            (complete and announced is not None and not self._holes)
            or (complete and closed and idle > _SETTLED)
            or idle > self._quiet
        ):
            return []
        self._ended = True
        return [End()]


class _Read(NamedTuple):
    """Frames that were read: counts (n, h, w), whether they are there, and whether they are damaged, (n,)."""

    counts: NDArray[Any]
    there: NDArray[np.bool_]
    damaged: NDArray[np.bool_]


def _is_other_format(path: Path) -> bool:
    """Whether a file begins with something else than HDF5; a new file may begin with zeros."""
    try:
        with path.open("rb") as file:
            return any(file.read(8)) and not h5py.is_hdf5(path)
    except OSError:
        return False


def _signature(path: Path) -> _Signature | None:
    """Of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _Signature(found.st_ino, found.st_size, found.st_mtime_ns)
