# SPDX-License-Identifier: BSD-3-Clause
"""Searches where a gradient would lead astray: the probe's defocus, and the places of patterns that fit badly."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.propagation import far_field
from ptychopinn.physics.propagation import inverse_far_field as near_field
from ptychopinn.refinement.ambiguities import without_affine
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.state import State

_log = logging.getLogger(__name__)

#: Defocus is tried at these phases, rad, at the aperture's root mean square radius.
_DEFOCUS = np.linspace(-2.5, 2.5, 9)
_TRIAL_PATTERNS = 200
_TRIAL_WARMUP = 5  # passes of "pie"
#: Passes of "lbfgs" before and after badly fitting patterns are sought, for grids ever finer.
_TRIAL_PASSES = ((20, 0), (30, 15), (30, 15))
#: At most so many places are looked at for the part of the scan that is tried.
_TRIAL_PLACES = 1000

#: Patterns are sought whose deviance is so many standard deviations (robustly) above the median.
_OUTLIER = 1.0
_STRIDE = 2  # pixels between the places tried; the gradient finds the rest
_BETTER = 0.97
_AT_ONCE = 64


def with_aperture(probe: Tensor, counts: Tensor, good: Tensor | None) -> Tensor:
    """The probe with the root of the mean pattern as the modulus of its far field, up to its power, which it keeps.

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
    shaped = fields * torch.where(known, factor, 0.0)
    return near_field(shaped * torch.sqrt(power.sum() / shaped.abs().square().sum()))


def defocused_by(probe: Tensor, phase: float) -> Tensor:
    """The probe out of focus by ``phase`` rad at the root mean square radius of its aperture."""
    fields = far_field(probe)
    k = torch.fft.fftfreq(probe.shape[-1], device=probe.device)
    square = k[:, None] ** 2 + k**2
    power = fields.abs().square().sum(0)
    radius = (power * square).sum() / power.sum()
    angle = phase * square / radius
    return near_field(fields * torch.polar(torch.ones_like(angle), angle))


def find_defocus(objective: Objective, state: State, config: RefineConfig) -> Tensor:
    """The probe, with the aperture of the mean pattern, at the defocus at which a part of the scan fits best.

    Every trial refines the object and the positions of the same few patterns from scratch, where patterns differ most
    from each other. With positions in error the probe cannot be refined from a wrong defocus by its gradient: object
    and positions adapt to it first. Patterns in wrong places hide the valley: finer trials search for them on the way.
    """
    near = most_telling(objective.counts, state.positions, _TRIAL_PATTERNS, objective.good)
    counts = objective.counts_of(near)
    low = state.positions[near].amin(0).floor() - 8
    size = [int(v) for v in (state.positions[near] - low).amax(0).ceil() + objective.size + 9]
    trial_config = dataclasses.replace(
        config, learn_probe=False, learn_positions=True, learn_intensities=False, total_variation=0.0, smoothness=0.0
    )
    probe = with_aperture(state.probe, objective.counts, objective.good)
    places = state.positions[near] - low

    def project(moves: Tensor) -> Tensor:
        # A scale of the positions would make up for a wrong defocus.
        return without_affine(places, moves)

    part = Objective(counts, objective.good, (size[0], size[1]), trial_config)

    def objective_at(phase: float, before: int, after: int) -> float:
        trial = State(
            torch.full(size, state.object.abs().mean().item(), dtype=state.object.dtype, device=objective.device),
            defocused_by(probe, phase),
            places.clone(),
            state.intensities[near],
        )
        warm = PieEngine(part, trial, trial_config, _no_penalty, project)
        for _ in range(_TRIAL_WARMUP):
            warm.advance()
        engine = LbfgsEngine(part, warm.state, trial_config, _no_penalty, project)
        for _ in range(before):
            engine.advance()
        if after:
            sought = badly_fitting(engine.residuals)
            engine.state.positions = search_patterns(part, engine.state, sought, places, config.search)
            engine.start_again()
        for _ in range(after):
            engine.advance()
        return engine.value

    phases = _DEFOCUS
    for passes in _TRIAL_PASSES:
        found = [objective_at(float(phase), *passes) for phase in phases]
        _log.debug("J at %s rad: %s", phases.round(2), np.round(found))
        best, step = lowest_valley(phases, found), phases[1] - phases[0]
        phases = best + step * np.array([-0.5, 0.0, 0.5])
    _log.info("defocus: %.2f rad at the aperture's rms radius from the probe that was given", best)
    return defocused_by(probe, best)


def most_telling(counts: Tensor, positions: Tensor, number: int, good: Tensor | None = None) -> Tensor:
    """Indices of so many neighbours, ascending, from where patterns differ most from the mean pattern.

    Args:
        counts: (n, N, N).
        positions: (n, 2).
        number: all, if there are fewer.
        good: bool, (N, N), or None.
    """

    def amplitudes(part: Tensor) -> Tensor:
        return (part.float() if good is None else torch.where(good, part.float(), 0)).sqrt()

    mean = torch.stack([amplitudes(part).sum(0) for part in counts.split(256)]).sum(0) / len(counts)
    differences = [(amplitudes(part) - mean).square().sum((1, 2)) for part in counts.split(256)]
    difference = torch.cat(differences).cpu().numpy()
    places = positions.cpu().numpy()
    centres = np.linspace(0, len(places) - 1, min(len(places), _TRIAL_PLACES)).astype(int)
    distances, members = KDTree(places).query(places[centres], k=min(number, len(places)))
    distances, members = distances.reshape(len(centres), -1), members.reshape(len(centres), -1)
    inside = distances[:, -1] <= np.median(distances[:, -1])  # at the border, neighbours are a strip
    best = np.argmax(np.where(inside, difference[members].mean(1), -1.0))
    return torch.from_numpy(np.sort(members[best])).to(counts.device)


def lowest_valley(places: np.ndarray, values: Sequence[float]) -> float:
    """Where the lowest of the minima between the ends lies, by a parabola; the lower end, if there is none.

    A probe near its focus hardly overlaps with itself, so that everything fits: the ends can be low for no good reason.

    Example:
        >>> lowest_valley(np.array([-1.0, 0.0, 1.0, 2.0]), [0.0, 3.0, 1.0, 3.0])
        1.0
    """
    inner = [i for i in range(1, len(values) - 1) if values[i - 1] > values[i] <= values[i + 1]]
    if not inner:
        return float(places[int(np.argmin(values))])
    best = min(inner, key=values.__getitem__)
    left, middle, right = values[best - 1 : best + 2]
    return float(places[best] + 0.5 * (left - right) / (left - 2 * middle + right) * (places[1] - places[0]))


def search_patterns(objective: Objective, state: State, sought: Tensor, centres: Tensor, radius: int) -> Tensor:
    """Positions (n, 2) in which the patterns sought stand where they fit best, if that is not where they are.

    Args:
        objective: of the scan.
        state: the object and probe to fit to.
        sought: (k,) indices of patterns.
        centres: (n, 2), canvas coordinates to search around.
        radius: of the search, pixels.
    """
    positions = state.positions.clone()
    axis = torch.arange(-radius, radius + 1, _STRIDE, dtype=torch.float64, device=objective.device)
    offsets = torch.cartesian_prod(axis, axis)
    for members in sought.split(_AT_ONCE) if len(sought) else ():
        places = torch.cat([state.positions[members, None], centres[members, None] + offsets], 1)
        repeated = members.repeat_interleave(places.shape[1])
        parts = zip(repeated.split(_AT_ONCE), places.reshape(-1, 2).split(_AT_ONCE), strict=True)
        values = torch.cat([objective.values(state, *part) for part in parts]).view(len(members), -1)
        best, where = values.min(1)
        better = torch.where(best < _BETTER * values[:, 0], where, 0)
        positions[members] = places[torch.arange(len(members), device=places.device), better]
    return positions


def badly_fitting(residuals: Tensor) -> Tensor:
    """Indices of the patterns whose deviance is well above the others', (k,)."""
    middle = residuals.median()
    spread = 1.4826 * (residuals - middle).abs().median()
    return (residuals > middle + _OUTLIER * spread).nonzero().flatten()


def _no_penalty(state: State, light: Tensor, gradient: State) -> float:
    return 0.0
