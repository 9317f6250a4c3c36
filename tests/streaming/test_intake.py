# SPDX-License-Identifier: BSD-3-Clause
"""What is received is stored and paired, whatever goes wrong; every fault is counted and named."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_source import MemoryPositions, MemorySource, frames_of

from ptychopinn import InputError, Scan, simulate
from ptychopinn.storage import spool as storage
from ptychopinn.streaming import intake as module
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.intake import Intake
from ptychopinn.streaming.setup import Setup

pytestmark = pytest.mark.usefixtures("short_waits")
SCAN = simulate("photos", "defocused", patterns=25, size=32, seed=3)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for another series, for positions and for room on the disk."""
    for name in ("_RESTART", "_POSITIONS"):
        monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(module, "_FULL_DISK", 10.0)


def received(intake: Intake, seconds: float = 20.0) -> Intake:
    """The intake after its source has ended."""
    intake.start()
    assert intake.ended.wait(seconds)
    intake.stop()
    return intake


def intake_of(folder: Path, items: list[Any], positions: Any = None, setup: Setup | None = None, **more: Any) -> Intake:
    return Intake(MemorySource(items), positions, folder / "a.frames", setup or Setup.like(SCAN), **more)


def same(folder: Path, rows: list[int]) -> None:
    """The folder holds these rows of the scan, to the bit."""
    got = Scan.load(folder / "a.frames")
    assert got.frame_indexes is not None and got.frame_indexes.tolist() == rows
    np.testing.assert_array_equal(got.counts, SCAN.counts[rows])
    np.testing.assert_array_equal(got.positions, SCAN.positions[rows])
    np.testing.assert_array_equal(got.probe, SCAN.probe)


def test_frames_in_order(tmp_path: Path) -> None:
    intake = received(intake_of(tmp_path, frames_of(SCAN)))
    assert intake.error is None and intake.expected == 25 and intake.lost() == (0, [])
    assert dict(intake.counts) == {"received": 25}
    assert [index for index, _ in intake.take(100)] == list(range(25)) and intake.backlog() == (0, 0.0)
    same(tmp_path, list(range(25)))


def test_frames_that_are_late_repeated_and_lost(tmp_path: Path) -> None:
    order = [1, 0, 2, 4, 4, 3, 9, 8, 7, 7, 10, 1]
    intake = received(intake_of(tmp_path, frames_of(SCAN, order)))
    assert intake.counts["received"] == 9 and intake.counts["repeated"] == 3 and intake.counts["reordered"] == 4
    count, named = intake.lost()
    assert count == 16 and named == [5, 6, *range(11, 25)]
    same(tmp_path, sorted(set(order)))


def test_positions_by_another_way_in_any_order(tmp_path: Path) -> None:
    rows = [(k, *SCAN.positions[k].tolist()) for k in np.random.default_rng(0).permutation(25).tolist()]
    intake = received(intake_of(tmp_path, frames_of(SCAN, positions=False), MemoryPositions(rows, 9)))
    assert intake.backlog()[0] == 25 and not intake.status()["waiting_for_position"]
    same(tmp_path, list(range(25)))


def test_frames_without_a_position_wait(tmp_path: Path) -> None:
    rows = [(k, *SCAN.positions[k].tolist()) for k in range(20)]
    intake = received(intake_of(tmp_path, frames_of(SCAN, positions=False), MemoryPositions(rows)))
    assert intake.status()["waiting_for_position"] == 5 and intake.backlog()[0] == 20
    same(tmp_path, list(range(20)))


@pytest.mark.parametrize("ended", [True, False])
def test_a_detector_that_begins_again_is_counted_on(tmp_path: Path, ended: bool) -> None:
    first, second = frames_of(SCAN, range(10)), frames_of(SCAN, range(10, 25))
    again = [Frame(item.index - 10, item.counts, item.position) for item in second if isinstance(item, Frame)]
    between = [End()] if ended else []
    intake = received(intake_of(tmp_path, [*first, *between, Series("test", 15, position_unit="px"), *again]))
    assert intake.counts["restarts"] == 1 and intake.expected == 25 and intake.lost() == (0, [])
    assert re.search("began again after frame 9: .* are counted from 10", intake.faults[-1][2])
    same(tmp_path, list(range(25)))


def test_faults_are_counted_and_the_latest_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items: list[Item] = [*frames_of(SCAN), *(Fault("damaged", f"message {k}") for k in range(100))]
    items.insert(5, Frame(3, np.zeros((4, 4), np.uint16)))
    items.insert(6, Frame(-1, SCAN.counts[0]))
    items.insert(7, Frame(3, np.zeros(32, np.uint16)))
    intake = received(intake_of(tmp_path, items))
    assert intake.counts["damaged"] == 103 and len(intake.faults) == 50
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 3
    same(tmp_path, list(range(25)))


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    received(intake_of(tmp_path, frames_of(SCAN, range(10))))
    intake = intake_of(tmp_path, frames_of(SCAN), resume=True)
    assert intake.counts["received"] == 10 and intake.backlog()[0] == 10
    received(intake)
    assert intake.counts["repeated"] == 10 and intake.counts["received"] == 25
    same(tmp_path, list(range(25)))


def test_a_source_that_fails_loses_nothing(tmp_path: Path) -> None:
    items = [*frames_of(SCAN, range(12)), InputError("test: the cable was pulled")]
    source = MemorySource(items, at_once=4)
    intake = received(Intake(source, None, tmp_path / "a.frames", Setup.like(SCAN)))
    assert str(intake.error) == "test: the cable was pulled" and source.closed
    same(tmp_path, list(range(11)))  # of the last read nothing came


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failed = storage._write_all, []

    def full(file: Any, data: bytes) -> None:
        if len(failed) < 2 and len(data) > 1000:
            failed.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(storage, "_write_all", full)
    intake = received(intake_of(tmp_path, frames_of(SCAN)))
    assert intake.error is None and intake.counts["disk"] == 2
    same(tmp_path, list(range(25)))


def test_a_disk_that_stays_full_ends_it_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FULL_DISK", 0.1)
    write = storage._write_all
    written = []

    def full(file: Any, data: bytes) -> None:
        written.append(1)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(storage, "_write_all", full)
    intake = received(intake_of(tmp_path, frames_of(SCAN)))
    assert "No space left on device; the 15 frames before are complete" in str(intake.error)


def test_what_the_source_states_is_used(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[12, 20] = True
    counts = np.random.default_rng(0).integers(1, 50, (40, 50)).astype(np.uint16)
    series = Series("named", 1, 8000.0, 2.0, 75e-6, (18.0, 24.0), mask, position_unit="m")
    intake = received(
        intake_of(tmp_path, [series, Frame(0, counts, (1e-6, 2e-6))], setup=Setup(size=16, bin=2, probe=None))
    )
    scan = Scan.load(tmp_path / "a.frames")
    assert scan.name == "named" and scan.energy == 8000.0 and scan.acquisition.detector_pixel_size == 150e-6
    assert scan.pixel_size == pytest.approx(1.2398419843320026e-6 / 8000 * 2.0 / (16 * 150e-6))
    cut = counts[2:34, 8:40].reshape(16, 2, 16, 2).sum((1, 3))
    np.testing.assert_array_equal(scan.counts[0], cut)
    assert scan.bad_pixels is not None and np.argwhere(scan.bad_pixels).tolist() == [[5, 6]]
    assert intake.error is None


@pytest.mark.parametrize(
    ("setup", "items", "sentence"),
    [
        (
            Setup(size=64),
            frames_of(SCAN),
            "test: expected frames of at least 64 x 64 px for patterns of 64 px, found 32 x 32; state another --size",
        ),
        (
            Setup(),
            [Series(), Frame(0, SCAN.counts[0], (0.0, 0.0))],
            "memory: expected the size of an object pixel for positions in metres; state --pixel-size, or --energy",
        ),
        (
            Setup(size=16, centre=(200.0, 4.0)),
            frames_of(SCAN),
            r"the centre \(200.0, 4.0\) \(y, x\) is not on the detector of \(32, 32\); state another --centre",
        ),
    ],
)
def test_setups_that_do_not_fit(tmp_path: Path, setup: Setup, items: list[Item], sentence: str) -> None:
    intake = received(intake_of(tmp_path, items, setup=setup))
    assert isinstance(intake.error, InputError) and re.search(sentence, str(intake.error))


def test_it_keeps_up_and_ends_when_told(tmp_path: Path) -> None:
    source = MemorySource(frames_of(SCAN), ends=False)
    intake = Intake(source, None, tmp_path / "a.frames", Setup.like(SCAN))
    intake.start()
    wait_for(lambda: intake.backlog()[0] == 25)
    assert not intake.ended.is_set() and intake.status()["rate"] >= 0
    intake.stop()
    assert intake.ended.is_set() and source.closed
    same(tmp_path, list(range(25)))


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
