# SPDX-License-Identifier: BSD-3-Clause
"""Searches where a gradient would lead astray: the probe's defocus, and the places of patterns that fit badly."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.propagation import far_field, near_field
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.misfit import Misfit
from ptychopinn.refinement.state import State

_log = logging.getLogger(__name__)

#: Defocus is tried at these phases, rad, at the aperture's root mean square radius.
_DEFOCUS = np.linspace(-2.5, 2.5, 9)
_TRIAL_PATTERNS = 200
_TRIAL_PASSES = (5, 10)  # of "pie" and of "lbfgs"

#: Patterns are sought whose deviance is so many standard deviations (robustly) above the median.
_OUTLIER = 4.0
_SOUGHT_SHARE = 0.2
_STRIDE = 2  # pixels between the places tried; the gradient finds the rest
_BETTER = 0.9
_AT_ONCE = 256


def with_aperture(probe: Tensor, counts: Tensor, good: Tensor | None) -> Tensor:
    """The probe with the root of the mean pattern as the modulus of its far field.

    The mean pattern is the aperture's image blurred by what the sample scatters, which is narrow. Modes keep their
    shares of every detector pixel.

    Args:
        probe: complex, (M, N, N), in sqrt(counts).
        counts: (n, N, N), FFT order.
        good: bool, (N, N), FFT order, or None.
    """
    mean = torch.zeros(counts.shape[1:], dtype=torch.float64, device=counts.device)
    for part in counts.split(256):
        mean += part.to(torch.float32).sum(0)
    fields = far_field(probe)
    power = fields.abs().square().sum(0)
    # Where the probe sends no light there is no phase to give to what was measured.
    known = power > 1e-8 * power.max()
    if good is not None:
        known &= good
    factor = torch.sqrt((mean / len(counts)).float() / power.clamp_min(1e-30))
    return near_field(fields * torch.where(known, factor, 1.0))


def defocused_by(probe: Tensor, phase: float) -> Tensor:
    """The probe out of focus by ``phase`` rad at the root mean square radius of its aperture."""
    fields = far_field(probe)
    k = torch.fft.fftfreq(probe.shape[-1], device=probe.device)
    square = k[:, None] ** 2 + k**2
    power = fields.abs().square().sum(0)
    radius = (power * square).sum() / power.sum()
    angle = phase * square / radius
    return near_field(fields * torch.polar(torch.ones_like(angle), angle))


def find_defocus(misfit: Misfit, state: State, config: RefineConfig) -> Tensor:
    """The probe, with the aperture of the mean pattern, at the defocus at which a part of the scan fits best.

    Every trial refines the object and the positions of the same few patterns from scratch. With positions in error the
    probe cannot be refined from a wrong defocus by its gradient: object and positions adapt to it first.
    """
    centre = state.positions.median(0).values
    near = (state.positions - centre).norm(dim=1).argsort()[:_TRIAL_PATTERNS].sort().values
    counts = misfit.counts.index_select(0, near)
    low = state.positions[near].amin(0).floor() - 8
    size = [int(v) for v in (state.positions[near] - low).amax(0).ceil() + misfit.size + 9]
    trial_config = dataclasses.replace(
        config, learn_probe=False, learn_positions=True, learn_intensities=False, total_variation=0.0, smoothness=0.0
    )
    good = None if misfit.good is None else misfit.good > 0
    probe = with_aperture(state.probe, misfit.counts, good)
    found: list[float] = []
    for phase in _DEFOCUS:
        trial = State(
            torch.full(size, state.object.abs().mean().item(), dtype=state.object.dtype, device=misfit.device),
            defocused_by(probe, float(phase)),
            state.positions[near] - low,
            state.intensities[near],
        )
        part = Misfit(counts, good, (size[0], size[1]), config.loss, config.interpolation)
        engine: PieEngine | LbfgsEngine = PieEngine(part, trial, trial_config, _no_penalty, _keep)
        for _ in range(_TRIAL_PASSES[0]):
            engine.advance()
        engine = LbfgsEngine(part, engine.state, trial_config, _no_penalty, _keep)
        for _ in range(_TRIAL_PASSES[1]):
            engine.advance()
        found.append(engine.value)
    best = int(np.argmin(found))
    phase = float(_DEFOCUS[best])
    if 0 < best < len(found) - 1:  # the lowest point of the parabola through it and its neighbours
        left, middle, right = found[best - 1 : best + 2]
        phase += float(0.5 * (left - right) / (left - 2 * middle + right) * (_DEFOCUS[1] - _DEFOCUS[0]))
    _log.info("defocus: %.2f rad at the aperture's rms radius from the probe that was given", phase)
    return defocused_by(probe, phase)


def seek_patterns(misfit: Misfit, state: State, residuals: Tensor, radius: int) -> Tensor:
    """Positions (n, 2) in which patterns that fit badly stand where they fit best, within ``radius`` pixels.

    Args:
        misfit: of the scan.
        state: the object and probe to fit to.
        residuals: (n,), deviance of every pattern per pixel.
        radius: of the search, pixels.
    """
    middle = residuals.median()
    spread = 1.4826 * (residuals - middle).abs().median()
    order = residuals.argsort(descending=True)[: int(_SOUGHT_SHARE * len(residuals))]
    sought = order[residuals[order] > middle + _OUTLIER * spread]
    axis = torch.arange(-radius, radius + 1, _STRIDE, dtype=torch.float64, device=misfit.device)
    offsets = torch.cartesian_prod(axis, axis)
    offsets = torch.cat([torch.zeros_like(offsets[:1]), offsets])
    positions = state.positions.clone()
    for members in sought.split(max(1, _AT_ONCE // len(offsets))):
        places = (state.positions[members, None] + offsets).reshape(-1, 2)
        repeated = members.repeat_interleave(len(offsets))
        values = misfit.values(state, repeated, places).view(len(members), -1)
        best, where = values.min(1)
        moved = best < _BETTER * values[:, 0]
        positions[members[moved]] += offsets[where[moved]]
    return positions


def _no_penalty(object: Tensor, light: Tensor, gradient: Tensor) -> float:
    return 0.0


def _keep(moves: Tensor) -> Tensor:
    return moves
