# SPDX-License-Identifier: BSD-3-Clause
"""The average of neighbouring groups in the loss: phases, weights, canvases, and what a training draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny

from ptycho_ext import extract_patches
from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import finished
from ptychopinn.batches.neighbourhoods import Neighbourhoods, merged_groups
from ptychopinn.batches.steps import checked
from ptychopinn.config import Config
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.merging import Merging, agreeing_phases
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.shard_weights import Weights

ONE_PROCESS = Weights(1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=49, size=32, step=(5, 4), photons=1e6, seed=1)


def data_of(scan: Scan, **sections: Any) -> ScanDataModule:
    data = ScanDataModule([scan], tiny(**sections), canvas_multiple=4, margin=sections.get("margin", 0))
    data.trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
    return data


class TruthAtGroups:
    """Canvases of the truth, each with a phase of its own, in place of a network."""

    def __init__(self, scan: Scan, factor: float, seed: int) -> None:
        self.truth, self.factor = torch.from_numpy(scan.truth) * factor, factor
        self.random = torch.Generator().manual_seed(seed)

    def at(self, origins: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        canvases = extract_patches(self.truth.expand(len(origins), -1, -1).contiguous(), origins[:, None], size)[:, 0]
        angles = 2 * np.pi * torch.rand(len(origins), generator=self.random)
        return canvases * torch.polar(torch.ones_like(angles), angles)[:, None, None]


@pytest.mark.parametrize(("size", "groups"), [(1, 12), (4, 3)])
def test_true_groups_with_any_phases_average_to_the_truth(scan: Scan, size: int, groups: int) -> None:
    data = data_of(scan, data={"group_size": size}, training={"merge": groups, "merge_pool": 20})
    steps = checked(next(iter(data.train_dataloader())))
    batch = finished(steps.patterns)
    assert batch.counts.shape[1] == size * groups
    merging = Merging(groups, data.group_canvas, 0, 1.0, True)
    parts = merging.split(batch, batch.positions)
    origins = parts.origins + batch.origins.repeat_interleave(groups, 0)
    canvases = TruthAtGroups(scan, 1.0, seed=0).at(origins, merging.canvas_size)
    weight = illumination_weight(torch.from_numpy(scan.probe))
    weights = canvas_illumination(weight, parts.positions, merging.canvas_size)
    average, total = merging.average(canvases, weights, parts.origins, batch.canvas_size)
    truth = TruthAtGroups(scan, 1.0, 0).truth
    expected = extract_patches(truth[None], batch.origins[:1, None].double(), batch.canvas_size)[0]
    illuminated = total[:1] > 1e-3 * total.max()
    turn = (expected.conj() * average[:1])[illuminated].sum()
    turn = turn / turn.abs()
    assert illuminated.float().mean() > 0.2
    assert (average[:1] - turn * expected)[illuminated].abs().max() < 1e-3
    # Without synchronisation the phases cancel each other.
    apart = merging._replace(synchronise=False).average(canvases, weights, parts.origins, batch.canvas_size)[0]
    assert (apart[:1].abs() - expected.abs())[illuminated].abs().mean() > 0.1


def test_phases_are_those_that_agree_best_whatever_the_noise() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(40, 40, generator=random, dtype=torch.complex64)
    origins = torch.tensor([[0, 0], [3, 8], [8, 2], [8, 8]], dtype=torch.float64)
    size, canvas = (32, 32), (40, 40)
    patches = extract_patches(truth.expand(4, -1, -1).contiguous(), origins[:, None], size)[:, 0]
    noisy = patches + 0.7 * torch.randn(patches.shape, generator=random, dtype=torch.complex64)
    angles = torch.tensor([0.3, -2.0, 3.0, 1.0])
    weights = torch.ones(4, *size)
    turned = noisy * torch.polar(torch.ones(4), angles)[:, None, None]
    found = agreeing_phases(turned, weights, origins, canvas, 4)
    assert torch.allclose(found.abs(), torch.ones(4))
    left = torch.angle(found * torch.polar(torch.ones(4), angles))
    assert torch.angle(torch.polar(torch.ones(4), left - left[0])).abs().max() < 0.1
    # A group without overlap keeps its phase, and the others find theirs.
    far = torch.cat([origins[:3], torch.tensor([[200.0, 200.0]], dtype=torch.float64)])
    alone = agreeing_phases(turned, weights, far, (240, 240), 4)
    assert alone[3] == 1 and torch.allclose(alone[:3], found[:3], atol=0.2)


def test_the_truth_has_a_small_loss_however_its_groups_are_turned(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(data={"group_size": 1}, training={"merge": 8, "merge_own": 0.5})
    module = PtychoModule(config.to_dict(), scan.patch_size)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    data = data_of(scan, data={"group_size": 1}, training={"merge": 8})
    batch = finished(checked(next(iter(data.train_dataloader()))).patterns)
    module.merging = Merging(8, data.group_canvas, 0, 0.5, True)
    parts = module.merging.split(batch, batch.positions)
    origins = parts.origins + batch.origins.repeat_interleave(8, 0)
    canvases = TruthAtGroups(scan, 1.0, seed=3).at(origins, data.group_canvas)
    losses = {}
    for name, given in (("truth", canvases), ("flat", torch.ones_like(canvases))):
        monkeypatch.setattr(module.model.generator, "forward", lambda *_, made=given: made)
        losses[name] = module._loss(batch, ONE_PROCESS).item()
    # What is left of the truth is the interpolation of its patches.
    assert losses["truth"] < losses["flat"] / 10
    monkeypatch.setattr(module.model.generator, "forward", lambda *_: canvases)
    module.merging = module.merging._replace(synchronise=False)
    assert module._loss(batch, ONE_PROCESS).item() > 5 * losses["truth"]


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
def test_gradients_reach_network_probe_and_positions(scan: Scan, loss: str) -> None:
    learned = {"learn_probe": True, "learn_positions": True}
    sections = {"data": {"group_size": 1}, "model": learned, "training": {"merge": 6, "loss": loss}}
    module = PtychoModule(tiny(**sections).to_dict(), scan.patch_size, 1, scan.n)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    data = ScanDataModule([scan], tiny(**sections), 4, margin=5)
    data.trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
    module.merging = Merging(6, data.group_canvas, 5, 1.0, True)
    batch = finished(checked(next(iter(data.train_dataloader()))).patterns)
    module._loss(batch, ONE_PROCESS).backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient is None or torch.isfinite(gradient).all(), name
    for name in ("model.generator.network.leave.weight", "model.illumination.lanes", "model.positions.free"):
        found = gradients[name]
        assert found is not None and found.abs().max() > 0, name


def test_a_group_alone_has_its_own_loss(scan: Scan) -> None:
    """One group that is averaged with itself: both terms are the loss of today."""
    config = tiny(data={"group_size": 4})
    module = PtychoModule(config.to_dict(), scan.patch_size)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    data = data_of(scan, data={"group_size": 4})
    batch = finished(checked(next(iter(data.train_dataloader()))).patterns)
    alone = module._loss(batch, ONE_PROCESS)
    module.merging = Merging(1, batch.canvas_size, 0, 1.0, True)
    assert torch.allclose(module._loss(batch, ONE_PROCESS), alone, rtol=1e-3)


def test_neighbours_are_near_different_and_led() -> None:
    positions = np.random.default_rng(0).uniform(0, 50, (40, 2))
    among, leaders = np.arange(0, 40, 2), np.array([0, 4, 38])
    near = Neighbourhoods(positions, among, leaders, pool=6)
    rng = np.random.default_rng(1)
    drawn = near.draw(np.array([4, 38, 4]), 4, rng)
    assert drawn[:, 0].tolist() == [4, 38, 4]
    assert set(drawn.ravel()) <= set(among)
    for row in drawn:
        assert len(set(row)) == 4
        distances = np.linalg.norm(positions[among] - positions[row[0]], axis=1)
        assert set(row) <= set(among[np.argsort(distances)[:7]])
    assert near.draw(np.array([0]), 10, rng).shape == (1, 10)  # more than there are: some are repeated
    every = [tuple(near.draw(np.array([0]), 4, rng)[0]) for _ in range(20)]
    assert len(set(every)) > 5


def test_patterns_held_out_are_unseen_by_training(scan: Scan) -> None:
    data = data_of(scan, data={"group_size": 1, "validation_fraction": 0.5}, training={"merge": 5, "merge_pool": 9})
    held = set(data.validation_leaders.tolist())
    assert len(held) == 5
    for epoch in range(3):
        data.trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
        for steps in data.train_dataloader():
            assert not held & set(checked(steps).patterns.members.flatten().tolist())
    for steps in data.val_dataloader():
        assert set(checked(steps).patterns.members[:, 0].tolist()) <= held


@pytest.mark.parametrize("size", [1, 4])
def test_canvases_of_all_epochs_have_one_size_where_shapes_are_fixed(scan: Scan, size: int) -> None:
    sections = {
        "data": {"group_size": size, "pool": 7 if size > 1 else None},
        "training": {"merge": 3, "merge_pool": 9},
    }
    data = ScanDataModule([scan], tiny(**sections), canvas_multiple=4)
    sizes, drawn = set(), []
    for epoch in range(4):
        data.trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
        for fixed, found in ((True, sizes), (False, None)):
            data.fixed_shapes = fixed
            for steps in data.train_dataloader():
                patterns = checked(steps).patterns
                if found is None:
                    drawn.append(patterns.canvas_size)
                else:
                    found.add(patterns.canvas_size)
                inner = patterns.positions.reshape(-1, size, 2)
                assert (inner - inner.amin(1, keepdim=True)).max() + 32 <= max(data.group_canvas)
    ((height, width),) = sizes
    assert np.max(drawn, axis=0).tolist() <= [height, width]


def test_merging_is_the_default_of_single_patterns() -> None:
    def merged(size: int, **training: Any) -> int:
        return merged_groups(Config.from_dict({"data": {"group_size": size}, "training": training}))

    assert merged(1) > 1 and merged(16) == 1
    assert merged(1, merge=1) == 1 and merged(16, merge=2) == 2
    assert merged(1, supervised=True) == 1
