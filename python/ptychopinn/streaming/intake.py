# SPDX-License-Identifier: BSD-3-Clause
"""The receiving side of a live run: a thread that stores what a source sends, and pairs frames with positions.

It does nothing else, so that it keeps up with the detector; what it has stored waits on the disk to be reconstructed.
A source is asked for more only after what it gave is stored: where the disk is slow or full, the sender waits.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.storage.spool import Spool
from ptychopinn.streaming.frames import End, Fault, Frame, Positions, Series, Source
from ptychopinn.streaming.setup import Setup

_log = logging.getLogger(__name__)

#: Seconds that a read of the source may wait.
_WAIT = 0.1
#: Seconds for which another series is awaited where not all announced frames came, and for positions at the end.
_RESTART, _POSITIONS = 10.0, 10.0
#: Seconds for which a full disk is tried again.
_FULL_DISK = 60.0
#: Faults of a kind that are logged; all are counted.
_LOGGED = 3
#: Faults that are kept for the page.
_KEPT = 50
#: Seconds without a frame after which none is expected soon.
_PAUSE = 2.0
#: Seconds over which the rate of frames is taken.
_RATE = 5.0
#: Frames that may be missing between two that come.
_LARGEST_GAP = 1 << 20
#: Missing frames that are named.
_NAMED = 20
#: Seconds between two searches for them, at least.
_NAMING = 1.0


class Intake:
    """Frames and positions of a source, stored in a spool and paired by index.

    Args:
        source: of the frames.
        positions: of the positions; None: they come with the frames.
        folder: of the spool; it is new, or that of an earlier run which is continued.
        setup: of the experiment, as far as it is known before.
        resume: continue an earlier run.

    Attributes:
        spool: of the frames; None before the first one.
        setup: with what the source states.
        series: as stated by the source; None before it.
        counts: of events: "received", "repeated", "reordered", "restarts", and of faults by kind.
        faults: the latest, (time, kind, sentence).
        expected: number of frames that are announced; None if they are not.
        ended: nothing more will come.
        error: why it ended, if it failed.
    """

    def __init__(
        self, source: Source, positions: Positions | None, folder: Path, setup: Setup, resume: bool = False
    ) -> None:
        self.source, self.positions, self.folder, self.setup = source, positions, folder, setup
        self.spool: Spool | None = None
        self.series: Series | None = None
        self.counts: Counter[str] = Counter()
        self.faults: deque[tuple[float, str, str]] = deque(maxlen=_KEPT)
        self.expected: int | None = None
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.changed = threading.Event()
        self.lock = threading.Lock()  # of the spool's tables and of what is complete
        self._outside = 0  # frames whose index is far beyond those of all others
        self._named: tuple[int, float, list[int]] | None = None  # of a number of missing frames, and when it was found
        self._last = -math.inf  # when a frame came
        self._stopping = threading.Event()
        self._arrived: deque[tuple[float, int]] = deque()  # numbers of frames at earlier times, for their rate
        self._complete: deque[tuple[int, float]] = deque()
        self._waiting: dict[int, float] = {}
        self._early: list[tuple[int, float, float]] = []  # positions that came before the first frame
        self._first, self._highest, self._before = 0, -1, -1  # of this series, of all, and the last that came
        if resume:
            self._resume()
        self._thread = threading.Thread(target=self._receive, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self) -> None:
        """Receive nothing more; what has come is stored."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self, most: int) -> list[tuple[int, float]]:
        """Frames that have a position and were not yet taken, and when they were complete, in seconds of a clock."""
        with self.lock:
            return [self._complete.popleft() for _ in range(min(most, len(self._complete)))]

    def backlog(self) -> tuple[int, float]:
        """Frames that could be taken, and the seconds for which the first of them has waited."""
        with self.lock:
            if not self._complete:
                return 0, 0.0
            return len(self._complete), time.monotonic() - self._complete[0][1]

    def lost(self) -> tuple[int, list[int]]:
        """Number of frames that are missing so far, and the first of them.

        Frames are expected from 0 up to the highest that came, or all that were announced once the source has ended.
        """
        with self.lock:
            if self.spool is None:
                return 0, []
            end = self._highest + 1
            if self.ended.is_set() and self.expected is not None:
                end = max(end, self.expected)
            count = end - (len(self.spool) - self._outside)
            if count <= 0:
                return 0, []
            clock = time.monotonic()
            old = self._named is None or clock - self._named[1] > _NAMING or self.ended.is_set()
            if self._named is None or (old and self._named[0] != count):
                self._named = count, clock, _missing(self.spool.indexes, end)
            return count, self._named[2][:count]

    def receiving(self) -> bool:
        """Whether frames come, or came a moment ago."""
        return not self.ended.is_set() and time.monotonic() - self._last < _PAUSE

    def status(self) -> dict[str, Any]:
        """What came, as JSON values; see :meth:`ptychopinn.streaming.page.board.Board.set_status`."""
        lost, named = self.lost()
        clock = time.monotonic()
        self._arrived.append((clock, self.counts["received"]))
        while len(self._arrived) > 2 and clock - self._arrived[0][0] > _RATE:
            self._arrived.popleft()
        seconds = clock - self._arrived[0][0]
        counted = ("received", "repeated", "reordered", "damaged", "restarts")
        return {
            "source": self.source.address,
            "expected": self.expected,
            **{name: self.counts[name] for name in counted},
            "rate": (self.counts["received"] - self._arrived[0][1]) / seconds if seconds > 0 else 0.0,
            "waiting_for_position": len(self._waiting),
            "lost_count": lost,
            "lost": named,
            "faults": [{"time": at, "kind": kind, "sentence": text} for at, kind, text in list(self.faults)[-20:]],
        }

    def _resume(self) -> None:
        self.spool = Spool(self.folder)
        indexes = self.spool.indexes
        self.counts["received"] = len(indexes)
        self._highest = int(indexes.max(initial=-1))
        now = time.monotonic()
        known = np.isfinite(self.spool.positions(indexes)).all(1)
        self._complete.extend((int(index), now) for index in indexes[known])
        self._waiting |= {int(index): now for index in indexes[~known]}

    def _receive(self) -> None:
        try:
            end = math.inf
            while not self._stopping.is_set() and time.monotonic() < end:
                items = self.source.read(_WAIT)
                self._store(items, [] if self.positions is None else self.positions.read())
                for item in items:
                    end = self._end_of_wait() if isinstance(item, End) else end if isinstance(item, Fault) else math.inf
            self._await_positions()
        except Exception as error:  # it ends the run, on the thread that waits for it
            self.error = error
        finally:
            self.ended.set()
            self.changed.set()
            for one in (self.source, self.positions):
                if one is not None:
                    one.close()

    def _end_of_wait(self) -> float:
        """Until when another series is awaited after the end of one, where not all frames that were announced came."""
        complete = self.expected is None or self._highest + 1 >= self.expected
        return time.monotonic() + (0.0 if complete else _RESTART)

    def _await_positions(self) -> None:
        """Wait for positions of the last frames, for a time."""
        end = time.monotonic() + _POSITIONS
        while self._waiting and self.positions is not None and time.monotonic() < end:
            if self._stopping.wait(_WAIT):
                return
            self._store([], self.positions.read())

    def _store(self, items: list[Any], positions: list[tuple[int, float, float]]) -> None:
        frames: list[tuple[int, NDArray[Any]]] = []
        new: set[int] = set()
        own = list(positions)
        for item in items:
            if isinstance(item, Series):
                self._begin(item, bool(frames))
            elif isinstance(item, Fault):
                self.report(item.kind, item.sentence)
            elif isinstance(item, Frame):
                index = self._first + item.index
                counts = self._pattern(item, index)
                if counts is None:
                    continue
                if item.position is not None and self.positions is None:
                    own.append((index, *item.position))
                assert self.spool is not None
                if index in new or self.spool.has(index):
                    self.counts["repeated"] += 1
                    continue
                if index < self._before:
                    self.counts["reordered"] += 1
                self._before = index
                if index <= self._highest + _LARGEST_GAP:
                    self._highest = max(self._highest, index)
                else:
                    self._outside += 1
                    far = f"frame {index} comes after frame {self._highest}: those between are not counted as lost"
                    self.report("unexpected", f"{self.source.address}: {far}")
                new.add(index)
                frames.append((index, counts))
        valid = [place for place in own if np.isfinite(place[1:]).all() and place[0] >= 0]
        self._early += valid
        if self.spool is not None:
            positions, self._early = self._early, []
            self._write(frames, positions)

    def _write(self, frames: list[tuple[int, NDArray[Any]]], positions: list[tuple[int, float, float]]) -> None:
        """Store frames and positions, and note which frames are complete."""
        assert self.spool is not None
        if not frames and not positions:
            return
        self._with_patience(frames, positions)
        now = time.monotonic()
        with self.lock:
            if frames:
                self._last = now
            for index, _ in frames:
                self._waiting[index] = now
            self.counts["received"] += len(frames)
            candidates = [index for index, _, _ in positions if index in self._waiting]
            candidates += [index for index, _ in frames]
            unique = np.array(sorted(set(candidates)), np.int64)
            if len(unique):
                known = np.isfinite(self.spool.positions(unique)).all(1)
                for index in unique[known].tolist():
                    del self._waiting[index]
                    self._complete.append((index, now))
        self.changed.set()

    def _with_patience(self, frames: list[tuple[int, NDArray[Any]]], positions: list[tuple[int, float, float]]) -> None:
        """Write to the spool; where the disk is full, again until it is not, for a time."""
        assert self.spool is not None
        deadline = time.monotonic() + _FULL_DISK
        while True:
            try:
                with self.lock:
                    if frames:
                        self.spool.add_frames(frames)
                        frames = []
                    self.spool.add_positions(positions)
                return
            except InputError as error:
                if self._stopping.is_set() or time.monotonic() > deadline:
                    raise
                self.report("disk", f"{error}; tried again for {deadline - time.monotonic():.0f} s")
                self._stopping.wait(1.0)

    def _begin(self, series: Series, more: bool) -> None:
        """A series begins: the first, or one after a restart of the detector, whose frames are counted on."""
        if self.series is not None and (more or self._highest >= self._first):
            self.counts["restarts"] += 1
            self._first = self._highest + 1
            self.report(
                "restarted",
                f"{self.source.address}: the detector began again after frame {self._highest}: the frames of its new "
                f"series are counted from {self._first}",
            )
        self.series = series
        if series.frames is not None:
            self.expected = self._first + series.frames

    def _pattern(self, frame: Frame, index: int) -> NDArray[Any] | None:
        """The pattern of a frame; None if it cannot be used."""
        if self.series is None:
            self.series = Series()
        if frame.index < 0:
            self.report("damaged", f"{self.source.address}: a frame has the index {frame.index}; it is ignored")
            return None
        if self.spool is None:
            self._create(self.series, frame)
        try:
            return self.setup.pattern(frame.counts)
        except InputError as error:
            self.report("damaged", f"{self.source.address}: frame {index}: {error}; it is ignored")
            return None

    def _create(self, series: Series, frame: Frame) -> None:
        height, width = frame.counts.shape
        self.setup = self.setup.of_series(series, (height, width))
        unit = series.position_unit if self.positions is None else self.positions.unit
        if unit == "m" and self.setup.pixel_size is None:
            raise InputError(
                f"{self.source.address}: expected the size of an object pixel for positions in metres; state "
                "--pixel-size, or --energy, --distance and --detector-pixel-size, or an earlier scan with --like"
            )
        assert self.setup.size is not None
        spool = Spool.create(self.folder, self.setup.size, self.setup.facts(series.name, unit))
        for name, array in self.setup.arrays().items():
            spool.save_array(name, array)
        self.spool = spool

    def report(self, kind: str, sentence: str) -> None:
        """Count a fault, keep it for the page, and log the first ones of its kind."""
        self.counts[kind] += 1
        self.faults.append((time.time(), kind, sentence))
        if self.counts[kind] <= _LOGGED:
            more = "; further ones are counted" if self.counts[kind] == _LOGGED else ""
            _log.warning("%s%s", sentence, more)


def _missing(indexes: NDArray[np.int64], end: int) -> list[int]:
    """The first numbers from 0 to end - 1 that are not among the indexes."""
    known = np.sort(indexes[indexes < end])
    steps = np.diff(np.concatenate([[-1], known, [end]]))
    named: list[int] = []
    for place in np.flatnonzero(steps > 1).tolist():
        before = -1 if place == 0 else int(known[place - 1])
        named += range(before + 1, before + min(int(steps[place]), _NAMED + 1))
        if len(named) >= _NAMED:
            break
    return named[:_NAMED]
