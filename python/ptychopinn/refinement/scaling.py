# SPDX-License-Identifier: BSD-3-Clause
"""What both engines need: the scaling of the variables by their curvature, and the interface of what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import broadcast

#: Added to the curvature of object and probe, relative to its maximum: damps steps where illumination is weak.
OBJECT_FLOOR = 0.02
PROBE_FLOOR = 0.05
#: Added to the curvature of positions, relative to its mean.
POSITION_FLOOR = 0.1
#: Added to the curvature of the logarithm of a distance between slices, per count: an even object has none.
DISTANCE_FLOOR = 0.002
#: Patterns that measure this curvature, and the relative step.
_DISTANCE_PATTERNS = 32
_DISTANCE_STEP = 0.01

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
    if objective.photons is not None:
        illumination = objective.illumination(state.probe, objective.photons)
    of_object = illumination if state.object.dim() == 2 else (len(state.object) * illumination).expand_as(state.object)
    scale.object = torch.rsqrt(of_object + OBJECT_FLOOR * of_object.max()).to(state.object.dtype)
    if config.learn_probe:
        per_pixel = _within(objective.support, torch.rsqrt(of_probe + PROBE_FLOOR * of_probe.max()))
        scale.probe = per_pixel.to(state.probe.dtype).expand_as(state.probe).clone()
    if config.learn_positions:
        scale.positions = torch.rsqrt(of_positions + POSITION_FLOOR * of_positions.mean() + 1e-30)
    power = (illumination.sum(dtype=torch.float64) / len(objective.counts)).clamp_min(1.0)
    if config.learn_intensities:
        scale.intensities = (2 / torch.sqrt(power)).expand_as(state.intensities).clone()
    _scale_others(objective, scale, state, of_probe, power)
    return scale


def _scale_others(objective: Objective, scale: State, state: State, of_probe: Tensor, power: Tensor) -> None:
    """Write the scaling of the parts that only some experiments have.

    Args:
        objective: its batches and anchors are set.
        scale: the scaling.
        state: where to evaluate.
        of_probe: curvature of the probe, (N, N).
        power: counts of a mean pattern, float64, ().
    """
    patterns = len(objective.counts)
    if len(state.variations):
        squares = state.coefficients.square().mean(0).clamp_min(0.1).float()
        of_variations = squares[:, None, None] * (of_probe + PROBE_FLOOR * of_probe.max())
        scale.variations = _within(objective.support, torch.rsqrt(of_variations)).to(state.variations.dtype)
        of_coefficients = objective.coefficient_curvatures(state)
        scale.coefficients = torch.rsqrt(of_coefficients + POSITION_FLOOR * of_coefficients.mean() + 1e-30)
    if state.background.numel():
        # Of a pixel with the counts p, of which B are background, the curvature by the root of B is B / p; that of the
        # prior, where the background is even, 1.
        fraction = state.background.square() / objective.mean_counts().clamp_min(1e-6)
        scale.background = torch.rsqrt(patterns * (fraction.clamp_max(1.0) + 1))
    if "distances" in objective.learned and state.distances.numel():
        of_distances = _distance_curvatures(objective, state) + DISTANCE_FLOOR * power * patterns
        scale.distances = state.distances * torch.rsqrt(of_distances)


def _distance_curvatures(objective: Objective, state: State) -> Tensor:
    """Half the second derivative of J (Gauss-Newton) by the logarithms of the distances between slices, (S - 1,).

    Derivatives of the expected counts are differences, of a few patterns.
    """
    patterns = len(objective.counts)
    count = min(patterns, _DISTANCE_PATTERNS)
    members = torch.linspace(0, patterns - 1, count, dtype=torch.float64, device=objective.device).long()
    found = torch.zeros_like(state.distances)
    for index in range(len(found)):
        lower, upper = (state.distances.clone() for _ in range(2))
        lower[index] *= 1 - _DISTANCE_STEP
        upper[index] *= 1 + _DISTANCE_STEP
        low, high = (objective.predict(replace(state, distances=part), members) for part in (lower, upper))
        terms = ((high - low) / (2 * _DISTANCE_STEP)).square() / (2 * (low + high) + 4 * BACKGROUND)
        found[index] = (terms if objective.good is None else terms * objective.good).sum(dtype=torch.float64)
    found *= patterns / count
    broadcast(found)
    return found


def _within(support: Tensor | None, scale: Tensor) -> Tensor:
    """A scaling (..., N, N) that is zero outside of the probe's support."""
    return scale if support is None else scale * support
