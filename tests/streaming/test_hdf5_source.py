# SPDX-License-Identifier: BSD-3-Clause
"""Frames of HDF5 files that grow: written by the sender, by other processes, and by hand, with every fault."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from collecting import TIMEOUT, collect, frames_of

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.senders.hdf5 import Hdf5Sender
from ptychopinn.streaming.sources import hdf5
from ptychopinn.streaming.sources.hdf5 import Hdf5Source

N = 24
COUNTS = np.random.default_rng(5).poisson(4, (N, 10, 12)).astype(np.uint16)
WORLD = np.stack([np.arange(N) * 1e-6 - 3e-6, np.arange(N) * 2e-6 + 1e-6], axis=1)
DATA, TRANSLATION = "entry_1/instrument_1/detector_1/data", "entry_1/sample_1/geometry_1/translation"


def enough(n: int) -> Callable[[list[Item]], bool]:
    return lambda items: len(frames_of(items)) >= n


def faults_of(items: list[Item]) -> list[Fault]:
    return [item for item in items if isinstance(item, Fault)]


def check(frames: list[Frame], indexes: Any, positions: bool = True) -> None:
    assert sorted(frame.index for frame in frames) == list(indexes)
    for frame in frames:
        assert frame.counts.dtype == np.uint16
        np.testing.assert_array_equal(frame.counts, COUNTS[frame.index])
        assert (frame.position is not None) == positions
        if frame.position is not None:
            np.testing.assert_allclose(frame.position, WORLD[frame.index], rtol=1e-12)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_GRACE", 0.2)
    monkeypatch.setattr(hdf5, "_SETTLED", 0.3)


@pytest.fixture
def opened() -> Iterator[Callable[..., Hdf5Source]]:
    sources: list[Hdf5Source] = []

    def make(path: Path, *keys: str | None, quiet: float = 0.4, hold: float = 0.3, **stated: Any) -> Hdf5Source:
        sources.append(Hdf5Source(path, *keys, quiet=quiet, hold=hold, **stated))
        return sources[-1]

    yield make
    for source in sources:
        source.close()
        source.close()


def send(sender: Hdf5Sender, indexes: Any, positions: bool = True) -> None:
    for k in indexes:
        sender.send(k, COUNTS[k], tuple(WORLD[k]) if positions else None)


def begun(path: Path, **series: Any) -> Hdf5Sender:
    sender = Hdf5Sender(path, swmr=series.pop("swmr", True), chunk=series.pop("chunk", 1))
    sender.begin(Series(**series), COUNTS.shape[1:], COUNTS.dtype)
    return sender


# -- the sender ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 16])
@pytest.mark.parametrize("swmr", [True, False])
def test_frames_come_as_they_are_sent(tmp_path: Path, opened: Any, swmr: bool, chunk: int) -> None:
    path, mask = tmp_path / "a.cxi", np.zeros((10, 12), np.bool_)
    mask[3, 5] = True
    stated = {"energy": 9000.0, "distance": 2.0, "detector_pixel_size": 75e-6, "beam_centre": (4.0, 6.5)}
    sender = begun(path, swmr=swmr, chunk=chunk, name="one", frames=N, bad_pixels=mask, **stated)
    source = opened(path, quiet=30.0)
    assert source.read(0.05) == []
    send(sender, range(5))
    first = collect(source, enough(5))
    series = first[0]
    assert isinstance(series, Series) and (series.name, series.frames, series.position_unit) == ("one", N, "m")
    assert {name: pytest.approx(getattr(series, name)) for name in stated} == stated
    np.testing.assert_array_equal(series.bad_pixels, mask)
    check(frames_of(first), range(5))
    send(sender, range(5, N))
    rest = collect(source)  # although the file is open: all that were announced have come
    check(frames_of(rest), range(5, N))
    assert len(rest) == N - 5 + 1
    sender.close()
    sender.close()


def test_closed_file_ends_without_an_announced_number(tmp_path: Path, opened: Any) -> None:
    sender = begun(tmp_path / "a.cxi")
    source = opened(tmp_path / "a.cxi", quiet=30.0)
    send(sender, range(3))
    check(frames_of(collect(source, enough(3))), range(3))
    sender.end()
    assert collect(source) == [End()]


def test_quiet_file_ends(tmp_path: Path, opened: Any) -> None:
    sender = begun(tmp_path / "a.cxi", frames=N)
    source = opened(tmp_path / "a.cxi")
    send(sender, range(3))
    items = collect(source)
    check(frames_of(items), range(3))
    assert items[-1] == End() and source.read(0.1) == []
    sender.close()


def test_frames_that_are_late_or_lost(tmp_path: Path, opened: Any) -> None:
    """Frame 2 is written after 3; 5 never is."""
    sender = begun(tmp_path / "a.cxi", frames=N)
    source = opened(tmp_path / "a.cxi")
    send(sender, [0, 1, 3, 4, 6])
    check(frames_of(collect(source, enough(5))), [0, 1, 3, 4, 6])
    send(sender, [2])
    check(frames_of(collect(source)), [2])
    sender.close()


def test_frame_of_zeros_is_a_frame(tmp_path: Path, opened: Any) -> None:
    sender = begun(tmp_path / "a.cxi")
    source = opened(tmp_path / "a.cxi")
    sender.send(0, np.zeros((10, 12), np.uint16), None)
    (frame,) = frames_of(collect(source, enough(1)))
    assert frame.position is None and not frame.counts.any()
    sender.close()


def test_position_that_is_late(tmp_path: Path, opened: Any) -> None:
    sender = begun(tmp_path / "a.cxi", frames=N)
    source = opened(tmp_path / "a.cxi", hold=0.5, quiet=5.0)
    send(sender, range(2))
    send(sender, [2, 3], positions=False)
    first = collect(source, enough(2))
    check(frames_of(first), range(2))
    send(sender, [2])
    check(frames_of(collect(source, enough(1))), [2])
    check(frames_of(collect(source, enough(1))), [3], positions=False)
    send(sender, [4], positions=False)
    began = time.monotonic()
    check(frames_of(collect(source, enough(1))), [4], positions=False)
    assert time.monotonic() - began < 0.45  # no further position came: it is not waited for again
    sender.close()


def test_damaged_frame_is_lost_alone(tmp_path: Path, opened: Any) -> None:
    sender = begun(tmp_path / "a.cxi", frames=N)
    source = opened(tmp_path / "a.cxi", quiet=3.0)
    send(sender, [0, 1])
    sender.send_damaged(2)
    send(sender, range(3, N))
    items = collect(source)
    check(frames_of(items), [k for k in range(N) if k != 2])
    (fault,) = faults_of(items)
    assert fault.kind == "damaged" and "frame 2 of" in fault.sentence and "damaged chunk" in fault.sentence
    sender.close()


def test_negative_counts_are_damaged_but_where_the_mask_is(tmp_path: Path, opened: Any) -> None:
    mask = np.zeros((10, 12), np.bool_)
    mask[0, 0] = True
    sender = Hdf5Sender(tmp_path / "a.cxi")
    sender.begin(Series(bad_pixels=mask), (10, 12), np.dtype(np.int32))
    counts = COUNTS[:2].astype(np.int32)
    counts[:, 0, 0] = -2
    counts[1, 0, 1] = -1
    for k in range(2):
        sender.send(k, counts[k], (0.0, 0.0))
    items = collect(opened(tmp_path / "a.cxi"))
    (frame,), (fault,) = frames_of(items), faults_of(items)
    assert frame.counts.dtype == np.uint32 and frame.counts[0, 0] == 0 and frame.index == 0
    assert fault.kind == "damaged" and "1 negative values of int32" in fault.sentence
    sender.close()


# -- the file --------------------------------------------------------------------------------------------------------


def test_file_that_comes_late_is_reported_once(tmp_path: Path, opened: Any) -> None:
    source = opened(tmp_path / "a.cxi")
    (fault,) = collect(source, lambda items: bool(items))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "found none; it is waited for" in fault.sentence
    assert source.read(0.4) == []
    sender = begun(tmp_path / "a.cxi")
    send(sender, range(3))
    items = collect(source)
    check(frames_of(items), range(3))
    assert not faults_of(items)
    sender.close()


def test_file_that_is_written_over_is_another_series(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=COUNTS[:6], maxshape=(None, 10, 12))
    source = opened(path, quiet=30.0)
    check(frames_of(collect(source, enough(6))), range(6), positions=False)
    with h5py.File(path, "w", locking=False) as file:
        file.create_dataset("d", data=COUNTS[:3], maxshape=(None, 10, 12))
    items = collect(source, enough(3))
    assert [type(item) for item in items] == [Series, *[Frame] * 3]
    check(frames_of(items), range(3), positions=False)


@pytest.mark.parametrize("in_place", [False, True])
def test_replaced_file_is_another_series(tmp_path: Path, opened: Any, in_place: bool) -> None:
    path = tmp_path / "a.cxi"
    sender = begun(path, name="one", frames=N)
    source = opened(path, quiet=30.0)
    send(sender, range(6))
    collect(source, enough(6))
    if in_place:
        sender.close()
        begun(tmp_path / "b.cxi", name="two").close()
        inode = path.stat().st_ino
        path.write_bytes((tmp_path / "b.cxi").read_bytes())
        assert path.stat().st_ino == inode and source.read(0.2) == []
        with h5py.File(path, "a", locking=False) as file:
            file[DATA].resize(3, 0)
            file[DATA][:] = COUNTS[:3]
            file[TRANSLATION].resize(3, 0)
            file[TRANSLATION][:, :2] = WORLD[:3, ::-1]
    else:
        sender.begin(Series(name="two", frames=N), (10, 12), COUNTS.dtype)
        send(sender, range(3))
    items = collect(source, enough(3))
    series = items[0]
    assert isinstance(series, Series) and series.name == "two"
    check(frames_of(items), range(3))
    sender.close()


def test_unreadable_file_is_read_on(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.cxi"
    sender = begun(path)
    send(sender, range(4))
    sender.close()
    source = opened(path, quiet=5.0)
    collect(source, enough(4))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (fault,) = collect(source, lambda items: bool(items))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "truncated" in fault.sentence
    assert source.read(0.4) == []
    path.write_bytes(data)
    with h5py.File(path, "a", locking=False) as file:
        file[DATA].resize(6, 0)
        file[DATA][4:] = COUNTS[4:6]
        file[TRANSLATION].resize(6, 0)
        file[TRANSLATION][4:, :2] = WORLD[4:6, ::-1]
    items = collect(source)
    check(frames_of(items), [4, 5])
    assert not faults_of(items) and not any(isinstance(item, Series) for item in items)


def test_file_that_stays_truncated_ends(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.cxi"
    sender = begun(path, frames=N)
    send(sender, range(4))
    sender.close()
    source = opened(path, quiet=1.0)
    collect(source, enough(4))
    os.truncate(path, 100)
    items = collect(source)
    assert [type(item) for item in items] == [Fault, End]


@pytest.mark.parametrize("kind", ["text", "no patterns", "two"])
def test_file_that_cannot_be_used_is_an_error(tmp_path: Path, opened: Any, kind: str) -> None:
    path = tmp_path / "a.h5"
    if kind == "text":
        path.write_text("not HDF5 at all")
    else:
        with h5py.File(path, "w", libver="latest") as file:
            for k in range(2 if kind == "two" else 0):
                file[f"d{k}"] = COUNTS
    source = opened(path, quiet=0.8)
    words = {"text": "expected an HDF5 file", "no patterns": "one data set of three axes, found none", "two": "d0, d1"}
    with pytest.raises(InputError, match=words[kind]):
        collect(source, lambda items: False)


def test_file_whose_writer_may_be_at_work_is_waited_for(tmp_path: Path, opened: Any) -> None:
    """Of an older layout, nothing tells whether it is closed; a new file may be empty."""
    path = tmp_path / "a.h5"
    path.touch()
    source = opened(path, quiet=0.2)
    (fault,) = collect(source, lambda items: bool(items))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "an empty file" in fault.sentence
    with h5py.File(path, "w") as file:
        file["title"] = "no patterns yet"
    assert source.read(0.6) == []
    with h5py.File(path, "a", locking=False) as file:
        file["d"] = COUNTS
    check(frames_of(collect(source)), range(N), positions=False)


def test_missing_filter_is_an_error_at_once(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=COUNTS, chunks=(1, 10, 12), compression="lzf")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    with pytest.raises(InputError, match=r"key 'd': expected data that can be decompressed, found .* LZF"):
        opened(tmp_path / "a.h5", quiet=30.0).read(5.0)


def test_frame_larger_than_any_is_refused(tmp_path: Path, opened: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", (4, 1 << 15, 1 << 15), np.uint32, chunks=(1, 64, 64))
    with pytest.raises(InputError, match="of at most 256 MiB, found uint32 of shape"):
        opened(tmp_path / "a.h5").read(5.0)


def test_link_out_of_the_folder_is_refused(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file["d"] = COUNTS
    with h5py.File(tmp_path / "in" / "a.h5", "w", libver="latest") as file:
        file["d"] = h5py.ExternalLink("../out.h5", "d")
    with pytest.raises(InputError, match=r"a link to the other file ../out.h5|data in the folder of the file"):
        collect(opened(tmp_path / "in" / "a.h5", "d"), lambda items: False)


# -- writers in other processes --------------------------------------------------------------------------------------

WRITER = """
import sys, h5py, numpy as np
path, mode, counts = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
file = h5py.File(path, "w", libver="latest" if mode == "swmr" else "earliest")
data = file.create_dataset("d", (0, *counts.shape[1:]), counts.dtype, maxshape=(None, *counts.shape[1:]), chunks=True)
y, x = (file.create_dataset(n, (0,), "f8", maxshape=(None,)) for n in "yx")
if mode == "swmr":
    file.swmr_mode = True
file.flush()
print("ready", flush=True)
for first, last in (map(int, line.split()) for line in sys.stdin):
    for name, values in ((y, np.arange(first, last) * 1e-6 - 3e-6), (x, np.arange(first, last) * 2e-6 + 1e-6)):
        name.resize(last, 0)
        name[first:] = values
    for k in range(first, last):
        data.resize(k + 1, 0)
        data[k] = counts[k]
        file.flush()
    print("ready", flush=True)
file.close()
"""


@contextmanager
def writer(path: Path, mode: str, counts: Any = COUNTS) -> Iterator[Callable[[int, int], None]]:
    np.save(path.with_name("counts.npy"), counts)
    arguments = [sys.executable, "-c", WRITER, str(path), mode, str(path.with_name("counts.npy"))]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None

    def write(first: int, last: int) -> None:
        process.stdin.write(f"{first} {last}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

    try:
        assert process.stdout.readline() == "ready\n"
        yield write
    finally:
        process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0


@pytest.mark.parametrize("mode", ["swmr", "flush"])
def test_file_of_another_process_is_read_as_it_grows(tmp_path: Path, opened: Any, mode: str) -> None:
    """The writer has its usual lock on the file."""
    path = tmp_path / "a.h5"
    with writer(path, mode) as write:
        source = opened(path, "d", "y,x", quiet=20.0)
        for first, last in ((0, 1), (1, 9), (9, N)):
            write(first, last)
            items = collect(source, enough(last - first))
            assert not faults_of(items)
            check(frames_of(items), range(first, last))
    source._quiet = 0.3
    assert collect(source) == [End()]


@pytest.mark.parametrize("mode", ["swmr", "flush"])
def test_frames_are_intact_while_others_are_written(tmp_path: Path, opened: Any, mode: str) -> None:
    """The writer flushes after each frame, as fast as it can."""
    path, counts = tmp_path / "a.h5", np.random.default_rng(9).poisson(2, (900, 10, 12)).astype(np.uint16)
    with writer(path, mode, counts) as write:
        source = opened(path, "d", "y,x", quiet=20.0)
        writing = threading.Thread(target=write, args=(0, len(counts)))
        writing.start()
        items = collect(source, enough(len(counts)))
        writing.join()
    frames = frames_of(items)
    assert [frame.index for frame in frames] == list(range(len(counts))) and not faults_of(items)
    assert all((frame.counts == counts[frame.index]).all() for frame in frames)


def test_reader_does_not_disturb_a_writer(tmp_path: Path, opened: Any) -> None:
    """While frames of an open file are waiting to be read, another process opens it to write."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=np.ones((100, 8, 8), np.uint8), maxshape=(None, 8, 8))
    source = opened(path, "d")
    assert len(frames_of(source.read(5.0))) == 64 and source._file is not None
    code = "import h5py, sys; h5py.File(sys.argv[1], 'a')['d'].resize(110, 0)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=TIMEOUT)
    assert len(frames_of(source.read(5.0))) == 36


def test_file_that_its_writer_keeps_to_itself_is_waited_for(tmp_path: Path, opened: Any) -> None:
    """The newest layout without SWMR cannot be read before it is closed."""
    path, code = tmp_path / "a.h5", (
        "import h5py, sys, numpy as np\nf = h5py.File(sys.argv[1], 'w', libver='latest')\n"
        "f['d'] = np.load(sys.argv[2])\nf.flush()\nprint('ready', flush=True)\nsys.stdin.readline()\nf.close()"
    )  # fmt: skip
    np.save(tmp_path / "counts.npy", COUNTS)
    arguments = [sys.executable, "-c", code, str(path), str(tmp_path / "counts.npy")]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    source = opened(path, quiet=20.0)
    (fault,) = collect(source, lambda items: bool(items))
    assert isinstance(fault, Fault) and fault.kind == "interrupted" and "not in SWMR mode" in fault.sentence
    process.communicate("\n", timeout=TIMEOUT)
    check(frames_of(collect(source)), range(N), positions=False)
