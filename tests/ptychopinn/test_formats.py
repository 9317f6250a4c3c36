# SPDX-License-Identifier: BSD-3-Clause
"""Formats of scans: recognised by content, read with one convention, and exact after a round trip."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scan_files import (
    BAD,
    CORNERS,
    COUNTS,
    DETECTOR,
    DISTANCE,
    ENERGY,
    FILES,
    GEOMETRY,
    INDEXES,
    OBJECT,
    PATTERNS,
    PIXEL,
    PROBE,
    SHUFFLED,
    WORLD,
    N,
    detector_intensity,
    diffraction,
    nexus,
    pair,
    product,
    ptyd,
)

from ptychopinn.acquisition import object_pixel_size
from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.io.indexes import frame_indexes
from ptychopinn.io.scans import format_to_read, format_to_write, formats
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import known_detector_pixel_size, world_positions

SAMPLES = Path(__file__).parents[1] / "data" / "ptychodus"
WRITTEN = {"npz": "a.npz", "ptychodus": "folder", "cxi": "a.cxi", "ptyd": "a.ptyd", "nexus": "a.nxs"}


def load(name: str, path: Path, **options: Any) -> Scan:
    return Scan.load(path, **(GEOMETRY if FILES[name][1] in ("arrays", "tiff") else {}), **options)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_recognised_and_read_with_one_convention(tmp_path: Path, name: str) -> None:
    make, format, has_probe, has_object, has_metres = FILES[name]
    path = make(tmp_path)
    assert format_to_read(path).name == format
    scan = load(name, path)
    np.testing.assert_array_equal(scan.counts, COUNTS)
    assert scan.counts.dtype.kind == "u" and scan.decisions.measurement.value == "counts"
    expected = CORNERS if has_object else CORNERS - CORNERS.min(axis=0)
    np.testing.assert_allclose(scan.positions, expected, rtol=0, atol=1e-9)
    if has_object:
        np.testing.assert_array_equal(scan.truth, OBJECT)
    if has_probe:
        np.testing.assert_allclose(scan.probe / PROBE, scan.probe[0, 0, 0] / PROBE[0, 0, 0], rtol=1e-5)
    else:
        assert scan.decisions.probe.value == "guessed" and scan.modes == 1
    if name != "contract_npz":
        np.testing.assert_array_equal(scan.bad_pixels, BAD)
        counted = COUNTS[:, ~BAD].sum() / PATTERNS
        np.testing.assert_allclose(detector_intensity(scan.probe)[~BAD].sum(), counted, rtol=1e-5)
    if has_metres:
        np.testing.assert_allclose([scan.pixel_size, scan.energy], [PIXEL, ENERGY], rtol=1e-12)
        if name != "training":  # its world coordinates are those of the object
            np.testing.assert_allclose(world_positions(scan), WORLD, rtol=0, atol=1e-12)
        np.testing.assert_allclose(scan.acquisition.distance, DISTANCE)
        np.testing.assert_allclose(known_detector_pixel_size(scan), DETECTOR)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("name", FILES)
def test_round_trip_of_every_file_through_every_writer(tmp_path: Path, name: str, written: str) -> None:
    options = {} if FILES[name][4] or FILES[name][1] in ("arrays", "tiff") else {"pixel_size": PIXEL, "energy": ENERGY}
    scan = load(name, FILES[name][0](tmp_path), **options)
    target = tmp_path / "out" / WRITTEN[written]
    scan.save(target, format=written)
    assert format_to_read(target).name == written
    back = Scan.load(target)
    np.testing.assert_array_equal(back.counts, scan.counts)
    assert back.counts.dtype.kind == "u"
    np.testing.assert_allclose(back.positions, scan.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(world_positions(back), world_positions(scan), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(back.probe, scan.probe)
    np.testing.assert_array_equal(back.truth, scan.truth) if scan.truth is not None else None
    assert (scan.truth is None, scan.bad_pixels is None) == (back.truth is None, back.bad_pixels is None)
    if scan.bad_pixels is not None:
        np.testing.assert_array_equal(back.bad_pixels, scan.bad_pixels)
    np.testing.assert_allclose([back.pixel_size, back.energy], [scan.pixel_size, scan.energy], rtol=1e-12)
    assert back.name == scan.name and back.decisions.measurement.value in ("counts", "amplitude")
    np.testing.assert_array_equal(frame_indexes(back), frame_indexes(scan))
    assert back.decisions.probe == scan.decisions.probe  # a guessed probe stays marked as one


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("counts", [np.uint8, np.uint32, np.uint64, np.float32])
def test_round_trip_of_types_and_of_a_scan_without_world_coordinates(
    tmp_path: Path, written: str, counts: type
) -> None:
    values = np.random.default_rng(2).uniform(0, 200, (5, N, N)).astype(counts)
    positions = np.random.default_rng(3).uniform(-7, 30, (5, 2))
    scan = Scan(values, positions, PROBE, pixel_size=1.3e-8, energy=6200.0, name="µ")
    scan.save(tmp_path / WRITTEN[written], format=written)
    back = Scan.load(tmp_path / WRITTEN[written])
    if written == "npz" and counts is np.float32:  # amplitudes in the file
        np.testing.assert_allclose(back.counts, values, rtol=3e-7)
    else:
        np.testing.assert_array_equal(back.counts, values)
    np.testing.assert_allclose(back.positions, positions, rtol=0, atol=1e-9)
    assert back.name == "µ"


def test_every_format_is_tested() -> None:
    assert set(WRITTEN) == {name for name, format in formats().items() if format.write}
    others = {"emd", "rosettasciio", "velox", "live"}  # test_rasters, test_electron_files, streaming/test_spool
    assert {format for _, format, *_ in FILES.values()} | others == set(formats())


def test_npz_and_ptychodus_coordinates_differ_by_half_a_pixel(tmp_path: Path) -> None:
    """Coordinates of one file refer to sample N//2 in npz and to the centre, (N-1)/2, in ptychodus."""
    path = FILES["ptychodus_npz"][0](tmp_path)
    ours, theirs = Scan.load(path, format="npz"), Scan.load(path)
    np.testing.assert_allclose(theirs.positions - ours.positions, 0.5, rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs.positions, CORNERS, rtol=0, atol=1e-12)
    assert theirs.decisions.coordinates.value == "sample (N-1)/2"


@pytest.mark.parametrize("name", ["diffraction.h5", "product.h5", "training_data.h5", ""])
def test_files_written_by_ptychodus_are_read(name: str) -> None:
    scan = Scan.load(SAMPLES / name)
    grid = np.stack(np.meshgrid(5 + 4.0 * np.arange(10), 4 + 4.0 * np.arange(10), indexing="ij"), axis=-1)
    np.testing.assert_allclose(scan.positions, grid.reshape(-1, 2), rtol=0, atol=1e-9)
    assert scan.pixel_size == pytest.approx(object_pixel_size(10e3, 1.0, 75e-6, 32), rel=1e-9)
    assert scan.energy == 10e3 and scan.counts.dtype == np.uint16 and scan.modes == 1
    assert scan.bad_pixels is not None and np.argwhere(scan.bad_pixels).tolist() == [[3, 3]]
    assert (scan.truth is None) == (name != "training_data.h5")


def test_truth_of_ptychodus_predicts_its_patterns(tmp_path: Path) -> None:
    """Tests orientation, half pixel and units: the predicted pattern of each position equals the measured one."""
    shutil.copy(SAMPLES / "diffraction.h5", tmp_path)
    shutil.copy(SAMPLES / "truth_product.h5", tmp_path / "product.h5")
    scan = Scan.load(tmp_path)
    assert scan.truth is not None and scan.bad_pixels is not None
    corners = np.rint(scan.positions).astype(int)
    patches = np.stack([scan.truth[y : y + 32, x : x + 32] for y, x in corners])
    waves = np.fft.fftshift(np.fft.fft2(patches * scan.probe[0], norm="ortho"), axes=(-2, -1))
    good = ~scan.bad_pixels
    error = np.square(np.abs(waves[:, good]) ** 2 - scan.counts[:, good]).sum() / scan.counts[:, good].sum()
    assert 0.8 < error < 1.2  # Poisson noise alone


def test_pairs_by_frame_index_and_reports_omitted_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pair(tmp_path)
    np.testing.assert_array_equal(Scan.load(path).frame_indexes, INDEXES)
    kept = SHUFFLED[2:]
    with h5py.File(tmp_path / "product.h5", "a") as file:
        for key, values in (("indexes", INDEXES[kept]), ("y_m", WORLD[kept, 0]), ("x_m", WORLD[kept, 1])):
            del file[f"probe_position_{key}"]
            file[f"probe_position_{key}"] = values
    with caplog.at_level(logging.WARNING):
        scan = Scan.load(path)
    there = np.sort(kept)
    np.testing.assert_array_equal(scan.counts, COUNTS[there])
    np.testing.assert_allclose(scan.positions, CORNERS[there], rtol=0, atol=1e-9)
    assert "2 patterns have no position and 0 positions no pattern: omitted" in caplog.text
    assert (scan.decisions.pairing.patterns, scan.decisions.pairing.positions) == (2, 0)
    with h5py.File(tmp_path / "diffraction.h5", "a") as file:
        del file["indexes"]
    with pytest.raises(InputError, match="expected 11 patterns, one for each position, or indexes in both files"):
        Scan.load(path, format="ptychodus")


def test_frame_indexes_follow_the_patterns_of_a_subset(tmp_path: Path) -> None:
    scan = Scan.load(pair(tmp_path))
    for picked in ([4, 0, 7], np.arange(PATTERNS) % 3 == 1):
        part = scan.subset(picked)
        np.testing.assert_array_equal(part.frame_indexes, INDEXES[picked])
        part.save(tmp_path / "part", format="ptychodus")
        with h5py.File(tmp_path / "part" / "diffraction.h5") as file:
            np.testing.assert_array_equal(file["indexes"], INDEXES[picked])
            np.testing.assert_array_equal(file["patterns"], COUNTS[picked])
    np.testing.assert_array_equal(scan.frame_indexes, INDEXES)
    assert scan.subset([3, 3]).frame_indexes is None


def test_partners_are_found_by_name_or_stated(tmp_path: Path) -> None:
    diffraction(tmp_path).rename(tmp_path / "a_diffraction.h5")
    product(tmp_path).rename(tmp_path / "a_product.h5")
    for name in ("a_diffraction.h5", "a_product.h5"):
        assert Scan.load(tmp_path / name).n == PATTERNS
    (tmp_path / "a_product.h5").rename(tmp_path / "other.h5")
    with pytest.raises(InputError, match=r"found no a_product.h5 or product.h5; state partner= \(--partner\)"):
        Scan.load(tmp_path / "a_diffraction.h5")
    assert Scan.load(tmp_path / "a_diffraction.h5", partner=tmp_path / "other.h5").n == PATTERNS


def test_constant_object_is_no_truth_and_layers_are_their_product(tmp_path: Path) -> None:
    path = pair(tmp_path)
    for layers in (np.ones((1, 47, 39), np.complex64), np.stack([OBJECT, OBJECT])):
        with h5py.File(tmp_path / "product.h5", "a") as file:
            attributes = dict(file["object"].attrs)
            del file["object"]
            file["object"] = layers
            file["object"].attrs.update(attributes)
        scan = Scan.load(path)
        if len(layers) == 1:
            assert scan.truth is None
        else:
            np.testing.assert_array_equal(scan.truth, OBJECT**2)
        np.testing.assert_allclose(scan.positions, CORNERS, rtol=0, atol=1e-9)


def test_options_override_the_file(tmp_path: Path) -> None:
    path = FILES["nexus"][0](tmp_path)
    assert Scan.load(path, pixel_size=2e-8).pixel_size == 2e-8
    twice = Scan.load(path, energy=2 * ENERGY)
    assert twice.energy == 2 * ENERGY and twice.pixel_size == pytest.approx(PIXEL / 2)
    probe = PROBE[0]
    np.save(tmp_path / "probe.npy", probe)
    for given in (probe, tmp_path / "probe.npy"):
        scan = Scan.load(path, probe=given)
        np.testing.assert_allclose(scan.probe[0] / probe, scan.probe[0, 0, 0] / probe[0, 0], rtol=1e-5)
        assert scan.decisions.probe == Decision("given", "as requested")
    amplitudes = Scan.load(path, measurement="amplitude")
    np.testing.assert_array_equal(amplitudes.counts, COUNTS.astype(int) ** 2)


@pytest.mark.parametrize("name", ["pair", "cxi"])
@pytest.mark.parametrize("key", ["pixel_size", "detector_pixel_size", "energy"])
def test_truth_with_another_pixel_size_is_omitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, key: str
) -> None:
    path = FILES[name][0](tmp_path)
    from_file = {"pixel_size": PIXEL, "detector_pixel_size": DETECTOR, "energy": ENERGY}[key]
    same = Scan.load(path, **{key: from_file * (1 + 1e-6)})
    np.testing.assert_array_equal(same.truth, OBJECT)
    assert same.decisions.truth is None and "omitted" not in caplog.text
    scan = Scan.load(path, **{key: from_file * 2})
    assert scan.truth is None and scan.decisions.truth.value == "omitted"
    size = PIXEL * (2 if key == "pixel_size" else 0.5)
    assert f"the known object is omitted: its pixels are {PIXEL:.6g} m, those of the scan as stated {size:.6g} m" in (
        caplog.text
    )


def test_guessed_probe_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scan = Scan.load(ptyd(tmp_path))
    assert "no probe in the file: it is guessed from the mean pattern; state probe=" in caplog.text
    aperture = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(scan.probe[0]), norm="ortho"))) ** 2
    np.testing.assert_allclose(aperture[~BAD], COUNTS.mean(axis=0)[~BAD], rtol=1e-4)


def test_raster_with_four_axes_and_a_wavelength_is_read(tmp_path: Path) -> None:
    path = nexus(tmp_path)
    with h5py.File(path, "a") as file:
        raster = file["run/beamline/eiger/data"][:12].reshape(3, 4, N, N)
        del file["run/beamline/eiger/data"], file["run/beamline/mono/energy"]
        file["run/beamline/eiger/data"] = raster
        file["run/beamline/mono/wavelength"] = 1.2398419843320026e4 / ENERGY
        file["run/beamline/mono/wavelength"].attrs["units"] = "angstrom"
        for axis in "xy":
            key = f"run/stage/transformations/{axis}"
            values, units = file[key][:12].reshape(3, 4), file[key].attrs["units"]
            del file[key]
            file[key] = values
            file[key].attrs["units"] = units
    scan = Scan.load(path)
    np.testing.assert_array_equal(scan.counts, COUNTS[:12])
    assert scan.energy == pytest.approx(ENERGY) and np.allclose(world_positions(scan), WORLD[:12], rtol=0, atol=1e-12)


def test_suffix_selects_the_written_format_only(tmp_path: Path) -> None:
    scan = Scan.load(pair(tmp_path))
    scan.save(tmp_path / "a.cxi")
    (tmp_path / "a.cxi").rename(tmp_path / "a.h5")
    assert format_to_read(tmp_path / "a.h5").name == "cxi" and Scan.load(tmp_path / "a.h5").n == PATTERNS
    with pytest.raises(InputError, match=r"b\.h5: expected a scan file ending in .*, found '\.h5'; or name a format"):
        format_to_write(tmp_path / "b.h5")
    scan.save(tmp_path / "b_product.h5", format="ptychodus")
    with pytest.raises(InputError, match=r"b_product\.h5: the file exists and overwrite is False"):
        (tmp_path / "b_diffraction.h5").unlink()
        scan.save(tmp_path / "b_diffraction.h5", format="ptychodus", overwrite=False)


def test_pair_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Scan.load(pair(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("ptychopinn.io.formats.ptychodus.put_package_group", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scan.save(tmp_path, format="ptychodus")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("written", [name for name in WRITTEN if name != "npz"])
def test_metres_need_a_pixel_size(tmp_path: Path, written: str) -> None:
    scan = replace(Scan.load(pair(tmp_path)), pixel_size=None)
    with pytest.raises(InputError, match=r"expected a pixel size to write positions in metres, found none; load the"):
        scan.save(tmp_path / "out" / WRITTEN[written], format=written)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_patterns_stay_on_disk_where_the_format_allows(tmp_path: Path, name: str) -> None:
    path = FILES[name][0](tmp_path)
    stated = {} if FILES[name][4] or FILES[name][1] in ("arrays", "tiff") else {"pixel_size": PIXEL, "energy": ENERGY}
    loaded = load(name, path, **stated)
    stored = load(name, path, memory="stored", **stated)
    assert isinstance(stored.counts, StoredPatterns)
    order = np.arange(stored.n)[::-2]
    np.testing.assert_array_equal(stored.counts[:], loaded.counts)
    np.testing.assert_array_equal(stored.subset(order).counts[:], loaded.counts[order])
    assert stored.counts.dtype == loaded.counts.dtype
    np.testing.assert_array_equal(stored.positions, loaded.positions)
    np.testing.assert_allclose(stored.probe, loaded.probe, rtol=1e-6)
    for format, again in WRITTEN.items():
        stored.save(tmp_path / "again" / again, format=format)
        np.testing.assert_array_equal(Scan.load(tmp_path / "again" / again).counts, loaded.counts)
