# SPDX-License-Identifier: BSD-3-Clause
"""The quality benchmark runs, and its scans have the documented properties; scores are not asserted."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ptychopinn.physics.simulate import predict_counts
from ptychopinn.scan import Scan

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/quality.py and scans.py, imported with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import quality
        import scans

        yield quality, scans


@pytest.fixture
def quality(modules: tuple[ModuleType, ModuleType]) -> ModuleType:
    return modules[0]


@pytest.fixture
def scans(modules: tuple[ModuleType, ModuleType]) -> ModuleType:
    return modules[1]


def small(scans: ModuleType) -> Scan:
    scan: Scan = scans.default_scan(side=9, true_probe=True)
    return scan


def test_default_scan_is_that_of_the_published_comparison(scans: ModuleType) -> None:
    """Values of the simulator of the published comparison, with the same seed."""
    scan = scans.default_scan()
    assert scan.counts.shape == (1089, 64, 64) and scan.truth is not None and scan.truth.shape == (400, 400)
    assert float(scan.counts.sum((1, 2)).mean()) == pytest.approx(672729.75, rel=1e-3)
    np.testing.assert_allclose(scan.positions[[0, -1]], [[13.3292, 12.516825], [321.852212, 321.823955]], atol=1e-5)


def test_true_probe_predicts_the_counts_and_the_initial_probe_does_not(scans: ModuleType) -> None:
    chi2 = []
    for true_probe in (True, False):
        scan = scans.default_scan(side=9, true_probe=true_probe)
        expected = predict_counts(scan)
        chi2.append(float(((scan.counts - expected) ** 2).sum() / expected.sum()))
    assert chi2[0] == pytest.approx(1, abs=0.02) and chi2[1] > 10


def test_position_errors_have_the_requested_size(scans: ModuleType) -> None:
    true, wrong = (scans.default_scan(side=20, position_error=error) for error in (0.0, 3.0))
    assert np.array_equal(true.counts, wrong.counts)
    assert (wrong.positions - true.positions).std(0) == pytest.approx([3, 3], rel=0.15)


def test_left_and_right_have_no_common_pattern(scans: ModuleType) -> None:
    scan = small(scans)
    left, right = scans.split_left_right(scan)
    assert left.n + right.n == scan.n and left.positions[:, 1].max() < right.positions[:, 1].min()


def test_case_writes_table_figure_and_settings(
    quality: ModuleType, scans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = dataclasses.replace(small(scans), name="tiny")
    monkeypatch.setattr(sys.modules["quality_cases"], "default_scan", lambda *_, **__: scan)
    arguments = ["quality.py", "probe", "--threads", "1", "--scale", "0.003", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert quality.main() == 0
    with (tmp_path / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["probe"] for row in rows] == ["refined", "kept", "true", "refined", "true"]
    assert all(0 <= float(row["mean_frc"]) <= 1 for row in rows)
    assert (tmp_path / "probe.png").stat().st_size > 10_000
    settings = json.loads((tmp_path / "probe.json").read_text())
    assert settings["threads"] == 1 and settings["seeds"] == [0]


def test_unknown_case_is_an_error(quality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "phantom"])
    with pytest.raises(SystemExit):
        quality.main()
