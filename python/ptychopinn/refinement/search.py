# SPDX-License-Identifier: BSD-3-Clause
"""Grid searches where gradients reach a wrong local minimum: the probe's defocus, and positions of outlier patterns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.physics.propagation import far_field, inverse_far_field
from ptychopinn.refinement.ambiguities import affine_residual
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.state import State

_log = logging.getLogger(__name__)

#: Trial values of defocus: phase, rad, at the root mean square radius of the aperture.
_DEFOCUS = np.linspace(-2.5, 2.5, 9)
_TRIAL_PATTERNS = 200
_TRIAL_WARMUP = 5  # passes of "pie"
#: Passes of "lbfgs" before and after the search for outliers, on a coarse grid of defocus and two finer ones.
_TRIAL_PASSES = ((20, 0), (30, 15), (30, 15))
#: Maximum number of neighbourhoods that are compared to choose the patterns of a trial.
_TRIAL_CENTRES = 1000

#: Outliers have a deviance of more than this many standard deviations (robust) above the median.
_OUTLIER = 1.0
_STRIDE = 2  # pixels between trial positions; gradient steps do the rest
_IMPROVEMENT = 0.97  # a position is replaced where J falls below this fraction
_CHUNK = 64  # patterns computed at once


def impose_aperture(probe: Tensor, counts: Tensor, good: Tensor | None) -> Tensor:
    """Replace the modulus of the probe's far field by the root of the mean pattern; its power stays.

    The mean pattern is the image of the aperture, slightly blurred by scattering in the sample. Modes keep their
    fractions of every detector pixel.

    Args:
        probe: complex, (M, N, N), in sqrt(counts).
        counts: (n, N, N), FFT order.
        good: bool, (N, N), FFT order, or None.
    """
    mean = torch.zeros(counts.shape[1:], dtype=torch.float64, device=probe.device)
    for part in counts.split(256):
        mean += part.to(probe.device).to(torch.float32).sum(0)
    fields = far_field(probe)
    power = fields.abs().square().sum(0)
    # Without intensity in the far field there is no phase to keep.
    known = power > 1e-8 * power.max()
    if good is not None:
        known &= good
    factor = torch.sqrt((mean / len(counts)).float() / power.clamp_min(1e-30))
    shaped = fields * torch.where(known, factor, 0.0)
    return inverse_far_field(shaped * torch.sqrt(power.sum() / shaped.abs().square().sum()))


def defocus_probe(probe: Tensor, phase: float) -> Tensor:
    """Defocus a probe (M, N, N) by ``phase`` rad at the root mean square radius of its aperture."""
    fields = far_field(probe)
    k = torch.fft.fftfreq(probe.shape[-1], dtype=torch.float32, device=probe.device)
    square = k[:, None] ** 2 + k**2
    power = fields.abs().square().sum(0)
    radius = (power * square).sum() / power.sum()
    angle = phase * square / radius
    return inverse_far_field(fields * torch.polar(torch.ones_like(angle), angle))


def searches_defocus(config: RefineConfig, experiment: Experiment, scratch: bool) -> bool:
    """Whether a refinement searches the defocus of its probe; ``scratch``: it has no start."""
    if config.find_defocus == "auto":
        flat = experiment.fresnel_number is None and not experiment.slice_distances
        return scratch and config.learn_positions and config.learn_probe and flat
    return config.find_defocus


def find_defocus(objective: Objective, state: State, config: RefineConfig) -> Tensor:
    """Find the probe's defocus by trial refinements of a part of the scan.

    Every trial refines object and positions of the same neighbouring patterns from scratch, at one defocus. With errors
    in the positions, gradient steps do not find the defocus: object and positions adapt to the wrong one first. Large
    errors of single positions obscure the minimum, so the finer trials also search for outliers.

    Args:
        objective: of the scan.
        state: the initial state.
        config: of the refinement.

    Returns:
        (M, N, N), the probe with the aperture of the mean pattern and the defocus of the best trial.
    """
    chosen = select_trial_patterns(objective.counts, state.positions, _TRIAL_PATTERNS, objective.good)
    chosen = chosen.to(objective.device)
    low = state.positions[chosen].amin(0).floor() - 8
    size = [int(v) for v in (state.positions[chosen] - low).amax(0).ceil() + objective.size + 9]
    trial_config = dataclasses.replace(
        config, learn_probe=False, learn_positions=True, learn_intensities=False, total_variation=0.0, smoothness=0.0
    )
    probe = impose_aperture(state.probe, objective.counts, objective.good)
    positions = state.positions[chosen] - low

    # A common scale of the positions would compensate a wrong defocus.
    project = affine_residual(positions)

    part = objective.of_patterns(chosen, (size[0], size[1]), trial_config)

    def objective_at(phase: float, before: int, after: int) -> float:
        trial = State(
            state.object.abs().mean().to(state.object.dtype).expand(size).clone(),
            defocus_probe(probe, phase),
            positions.clone(),
            state.intensities[chosen],
        )
        warmup = PieEngine(part, trial, trial_config, no_penalty, project)
        for _ in range(_TRIAL_WARMUP):
            warmup.advance()
        engine = LbfgsEngine(part, warmup.state, trial_config, no_penalty, project)
        for _ in range(before):
            engine.advance()
        if after:
            outliers = find_outliers(engine.residuals)
            engine.state.positions = search_positions(part, engine.state, outliers, positions, config.search)
            engine.restart()
        for _ in range(after):
            engine.advance()
        return engine.value

    phases = _DEFOCUS
    for passes in _TRIAL_PASSES:
        values = [objective_at(float(phase), *passes) for phase in phases]
        _log.debug("J at %s rad: %s", phases.round(2), np.round(values))
        best, step = lowest_inner_minimum(phases, values), phases[1] - phases[0]
        phases = best + step * np.array([-0.5, 0.0, 0.5])
    _log.info("defocus: %.2f rad at the rms radius of the aperture, relative to the initial probe", best)
    return defocus_probe(probe, best)


def select_trial_patterns(counts: Tensor, positions: Tensor, number: int, good: Tensor | None = None) -> Tensor:
    """Select neighbouring patterns in the part of the scan where patterns differ most from the mean pattern.

    Args:
        counts: (n, N, N).
        positions: (n, 2).
        number: how many; all, if the scan has fewer.
        good: bool, (N, N), or None.

    Returns:
        Their indices, ascending.
    """

    def amplitudes(part: Tensor) -> Tensor:
        part = part.to(device).float()
        return (part if good is None else torch.where(good, part, 0)).sqrt()

    device = counts.device if good is None else good.device
    mean = torch.stack([amplitudes(part).sum(0) for part in counts.split(256)]).sum(0) / len(counts)
    differences = [(amplitudes(part) - mean).square().sum((1, 2)) for part in counts.split(256)]
    difference = torch.cat(differences).cpu().numpy()
    points = positions.cpu().numpy()
    centres = np.linspace(0, len(points) - 1, min(len(points), _TRIAL_CENTRES)).astype(int)
    distances, members = KDTree(points).query(points[centres], k=min(number, len(points)))
    distances, members = distances.reshape(len(centres), -1), members.reshape(len(centres), -1)
    inside = distances[:, -1] <= np.median(distances[:, -1])  # at the border, neighbours are far apart
    best = np.argmax(np.where(inside, difference[members].mean(1), -1.0))
    return torch.from_numpy(np.sort(members[best])).to(counts.device)


def lowest_inner_minimum(points: np.ndarray, values: Sequence[float]) -> float:
    """Find the lowest minimum between the ends by a parabola through three points; without one, the lowest point.

    The ends are excluded because a nearly focused probe has little overlap between positions, and fits any data.

    Args:
        points: (k,), equidistant.
        values: k of them.

    Example:
        >>> lowest_inner_minimum(np.array([-1.0, 0.0, 1.0, 2.0]), [0.0, 3.0, 1.0, 3.0])
        1.0
    """
    inner = [i for i in range(1, len(values) - 1) if values[i - 1] > values[i] <= values[i + 1]]
    if not inner:
        return float(points[int(np.argmin(values))])
    best = min(inner, key=values.__getitem__)
    left, middle, right = values[best - 1 : best + 2]
    return float(points[best] + 0.5 * (left - right) / (left - 2 * middle + right) * (points[1] - points[0]))


def search_positions(objective: Objective, state: State, outliers: Tensor, centres: Tensor, radius: int) -> Tensor:
    """Search the positions of outlier patterns on a grid, with object and probe fixed.

    Args:
        objective: of the scan.
        state: object, probe and present positions.
        outliers: (k,), indices of patterns.
        centres: (n, 2), canvas coordinates to search around.
        radius: half the side of the grid, pixels.

    Returns:
        (n, 2), positions with those of the outliers replaced where J is clearly lower.
    """
    positions = state.positions.clone()
    axis = torch.arange(-radius, radius + 1, _STRIDE, dtype=torch.float64, device=objective.device)
    offsets = torch.cartesian_prod(axis, axis)
    for members in outliers.split(_CHUNK) if len(outliers) else ():
        trials = torch.cat([state.positions[members, None], centres[members, None] + offsets], 1)
        values = trial_objectives(objective, state, members, trials)
        lowest, index = values.min(1)
        accepted = torch.where(lowest < _IMPROVEMENT * values[:, 0], index, 0)
        positions[members] = trials[torch.arange(len(members), device=trials.device), accepted]
    return positions


def trial_objectives(objective: Objective, state: State, members: Tensor, trials: Tensor) -> Tensor:
    """J, (k, t), of the patterns with indices ``members`` (k,) at trial positions (k, t, 2) each."""
    repeated = members.repeat_interleave(trials.shape[1])
    parts = zip(repeated.split(_CHUNK), trials.reshape(-1, 2).split(_CHUNK), strict=True)
    return torch.cat([objective.pattern_objectives(state, *part) for part in parts]).view(len(members), -1)


def find_outliers(residuals: Tensor) -> Tensor:
    """Indices (k,) of patterns whose deviance, of ``residuals`` (n,), is well above the median."""
    median = residuals.median()
    deviation = 1.4826 * (residuals - median).abs().median()  # of a normal distribution
    return (residuals > median + _OUTLIER * deviation).nonzero().flatten()


def no_penalty(state: State, illumination: Tensor, gradient: State) -> float:
    """J of no regularisers, as engines are given it."""
    return 0.0
