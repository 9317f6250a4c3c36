# SPDX-License-Identifier: BSD-3-Clause
"""The end of a training by the quality of its fit, and what it reports."""

from __future__ import annotations

import csv
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny

from ptychopinn.config import TrainingConfig
from ptychopinn.persistence.bundle import bundle_info
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training import ending
from ptychopinn.training.ending import Fit, has_settled
from ptychopinn.training.optimiser import CompositeOptimizer
from ptychopinn.training.schedule import ProgressLR
from ptychopinn.training.workflow import train

DETERMINISTIC = {"deterministic": True}


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=36, size=32, photons=1e5, seed=2)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny trainings end by themselves."""
    monkeypatch.setattr(ending, "FEWEST_EPOCHS", 2)
    monkeypatch.setattr(ending, "_FEWEST_PATTERNS", 0)


def epochs(folder: Path) -> int:
    with (folder / "metrics.csv").open(newline="") as file:
        return 1 + max(int(row["epoch"]) for row in csv.DictReader(file) if row["epoch"])


@pytest.mark.usefixtures("eager")
def test_a_fit_within_the_noise_ends_with_falling_rates(
    scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ptychopinn")
    config = tiny(training={"epochs": 30, "stop_ratio": 1e6})
    run = train(scan, tmp_path / "run", config)
    assert epochs(run.folder) == 3  # decided after two, and a quarter of them more
    assert "1 more epochs, with falling rates" in caplog.text
    assert bundle_info(run.folder / "wts.h5.zip")["epochs"] == 3


@pytest.mark.usefixtures("eager")
def test_a_resumed_training_ends_as_one_that_was_never_stopped(scan: Scan, tmp_path: Path) -> None:
    def config(**training: Any) -> Any:
        always = {"stop_ratio": 1e6, "schedule": "constant", "warmup": 0.0}
        return tiny(training={**always, **training}, execution=DETERMINISTIC)

    uninterrupted = train(scan, tmp_path / "uninterrupted", config(epochs=9))
    train(scan, tmp_path / "cut", config(epochs=2))
    resumed = train(scan, tmp_path / "cut", config(epochs=9), resume=True)
    assert epochs(tmp_path / "cut") == epochs(tmp_path / "uninterrupted") == 3
    for one, other in zip(uninterrupted.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    # Nothing is left to do, unless more is asked for.
    again = train(scan, tmp_path / "cut", config(epochs=9), resume=True)
    assert epochs(again.folder) == 3 and again.losses == resumed.losses
    train(scan, tmp_path / "cut", config(epochs=5, stop="never"), resume=True)
    assert epochs(tmp_path / "cut") == 5


def test_small_scans_and_those_who_ask_train_all_epochs(scan: Scan, tmp_path: Path) -> None:
    assert epochs(train(scan, tmp_path / "small", tiny(training={"epochs": 8, "stop_ratio": 1e6})).folder) == 8


@pytest.mark.usefixtures("eager")
def test_without_the_option_a_training_does_not_end(scan: Scan, tmp_path: Path) -> None:
    config = tiny(training={"epochs": 8, "stop_ratio": 1e6, "stop": "never"})
    assert epochs(train(scan, tmp_path / "never", config).folder) == 8


def test_rates_fall_to_their_end_whenever_it_is_decided() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = CompositeOptimizer([torch.optim.SGD([parameter], lr=2.0)])
    schedule = ProgressLR(optimiser, TrainingConfig(warmup=0.0))
    schedule.progress = 0.2
    assert schedule.towards_end(0.25, 10) == 0.25
    schedule.end_within(8, 4)
    assert [schedule.towards_end(0.2, done) for done in (8, 10, 12)] == pytest.approx([0.2, 0.6, 1.0])
    assert schedule.towards_end(0.9, 10) == 0.9  # a time limit may be nearer
    assert schedule.rates(1.0) == pytest.approx([0.0], abs=1e-12)
    copy = ProgressLR(optimiser, TrainingConfig(warmup=0.0))
    copy.load_state_dict(schedule.state_dict())
    assert copy.towards_end(0.2, 10) == pytest.approx(0.6)


def test_the_end_of_a_fall_is_seen_in_the_ratios() -> None:
    falling = [10.0 * 0.9**k for k in range(12)]
    assert not has_settled(falling)
    assert has_settled([*falling, *[2.8] * 24])
    assert not has_settled([1.0, 1.0])  # too few


@pytest.mark.parametrize("size", [1, 4])
def test_a_training_reports_its_fit(scan: Scan, tmp_path: Path, size: int) -> None:
    run = train(scan, tmp_path / "run", tiny(data={"group_size": size}, training={"epochs": 6}))
    assert run.fit is not None and 0.8 < run.fit.ratio < 1e3 and 0 < run.fit.r_factor < 1
    info = bundle_info(run.folder / "wts.h5.zip")
    assert info["val_ratio"] == pytest.approx(run.fit.ratio)
    with (run.folder / "metrics.csv").open(newline="") as file:
        ratios = [float(row["val_ratio"]) for row in csv.DictReader(file) if row["val_ratio"]]
    assert len(ratios) == 6 and ratios[-1] == pytest.approx(run.fit.ratio) and min(ratios) < ratios[0]


def test_nothing_held_out_and_supervised_trainings_have_no_fit(scan: Scan, tmp_path: Path) -> None:
    without = train(scan, tmp_path / "a", tiny(data={"validation_fraction": 0.0}, training={"epochs": 1}))
    supervised = train(scan, tmp_path / "b", tiny(training={"supervised": True, "epochs": 1}))
    assert without.fit is None and supervised.fit is None


def test_r_factors_of_both_losses_agree_near_the_data() -> None:
    values = {"val_ratio": 2.0, "val_fit": 0.02}
    poisson, amplitude = Fit.of(values, "poisson"), Fit.of({**values, "val_fit": 0.01}, "amplitude")
    assert poisson is not None and amplitude is not None
    assert poisson.r_factor == pytest.approx(amplitude.r_factor) == pytest.approx(0.1)


def test_a_poor_fit_names_the_way_out(scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ptychopinn")
    smooth = simulate("photos", patterns=36, size=32, photons=1e5, seed=2)
    train(smooth, tmp_path / "sound", tiny(data={"group_size": 9}, training={"epochs": 20}))
    assert "times shot noise" in caplog.text and "diagnose" not in caplog.text
    wrong = dataclasses.replace(scan, positions=scan.positions[:, ::-1] * [1.0, -1.0])
    train(wrong, tmp_path / "wrong", tiny(training={"epochs": 3}), accept="all")
    assert f"`ptychopinn diagnose {tmp_path / 'wrong'}` looks for the reason" in caplog.text
