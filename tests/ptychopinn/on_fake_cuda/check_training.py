# SPDX-License-Identifier: BSD-3-Clause
"""The training step on CUDA: captured, without a wait for the device, with a bounded number of operators."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import DEVICE, HostWait, fake_cuda, to_fake_cuda
from tiny_runs import tiny

from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.steps import Steps
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.averages import AverageOfSteps
from ptychopinn.training.merging import Merging
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.optimiser import make_optimiser
from ptychopinn.training.steps import BatchLosses, StepTables, TrainingSteps

#: Options of a training -> bound on the operators of its step, a twentieth above those that were counted.
CASES: dict[str, tuple[dict[str, dict[str, Any]], int]] = {
    "default": ({}, 541),
    "everything learned": ({"model": {"learn_positions": True, "learn_scale": True, "options": {}}}, 620),
    "accumulated": ({"training": {"accumulate": 2}}, 1106),
    "no total variation": ({"training": {"total_variation": 0.0}}, 470),
    "supervised": ({"training": {"supervised": True}}, 392),
    "merged": ({"data": {"group_size": 1}}, 600),
    "unet": ({"model": {"generator": "unet", "options": {}}}, 432),
    "cnn": ({"model": {"generator": "cnn", "options": {}}}, 533),
    "ffno": ({"model": {"generator": "ffno", "options": {}}}, 582),
    "sru_net": ({"model": {"generator": "sru_net", "options": {}}}, 776),
}


def scan_with_bad_pixels() -> Scan:
    scan = simulate("dead_leaves", patterns=49, size=64, photons=1e5, seed=3)
    bad = np.zeros((64, 64), np.bool_)
    bad[3, 4:9] = True
    return dataclasses.replace(scan, bad_pixels=bad)


def on_device(steps: Steps) -> Steps:
    moved = {name: v.to(DEVICE) for name, v in steps.patterns._asdict().items() if isinstance(v, torch.Tensor)}
    return steps._replace(patterns=steps.patterns._replace(**moved))


class Training:
    """The parts of a training, as the module puts them together, on the fake device."""

    def __init__(self, sections: dict[str, dict[str, Any]], resident: bool = True) -> None:
        scan = scan_with_bad_pixels()
        config = tiny(
            **{"data": {"group_size": 16}, "training": {"batch_size": None}, "model": {"options": {}}} | sections
        )
        self.module = PtychoModule(config.to_dict(), scan.patch_size, 1, scan.n)
        self.module.model.illumination.set_probe(torch.from_numpy(scan.probe))
        average = AverageOfSteps(0.9, None)
        average.setup(None, self.module, "fit")  # type: ignore[arg-type]
        average.on_train_start(None, self.module)  # type: ignore[arg-type]
        average._average_model = to_fake_cuda(average._average_model)
        self.module = to_fake_cuda(self.module)
        average._weights = list(self.module.parameters())
        self.data = ScanDataModule([scan], config, self.module.model.generator.canvas_multiple)
        self.data.place(DEVICE)
        self.module.merging = Merging.of(config.training, self.data)
        if not resident:
            self.data.resident = None
        optimiser = make_optimiser(self.module.model, config, self.data.shape)
        tables = StepTables(self.module.model, self.data.resident, DEVICE)
        self.steps = TrainingSteps(
            self.module._loss, self.module.model, optimiser, tables, clip=0.1, average=average.update
        )
        self.module.held_out_merging = Merging.of(config.training, self.data, held_out=True)
        self.losses = BatchLosses(self.module._held_out, StepTables(self.module.model, self.data.resident, DEVICE))
        self.rates = [[1e-3] * len(optimiser.param_groups)] * 32

    def run(self) -> torch.Tensor:
        """The steps of an epoch, as Lightning's training step does them."""
        loss = torch.zeros((), device=DEVICE)
        for steps in self.data.train_dataloader():
            loss = self.steps.run(on_device(steps), self.rates[: steps.shape[0]])
        return loss


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_nothing(name: str) -> None:
    sections, bound = CASES[name]
    with fake_cuda(answer=True):
        training = Training(sections)
    with fake_cuda() as count:
        training.run()  # the optimisers have their state after that
        assert training.steps._parts[0].replayed
        count.reset()
        training.steps._step()
        assert count.read_backs == count.uploads == count.synchronised == 0
        assert bound / 2 < count.operators <= bound


@pytest.mark.parametrize("resident", [True, False])
def test_epochs_are_replayed(resident: bool) -> None:
    with fake_cuda(answer=True):
        training = Training({}, resident)
    with fake_cuda() as count:
        for _ in range(3):
            loss = training.run()
        assert loss.device.type == "cuda" and count.read_backs == 0
        (part,) = training.steps._parts
        assert part.replayed and count.replays == 3 * 8 - 3
        for steps in training.data.val_dataloader():
            training.losses.run(on_device(steps))
        assert count.read_backs == 0


@pytest.mark.parametrize("where", ["loss", "average"])
def test_a_wait_in_a_step_is_noticed(where: str) -> None:
    with fake_cuda(answer=True):
        training = Training({})
    loss, average = training.steps.loss, training.steps.average
    if where == "loss":
        training.steps.loss = lambda *given: loss(*given) * loss(*given).item()
    else:
        training.steps.average = lambda: (average(), training.steps._losses.sum().item())[0]
    with fake_cuda(), pytest.raises(HostWait):
        training.run()
