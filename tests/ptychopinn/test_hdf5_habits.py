# SPDX-License-Identifier: BSD-3-Clause
"""HDF5 files as beamlines write them: filters of plugins, files that are being written, units, masks with flags."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from corrupt import attribute, put
from scan_files import BAD, COUNTS, DETECTOR, DISTANCE, ENERGY, PATTERNS, WORLD, N, bare_cxi, cxi, eiger, nexus

from ptychopinn.errors import InputError
from ptychopinn.io.masks import CXI_BAD
from ptychopinn.scan import Scan
from ptychopinn.storage.hdf5_files import missing_filter
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions

CXI_DETECTOR = "entry_1/instrument_1/detector_1"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"


# -- filters ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hdf5plugin() -> Any:
    return pytest.importorskip("hdf5plugin")


@contextmanager
def without_plugin(monkeypatch: pytest.MonkeyPatch, number: int, name: str) -> Iterator[None]:
    """A process in which hdf5plugin is not installed, and its filter not registered."""
    import hdf5plugin

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "hdf5plugin", None)
        h5py.h5z.unregister_filter(number)
        try:
            yield
        finally:
            hdf5plugin.register(name, force=True)


def compressed(folder: Path, **filters: Any) -> Path:
    path = cxi(folder)
    with h5py.File(path, "a") as file:
        del file[f"{CXI_DETECTOR}/data"]
        file.create_dataset(f"{CXI_DETECTOR}/data", data=COUNTS, chunks=(1, N, N), **filters)
    return path


@pytest.mark.parametrize(
    ("plugin", "number", "short", "name"),
    [("Bitshuffle", 32008, "bshuf", "bitshuffle"), ("Blosc2", 32026, "blosc2", "Blosc2"), ("LZ4", 32004, "lz4", "LZ4")],
)
def test_filters_of_hdf5plugin(
    tmp_path: Path,
    hdf5plugin: Any,
    monkeypatch: pytest.MonkeyPatch,
    plugin: str,
    number: int,
    short: str,
    name: str,
) -> None:
    path = compressed(tmp_path, **getattr(hdf5plugin, plugin)())
    for memory in ("load", "stored"):
        np.testing.assert_array_equal(Scan.load(path, memory=memory).counts[:], COUNTS)
    with without_plugin(monkeypatch, number, short):
        for memory in ("load", "stored"):
            expected = rf"detector_1/data': .* compressed with {name} \(filter {number}\): pip install hdf5plugin$"
            with pytest.raises(InputError, match=expected):
                Scan.load(path, memory=memory)


def test_plugin_is_imported_only_where_it_is_needed(tmp_path: Path, hdf5plugin: Any) -> None:
    """In a fresh process; patterns on disk that were sent to it need the plugin too, as do sources of virtual ones."""
    counts = Scan.load(compressed(tmp_path, **hdf5plugin.Bitshuffle()), memory="stored").counts
    (tmp_path / "counts.pickle").write_bytes(pickle.dumps(counts))
    (tmp_path / "plain").mkdir()
    plain, path = cxi(tmp_path / "plain"), tmp_path / "scan.cxi"
    program = (
        "import pickle, sys; from pathlib import Path; from ptychopinn.scan import Scan\n"
        f"Scan.load({str(plain)!r}); assert 'hdf5plugin' not in sys.modules\n"
        f"counts = pickle.loads(Path({str(tmp_path / 'counts.pickle')!r}).read_bytes())\n"
        f"assert counts[3:5].sum() == {COUNTS[3:5].sum()}\n"
        f"assert 'hdf5plugin' in sys.modules; Scan.load({str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_patterns_with_a_plugin_are_read_in_threads(tmp_path: Path, hdf5plugin: Any) -> None:
    counts = Scan.load(compressed(tmp_path, **hdf5plugin.Bitshuffle()), memory="stored").counts
    wrong: list[int] = []

    def read(first: int) -> None:
        wrong.extend(k for k in range(first, PATTERNS, 2) for _ in range(20) if (counts[k] != COUNTS[k]).any())

    threads = [threading.Thread(target=read, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_unknown_filters_have_another_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path, compression="lzf")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    with h5py.File(path) as file:
        found = missing_filter(file[f"{CXI_DETECTOR}/data"])
    assert found is not None
    assert found.startswith("data compressed with LZF (filter 32000), which this HDF5 library lacks; ")
    assert "h5repack" in found


# -- files that are being written ------------------------------------------------------------------------------------

WRITER = """
import sys, h5py, numpy as np
path, mode = sys.argv[1:]
file = h5py.File(path, "a", libver="latest")
if mode == "swmr":
    file.swmr_mode = True
    data = file["entry_1/instrument_1/detector_1/data"]
    data.resize(data.shape[0] + 2, 0)
    data.flush()
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def written(path: Path, mode: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.communicate("\n", timeout=30)


def growing(folder: Path) -> Path:
    """A file of the newest layout of HDF5, to which SWMR writers append."""
    path = cxi(folder)
    with h5py.File(path) as old, h5py.File(folder / "growing.cxi", "w", libver="latest") as new:
        for name in old:
            old.copy(name, new)
        del new[f"{CXI_DETECTOR}/data"]
        new.create_dataset(f"{CXI_DETECTOR}/data", data=COUNTS, chunks=(1, N, N), maxshape=(None, N, N))
    return folder / "growing.cxi"


@pytest.mark.parametrize("memory", ["load", "stored"])
def test_file_that_is_written_in_swmr_mode_is_read_so_far(
    tmp_path: Path, memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two frames more than positions are there already."""
    path = growing(tmp_path)
    with written(path, "swmr"):
        scan = Scan.load(path, memory=memory)
        assert isinstance(scan.counts, StoredPatterns) == (memory == "stored")
        np.testing.assert_array_equal(scan.counts[:], COUNTS)
    assert "is being written, with 15 patterns and 13 positions so far: the first 13 are read" in caplog.text


def test_file_that_another_program_has_open_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = cxi(tmp_path / "plain")
    with (
        written(plain, "exclusive"),
        pytest.raises(InputError, match=r"open for writing by another program; copy it, or .*FILE_LOCKING=FALSE"),
    ):
        Scan.load(plain)
    assert Scan.load(plain).n == PATTERNS


# -- units -----------------------------------------------------------------------------------------------------------


def test_units_of_cxi_are_converted(tmp_path: Path) -> None:
    path = cxi(tmp_path)
    with h5py.File(path, "a") as file:
        for key, factor, unit in (
            (TRANSLATION, 1e6, "um"),
            (f"{CXI_DETECTOR}/distance", 1e3, "mm"),
            (f"{CXI_DETECTOR}/x_pixel_size", 1e6, "µm"),
            (f"{CXI_DETECTOR}/y_pixel_size", 1e6, "micron"),
            ("entry_1/instrument_1/source_1/energy", 1 / 1.602176634e-16, "keV"),
        ):
            value = file[key][()] * factor
            del file[key]
            file[key] = value
            file[key].attrs["units"] = unit
    scan = Scan.load(path)
    np.testing.assert_allclose(world_positions(scan), WORLD, rtol=0, atol=1e-12)
    found = (scan.energy, scan.acquisition.distance, scan.acquisition.detector_pixel_size)
    assert found == pytest.approx((ENERGY, DISTANCE, DETECTOR))


def test_units_that_are_written_are_read(tmp_path: Path) -> None:
    scan = Scan.load(cxi(tmp_path))
    scan.save(tmp_path / "again.cxi")
    with h5py.File(tmp_path / "again.cxi") as file:
        assert file[TRANSLATION].attrs["units"] == "m" and file[f"{CXI_DETECTOR}/distance"].attrs["units"] == "m"
    assert Scan.load(tmp_path / "again.cxi").energy == pytest.approx(ENERGY)


@pytest.mark.parametrize(
    ("key", "way_out", "stated"),
    [
        (f"{CXI_DETECTOR}/distance", r"state distance= \(--distance\)", {"distance": DISTANCE}),
        ("entry_1/instrument_1/source_1/energy", r"state energy= \(--energy\)", {"energy": ENERGY}),
        (
            f"{CXI_DETECTOR}/x_pixel_size",
            r"state detector_pixel_size= \(--detector-pixel-size\)",
            {"detector_pixel_size": DETECTOR},
        ),
        (TRANSLATION, "correct the attribute", {}),
    ],
)
def test_unknown_units_are_refused_with_the_option(
    tmp_path: Path, key: str, way_out: str, stated: dict[str, float]
) -> None:
    path = cxi(tmp_path)
    attribute(key, "units", "furlong")(path)
    with pytest.raises(InputError, match=rf"{key}@units': expected one of .*, found 'furlong'; {way_out}"):
        Scan.load(path)
    if stated:
        assert Scan.load(path, **stated).energy == pytest.approx(ENERGY)


def test_absent_units_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Scan.load(cxi(tmp_path))
    assert f"no unit of {TRANSLATION}, " in caplog.text and ": taken as metres" in caplog.text
    assert "energy: taken as joule" in caplog.text


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1e3, r"in steps of .*attrs\['units'\] = 'mm', which"), (1e6, r"that span .* m in .* = 'um', which"), (1e9, "nm")],
)
@pytest.mark.parametrize("kind", ["cxi", "nexus"])
def test_positions_without_a_unit_must_fit(tmp_path: Path, kind: str, factor: float, words: str) -> None:
    if kind == "cxi":
        path = cxi(tmp_path)
        put(TRANSLATION, np.column_stack([WORLD[:, ::-1], np.zeros(PATTERNS)]) * factor)(path)
    else:
        path = nexus(tmp_path)
        with h5py.File(path, "a") as file:
            for column, axis in enumerate("yx"):
                del file[f"run/stage/transformations/{axis}"]
                file[f"run/stage/transformations/{axis}"] = WORLD[:, column] * factor
    with pytest.raises(InputError, match=rf"expected positions in metres, or the attribute units, .*{words}"):
        Scan.load(path)


# -- masks -----------------------------------------------------------------------------------------------------------


def with_mask(folder: Path, mask: np.ndarray) -> Path:
    path = cxi(folder)
    put(f"{CXI_DETECTOR}/mask", mask)(path)
    return path


def test_bits_of_a_cxi_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = np.zeros((N, N), np.uint32)
    flags.flat[: len(CXI_BAD)] = list(CXI_BAD)
    flags[5, :6] = 0x100, 0x800, 0x1000, 0x2000, 0x4000, 0x8000
    flags[6, :2] = 0x4001, 0x10000
    caplog.set_level(logging.INFO)
    bad = Scan.load(with_mask(tmp_path, flags)).bad_pixels
    assert bad is not None
    assert bad.sum() == len(CXI_BAD) + 1 and bad[6, 0] and not bad[5].any() and not bad[6, 1]
    assert "7 pixels of 'entry_1/instrument_1/detector_1/mask' have flags of good pixels only (0x1f900)" in caplog.text


def test_bits_of_a_nexus_mask(tmp_path: Path) -> None:
    path, flags = nexus(tmp_path), np.zeros((N, N), np.uint32)
    flags[0, :3], flags[1, :3] = (1, 1 << 8, 1 << 6), (1 << 16, 1 << 31, 0)
    put("run/beamline/eiger/pixel_mask", flags)(path)
    bad = Scan.load(path).bad_pixels
    assert bad is not None and bad[0, :3].all() and bad.sum() == 3


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32])
def test_mask_for_each_frame(tmp_path: Path, dtype: Any, caplog: pytest.LogCaptureFixture) -> None:
    masks = np.zeros((PATTERNS, N, N), dtype)
    masks[:, 2, 3] = masks[:5, 7, 7] = masks[4, 9, 9] = 1
    caplog.set_level(logging.INFO)
    bad = Scan.load(with_mask(tmp_path, masks)).bad_pixels
    assert bad is not None and sorted(zip(*np.nonzero(bad), strict=True)) == [(2, 3), (7, 7), (9, 9)]
    assert (
        "2 pixels are bad in more than 10% of the 13 frames, and 1 in fewer: all of these are bad in all" in caplog.text
    )
    masks[0, :4] = 1
    caplog.clear()
    bad = Scan.load(with_mask(tmp_path, masks)).bad_pixels
    assert bad is not None and sorted(zip(*np.nonzero(bad), strict=True)) == [(2, 3), (7, 7)]
    assert "and 64 (25.0 %) in fewer, which are too many to mask in all frames: they are used" in caplog.text
    masks = np.broadcast_to(BAD, (PATTERNS, N, N)).astype(dtype)
    np.testing.assert_array_equal(Scan.load(with_mask(tmp_path, masks)).bad_pixels, BAD)


def test_geometry_of_an_eiger(tmp_path: Path) -> None:
    path = eiger(tmp_path)
    scan = Scan.load(path)
    found = (scan.energy, scan.acquisition.distance, scan.acquisition.detector_pixel_size)
    assert found == pytest.approx((ENERGY, DISTANCE, DETECTOR)) and scan.name == "series"
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/detectorSpecific/photon_energy"] = 9000.0
        del file["entry/instrument/beam"]
        del file["entry/instrument/detector/detector_distance"]
    scan = Scan.load(path, distance=DISTANCE)
    assert scan.energy == 9000.0


def test_layouts_of_other_programs_stay_silent_about_units(tmp_path: Path) -> None:
    """Vectors instead of pixel sizes, no probe."""
    assert Scan.load(bare_cxi(tmp_path)).acquisition.detector_pixel_size == pytest.approx(DETECTOR)
