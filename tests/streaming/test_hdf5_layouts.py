# SPDX-License-Identifier: BSD-3-Clause
"""HDF5 files of detectors as they grow: space for all frames, counters, NeXus, data files of an Eiger, virtual data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from collecting import collect, frames_of

from ptychopinn.errors import InputError
from ptychopinn.streaming.frames import End, Item, Series
from ptychopinn.streaming.sources import hdf5
from ptychopinn.streaming.sources.growing_hdf5 import GrowingFile
from ptychopinn.streaming.sources.hdf5 import Hdf5Source

N = 12
COUNTS = np.random.default_rng(6).poisson(4, (N, 8, 10)).astype(np.uint16)
WORLD = np.stack([np.arange(N) * 1e-6 + 1e-6, np.arange(N) * 2e-6 - 5e-6], axis=1)


@pytest.fixture
def opened() -> Iterator[Callable[..., Hdf5Source]]:
    sources: list[Hdf5Source] = []

    def make(path: Path, *keys: str | None, quiet: float = 0.4, **stated: Any) -> Hdf5Source:
        sources.append(Hdf5Source(path, *keys, quiet=quiet, **stated))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def check(items: list[Item], indexes: Any, world: Any = None) -> None:
    frames = frames_of(items)
    assert sorted(frame.index for frame in frames) == list(indexes)
    for frame in frames:
        np.testing.assert_array_equal(frame.counts, COUNTS[frame.index])
        if world is None:
            assert frame.position is None
        else:
            np.testing.assert_allclose(frame.position, world[frame.index], rtol=1e-12)


def changed(path: Path) -> h5py.File:
    return h5py.File(path, "a", locking=False)


# -- space for all frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(1, 8, 10), (5, 8, 10), (1, 4, 10), None], ids=str)
def test_frames_that_are_not_written_are_not_there(tmp_path: Path, opened: Any, chunks: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (N, 8, 10), np.uint16, chunks=chunks)
    source = opened(path)
    assert source.read(0.2) == []
    with changed(path) as file:
        file["d"][:4] = COUNTS[:4]
    items = collect(source, 4)
    assert isinstance(items[0], Series) and items[0].frames == N
    check(items, range(4))
    with changed(path) as file:
        file["d"][4:] = COUNTS[4:]
    check(collect(source), range(4, N))


def test_frame_that_is_half_written_waits(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_HALF_WRITTEN", 1.5)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (N, 8, 10), np.uint16)[:3] = COUNTS[:3]
        file["d"][3, :4] = COUNTS[3, :4]
    source = opened(path)
    check(collect(source, 3), range(3))
    with changed(path) as file:
        file["d"][3, 4:] = COUNTS[3, 4:]
    check(collect(source), [3])


def test_written_zeros_are_frames_where_chunks_tell(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("d", (N, 8, 10), np.uint16, chunks=(1, 8, 10))
        data[0], data[2], data[4] = 0, COUNTS[2], 0
    frames = frames_of(collect(opened(path)))
    assert [frame.index for frame in frames] == [0, 2]  # behind the last one it is known for the next only
    with changed(path) as file:
        file["d"][1], file["d"][3] = 0, 0
    assert [frame.index for frame in frames_of(collect(opened(path)))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fill", [7, -1.0, np.nan])
def test_another_fill_value(tmp_path: Path, opened: Any, fill: float) -> None:
    path, dtype = tmp_path / "a.h5", np.uint16 if fill == 7 else np.float32
    with h5py.File(path, "w") as file:
        data = file.create_dataset("d", (N, 8, 10), dtype, chunks=(4, 8, 10), fillvalue=fill)
        data[:6] = COUNTS[:6]
    check(collect(opened(path)), range(6))


def test_frames_wait_for_positions_that_are_nan(tmp_path: Path, opened: Any) -> None:
    """NaN at the end is not written; NaN before a position is lost."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=COUNTS)
        file["p"] = np.full((N, 2), np.nan)
        file["p"][0] = WORLD[0]
    source = opened(path, "d", "p", quiet=1.0, hold=0.0)
    check(collect(source, 1), [0], WORLD)
    assert source.read(0.2) == []
    with changed(path) as file:
        file["p"][[1, 3]] = WORLD[[1, 3]]
    frames = frames_of(collect(source, 3))
    assert [frame.index for frame in frames] == [1, 2, 3] and frames[1].position is None
    np.testing.assert_allclose([frames[0].position, frames[2].position], WORLD[[1, 3]])
    check(collect(source), range(4, N))  # after the quiet time


def test_many_frames_wait_for_positions(tmp_path: Path, opened: Any) -> None:
    path, n = tmp_path / "a.h5", 150
    with h5py.File(path, "w") as file:
        file["d"] = np.ones((n, 8, 10), np.uint16)
        file["p"] = np.full((n, 2), np.nan)
        file["p"][0] = 1.0
    source = opened(path, "d", "p", quiet=2.0)
    assert [frame.index for frame in frames_of(collect(source, 1))] == [0]
    assert source.read(0.5) == []
    with changed(path) as file:
        file["p"][:] = np.arange(n)[:, None]
    frames = frames_of(collect(source))
    assert [frame.index for frame in frames] == list(range(1, n))
    assert [frame.position for frame in frames] == [(k, k) for k in range(1, n)]


def test_positions_with_space_for_all_that_are_zero_are_not_written(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (4, 8, 10), np.uint16, maxshape=(None, 8, 10), chunks=(1, 8, 10))[:] = COUNTS[:4]
        for key in "yx":
            file.create_dataset(key, (N,), np.float32)
        file["y"][:4], file["x"][:4] = [0, 1, 0, 0], [0, 0, 2, 0]
    frames = frames_of(collect(opened(path, "d", "y,x", hold=0.1)))
    assert [frame.position for frame in frames] == [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), None]


@pytest.mark.parametrize("stated", [None, "number"])
def test_counter_of_written_frames(tmp_path: Path, opened: Any, stated: str | None) -> None:
    path, key = tmp_path / "a.h5", stated or "g/frames_written"
    with h5py.File(path, "w") as file:
        file.create_dataset("g/d", (N, 8, 10), np.uint16)
        file[key] = 0
    source = opened(path, written=stated)
    assert source.read(0.2) == []
    with changed(path) as file:
        file["g/d"][:5] = COUNTS[:5]
        file[key][()] = 3
    check(collect(source, 3), range(3))
    with changed(path) as file:
        file[key][()] = 5
    check(collect(source), range(3, 5))


def test_frames_far_behind_a_gap(tmp_path: Path, opened: Any) -> None:
    """Of 200 frames, the first 150 are never written."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (200, 8, 10), np.uint16, chunks=(1, 8, 10))[150 : 150 + N] = COUNTS
    frames = frames_of(collect(opened(path)))
    assert [frame.index for frame in frames] == list(range(150, 150 + N))


def test_raster_of_patterns(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", (3, 4, 8, 10), np.uint16, chunks=(1, 1, 8, 10))
        file["y"], file["x"] = WORLD.T.reshape(2, 3, 4)
        file["d"][0] = COUNTS[:4]
        file["d"][1, 0] = COUNTS[4]
    source = opened(path, None, "y,x")
    check(collect(source, 5), range(5), WORLD)
    with changed(path) as file:
        file["d"][...] = COUNTS.reshape(3, 4, 8, 10)
    check(collect(source), range(5, N), WORLD)


# -- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["motors", "translation"])
def test_nexus(tmp_path: Path, opened: Any, kind: str) -> None:
    path = tmp_path / "a.nxs"
    with h5py.File(path, "w") as file:
        for name, group in (
            ("entry", "NXentry"),
            ("entry/eiger", "NXinstrument"),
            ("entry/eiger/detector", "NXdetector"),
            ("entry/eiger/beam", "NXbeam"),
            ("entry/sample", "NXsample"),
            ("entry/sample/transformations", "NXtransformations"),
        ):
            file.create_group(name).attrs["NX_class"] = group
        detector = file["entry/eiger/detector"]
        file["entry/title"] = "two"
        detector.create_dataset("data", (0, 8, 10), np.uint16, maxshape=(N, 8, 10), chunks=(1, 8, 10))
        detector["distance"] = 2500.0
        detector["distance"].attrs["units"] = "mm"
        for axis in "xy":
            detector[f"{axis}_pixel_size"] = 75e-6
        detector["beam_center_x"], detector["beam_center_y"] = 5.5, 4.0
        detector["pixel_mask"] = np.eye(8, 10, dtype=np.uint32)
        file["entry/eiger/beam/incident_energy"] = 8.8
        file["entry/eiger/beam/incident_energy"].attrs["units"] = "keV"
        if kind == "motors":
            for axis in "yx":
                key = f"entry/sample/transformations/{axis}_translation"
                file.create_dataset(key, (0,), np.float64, maxshape=(None,)).attrs["units"] = "um"
        else:
            file.create_dataset("entry/eiger/detector/translation", (0, 3), np.float64, maxshape=(None, 3))
    source = opened(path, hold=5.0)
    assert source.read(0.1) == []
    with changed(path) as file:
        file["entry/eiger/detector/data"].resize(5, 0)
        file["entry/eiger/detector/data"][:] = COUNTS[:5]
        if kind == "motors":
            for k, axis in enumerate("yx"):
                motor = file[f"entry/sample/transformations/{axis}_translation"]
                motor.resize(5 + k, 0)
                motor[:5] = WORLD[:5, k] * 1e6
        else:
            translation = file["entry/eiger/detector/translation"]
            translation.resize(5, 0)
            translation[:] = np.column_stack([WORLD[:5, ::-1], np.zeros(5)])
    items = collect(source, 5)
    check(items, range(5), WORLD)
    series = items[0]
    assert isinstance(series, Series) and series.bad_pixels is not None and series.bad_pixels.sum() == 8
    assert (series.name, series.frames, series.beam_centre, series.position_unit) == ("two", N, (4.0, 5.5), "m")
    assert (series.energy, series.distance, series.detector_pixel_size) == pytest.approx((8800.0, 2.5, 75e-6))


def test_data_files_of_an_eiger_come_one_after_another(tmp_path: Path, opened: Any) -> None:
    with h5py.File(tmp_path / "a_master.h5", "w") as file:
        for k in range(3):
            file[f"entry/data/data_{k + 1:06d}"] = h5py.ExternalLink(f"a_data_{k + 1:06d}.h5", "entry/data/data")
        detector = file.create_group("entry/instrument/detector")
        detector["detectorSpecific/nimages"], detector["detectorSpecific/ntrigger"] = N // 4, 4
        detector["detector_distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 1.5, 5e-5, 5e-5
        file["entry/instrument/beam/incident_wavelength"] = 1.0
    source = opened(tmp_path / "a_master.h5", quiet=5.0)
    found: list[Item] = []
    while not found:
        found = source.read(0.2)
    assert found[0].kind == "interrupted" and "a_data_000001.h5" in found[0].sentence  # type: ignore[union-attr]
    for k, (first, last) in enumerate(((0, 5), (5, 10), (10, N)), 1):
        temporary = tmp_path / "new"
        with h5py.File(temporary, "w") as file:
            file.create_dataset("entry/data/data", data=COUNTS[first:last], chunks=(1, 8, 10))
        temporary.rename(tmp_path / f"a_data_{k:06d}.h5")
        items = collect(source, last - first)
        check(items, range(first, last))
        if first == 0:
            series = items[0]
            assert isinstance(series, Series) and (series.frames, series.name, series.distance) == (N, "a", 1.5)
            assert series.energy == pytest.approx(12398.4, abs=0.1) and series.detector_pixel_size == 5e-5
    assert collect(source) == [End()]


def virtual(path: Path, layout: h5py.VirtualLayout) -> None:
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("d", layout, fillvalue=0)


def test_virtual_frames_of_files_one_after_another(tmp_path: Path, opened: Any) -> None:
    layout = h5py.VirtualLayout((N, 8, 10), np.uint16)
    for k in range(3):
        layout[4 * k : 4 * k + 4] = h5py.VirtualSource(f"{k}.h5", "d", (4, 8, 10))
    virtual(tmp_path / "a.h5", layout)
    source = opened(tmp_path / "a.h5", quiet=5.0)
    assert source.read(0.2) == []
    for k in range(3):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file.create_dataset("d", data=COUNTS[4 * k : 4 * k + 3], maxshape=(None, 8, 10), chunks=(1, 8, 10))
        check(collect(source, 3), range(4 * k, 4 * k + 3))
        with changed(tmp_path / f"{k}.h5") as file:
            file["d"].resize(4, 0)
            file["d"][3] = COUNTS[4 * k + 3]
        check(collect(source, 1), [4 * k + 3])
    assert collect(source) == [End()]


def test_virtual_frames_of_writers_in_turn(tmp_path: Path, opened: Any) -> None:
    """The second writer is late, and its frames are handed over later."""
    layout = h5py.VirtualLayout((N, 8, 10), np.uint16)
    for k in range(2):
        layout[k::2] = h5py.VirtualSource(f"{k}.h5", "d", (N // 2, 8, 10))
    virtual(tmp_path / "a.h5", layout)
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file.create_dataset("d", (0, 8, 10), np.uint16, maxshape=(None, 8, 10), chunks=(1, 8, 10))
    source = opened(tmp_path / "a.h5", quiet=5.0)
    for k, count, expected in ((0, 4, [0, 2, 4, 6]), (1, 6, [1, 3, 5, 7, 9, 11]), (0, 6, [8, 10])):
        with changed(tmp_path / f"{k}.h5") as file:
            file["d"].resize(count, 0)
            file["d"][:] = COUNTS[k::2][:count]
        check(collect(source, len(expected)), expected)
    assert collect(source) == [End()]


def test_virtual_frames_of_modules_that_grow(tmp_path: Path, opened: Any) -> None:
    """Left and right part of each frame are in two files; the number of frames is open."""
    end = h5py.h5s.UNLIMITED
    layout = h5py.VirtualLayout((1, 8, 10), np.uint16, maxshape=(None, 8, 10))
    for name, part in (("l", slice(0, 4)), ("r", slice(4, 10))):
        shape = (1, 8, part.stop - part.start)
        layout[0:end, :, part] = h5py.VirtualSource(f"{name}.h5", "d", shape, maxshape=(None, *shape[1:]))[0:end]
    virtual(tmp_path / "a.h5", layout)
    source = opened(tmp_path / "a.h5", quiet=1.0)
    for name, part, count in (("l", slice(0, 4), 5), ("r", slice(4, 10), 3)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            data = COUNTS[:count, :, part]
            file.create_dataset("d", data=data, maxshape=(None, *data.shape[1:]), chunks=(1, *data.shape[1:]))
    check(collect(source, 3), range(3))
    with changed(tmp_path / "r.h5") as file:
        file["d"].resize(5, 0)
        file["d"][3:] = COUNTS[3:5, :, 4:]
    check(collect(source), [3, 4])


def test_virtual_frames_of_a_file_each(tmp_path: Path, opened: Any) -> None:
    layout = h5py.VirtualLayout((3, 8, 10), np.uint16)
    for k in range(3):
        layout[k] = h5py.VirtualSource(f"{k}.h5", "d", (8, 10))
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["d"] = COUNTS[k]
    virtual(tmp_path / "a.h5", layout)
    check(collect(opened(tmp_path / "a.h5")), range(3))


def test_virtual_frames_that_refer_to_themselves(tmp_path: Path, opened: Any) -> None:
    layout = h5py.VirtualLayout((3, 8, 10), np.uint16)
    layout[:] = h5py.VirtualSource("a.h5", "d", (3, 8, 10))
    virtual(tmp_path / "a.h5", layout)
    assert opened(tmp_path / "a.h5").read(0.5) == []


def test_positions_in_pixels(tmp_path: Path, opened: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"], file["p"] = COUNTS, WORLD
        file["p"].attrs["units"] = "px"
    items = collect(opened(tmp_path / "a.h5", "d", "p"))
    assert isinstance(items[0], Series) and items[0].position_unit == "px"
    check(items, range(N), WORLD)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("p", r"columns y and x, or two keys Y,X, found shape \(12, 3\)"),
        ("p,p,p", r"one key of positions, or two Y,X, found 'p,p,p'"),
        ("q", r"key 'q': expected the key to be there"),
    ],
)
def test_keys_that_are_no_positions(tmp_path: Path, opened: Any, keys: str, words: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["d"], file["p"] = COUNTS, np.zeros((N, 3))
    with pytest.raises(InputError, match=words):
        collect(opened(tmp_path / "a.h5", "d", keys))


def test_file_that_this_process_has_open_with_locks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = COUNTS
        file.flush()
        growing = GrowingFile(tmp_path / "a.h5")
        assert growing.part("d").total == N
        growing.close()
