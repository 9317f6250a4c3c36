# SPDX-License-Identifier: BSD-3-Clause
"""The folder of received frames: exact, in any order, of any type, and whole after whatever ended the program."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn import InputError, Scan
from ptychopinn.storage import spool as module
from ptychopinn.storage.spool import Spool

N = 16
RNG = np.random.default_rng(0)


def frame(index: int, dtype: Any = np.uint16) -> np.ndarray:
    return (np.arange(N * N).reshape(N, N) % 50 + index).astype(dtype)


def made(folder: Path, indexes: list[int], dtype: Any = np.uint16, unit: str = "px") -> Spool:
    spool = Spool.create(folder, N, {"name": "test", "position_unit": unit, "pixel_size": 1e-8})
    spool.add_frames([(index, frame(index, dtype)) for index in indexes])
    spool.add_positions([(index, 1.5 * index, -0.25 * index) for index in indexes])
    return spool


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.float32])
def test_frames_come_back_by_index(tmp_path: Path, dtype: Any) -> None:
    spool = made(tmp_path / "a", [5, 2, 9000, 0], dtype)
    again = Spool(tmp_path / "a")
    for one in (spool, again):
        assert one.indexes.tolist() == [5, 2, 9000, 0] and one.complete().tolist() == [0, 2, 5, 9000]
        assert one.has(9000) and not one.has(3)
        counts = one.patterns([9000, 2])[:]
        assert counts.dtype == dtype
        np.testing.assert_array_equal(counts, [frame(9000, dtype), frame(2, dtype)])
        np.testing.assert_array_equal(one.positions([2, 3]), [[3.0, -0.5], [np.nan, np.nan]])
    assert again.facts["name"] == "test"


def test_a_later_position_replaces_the_former(tmp_path: Path) -> None:
    spool = made(tmp_path / "a", [0, 1])
    spool.add_positions([(1, 7.0, 8.0)])
    for one in (spool, Spool(tmp_path / "a")):
        assert one.positions([1]).tolist() == [[7.0, 8.0]]


def test_a_wider_type_keeps_what_is_there(tmp_path: Path) -> None:
    spool = made(tmp_path / "a", [0, 1])
    spool.add_frames([(2, frame(70000, np.uint32))])
    for one in (spool, Spool(tmp_path / "a")):
        assert one.dtype == np.uint32
        np.testing.assert_array_equal(one.patterns([0, 1, 2])[:], [frame(0), frame(1), frame(70000, np.uint32)])
    assert sorted(path.name for path in (tmp_path / "a").glob("frames*")) == ["frames.uint32", "frames.uint32.log"]


def test_a_wider_copy_without_its_records_is_ignored(tmp_path: Path) -> None:
    """As where the program ended between the two."""
    made(tmp_path / "a", [0, 1])
    (tmp_path / "a" / "frames.uint32").write_bytes(b"\0" * 8 * N * N)
    assert Spool(tmp_path / "a").dtype == np.uint16


@pytest.mark.parametrize("cut", [1, N * N, 2 * N * N])
def test_a_frame_that_was_cut_off_is_written_again(tmp_path: Path, cut: int) -> None:
    made(tmp_path / "a", [0, 1, 2])
    path = tmp_path / "a" / "frames.uint16"
    path.write_bytes(path.read_bytes()[:-cut])
    spool = Spool(tmp_path / "a")
    assert spool.indexes.tolist() == [0, 1] and not spool.has(2)
    spool.add_frames([(7, frame(7))])
    np.testing.assert_array_equal(Spool(tmp_path / "a").patterns([7, 1])[:], [frame(7), frame(1)])


def test_a_frame_whose_bytes_did_not_reach_the_disk_is_omitted(tmp_path: Path) -> None:
    """Its place in the file has zeros, as after a power failure."""
    made(tmp_path / "a", [0, 1, 2])
    path = tmp_path / "a" / "frames.uint16"
    data = bytearray(path.read_bytes())
    data[-2 * N * N :] = bytes(2 * N * N)
    path.write_bytes(data)
    assert Spool(tmp_path / "a").indexes.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["frames.uint16.log", "positions.log"])
def test_a_record_that_was_cut_off_is_omitted(tmp_path: Path, name: str) -> None:
    made(tmp_path / "a", [0, 1, 2])
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[:-3])
    spool = Spool(tmp_path / "a")
    assert spool.complete().tolist() == [0, 1]
    spool.add_positions([(2, 0.0, 1.0)])
    spool.add_frames([(2, frame(2))] if not spool.has(2) else [])
    assert Spool(tmp_path / "a").complete().tolist() == [0, 1, 2]


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = made(tmp_path / "a", [0, 1])
    write = module._write_all

    def full(file: Any, data: bytes) -> None:
        write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_all", full)
    with pytest.raises(InputError, match="No space left on device; the 2 frames before are complete: make room and"):
        spool.add_frames([(2, frame(2))])
    monkeypatch.undo()
    spool.add_frames([(2, frame(2))])
    np.testing.assert_array_equal(Spool(tmp_path / "a").patterns([2])[:], [frame(2)])


def test_what_is_no_spool(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the folder of the frames of a live run, found no valid"):
        Spool(tmp_path)
    (tmp_path / "spool.json").write_text('{"version": 2, "size": 16, "facts": {}}')
    with pytest.raises(InputError, match="of a later version"):
        Spool(tmp_path)
    with pytest.raises(InputError, match="expected a new folder for the frames, found one with files"):
        Spool.create(tmp_path, N, {})
    spool = made(tmp_path / "b", [0])
    with pytest.raises(InputError, match=r"frames must be of uint8, .*, got float64"):
        spool.add_frames([(1, frame(1, np.float64))])
    with pytest.raises(InputError, match="all be integers or all be float32"):
        spool.add_frames([(1, frame(1, np.float32))])


def test_a_scan_of_the_frames_that_have_a_position(tmp_path: Path) -> None:
    spool = made(tmp_path / "a", [4, 1, 3])
    spool.add_frames([(2, frame(2))])
    scan = Scan.load(tmp_path / "a")
    assert scan.frame_indexes is not None and scan.frame_indexes.tolist() == [1, 3, 4]
    assert scan.positions.tolist() == [[1.5, -0.25], [4.5, -0.75], [6.0, -1.0]]
    np.testing.assert_array_equal(scan.counts, [frame(1), frame(3), frame(4)])
    assert scan.decisions.pairing is not None and scan.decisions.pairing.patterns == 1
    stored = Scan.load(tmp_path / "a", memory="stored")
    np.testing.assert_array_equal(stored.counts[:], scan.counts)


def test_positions_in_metres_are_those_of_a_file_in_metres(tmp_path: Path) -> None:
    """The same bits, since the same code converts them."""
    spool = Spool.create(tmp_path / "a", N, {"position_unit": "m", "pixel_size": 1.3e-8})
    world = RNG.uniform(0, 1e-6, (5, 2))
    spool.add_frames([(k, frame(k)) for k in range(5)])
    spool.add_positions([(k, *world[k]) for k in range(5)])
    np.save(tmp_path / "patterns.npy", np.stack([frame(k) for k in range(5)]))
    np.savetxt(tmp_path / "positions.csv", world, fmt="%.17g", delimiter=",")
    file = Scan.load(tmp_path / "patterns.npy", positions=tmp_path / "positions.csv", pixel_size=1.3e-8)
    np.testing.assert_array_equal(Scan.load(tmp_path / "a").positions, file.positions)


@pytest.mark.parametrize(("brighter", "known"), [(1.0, True), (2.0, False)])
def test_the_probe_is_scaled_again_where_the_exposure_has_changed(tmp_path: Path, brighter: float, known: bool) -> None:
    probe = np.ones((1, N, N), np.complex64)
    mean = float(frame(0).sum())
    spool = Spool.create(tmp_path / "a", N, {"position_unit": "px", "mean_counts": mean / brighter})
    spool.add_frames([(0, frame(0))])
    spool.add_positions([(0, 0.0, 0.0)])
    spool.save_array("probe", probe)
    scan = Scan.load(tmp_path / "a")
    power = float(np.square(np.abs(scan.probe)).sum())
    assert power == pytest.approx(N * N if known else mean, rel=1e-5)


def test_no_positions_is_a_sentence(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "a", N, {"position_unit": "px"})
    spool.add_frames([(0, frame(0))])
    with pytest.raises(InputError, match="expected frames with positions, found 1 frames, none with a position"):
        Scan.load(tmp_path / "a")
