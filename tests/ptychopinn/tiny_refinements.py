# SPDX-License-Identifier: BSD-3-Clause
"""A small scan, initial states and a short configuration, for the tests of refinement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.regularisation import Regularisers, make_projection
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.refinement.state import State
from ptychopinn.scan import Scan

QUICK = RefineConfig(iterations=25, split_half=False, batch_size=16)


def small_scan(**options: object) -> Scan:
    return simulate(**{"object": "photos", "patterns": 196, "size": 32, "photons": 1e6, "seed": 3, **options})  # type: ignore[arg-type]


def with_wrong_probe(scan: Scan, phase: float = -0.5) -> Scan:
    probe = defocus_probe(torch.from_numpy(scan.probe), phase).numpy()
    return dataclasses.replace(scan, probe=probe)


def true_start(scan: Scan) -> Reconstruction:
    assert scan.truth is not None
    return Reconstruction(scan.truth, np.ones(scan.truth.shape, np.float32), (0.0, 0.0), scan.probe)


@dataclass(frozen=True)
class Case:
    """Options of a refinement, and the largest numbers of operators on the device in a pass of four batches."""

    options: dict[str, Any]
    lbfgs: int
    pie: int


CASES = {
    "defaults": Case({}, 360, 300),
    "everything": Case({"learn_positions": True, "learn_intensities": True, "smoothness": 0.1, "modes": 2}, 470, 480),
    "bilinear": Case({"interpolation": "bilinear"}, 310, 240),
    "bilinear with positions": Case({"interpolation": "bilinear", "learn_positions": True}, 360, 350),
}


def counted_problem(
    case: Case, place: Callable[[Any], Any] = lambda value: value
) -> tuple[Objective, State, RefineConfig, Regularisers, Callable[[Tensor], Tensor]]:
    """A scan of 25 patterns in four batches, with all that an engine needs; ``place`` moves tensors to its device."""
    config = RefineConfig(**{"batch_size": 7, **case.options})
    scan = simulate("dead_leaves", patterns=25, size=16, modes=config.modes or 1, photons=1e5, step=3, jitter=1, seed=2)
    assert scan.truth is not None
    truth = torch.from_numpy(np.pad(scan.truth, 4, constant_values=1.0))
    counts = place(torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(1, 2))))
    objective = Objective(counts, None, (truth.shape[0], truth.shape[1]), config)
    positions = torch.from_numpy(scan.positions + 4)
    state = State(
        place(0.9 * truth), place(torch.from_numpy(scan.probe)), place(positions.clone()),
        place(torch.zeros(25, dtype=torch.float64, device="cpu")),
    )  # fmt: skip
    reported = place(positions)
    regularisers = Regularisers(config, objective.pixels, reported)
    return objective, state, config, regularisers, make_projection(config, reported)
