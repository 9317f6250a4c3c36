# SPDX-License-Identifier: BSD-3-Clause
"""Refined positions: outliers are searched in an object without them; scale and rotation before single positions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_refinements import QUICK, small_scan, true_start

from ptychopinn.refinement import run as run_module
from ptychopinn.refinement.ambiguities import remove_affine
from ptychopinn.refinement.position_common import COMMON_PASSES, drift_curves
from ptychopinn.refinement.position_outliers import local_excess, local_outliers, replace_outliers, search_radius
from ptychopinn.refinement.run import Progress, Refinement
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

CONFIG = dataclasses.replace(QUICK, learn_positions=True, find_defocus=False)


def run_of(scan: Scan, **options: object) -> Refinement:
    config = dataclasses.replace(CONFIG, **options)  # type: ignore[arg-type]
    return Refinement(scan, true_start(scan), config, torch.device("cpu"), None, 1000)


def displaced(scan: Scan, members: list[int], move: tuple[float, float]) -> Scan:
    positions = scan.positions.copy()
    positions[members] += move
    return dataclasses.replace(scan, positions=positions)


def test_outliers_are_those_above_their_neighbours() -> None:
    axis = np.arange(20.0)
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    # One half of the scan is bright: its patterns have three times the deviance, and none is an outlier for that.
    residuals = np.where(positions[:, 1] < 10, 1.0, 3.0) + rng.normal(0, 0.02, 400)
    planted = [45, 210, 333]
    residuals[planted] += 0.4
    found = local_outliers(local_excess(residuals, positions))
    assert set(planted) <= set(found)
    assert len(found) < 25
    assert len(local_outliers(local_excess(rng.exponential(1.0, 400) ** 3, positions))) <= 40
    assert not len(local_outliers(local_excess(np.ones(1), np.zeros((1, 2)))))


def test_outliers_find_their_position_in_an_object_without_them() -> None:
    scan = small_scan()
    members = [72, 130]
    run = run_of(displaced(scan, members, (6.0, -5.0)), learn_positions=False)
    for _ in range(25):
        run.advance()
    assert run.engine is not None
    state = run.engine.state
    true = run.geometry.to_canvas(scan.positions)
    before = state.copy()
    found = replace_outliers(run.objective, state, run.engine.residuals, run.reported, CONFIG, 1.0)
    distance = (found.positions - true).norm(dim=1)
    assert (state.positions - true).norm(dim=1)[members].min() > 7
    assert distance[members].max() < 1.0
    others = np.setdiff1d(np.arange(scan.n), members)
    assert (distance[others] < 1).double().mean() > 0.98
    for part, same in zip(state, before, strict=True):
        torch.testing.assert_close(part, same, rtol=0, atol=0)
    again = replace_outliers(run.objective, state, run.engine.residuals, run.reported, CONFIG, 1.0)
    torch.testing.assert_close(again.positions, found.positions, rtol=0, atol=0)


def test_without_outliers_the_state_is_kept() -> None:
    scan = small_scan(patterns=49)
    run = run_of(scan)
    state = run.state
    assert replace_outliers(run.objective, state, torch.ones(49).double(), run.reported, CONFIG, 1.0) is state


def test_the_search_reaches_five_deviations() -> None:
    assert search_radius(CONFIG, 1.0) == CONFIG.search
    assert search_radius(CONFIG, 3.1) == 16


def test_scale_rotation_and_shear_are_found_with_a_known_probe() -> None:
    scan = small_scan(patterns=144)
    matrix = np.array([[1.02, -0.015], [0.02, 0.99]])
    centre = scan.positions.mean(0)
    wrong = dataclasses.replace(scan, positions=(scan.positions - centre) @ matrix.T + centre)

    def error(affine: str) -> float:
        config = dataclasses.replace(CONFIG, affine=affine, learn_probe=False, iterations=COMMON_PASSES + 5)
        found = refine(wrong, None, config).positions
        assert found is not None
        moves = found - scan.positions
        return float(np.sqrt(np.square(moves - moves.mean(0)).sum(1).mean()))

    refined = error("refine")
    assert refined < 0.1
    assert refined < 0.25 * error("remove")


def test_a_smooth_drift_is_refined_before_single_positions() -> None:
    scan = small_scan(patterns=144)
    time = np.linspace(0, 1, scan.n)
    drift = np.stack([3 * np.sin(2 * np.pi * 1.3 * time), 2 * np.cos(2 * np.pi * 0.9 * time) + 2 * time], 1)
    wrong = dataclasses.replace(scan, positions=scan.positions + drift)

    def error(functions: int) -> float:
        config = dataclasses.replace(CONFIG, drift=functions, iterations=COMMON_PASSES + 40)
        found = refine(wrong, None, config).positions
        assert found is not None
        moves = torch.from_numpy(found - scan.positions)
        return float(remove_affine(torch.from_numpy(scan.positions), moves).square().sum(1).mean().sqrt())

    refined = error(8)
    assert refined < 0.3, refined
    assert refined < 0.5 * error(0)


def test_moves_are_a_drift_at_first() -> None:
    run = run_of(small_scan(patterns=49), drift=3, affine="keep")
    moves = torch.from_numpy(np.random.default_rng(0).normal(size=(49, 2)))
    first = run.project(moves)
    curves = drift_curves(49, 3)
    torch.testing.assert_close(curves.T @ curves, torch.eye(3).double())
    torch.testing.assert_close(first, curves @ (curves.T @ moves))
    run.passes = COMMON_PASSES
    torch.testing.assert_close(run.project(moves), moves - moves.mean(0))


def test_moves_are_affine_at_first() -> None:
    scan = small_scan(patterns=49)
    run = run_of(scan, affine="refine")
    moves = torch.from_numpy(np.random.default_rng(0).normal(size=(49, 2)))
    first = run.project(moves)
    terms = torch.cat([run.reported, torch.ones(49, 1)], 1)
    fitted = terms @ torch.linalg.lstsq(terms, first).solution
    torch.testing.assert_close(first, fitted)
    assert first.mean(0).abs().max() < 1e-9
    run.passes = COMMON_PASSES
    torch.testing.assert_close(run.project(moves), moves - moves.mean(0))
    assert run.project(moves).norm() > 2 * first.norm()


@pytest.mark.parametrize("value", ["first", "auto"])
def test_other_values_of_affine_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"refine\.affine"):
        dataclasses.replace(CONFIG, affine=value)


@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_a_refinement_resumed_around_a_search_without_outliers_equals_an_uninterrupted_one(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_REPLACE", 30)
    scan = displaced(small_scan(patterns=64), [27], (9.0, -7.0))
    config = dataclasses.replace(CONFIG, iterations=36, engine=engine)
    moved: list[int] = []

    def save(progress: Progress) -> None:
        progress.save(tmp_path / f"{progress.passes}.ckpt")
        progress.save(lambda values: moved.append(values["moved"]))

    uninterrupted = refine(scan, None, config, progress=save, every=1)
    assert moved[-1] == 30 and moved[28] < 0
    for passes in (30, 33):
        resumed = refine(scan, None, config, resume=tmp_path / f"{passes}.ckpt")
        assert np.array_equal(uninterrupted.object, resumed.object)
        assert np.array_equal(uninterrupted.positions, resumed.positions)
