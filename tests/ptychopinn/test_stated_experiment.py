# SPDX-License-Identifier: BSD-3-Clause
"""What a caller states about an experiment: gain and offset, fields of it, fly scans; in Python and as options."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from jsonargparse import Namespace
from scan_files import COUNTS, DETECTOR, DISTANCE, ENERGY, PATTERNS, WORLD, N

from ptychopinn.cli import main
from ptychopinn.cli.options import add_scan_options
from ptychopinn.cli.parser import Parser
from ptychopinn.cli.recorded import record_scans, recorded_scan
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.experiments import fly_path, stated_experiment
from ptychopinn.io.options import ReadOptions, option_words
from ptychopinn.physics.simulate import predict_counts, scan_positions, simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns

STATED = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": DETECTOR}
GAIN, NOISE = 7.5, np.random.default_rng(2).integers(-3, 4, COUNTS.shape)
OFFSET = 100 + np.random.default_rng(1).uniform(0, 40, (N, N)).round()


def plain(folder: Path, patterns: np.ndarray, suffix: str = ".npy") -> Path:
    """Write patterns with positions and a probe beside them."""
    np.savetxt(folder / "raw_positions.csv", WORLD, delimiter=",")
    y, x = np.indices((N, N)) - N // 2
    np.save(folder / "raw_probe.npy", np.exp(-(y**2 + (x - 1) ** 2) / 12 + 0.2j * y))
    if suffix == ".npy":
        np.save(folder / "raw_patterns.npy", patterns)
    else:
        with h5py.File(folder / f"raw_patterns{suffix}", "w") as file:
            file["frames"] = patterns
    return folder / f"raw_patterns{suffix}"


# Gain and offset.


@pytest.mark.parametrize("memory", ["load", "stored"])
@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_counts_of_gain_and_offset(tmp_path: Path, suffix: str, memory: str) -> None:
    values = (COUNTS * GAIN + OFFSET).astype(np.uint16) if suffix == ".npy" else COUNTS * GAIN + OFFSET
    np.save(tmp_path / "dark.npy", OFFSET)
    scan = Scan.load(plain(tmp_path, values, suffix), memory=memory, gain=GAIN, offset=tmp_path / "dark.npy", **STATED)
    assert isinstance(scan.counts, StoredPatterns) == (memory == "stored")
    np.testing.assert_allclose(scan.counts[:], COUNTS, atol=0.14 if suffix == ".npy" else 1e-4)
    found = scan.decisions.calibration
    assert found is not None and found.value == f"gain 7.5, offset of {OFFSET.min():g} to {OFFSET.max():g}"
    assert scan.decisions.measurement is not None and "gain= and offset=" in scan.decisions.measurement.reason
    cropped = Scan.load(
        tmp_path / f"raw_patterns{suffix}", memory=memory, gain=GAIN, offset=OFFSET, crop=8, bin=1, **STATED
    )
    np.testing.assert_allclose(cropped.counts[:], scan.counts[:][:, 4:12, 4:12])


@pytest.mark.parametrize("memory", ["load", "stored"])
def test_integers_stay_integers_and_values_below_the_offset_are_counted(tmp_path: Path, memory: str) -> None:
    gain = np.where(np.arange(N) < 5, 2.0, 4.0) * np.ones((N, 1))
    values = (COUNTS * gain + 50).astype(np.int32)
    values[3, :4, 7] = 20
    path = plain(tmp_path, values)
    scan = Scan.load(path, memory=memory, gain=gain, offset=50, **STATED)
    assert scan.counts.dtype.kind == "u"
    expected = COUNTS.copy()
    expected[3, :4, 7] = 0
    np.testing.assert_array_equal(scan.counts[:], expected)
    assert scan.decisions.calibration is not None
    assert f"; 4 of {PATTERNS * N * N} values of good pixels are below" in scan.decisions.calibration.reason
    scan.save(tmp_path / "a.npz")
    assert Scan.load(tmp_path / "a.npz").decisions.calibration == scan.decisions.calibration


def test_dead_pixels_stay_dead(tmp_path: Path) -> None:
    values = (COUNTS * 2 + 9).astype(np.uint32)
    values[:, 3, 4] = 2**32 - 1
    path = plain(tmp_path, values)
    for memory in ("load", "stored"):
        with pytest.raises(InputError, match=r"NaN or infinite|finite values"):
            Scan.load(path, memory=memory, gain=2.0, offset=9.0, **STATED)
        scan = Scan.load(path, memory=memory, gain=2.0, offset=9.0, mask_invalid=True, **STATED)
        assert scan.bad_pixels is not None and np.argwhere(scan.bad_pixels).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gain": 0.0}, r"'gain': expected values per count above 0, found 0; state others with gain= \(--gain\)"),
        ({"gain": np.ones((3, N))}, r"'gain': expected one number, or 16 x 16 pixels .* found shape \(3, 16\)"),
        ({"offset": "none.npy"}, r"none.npy"),
        ({"offset": np.full((N, N), np.nan)}, r"offset: expected finite values, .* --offset"),
        ({"gain": 2.0, "measurement": "amplitude"}, r"expected values of a detector .* found amplitudes; omit --gain"),
    ],
)
def test_gain_and_offset_are_checked(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Scan.load(plain(tmp_path, COUNTS), **STATED, **options)


# Fields of the experiment.


def test_experiment_of_the_caller_replaces_fields_of_the_file(tmp_path: Path) -> None:
    own = Experiment(saturation=9e3, point_spread=0.4)
    simulate("lines", patterns=9, size=16, experiment=own).save(tmp_path / "a.npz")
    scan = Scan.load(tmp_path / "a.npz", experiment=Experiment(point_spread=0.7, tilt=(0.0, 0.01)))
    assert scan.experiment.scalars() == {"saturation": 9e3, "point_spread": 0.7, "tilt": [0.0, 0.01]}
    path = np.random.default_rng(0).normal(size=(9, 3, 2))
    np.save(tmp_path / "path.npy", path)
    named = {"exposure": str(tmp_path / "path.npy"), "source_size": 0.5, "slice_distances": [1e-6, 2e-6]}
    read = Scan.load(tmp_path / "a.npz", experiment=named).experiment
    np.testing.assert_array_equal(read.exposure, path)
    assert (read.source_size, read.slice_distances, read.saturation) == ((0.5, 0.5), (1e-6, 2e-6), 9e3)
    with pytest.raises(InputError, match=r"a\.npz: Scan\.experiment\.exposure must be float64 of shape \(9, K, 2\)"):
        Scan.load(tmp_path / "a.npz", experiment=Experiment(exposure=path[:4]))


def test_path_of_an_exposure_in_words() -> None:
    np.testing.assert_allclose(stated_experiment({"exposure": "6/3"}).exposure, [[0, -2], [0, 0], [0, 2]])
    np.testing.assert_allclose(stated_experiment({"exposure": "4,-2/2"}).exposure, [[-1, 0.5], [1, -0.5]])
    with pytest.raises(InputError, match="LENGTH/POINTS or Y,X/POINTS"):
        stated_experiment({"exposure": "x/3"})
    with pytest.raises(InputError, match=r"experiment must have fields of .*, got saturated"):
        stated_experiment({"saturated": 3})


def test_background_is_an_array_of_a_file(tmp_path: Path) -> None:
    image = np.random.default_rng(1).uniform(0, 2, (N, N))
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["a/dark"], file["a/flat"] = image, image + 1
    path = plain(tmp_path, COUNTS)
    scan = Scan.load(path, experiment={"background": f"{tmp_path / 'dark.h5'}:a/dark"}, **STATED)
    np.testing.assert_allclose(scan.experiment.background, image, rtol=1e-6)
    with pytest.raises(InputError, match=r"expected one array, found a/dark, a/flat; state FILE:PATH"):
        Scan.load(path, experiment={"background": str(tmp_path / "dark.h5")}, **STATED)


# Fly scans.


@pytest.mark.parametrize("kind", ["raster", "snake", "diagonal"])
def test_fly_path_leads_to_the_next_position_of_the_row(kind: str) -> None:
    unit = scan_positions("raster", 20, (3.0, 4.0))[:20].reshape(4, 5, 2)
    if kind == "snake":
        unit[1::2] = unit[1::2, ::-1]
    if kind == "diagonal":
        unit = unit @ np.array([[0.8, -0.6], [0.6, 0.8]])
    path = fly_path(unit.reshape(-1, 2) + np.random.default_rng(0).normal(0, 0.1, (20, 2)), 4)
    steps = np.diff(unit, axis=1)
    steps = np.concatenate([steps, steps[:, -1:]], axis=1).reshape(-1, 1, 2)
    np.testing.assert_allclose(path, steps * ((np.arange(4) + 0.5) / 4)[:, None], atol=0.5)
    np.testing.assert_allclose(np.diff(path, axis=1), np.broadcast_to(steps / 4, (20, 3, 2)), atol=0.15)


def test_fly_path_needs_rows() -> None:
    for positions in (np.random.default_rng(0).uniform(0, 99, (40, 2)), np.zeros((5, 2)), np.zeros((1, 2))):
        with pytest.raises(InputError, match=r"positions in rows of three or more.*state the path with exposure="):
            fly_path(positions, 3)


def test_counts_of_a_fly_scan_are_explained(tmp_path: Path) -> None:
    plain_scan = simulate("lines", patterns=25, size=32, step=(4, 6), jitter=0, seed=3, noise=False)
    exposure = fly_path(plain_scan.positions, 5)
    flown = simulate(
        "lines",
        patterns=25,
        size=32,
        step=(4, 6),
        jitter=0,
        seed=3,
        noise=False,
        experiment=Experiment(exposure=exposure),
    )
    replace(flown, experiment=Experiment()).save(tmp_path / "a.npz")
    scan = Scan.load(tmp_path / "a.npz", fly_scan=5)
    total = scan.counts.sum()
    assert np.abs(predict_counts(scan) - scan.counts).sum() < 1e-3 * total
    still = replace(scan, experiment=Experiment())
    back = replace(scan, experiment=Experiment(exposure=-exposure))
    for wrong in (still, back):
        assert np.abs(predict_counts(wrong) - scan.counts).sum() > 0.05 * total
    with pytest.raises(InputError, match=r"fly_scan= .* got exposure="):
        Scan.load(tmp_path / "a.npz", fly_scan=5, experiment=Experiment(exposure=exposure))


# The command line.


def test_options_of_the_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", OFFSET)
    np.save(tmp_path / "background.npy", np.full((N, N), 0.25))
    path = plain(tmp_path, COUNTS * GAIN + OFFSET)
    lengths = [f"--{name.replace('_', '-')}={value!r}" for name, value in STATED.items()]
    words = [f"--gain={GAIN}", f"--offset={tmp_path / 'dark.npy'}", f"--background={tmp_path / 'background.npy'}"]
    words += ["--saturation=6e4", "--point-spread=0.6", "--source-size=0.4,0.2", "--exposure=3/2"]
    words += ["--slices=1e-6,3e-6", "--tilt=0,0.02"]
    assert main(["convert", str(path), str(tmp_path / "a.npz"), *lengths, *words]) == 0
    found = Scan.load(tmp_path / "a.npz").experiment
    np.testing.assert_allclose(found.background, 0.25)
    np.testing.assert_allclose(found.exposure, [[0, -0.75], [0, 0.75]])
    assert (found.saturation, found.point_spread, found.source_size) == (6e4, 0.6, (0.4, 0.2))
    assert (found.slice_distances, found.tilt) == ((1e-6, 3e-6), (0.0, 0.02))
    near = ["--near-field", "--source-distance=0.05", "--radiation=photon"]
    assert main(["convert", str(path), str(tmp_path / "b.npz"), *lengths, *near]) == 0
    magnification = (0.05 + DISTANCE) / 0.05
    assert Scan.load(tmp_path / "b.npz").pixel_size == pytest.approx(DETECTOR / magnification)


def test_wrong_options_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plain(tmp_path, COUNTS)
    for words, sentence in (
        (["--source-size", "1,2,3"], "--source-size must be Y,X, got '1,2,3'"),
        (["--saturation", "much"], "--saturation must be COUNTS, got 'much'"),
        (["--fly-scan", "1"], "fly_scan must be a number of points of 2 or more, got 1"),
        (["--source-distance", "1"], "needs near_field= (--near-field) as well"),
    ):
        assert main(["convert", str(path), str(tmp_path / "a.npz"), *words]) == 2
        assert sentence in capsys.readouterr().err


def test_a_run_records_what_was_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate("lines", patterns=9, size=16).save(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.ones((16, 16)))
    monkeypatch.chdir(tmp_path)
    parser = Parser()
    add_scan_options(parser)
    words = ["--background=b.npy", "--exposure=3/2", "--source-size=0.4,0.2", "--tilt=0,0.1", "--radiation=electron"]
    others = {"scan_files": ["a.npz"], "orientation": None, "drop_outliers": False, "mask_faulty": False}
    record_scans(tmp_path, Namespace(**vars(parser.parse_args(words)), **others))
    monkeypatch.chdir("/")
    path, stated, _ = recorded_scan(tmp_path)
    found = Scan.load(path, **stated).experiment
    assert (found.source_size, found.tilt, found.radiation) == ((0.4, 0.2), (0.0, 0.1), "electron")
    assert found.background is not None and found.exposure is not None and len(found.exposure) == 2


def test_words_of_options() -> None:
    words = option_words({"gain": 2.0, "experiment": {"tilt": [0.0, 0.1]}, "crop": None, "bin": 1, "near_field": False})
    assert words == ["--gain", "2.0", "--tilt", "0.0,0.1"]
    assert option_words({"experiment": Experiment(saturation=5.0)}) == ["--saturation", "5.0"]
    with pytest.raises(InputError, match="experiment must be an Experiment or a mapping of its fields, got str"):
        ReadOptions(experiment="fly")  # type: ignore[arg-type]


def test_subset_records_what_was_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    simulate("lines", patterns=25, size=16).save(tmp_path / "a.npz")
    with caplog.at_level(logging.WARNING):
        assert main(["subset", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--n=9", "--saturation=7e4"]) == 0
    record = json.loads((tmp_path / "b.json").read_text())
    assert (
        record["command"].endswith("--saturation 70000.0")
        and Scan.load(tmp_path / "b.npz").experiment.saturation == 7e4
    )
