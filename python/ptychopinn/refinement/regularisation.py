# SPDX-License-Identifier: BSD-3-Clause
"""Regularisers of a refinement: total variation and smoothness of the object, and a normal prior of position errors.

J is half the negative logarithm of the likelihood, in nats; weights are in nats per detector pixel. See docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.priors import roughness, total_variation
from ptychopinn.refinement.ambiguities import remove_affine
from ptychopinn.refinement.state import State


class Regularisers:
    """The weighted sum of all regularisers.

    Args:
        config: the weights, and whether positions are refined.
        pixels: good detector pixels of all patterns.
        reported: float64, (n, 2), positions of the scan, canvas coordinates.

    Attributes:
        deviation: standard deviation of position errors along an axis, pixels; it is estimated again in every round.
    """

    def __init__(self, config: RefineConfig, pixels: int, reported: Tensor) -> None:
        self.weights = (config.total_variation, config.smoothness)
        self.scale = 0.5 * pixels
        self.reported = reported if config.learn_positions else None
        self.deviation = 1.0

    def __call__(self, state: State, illumination: Tensor, gradient: State) -> float:
        """Add half the gradient at a state, whose illumination is (H, W), to ``gradient``; returns the value."""
        total = 0.0
        if any(self.weights):
            with torch.enable_grad():
                free = state.object.detach().requires_grad_()
                value = free.real.new_zeros(())
                for weight, prior in zip(self.weights, (total_variation, roughness), strict=True):
                    if weight:
                        value = value + self.scale * weight * prior(free[None], illumination[None])
                (by_object,) = torch.autograd.grad(value, free)
            gradient.object += by_object / 2
            total = float(value.detach())
        if self.reported is not None:
            moves = remove_affine(self.reported, state.positions - self.reported)
            total += float(moves.square().sum()) / (4 * self.deviation**2)
            gradient.positions += moves / (4 * self.deviation**2)
        return total


def make_projection(config: RefineConfig, reported: Tensor) -> Callable[[Tensor], Tensor]:
    """The projection of moves (n, 2) onto those that are refined: without their affine part, or without their mean."""
    if config.affine == "remove":
        return lambda moves: remove_affine(reported, moves)
    return lambda moves: moves - moves.mean(0)
