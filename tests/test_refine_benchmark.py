# SPDX-License-Identifier: BSD-3-Clause
"""The refinement benchmark runs, and its summaries are correct; results are not asserted."""

from __future__ import annotations

import csv
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ModuleType]:
    """benchmarks/refine.py, writing to a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import refine

        patch.setattr(refine, "RESULTS", tmp_path)
        yield refine


def row(engine: str, seconds: float, frc: float, rate: int = 1000) -> dict[str, object]:
    return {
        "seed": 0, "engine": engine, "cpu_seconds": seconds, "mean_frc": frc, "patterns_per_cpu_second": rate,
    }  # fmt: skip


def test_time_is_that_of_the_first_state_above_the_level(bench: ModuleType) -> None:
    states = [row("scratch", 1, 0.5), row("scratch", 2, 0.92), row("scratch", 3, 0.91)]
    assert bench.time_to(states, 0.9) == 2
    assert bench.time_to(states, 0.95) is None


def test_verdicts_compare_at_the_level_of_the_peer(bench: ModuleType) -> None:
    rows = [
        row("scratch", 1, 0.7, 4000), row("scratch", 2, 0.91, 4000), row("scratch", 30, 0.95, 4000),
        row("network", 1, 0.93, 3000), row("network", 2, 0.96, 3000),
        row("lsqml", 10, 0.8), row("lsqml", 20, 0.905),
    ]  # fmt: skip
    lines = list(bench.verdicts(rows))
    assert "mean FRC 0.904: lsqml 20.0 s, ours 2 s; ours reaches 0.910 in 20.0 s" in lines[0]
    assert "4.0 times theirs" in lines[0]
    assert lines[-1].endswith("mean FRC 0.950: from scratch 30 s, from the network 2 s")
    poor = [*rows[:-1], row("lsqml", 20, 0.82)]
    assert "mean FRC 0.820: lsqml 20.0 s, ours 2 s" in next(iter(bench.verdicts(poor)))


def test_remaining_position_error_has_no_affine_part(bench: ModuleType) -> None:
    truth = np.random.default_rng(0).uniform(0, 100, (50, 2))
    found = truth @ np.array([[1.01, 0.02], [-0.03, 0.99]]) + 4
    assert bench._without_affine(truth, found).max() < 1e-9
    found[7] += (3, 4)
    assert 4 < bench._without_affine(truth, found)[7] < 5


def test_cases_write_their_tables(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = sys.modules["scans"]
    monkeypatch.setattr(bench, "scan_of", lambda seed, **options: scans.default_scan(side=9, **options))
    monkeypatch.setattr(bench, "default_scan", functools.partial(scans.default_scan, side=9))
    monkeypatch.setattr(bench.refine_peer, "installed", lambda: False)
    run = bench.ours
    monkeypatch.setattr(bench, "ours", lambda *a, **o: run(*a, **{**o, "iterations": 4, "find_defocus": False}))
    monkeypatch.setattr(sys, "argv", ["refine.py", "closed", "positions", "--threads", "1"])
    bench.main()
    with (tmp_path / "positions.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = [tuple(map(str, case)) for case in bench._POSITION_CASES]
    assert [(r["photons"], r["error"], r["learned"]) for r in rows if r["engine"] == "ours"] == cases
    again = [case for case in cases if case[1:] == ("3.0", "True")]
    assert [(r["photons"], r["error"], r["learned"]) for r in rows if r["engine"] == "from the truth"] == again
    assert {("1000000.0", "3.0", "True"), ("10000.0", "3.0", "True")} <= set(cases)
    assert all(r["passes"] == "4" for r in rows)
    with (tmp_path / "closed.csv").open() as file:
        assert all(float(r["relative_change"]) < 1e-3 for r in csv.DictReader(file))
