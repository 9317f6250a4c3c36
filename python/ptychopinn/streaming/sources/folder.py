# SPDX-License-Identifier: BSD-3-Clause
"""Frames of files that appear in a folder, one frame or a stack in each, numbered by their names.

A folder does not tell which of its files are complete: a file is read when it has not changed for a moment, and again
if that fails. Nothing tells the end of a scan either; a folder in which nothing appears for some time has ended.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ptychopinn.errors import InputError
from ptychopinn.io.links import DAMAGED
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.sources.counts import as_counts
from ptychopinn.streaming.sources.frame_files import SUFFIXES, lacks_library, read_frames
from ptychopinn.streaming.sources.hdf5_parts import UnusableError

#: Frames and bytes that are handed over at a time, at most.
_MOST_FRAMES, _MOST_BYTES = 64, 1 << 26
#: Seconds between two looks at the folder, at least; and how often the time that a look takes is waited for.
_PAUSE, _RATIO = 0.03, 3.0
#: Seconds for which a file is unchanged before its damage is reported; the same for a missing folder.
_GRACE = 1.0
_NUMBER = re.compile(r"(\d{1,18})\D*$")


class _State(NamedTuple):
    """What of a file changes when it is written: inode, size and time."""

    inode: int
    size: int
    changed: int


@dataclass
class _File:
    """A file that was not handed over yet.

    Args:
        path: of the file.
        state: when it was last seen.
        since: when it was first seen in this state, of the monotonic clock.
        reported: its damage was reported.
    """

    path: Path
    state: _State
    since: float
    reported: bool = False


class FolderSource:
    """Frames of the files of a folder: .npy, .npz, .tif, .tiff and HDF5.

    The last digits of a name, without its suffix, are the number of a file. The index of a frame is its file's number
    less the first one; for stacks, times the frames of the first file. Temporary files (names that begin with a point),
    files of other kinds, without a number, and folders are ignored. A file that is replaced, or a new one after the
    end, begins another series.

    Args:
        path: the folder, which may not exist yet.
        pattern: of the names, such as "scan7_*.tif".
        first: number of the file with frame 0; None: the smallest when the first file is read.
        quiet: seconds without a new file after which the series has ended.
        settle: seconds for which a file has not changed when it is read.

    Raises:
        InputError: the path is that of a file.
    """

    def __init__(
        self,
        path: str | Path,
        pattern: str = "*",
        *,
        first: int | None = None,
        quiet: float = 30.0,
        settle: float = 0.1,
    ) -> None:
        self.address = str(path)
        self._path, self._pattern = Path(path), pattern
        if self._path.is_file():
            raise InputError(f"{path}: expected a folder of frames, found a file; name the folder")
        self._stated_first, self._quiet, self._settle = first, quiet, settle
        self._closed = threading.Event()
        self._former: dict[str, _State] = {}
        self._ignored: set[str] = set()
        self._done: dict[int, tuple[str, _State]] = {}
        self._trouble: float | None = None
        self._reported = False
        self._restart()

    def _restart(self) -> None:
        """Forget the series; its files are not read again as they are."""
        self._former |= dict(self._done.values())
        self._done = {}
        self._waiting: dict[str, _File] = {}
        self._frames: deque[Item] = deque()  # of a stack that is handed over in parts
        self._backlog = False  # more files wait than were read in one look
        self._first: int | None = None
        self._stack = 0
        self._progress = time.monotonic()
        self._ended = False

    def read(self, timeout: float) -> list[Item]:
        """What has come; waits for the first item, and not longer than this many seconds.

        Raises:
            InputError: the library for such files is missing.
        """
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            began = time.monotonic()
            items = self._look()
            now = time.monotonic()
            if items or now >= deadline:
                return items
            self._closed.wait(min(deadline - now, max(_PAUSE, _RATIO * (now - began))))
        return []

    def close(self) -> None:
        """Stop; no file is open between two calls."""
        self._closed.set()
        self._frames.clear()

    def _look(self) -> list[Item]:
        """Items of one look at the folder."""
        items: list[Item] = []
        if not self._frames:
            try:
                items = [] if self._backlog else self._list()
            except OSError as error:
                return self._interrupted(error)
            self._trouble, self._reported = None, False
            self._backlog = False
            for file in sorted(self._waiting.values(), key=lambda file: self._number(file.path.name)):
                items += self._take(file)
                if len(self._frames) >= _MOST_FRAMES or self._queued() >= _MOST_BYTES:
                    self._backlog = True
                    break
        size = 0
        while self._frames and len(items) < _MOST_FRAMES and size < _MOST_BYTES:
            item = self._frames.popleft()
            size += item.counts.nbytes if isinstance(item, Frame) else 0
            items.append(item)
        if any(isinstance(item, Frame) for item in items):
            self._progress = time.monotonic()
        elif self._is_over():
            self._ended = True
            self._former |= {name: file.state for name, file in self._waiting.items()}
            items.append(End())
        return items

    def _queued(self) -> int:
        """Bytes of the frames that are to be handed over."""
        return sum(item.counts.nbytes for item in self._frames if isinstance(item, Frame))

    def _is_over(self) -> bool:
        idle = time.monotonic() - self._progress > self._quiet
        return idle and bool(self._done) and not self._ended and all(file.reported for file in self._waiting.values())

    def _interrupted(self, error: OSError) -> list[Item]:
        now = time.monotonic()
        self._trouble = self._trouble or now
        if self._reported or now - self._trouble < _GRACE:
            return []
        self._reported = True
        sentence = f"{self.address}: expected a folder of frames, found none ({error.strerror}); it is waited for"
        return [Fault("interrupted", sentence)]

    def _list(self) -> list[Item]:
        """Update the files that wait; items are faults of others."""
        items: list[Item] = []
        here: dict[str, _File] = {}
        now = time.monotonic()
        lowest = self._done.get(min(self._done, default=0))
        for name, entry in self._names():
            number = self._number(name)
            done = self._done.get(number)
            if done is not None and done[0] == name and entry.inode() == done[1].inode and done is not lowest:
                continue
            state = _state(entry.path)
            if state is None or self._former.get(name) == state or (done is not None and done == (name, state)):
                continue
            if (done is not None and done[0] == name) or self._ended:
                self._restart()
                return []
            if done is not None:
                items += self._ignore(name, f"another number than that of {done[0]}", "the same")
                continue
            file = self._waiting.get(name)
            here[name] = file if file is not None and file.state == state else _File(Path(entry.path), state, now)
        self._waiting = here
        return items

    def _names(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Names of files with a number, of a kind that is read."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                name = entry.name
                suffix = os.path.splitext(name)[1].lower()
                if name.startswith(".") or suffix not in SUFFIXES or not fnmatch.fnmatch(name, self._pattern):
                    continue
                if _NUMBER.search(os.path.splitext(name)[0]) and entry.is_file():
                    yield name, entry

    @staticmethod
    def _number(name: str) -> int:
        found = _NUMBER.search(os.path.splitext(name)[0])
        return -1 if found is None else int(found[1])

    def _ignore(self, name: str, expected: str, found: str) -> list[Item]:
        """Report once that a file is not used."""
        if name in self._ignored:
            return []
        self._ignored.add(name)
        return [Fault("unexpected", f"{self._path / name}: expected {expected}, found {found}; it is ignored")]

    def _take(self, file: _File) -> list[Item]:
        """Read a file, if it is complete; its frames are handed over next, items are faults."""
        unchanged = time.monotonic() - file.since
        if file.reported or (unchanged < self._settle and 0 <= time.time() - file.state.changed / 1e9 < self._settle):
            return []
        try:
            frames = read_frames(file.path)
        except FileNotFoundError:
            del self._waiting[file.path.name]
            return []
        except UnusableError:
            raise
        except DAMAGED as error:
            if isinstance(error, InputError) and lacks_library(file.path):
                raise
            if unchanged < _GRACE or _state(file.path) != file.state:
                return []
            file.reported = True
            return [Fault("damaged", str(error) if isinstance(error, InputError) else f"{file.path}: {error}")]
        if _state(file.path) != file.state:
            return []
        number = self._number(file.path.name)
        if self._first is None:
            smallest = min(self._number(name) for name in self._waiting)
            self._first = smallest if self._stated_first is None else self._stated_first
            self._stack = len(frames)
            self._frames.append(Series(name=self._path.resolve().name or "scan"))
        del self._waiting[file.path.name]
        self._done[number] = file.path.name, file.state
        items: list[Item] = []
        if number < self._first:
            return self._ignore(file.path.name, f"a number from {self._first} on", str(number))
        if len(frames) > self._stack:
            found = f"{len(frames)} frames, the last of which are ignored"
            items.append(Fault("unexpected", f"{file.path}: expected {self._stack} frames, found {found}"))
        for k, frame in enumerate(frames[: self._stack]):
            try:
                counts = as_counts(frame)
            except InputError as error:
                items.append(Fault("damaged", f"{file.path}: {error}"))
                continue
            self._frames.append(Frame((number - self._first) * self._stack + k, counts))
        return items


def _state(path: str | Path) -> _State | None:
    """Of a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _State(found.st_ino, found.st_size, found.st_mtime_ns)
