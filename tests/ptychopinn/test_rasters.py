# SPDX-License-Identifier: BSD-3-Clause
"""Rasters of four axes, TIFF stacks and files of electron microscopes, with positions that follow from a step."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from ptychopinn.errors import InputError
from ptychopinn.io.electrons import electron_wavelength
from ptychopinn.io.formats.tiff import natural_order
from ptychopinn.io.scans import format_to_read
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions

ROWS, COLUMNS, N = 3, 4, 16
COUNTS = np.random.default_rng(2).poisson(30, (ROWS, COLUMNS, N, N)).astype(np.uint16)
FLAT = COUNTS.reshape(-1, N, N)
STEP, PIXEL = (2e-7, 3e-7), 2e-8
STATED: dict[str, Any] = {"pixel_size": PIXEL, "scan_step": STEP}
WORLD = np.stack([np.repeat(np.arange(ROWS), COLUMNS) * STEP[0], np.tile(np.arange(COLUMNS), ROWS) * STEP[1]], axis=1)


def assert_raster(scan: Scan, step: tuple[float, float] = STEP) -> None:
    np.testing.assert_array_equal(scan.counts[:], FLAT)
    np.testing.assert_allclose(world_positions(scan), WORLD / STEP * step, atol=1e-15)


def written(folder: Path, kind: str, array: np.ndarray) -> Path:
    path = folder / f"scan.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, diff3d=array, probeGuess=np.ones((N, N), np.complex64))
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["measured/frames"] = array
    else:
        tifffile.imwrite(path, array, photometric="minisblack")
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "tif"])
def test_raster_of_four_axes_is_read_row_by_row(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, COUNTS)
    shape = {"scan_shape": (ROWS, COLUMNS)} if kind == "tif" else {}  # pages know no rows
    assert_raster(Scan.load(path, **STATED, **shape))
    with pytest.raises(InputError, match=r"state positions= \(--positions TABLE\), or .*--scan-step Y,X.*--scan-shape"):
        Scan.load(path, pixel_size=PIXEL)


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "tif"])
def test_raster_of_three_axes_takes_its_shape_from_the_caller(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, FLAT)
    assert_raster(Scan.load(path, **STATED, scan_shape=(ROWS, COLUMNS)))
    with pytest.raises(InputError, match=r"found no shape; state scan_shape= \(--scan-shape ROWS,COLUMNS\)"):
        Scan.load(path, **STATED)
    with pytest.raises(InputError, match=r"found no step; state scan_step= \(--scan-step Y,X\)"):
        Scan.load(path, pixel_size=PIXEL, scan_shape=(ROWS, COLUMNS))
    with pytest.raises(InputError, match=r"expected 3 x 5 = 15 patterns of the raster, found 12; state its rows"):
        Scan.load(path, **STATED, scan_shape=(3, 5))


@pytest.mark.parametrize("kind", ["npy", "npz", "tif"])
def test_raster_can_stay_on_disk(tmp_path: Path, kind: str) -> None:
    scan = Scan.load(written(tmp_path, kind, COUNTS), memory="stored", scan_shape=(ROWS, COLUMNS), **STATED)
    assert isinstance(scan.counts, StoredPatterns)
    assert_raster(scan)


def test_step_overrides_the_positions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    x = np.arange(12.0)
    np.savez(path, diff3d=FLAT, probeGuess=np.ones((N, N), np.complex64), xcoords=x, ycoords=x)
    assert_raster(Scan.load(path, **STATED, scan_shape=(ROWS, COLUMNS)))
    assert_raster(Scan.load(path, pixel_size=PIXEL, scan_shape=(ROWS, COLUMNS), scan_step=1e-7), (1e-7, 1e-7))


# TIFF.


def test_natural_order_of_names() -> None:
    names = ["img_10.tif", "img_2.tif", "img_1.tif", "IMG_3.tif", "img_0011.tif"]
    assert [path.name for path in natural_order([Path(name) for name in names])] == [
        *("img_1.tif", "img_2.tif", "IMG_3.tif", "img_10.tif", "img_0011.tif")
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_folder_of_tiff_files_is_read_in_natural_order(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k, frame in enumerate(FLAT.astype(dtype)):
        tifffile.imwrite(folder / f"img_{k}.tif", frame)
    rows = [f"{y!r};{x!r}" for y, x in WORLD.tolist()]
    (folder / "positions.csv").write_text("\n".join(["y_m;x_m", *rows]))
    assert format_to_read(folder).name == "tiff"
    scan = Scan.load(folder, pixel_size=PIXEL)
    assert_raster(scan)
    assert Scan.load(folder, pixel_size=PIXEL, crop=8).counts.shape == (12, 8, 8)
    tifffile.imwrite(folder / "img_12.tif", np.ones((4, 4), dtype))
    with pytest.raises(InputError, match=r"img_12.tif: expected a frame like img_0.tif, .* found .*; move"):
        Scan.load(folder, pixel_size=PIXEL, scan_shape=(13, 1), scan_step=1e-7)


def test_compressed_pages_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, FLAT, photometric="minisblack", compression="zlib")
    assert_raster(Scan.load(path, **STATED, scan_shape=(ROWS, COLUMNS)))
    with pytest.raises(InputError, match=r'uncompressed pages.*use memory="load"'):
        Scan.load(path, **STATED, scan_shape=(ROWS, COLUMNS), memory="stored")


def test_faults_of_tiff_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, np.ones((5, N, N, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="expected grey values, found colour"):
        Scan.load(path, **STATED)
    path.write_bytes(written(tmp_path, "tiff", FLAT).read_bytes()[:300])
    with pytest.raises(InputError, match="expected an intact TIFF file, found a damaged one"):
        Scan.load(path, **STATED)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError, match="found none; pip install tifffile"):
        Scan.load(path, **STATED)


# Electrons.

DQ, R = 0.01, 5.0  # A^-1, A
EMD_STEP, EMD_PIXEL = (R * 1e-10, R * 1e-10), 1e-10 / (N * DQ)


def emd(folder: Path, calibration: dict[str, Any] | None = None, dims: bool = False) -> Path:
    """Write the layout of emdfile 0.0.16, EMD 1.0, as py4DSTEM saves a datacube with its calibration at the root."""
    path = folder / "cube.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "authoring_program": "emdfile"})
        root = file.create_group("datacube_root")
        root.attrs["emd_group_type"] = "root"
        cube = root.create_group("datacube")
        cube.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        cube["data"] = COUNTS
        for k, (name, step, unit) in enumerate(
            (("Rx", R, "A"), ("Ry", R, "A"), ("Qx", DQ, "A^-1"), ("Qy", DQ, "A^-1"))
        ):
            dim = cube.create_dataset(f"dim{k}", data=np.array([0, step if dims else 1]))
            dim.attrs.update({"name": name, "units": unit if dims else "pixels"})
        if not dims:
            holder = root.create_group("metadatabundle/calibration")
            values = {"R_pixel_size": R, "R_pixel_units": "A", "Q_pixel_size": DQ, "Q_pixel_units": "A^-1"}
            for key, value in (values | (calibration or {})).items():
                holder[key] = value
    return path


def old_emd(folder: Path) -> Path:
    """Write the layout of EMD 0.2, with vectors dim1 to dim4 and units in brackets."""
    path = folder / "cube.emd"
    with h5py.File(path, "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        cube = file.create_group("4DSTEM_experiment/data/datacubes/datacube_0")
        cube.attrs["emd_group_type"] = 1
        cube["data"] = COUNTS.astype(np.float32)
        axes = ((ROWS, R / 10, "[n_m]"), (COLUMNS, R / 10, "[n_m]"), (N, DQ * 10, "[n_m^-1]"), (N, DQ * 10, "[n_m^-1]"))
        for k, (count, step, unit) in enumerate(axes, 1):
            dim = cube.create_dataset(f"dim{k}", data=np.arange(count) * step)
            dim.attrs.update({"name": f"axis{k}", "units": unit})
    return path


def test_datacubes_are_recognised_and_calibrated(tmp_path: Path) -> None:
    for path in (emd(tmp_path), old_emd(tmp_path), emd(tmp_path, dims=True)):
        assert format_to_read(path).name == "emd"
        scan = Scan.load(path)
        assert_raster(scan, EMD_STEP)
        assert scan.pixel_size == pytest.approx(EMD_PIXEL) and scan.energy is None
        assert scan.experiment.radiation == "electron"
        assert Scan.load(path, crop=8).pixel_size == pytest.approx(2 * EMD_PIXEL)


def test_energy_of_electrons(tmp_path: Path) -> None:
    scan = Scan.load(emd(tmp_path), energy=300e3)
    assert scan.energy == 300e3 and scan.experiment.radiation == "electron"
    angle = emd(tmp_path, {"Q_pixel_size": 0.4, "Q_pixel_units": "mrad"})
    wavelength = electron_wavelength(300e3)
    assert wavelength == pytest.approx(1.9687e-12, rel=1e-4)
    assert Scan.load(angle, energy=300e3).pixel_size == pytest.approx(wavelength / (N * 0.4e-3))
    with pytest.raises(InputError, match=r"found mrad; state energy= \(--energy\) of the electrons in eV, or pixel"):
        Scan.load(angle)
    with pytest.raises(InputError, match=r"in eV, such as 300e3 for 300 keV, found 300"):
        Scan.load(emd(tmp_path), energy=300.0)
    with pytest.raises(InputError, match=r"'distance': expected pixel_size= \(--pixel-size\) for electrons"):
        Scan.load(emd(tmp_path), distance=1.0)
    length = Scan.load(angle, energy=300e3, distance=0.5, detector_pixel_size=2e-4)  # a camera length, 0.4 mrad
    assert length.pixel_size == pytest.approx(wavelength / (N * 0.4e-3))
    angle = emd(tmp_path, {"Q_pixel_size": 0.4, "Q_pixel_units": "mrad"})
    photons = Scan.load(angle, energy=9e3, radiation="photon")
    assert photons.experiment.plain and photons.experiment.radiation == "photon"
    assert photons.pixel_size == pytest.approx(1.2398419843320026e-6 / 9e3 / (N * 0.4e-3))


@pytest.mark.parametrize(
    ("calibration", "options", "words"),
    [
        ({"Q_pixel_units": "pixels"}, {}, r"calibration of the detector, found 'pixels'; state pixel_size="),
        ({"Q_pixel_units": "furlong"}, {}, r"a unit such as A\^-1, 1/nm or mrad, found 'furlong'; state pixel_size="),
        ({"Q_pixel_size": 0.0}, {}, r"the same step on both axes, not 0"),
        ({"R_pixel_units": "pixels"}, {}, r"found 3 x 4 patterns without; state positions="),
        ({"R_pixel_units": "parsec"}, {}, r"a length as the unit, found 'parsec'; state scan_step="),
        ({"Q_pixel_units": "pixels"}, {"pixel_size": 1e-10}, ""),
        ({"R_pixel_units": "pixels"}, {"scan_step": 1e-10}, ""),
    ],
)
def test_missing_calibration_has_a_way_out(
    tmp_path: Path, calibration: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    path = emd(tmp_path, calibration)
    if not words:
        assert Scan.load(path, **options).n == ROWS * COLUMNS
        return
    with pytest.raises(InputError, match=words):
        Scan.load(path, **options)


def test_rotation_of_a_calibration_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Scan.load(emd(tmp_path, {"QR_rotation": 0.3}))
    assert "the scan is turned against the detector" in caplog.text


AXES = [
    {"name": "y", "size": ROWS, "scale": 2.0, "units": "nm", "navigate": True, "index_in_array": 0},
    {"name": "x", "size": COLUMNS, "scale": 3.0, "units": "nm", "navigate": True, "index_in_array": 1},
    {"name": "qy", "size": N, "scale": 0.1, "units": "1/nm", "navigate": False, "index_in_array": 2},
    {"name": "qx", "size": N, "scale": 0.1, "units": "1/nm", "navigate": False, "index_in_array": 3},
]


def reader(monkeypatch: pytest.MonkeyPatch, module: str, signals: list[dict[str, Any]]) -> None:
    """Install a module in place of one of RosettaSciIO."""
    stub = ModuleType(f"rsciio.{module}")
    stub.file_reader = lambda path, lazy: signals  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rsciio", ModuleType("rsciio"))
    monkeypatch.setitem(sys.modules, f"rsciio.{module}", stub)


def test_file_of_rosettasciio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.mib"
    path.write_bytes(b"MQ1 frames")
    monkeypatch.setitem(sys.modules, "rsciio.quantumdetector", None)
    assert format_to_read(path).name == "rosettasciio"
    with pytest.raises(InputError, match="pip install rosettasciio"):
        Scan.load(path)
    reader(monkeypatch, "quantumdetector", [{"data": COUNTS, "axes": AXES}, {"data": np.ones(4), "axes": []}])
    scan = Scan.load(path, energy=200e3)
    assert_raster(scan, (2e-9, 3e-9))
    assert scan.pixel_size == pytest.approx(1e-9 / (N * 0.1)) and scan.energy == 200e3
    assert scan.experiment.radiation == "electron"
    beam = {"Acquisition_instrument": {"TEM": {"beam_energy": 80.0}}}
    reader(monkeypatch, "quantumdetector", [{"data": COUNTS, "axes": AXES, "metadata": beam}])
    assert Scan.load(path).energy == 80e3
    detector_first = [{**axis, "index_in_array": (k + 2) % 4} for k, axis in enumerate(AXES)]
    reader(monkeypatch, "quantumdetector", [{"data": COUNTS.transpose(2, 3, 0, 1), "axes": detector_first}])
    assert_raster(Scan.load(path), (2e-9, 3e-9))
    reader(monkeypatch, "quantumdetector", [{"data": FLAT, "axes": AXES[1:]}])
    assert_raster(Scan.load(path, scan_shape=(ROWS, COLUMNS), scan_step=STEP))
    reader(monkeypatch, "quantumdetector", [])
    with pytest.raises(InputError, match="one array of three or four axes, found none"):
        Scan.load(path)


def test_file_that_rosettasciio_writes(tmp_path: Path) -> None:
    hspy = pytest.importorskip("rsciio.hspy", reason="RosettaSciIO is not installed")
    path = tmp_path / "scan.hspy"
    axes = [{**axis, "offset": 0.0, "_type": "UniformDataAxis", "is_binned": False} for axis in AXES]
    empty: dict[str, Any] = {"original_metadata": {}, "tmp_parameters": {}, "learning_results": {}, "models": {}}
    metadata = {"General": {"title": "scan"}, "Signal": {"signal_type": ""}}
    package = {"package": "test", "package_version": "1"}
    rest = {"metadata": metadata, "package_info": package, "attributes": {"_lazy": False}}
    hspy.file_writer(str(path), {"data": COUNTS, "axes": axes, **empty, **rest})
    assert format_to_read(path).name == "rosettasciio"
    assert_raster(Scan.load(path), (2e-9, 3e-9))
