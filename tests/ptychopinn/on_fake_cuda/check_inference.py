# SPDX-License-Identifier: BSD-3-Clause
"""A batch of a prediction on CUDA: captured, without a wait for the device, with a bounded number of operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fake_cuda import DEVICE, HostWait, fake_cuda, to_fake_cuda
from torch import Tensor

from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.config import Config
from ptychopinn.inference.batches import Resident, _Work, counts_on, on_device, predict_batches
from ptychopinn.models import PtychoModel
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

#: Bounds on the operators of a batch, by generator: a twentieth above those that were counted.
OPERATORS = {"unrolled": 168, "unet": 200, "cnn": 180, "ffno": 219, "sru_net": 313}


@pytest.fixture(scope="module")
def scan() -> Scan:
    scan = simulate("dead_leaves", patterns=49, size=32, photons=1e5, seed=1)
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 4:9] = True
    return dataclasses.replace(scan, bad_pixels=bad)


def model_and_groups(scan: Scan, generator: str) -> tuple[PtychoModel, GroupDataset]:
    model = on_device(PtychoModel(generator, {}, 32, group_size=4), torch.device("cpu"))
    return model, GroupDataset(scan, group_patterns(scan.positions, 4), model.generator.canvas_multiple)


def batch_of(scan: Scan, generator: str, orientation: int = 0) -> Callable[[], tuple[Tensor, Tensor]]:
    model, dataset = model_and_groups(scan, generator)
    counts = counts_on(DEVICE, scan)
    assert counts is not None and counts.counts.is_cuda
    resident, probe = Resident(counts, dataset), torch.from_numpy(scan.probe).to(DEVICE)
    weight = torch.ones(32, 32, device=DEVICE)
    work = _Work(to_fake_cuda(model), weight, probe, dataset.canvas_size, orientation)
    groups = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    return lambda: work(*resident.gather(groups))


@pytest.mark.parametrize("generator", OPERATORS)
@pytest.mark.parametrize("orientation", [0, 7])
def test_a_batch_waits_for_nothing(scan: Scan, generator: str, orientation: int) -> None:
    with torch.no_grad(), fake_cuda() as count:
        work = batch_of(scan, generator, orientation)
        count.reset()
        canvases, weights = work()
        assert canvases.is_cuda and weights.is_cuda and canvases.shape == weights.shape
        assert count.read_backs == count.uploads == count.synchronised == 0
        assert OPERATORS[generator] / 2 < count.operators <= OPERATORS[generator]


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_replayed(scan: Scan, resident: bool) -> None:
    config = Config.from_dict({"data": {"group_size": 4}, "inference": {"batch_size": 3}})
    model, dataset = model_and_groups(scan, "unrolled")
    with fake_cuda() as count:
        counts = counts_on(DEVICE, scan) if resident else None
        model, probe = to_fake_cuda(model), torch.from_numpy(scan.probe).to(DEVICE)
        found = [
            len(canvases) for canvases, _ in predict_batches(model, dataset, config, DEVICE, 0, probe, None, counts)
        ]
        assert found == [3] * 16 + [1] and count.replays == 17 - 3
        assert count.read_backs == 0


def test_a_wait_in_a_batch_is_noticed(scan: Scan) -> None:
    with torch.no_grad(), fake_cuda(), pytest.raises(HostWait):
        work = batch_of(scan, "unrolled")
        forward = work.__closure__  # the work is called below with a generator that reads a value back
        assert forward is not None
        parts = next(cell.cell_contents for cell in forward if isinstance(cell.cell_contents, _Work))
        ordinary = parts.model.generator.forward
        parts.model.generator.forward = lambda counts, *rest: ordinary(counts / counts.amax().item(), *rest)
        work()
