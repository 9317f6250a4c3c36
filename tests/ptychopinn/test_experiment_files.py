# SPDX-License-Identifier: BSD-3-Clause
"""The experiment of scans and results in files, and through changes of scans: nothing is lost silently."""

from __future__ import annotations

import json
import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scan_files import COUNTS, INDEXES, PATTERNS, PROBE, SHUFFLED, N, pair

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Decisions, ProbeScale
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.findings.gate import with_bad_pixels
from ptychopinn.inspection.orientation import oriented
from ptychopinn.io.subset import write_subset
from ptychopinn.mending import detector, dose, pixels, positions
from ptychopinn.mending import probe as probe_mends
from ptychopinn.physics.simulate import predict_counts, simulate
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.frames import bin_frames, fit_frames
from ptychopinn.storage.spool import Spool
from ptychopinn.streaming.setup import Setup

_rng = np.random.default_rng(5)
SHAPES = (_rng.normal(size=(3, N, N)) + 1j * _rng.normal(size=(3, N, N))).astype(np.complex64)
COEFFICIENTS = _rng.normal(size=(PATTERNS, 3))
BACKGROUND = _rng.uniform(0, 2, (N, N)).astype(np.float32)
#: Effect, in the words of a warning -> fields of an experiment with it.
EFFECTS: dict[str, dict[str, Any]] = {
    "a path of every exposure": {"exposure": _rng.normal(size=(4, 2))},
    "a source of finite size": {"source_size": (0.25, 1 / 3)},
    "a probe that varies": {"probe_variations": SHAPES, "variation_coefficients": COEFFICIENTS},
    "a background": {"background": BACKGROUND, "background_factors": _rng.uniform(0.5, 2, PATTERNS)},
    "a point spread of the detector": {"point_spread": 0.7},
    "a saturated detector": {"saturation": 60_000.0},
    "a thick sample": {"slice_distances": (1e-6, 2.5e-6), "tilt": (0.01, -0.02)},
}
OTHERS: dict[str, dict[str, Any]] = {
    "paths of single patterns": {"exposure": _rng.normal(size=(PATTERNS, 2, 2))},
    "the near field": {"fresnel_number": -0.0123456789},
    "electrons": {"radiation": "electron"},
}
ALL = {name: value for effect in EFFECTS.values() for name, value in effect.items()}
CASES = {**EFFECTS, **OTHERS, "all": ALL}
FORMATS = {"a.npz": "auto", "a.cxi": "auto", "a.nxs": "auto", "a.ptyd": "auto", "a": "ptychodus"}


def scan_of(experiment: dict[str, Any] | None = None) -> Scan:
    return Scan(
        counts=COUNTS,
        positions=_rng.uniform(0, 20, (PATTERNS, 2)),
        probe=PROBE,
        pixel_size=1e-8,
        energy=8000.0,
        acquisition=Acquisition(2.0, 7.5e-5),
        frame_indexes=INDEXES,
        experiment=Experiment(**(experiment or {})),
    )


def result_of(experiment: dict[str, Any], slices: int = 1) -> Reconstruction:
    images = np.exp(1j * _rng.normal(size=(slices, 30, 34))).astype(np.complex64)
    return Reconstruction(
        object=np.prod(images, axis=0),
        weights=np.ones((30, 34), np.float32),
        origin=(1.0, 2.0),
        probe=PROBE,
        positions=_rng.uniform(0, 14, (PATTERNS, 2)),
        pixel_size=1e-8,
        slices=images if slices > 1 else None,
        experiment=Experiment(**experiment),
    )


def assert_same(found: Experiment, expected: Experiment) -> None:
    """Equal in every field and type."""
    for field in fields(Experiment):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert type(one) is type(other), field.name
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, field.name


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMATS)
def test_scan_files_keep_every_field(tmp_path: Path, name: str, case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Exactly; and other programs' formats name in one warning what only this package reads."""
    scan = scan_of(CASES[case])
    scan.save(tmp_path / name, FORMATS[name])
    written = warnings_of(caplog)
    back = Scan.load(tmp_path / name)
    assert_same(back.experiment, scan.experiment)
    np.testing.assert_array_equal(back.probe, scan.probe)
    assert back.energy == pytest.approx(8000.0, rel=1e-12)
    known = {"a": {"a probe that varies", "the near field"}, "a.ptyd": {"the near field"}}.get(name, set())
    unread = [effect for effect in scan.experiment.effects() if effect not in known]
    if name == "a.npz" or not unread:
        assert written == []
    else:
        (warning,) = written
        assert "only this package reads " + " and ".join(unread) + " from the file" in warning


def test_files_of_plain_experiments_have_no_further_keys(tmp_path: Path) -> None:
    scan_of().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert not [key for key in archive.files if "experiment" in key or key == "opr_weights"]
        assert "experiment" not in str(archive["metadata_json"])
    scan_of().save(tmp_path / "a", "ptychodus")
    with h5py.File(tmp_path / "a" / "product.h5") as file:
        assert file["probe"].shape == (1, *PROBE.shape) and "opr_weights" not in file
        assert file.attrs["far_field"] and set(file["ptychopinn"]) == {"name", "metadata_json"}
    result_of({}).save(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5") as file:
        assert not {"slices", "experiment"} & set(file) and "experiment" not in str(file["metadata"][()])


def test_a_subset_has_the_values_of_its_patterns(tmp_path: Path) -> None:
    experiment = ALL | OTHERS["paths of single patterns"]
    scan = scan_of(experiment)
    scan.save(tmp_path / "a.npz")
    out, record = write_subset(tmp_path / "a.npz", tmp_path / "b.npz", 6)
    chosen = np.array(json.loads(record.read_text())["indices"])
    assert_same(Scan.load(out).experiment, scan.experiment.subset(chosen))


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"experiment_background": np.ones((8, 8))}, r"background must be float32 of shape \(16, 16\)"),
    "number": ({"experiment_background_factors": np.ones(4)}, r"background_factors must be float64 of shape \(13\)"),
    "type": ({"experiment_exposure": np.array(["x"])}, "key 'experiment_exposure': expected real numbers"),
    "values": ({"experiment_exposure": np.full((2, 2), np.nan)}, "key 'experiment_exposure': expected finite"),
    "alone": ({"experiment_probe_variations": SHAPES}, "must have probe_variations and variation_coefficients"),
    "scalar": ({"experiment_scalars": {"point_spread": "wide"}}, "point_spread must be a positive finite number"),
    "pair": ({"experiment_scalars": {"source_size": [1.0]}}, "source_size must be 2 finite numbers"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_values_are_one_sentence(tmp_path: Path, name: str) -> None:
    values, message = DAMAGED[name]
    scan_of().save(tmp_path / "a.npz")
    result_of({}).save(tmp_path / "r.npz")
    for path, key, read in (("a.npz", "metadata_json", Scan.load), ("r.npz", "metadata", Reconstruction.load)):
        with np.load(tmp_path / path) as archive:
            arrays = dict(archive)
        for name, value in values.items():
            if isinstance(value, dict):
                arrays[key] = np.array(json.dumps({**json.loads(str(arrays[key])), name: value}))
            else:
                arrays[name] = value
        np.savez(tmp_path / path, **arrays)
        if read is Scan.load or "scalar" in str(values):
            with pytest.raises(InputError, match=f"{path}: .*{message}") as error:
                read(tmp_path / path)
            assert "\n" not in str(error.value)
        else:
            with pytest.raises(InputError, match=f"{path}: "):
                read(tmp_path / path)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("case", CASES)
def test_result_files_keep_every_field_and_the_slices(tmp_path: Path, suffix: str, case: str) -> None:
    experiment = CASES[case]
    result = result_of(experiment, Experiment(**experiment).slices)
    back = Reconstruction.load(result.save(tmp_path / f"r{suffix}"))
    assert_same(back.experiment, result.experiment)
    assert (back.slices is None) == (result.slices is None)
    if result.slices is not None and back.slices is not None:
        np.testing.assert_array_equal(back.slices, result.slices)
        assert back.cropped().slices is not None


def test_results_for_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = result_of(ALL, 3)
    assert result.slices is not None
    product = result.save(tmp_path / "p.h5", "ptychodus")
    (warning,) = warnings_of(caplog)
    effects = [name for name in EFFECTS if name not in ("a probe that varies", "a thick sample")]
    assert warning.endswith(f"a product of ptychodus has no place for {' and '.join(effects)}: omitted")
    with h5py.File(product) as file:
        np.testing.assert_array_equal(file["object"], result.slices)
        np.testing.assert_array_equal(file["object_layer_spacing_m"], [1e-6, 2.5e-6])
        np.testing.assert_array_equal(file["probe"][0], PROBE)
        np.testing.assert_array_equal(file["probe"][1:, 0], SHAPES)
        np.testing.assert_array_equal(file["opr_weights"], np.column_stack([np.ones(PATTERNS), COEFFICIENTS]))
    caplog.clear()
    with h5py.File(result.save(tmp_path / "r.nxs", "nexus")) as file:
        slices = file["entry/slices"]
        np.testing.assert_array_equal(slices["data"], result.slices)
        np.testing.assert_allclose(slices["z"], [0, 1e-6, 3.5e-6])
        assert [axis.decode() for axis in slices.attrs["axes"]] == ["z", "y", "x"]
        assert file["entry/slices_phase/data"].attrs["units"] == "rad"
        np.testing.assert_array_equal(file["entry/process/experiment/background"], BACKGROUND)
    assert warnings_of(caplog) == []
    written = plot_reconstruction(result, tmp_path / "pictures")
    assert tmp_path / "pictures" / "slices.png" in written


def with_weights(folder: Path, weights: np.ndarray | None, stack: np.ndarray) -> Path:
    path = pair(folder)
    with h5py.File(folder / "product.h5", "a") as file:
        del file["probe"]
        file["probe"] = stack
        if weights is not None:
            file["opr_weights"] = weights[SHUFFLED]  # in the order of the positions in the file
    return path


STACK = np.stack([PROBE, *(np.stack([shape, np.zeros_like(shape)]) for shape in SHAPES)])


def probes_of(scan: Scan) -> np.ndarray:
    """First mode of every pattern, (n, N, N)."""
    assert scan.experiment.variation_coefficients is not None and scan.experiment.probe_variations is not None
    return scan.probe[0] + np.tensordot(scan.experiment.variation_coefficients, scan.experiment.probe_variations, 1)


@pytest.mark.parametrize("constant", [True, False])
def test_a_product_with_weights_is_a_probe_that_varies(tmp_path: Path, constant: bool) -> None:
    """Patterns have other indexes than positions; the scale of the probe is that of its variations."""
    first = np.ones(PATTERNS) if constant else 1 + 0.1 * COEFFICIENTS[:, 0]
    weights = np.column_stack([first, COEFFICIENTS])
    scan = Scan.load(with_weights(tmp_path, weights, STACK))
    scale = scan.decisions.probe_scale
    assert scale is not None and abs(scale.factor - 1) > 0.1
    expected = scale.factor * np.tensordot(weights, STACK[:, 0], 1)
    np.testing.assert_allclose(probes_of(scan), expected, rtol=1e-4, atol=1e-4)
    assert scan.experiment.probe_variations is not None and len(scan.experiment.probe_variations) == 4 - constant
    layout = scan.decisions.probe_layout
    assert layout is not None and layout.value == "varying" and "4 probes along the scan" in layout.reason
    assert "probe_variations" not in scan.metadata
    scan.save(tmp_path / "again", "ptychodus")
    again = Scan.load(tmp_path / "again")
    np.testing.assert_array_equal(probes_of(again), probes_of(scan))
    np.testing.assert_array_equal(again.probe, scan.probe)


def test_probes_along_the_scan_without_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan = Scan.load(with_weights(tmp_path, None, STACK))
    assert scan.experiment.plain and scan.metadata["probe_variations"] == 4
    assert scan.decisions.probe_layout is not None and scan.decisions.probe_layout.value == "first of several"
    assert "no weights of them for each pattern" in caplog.text


def test_weights_of_another_shape_and_a_stated_probe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = np.column_stack([np.ones(PATTERNS), COEFFICIENTS])
    path = with_weights(tmp_path, weights, STACK[:3])
    with pytest.raises(InputError, match=r"key 'opr_weights': expected shape \(13, 3\), .*, found \(13, 4\)"):
        Scan.load(path)
    scan_of(EFFECTS["a probe that varies"]).save(tmp_path / "a.npz")
    stated = Scan.load(tmp_path / "a.npz", probe=PROBE[:1])
    assert stated.experiment.plain and "whose variations along the scan are omitted" in caplog.text


def test_an_npz_with_weights_is_a_probe_that_varies(tmp_path: Path) -> None:
    scan_of().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    weights = np.column_stack([np.ones(PATTERNS), COEFFICIENTS])
    np.savez(tmp_path / "a.npz", **(arrays | {"probeGuess": STACK, "opr_weights": weights}))
    back = Scan.load(tmp_path / "a.npz").experiment
    assert_same(back, Experiment(probe_variations=SHAPES, variation_coefficients=COEFFICIENTS))


def simulated() -> Scan:
    """A scan whose variation is its probe, so that changes of one are those of the other; with a background."""
    scan = simulate("dead_leaves", patterns=25, size=32, photons=1e5, modes=2, seed=3)
    coefficients = np.linspace(-0.2, 0.3, 25)[:, np.newaxis]
    experiment = Experiment(
        exposure=np.array([[0.0, -1.0], [0.5, 1.0]]),
        source_size=(0.2, 0.4),
        probe_variations=scan.probe[:1],
        variation_coefficients=coefficients,
        background=np.random.default_rng(1).uniform(0, 3, (32, 32)).astype(np.float32),
        point_spread=0.8,
        saturation=500.0,
    )
    scaled = Decisions(probe_scale=ProbeScale(1.0, "mean counts", True))
    return replace(scan, experiment=experiment, pixel_size=2e-8, decisions=scaled)


MENDS: dict[str, Any] = {
    "crop": lambda scan: detector.crop(scan, 24),
    "pad": lambda scan: detector.pad(scan, 40),
    "bin": lambda scan: detector.bin_pixels(scan, 2),
    "shift": lambda scan: detector.shift(scan, (3, -2)),
    "scale_probe": probe_mends.scale_probe,
    "centre_probe": lambda scan: probe_mends.centre_probe(
        replace(
            scan,
            probe=np.roll(scan.probe, 4, 1),
            experiment=replace(scan.experiment, probe_variations=np.roll(scan.probe[:1], 4, 1)),
        )
    ),
    "mask": lambda scan: (with_bad_pixels(scan, np.arange(32 * 32).reshape(32, 32) % 7 == 0), None),
}


@pytest.mark.parametrize("name", MENDS)
def test_mends_change_variations_as_the_probe(name: str) -> None:
    scan = simulated()
    mended, _ = MENDS[name](scan)
    assert mended.experiment.probe_variations is not None
    np.testing.assert_allclose(mended.experiment.probe_variations, mended.probe[:1], rtol=1e-6)
    assert mended.experiment.background is not None
    background = scan.experiment.background
    expected = {
        "crop": lambda: fit_frames(background, 24),
        "pad": lambda: fit_frames(background, 40),
        "bin": lambda: bin_frames(background, 2, np.dtype(np.float32)),
        "shift": lambda: np.roll(background, (3, -2), (0, 1)),
    }.get(name, lambda: background)
    np.testing.assert_array_equal(mended.experiment.background, expected())
    ratio = {"crop": 24 / 32, "pad": 40 / 32}.get(name, 1.0)
    assert mended.experiment.exposure is not None and mended.experiment.source_size is not None
    np.testing.assert_allclose(mended.experiment.exposure, ratio * np.array([[0.0, -1.0], [0.5, 1.0]]))
    np.testing.assert_allclose(mended.experiment.source_size, (ratio * 0.2, ratio * 0.4))


def test_patterns_that_are_shifted_back_are_predicted_as_before() -> None:
    scan = simulated()
    scan = replace(scan, experiment=replace(scan.experiment, point_spread=None, exposure=None, source_size=None))
    full = predict_counts(scan)
    again, _ = detector.shift(detector.shift(scan, (2, 1))[0], (-2, -1))
    np.testing.assert_allclose(predict_counts(again), full)
    even, _ = dose.even_dose(replace(scan, experiment=replace(scan.experiment, saturation=None)))
    assert even.experiment.background_factors is not None and even.experiment.background_factors.std() > 0


def test_mends_that_cannot_follow_are_refused() -> None:
    scan = simulated()
    near = replace(scan, experiment=Experiment(fresnel_number=0.1))
    for mend in ("crop", "pad", "bin", "shift"):
        with pytest.raises(InputError, match=f"{mend} must have a scan in the far field"):
            MENDS[mend](near)
    with pytest.raises(InputError, match="even_dose must have a scan without saturation"):
        dose.even_dose(scan)
    factors = replace(scan, experiment=replace(scan.experiment, background_factors=np.ones(25)))
    with pytest.raises(InputError, match="subtract must have a background without factors"):
        pixels.subtract(factors, 2.0)
    less = pixels.subtract(scan, 2.0)[0].experiment
    assert less.background is not None and less.background.max() < 1 and less.saturation == 498.0


def test_the_path_of_an_exposure_follows_the_positions() -> None:
    scan = simulated()
    turned = oriented(scan, "swap_flip_y")
    assert turned.experiment.exposure is not None
    np.testing.assert_allclose(turned.experiment.exposure, [[1.0, 0.0], [-1.0, 0.5]])
    np.testing.assert_allclose(np.diff(turned.positions, axis=0)[:, 1], np.diff(scan.positions, axis=0)[:, 0])
    scaled, _ = positions.scale_positions(scan, 3.0)
    np.testing.assert_allclose(scaled.experiment.exposure, [[0.0, -3.0], [1.5, 3.0]])


def test_the_frames_of_a_live_run_keep_what_belongs_to_all_patterns(tmp_path: Path) -> None:
    scan = scan_of(ALL)
    setup = Setup.like(scan)
    spool = Spool.create(tmp_path / "a.frames", N, setup.facts("a", "px"))
    for name, array in setup.arrays().items():
        spool.save_array(name, array)
    spool.add_frames([(k, COUNTS[k]) for k in range(PATTERNS)])
    spool.add_positions([(k, float(y), float(x)) for k, (y, x) in enumerate(scan.positions)])
    gone = {"probe_variations": None, "variation_coefficients": None, "background_factors": None}
    assert_same(Scan.load(tmp_path / "a.frames").experiment, replace(scan.experiment, **gone))
