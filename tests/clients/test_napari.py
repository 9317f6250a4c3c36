# SPDX-License-Identifier: BSD-3-Clause
"""The reader for napari: which files it takes, and the layers of a result. napari itself is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ptychopinn.errors import InputError
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction

reader = pytest.importorskip(
    "ptychopinn_napari.reader", reason="not installed: pip install --no-deps ./integrations/napari"
)
MANIFEST = Path(__file__).parents[2] / "integrations" / "napari" / "src" / "ptychopinn_napari" / "napari.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    weights = np.ones((40, 50), np.float32)
    weights[:4] = 0
    return Reconstruction(
        0.8 * np.exp(1j * rng.normal(scale=0.2, size=(40, 50))),
        weights,
        origin=(-3.0, 5.0),
        probe=np.ones((1, 8, 8), np.complex64),
        uncertainty=np.ones((40, 50)),
        positions=np.array([[0.0, 1.0], [20.0, 30.5]]),
        pixel_size=2e-8,
    ).save(tmp_path / "recon.h5")


def test_layers_have_place_and_scale(file: Path) -> None:
    found = reader.reader_of(str(file))
    assert found is not None
    layers: dict[str, tuple[Any, dict[str, Any], str]] = {layer[1]["name"]: layer for layer in found(str(file))}
    assert list(layers) == ["amplitude", "phase (rad)", "standard deviation", "illumination", "patterns"]
    image, options, kind = layers["amplitude"]
    assert kind == "image" and image.shape == (40, 50) and np.isnan(image[:4]).all() and options["visible"]
    assert np.allclose(options["scale"], 0.02) and np.allclose(options["translate"], (-0.06, 0.1))
    centres, options, kind = layers["patterns"]
    assert kind == "points" and np.allclose(centres, 0.02 * np.array([[4, 5], [24, 34.5]]))


def test_other_files_are_left_to_other_readers(file: Path, tmp_path: Path) -> None:
    simulate(patterns=16, size=32).save(tmp_path / "scan.npz")
    assert reader.reader_of(str(tmp_path / "scan.npz")) is None and reader.reader_of([]) is None
    assert reader.reader_of([str(file), str(tmp_path / "scan.npz")]) is None
    assert len(reader.read([str(file), str(file)])) == 10
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError):
        reader.read(str(file))


def test_the_manifest_names_the_reader() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    (command,) = manifest["contributions"]["commands"]
    (reads,) = manifest["contributions"]["readers"]
    module, _, name = command["python_name"].partition(":")
    assert (module, getattr(reader, name)) == (reader.__name__, reader.reader_of) and reads["command"] == command["id"]


def test_the_manifest_is_valid() -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed")
    assert npe2.PluginManifest.from_file(MANIFEST).name == "ptychopinn-napari"
