# SPDX-License-Identifier: BSD-3-Clause
"""Energies of electrons in files of microscopes: EMD 1.0 and 0.2, py4DSTEM, Velox and NeXus, with their wavelength."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scan_files import nexus
from test_rasters import FLAT, ROWS, WORLD, N, emd, old_emd

from ptychopinn.acquisition import wavelength_of
from ptychopinn.errors import InputError
from ptychopinn.io.scans import format_to_read
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns

MRAD = {"Q_pixel_size": 0.4, "Q_pixel_units": "mrad"}
#: An angle per pixel, whose object pixel needs the wavelength.
PIXEL_200 = wavelength_of(200e3, "electron") / (N * 0.4e-3)


def with_values(path: Path, group: str, values: dict[str, Any], attributes: bool = False) -> Path:
    with h5py.File(path, "a") as file:
        holder = file.require_group(group)
        for name, value in values.items():
            if attributes:
                holder.attrs[name] = value
            else:
                holder[name] = value
    return path


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("datacube_root/metadatabundle/microscope", {"beam_energy": 200e3}),  # without a unit: eV
        ("datacube_root/metadatabundle/anything", {"accelerating_voltage": 200, "accelerating_voltage_units": "kV"}),
        ("datacube_root/datacube/metadatabundle/m", {"accelerating_voltage": "200", "accelerating_voltage_units": ""}),
        ("datacube_root/metadatabundle/calibration", {"energy": 200e3, "energy_units": "eV"}),
        ("microscope", {"voltage": 200e3, "voltage_units": "[V]"}),
        ("datacube_root/metadata/metadata_0/microscope", {"beam_energy": "200", "beam_energy_units": "k_eV"}),
    ],
)
def test_energy_of_a_datacube(tmp_path: Path, group: str, values: dict[str, Any], attributes: bool) -> None:
    scan = Scan.load(with_values(emd(tmp_path, MRAD), group, values, attributes))
    assert scan.energy == pytest.approx(200e3) and scan.experiment.radiation == "electron"
    assert scan.pixel_size == pytest.approx(PIXEL_200)
    stated = Scan.load(tmp_path / "cube.h5", energy=80e3)
    assert stated.energy == 80e3 and stated.pixel_size == pytest.approx(wavelength_of(80e3, "electron") / (N * 0.4e-3))
    scan.save(tmp_path / "again.npz")
    again = Scan.load(tmp_path / "again.npz")
    assert again.energy == pytest.approx(200e3) and again.experiment.radiation == "electron"


def test_the_nearest_metadata_decide(tmp_path: Path) -> None:
    path = with_values(emd(tmp_path), "microscope", {"voltage": 300e3})
    with_values(path, "datacube_root/datacube/metadatabundle/own", {"beam_energy": 80.0})
    assert Scan.load(path).energy == pytest.approx(80e3)
    old = with_values(old_emd(tmp_path), "microscope", {"voltage": 120e3, "voltage_units": "V"}, True)
    assert Scan.load(old).energy == pytest.approx(120e3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"voltage": "high"}, r"key '.*voltage': expected the energy of the electrons, found 'high'; state energy="),
        ({"voltage": -1.0}, r"expected the energy of the electrons, found -1\.0; state energy="),
        ({"voltage": 200.0, "voltage_units": "m"}, r"eV, keV, V or kV as the unit, found 'm'; state energy="),
        ({"voltage": 3.0, "voltage_units": "V"}, r"between 1000 and 1e\+08 eV of electrons"),
    ],
)
def test_wrong_energies_have_a_way_out(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    path = with_values(emd(tmp_path), "microscope", values)
    with pytest.raises(InputError, match=words):
        Scan.load(path)
    assert Scan.load(path, energy=300e3).energy == 300e3
    unknown = with_values(emd(tmp_path), "microscope", {"voltage": "None"})
    assert Scan.load(unknown).energy is None


# Velox.


def velox(folder: Path, metadata: dict[str, Any] | None = None, images: int = 1) -> Path:
    """Write series as Velox does: frames along the last axis, metadata as columns of JSON, numbers as text."""
    path = folder / "series.emd"
    values = {
        "Optics": {"AccelerationVoltage": "200000"},
        "BinaryResult": {"PixelSize": {"width": "1.6e8", "height": "1.6e8"}, "PixelUnitX": "1/m", "PixelUnitY": "1/m"},
    }
    text = json.dumps(values if metadata is None else metadata).encode()
    with h5py.File(path, "w") as file:
        for number in range(images):
            group = file.create_group(f"Data/Image/{number:032x}")
            group["Data"] = np.moveaxis(FLAT, 0, -1) + number
            columns = np.zeros((len(text) + 40, len(FLAT)), np.uint8)
            columns[: len(text)] = np.frombuffer(text, np.uint8)[:, np.newaxis]
            group["Metadata"] = columns
        file["Data/Image/single/Data"] = np.ones((N, N, 1), np.uint16)  # a survey image
    return path


@pytest.mark.parametrize("memory", ["load", "stored"])
def test_series_of_velox(tmp_path: Path, memory: str) -> None:
    path = velox(tmp_path)
    assert format_to_read(path).name == "velox"
    scan = Scan.load(path, memory=memory, scan_shape=(ROWS, len(FLAT) // ROWS), scan_step=(2e-10, 3e-10))
    assert isinstance(scan.counts, StoredPatterns) == (memory == "stored")
    np.testing.assert_array_equal(scan.counts[:], FLAT)
    assert scan.energy == 200e3 and scan.experiment.radiation == "electron"
    assert scan.pixel_size == pytest.approx(1 / (N * 1.6e8))
    np.savetxt(tmp_path / "table.csv", WORLD, delimiter=",")
    table = Scan.load(path, positions=tmp_path / "table.csv", memory=memory)
    np.testing.assert_allclose(np.diff(table.positions, axis=0), np.diff(WORLD, axis=0) * N * 1.6e8, atol=1e-9)


def test_series_of_velox_in_angles_and_without_metadata(tmp_path: Path) -> None:
    raster = {"scan_shape": (ROWS, len(FLAT) // ROWS), "scan_step": 2e-10}
    angles = {"Optics": {"AccelerationVoltage": "200000"}}
    size = {"width": "0.0004", "height": "0.0004"}
    path = velox(tmp_path, angles | {"BinaryResult": {"PixelSize": size, "PixelUnitX": "rad"}})
    assert Scan.load(path, **raster).pixel_size == pytest.approx(PIXEL_200)
    path = velox(tmp_path, {"Optics": {}})
    with pytest.raises(InputError, match=r"expected the calibration of the detector, found none; state pixel_size="):
        Scan.load(path, **raster)
    assert Scan.load(path, pixel_size=1e-11, **raster).energy is None
    path = velox(tmp_path, images=2)
    with pytest.raises(InputError, match=r"one image of several frames, found Data/Image/0+/Data.*state patterns="):
        Scan.load(path, **raster)
    second = Scan.load(path, patterns=f"Data/Image/{1:032x}/Data", **raster)
    np.testing.assert_array_equal(second.counts, FLAT + 1)


# NeXus.


def test_the_gun_of_a_nexus_file_states_the_energy(tmp_path: Path) -> None:
    path = nexus(tmp_path)
    with h5py.File(path, "a") as file:
        del file["run/beamline/mono"], file["run/beamline/source/energy"]
        file["run/beamline/source/probe"] = "electron"
        file["run/beamline/source/voltage"] = 200.0
        file["run/beamline/source/voltage"].attrs["units"] = "kV"
    scan = Scan.load(path)
    assert scan.energy == pytest.approx(200e3) and scan.experiment.radiation == "electron"
    assert Scan.load(path, energy=80e3).energy == 80e3
