# SPDX-License-Identifier: BSD-3-Clause
"""Cramer-Rao bound of single positions, with object and probe known and a normal prior of the errors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.refinement.run import Refinement
from ptychopinn.scan import Scan

_STEP = 0.05  # pixels, of the finite differences
_BATCH = 128


def position_bound(scan: Scan, error: float) -> NDArray[np.float64]:
    """Smallest root mean square length of position errors, (n,) pixels.

    Args:
        scan: simulated, with the true positions and probe.
        error: standard deviation of the prior along an axis, pixels.
    """
    assert scan.truth is not None
    run = Refinement(scan, None, RefineConfig(learn_positions=True), torch.device("cpu"), None, 1)
    state, (y, x) = run.state, (-origin for origin in run.geometry.origin)
    truth = torch.from_numpy(scan.truth)
    state.object = torch.full(run.geometry.shape, 0.8, dtype=torch.complex64, device="cpu")
    rows, columns = (slice(max(first, 0), first + side) for first, side in zip((y, x), truth.shape, strict=True))
    part = truth[max(-y, 0) :, max(-x, 0) :]
    target = state.object[rows, columns]
    target.copy_(part[: target.shape[0], : target.shape[1]])
    positions = state.positions

    def predicted(offset: tuple[float, float]) -> torch.Tensor:
        state.positions = positions + torch.tensor(offset, dtype=torch.float64, device="cpu")
        return torch.cat(
            [run.objective.predict(state, part) for part in torch.arange(scan.n, device="cpu").split(_BATCH)]
        )

    steps = [predicted((_STEP, 0)) - predicted((-_STEP, 0)), predicted((0, _STEP)) - predicted((0, -_STEP))]
    derivatives = torch.stack(steps, 1).flatten(2).double() / (2 * _STEP)
    weight = 1 / (predicted((0, 0)).flatten(1).double() + BACKGROUND)
    information = torch.einsum("kap,kbp,kp->kab", derivatives, derivatives, weight)
    eigenvalues = torch.linalg.eigvalsh(information) + 1 / error**2
    bound: NDArray[np.float64] = (1 / eigenvalues).sum(1).sqrt().numpy()
    return bound
