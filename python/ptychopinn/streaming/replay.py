# SPDX-License-Identifier: BSD-3-Clause
"""A recorded scan sent as if it were measured now, in time and with the faults of real detectors.

The order of events depends on the seed only: a receiver can be told which frames were lost.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.streaming.frames import Series
from ptychopinn.streaming.senders.sender import Sender

#: Faults, their strength if none is stated, and what they are.
FAULTS: dict[str, tuple[float, str]] = {
    "drop": (0.005, "fraction of frames that are not sent"),
    "reorder": (0.05, "fraction of frames that come up to 20 frames too late"),
    "repeat": (0.01, "fraction of frames that are sent twice"),
    "damage": (0.002, "fraction of frames in whose place something unreadable is sent"),
    "stall": (2.0, "seconds without a frame, in the middle"),
    "restart": (1.0, "times that the detector begins a new series"),
}
_LATE = 20  # frames


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a replay; each is zero by default, see :data:`FAULTS`."""

    drop: float = 0.0
    reorder: float = 0.0
    repeat: float = 0.0
    damage: float = 0.0
    stall: float = 0.0
    restart: float = 0.0

    __repr__ = one_line

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Faults by name, with their strength if it is not the usual one.

        Raises:
            InputError: there is no such fault, or its strength is not a number that fits.

        Example:
            >>> Faults.parse("reorder,drop=0.1")
            Faults(drop=0.1, reorder=0.05)
        """
        stated = {}
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, equals, value = part.partition("=")
            if name not in FAULTS:
                raise InputError(f"--faults: expected {', '.join(FAULTS)}, each with =NUMBER if wanted, got {name!r}")
            try:
                number = float(value) if equals else FAULTS[name][0]
            except ValueError:
                number = -1.0
            most = np.inf if name in ("stall", "restart") else 0.5
            if not 0 <= number <= most:
                raise InputError(f"--faults: {name} must be a number from 0 to {most}, got {value!r}")
            stated[name] = number
        return cls(**stated)


class Event(NamedTuple):
    """A step of a replay.

    Attributes:
        kind: "send" or "damage" (a frame), "stall" or "restart".
        frame: its row in the scan; 0 for others.
    """

    kind: str
    frame: int = 0


@dataclass(frozen=True)
class Replayed:
    """What was sent.

    Attributes:
        sent: frames, each once.
        lost: rows of the scan that were not sent, or damaged.
        seconds: of the replay.
    """

    sent: int
    lost: tuple[int, ...] = field(default=())
    seconds: float = 0.0

    __repr__ = one_line


def events(count: int, faults: Faults, seed: int = 0) -> list[Event]:
    """The steps of a replay of so many frames.

    A restart comes after all frames before it, so that those after it can be counted on.

    Args:
        count: of the scan's patterns.
        faults: what goes wrong.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    borders = np.linspace(0, count, int(faults.restart) + 2).round().astype(int)
    steps: list[Event] = []
    for number, (begin, end) in enumerate(itertools.pairwise(borders)):
        if number:
            steps.append(Event("restart"))
        rows = np.arange(begin, end)
        draws = rng.random((4, len(rows)))
        due = rows + np.where(draws[0] < faults.reorder, rng.integers(2, _LATE + 1, len(rows)), 0.0)
        part = []
        for place in np.argsort(due, kind="stable").tolist():
            row = int(rows[place])
            if draws[1, place] < faults.drop:
                continue
            part.append(Event("damage" if draws[2, place] < faults.damage else "send", row))
            if draws[3, place] < faults.repeat:
                part.append(part[-1])
        steps += part
    if faults.stall:
        steps.insert(len(steps) // 2, Event("stall"))
    return steps


def replay(
    scan: Scan,
    sender: Sender,
    rate: float,
    faults: Faults | None = None,
    seed: int = 0,
    *,
    table: Callable[[int, float, float], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Replayed:
    """Send a scan.

    Args:
        scan: the scan; positions are sent in pixels.
        sender: where to.
        rate: frames per second, at most; a receiver that is slower holds it up.
        faults: what goes wrong; None: nothing.
        seed: of the faults.
        table: is given index and position (y, x) of every frame after it is sent, in place of the frame.
        stop: whether to end now; asked before every frame.

    Returns:
        What was sent.

    Raises:
        InputError: the rate is not positive, or the sender cannot send.
    """
    if not rate > 0:
        raise InputError(f"--rate must be positive frames per second, got {rate}")
    faults = faults or Faults()
    steps = events(scan.n, faults, seed)
    acquisition, sent = scan.acquisition, set[int]()
    side = acquisition.detector_pixel_size
    series = Series(
        scan.name, scan.n, scan.energy, acquisition.distance, side, None, scan.bad_pixels, position_unit="px"
    )
    rows = _Rows(scan)
    sender.begin(series, (scan.patch_size, scan.patch_size), scan.counts.dtype)
    begun = due = time.monotonic()
    first = 0
    with progress("replay", len(steps), "frames") as advance:
        for step in steps:
            if stop():
                break
            if step.kind == "stall":
                due += faults.stall
                continue
            if step.kind == "restart":
                first = max(sent, default=-1) + 1
                sender.end()
                rest = replace(series, frames=scan.n - first)
                sender.begin(rest, (scan.patch_size, scan.patch_size), scan.counts.dtype)
                continue
            due += 1 / rate
            if (pause := due - time.monotonic()) > 0:
                time.sleep(pause)
            else:
                due = max(due, time.monotonic() - 0.1)  # what the receiver held up is not made up for at once
            if step.kind == "damage":
                sender.send_damaged(step.frame - first)
            else:
                y, x = scan.positions[step.frame].tolist()
                sender.send(step.frame - first, rows[step.frame], None if table is not None else (y, x))
                sent.add(step.frame)
                if table is not None:
                    table(step.frame, y, x)
            advance(1)
    sender.end()
    lost = tuple(row for row in range(scan.n) if row not in sent)
    return Replayed(len(sent), lost, time.monotonic() - begun)


class _Rows:
    """Patterns of a scan by row; of those on disk a block is read at a time."""

    def __init__(self, scan: Scan) -> None:
        self.counts = scan.counts
        self.blocks = list(pattern_blocks(scan.counts.shape))
        self.rows = self.blocks[0].stop
        self._held: dict[int, NDArray[Any]] = {}

    def __getitem__(self, row: int) -> NDArray[Any]:
        if isinstance(self.counts, np.ndarray):
            pattern: NDArray[Any] = self.counts[row]
            return pattern
        number = row // self.rows
        if number not in self._held:
            while len(self._held) > 1:  # frames that come late are of the block before
                self._held.pop(min(self._held))
            self._held[number] = self.counts[self.blocks[number]]
        pattern = self._held[number][row - number * self.rows]
        return pattern


def open_sender(address: str | Path) -> Sender:
    """The sender to an address: ``zmq://HOST:PORT``, ``pva://CHANNEL``, an HDF5 file or a folder, which are new.

    Raises:
        InputError: it is no address of these, or a library is missing.
    """
    text = str(address)
    scheme, colon, rest = text.partition("://")
    if colon and scheme in ("zmq", "tcp"):
        from ptychopinn.streaming.senders.dectris import DectrisSender

        return DectrisSender(text)
    if colon and scheme == "pva":
        from ptychopinn.streaming.senders.epics import EpicsSender

        return EpicsSender(rest)
    if colon:
        raise InputError(f"{text}: expected zmq://HOST:PORT, pva://CHANNEL, a file FILE.h5 to write, or a folder")
    path = Path(text)
    if path.suffix.lower() in (".h5", ".hdf5", ".cxi", ".nxs"):
        from ptychopinn.streaming.senders.hdf5 import Hdf5Sender

        return Hdf5Sender(path)
    from ptychopinn.streaming.senders.folder import FolderSender

    return FolderSender(path)
