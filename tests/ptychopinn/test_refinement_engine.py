# SPDX-License-Identifier: BSD-3-Clause
"""Parts of refinement: gradients against finite differences, engines, ambiguities, searches."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ptychopinn.config import RefineConfig
from ptychopinn.physics.simulate import simulate
from ptychopinn.refinement import ambiguities
from ptychopinn.refinement import objective as objective_module
from ptychopinn.refinement.engines import ENGINES, LbfgsEngine, PieEngine
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.search import (
    defocus_probe,
    find_defocus,
    find_outliers,
    impose_aperture,
    lowest_inner_minimum,
    search_positions,
    select_trial_patterns,
)
from ptychopinn.refinement.state import State, largest

EVERYTHING = {"learn_probe": True, "learn_positions": True, "learn_intensities": True}


def problem(modes: int = 1, bad: bool = False, **options: object) -> tuple[Objective, State, RefineConfig]:
    """A small scan with its objective and its true state on a canvas with a margin of 4 px."""
    config = RefineConfig(**{"batch_size": 7, **options})  # type: ignore[arg-type]
    scan = simulate("dead_leaves", patterns=25, size=16, modes=modes, photons=1e5, step=3, jitter=1, seed=2)
    assert scan.truth is not None
    counts = torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(1, 2)))
    good = None
    if bad:
        good = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) > 0.2
    truth = torch.from_numpy(np.pad(scan.truth, 4, constant_values=1.0))
    objective = Objective(counts, good, (truth.shape[0], truth.shape[1]), config)
    state = State(truth, torch.from_numpy(scan.probe), torch.from_numpy(scan.positions + 4), torch.zeros(25).double())
    objective.set_batches(compact_batches(scan.positions, 7, np.random.default_rng(0)), state.positions)
    return objective, state, config


def perturbed(state: State, size: float = 0.05) -> State:
    """Add normal noise to every part, relative to its largest value or, for real parts, to 1."""
    generator = torch.Generator().manual_seed(1)

    def perturb(part: torch.Tensor) -> torch.Tensor:
        scale = size * (part.abs().max().item() if part.is_complex() and part.numel() else 1.0)
        return part + scale * torch.randn(part.shape, dtype=part.dtype, generator=generator)

    return state.map(perturb)


def no_penalty(state: State, illumination: torch.Tensor, gradient: State) -> float:
    return 0.0


def identity(moves: torch.Tensor) -> torch.Tensor:
    return moves


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("interpolation", ["fourier", "bilinear"])
@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
def test_gradient_of_every_part_against_finite_differences(
    loss: str, interpolation: str, modes: int, bad: bool
) -> None:
    objective, truth, _ = problem(modes, bad, loss=loss, interpolation=interpolation, **EVERYTHING)
    state = perturbed(truth)
    state.positions[:, 0] = torch.floor(state.positions[:, 0]) + 0.3  # away from the kinks of bilinear interpolation
    state.positions[:, 1] = torch.floor(state.positions[:, 1]) + 0.6
    objective.set_anchors(state.positions)
    _, gradient, _ = objective.gradient(state)
    generator = torch.Generator().manual_seed(3)
    for name in ("object", "probe", "positions", "intensities"):
        part = getattr(state, name)
        direction = torch.randn(part.shape, dtype=part.dtype, generator=generator)
        direction *= 1e-3 * (part.abs().max().item() if part.is_complex() else 1.0)
        step = state.map(torch.zeros_like)
        setattr(step, name, direction)
        if interpolation == "bilinear" and name == "positions":
            values = []
            for sign in (1.0, -1.0):
                moved = state.plus(sign, step)
                objective.set_anchors(moved.positions)
                values.append(float(objective.gradient(moved)[0]))
            objective.set_anchors(state.positions)
        else:
            values = [float(objective.gradient(state.plus(sign, step))[0]) for sign in (1.0, -1.0)]
        assert 2 * float(gradient.dot(step)) == pytest.approx((values[0] - values[1]) / 2, rel=0.03, abs=0.05), name


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("interpolation", ["fourier", "bilinear"])
def test_steps_in_a_cache_are_those_of_the_separate_operators(
    interpolation: str, modes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert objective_module.runs_in_cache(torch.device("cpu"), (16, 16))
    found = []
    for in_cache in (True, False):
        monkeypatch.setattr(objective_module, "runs_in_cache", lambda device, size, answer=in_cache: answer)
        objective, truth, _ = problem(modes, True, interpolation=interpolation, **EVERYTHING)
        state = perturbed(truth)
        objective.set_anchors(state.positions)
        value, gradient, residuals = objective.gradient(state)
        region = objective.regions[1]
        batch = objective.batch_correction(
            region, next(iter(objective.batch_counts([1]))), state, objective.represent(state)
        )
        members = torch.arange(5)
        found.append(
            [
                value, residuals, *gradient, batch.value, batch.object, objective.restore(batch.probe),
                batch.positions, batch.intensities, batch.residuals,
                objective.pattern_objectives(state, members, state.positions[members] + 0.7),
                objective.predict(state, members),
            ]
        )  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert float(largest(one - other)) <= 2e-5 * float(largest(other))


def test_residuals_are_the_deviance_per_pixel() -> None:
    objective, truth, _ = problem()
    value, _, residuals = objective.gradient(truth)
    assert 0.3 < residuals.mean() < 1.3  # about 1 for bright pixels, less for dark ones
    assert 4 * float(value) / objective.pixels == pytest.approx(float(residuals.mean()), rel=1e-5)


def test_batches_are_a_partition_into_compact_parts() -> None:
    positions = np.random.default_rng(0).uniform(0, 100, (300, 2))
    batches = compact_batches(positions, 20, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert max(map(len, batches)) <= 30
    areas = [np.prod(np.ptp(positions[batch], axis=0)) for batch in batches]
    assert np.mean(areas) < 2 * 100 * 100 / len(batches)
    other = compact_batches(positions, 20, np.random.default_rng(2))
    assert {tuple(np.sort(b)) for b in batches} != {tuple(np.sort(b)) for b in other}


@pytest.mark.parametrize("batch_size", [3, 100])
def test_batch_size_changes_the_gradient_by_rounding_only(batch_size: int) -> None:
    objective, truth, _ = problem(**EVERYTHING)
    state = perturbed(truth)
    value, gradient, _ = objective.gradient(state)
    batches = compact_batches(truth.positions.numpy(), batch_size, np.random.default_rng(5))
    objective.set_batches(batches, truth.positions)
    other_value, other, _ = objective.gradient(state)
    assert float(other_value) == pytest.approx(float(value), rel=1e-6)
    for one, two in zip(gradient, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * float(largest(one)))


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_engines_lower_the_objective_from_a_uniform_object(engine: str, loss: str) -> None:
    objective, truth, config = problem(engine=engine, loss=loss)
    state = dataclasses.replace(truth, object=torch.full_like(truth.object, 0.9))
    minimiser = ENGINES[engine](objective, state.copy(), config, no_penalty, identity)
    first = float(objective.gradient(state)[0])
    with torch.no_grad():
        values = [minimiser.advance() for _ in range(25)]
    at_truth = float(objective.gradient(truth)[0])
    assert values[-1] < 0.05 * first
    assert values[-1] < (1.5 if engine == "lbfgs" else 4) * at_truth  # "pie" fluctuates with the last batches
    assert minimiser.state.finite()


def test_lbfgs_never_raises_the_objective() -> None:
    objective, truth, config = problem(**EVERYTHING)
    engine = LbfgsEngine(objective, perturbed(truth, 0.2), config, no_penalty, identity)
    values = [engine.value] + [engine.advance() for _ in range(30)]
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_steps_that_are_too_long_are_undone(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN of the objective and excessive steps never enter the state."""
    objective, truth, config = problem(object_step=2.0, probe_step=2.0, momentum=0.99)
    minimiser = ENGINES[engine](objective, perturbed(truth, 0.3), config, no_penalty, identity)
    exact, calls = Objective.batch_correction, []

    def sometimes(self: Objective, *arguments: Any):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        correction = exact(self, *arguments)
        if 8 < len(calls) < 24:
            correction.value = correction.value * float("nan")
            correction.object = correction.object * float("nan")
        return correction

    monkeypatch.setattr(Objective, "batch_correction", sometimes)
    for _ in range(12):
        minimiser.advance()
        assert minimiser.state.finite()
    assert np.isfinite(minimiser.advance())


def test_pie_recovers_from_steps_that_are_too_long() -> None:
    objective, truth, config = problem(engine="pie", object_step=2.0, probe_step=2.0, momentum=0.97)
    start = dataclasses.replace(truth, object=torch.full_like(truth.object, 0.9))
    engine = PieEngine(objective, start, config, no_penalty, identity)
    values = [engine.advance() for _ in range(40)]
    assert engine.data_term == pytest.approx(objective.pixels * float(engine.residuals.mean()) / 4, rel=1e-3)
    assert values[-1] < 0.5 * values[0]
    assert len(set(values[-5:])) > 1  # the steps have not vanished


def test_bad_pixels_are_ignored() -> None:
    objective, truth, config = problem(bad=True)
    value, gradient, _ = objective.gradient(truth)
    assert objective.good is not None
    corrupt = torch.where(objective.good > 0, objective.counts, torch.inf)
    other = Objective(corrupt, objective.good > 0, objective.canvas_size, config)
    other.set_batches(objective.batches, truth.positions)
    other_value, other_gradient, _ = other.gradient(truth)
    assert torch.equal(other_value, value)
    assert torch.equal(gradient.object, other_gradient.object)


def test_orthogonal_modes_predict_the_same_patterns() -> None:
    objective, truth, _ = problem(modes=3)
    mixed = torch.linalg.qr(torch.randn(3, 3, dtype=torch.complex64))[0]
    probe = torch.einsum("ij,jyx->iyx", mixed, truth.probe)
    found = ambiguities.orthogonalise_modes(probe)
    rows = found.reshape(3, -1)
    gram = (rows @ rows.conj().T).abs()
    assert float((gram - torch.diag(gram.diagonal())).max()) < 1e-3 * float(gram.max())
    assert (ambiguities.mode_powers(found).diff() <= 0).all()
    torch.testing.assert_close(
        ambiguities.mode_powers(found), ambiguities.mode_powers(truth.probe), rtol=1e-3, atol=1e-4
    )
    assert float(objective.gradient(dataclasses.replace(truth, probe=found))[0]) == pytest.approx(
        float(objective.gradient(truth)[0]), rel=1e-4
    )


def test_modes_are_added_and_removed() -> None:
    probe = problem()[1].probe
    three = ambiguities.set_mode_count(probe, 3)
    assert three.shape == (3, 16, 16)
    assert float(three.norm()) == pytest.approx(float(probe.norm()), rel=1e-5)
    overlap = (three[0].conj() * probe[0]).sum().abs() / (three[0].norm() * probe[0].norm())
    assert float(overlap) == pytest.approx(1, abs=1e-5)
    assert 0.9 < ambiguities.mode_powers(three)[0] < 1
    assert ambiguities.set_mode_count(three, 1).shape == (1, 16, 16)


def test_the_affine_part_of_moves_is_removed() -> None:
    rng = np.random.default_rng(0)
    reported = torch.from_numpy(rng.uniform(0, 100, (50, 2)))
    matrix = torch.tensor([[1.01, 0.02], [-0.01, 0.98]], dtype=torch.float64)
    moves = reported @ matrix.T + 3 - reported
    assert ambiguities.remove_affine(reported, moves).abs().max() < 1e-9
    noise = torch.from_numpy(rng.normal(size=(50, 2)))
    left = ambiguities.remove_affine(reported, moves + noise)
    torch.testing.assert_close(ambiguities.remove_affine(reported, left), left)
    found, shift = ambiguities.fit_affine(reported.numpy(), (reported + moves).numpy())
    np.testing.assert_allclose(found, matrix.numpy(), atol=1e-9)
    np.testing.assert_allclose(shift, 3, atol=1e-7)


def test_aperture_and_defocus_of_a_wrong_probe_are_found() -> None:
    config = RefineConfig(learn_positions=True)
    scan = simulate("photos", patterns=100, size=32, photons=1e6, seed=4)
    counts = torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(1, 2)))
    true = torch.from_numpy(scan.probe)
    assert scan.truth is not None
    objective = Objective(counts, None, (scan.truth.shape[0], scan.truth.shape[1]), config)
    wrong = defocus_probe(true, -1.2)
    shaped = impose_aperture(wrong, counts, None)
    assert float(shaped.norm()) == pytest.approx(float(wrong.norm()), rel=1e-3)
    positions = torch.from_numpy(scan.positions)
    state = State(torch.full(scan.truth.shape, 0.8 + 0j), wrong, positions, torch.zeros(100).double())
    with torch.no_grad():
        found = find_defocus(objective, state, config)

    def similarity(probe: torch.Tensor) -> float:
        return float((probe.conj() * true).sum().abs() / (probe.norm() * true.norm()))

    assert similarity(wrong) < 0.9
    assert similarity(found) > 0.97


def test_trial_patterns_are_those_that_differ_most() -> None:
    axis = torch.arange(12, dtype=torch.float64)
    positions = torch.cartesian_prod(axis, axis)
    counts = torch.full((144, 8, 8), 9.0)
    featured = (positions - torch.tensor([8.0, 3.0])).norm(dim=1) < 2
    counts[featured, 2:4] = torch.rand(int(featured.sum()), 2, 8) * 100
    found = select_trial_patterns(counts, positions, 12)
    assert len(found) == 12
    assert set(featured.nonzero().flatten().tolist()) <= set(found.tolist())
    assert found.tolist() == sorted(found.tolist())
    assert len(select_trial_patterns(counts[:5], positions[:5], 12)) == 5


def test_the_lowest_inner_minimum_is_interpolated() -> None:
    points = np.linspace(-2, 2, 5)
    assert lowest_inner_minimum(points, [0.0, 3.0, 2.0, 1.0, 3.0]) == pytest.approx(0.833, abs=0.001)
    assert lowest_inner_minimum(points, [5.0, 4.0, 3.0, 2.0, 1.0]) == 2.0


def test_the_position_of_an_outlier_is_found() -> None:
    objective, truth, _ = problem(learn_positions=True)
    displaced = truth.copy()
    displaced.positions[12] += torch.tensor([4.0, -4.0])
    objective.set_anchors(displaced.positions)
    residuals = objective.gradient(displaced)[2]
    outliers = find_outliers(residuals)
    assert 12 in outliers.tolist()
    found = search_positions(objective, displaced, outliers, displaced.positions, 6)
    assert (found[12] - truth.positions[12]).abs().max() <= 1
    others = np.arange(25) != 12
    assert (found[others] - truth.positions[others]).abs().max() < 1e-12


def test_an_engine_resumes_from_its_saved_state() -> None:
    objective, truth, config = problem(**EVERYTHING)
    for kind in (PieEngine, LbfgsEngine):
        engine = kind(objective, perturbed(truth), config, no_penalty, identity)
        for _ in range(4):
            engine.advance()
        saved = copy.deepcopy(engine.state_dict())  # its tensors are those of the engine
        resumed = kind(problem(**EVERYTHING)[0], truth.copy(), config, no_penalty, identity)
        first = [engine.advance() for _ in range(3)]
        resumed.load_state_dict(saved)
        assert [resumed.advance() for _ in range(3)] == first
        assert all(torch.equal(a, b) for a, b in zip(resumed.state, engine.state, strict=True))
