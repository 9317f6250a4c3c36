# SPDX-License-Identifier: BSD-3-Clause
"""Regularisers of a refinement: total variation, smoothness and limits of the object, and a prior of position errors.

J is half the negative logarithm of the likelihood, in nats; weights are in nats per detector pixel. See docs/maths.md.
Gradients are explicit, which takes a third of the memory and kernels of autograd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.ambiguities import affine_residual
from ptychopinn.refinement.background_prior import BackgroundPrior
from ptychopinn.refinement.limits import Limits
from ptychopinn.refinement.state import State
from ptychopinn.refinement.variation_prior import VariationPrior

#: Steps between neighbouring pixels, relative to the object's mean modulus, below which the variation is quadratic: as
#: in ptychopinn.physics.priors.
_SMALL = 1e-3


class Regularisers:
    """The weighted sum of all regularisers.

    Args:
        config: the weights, and whether positions are refined.
        pixels: good detector pixels of all patterns.
        reported: float64, (n, 2), positions of the scan, canvas coordinates.
        groups: (n,), of positions whose moves have an affine part in common; None: all have.

    Attributes:
        limits: of the object.
        variation: prior of the probe's variation, once there is one.
        deviation: standard deviation of position errors along an axis, pixels; it is estimated again in every round.
    """

    def __init__(self, config: RefineConfig, pixels: int, reported: Tensor, groups: Tensor | None = None) -> None:
        scale = 0.5 * pixels
        weights = {total_variation: config.total_variation, roughness: config.smoothness}
        self.priors = {prior: scale * weight for prior, weight in weights.items() if weight}
        self.slice_weight = scale * config.slice_smoothness
        self.limits = Limits(config, pixels)
        self.background = BackgroundPrior(len(reported)) if config.learn_background else None
        self.reported = reported
        self.residual = affine_residual(reported, groups) if config.learn_positions else None
        self.deviation = 1.0
        self.variation: VariationPrior | None = None

    def __call__(self, state: State, illumination: Tensor, gradient: State) -> Tensor:
        """Add half the gradient at a state, whose illumination is (H, W), to ``gradient``; returns the value, ()."""
        total = torch.zeros((), dtype=torch.float64, device=illumination.device)
        if self.priors or self.limits:
            weight = illumination / illumination.sum().clamp_min(torch.finfo(illumination.dtype).tiny)
        if self.priors:
            slices = state.object.dim() == 3
            pairs = zip(state.object, gradient.object, strict=True) if slices else [(state.object, gradient.object)]
            for image, target in pairs:
                for prior, scale in self.priors.items():
                    value, by_object = prior(image, weight)
                    total += scale * value
                    target.add_(by_object, alpha=scale)
        if self.limits:
            total += self.limits(state, weight, gradient)
        if self.slice_weight and state.object.dim() == 3:
            total += self.slice_weight * _add_slice_differences(state.object, illumination, gradient, self.slice_weight)
        if self.variation is not None and len(state.variations):
            total += self.variation(state, gradient)
        if self.background is not None and state.background.numel():
            total += self.background(state.background, gradient.background)
        if self.residual is not None:
            moves = self.residual(state.positions - self.reported)
            total += moves.square().sum() / (4 * self.deviation**2)
            gradient.positions.add_(moves, alpha=1 / (4 * self.deviation**2))
        return total


def total_variation(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Total variation of an object (H, W) with weights (H, W) of sum 1, and half its gradient.

    The value is that of :func:`ptychopinn.physics.priors.total_variation`.
    """
    squared_level = _mean_square(image, weight)
    inverse = torch.rsqrt(squared_level)
    down, right = _differences(image)
    square = (squared_modulus(down) + squared_modulus(right)) * inverse.square()
    length = torch.sqrt(square + _SMALL**2)
    inner = weight[:-1, :-1]
    value = (inner * (length - _SMALL)).sum()
    # The object is divided by its level, which depends on it: the second term.
    factor = inner / (2 * length)
    along = (factor * square).sum()
    gradient = _divergence(down, right, factor * inverse.square())
    gradient -= image * (weight * (along * inverse.square()))
    return value, gradient


def roughness(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square difference of an object (H, W) with weights (H, W) of sum 1, and half its gradient.

    The value is that of :func:`ptychopinn.physics.priors.roughness`.
    """
    squared_level = _mean_square(image, weight)
    down, right = _differences(image)
    inner = weight[:-1, :-1]
    value = (inner * (squared_modulus(down) + squared_modulus(right))).sum() / squared_level
    gradient = _divergence(down, right, inner / squared_level)
    gradient -= image * (weight * (value / squared_level))
    return value, gradient


def _add_slice_differences(image: Tensor, illumination: Tensor, gradient: State, scale: float) -> Tensor:
    """Mean square difference of neighbouring slices (S, H, W) over their mean square; adds half its gradient."""
    weight = illumination / illumination.sum().clamp_min(torch.finfo(illumination.dtype).tiny)
    level = (weight * squared_modulus(image)).sum().clamp_min(1e-24) / len(image)
    step = image[1:] - image[:-1]
    scaled = step * (weight * (scale / level))
    gradient.object[1:].add_(scaled)
    gradient.object[:-1].sub_(scaled)
    value = (weight * squared_modulus(step)).sum() / level
    # The level depends on the object, too.
    gradient.object.sub_(image * (weight * (scale * value / (len(image) * level))))
    return value


def _mean_square(image: Tensor, weight: Tensor) -> Tensor:
    return (weight * squared_modulus(image)).sum().clamp_min(1e-24)


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels along y and x, (H - 1, W - 1) each."""
    corner = image[:-1, :-1]
    return image[1:, :-1] - corner, image[:-1, 1:] - corner


def _divergence(down: Tensor, right: Tensor, factor: Tensor) -> Tensor:
    """Adjoint of :func:`_differences`, of differences times a factor (H - 1, W - 1)."""
    down, right = down * factor, right * factor
    result = down.new_zeros(down.shape[0] + 1, down.shape[1] + 1)
    result[1:, :-1].add_(down)
    result[:-1, 1:].add_(right)
    result[:-1, :-1].sub_(down).sub_(right)
    return result


def make_projection(config: RefineConfig, reported: Tensor, groups: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """The projection of moves (n, 2) onto those that are refined: without their affine part, or without their mean."""
    if config.affine == "remove" and config.learn_positions:
        return affine_residual(reported, groups)
    return lambda moves: moves - moves.mean(0)
