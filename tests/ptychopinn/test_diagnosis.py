# SPDX-License-Identifier: BSD-3-Clause
"""The diagnosis of a result: noise without a model, rules from experiments to causes, text, files and the command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ptychopinn import InputError, Reconstruction, RefineConfig, Scan, diagnose, refine, simulate
from ptychopinn.cli import main
from ptychopinn.cli.recorded import recorded_scan
from ptychopinn.diagnosis import experiments
from ptychopinn.diagnosis.causes import CAUSES, rank_causes
from ptychopinn.diagnosis.experiments import Comparison, Experiments, Moves, are_photons, faulty_pixels, noise_level
from ptychopinn.diagnosis.result import Diagnosis
from ptychopinn.diagnosis.trials import Floors, fit, losses, split
from ptychopinn.findings.gate import Checked, require_sound
from ptychopinn.inspection.orientation import ORIENTATIONS, OrientationReport
from ptychopinn.inspection.trials import select_sample


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=33, size=32, step=4, photons=2e4, seed=5)


@pytest.fixture(scope="module")
def result(scan: Scan) -> Reconstruction:
    return refined(scan)


@pytest.fixture(scope="module")
def found(scan: Scan, result: Reconstruction) -> Diagnosis:
    advanced: list[int] = []

    @contextmanager
    def bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        assert (label, total, unit) == ("diagnose", experiments._TRIALS, "trials")
        yield advanced.append

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiments, "progress", bar)
        report = diagnose(result, scan)
    assert sum(advanced) == experiments._TRIALS
    return report


def refined(scan: Scan, **options: Any) -> Reconstruction:
    return refine(scan, config=RefineConfig(iterations=25, split_half=False, **options), accept="all")


def test_sound_result_has_no_cause_and_is_at_the_floor(found: Diagnosis) -> None:
    assert found.cause == "none" and 0.7 < found.ratio < 1.2
    assert found.residuals.ratios.shape == (33,) and found.residuals.detector.shape == (32, 32)
    assert np.abs(found.residuals.detector).mean() < 1.5
    assert 0.9 < found.experiments.noise < 1.1


def test_wrong_positions_are_named_with_their_size(scan: Scan) -> None:
    moved = dataclasses.replace(scan, positions=scan.positions + np.random.default_rng(1).normal(size=(33, 2)))
    found = diagnose(refined(moved), moved)
    assert found.cause == "position_errors" and found.ratio > 1.5
    assert found.experiments.moves.rms == pytest.approx(1.0, abs=0.35)


def test_bad_pixels_are_ignored_in_all_figures(scan: Scan) -> None:
    mask = np.zeros((32, 32), np.bool_)
    mask[10, 3:6] = True
    counts = scan.counts.copy()
    counts[:, mask] = 60_000
    masked = dataclasses.replace(scan, counts=counts, bad_pixels=mask)
    found = diagnose(refined(masked), masked)
    assert found.cause == "none" and found.ratio < 1.2
    assert np.isnan(found.residuals.detector[mask]).all() and np.isfinite(found.residuals.detector[~mask]).all()


def test_few_patterns_are_refused(scan: Scan, result: Reconstruction) -> None:
    with pytest.raises(InputError, match="expected 16 patterns or more, found 5"):
        diagnose(result, scan.subset(range(5)))


def test_text_and_json_name_cause_evidence_and_advice(found: Diagnosis) -> None:
    text, values = str(found), found.to_dict()
    assert f"to within {found.ratio:.2f} times shot noise" in text
    assert "Most likely: no fault was found." in text and "what to do:" in text
    assert json.loads(json.dumps(values, allow_nan=False))["cause"] == "none"
    assert len(values["patterns"]["ratios"]) == 33 and values["experiments"]["patterns"] == 33


def test_command_writes_picture_and_report(
    scan: Scan, result: Reconstruction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan.save(tmp_path / "scan.npz")
    path = result.save(tmp_path / "result.h5")
    report = tmp_path / "found.json"
    assert main(["diagnose", str(path), str(tmp_path / "scan.npz"), "--json", str(report)]) == 0
    assert "Most likely:" in capsys.readouterr().out
    assert json.loads(report.read_text())["cause"] == "none"
    assert (tmp_path / "result" / "diagnosis.png").stat().st_size > 10_000
    assert main(["diagnose", str(path), str(tmp_path / "scan.npz"), "--json", str(report)]) == 2
    assert "expected a new file" in capsys.readouterr().err


def test_run_records_its_scan_for_the_command(
    scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scan.save("scan.npz")
    options = ["--epochs", "1", "--orientation", "given", "--execution.picture_every", "null"]
    assert main(["train", "scan.npz", "--out", "run", *options]) == 0
    path, stated, others = recorded_scan(tmp_path / "run")
    assert path == str(tmp_path / "scan.npz") and stated["format"] == "auto" and others["orientation"] == "given"
    capsys.readouterr()
    assert main(["diagnose", "run"]) == 0
    assert "1 epochs" in capsys.readouterr().out and (tmp_path / "run" / "diagnosis.png").exists()
    (tmp_path / "scan.npz").unlink()
    assert main(["diagnose", "run"]) == 2
    assert "is no longer there: name it" in capsys.readouterr().err


@pytest.mark.parametrize("gain", [0.2, 1.0, 7.0])
def test_noise_level_is_the_gain_of_the_counts(gain: float) -> None:
    counts = gain * simulate("photos", patterns=36, size=32, photons=1e5, seed=2).counts.astype(np.float32)
    level = noise_level(torch.from_numpy(np.fft.ifftshift(counts, axes=(1, 2)).copy()), None)
    assert level == pytest.approx(gain, rel=0.15)


def test_silent_pixels_beside_faulty_ones_are_masked_as_well(scan: Scan) -> None:
    counts = scan.counts.copy()
    counts[:, :, 15:18] = 0
    checked = require_sound(dataclasses.replace(scan, counts=counts), "all")
    mask = faulty_pixels(checked)
    assert 0 < checked.patterns.suspects.sum() < 96 <= mask.sum() and mask[:, 15:18].all()


NO_CHANGE = Comparison(0.95, 0.94, 1.0)
SOUND = Experiments(
    patterns=100, result=1.05, probe=Comparison(1.0, 0.95, 10.0), given_probe=1.0, reference=0.95, defocus=NO_CHANGE,
    defocus_phase=0.0, positions=NO_CHANGE, moves=Moves(0.02, 1.0, 0.1, 1.0), intensities=NO_CHANGE, modes=NO_CHANGE,
    scaling=Comparison(1.0, 1.0, 0.0), scale=1.0, background=Comparison(1.0, 1.2, -30.0), background_fraction=0.09,
    pixels=None, faulty=0, orientation=None, noise=1.0, uniform=8.0,
)  # fmt: skip
MOVED = Comparison(4.0, 1.0, 20.0)
POOR = {"reference": 4.0, "result": 4.0} | dict.fromkeys(
    ("positions", "intensities", "defocus", "scaling", "modes"), Comparison(4.0, 3.9, 1.0)
)  # fmt: skip
VARIES = {"fly_scan": Comparison(4.0, 3.5, 5.1), "blur": Comparison(4.0, 2.5, 9.0), "probe_varies": MOVED}
FLIES = {"fly_scan": MOVED, "blur": Comparison(4.0, 1.4, 20.0), "probe_varies": Comparison(4.0, 3.0, 6.0)}


def report(best: str, confidence: float) -> OrientationReport:
    scores = dict.fromkeys(ORIENTATIONS, 4.0) | {best: 1.0}
    return OrientationReport(best, best == "given", scores, confidence, None, (0.0, 0.0), 100, "")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "none"),
        ({"result": 2.5}, "none"),
        ({"result": 9.0}, "training"),
        ({"orientation": report("given", 30.0)}, "none"),
        ({"orientation": report("swap", 2.0)}, "none"),
        ({"orientation": report("swap", 12.0), "reference": 4.0, "modes": MOVED}, "orientation"),
        ({"noise": 0.2, "reference": 0.25}, "gain"),
        ({"noise": 6.0, "reference": 5.0, "positions": Comparison(5.0, 4.9, 3.0)} | dict.fromkeys(
            ("modes", "intensities"), Comparison(5.0, 4.9, 3.0)), "gain"),
        ({"noise": 6.0}, "none"),  # a good fit excludes it
        ({"pixels": Comparison(5.0, 1.0, 40.0), "faulty": 20}, "pixels"),
        ({"reference": 4.0, "positions": MOVED, "moves": Moves(1.5, 1.0, 0.05, 0.9)}, "position_errors"),
        ({"reference": 4.0, "positions": MOVED, "moves": Moves(1.5, 1.0, 0.2, 0.05)}, "drift"),
        ({"reference": 4.0, "positions": MOVED, "moves": Moves(1.5, 0.93, 0.9, 0.05), "scale": 0.9}, "position_scale"),
        ({"reference": 4.0, "positions": MOVED, "moves": Moves(1.5, 1.07, 0.9, 0.05), "scale": 0.9}, "drift"),
        ({"reference": 4.0, "intensities": MOVED, "modes": Comparison(4.0, 3.0, 20.0)}, "intensity"),
        ({"reference": 4.0, "intensities": Comparison(4.0, 3.0, 20.0), "modes": MOVED}, "coherence"),
        ({"reference": 4.0, "modes": Comparison(4.0, 1.0, 2.0)}, "none"),  # not significant
        ({"modes": Comparison(1.05, 1.045, 8.0)}, "none"),  # significant, and too small
        ({"reference": 1.06, "modes": Comparison(1.05, 1.03, 8.0)}, "coherence"),
        ({"reference": 4.0, "modes": Comparison(4.0, 0.998, 20.0), "defocus": MOVED}, "probe"),  # with fewer parameters
        ({"scaling": Comparison(1.2, 0.95, 12.0), "scale": 0.9}, "position_scale"),  # the moves did not find it
        ({"scaling": Comparison(1.0, 0.98, 12.0), "scale": 0.9}, "none"),  # too small
        ({"reference": 4.0, "positions": MOVED, "moves": Moves(1.5, 1.004, 0.72, 0.05), "scale": 1.01}, "drift"),
        ({"scaling": Comparison(1.02, 0.95, 12.0), "scale": 1.0}, "none"),
        ({"reference": 4.0, "defocus": MOVED, "defocus_phase": 2.0}, "probe"),
        ({"result": 20.0, "given_probe": 15.0, "probe": Comparison(18.0, 0.95, 90.0)}, "probe"),
        ({"result": 400.0, "given_probe": 75.0, "probe": Comparison(75.0, 1.1, 90.0)}, "training"),  # a learned one
        ({"result": 1.4, "given_probe": 1.3, "probe": Comparison(1.3, 0.95, 27.0)}, "probe"),
        ({"result": 1.4, "given_probe": 1.0, "probe": Comparison(1.3, 0.95, 27.0)}, "none"),  # that of the scan fits
        (POOR | {"effects": VARIES}, "probe_varies"),
        (POOR | {"effects": FLIES}, "fly_scan"),
        (POOR | {"effects": FLIES, "modes": Comparison(4.0, 1.2, 20.0)}, "fly_scan"),  # which are a path too
        (POOR | {"effects": FLIES, "modes": Comparison(4.0, 0.6, 20.0)}, "coherence"),
        (POOR | {"effects": VARIES, "modes": Comparison(4.0, 1.05, 20.0)}, "coherence"),
        (POOR | {"effects": VARIES, "intensities": Comparison(4.0, 1.05, 20.0)}, "intensity"),
        (POOR | {"effects": {"blur": MOVED}}, "none"),  # of which modes take the place
        ({"given_probe": 8.0, "background": Comparison(8.0, 1.1, 90.0), "background_fraction": 0.3}, "background"),
        ({"given_probe": 8.0, "background": Comparison(8.0, 4.0, 90.0), "background_fraction": 0.3}, "none"),
    ],
)  # fmt: skip
def test_rules_name_the_cause_that_explains_most(scan: Scan, changes: dict[str, Any], cause: str) -> None:
    causes = rank_causes(dataclasses.replace(SOUND, **changes), require_sound(scan), True)
    assert causes[0].key == cause
    assert all(c.title == CAUSES[c.key][0] and c.evidence and c.advice for c in causes)
    weights = [c.weight for c in causes]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize(("result", "cause"), [(0.7, "overlap"), (3.0, "probe")])
def test_trials_say_little_where_patterns_do_not_determine_the_object(scan: Scan, result: float, cause: str) -> None:
    checked = require_sound(scan)
    checked = dataclasses.replace(checked, geometry=dataclasses.replace(checked.geometry, overlap=0.3))
    found = dataclasses.replace(SOUND, result=result, reference=1.3, defocus=Comparison(1.3, 1.1, 15.0))
    assert rank_causes(found, checked, True)[0].key == cause


def test_kept_probe_that_is_wrong_is_no_matter_of_training(scan: Scan) -> None:
    found = dataclasses.replace(SOUND, result=400.0, given_probe=75.0, probe=Comparison(75.0, 1.1, 90.0))
    assert rank_causes(found, require_sound(scan), learned_probe=False)[0].key == "probe"


def test_held_out_photons_judge_a_model_without_its_adaptation_to_noise(scan: Scan) -> None:
    complete = select_sample(scan, shape_probe=False)
    sample, again = split(complete), split(complete)
    assert torch.equal(sample.counts, again.counts)
    assert torch.equal(sample.counts + sample.held_out, complete.counts)
    assert float(sample.held_out.sum() / complete.counts.sum()) == pytest.approx(sample.fraction, rel=0.01)
    trial = fit(sample, modes=3)  # two more than the beam has
    terms, floors = losses(trial.predicted, sample.counts, None)
    assert terms.sum() < 0.85 * floors.sum()  # the counts that were refined
    assert Floors.of(sample, trial.predicted).ratio(trial) > 0.98
    # The true intensities are at the floor.
    expected = torch.from_numpy(expected_counts(complete.members))
    floors_of_truth = Floors.of(sample, (1 - sample.fraction) * expected)
    terms, _ = losses(sample.fraction * expected, sample.held_out, None)
    assert floors_of_truth.ratio(dataclasses.replace(trial, terms=terms)) == pytest.approx(1, abs=0.06)


def expected_counts(members: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of patterns of the fixture, FFT order."""
    exact = simulate("dead_leaves", patterns=33, size=32, step=4, photons=2e4, seed=5, noise=False)
    return np.fft.ifftshift(exact.counts[members], axes=(1, 2)).astype(np.float32)


@pytest.mark.parametrize("gain", [0.3, 5.0])
def test_counts_that_are_not_photons_are_not_split(scan: Scan, gain: float) -> None:
    sample = select_sample(scan, shape_probe=False)
    assert are_photons(sample, noise_level(sample.counts, None))
    scaled = dataclasses.replace(sample, counts=gain * sample.counts)
    assert not are_photons(scaled, noise_level(scaled.counts, None))


def test_bad_pixels_do_not_keep_counts_from_being_split(scan: Scan) -> None:
    counts = scan.counts.astype(np.float32)
    mask = np.zeros((32, 32), np.bool_)
    mask[3, 4:7] = True
    counts[:, 3, 4:7] = (0.25, 0.5, 1e6)
    sample = select_sample(dataclasses.replace(scan, counts=counts, bad_pixels=mask), shape_probe=False)
    assert sample.good is not None and are_photons(sample, 1.0)
    sound = split(sample).held_out[:, sample.good]
    assert torch.isfinite(sound).all() and float(sound.min()) >= 0


@pytest.mark.parametrize(
    ("part", "changes", "cause"),
    [
        ("geometry", {"overlap": 0.3}, "overlap"),
        ("geometry", {"dose": 4.0}, "photons"),
        ("patterns", {"offset": (3.0, -1.0)}, "centre"),
        ("patterns", {"offset": (3.0, -1.0), "similarity": 0.3}, "none"),  # of another probe it is not known
        ("patterns", {"offset": (0.8, 0.0)}, "none"),
    ],
)
def test_rules_on_statistics_of_the_scan(scan: Scan, part: str, changes: dict[str, Any], cause: str) -> None:
    checked: Checked = require_sound(scan)
    checked = dataclasses.replace(checked, **{part: dataclasses.replace(getattr(checked, part), **changes)})
    assert rank_causes(SOUND, checked, True)[0].key == cause
