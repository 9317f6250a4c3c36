# SPDX-License-Identifier: BSD-3-Clause
"""Coordinates of exported reconstructions, by the formulas of their formats and by the readers of ptychodus.

Tests with "its_own" run the readers of ptychodus 1.7 itself and skip visibly without it: in an environment beside this
one, `pip install --no-deps ptychodus==1.7.0` with pydantic is enough.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scan_files import BAD, CENTRE, CORNERS, COUNTS, DETECTOR, ENERGY, INDEXES, OBJECT, PIXEL, SHAPE, WORLD, N, pair

from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.reconstructions import is_reconstruction, pictures_folder, read_start
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

ORIGIN = (-3.0, 2.0)  # of the canvas, which differs from that of the object
CANVAS = np.pad(OBJECT, ((3, 5), (0, 0)), constant_values=1)[:, 2:]


def result(**changes: Any) -> Reconstruction:
    fields: dict[str, Any] = {"object": CANVAS, "weights": np.ones(CANVAS.shape, np.float32), "origin": ORIGIN}
    return Reconstruction(**{**fields, "pixel_size": PIXEL, "metadata": {"model": "none"}, **changes})


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    folder = tmp_path / "measured"
    folder.mkdir()
    return Scan.load(pair(folder))


def own(name: str) -> Any:
    return pytest.importorskip(name, reason="ptychodus is not installed")


def patch(image: np.ndarray, corner: np.ndarray) -> np.ndarray:
    y, x = np.rint(corner).astype(int)
    return image[y : y + N, x : x + N]


def test_object_of_a_product_matches_its_positions(tmp_path: Path, scan: Scan) -> None:
    path = result().save(tmp_path / "p.h5", format="ptychodus", scan=scan)
    with h5py.File(path) as file:
        image, attributes = file["object"][0], file["object"].attrs
        assert file["object"].shape == (1, *CANVAS.shape) and file["probe"].shape == (1, 2, N, N)
        for axis, key, size in ((0, "y", image.shape[0]), (1, "x", image.shape[1])):
            side = attributes["pixel_height_m" if key == "y" else "pixel_width_m"]
            metres = file[f"probe_position_{key}_m"][()]
            np.testing.assert_allclose(metres, WORLD[:, axis], rtol=0, atol=1e-12)
            pixels = (metres - attributes[f"center_{key}_m"]) / side + (size - 1) / 2 - (N - 1) / 2
            np.testing.assert_allclose(pixels, CORNERS[:, axis] - ORIGIN[axis], rtol=0, atol=1e-9)
        assert side == pytest.approx(PIXEL) and file.attrs["photon_energy_eV"] == ENERGY
        assert file.attrs["name"] == "sample" and file["probe_position_indexes"][()].tolist() == INDEXES.tolist()
        for corner in CORNERS:
            np.testing.assert_array_equal(patch(image, np.rint(corner) - ORIGIN), patch(OBJECT, corner))
    assert not is_reconstruction(path)  # it is the second file of a scan


def test_its_own_reader_finds_pixel_size_centre_and_orientation(tmp_path: Path, scan: Scan) -> None:
    io = own("ptychodus.api.io")
    product = io.load_product(result().save(tmp_path / "p.h5", format="ptychodus", scan=scan))
    geometry = product.object_.get_geometry()
    assert (geometry.height_px, geometry.width_px) == CANVAS.shape
    np.testing.assert_allclose([geometry.pixel_width_m, geometry.pixel_height_m], PIXEL, rtol=1e-12)
    corner = CENTRE - PIXEL * (np.array(SHAPE) - 1) / 2 + PIXEL * np.array(ORIGIN)
    centre = corner + PIXEL * (np.array(CANVAS.shape) - 1) / 2
    np.testing.assert_allclose([geometry.center_y_m, geometry.center_x_m], centre, rtol=0, atol=1e-15)
    positions = product.probe_positions
    pixels = np.column_stack(
        [geometry.map_probe_positions_to_object_y_px(positions), geometry.map_probe_positions_to_object_x_px(positions)]
    )
    corners = pixels - (N - 1) / 2
    np.testing.assert_allclose(corners, CORNERS - ORIGIN, rtol=0, atol=1e-9)
    for found, original in zip(corners, CORNERS, strict=True):
        np.testing.assert_array_equal(patch(product.object_.get_layer(0), found), patch(OBJECT, original))
    assert product.metadata.photon_energy_eV == ENERGY and product.probes.get_array().shape == (1, 2, N, N)


def test_its_own_readers_pair_our_scans(tmp_path: Path, scan: Scan) -> None:
    io, reconstruct = own("ptychodus.api.io"), own("ptychodus.api.reconstruct")
    scan.save(tmp_path / "out", format="ptychodus")
    data, product = (
        io.load_diffraction_data(tmp_path / "out/diffraction.h5"),
        io.load_product(tmp_path / "out/product.h5"),
    )
    paired = reconstruct.prepare_reconstruct_input(data, product)
    np.testing.assert_array_equal(paired.diffraction_patterns, COUNTS)
    np.testing.assert_array_equal(paired.bad_pixels, BAD)
    geometry = paired.product.object_.get_geometry()
    x = geometry.map_probe_positions_to_object_x_px(paired.product.probe_positions) - (N - 1) / 2
    np.testing.assert_allclose(x, CORNERS[:, 1], rtol=0, atol=1e-9)
    assert data.get_pixel_geometry().width_m == pytest.approx(DETECTOR)


def test_its_own_readers_open_our_cxi(tmp_path: Path, scan: Scan) -> None:
    cxi = own("ptychodus.plugins.cxi_file")
    scan.save(tmp_path / "a.cxi")
    data, product = (
        cxi.CXIDiffractionFileReader().read(tmp_path / "a.cxi"),
        cxi.CXIProductFileIO().read(tmp_path / "a.cxi"),
    )
    assert data.get_metadata().photon_energy_eV == pytest.approx(ENERGY)
    np.testing.assert_array_equal(np.concatenate([array.get_patterns() for array in data]), COUNTS)
    geometry = product.object_.get_geometry()
    y = geometry.map_probe_positions_to_object_y_px(product.probe_positions) - (N - 1) / 2
    np.testing.assert_allclose(y, CORNERS[:, 0], rtol=0, atol=1e-9)


def test_nexus_has_a_default_plot_in_metres(tmp_path: Path, scan: Scan) -> None:
    path = result(uncertainty=np.ones(CANVAS.shape, np.float32)).save(tmp_path / "n.h5", format="nexus", scan=scan)
    with h5py.File(path) as file:
        entry = file[file.attrs["default"]]
        shown = entry[entry.attrs["default"]]
        assert (entry.attrs["NX_class"], shown.attrs["NX_class"]) == ("NXentry", "NXdata")
        np.testing.assert_array_equal(shown[shown.attrs["signal"]], np.angle(CANVAS))
        y, x = (shown[name.decode()] for name in shown.attrs["axes"])
        assert y.attrs["units"] == x.attrs["units"] == "m" and (len(y), len(x)) == CANVAS.shape
        np.testing.assert_allclose(np.diff(y), PIXEL)
        # The centre of every patch, in the axes of the figure.
        for axis, values in ((0, y[()]), (1, x[()])):
            middle = values[0] + PIXEL * (CORNERS[:, axis] - ORIGIN[axis] + (N - 1) / 2)
            np.testing.assert_allclose(middle, WORLD[:, axis], rtol=0, atol=1e-12)
        np.testing.assert_allclose(entry["sample/positions/x"], WORLD[:, 1], rtol=0, atol=1e-12)
        assert {"amplitude", "object", "weights", "uncertainty", "probe", "process"} <= set(entry)
    with pytest.raises(InputError, match=r"n\.h5: expected a reconstruction of this package, .*found its NeXus copy"):
        Reconstruction.load(path)
    with pytest.raises(InputError, match=r"n\.h5: expected a scan, found a reconstruction"):
        Scan.load(path)


def test_its_own_viewer_opens_the_nexus_file(tmp_path: Path, scan: Scan) -> None:
    nxdata = pytest.importorskip("silx.io.nxdata", reason="silx is not installed")
    path = result().save(tmp_path / "n.h5", format="nexus", scan=scan)
    with h5py.File(path) as file:
        shown = nxdata.get_default(file)
        assert shown.is_valid and shown.signal_is_2d and shown.axes_dataset_names == ["y", "x"]
        np.testing.assert_array_equal(shown.signal, np.angle(CANVAS))
        assert all(nxdata.NXdata(file[f"entry/{name}"]).is_valid for name in ("object", "amplitude", "probe"))


@pytest.mark.parametrize(
    ("name", "format", "changes", "sentence"),
    [
        ("a.h5", "tiff", {}, r"the format of a reconstruction must be auto, ptychodus or nexus, got 'tiff'"),
        ("a.npz", "nexus", {}, r"a nexus reconstruction must end in \.h5, \.hdf5, \.nxs, \.nx, got '\.npz'"),
        (
            "a.h5",
            "ptychodus",
            {"pixel_size": None},
            r"is in metres, and the scan has no pixel size; load it with pixel",
        ),
        (
            "a.h5",
            "nexus",
            {"pixel_size": None},
            r"is in metres, and the scan has no pixel size; load it with pixel_size",
        ),
        ("a.h5", "ptychodus", {}, r"a product of ptychodus must have probe, found none; save it with scan="),
    ],
)
def test_result_without_required_fields_is_refused(
    tmp_path: Path, name: str, format: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        replace(result(), **changes).save(tmp_path / name, format=format)
    assert list(tmp_path.iterdir()) == []


def test_an_export_keeps_its_pictures_apart_from_those_of_a_result_of_its_name() -> None:
    folders = [pictures_folder(name) for name in ("out/first.h5", "out/first.nxs", "out/first.v2.nxs")]
    assert folders == [Path("out/first"), Path("out/first-nxs"), Path("out/first-v2-nxs")]


# Layers, read as the truth of a scan, as slices of a reconstruction, and to begin with.

LAYERS = np.stack([OBJECT, np.roll(OBJECT, (3, 5), (0, 1)) ** 2, OBJECT.conj()]).astype(np.complex64)
SPACING = (1.5e-6, 4e-6)


def layered(folder: Path, spacing: Any = SPACING, key: str = "object_layer_spacing_m") -> Path:
    path = pair(folder)
    with h5py.File(folder / "product.h5", "a") as file:
        attributes = dict(file["object"].attrs)
        del file["object"]
        file["object"] = LAYERS
        file["object"].attrs.update(attributes)
        if spacing is not None:
            file[key] = np.asarray(spacing, np.float64)
    return path


@pytest.mark.parametrize(
    ("spacing", "key"), [(SPACING, "object_layer_spacing_m"), ((*SPACING, np.inf), "object_layer_distance_m")]
)
def test_layers_are_the_truth_and_the_slices(tmp_path: Path, spacing: Any, key: str) -> None:
    scan = Scan.load(layered(tmp_path, spacing, key))
    product = np.prod(LAYERS, axis=0)
    assert scan.experiment.slice_distances == SPACING and scan.truth is not None
    np.testing.assert_array_equal(scan.truth, product)
    found = Reconstruction.load(tmp_path / "product.h5")
    assert found.slices is not None and found.experiment.slice_distances == SPACING
    np.testing.assert_array_equal(found.slices, LAYERS)
    np.testing.assert_array_equal(found.object, product)
    assert found.origin == (0.0, 0.0) and found.pixel_size == pytest.approx(PIXEL)
    assert found.positions is not None
    started = read_start(tmp_path / "product.h5", scan)
    assert started is not None and started.positions is not None
    np.testing.assert_allclose(started.positions, scan.positions, atol=1e-9)  # in the order of the patterns
    assert not np.allclose(found.positions, scan.positions, atol=1)
    illuminated = started.weights > 0
    assert 0.3 < illuminated.mean() < 1 and illuminated[tuple(np.rint(CORNERS[0] + N / 2).astype(int))]


def test_layers_without_distances_are_thin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, spacing in enumerate((None, (1e-6,), (0.0, 1e-6))):
        folder = tmp_path / str(number)
        folder.mkdir()
        scan = Scan.load(layered(folder, spacing))
        assert scan.experiment.plain and scan.truth is not None
        np.testing.assert_array_equal(scan.truth, np.prod(LAYERS, axis=0))
        assert "the object has 3 layers without distances" in caplog.text and "--slices" in caplog.text
        caplog.clear()
    stated = Scan.load(folder / "diffraction.h5", experiment={"slice_distances": [2e-6, 3e-6]})
    assert stated.experiment.slice_distances == (2e-6, 3e-6)


def test_results_with_slices_are_read_again(tmp_path: Path, scan: Scan) -> None:
    slices = np.stack([CANVAS, np.exp(0.3j * CANVAS.real).astype(np.complex64)])
    weights = np.column_stack([np.linspace(-1, 1, scan.n), np.linspace(2, 1, scan.n) ** 2])
    shapes = np.stack([np.roll(scan.probe[0], shift, 0) for shift in (1, 2)])
    experiment = Experiment(slice_distances=(3e-6,), probe_variations=shapes, variation_coefficients=weights)
    saved = result(
        object=np.prod(slices, axis=0),
        slices=slices,
        probe=scan.probe,
        positions=scan.positions + 0.25,
        experiment=experiment,
    )
    path = saved.save(tmp_path / "p.h5", format="ptychodus", scan=scan)
    found = read_start(path, scan)
    assert found is not None and found.slices is not None and found.positions is not None
    np.testing.assert_array_equal(found.slices, slices)
    assert found.experiment.slice_distances == (3e-6,)
    np.testing.assert_array_equal(found.experiment.probe_variations, shapes)
    np.testing.assert_array_equal(found.experiment.variation_coefficients, weights)
    np.testing.assert_allclose(found.origin, ORIGIN, atol=1e-9)
    np.testing.assert_allclose(found.positions, scan.positions + 0.25, atol=1e-9)
    fewer = read_start(path, scan.subset(np.arange(4)))
    assert fewer is not None and fewer.positions is not None and fewer.experiment.variation_coefficients is not None
    np.testing.assert_allclose(fewer.positions, found.positions[:4])
    np.testing.assert_array_equal(fewer.experiment.variation_coefficients, weights[:4])
    unknown = read_start(path, replace(scan, frame_indexes=INDEXES + 1))
    assert unknown is not None and unknown.positions is None and unknown.experiment.probe_variations is None
    with pytest.raises(InputError, match=r"expected object pixels of .* those of the scan, found .*--from-scratch"):
        read_start(path, replace(scan, pixel_size=2 * PIXEL))


def test_a_refinement_begins_with_a_product(tmp_path: Path) -> None:
    """The pair, refined from the object, and from the slices, of its own product."""
    base = simulate("lines", patterns=16, size=16, photons=1e5, seed=2, pixel_size=2e-8, energy=8000.0)
    base.save(tmp_path / "pair", format="ptychodus")
    settings = ["--refine.iterations", "2", "--refine.split_half", "false", "--orientation", "given"]
    files = [str(tmp_path / "pair/product.h5"), str(tmp_path / "pair"), "--out", str(tmp_path / "r.h5")]
    assert main(["refine", *files, *settings]) == 0
    found = Reconstruction.load(tmp_path / "r.h5")
    assert found.refinement is not None and base.truth is not None
    y, x = (round(-corner) for corner in found.origin)
    covered = found.weights[y:, x:][: base.truth.shape[0], : base.truth.shape[1]] > 0.2 * found.weights.max()
    part = found.object[y:, x:][: base.truth.shape[0], : base.truth.shape[1]][covered]
    truth = base.truth[: covered.shape[0], : covered.shape[1]][covered]
    assert np.abs(np.vdot(part, truth)) > 0.99 * np.linalg.norm(part) * np.linalg.norm(truth)
