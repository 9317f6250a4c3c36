# SPDX-License-Identifier: BSD-3-Clause
"""The library on a CUDA device, by its public functions: nothing mixes devices, and the host waits rarely.

Bounds are what was counted, rounded up: a change that needs more has to say so here.
"""

from __future__ import annotations

import pytest
import torch
from fake_cuda import DEVICE, Counting, fake_cuda

from ptychopinn.config import Config, RefineConfig
from ptychopinn.inference.predict import reconstruct
from ptychopinn.models import PtychoModel
from ptychopinn.physics.likelihood import LOSSES
from ptychopinn.physics.simulate import simulate
from ptychopinn.refinement.workflow import refine

OPTIONS = {"steps": 2, "width": 8, "state": 2}
CONFIG = Config.from_dict({"data": {"group_size": 4}, "inference": {"batch_size": 4}})
#: Operators of a forward pass, a loss and its gradient.
STEP = {"unrolled": 310, "cnn": 360, "unet": 315, "ffno": 440, "sru_net": 625}
#: Operators, waits and uploads: of a reconstruction in 7 batches, of a pass of "pie" over 2 batches, and of a
#: refinement by "lbfgs" that begins with 5 such passes.
RECONSTRUCTION = (1050, 5, 30)
PIE_PASS = (305, 15, 5)
LBFGS = (3000, 135, 46)


def within(found: tuple[int, int, int], bounds: tuple[int, int, int]) -> bool:
    return all(number <= bound for number, bound in zip(found, bounds, strict=True))


def counts_of(count: Counting) -> tuple[int, int, int]:
    return count.operators, count.read_backs + count.synchronised, count.uploads


@pytest.mark.parametrize("generator", STEP)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_a_batch(generator: str, loss: str) -> None:
    with fake_cuda() as count:
        options = OPTIONS if generator == "unrolled" else {}
        model = PtychoModel(generator, options, 32, group_size=4).to("cuda")
        counts = torch.zeros(2, 4, 32, 32, device=DEVICE)
        positions = torch.zeros(2, 4, 2, device=DEVICE)

        def step() -> None:
            canvases = model(counts, positions, (48, 48))
            value = LOSSES[loss](model.predict_counts(canvases, positions), counts, model.good)
            value.backward()

        step()
        count.reset()
        step()
        assert within(counts_of(count), (STEP[generator], 0, 0)), counts_of(count)
        first = count.operators, count.allocated
        count.reset()
        step()
        assert (count.operators, count.allocated) == first


def test_reconstruction() -> None:
    scan = simulate("dead_leaves", patterns=36, size=32, seed=1)
    with fake_cuda(answer=True) as count:
        result = reconstruct(PtychoModel("unrolled", OPTIONS, 32), scan, CONFIG, "cuda")
    assert result.object.shape == result.weights.shape
    assert within(counts_of(count), RECONSTRUCTION), counts_of(count)


def refinement(engine: str, iterations: int) -> tuple[int, int, int]:
    scan = simulate("dead_leaves", patterns=36, size=32, seed=1)
    config = RefineConfig(engine=engine, iterations=iterations, tolerance=0.0, split_half=False, batch_size=18)  # type: ignore[arg-type]
    with fake_cuda(answer=True) as count:
        result = refine(scan, None, config, "cuda")
    assert result.object.shape == result.weights.shape
    return counts_of(count)


def test_pass_of_a_refinement() -> None:
    few, more = refinement("pie", 6), refinement("pie", 8)
    found = tuple((b - a) // 2 for a, b in zip(few, more, strict=True))
    assert within(found, PIE_PASS), found  # type: ignore[arg-type]


def test_refinement_by_lbfgs() -> None:
    found = refinement("lbfgs", 8)
    assert within(found, LBFGS), found
