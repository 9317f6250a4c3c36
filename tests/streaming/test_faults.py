# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with detectors, streams, files and disks: each ends in a sentence or is survived, without a loss.

Every case has a source and what must be stored of its frames, to the bit. :data:`CASES` lists them.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_source import MemoryPositions, MemorySource

from ptychopinn import InputError, Scan, simulate
from ptychopinn.config import LiveConfig
from ptychopinn.storage import spool
from ptychopinn.streaming import intake as intake_module
from ptychopinn.streaming.frames import End, Frame, Series
from ptychopinn.streaming.senders.dectris import DectrisSender
from ptychopinn.streaming.senders.hdf5 import Hdf5Sender
from ptychopinn.streaming.sources.addresses import open_source
from ptychopinn.streaming.workflow import frames_folder, live

SCAN = simulate("photos", "defocused", patterns=30, size=16, seed=5)
ALL = list(range(30))
SETTINGS = LiveConfig(batch_size=8, batch_seconds=0.01, picture_seconds=0.01, improve=False, final=False)
SERIES = Series("test", 30, position_unit="px")


@dataclass
class Case:
    """A fault.

    Args:
        source: what a live run receives from.
        rows: of the scan that must be stored.
        sentence: of the error that it ends in, if it does.
        counts: of events.
        positions: that come by another way.
        meanwhile: runs on a thread of its own, from the beginning.
    """

    source: Any
    rows: list[int] = field(default_factory=lambda: ALL)
    sentence: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    positions: Any = None
    meanwhile: Callable[[], None] | None = None


def frames(rows: Iterable[int] = ALL, shift: int = 0) -> list[Any]:
    return [Frame(k - shift, SCAN.counts[k], tuple(SCAN.positions[k])) for k in rows]


def listed(*items: Any, **more: Any) -> Case:
    return Case(MemorySource([SERIES, *items], 7), **more)


def streamed(send: Callable[[DectrisSender], None], **more: Any) -> Case:
    """A case whose frames come by a DECTRIS stream."""
    pytest.importorskip("zmq")
    pytest.importorskip("dectris.compression")
    sender = DectrisSender("zmq://127.0.0.1:0")

    def run() -> None:
        send(sender)
        sender.close()

    return Case(open_source(sender.address), meanwhile=run, **more)


def begin(sender: DectrisSender, count: int | None = 30) -> None:
    sender.begin(Series("test", count, position_unit="px"), (16, 16), SCAN.counts.dtype)


def send(sender: Any, rows: Iterable[int], shift: int = 0) -> None:
    for k in rows:
        sender.send(k - shift, SCAN.counts[k], tuple(SCAN.positions[k].tolist()))


def lost_frames(folder: Path) -> Case:
    return listed(*frames(k for k in ALL if k not in (3, 4, 17)), rows=[k for k in ALL if k not in (3, 4, 17)])


def late_frames(folder: Path) -> Case:
    order = np.random.default_rng(0).permutation(30).tolist()
    return listed(*frames(order))


def repeated_frames(folder: Path) -> Case:
    return listed(*frames([*range(20), *range(10), *range(20, 30), 29]), counts={"repeated": 11})


def unreadable_message(folder: Path) -> Case:
    def run(sender: DectrisSender) -> None:
        begin(sender)
        send(sender, range(10))
        sender.send_damaged(10)
        send(sender, range(11, 30))
        sender.end()

    return streamed(run, rows=[k for k in ALL if k != 10], counts={"damaged": 1})


def garbage_in_the_stream(folder: Path) -> Case:
    def run(sender: DectrisSender) -> None:
        begin(sender)
        send(sender, range(10))
        for data in (b"", b"\xff" * 100, b"not a message", b'{"htype": "dheader-1.0"}', os.urandom(500)):
            sender._socket.send(data)
        send(sender, range(10, 30))
        sender.end()

    return streamed(run)


def a_pause(folder: Path) -> Case:
    def run(sender: DectrisSender) -> None:
        begin(sender)
        send(sender, range(10))
        time.sleep(1.0)
        send(sender, range(10, 30))
        sender.end()

    return streamed(run)


def detector_begins_again(folder: Path) -> Case:
    def run(sender: DectrisSender) -> None:
        begin(sender)
        send(sender, range(12))
        sender.end()
        begin(sender, 18)
        send(sender, range(12, 30), shift=12)
        sender.end()

    return streamed(run, counts={"restarts": 1})


def detector_begins_again_without_an_end(folder: Path) -> Case:
    return listed(*frames(range(12)), SERIES, *frames(range(12, 30), 12), counts={"restarts": 1})


def start_message_missed(folder: Path) -> Case:
    """As where the receiver is started late: the positions' unit is not known, so they come by another way."""

    def run(sender: DectrisSender) -> None:
        begin_silently(sender)
        send(sender, range(5, 30))
        sender.end()

    rows = [(k, *SCAN.positions[k].tolist()) for k in ALL]
    return streamed(run, rows=ALL[5:], positions=MemoryPositions(rows, 30))


def begin_silently(sender: DectrisSender) -> None:
    """Begin a series whose start message is lost."""
    sender._series_id, sender._unique_id, sender._shape, sender._dtype = 7, "seven", (16, 16), SCAN.counts.dtype


def no_end_message(folder: Path) -> Case:
    """The detector's computer fails: the run ends when it is told to."""

    def run(sender: DectrisSender) -> None:
        begin(sender)
        send(sender, range(20))
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGTERM)

    return streamed(run, rows=list(range(20)))


def frame_of_another_size(folder: Path) -> Case:
    return listed(*frames(range(9)), Frame(9, SCAN.counts[9][:8, :8]), *frames(range(10, 30)),
                  rows=[k for k in ALL if k != 9], counts={"damaged": 1})  # fmt: skip


def frame_of_a_wider_type(folder: Path) -> Case:
    wide = Frame(9, SCAN.counts[9].astype(np.uint32), tuple(SCAN.positions[9]))
    return listed(*frames(range(9)), wide, *frames(range(10, 30)))


def absurd_index(folder: Path) -> Case:
    far = Frame(2**40, SCAN.counts[0], (0.0, 0.0))
    return listed(*frames(range(9)), far, *frames(range(9, 30)), Frame(-5, SCAN.counts[0]),
                  counts={"damaged": 1, "lost_count": 0})  # fmt: skip


def values_that_are_no_counts(folder: Path) -> Case:
    real = [Frame(k, SCAN.counts[k].astype(np.float32), tuple(SCAN.positions[k])) for k in ALL]
    real[4].counts[3, 3] = np.nan
    real[5].counts[3, 3] = -1
    return listed(*real, rows=[k for k in ALL if k not in (4, 5)], counts={"damaged": 2})


def dark_frames(folder: Path) -> Case:
    items = frames()
    return listed(*(Frame(k, np.zeros_like(SCAN.counts[0]), (0.0, 0.0)) for k in range(30, 40)), *items, rows=ALL)


def positions_late(folder: Path) -> Case:
    rows = [(k, *SCAN.positions[k].tolist()) for k in reversed(ALL)]
    items = [SERIES, *(Frame(k, SCAN.counts[k]) for k in ALL)]
    return Case(MemorySource(items), positions=MemoryPositions(rows, 11))


def positions_missing(folder: Path) -> Case:
    rows = [(k, *SCAN.positions[k].tolist()) for k in ALL if k != 8]
    items = [SERIES, *(Frame(k, SCAN.counts[k]) for k in ALL)]
    return Case(MemorySource(items), rows=[k for k in ALL if k != 8], positions=MemoryPositions(rows, 30))


def positions_not_finite(folder: Path) -> Case:
    rows = [(k, *SCAN.positions[k].tolist()) for k in ALL]
    rows[3], rows[4] = (3, float("nan"), 0.0), (-1, 0.0, 0.0)
    items = [SERIES, *(Frame(k, SCAN.counts[k]) for k in ALL)]
    kept = [k for k in ALL if k not in (3, 4)]
    return Case(MemorySource(items), rows=kept, positions=MemoryPositions(rows, 30))


def position_far_away(folder: Path) -> Case:
    far = Frame(30, SCAN.counts[0], (1e8, -1e8))
    return listed(*frames(), far, rows=ALL, counts={"unexpected": 1})


def no_positions_at_all(folder: Path) -> Case:
    items = [SERIES, *(Frame(k, SCAN.counts[k]) for k in ALL)]
    return Case(MemorySource(items), rows=[], sentence="expected frames with positions, found 30 frames, none of which")


def connection_breaks(folder: Path) -> Case:
    return listed(*frames(range(21)), InputError("test: the connection was closed"), rows=list(range(20)),
                  sentence="the connection was closed; .* has the image so far, --resume continues")  # fmt: skip


def file_comes_late(folder: Path) -> Case:
    path = folder / "late.h5"

    def run() -> None:
        time.sleep(0.5)
        write(path, ALL)

    return Case(open_source(path, quiet=5.0), meanwhile=run)


def file_grows_slowly(folder: Path) -> Case:
    path = folder / "slow.h5"
    sender = Hdf5Sender(path)
    sender.begin(SERIES, (16, 16), SCAN.counts.dtype)

    def run() -> None:
        for k in ALL:
            send(sender, [k])
            time.sleep(0.02)
        sender.end()
        sender.close()

    return Case(open_source(path, quiet=5.0), meanwhile=run)


def writer_dies(folder: Path) -> Case:
    """The file is never closed: it has ended when it does not grow."""
    path = folder / "dead.h5"
    code = (
        "import os, sys, numpy as np, ptychopinn as pp\n"
        "from ptychopinn.streaming.frames import Series\n"
        "from ptychopinn.streaming.senders.hdf5 import Hdf5Sender\n"
        "scan = pp.simulate('photos', 'defocused', patterns=30, size=16, seed=5)\n"
        "sender = Hdf5Sender(sys.argv[1])\n"
        "sender.begin(Series('test', 30, position_unit='px'), (16, 16), scan.counts.dtype)\n"
        "for k in range(15): sender.send(k, scan.counts[k], tuple(scan.positions[k].tolist()))\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    return Case(open_source(path, quiet=1.0), rows=list(range(15)))


def file_is_truncated(folder: Path) -> Case:
    path = folder / "short.h5"
    write(path, ALL)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    def run() -> None:
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGTERM)

    # It may be one that is still being written, so it is waited for.
    return Case(open_source(path, quiet=0.5), rows=[], sentence="short.h5: .*found no frame", meanwhile=run)


def file_is_replaced(folder: Path) -> Case:
    """By that of the next scan: its frames are counted on."""
    path, other = folder / "a.h5", folder / "b.h5"
    write(path, range(12), close=False)
    write(other, range(12, 30), 12)

    def run() -> None:
        time.sleep(1.0)
        os.replace(other, path)

    return Case(open_source(path, quiet=3.0), meanwhile=run, counts={"restarts": 1})


def write(path: Path, rows: Iterable[int], shift: int = 0, close: bool = True) -> None:
    """A file of these rows; unless it is closed, a copy of one that is being written."""
    sender = Hdf5Sender(path if close else path.with_suffix(".open.h5"))
    sender.begin(SERIES, (16, 16), SCAN.counts.dtype)
    send(sender, rows, shift)
    if not close:
        shutil.copy(path.with_suffix(".open.h5"), path)
    sender.end()
    sender.close()


CASES = (
    lost_frames, late_frames, repeated_frames, unreadable_message, garbage_in_the_stream, a_pause,
    detector_begins_again, detector_begins_again_without_an_end, start_message_missed, no_end_message,
    frame_of_another_size, frame_of_a_wider_type, absurd_index, values_that_are_no_counts, dark_frames,
    positions_late, positions_missing, positions_not_finite, position_far_away, no_positions_at_all,
    connection_breaks, file_comes_late, file_grows_slowly, writer_dies, file_is_truncated, file_is_replaced,
)  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda case: case.__name__)
def test_a_fault_ends_in_a_sentence_or_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Case]
) -> None:
    for name in ("_RESTART", "_POSITIONS"):
        monkeypatch.setattr(intake_module, name, 1.0)
    case, out = make(tmp_path), tmp_path / "live.h5"
    thread = threading.Thread(target=case.meanwhile or (lambda: None))
    thread.start()
    status: dict[str, Any] = {}
    arguments: dict[str, Any] = {"out": out, "like": SCAN, "positions": case.positions, "settings": SETTINGS}
    try:
        if case.sentence is not None:
            with pytest.raises(InputError, match=case.sentence):
                live(case.source, network=False, **arguments)
        else:
            result = live(case.source, network=False, **arguments)
            status = result.metadata["live"]
            assert np.isfinite(result.object).all() and out.exists()
    finally:
        thread.join(30)
    for name, count in case.counts.items():
        assert status.get(name, counted(status, name)) == count, status
    check_stored(frames_folder(out), case.rows)


def counted(status: dict[str, Any], kind: str) -> int:
    return sum(fault["kind"] == kind for fault in status["faults"])


def check_stored(folder: Path, rows: list[int]) -> None:
    if not rows:
        return
    stored = Scan.load(folder)
    assert stored.frame_indexes is not None
    have = [index for index in stored.frame_indexes.tolist() if index < 30]
    assert have == rows
    kept = stored.frame_indexes < 30
    np.testing.assert_array_equal(stored.counts[kept], SCAN.counts[rows])
    np.testing.assert_array_equal(stored.positions[kept], SCAN.positions[rows])


def test_a_full_disk_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all, failures = spool._write_all, []

    def full(file: Any, data: bytes) -> None:
        if len(failures) < 1 and file.tell() > 3000:
            failures.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(file, data)

    monkeypatch.setattr(spool, "_write_all", full)
    live(MemorySource([SERIES, *frames()], 3), out=tmp_path / "live.h5", like=SCAN, settings=SETTINGS, network=False)
    assert failures
    check_stored(frames_folder(tmp_path / "live.h5"), ALL)


def test_a_run_that_is_killed_continues(tmp_path: Path) -> None:
    """SIGKILL in the middle: what was stored is whole, and a restart has all."""
    out, folder = tmp_path / "live.h5", tmp_path / "live.frames"
    code = (
        "import sys, time, ptychopinn as pp\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "import test_faults as t\n"
        "from memory_source import MemorySource\n"
        "source = MemorySource([t.SERIES, *t.frames(range(20))], 5, ends=False)\n"
        "t.live(source, out=sys.argv[1], like=t.SCAN, settings=t.SETTINGS, network=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(out), str(Path(__file__).parent)])
    try:
        end = time.monotonic() + 60
        log = folder / f"frames.{SCAN.counts.dtype.name}.log"
        while time.monotonic() < end and not (log.exists() and log.stat().st_size >= 20 * 16):
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(30)
    check_stored(folder, list(range(20)))
    source = MemorySource([SERIES, *frames(range(15, 30)), End()], 5)
    live(source, out=out, like=SCAN, settings=SETTINGS, network=False, resume=True)
    check_stored(folder, ALL)
