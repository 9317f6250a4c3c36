# SPDX-License-Identifier: BSD-3-Clause
"""Motion that positions have in common, refined as a few parameters before the single positions.

It is an affine map (scale, rotation and shear) or a drift, a smooth curve of the time. With a known probe an affine map
is observable, because every pattern sees the object in the pixel size of its probe. Refined with all positions at once
such motion converges in thousands of passes: object and single positions adapt to the wrong one within a few, and hold
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.ambiguities import affine_residual

#: Passes in which only the common motion is refined, of those from scratch.
COMMON_PASSES = 90


def common_first(
    config: RefineConfig, reported: Tensor, passes: Callable[[], int], groups: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Make the projection of moves (n, 2) onto those in common, and later onto all that are refined.

    Args:
        config: whether an affine map is refined, and the functions of a drift.
        reported: float64, (n, 2), positions, in the order of their time.
        passes: returns the number of passes until now.
        groups: (n,), of positions that have the affine map in common; None: all have.
    """
    residual = affine_residual(reported, groups)
    curves = drift_curves(len(reported), config.drift).to(reported)

    def project(moves: Tensor) -> Tensor:
        if config.affine == "remove":
            moves = residual(moves)
        if passes() < COMMON_PASSES:
            chosen = curves @ (curves.T @ moves)
            if config.affine == "refine":
                chosen = chosen + (moves - chosen) - residual(moves - chosen)
            elif config.affine == "remove":
                chosen = residual(chosen)
            moves = chosen
        centred: Tensor = moves - moves.mean(0)
        return centred

    return project


def drift_curves(count: int, functions: int) -> Tensor:
    """Orthonormal cosines (n, K) of the time, of 1 to K half periods over the scan."""
    time = (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count
    orders = torch.arange(1, functions + 1, dtype=torch.float64, device="cpu")
    curves: Tensor = torch.cos(math.pi * time[:, None] * orders) * (2 / count) ** 0.5
    return curves
