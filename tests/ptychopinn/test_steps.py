# SPDX-License-Identifier: BSD-3-Clause
"""Steps of a training: as many at once as one likes, counts on the device, rows of learned positions."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import rows, same, tiny, tiny_scan

from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.batches.resident import ResidentCounts, fits_on
from ptychopinn.batches.sizes import batch_groups, rate_factor
from ptychopinn.config import Config
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.optimiser import CompositeOptimizer, RowAdam
from ptychopinn.training.workflow import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_steps_at_once_change_nothing(scan: Scan, tmp_path: Path, at_once: int) -> None:
    options: dict[str, Any] = {
        "model": {"learn_positions": True},
        "training": {"batch_size": 1, "average": 0.9, "epochs": 3},
    }
    runs = [
        train(scan, tmp_path / str(k), tiny(**options, execution={"steps_at_once": k, "accelerator": "cpu"}))
        for k in (1, at_once)
    ]
    assert same(*runs)
    first, other = ([{k: v for k, v in row.items() if "loss" not in k} for row in rows(run)] for run in runs)
    assert first == other
    for name, loss in runs[0].losses.items():
        assert runs[1].losses[name] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": {"learn_positions": True}, "training": {"total_variation": 0.1}},
        {"training": {"loss": "amplitude", "accumulate": 2}},
        {"training": {"supervised": True}},
    ],
    ids=["defaults", "positions and variation", "accumulated", "supervised"],
)
def test_parts_of_a_large_batch_change_nothing_but_rounding(
    options: dict[str, Any], scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU batches beyond the cache are worked through in parts, here of one group, and of two and three."""
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 4:9] = True
    scan, runs = dataclasses.replace(scan, bad_pixels=bad), []
    training = {"batch_size": 5, "epochs": 1, "learning_rate": 1e-4, **options.get("training", {})}
    for groups in (100, 1, 3):
        monkeypatch.setattr("ptychopinn.training.shard_weights._PIXELS", groups * 4 * 32 * 32)
        config = tiny(**{**options, "training": training})
        runs.append(train(scan, tmp_path / str(groups), config))
    for other in runs[1:]:
        for name, loss in runs[0].losses.items():
            assert other.losses[name] == pytest.approx(loss, rel=1e-4)
        at_once, parts = runs[0].model.state_dict(), other.model.state_dict()
        for name, value in at_once.items():
            torch.testing.assert_close(
                parts[name], value, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: name + text
            )


def test_batches_of_a_network_with_statistics_of_batches_are_not_split(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptychopinn.training.shard_weights._PIXELS", 1)
    seen: list[int] = []
    loss = PtychoModule._loss

    def count(self: PtychoModule, batch: Any, *arguments: Any) -> Any:
        seen.append(len(batch.counts))
        return loss(self, batch, *arguments)

    monkeypatch.setattr(PtychoModule, "_loss", count)
    train(scan, tmp_path / "parts", tiny(training={"epochs": 1}))
    assert set(seen) == {1}
    seen.clear()
    monkeypatch.setattr("ptychopinn.training.steps._BatchNorm", torch.nn.Module)  # any layer
    train(scan, tmp_path / "unsplit", tiny(training={"epochs": 1}))
    assert max(seen) == 4


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("masked", [False, True])
def test_resident_counts_are_those_of_a_batch(dtype: str, masked: bool) -> None:
    first = simulate("dead_leaves", patterns=9, size=32, photons=1e5, seed=3)
    counts = np.minimum(first.counts, 255).astype(dtype)
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 4:9] = bad[20, 20] = True
    if masked:
        counts[:, bad] = 1e30 if dtype[0] == "f" else np.iinfo(dtype).max
    first = dataclasses.replace(first, counts=counts, bad_pixels=bad if masked else None)
    second = dataclasses.replace(first, counts=counts[::-1].copy())
    resident = ResidentCounts([first, second], CPU)
    assert resident.counts.dtype == torch.from_numpy(first.counts).dtype and resident.counts.shape == (18, 32, 32)
    for index, scan in enumerate((first, second)):
        members = torch.tensor([[3, 1], [0, 8]])
        batch = GroupDataset(scan, members.numpy()).collate([0, 1])
        torch.testing.assert_close(resident(members + 9 * index), batch.counts, rtol=1e-6, atol=0)


def test_scans_of_different_types_are_resident_in_float32(scan: Scan) -> None:
    other = dataclasses.replace(scan, counts=scan.counts.astype(np.float32))
    resident = ResidentCounts([scan, other], CPU)
    assert resident.counts.dtype == torch.float32
    assert torch.equal(resident(torch.arange(16)), resident(torch.arange(16, 32)))


def test_memory_decides_what_is_resident(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, fits in ((2 * scan.counts.nbytes, True), (2 * scan.counts.nbytes - 2, False)):
        monkeypatch.setattr("ptychopinn.batches.resident.free_memory", lambda device, free=free: free)
        assert fits_on(CPU, [scan]) is fits


def test_rows_step_as_with_adam_when_all_are_seen() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(5, 2)) for _ in range(2))
    rows_of, all_of = RowAdam({"params": [ours]}, 0.1), torch.optim.Adam([theirs], 0.1)
    for _ in range(20):
        gradient = torch.randn(5, 2)
        theirs.grad = gradient
        all_of.step()
        order = torch.randperm(5)
        rows_of.add_gradient(order[None], gradient[order][None])
        rows_of.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_seen_stay_and_equal_rows_are_added() -> None:
    parameter = torch.nn.Parameter(torch.zeros(6, 2))
    optimiser = CompositeOptimizer([RowAdam({"params": [parameter]}, 0.1)])
    (part,) = optimiser.parts
    assert isinstance(part, RowAdam)
    part.add_gradient(torch.tensor([1, 4]), torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
    optimiser.step()
    moved = parameter.detach().clone()
    assert torch.equal(moved[[0, 2, 3, 5]], torch.zeros(4, 2))
    torch.testing.assert_close(moved[[1, 4]], torch.tensor([[-0.1, 0.1], [-0.1, 0.0]]))
    # Three gradients of one row are one of their sum; the others do not move any more, whatever their momentum.
    part.add_gradient(torch.tensor([2, 2]), torch.tensor([[1.0, 0.0], [1.0, 3.0]]))
    part.add_gradient(torch.tensor([2]), torch.tensor([[-4.0, 0.0]]))
    optimiser.step()
    assert torch.equal(parameter[[0, 1, 3, 4, 5]], moved[[0, 1, 3, 4, 5]])
    torch.testing.assert_close(parameter[2].detach(), torch.tensor([0.1, -0.1]))
    optimiser.step()  # nothing was seen
    torch.testing.assert_close(parameter[2].detach(), torch.tensor([0.1, -0.1]))


def test_state_of_rows_is_saved_and_loaded() -> None:
    torch.manual_seed(0)
    made = []
    for _ in range(2):
        parameter = torch.nn.Parameter(torch.zeros(4, 2))
        made.append((parameter, CompositeOptimizer([RowAdam({"params": [parameter]}, 0.1)])))
    (first, one), (second, two) = made
    members, gradient = torch.tensor([3, 0]), torch.randn(2, 2)
    one.parts[0].add_gradient(members, gradient)  # type: ignore[attr-defined]
    one.step()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    second.data.copy_(first.data)
    for optimiser in (one, two):
        optimiser.parts[0].add_gradient(members, -gradient)  # type: ignore[attr-defined]
        optimiser.step()
    assert torch.equal(first, second)


def test_a_batch_is_larger_on_a_gpu_and_in_several_processes() -> None:
    config, cuda = Config(), torch.device("cuda")
    sizes = [batch_groups(config, size, cuda) for size in (32, 64, 128, 256)]
    assert sizes == [16, 4, 1, 1] and batch_groups(config, 64, CPU) == 1
    assert batch_groups(config, 64, cuda, 2) == 8 and batch_groups(config, 64, CPU, 3) == 3
    assert rate_factor(config, 4) == 2 and rate_factor(config, 1) == 1
    given = Config.from_dict({"training": {"batch_size": 5}})
    assert batch_groups(given, 64, cuda, 2) == 5 and rate_factor(given, 5) == 1


@pytest.mark.parametrize("pool", [None, 7])
@pytest.mark.parametrize("validation", ["scattered", "region"])
@pytest.mark.parametrize(
    "rule", [{}, {"neighbours": "quadrants"}, {"max_distance": 25.0, "min_distance": 1.0}], ids=str
)
def test_canvases_of_all_epochs_have_one_size_where_shapes_are_fixed(
    pool: int | None, validation: str, rule: dict[str, Any]
) -> None:
    scan = simulate("dead_leaves", patterns=60, size=32, photons=1e5, seed=3)
    sections = {"group_size": 4, "pool": pool, "validation": validation, "validation_fraction": 0.2, **rule}
    data = ScanDataModule([scan], Config.from_dict({"data": sections}), canvas_multiple=4)
    data.fixed_shapes = True
    sizes, drawn = set(), []
    for epoch in range(6):
        data.trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
        for steps in data.train_dataloader():
            sizes.add(steps.patterns.canvas_size)
        data.fixed_shapes = False
        drawn += [steps.patterns.canvas_size for steps in data.train_dataloader()]
        data.fixed_shapes = True
    (size,) = sizes
    assert np.max(drawn, axis=0).tolist() <= list(size) and all(side % 4 == 0 for side in size)
    if pool is None and validation == "scattered" and not rule:
        groups = group_patterns(scan.positions, 4)[data.training_leaders]
        assert size == GroupDataset(scan, groups, 4).canvas_size


def test_checkpoint_of_an_earlier_version_has_its_steps(scan: Scan, tmp_path: Path) -> None:
    """Lightning counted them elsewhere before the module made them itself."""
    run = train(scan, tmp_path, tiny())
    path = run.folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    counts = checkpoint["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]["total"]
    assert set(counts.values()) == {checkpoint["global_step"]} and checkpoint["global_step"] > 0
    counts.update(dict.fromkeys(counts, 0))
    PtychoModule(**checkpoint["hyper_parameters"]).on_load_checkpoint(checkpoint)
    assert set(counts.values()) == {checkpoint["global_step"]}
