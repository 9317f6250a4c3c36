# SPDX-License-Identifier: BSD-3-Clause
"""benchmarks/uncertainty.py: its scores tell right deviations from wrong ones, and a tiny run writes tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import uncertainty

    return uncertainty


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_scores_tell_right_deviations_from_wrong_ones(bench: ModuleType) -> None:
    scan = simulate("dead_leaves", patterns=64, size=32, seed=1)
    assert scan.truth is not None
    shape = scan.truth.shape
    rng = np.random.default_rng(0)
    deviation = np.linspace(0.004, 0.03, shape[1]) * np.ones(shape)
    noise = deviation * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    unit = scan.truth / np.abs(scan.truth)
    image = scan.truth + noise * unit
    maps = {
        "amplitude_uncertainty": deviation.astype(np.float32),
        "phase_uncertainty": (deviation / np.abs(image)).astype(np.float32),
    }
    right = Reconstruction(image, np.ones(shape, np.float32), (0.0, 0.0), **maps)
    row, parts = bench.scored(right, scan)
    for part in ("amplitude", "phase"):
        assert abs(row[f"{part}_68"] - 0.683) < 0.03 and abs(row[f"{part}_95"] - 0.95) < 0.015
        assert abs(row[f"{part}_ratio"] - 1) < 0.05
        assert abs(row[f"{part}_rank"] - row[f"{part}_attainable"]) < 0.05 < row[f"{part}_rank"]
    assert [name for name, *_ in parts] == ["amplitude", "phase"]
    halved = replace(right, **{name: value / 2 for name, value in maps.items()})
    assert bench.scored(halved, scan)[0]["phase_68"] < 0.45
    constant = replace(right, amplitude_uncertainty=np.full(shape, 0.0175, np.float32))
    assert abs(bench.scored(constant, scan)[0]["amplitude_rank"]) < 0.02


def test_scans_differ_in_everything(bench: ModuleType) -> None:
    made = list(bench.scans(20, 500, patterns=9, sizes=(16, 20)))
    settings = [scan.metadata["simulation"] for scan in made]
    assert len({scan.name for scan in made}) == 20 and {scan.patch_size for scan in made} == {16, 20}
    assert {entry["photons"] for entry in settings} == set(bench.PHOTONS)
    assert {entry["probe"] for entry in settings} == {"defocused", "disk"}
    assert len({(entry["object"], entry["photons"]) for entry in settings}) > 12
    assert sum(scan.name.endswith("wrong") for scan in made) == 4


def test_a_tiny_run_writes_tables_and_pictures(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--scans", "2", "--sizes", "32", "--patterns", "196", "--replicas", "1", "--out", str(tmp_path)]
    assert bench.main(given) == 0
    with (tmp_path / "refined.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scan"] for row in rows] == ["700-photos-defocused-32", "701-dead_leaves-disk-32", "all 2"]
    for row in rows:
        assert 0.5 < float(row["amplitude_68"]) < 0.9 and 0.4 < float(row["phase_68"]) < 0.9
        assert 0.85 < float(row["amplitude_95"]) <= 1 and 0.7 < float(row["phase_95"]) <= 1
    assert (tmp_path / "pictures" / "refined" / "701-dead_leaves-disk-32.png").is_file()
    assert "of 2 scans within the range" in capsys.readouterr().out
