# SPDX-License-Identifier: BSD-3-Clause
"""What both engines need: the scaling of the variables by their curvature, and the interface of what they are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.state import State

#: Added to the curvature of object and probe, relative to its maximum: damps steps where illumination is weak.
OBJECT_FLOOR = 0.02
PROBE_FLOOR = 0.05
#: Added to the curvature of positions, relative to its mean.
POSITION_FLOOR = 0.1

#: Adds half the gradient of all regularisers, at a state with an illumination (H, W), to a gradient; returns J of them.
Penalty = Callable[[State, Tensor, State], Tensor | float]
#: Projects steps of the positions (n, 2) onto those that are refined.
Projection = Callable[[Tensor], Tensor]


def inverse_root_curvature(objective: Objective, state: State, config: RefineConfig, illumination: Tensor) -> State:
    """Scaling of the variables: inverse root of the diagonal curvature, zero for parts that are not refined.

    Args:
        objective: its batches and anchors are set.
        state: where to evaluate.
        config: which parts are refined.
        illumination: of the canvas, (H, W).
    """
    of_probe, of_positions = objective.curvatures(state)
    scale = state.map(torch.zeros_like)
    scale.object = torch.rsqrt(illumination + OBJECT_FLOOR * illumination.max()).to(state.object.dtype)
    if config.learn_probe:
        per_pixel = torch.rsqrt(of_probe + PROBE_FLOOR * of_probe.max())
        scale.probe = per_pixel.to(state.probe.dtype).expand_as(state.probe).clone()
    if config.learn_positions:
        scale.positions = torch.rsqrt(of_positions + POSITION_FLOOR * of_positions.mean() + 1e-30)
    if config.learn_intensities:
        power = (illumination.sum(dtype=torch.float64) / len(objective.counts)).clamp_min(1.0)
        scale.intensities = (2 / torch.sqrt(power)).expand_as(state.intensities).clone()
    return scale
