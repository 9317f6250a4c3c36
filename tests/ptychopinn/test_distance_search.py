# SPDX-License-Identifier: BSD-3-Clause
"""The search of the distances between slices before the first pass: a closed loop, when it is done, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import make_slices
from ptychopinn.refinement import distance_search, run, workflow
from ptychopinn.refinement.distance_search import find_distances, searches_distances
from ptychopinn.refinement.run import Progress, Refinement
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

CPU = torch.device("cpu")
PIXEL, ENERGY = 2e-8, 8e3
#: Depth of field of an object pixel, metres.
DEPTH = PIXEL**2 / (1.23984198e-6 / ENERGY)
LEARN = RefineConfig(learn_slice_distances=True, split_half=False, iterations=8, tolerance=0.0)


def thick(true: tuple[float, ...], patterns: int = 100, seed: int = 5) -> Scan:
    """A thick sample with distances in units of the depth of field."""
    slices = make_slices(("photos", "dead_leaves", "lines")[: len(true) + 1], (120, 105), seed=1)
    return simulate(
        slices, probe="defocused", size=32, patterns=patterns, photons=1e6, step=4, jitter=1, seed=seed,
        pixel_size=PIXEL, energy=ENERGY, experiment=Experiment(slice_distances=tuple(DEPTH * part for part in true)),
    )  # fmt: skip


def stated(scan: Scan, factor: float) -> Scan:
    """The scan with other distances, and a probe of another defocus."""
    distances = tuple(factor * part for part in scan.experiment.slice_distances)
    probe = defocus_probe(torch.from_numpy(scan.probe), 0.5).numpy()
    return replace(scan, probe=probe, experiment=Experiment(slice_distances=distances))


def test_distance_and_defocus_are_found() -> None:
    scan = thick((25.0,))
    progress = Refinement(stated(scan, 0.45), None, LEARN, CPU, None, 100)
    before = progress.state.probe
    with torch.no_grad():
        distances, probe = find_distances(progress.objective, progress.state, LEARN)
    assert float(distances[0]) / DEPTH == pytest.approx(25, rel=0.1)
    assert float(probe.norm()) == pytest.approx(float(before.norm()), rel=1e-5)

    def similarity(one: torch.Tensor) -> float:
        true = torch.from_numpy(scan.probe)
        return float((one.conj() * true).sum().abs() / (one.norm() * true.norm()))

    assert similarity(probe) > similarity(before) + 0.02


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance_search, "_PASSES", (1, 2))


@pytest.mark.usefixtures("short")
def test_distances_keep_their_ratio_and_a_known_probe_stays() -> None:
    scan = thick((10.0, 25.0), patterns=25)
    progress = Refinement(scan, None, replace(LEARN, learn_probe=False), CPU, None, 100)
    with torch.no_grad():
        distances, probe = find_distances(progress.objective, progress.state, progress.config)
    assert float(distances[1] / distances[0]) == pytest.approx(2.5)
    assert torch.equal(probe, torch.from_numpy(scan.probe))


def test_it_is_done_from_scratch_where_distances_are_refined() -> None:
    of_slices, thin = Experiment(slice_distances=(1e-6,)), Experiment()
    fixed = RefineConfig()
    assert searches_distances(LEARN, of_slices, scratch=True)
    assert not searches_distances(LEARN, of_slices, scratch=False)
    assert not searches_distances(fixed, of_slices, scratch=True)
    assert not searches_distances(replace(LEARN, find_slice_distances=False), of_slices, scratch=True)
    always = replace(fixed, find_slice_distances=True)
    assert searches_distances(always, of_slices, scratch=False) and not searches_distances(always, thin, scratch=True)


@pytest.mark.usefixtures("short")
def test_a_resumed_refinement_does_not_search_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = thick((25.0,), patterns=36)

    def save(progress: Progress) -> None:
        if progress.passes == 6:
            progress.save(tmp_path / "6.ckpt")

    uninterrupted = refine(scan, None, LEARN, "cpu", progress=save, every=1, accept="all")
    monkeypatch.setattr(run, "find_distances", None)
    resumed = refine(scan, None, LEARN, "cpu", resume=tmp_path / "6.ckpt", accept="all")
    assert np.array_equal(uninterrupted.object, resumed.object)
    assert uninterrupted.experiment.slice_distances == resumed.experiment.slice_distances


def test_split_half_begins_with_the_distances_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = thick((25.0,), patterns=36)
    config = replace(LEARN, split_half=True, iterations=2)
    found = replace(scan.experiment, slice_distances=(40 * DEPTH,))
    monkeypatch.setattr(run, "find_distances", lambda objective, state, _: (state.distances * 1.6, state.probe))
    begun: list[Any] = []

    class Recorded(workflow.Refinement):
        def iterate(self) -> None:
            begun.append((self.label, self.state.distances.tolist(), self.config.find_slice_distances))
            super().iterate()

    monkeypatch.setattr(workflow, "Refinement", Recorded)
    result = refine(scan, None, config, "cpu", accept="all")
    assert [entry[2] for entry in begun] == ["auto", False, False]
    assert begun[0][1] == [pytest.approx(25 * DEPTH)]
    assert begun[1][1] == begun[2][1] == list(result.experiment.slice_distances)
    assert result.experiment.slice_distances == pytest.approx(found.slice_distances, rel=0.2)
