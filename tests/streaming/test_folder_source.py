# SPDX-License-Identifier: BSD-3-Clause
"""Frames of files that appear in a folder: kinds of files, numbers, stacks, incomplete and damaged files."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from collecting import collect, frames_of

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import End, Fault, Frame, Item, Series
from ptychopinn.streaming.senders.folder import FolderSender
from ptychopinn.streaming.sources import folder as folder_module
from ptychopinn.streaming.sources import frame_files
from ptychopinn.streaming.sources.folder import FolderSource
from ptychopinn.streaming.sources.tables import TablePositions

N = 12
COUNTS = np.random.default_rng(7).poisson(4, (N, 8, 10)).astype(np.uint16)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_GRACE", 0.3)


@pytest.fixture
def opened() -> Iterator[Callable[..., FolderSource]]:
    sources: list[FolderSource] = []

    def make(path: Path, *arguments: Any, quiet: float = 0.5, settle: float = 0.05, **stated: Any) -> FolderSource:
        sources.append(FolderSource(path, *arguments, quiet=quiet, settle=settle, **stated))
        return sources[-1]

    yield make
    for source in sources:
        source.close()
        source.close()


def faults_of(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.kind, item.sentence) for item in items if isinstance(item, Fault)]


def check(items: list[Item], indexes: Any, first: int = 0) -> None:
    """Frames with these indexes have the counts from `first` on."""
    frames = frames_of(items)
    assert [frame.index for frame in frames] == list(indexes)
    for frame in frames:
        np.testing.assert_array_equal(frame.counts, COUNTS[frame.index + first])
        assert frame.position is None


def save(path: Path, array: Any) -> None:
    temporary = path.with_name(f".{path.name}.npy")
    np.save(temporary, array)
    temporary.rename(path)


# -- the sender ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["m", "px"])
def test_frames_and_positions_come_as_they_are_sent(tmp_path: Path, opened: Any, unit: str) -> None:
    path = tmp_path / "scan" / "frames"
    sender = FolderSender(path)
    source, positions = opened(path, quiet=30.0), TablePositions(path / "positions.csv", unit)
    assert positions.read() == []
    sender.begin(Series(position_unit=unit), COUNTS.shape[1:], COUNTS.dtype)
    assert source.read(0.05) == [] and positions.read() == []
    for k in range(4):
        sender.send(k, COUNTS[k], (k * 1e-6, 0.1 * k) if k != 2 else None)
    items = collect(source, 4)
    assert isinstance(items[0], Series) and items[0].name == "frames"
    check(items, range(4))
    assert positions.read() == [(k, k * 1e-6, 0.1 * k) for k in (0, 1, 3)]
    sender.send(7, COUNTS[7], (1.0, 2.0))
    check(collect(source, 1), [7])
    assert positions.read() == [(7, 1.0, 2.0)] and positions.read() == []
    sender.end()
    sender.close()
    sender.close()
    positions.close()
    source._quiet = 0.1
    assert collect(source) == [End()]


def test_damaged_file_is_reported_once(tmp_path: Path, opened: Any) -> None:
    sender = FolderSender(tmp_path)
    sender.begin(Series(), COUNTS.shape[1:], COUNTS.dtype)
    source = opened(tmp_path)
    sender.send(0, COUNTS[0], None)
    sender.send_damaged(1)
    sender.send(2, COUNTS[2], None)
    items = collect(source)
    check(items, [0, 2])
    ((kind, sentence),) = faults_of(items)
    assert kind == "damaged" and "frame_000001.npy: expected an .npy file, found a damaged one" in sentence


def test_files_that_are_written_again_are_another_series(tmp_path: Path, opened: Any) -> None:
    sender, source = FolderSender(tmp_path), opened(tmp_path, quiet=30.0)
    for round in range(2):
        sender.begin(Series(), COUNTS.shape[1:], COUNTS.dtype)
        for k in range(3 - round):
            sender.send(k, COUNTS[k], None)
        items = collect(source, 3 - round)
        assert [type(item) for item in items] == [Series, *[Frame] * (3 - round)]
        check(items, range(3 - round))


def test_files_that_are_written_over_are_another_series(tmp_path: Path, opened: Any) -> None:
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", COUNTS[k])
    source = opened(tmp_path, quiet=30.0)
    check(collect(source, 3), range(3))
    time.sleep(0.02)  # the times of files have a resolution of some ms
    np.save(tmp_path / "0.npy", COUNTS[0])
    items = collect(source, 1)
    assert isinstance(items[0], Series)
    check(items, [0])


def test_files_after_the_end_are_another_series(tmp_path: Path, opened: Any) -> None:
    source = opened(tmp_path, quiet=0.3)
    for k in range(2):
        save(tmp_path / f"a_{k}.npy", COUNTS[k])
    (tmp_path / "a_2.npy").write_bytes(b"damaged")
    assert collect(source)[-1] == End()
    assert source.read(0.3) == []
    save(tmp_path / "a_5.npy", COUNTS[0])
    items = collect(source, 1)
    assert [type(item) for item in items] == [Series, Frame]
    check(items, [0])


# -- kinds of files --------------------------------------------------------------------------------------------------


def _npy(path: Path, array: Any) -> None:
    np.save(path, array)


def _npz(path: Path, array: Any) -> None:
    np.savez_compressed(path, frames=array, positions=np.zeros((20, 2)), energy=8.0)


def _hdf5(path: Path, array: Any) -> None:
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = array
        file["entry/positions"] = np.zeros((5, 2)) if array.ndim == 3 else np.zeros(5)


def _tiff(path: Path, array: Any) -> None:
    pytest.importorskip("tifffile").imwrite(path, array, photometric="minisblack")


WRITERS: dict[str, Callable[[Path, Any], None]] = {
    ".npy": _npy, ".npz": _npz, ".h5": _hdf5, ".tif": _tiff, ".TIFF": _tiff,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, ">u4", np.float32, np.float64])
@pytest.mark.parametrize("suffix", WRITERS)
def test_single_frames(tmp_path: Path, opened: Any, suffix: str, dtype: Any) -> None:
    for k in (0, 1):
        WRITERS[suffix](tmp_path / f"img_{k}{suffix}", COUNTS[k].astype(dtype))
    items = collect(opened(tmp_path, quiet=30.0), 2)
    check(items, range(2))
    kind = frames_of(items)[0].counts.dtype
    expected = {"i": f"u{kind.itemsize}", "f": "f4"}.get(np.dtype(dtype).kind, np.dtype(dtype).newbyteorder("="))
    assert kind == expected


@pytest.mark.parametrize("suffix", WRITERS)
def test_stacks(tmp_path: Path, opened: Any, suffix: str) -> None:
    """The last one is shorter, and they come in another order."""
    for k in (2, 3, 5, 4):
        WRITERS[suffix](tmp_path / f"part7_{k:03d}{suffix}", COUNTS[3 * (k - 2) : 3 * (k - 2) + (3 if k < 5 else 2)])
    items = collect(opened(tmp_path))
    check(items, range(11))
    assert not faults_of(items)


def test_large_stack_is_handed_over_in_parts(tmp_path: Path, opened: Any) -> None:
    np.save(tmp_path / "a_0.npy", np.arange(150, dtype=np.uint16)[:, None, None] + np.zeros((8, 8), np.uint16))
    source = opened(tmp_path)
    frames: list[Frame] = []
    while len(frames) < 150:
        items = source.read(5.0)
        assert 0 < len(items) <= 64
        frames += frames_of(items)
    assert [int(frame.counts[0, 0]) for frame in frames] == [frame.index for frame in frames] == list(range(150))


def test_stack_that_is_longer_than_the_first(tmp_path: Path, opened: Any) -> None:
    np.save(tmp_path / "a_0.npy", COUNTS[:3])
    np.save(tmp_path / "a_1.npy", COUNTS[3:8])
    items = collect(opened(tmp_path))
    check(items, range(6))
    ((kind, sentence),) = faults_of(items)
    assert kind == "unexpected" and "expected 3 frames, found 5 frames, the last of which are ignored" in sentence


# -- names -----------------------------------------------------------------------------------------------------------


def test_names_and_their_indexes(tmp_path: Path, opened: Any) -> None:
    for k in (8, 9, 10):
        save(tmp_path / f"s1_{k}_x.npy", COUNTS[k])
    for other in ("probe.npy", "notes.txt", ".s1_1_x.npy", "dark_8.npy"):
        np.save(tmp_path / "one.npy", COUNTS[0])
        (tmp_path / "one.npy").rename(tmp_path / other)
    (tmp_path / "s1_7.npy").mkdir()
    items = collect(opened(tmp_path, "s1_*"))
    check(items, range(3), first=8)
    assert not faults_of(items)


def test_stated_first_number(tmp_path: Path, opened: Any) -> None:
    for k in (2, 1, 5):
        save(tmp_path / f"{k}.npy", COUNTS[k])
    items = collect(opened(tmp_path, first=2))
    check(items, [0, 3], first=2)
    ((kind, sentence),) = faults_of(items)
    assert kind == "unexpected" and "1.npy: expected a number from 2 on, found 1; it is ignored" in sentence


def test_two_files_with_one_number(tmp_path: Path, opened: Any) -> None:
    save(tmp_path / "a_1.npy", COUNTS[0])
    source = opened(tmp_path, quiet=1.0)
    check(collect(source, 1), [0])
    save(tmp_path / "b_1.npy", COUNTS[1])
    items = collect(source)
    ((kind, sentence),) = faults_of(items)
    assert kind == "unexpected" and "b_1.npy: expected another number than that of a_1.npy" in sentence
    assert not frames_of(items)


# -- files that are incomplete ---------------------------------------------------------------------------------------


def test_file_that_is_still_written_is_waited_for(tmp_path: Path, opened: Any) -> None:
    np.save(tmp_path / "x.npy", COUNTS[1])
    data = (tmp_path / "x.npy").read_bytes()
    save(tmp_path / "a_0.npy", COUNTS[0])
    save(tmp_path / "a_2.npy", COUNTS[2])
    source = opened(tmp_path, quiet=30.0)
    with (tmp_path / "a_1.npy").open("wb") as file:
        file.write(data[:150])
        file.flush()
        check(collect(source, 2), [0, 2])
        file.write(data[150:])
    items = collect(source, 1)
    check(items, [1])
    assert not faults_of(items)


def test_damaged_file_that_is_written_again_is_read(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "a_0.tif").write_bytes(b"II*\0" + bytes(4))
    pytest.importorskip("tifffile")
    source = opened(tmp_path, quiet=30.0)
    faults: list[Item] = []
    while not faults:
        faults = source.read(0.2)
    assert [kind for kind, _ in faults_of(faults)] == ["damaged"] and source.read(0.5) == []
    _tiff(tmp_path / "a_0.tif", COUNTS[0])
    check(collect(source, 1), [0])


def test_file_that_vanishes_is_ignored(tmp_path: Path, opened: Any) -> None:
    source = opened(tmp_path, settle=0.3)
    np.save(tmp_path / "a_0.npy", COUNTS[0])
    assert source.read(0.05) == []
    os.remove(tmp_path / "a_0.npy")
    save(tmp_path / "a_1.npy", COUNTS[0])
    items = collect(source)
    check(items, [0])
    assert not faults_of(items)


def test_folder_that_comes_late(tmp_path: Path, opened: Any) -> None:
    source = opened(tmp_path / "later")
    items: list[Item] = []
    while not items:
        items = source.read(0.2)
    ((kind, sentence),) = faults_of(items)
    assert kind == "interrupted" and "expected a folder of frames, found none (No such file" in sentence
    assert source.read(0.5) == []
    (tmp_path / "later").mkdir()
    save(tmp_path / "later" / "0.npy", COUNTS[0])
    items = collect(source)
    check(items, [0])
    assert not faults_of(items)


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="expected a folder of frames, found a file; name the folder"):
        FolderSource(tmp_path / "a")


# -- content ---------------------------------------------------------------------------------------------------------


def _declares(path: Path) -> None:
    """A header with a shape that no memory holds."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (1 << 40, 64, 64)})


def _pickle(path: Path) -> None:
    np.save(path, np.array([{}, {}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_declares, "frames of at most 1024 MiB in a file, found uint16 of shape"),
        (_pickle, "frames of at most 1024 MiB in a file, found object"),
        (lambda path: np.save(path, np.zeros(5)), "expected one frame .* found shape \\(5,\\)"),
        (lambda path: np.save(path, np.full((8, 8), -1)), "expected counts, found 64 negative values of int64"),
        (lambda path: np.save(path, np.zeros((8, 8), complex)), "of real numbers, .* found complex128"),
        (lambda path: path.write_bytes(b""), "expected an .npy file, found a damaged one"),
    ],
)
def test_content_that_is_no_frame(tmp_path: Path, opened: Any, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "a_1.npy")
    source = opened(tmp_path)
    items: list[Item] = []
    while not faults_of(items):
        items += source.read(0.2)
    ((kind, sentence),) = faults_of(items)
    assert kind == "damaged" and not frames_of(items)
    assert re.search(words, sentence)


def test_missing_library_is_an_error(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _tiff(tmp_path / "a_1.tif", COUNTS[0])
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setattr(frame_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="expected tifffile to read TIFF files, found none; pip install tifffile"):
        opened(tmp_path).read(5.0)
