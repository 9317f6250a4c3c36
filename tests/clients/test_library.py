# SPDX-License-Identifier: BSD-3-Clause
"""Our library in ptychodus, nothing started: its settings, the scan of an input and the product of a result."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ptychodus.api", reason="ptychodus is not installed: make ptychodus")
pytest.importorskip("ptychopinn_ptychodus", reason="not installed: pip install --no-deps ./integrations/ptychodus")

import numpy as np
from ptychodus.api.io import load_diffraction_data, load_product
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.reconstruct import ReconstructInput, prepare_reconstruct_input
from ptychodus.api.settings import SettingsRegistry
from staged import CASES, write

from ptychopinn.config import Config, ExecutionConfig, RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.world import world_positions
from ptychopinn_ptychodus.library import PtychoPINNLibrary
from ptychopinn_ptychodus.plugin import add_library
from ptychopinn_ptychodus.scans import product_of, scan_of, start_of

CASE = CASES[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write(CASE, folder, "ptychopinn_network")
    return folder / "train"


@pytest.fixture
def given(folder: Path) -> ReconstructInput:
    """With bad pixels, which the files have none of."""
    data, product = load_diffraction_data(folder / "diffraction.h5"), load_product(folder / "product.h5")
    everything = prepare_reconstruct_input(data, product)
    bad = np.zeros((CASE.size, CASE.size), np.bool_)
    bad[3, 5:9] = True
    return replace(everything, bad_pixels=bad)


def changed(given: ReconstructInput, **parts: Any) -> ReconstructInput:
    return replace(given, product=replace(given.product, **parts))


def result_of(scan: Scan, shape: tuple[int, int], origin: tuple[float, float], **more: Any) -> Reconstruction:
    image = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape) + 1
    return Reconstruction(image.astype(np.complex64), np.ones(shape, np.float32), origin, **more)


def test_settings_are_the_configuration_and_go_through_a_file(tmp_path: Path) -> None:
    registry = SettingsRegistry()
    library = PtychoPINNLibrary(registry)
    network, refinement = library.settings["Network"], library.settings["Refinement"]
    assert Config.from_dict(network.values()) == Config()
    assert RefineConfig(**refinement.sections["refine"].values()) == RefineConfig(split_half=False)
    written = {
        "PtychoPINNNetworkData": {"pool": "20", "x_bounds": "[1e-1, 0.9]", "max_distance": "1e1"},
        "PtychoPINNNetworkModel": {"options": "{steps: 4}", "learn_positions": "True"},
        "PtychoPINNNetworkTraining": {"epochs": "3", "minutes": "none", "loss": "amplitude"},
        "PtychoPINNNetworkExecution": {"devices": "auto"},
        "PtychoPINNRefinement": {"find_defocus": "true", "modes": "2"},
        "PtychoPINNRefinementExecution": {"accelerator": "gpu", "devices": "1,"},
    }
    path = tmp_path / "settings.ini"
    path.write_text(
        "".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in part.items()) for name, part in written.items())
    )
    registry.open_settings(path)
    registry.save_settings(tmp_path / "again.ini")
    again = SettingsRegistry()
    second = PtychoPINNLibrary(again)
    again.open_settings(tmp_path / "again.ini")
    for settings in (network, second.settings["Network"]):
        config = Config.from_dict(settings.values())
        assert (config.data.pool, config.data.x_bounds, config.data.max_distance) == (20, (0.1, 0.9), 10.0)
        assert (config.model.options, config.model.learn_positions) == ({"steps": 4}, True)
        assert (config.training.epochs, config.training.minutes, config.training.loss) == (3, None, "amplitude")
    refine = RefineConfig(**second.settings["Refinement"].sections["refine"].values())
    assert (refine.find_defocus, refine.modes) == (True, 2)
    execution = ExecutionConfig(**second.settings["Refinement"].sections["execution"].values())
    assert (execution.accelerator, execution.devices) == ("gpu", "1,")


def test_no_field_of_the_configuration_is_forgotten() -> None:
    library = PtychoPINNLibrary(SettingsRegistry())
    without = {"strategy", "progress", "checkpoints", "crop", "uncertainty", "replicas"}
    for name, section in library.settings["Network"].sections.items():
        fields = {entry.name for entry in dataclasses.fields(getattr(Config(), name))}
        assert fields - set(section.parameters) <= without
        assert all(section.field_docs[field] for field in section.parameters)


def test_the_scan_of_an_input_has_all_that_ptychodus_knows(given: ReconstructInput, folder: Path) -> None:
    scan, read = scan_of(given), Scan.load(folder, "ptychodus")
    assert (scan.n, scan.modes, scan.patch_size) == (100, 2, CASE.size)
    np.testing.assert_array_equal(scan.counts, given.diffraction_patterns)
    np.testing.assert_array_equal(scan.bad_pixels, given.bad_pixels)
    np.testing.assert_allclose(scan.positions, read.positions, atol=1e-9)
    positions = given.product.probe_positions
    world = np.column_stack([positions.get_coordinates_y_m(), positions.get_coordinates_x_m()])
    np.testing.assert_allclose(world_positions(scan), world, atol=1e-15)
    assert scan.pixel_size == pytest.approx(read.pixel_size) and scan.energy == read.energy
    ratio = scan.probe / read.probe
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-4)
    assert scan.truth is None and start_of(scan) is None  # all ones


def test_a_varied_object_is_a_truth_and_a_start(given: ReconstructInput) -> None:
    image = given.product.object_
    varied = np.exp(1j * np.random.default_rng(0).normal(size=image.get_array().shape)).astype(np.complex64)
    made = Object(varied, image.get_pixel_geometry(), image.get_center())
    scan = scan_of(changed(given, object_=made))
    start = start_of(scan)
    assert start is not None and start.origin == (0.0, 0.0)
    ratio = start.object / varied[0]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_a_result_comes_back_on_the_object_that_was_given(given: ReconstructInput) -> None:
    scan, asked = scan_of(given), given.product.object_.get_geometry()
    moved = scan.positions + np.random.default_rng(1).normal(size=scan.positions.shape)
    result = result_of(scan, (150, 60), (-2.0, 7.0), probe=2 * scan.probe, positions=moved)
    product = product_of(result, given)
    assert product.object_.get_geometry() == asked
    image = product.object_.get_array()
    assert image.shape == (1, asked.height_px, asked.width_px)
    np.testing.assert_array_equal(image[0, :, 7:67], result.object[2 : 2 + asked.height_px])
    assert not image[0, :, :7].any() and not image[0, :, 67:].any()
    np.testing.assert_array_equal(product.probes.get_array()[0], 2 * scan.probe)
    again = scan_of(replace(given, product=replace(given.product, probe_positions=product.probe_positions)))
    np.testing.assert_allclose(again.positions, moved, atol=1e-6)
    assert list(product.probe_positions.get_indexes()) == list(given.product.probe_positions.get_indexes())
    unmoved = product_of(result_of(scan, (9, 9), (0.0, 0.0), positions=scan.positions), given)
    assert unmoved.probe_positions is given.product.probe_positions
    assert pickle.loads(pickle.dumps(product)).object_.get_geometry() == asked


def test_a_start_explains_the_patterns_whatever_the_power_of_the_probe(given: ReconstructInput) -> None:
    """A probe three times as strong with an object a third as strong is the same input."""
    image, probes = given.product.object_, given.product.probes
    varied = np.exp(1j * np.random.default_rng(0).normal(size=image.get_array().shape))
    starts = []
    for factor in (1.0, 3.0):
        weaker = Object(varied / factor, image.get_pixel_geometry(), image.get_center())
        stronger = ProbeSequence(probes.get_array() * factor, None, probes.get_pixel_geometry())
        starts.append(start_of(scan_of(changed(given, object_=weaker, probes=stronger))))
    one, three = starts
    assert one is not None and three is not None
    np.testing.assert_allclose(three.object, one.object, rtol=1e-5)
    np.testing.assert_allclose(three.probe, one.probe, rtol=1e-5)


def test_what_is_lost_of_an_input_is_in_the_log(given: ReconstructInput, caplog: pytest.LogCaptureFixture) -> None:
    image = given.product.object_
    layers = Object(np.repeat(image.get_array(), 2, 0), image.get_pixel_geometry(), image.get_center(), [1e-6])
    scan_of(changed(given, object_=layers))
    assert "the object has 2 layers: the result will have one" in caplog.text
    assert "beyond the object" not in caplog.text
    small = Object(image.get_array()[:, 20:-20], image.get_pixel_geometry(), image.get_center())
    scan_of(changed(given, object_=small))
    assert "of 100 patches reach beyond the object" in caplog.text


def test_a_result_that_lies_elsewhere_is_an_empty_object(given: ReconstructInput) -> None:
    scan = scan_of(given)
    for origin in ((-500.0, 0.0), (0.0, 900.0)):
        assert not product_of(result_of(scan, (9, 9), origin), given).object_.get_array().any()


def test_what_cannot_be_reconstructed_is_one_sentence(given: ReconstructInput) -> None:
    product, image = given.product, given.product.object_
    near = changed(given, metadata=replace(product.metadata, far_field=False))
    flat = replace(image.get_pixel_geometry(), width_m=2 * image.get_pixel_geometry().width_m)
    for wrong, sentence in (
        (near, "expected a far-field experiment, found a near-field one"),
        (changed(given, object_=Object(image.get_array(), flat, image.get_center())), "expected square object pixels"),
        (changed(given, object_=Object(image.get_array(), None, None)), "expected an object with a pixel size"),
        (changed(given, object_=Object(None, None, None)), "expected an object, whose pixels"),
        (
            changed(given, object_=Object(image.get_array(), image.get_pixel_geometry(), ObjectCenter(1e-3, 0.0))),
            "expected positions on the object, found all patches outside of it",
        ),
        (changed(given, probes=ProbeSequence(None, None, None)), "expected a product with a probe, found none"),
        (replace(given, bad_pixels=np.ones_like(given.bad_pixels)), "key 'bad_pixels': expected at least one good"),
        (replace(given, diffraction_patterns=given.diffraction_patterns[:, :, :-2]), "key 'patterns': expected square"),
        (replace(given, diffraction_patterns=given.diffraction_patterns[:-3]), "key 'patterns': expected 100 patterns"),
    ):
        with pytest.raises(InputError, match=sentence):
            scan_of(wrong)


def test_a_probe_that_varies_is_taken_at_its_first(given: ReconstructInput, caplog: pytest.LogCaptureFixture) -> None:
    probes = given.product.probes
    both = np.concatenate([probes.get_array(), 0.1 * probes.get_array()])
    weights = np.ones((scan_of(given).n, 2))
    varied = changed(given, probes=ProbeSequence(both, weights, probes.get_pixel_geometry()))
    np.testing.assert_allclose(scan_of(varied).probe, scan_of(given).probe, rtol=1e-6)
    assert "varies along the scan: its first of 2 is taken" in caplog.text


def test_exported_training_data_are_the_scan(given: ReconstructInput, tmp_path: Path) -> None:
    (network, _) = PtychoPINNLibrary(SettingsRegistry())
    network.export_training_data(tmp_path / "scan", given)
    scan, read = scan_of(given), Scan.load(tmp_path / "scan.npz")
    np.testing.assert_array_equal(read.counts, scan.counts)
    np.testing.assert_array_equal(read.bad_pixels, scan.bad_pixels)
    np.testing.assert_allclose(read.positions, scan.positions)
    assert read.pixel_size == scan.pixel_size


def test_ptychodus_does_not_load_torch_for_us() -> None:
    code = (
        "import sys\nfrom ptychodus.model import ModelCore\n"
        "with ModelCore() as model:\n"
        "    names = list(model.processing_core.processing_api.available_reconstructors())\n"
        "    print('ptychopinn_network' in names, {'torch', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "True set()" in done.stdout


def test_two_models_in_one_process_list_it_once_each() -> None:
    from ptychodus.model import ModelCore

    for _ in range(2):
        with ModelCore() as model:
            names = list(model.processing_core.processing_api.available_reconstructors())
            assert names.count("ptychopinn_network") == names.count("ptychopinn_refinement") == 1


@pytest.mark.parametrize("lacks", ["settings_registry", "algorithm_libraries"])
def test_another_way_to_make_the_list_is_left_alone(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ptychodus.model.core as core

    names = {"settings_registry", "algorithm_libraries"} - {lacks}
    made = type("ProcessingCore", (), {})
    made.__init__ = eval(f"lambda self, {', '.join(names)}: None")  # type: ignore[misc]
    monkeypatch.setattr(core, "ProcessingCore", made)
    with pytest.raises(AttributeError, match=f"ProcessingCore is made without {lacks}"):
        add_library()
    assert core.ProcessingCore is made


def test_a_list_with_more_arguments_gets_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import ptychodus.model.core as core

    class ProcessingCore:
        def __init__(self, new: int, settings_registry: SettingsRegistry, *, algorithm_libraries: list[Any]) -> None:
            self.algorithm_parameter, self.names = SettingsRegistry(), [library.name for library in algorithm_libraries]

    monkeypatch.setattr(core, "ProcessingCore", ProcessingCore)
    add_library()
    made = core.ProcessingCore(1, SettingsRegistry(), algorithm_libraries=[])
    assert made.names == ["PtychoPINN"]  # type: ignore[attr-defined]
