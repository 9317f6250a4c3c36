# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of models of the experiment runs, and its scans have the effects they are named for; no results."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ptychopinn.physics.simulate import predict_counts
from ptychopinn.reconstruction import Reconstruction

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ModuleType]:
    """benchmarks/physics.py, writing to a folder of the test."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import physics

        patch.setattr(physics, "RESULTS", tmp_path)
        yield physics
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ["background", "saturation", "spread", "source", "near", "thick", "fly-1"])
def test_patterns_are_explained_with_the_effect_only(bench: ModuleType, case: str) -> None:
    """The loss of the true object and probe is at the shot noise with the experiment, and above it without."""
    problem = bench.PROBLEMS[case](0, 4)
    sample = problem.scan.truth if problem.slices is None else problem.slices
    _, probe, _ = sys.modules["physics_scans"].picture(0)
    true = replace(problem.scan, probe=np.conj(probe) if case in ("near", "thick") else probe)
    losses = []
    for scan, image in ((true, sample), (bench.plain(true), problem.scan.truth)):
        expected = predict_counts(scan, image)
        limit = true.experiment.saturation
        used = np.ones(expected.shape, bool) if limit is None or scan is not true else scan.counts < limit
        losses.append(np.square(scan.counts - expected)[used].sum() / expected[used].sum())
    assert 0.9 < losses[0] < 1.1 < 1.2 < losses[1]


def test_probes_vary_as_stated(bench: ModuleType) -> None:
    problem = bench.PROBLEMS["varying"](0, 4)
    mean = problem.probes.mean(0)
    powers = np.square(np.abs(problem.probes)).sum((1, 2))
    variation = np.square(np.abs(problem.probes - mean)).sum((1, 2)).mean() / powers.mean()
    assert 0.1 < variation < 0.5
    assert 0.01 < powers.std() / powers.mean() < 0.1


def test_slices_are_scored_alone(bench: ModuleType) -> None:
    problem = bench.PROBLEMS["thick"](1, 6)
    scan, weights = problem.scan, np.ones(problem.scan.truth.shape, np.float32)
    perfect = Reconstruction(
        scan.truth, weights, (0.0, 0.0), scan.probe, slices=problem.slices, experiment=scan.experiment
    )
    row = bench._of_slices(perfect, problem)
    assert row["slice_0_frc"] > 0.99 < row["slice_1_frc"] and row["distance_ratio"] == 1
    exchanged = replace(perfect, slices=problem.slices[::-1].copy())
    assert bench._of_slices(exchanged, problem)["slice_0_frc"] < 0.5


def test_rows_of_a_model_are_replaced(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "near.csv"
    first = [{"seed": 0, "model": name, "mean_frc": 0.5, "distance_ratio": 1.0} for name in ("off", "on")]
    bench.write(path, bench.merged(path, first))
    bench.write(path, bench.merged(path, [{"seed": 0, "model": "on", "mean_frc": 0.7}]))
    rows = bench.merged(path, [{"seed": 1, "model": "off", "mean_frc": 0.4}])
    assert [(row["seed"], row["model"], row["mean_frc"]) for row in rows] == [
        (0, "off", 0.5), (0, "on", 0.7), (1, "off", 0.4),
    ]  # fmt: skip


def test_verdicts_are_at_the_time_of_the_peer(bench: ModuleType) -> None:
    def row(model: str, seconds: float, frc: float) -> dict[str, object]:
        return {"seed": 0, "model": model, "cpu_seconds": seconds, "mean_frc": frc, "phase_rmse": 0.1}

    rows = [row("on", 1, 0.5), row("on", 5, 0.8), row("on", 20, 0.9), row("pty-chi", 4, 0.6), row("pty-chi", 8, 0.7)]
    lines = bench.verdicts(rows)
    assert lines[0] == "seed 0: on: FRC 0.9, phase 0.1 rad, 20 s"
    assert lines[1].endswith("pty-chi: FRC 0.7, phase 0.1 rad, 8 s; on, in this time: FRC 0.8, phase 0.1 rad, 5 s")


def test_summaries_are_means_over_the_seeds(bench: ModuleType) -> None:
    def row(seed: int, model: str, seconds: float, frc: float) -> dict[str, object]:
        scores = {"phase_rmse": 0.1, "phase_rmse_high_pass": 0.1, "amplitude_rmse": 0.1}
        return {"seed": seed, "model": model, "cpu_seconds": seconds, "mean_frc": frc, **scores}

    rows = [row(0, "on", 1, 0.5), row(0, "on", 9, 0.9), row(0, "pty-chi", 4, 0.6)]
    rows += [row(1, "on", 2, 0.7), row(1, "on", 9, 0.8), row(1, "pty-chi", 12, 0.4)]
    ours, peer = bench.summaries("near", rows)
    assert (ours["model"], ours["seeds"], ours["mean_frc"], ours["lowest_frc"]) == ("on", 2, 0.85, 0.8)
    assert (peer["mean_frc"], peer["cpu_seconds"], peer["on_at_this_time_mean_frc"]) == (0.5, 8.0, 0.65)


def test_a_small_run_writes_table_and_picture(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = "thick --seeds 0 --side 7 --passes 3 --every 2 --models off on --threads 1"
    monkeypatch.setattr(sys, "argv", ["physics.py", *arguments.split()])
    bench.main()
    with (tmp_path / "thick.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["passes"]) for row in rows] == [("off", "2"), ("off", "3"), ("on", "2"), ("on", "3")]
    assert all(-1 < float(row["mean_frc"]) < 1 for row in rows)
    assert rows[0]["distance_ratio"] == "" and rows[-1]["distance_ratio"] == "1.0"
    for name in ("thick.png", "thick-curves.png"):
        assert (tmp_path / name).stat().st_size > 5_000
