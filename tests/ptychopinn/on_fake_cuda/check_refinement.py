# SPDX-License-Identifier: BSD-3-Clause
"""Passes of a refinement on a CUDA device of fake tensors: what waits for it, and how much it is given to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import DEVICE, HostWait, fake_cuda, to_fake_cuda
from tiny_refinements import CASES, QUICK, Case, counted_problem, small_scan

from ptycho_ext import ScanPlan
from ptychopinn.refinement import counts as counts_module
from ptychopinn.refinement import lbfgs, objective, pie
from ptychopinn.refinement.counts import upload_counts
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.run import Refinement
from ptychopinn.refinement.state import State


class Host:
    """Replaces ``read_back``: answers with numbers that are accepted, and counts."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions, self.reads = positions, 0

    def __call__(self, values: torch.Tensor) -> np.ndarray:
        assert values.device == DEVICE
        self.reads += 1
        if values.shape == self.positions.shape:
            return self.positions
        return np.concatenate([np.ones(min(len(values), 5)), self.positions.flatten()])[: len(values)]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(counted_problem(CASES["defaults"])[1].positions.numpy())
    for module in (lbfgs, pie, objective):
        monkeypatch.setattr(module, "read_back", host)
    monkeypatch.setattr(ScanPlan, "_make", make_plan)
    return host


def make_plan(self: ScanPlan, positions: torch.Tensor) -> None:
    """Replaces ``plan_tiles``, whose results have a size that a fake tensor cannot tell."""
    assert self._finite  # else the host waits
    self.positions = positions
    self.order, self.tile_start, self.tile_patches = torch.zeros(3, len(positions), dtype=torch.int64, device=DEVICE)


def engine_of(kind: type[Any], case: Case) -> Any:
    """An engine on the device, from a problem of the CPU."""
    small, state, config, regularisers, project = counted_problem(case, to_fake_cuda)
    assert small.device == DEVICE
    return kind(small, state, config, regularisers, project)


@pytest.mark.parametrize("name", CASES)
def test_pass_of_lbfgs_reads_back_once(name: str, host: Host) -> None:
    with torch.no_grad(), fake_cuda() as count:
        engine = engine_of(LbfgsEngine, CASES[name])
        for _ in range(2):
            host.reads = 0
            count.reset()
            engine.advance()
            # Regions that move with the positions are computed on the host, from a copy of them.
            moving = 0 if engine.objective.fixed_regions else 1
            assert (host.reads, count.read_backs, count.synchronised) == (1 + moving, 0, 0)
            assert count.uploads == 3 * moving
            assert count.operators <= CASES[name].lbfgs


def test_pass_of_lbfgs_is_captured(host: Host) -> None:
    with torch.no_grad(), fake_cuda() as count:
        engine = engine_of(LbfgsEngine, CASES["everything"])
        for _ in range(5):
            engine.advance()
        count.reset()
        engine.advance()
        assert (count.operators, count.replays) == (0, 3)


@pytest.mark.parametrize("name", CASES)
def test_pass_of_pie_reads_back_once(name: str, host: Host) -> None:
    with torch.no_grad(), fake_cuda() as count:
        engine = engine_of(PieEngine, CASES[name])
        engine.advance()
        host.reads = 0
        count.reset()
        engine.advance()
        assert (host.reads, count.read_backs, count.synchronised) == (1, 0, 0)
        assert count.uploads <= 3
        assert count.operators <= CASES[name].pie


@pytest.mark.parametrize("kind", [LbfgsEngine, PieEngine])
@pytest.mark.parametrize("wrong", [lambda batch: float(batch.value), lambda batch: batch.value + torch.ones(2)])
def test_wait_and_mixed_devices_in_a_batch_are_noticed(
    kind: type[Any], wrong: Callable[[Any], object], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Objective.batch_correction

    def waiting(self: Objective, *arguments: Any) -> Any:
        batch = exact(self, *arguments)
        wrong(batch)
        return batch

    monkeypatch.setattr(Objective, "batch_correction", waiting)
    with torch.no_grad(), fake_cuda(), pytest.raises((HostWait, RuntimeError), match=r"waits|device"):
        engine_of(kind, CASES["defaults"]).advance()


def test_state_stays_on_the_device(host: Host) -> None:
    with torch.no_grad(), fake_cuda():
        engine = engine_of(LbfgsEngine, CASES["everything"])
        engine.advance()
        assert isinstance(engine.state, State)
        assert all(part.device == DEVICE for part in engine.state)


@pytest.mark.parametrize(
    ("options", "reads", "uploads"),
    [
        ({}, 1, 0),
        ({"learn_positions": True, "learn_intensities": True, "modes": 2}, 1, 0),  # with a search of the defocus
        ({"learn_positions": True, "find_defocus": False, "interpolation": "bilinear"}, 2, 3),
    ],
    ids=["defaults", "everything", "bilinear with positions"],
)
def test_refinement_of_a_scan(
    options: dict[str, Any], reads: int, uploads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passes of "lbfgs" that follow the warm-up, with all that comes before, and the result."""
    monkeypatch.setattr(ScanPlan, "_make", make_plan)
    config = dataclasses.replace(QUICK, batch_size=None, warmup=2, **options)
    with torch.no_grad(), fake_cuda(answer=True) as count:
        run = Refinement(small_scan(patterns=64), None, config, DEVICE, None, 1)
        assert run.objective.counts.device == DEVICE and run.objective.counts.dtype == torch.uint16
        assert run.objective.batch_size() == 1 << 14  # pixels of 4,096 patterns of 64 px
        for index in range(8):
            count.reset()
            run.advance()
            if index > 2:
                assert (count.read_backs, count.uploads) == (reads, uploads)
        assert count.replays == (3 if reads == 1 else 2)
        assert run.result().object.shape == run.geometry.shape


@pytest.mark.parametrize("kind", [LbfgsEngine, PieEngine])
def test_counts_are_streamed_where_the_device_does_not_hold_them(kind: type[Any], host: Host) -> None:
    with torch.no_grad(), fake_cuda() as count:
        small, state, config, regularisers, project = counted_problem(CASES["defaults"], to_fake_cuda)
        counts = torch.ones(25, 16, 16, dtype=torch.uint16, device="cpu")
        streamed = Objective(counts, None, small.canvas_size, config, DEVICE)
        engine = kind(streamed, state, config, regularisers, project)
        engine.advance()
        count.reset()
        engine.advance()
        # Four batches, and the regions of "pie"; before the third batch its pinned buffer has to be free.
        assert (count.uploads, count.read_backs) == (4 + 3 * (kind is PieEngine), 0)
        assert count.synchronised == 2 and count.replays == 0


def test_counts_that_do_not_fit_stay_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = small_scan(patterns=36)
    with fake_cuda():
        assert upload_counts(scan.counts, DEVICE).device == DEVICE
        monkeypatch.setattr(counts_module, "free_memory", lambda device: scan.counts.nbytes)
        held = upload_counts(scan.counts, DEVICE)
    assert held.device.type == "cpu" and held.dtype == torch.uint16 and held.shape == scan.counts.shape
