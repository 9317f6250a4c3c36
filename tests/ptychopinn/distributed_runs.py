# SPDX-License-Identifier: BSD-3-Clause
"""Trainings and reconstructions for test_distributed.py, which runs them in one process and, by torchrun, in two.

Results are written to a folder, and compared by the test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tiny_runs import tiny

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import reconstruct
from ptychopinn.models import PtychoModel
from ptychopinn.physics.simulate import simulate
from ptychopinn.runtime.processes import processes, rank_and_size, shared_errors
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import train

#: Rates so low that the rounding of sums in another order is not amplified: what is compared is the arithmetic.
LOW = {"learning_rate": 2e-4, "epochs": 3, "batch_size": 3}

#: 25 patterns in batches of 3 groups of 4: shards of two groups and of one, and an empty shard of the last batch.
TRAININGS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"training": LOW},
    "everything": {
        "data": {"pool": 6},
        "model": {"learn_positions": True, "learn_scale": True},
        "training": {**LOW, "average": 0.9, "accumulate": 2, "total_variation": 0.1, "schedule": "plateau"},
    },
    "supervised": {"training": {**LOW, "supervised": True, "epochs": 1}},
    "merged": {
        "data": {"group_size": 1},
        "model": {"learn_positions": True},
        "training": {**LOW, "merge": 4, "merge_pool": 8, "epochs": 2},
    },
    "one group": {"training": {**LOW, "batch_size": 1, "loss": "amplitude", "epochs": 1}},
}
RECONSTRUCTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {"augment": 2, "uncertainty": "overlaps", "coverage": None, "batch_size": 5},
    "as they are": {"synchronise": False},
}


def scan_with_bad_pixels() -> Scan:
    scan = simulate("dead_leaves", patterns=25, size=32, photons=1e5, seed=3)
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 4:9] = bad[20, 20] = True
    return Scan(**{**vars(scan), "bad_pixels": bad})


def networks(scan: Scan) -> list[PtychoModel]:
    """Return two models with random weights, which do not predict the same."""
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, scan.patch_size)
        model.illumination.set_probe(torch.from_numpy(scan.probe))
        torch.nn.init.normal_(model.generator.network.leave.weight, std=0.1)
        models.append(model)
    return models


def run_all(folder: Path) -> None:
    scan = scan_with_bad_pixels()
    for name, sections in TRAININGS.items():
        with first_gradients(folder / f"{name}.pt"), pictures(name == "plain"):
            train(scan, folder / name, tiny(**sections))
    cut = {**LOW, "epochs": 2, "schedule": "constant"}
    deterministic = {"deterministic": True}
    with pictures(False):
        for out, epochs in (("uninterrupted", 2), ("resumed", 1)):
            train(scan, folder / out, tiny(training={**cut, "epochs": epochs}, execution=deterministic))
        train(scan, folder / "resumed", tiny(training=cut, execution=deterministic), resume=True)
    for name, inference in RECONSTRUCTIONS.items():
        config = Config.from_dict({"data": {"group_size": 4}, "inference": inference})
        result = reconstruct(networks(scan)[: 1 if name == "default" else 2], scan, config)
        # One group, so that the second process has none.
        single = Config.from_dict({"data": {"group_size": 4}, "inference": {**inference, "coverage": 1}})
        few = reconstruct(networks(scan)[0], scan.subset(range(4)), single)
        if rank_and_size()[0] == 0:
            result.save(folder / f"{name}.npz")
            few.save(folder / f"{name}, few.npz")
    (folder / f"failures {rank_and_size()[0]}.json").write_text(json.dumps([failure(who) for who in (0, 1)]))


@contextmanager
def pictures(wanted: bool) -> Iterator[None]:
    """Turn figures off unless wanted, because they take longer than these trainings."""
    with ExitStack() as stack:
        for name in () if wanted else ("plot_scan_overview", "plot_training"):
            stack.enter_context(mock.patch(f"ptychopinn.training.workflow.{name}"))
        yield


@contextmanager
def first_gradients(path: Path) -> Iterator[None]:
    """Write the gradients of the first step that the optimiser receives."""

    def on_before_optimizer_step(self: PtychoModule, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.global_step == 0 and self.trainer.is_global_zero:
            torch.save({name: p.grad for name, p in self.named_parameters() if p.grad is not None}, path)

    with mock.patch.object(PtychoModule, "on_before_optimizer_step", on_before_optimizer_step):
        yield


def failure(who: int) -> list[str]:
    """Return the type and text of the error of this process when the process ``who`` raises one."""
    try:
        with shared_errors():
            if rank_and_size()[0] == who:
                raise InputError("scan.npz: something is wrong")
    except InputError as error:
        return [type(error).__name__, str(error)]
    return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes():
        run_all(Path(sys.argv[1]))
