# SPDX-License-Identifier: BSD-3-Clause
"""What a refinement learns of an experiment: the first background, its prior, and the scale of distances of slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import make_slices
from ptychopinn.refinement.background_prior import BackgroundPrior
from ptychopinn.refinement.initial import dark_counts
from ptychopinn.refinement.run import Refinement
from ptychopinn.refinement.scaling import inverse_root_curvature
from ptychopinn.scan import Scan

CPU = torch.device("cpu")
SIZE = 32


def scan_of(background: np.ndarray) -> Scan:
    experiment = Experiment(background=background.astype(np.float32))
    return simulate("photos", size=SIZE, patterns=100, photons=1e6, step=5, seed=5, experiment=experiment)


def test_gradient_of_the_prior_of_a_background() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = BackgroundPrior(100)
    root = 1 + 0.2 * torch.randn(8, 9, dtype=torch.float64, generator=generator)
    gradient = torch.zeros_like(root)
    value = prior(root, gradient)
    step = 1e-4 * torch.randn(8, 9, dtype=torch.float64, generator=generator)
    ends = [float(prior(root + sign * step, torch.zeros_like(root))) for sign in (1, -1)]
    assert float(value) > 0
    assert (ends[0] - ends[1]) / 2 == pytest.approx(2 * float((gradient * step).sum()), rel=1e-5)


def test_prior_compares_neighbours_on_the_detector() -> None:
    """An edge between opposite sides of the detector costs nothing, one through its middle does."""
    prior = BackgroundPrior(100)
    shifted = torch.ones(8, 8, dtype=torch.float64)
    shifted[:, 4:] = 2  # from the middle of the detector to its border
    value = float(prior(torch.fft.ifftshift(shifted), torch.zeros_like(shifted)))
    assert value == pytest.approx(8 * (np.sqrt(1 + 10.0**2) - 1) / 2)


def test_first_background_is_dark_in_the_middle_and_has_hot_pixels() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    background = 2 + x / SIZE
    background[3, 5] = 200.0
    first = dark_counts(scan_of(background))
    middle = np.hypot(y - 16, x - 16) < 4
    assert first[middle].mean() < 10 and first[3, 5] > 100
    assert np.delete(first.ravel(), 3 * SIZE + 5).max() < 10


def test_learned_background_is_small_where_all_patterns_are_bright() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    background = 3 + x / SIZE - 0.5 * y / SIZE
    scan = scan_of(background)
    run = Refinement(
        replace(scan, experiment=Experiment()),
        None,
        RefineConfig(iterations=40, split_half=False, learn_background=True),
        CPU,
        None,
        100,
    )
    with torch.no_grad():
        run.iterate()
    found = run.result().experiment.background
    assert found is not None
    bright = np.quantile(scan.counts, 0.1, axis=0) > 50
    assert bright.sum() > 20
    assert np.abs(found - background)[bright].mean() < 3


def test_scale_of_a_distance_is_that_of_the_measured_curvature() -> None:
    slices = make_slices(("photos", "dead_leaves"), (110, 100), seed=1)
    pixel, energy = 2e-8, 8e3
    distance = 25 * pixel**2 / (1.23984198e-6 / energy)
    scan = simulate(
        slices, size=SIZE, patterns=25, photons=1e5, step=4, seed=5, pixel_size=pixel, energy=energy,
        experiment=Experiment(slice_distances=(distance,)),
    )  # fmt: skip
    config = RefineConfig(iterations=12, split_half=False, learn_slice_distances=True, tolerance=0.0)
    run = Refinement(scan, None, config, CPU, None, 100)
    with torch.no_grad():
        run.iterate()
        assert run.engine is not None
        state, objective = run.engine.state, run.objective
        scale = inverse_root_curvature(objective, state, config, objective.illumination(state.probe)).distances
        relative = float(scale / state.distances)
        ends = [
            objective.predict(replace(state, distances=state.distances * factor), torch.arange(25)).double()
            for factor in (0.99, 1.01)
        ]
    slopes, mean = (ends[1] - ends[0]) / 0.02, (ends[0] + ends[1]) / 2
    curvature = float((slopes.square() / (4 * (mean + 0.1))).sum())
    assert 0.4 < relative * curvature**0.5 < 1.01
