# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks of first images run, and their scans have the documented properties; scores are not asserted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/pretrained.py and pretrained_fit.py, imported with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import pretrained
        import pretrained_fit

        yield pretrained, pretrained_fit


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_scans_are_of_both_kinds_and_of_their_seeds(modules: tuple[ModuleType, ModuleType]) -> None:
    made = dict(modules[0].mixed_scans([1, 2, 3, 4], 16))
    assert list(made) == ["default-wrong-probe", "1-photos-defocused", "2-random", "3-siemens-disk", "4-random"]
    assert all(scan.truth is not None and scan.n == 16 and scan.patch_size == 64 for scan in made.values())
    again = dict(modules[0].mixed_scans([1], 16))
    assert np.array_equal(again["1-photos-defocused"].counts, made["1-photos-defocused"].counts)
    assert len({scan.probe.tobytes() for scan in made.values()}) == 5


def test_simulate_makes_every_sample_with_both_probes(modules: tuple[ModuleType, ModuleType]) -> None:
    made = dict(modules[0].simulate_scans(list(range(1, 13)), 9))
    assert len({name.split("-", 1)[1] for name in made}) == 12
    assert all(abs((abs(scan.probe) ** 2).sum() - 1e6) < 1e2 for scan in made.values())


def test_a_run_writes_rows_and_a_picture_of_every_scan(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--seeds", "1", "--patterns", "144", "--tuned", "0.5", "--untrained", "0.5", "--threads", "1"]
    arguments += ["--refined", "5"]
    assert modules[0].main([*arguments, "--out", str(tmp_path)]) == 0
    rows = table(tmp_path / "pretrained-simulate.csv")
    assert [(row["start"], float(row["seconds"]), int(row["passes"])) for row in rows] == [
        ("pretrained", 0, 0), ("pretrained", 0, 5), ("nothing", 0, 5), ("untrained", 0, 0), ("pretrained", 0.5, 0),
        ("untrained", 0.5, 0),
    ]  # fmt: skip
    assert all(0 <= float(row["frc"]) <= 1 and float(row["noise_ratio"]) > 0 for row in rows)
    assert len({row["frc"] for row in rows}) > 1
    (picture,) = tmp_path.glob("*.png")
    assert picture.name == "1-photos-defocused.png" and picture.stat().st_size > 10_000
    assert "first images, 5 passes: median mean FRC" in capsys.readouterr().out


def test_the_comparison_of_statistics(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scans(seed: int) -> Iterator[tuple[str, Scan]]:
        yield "stars", simulate("siemens", patterns=64, size=64, seed=seed)

    assert modules[1].main(["--seed", "3", "--out", str(tmp_path)], scans) == 0
    rows = table(tmp_path / "fit-3.csv")
    assert [row["orientation"] for row in rows] == ["given", *modules[1].WRONG]
    assert float(rows[0]["unexplained"]) < min(float(row["unexplained"]) for row in rows[1:])
    assert "unexplained: correct" in capsys.readouterr().out
