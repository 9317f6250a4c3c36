# SPDX-License-Identifier: BSD-3-Clause
"""Search of the distances between slices, before the first pass, by trial refinements of a part of the scan.

As long as the probe has a wrong defocus, a wrong distance makes up for it in part: J is then lowest elsewhere than at
the true distance, and gradient steps follow it. The trials refine the probe, too, each at distances that are fixed, and
the last ones until the probe has its defocus.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.refinement.ambiguities import affine_residual, probe_drift
from ptychopinn.refinement.engines import LbfgsEngine, PieEngine
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.search import lowest_inner_minimum, no_penalty, select_trial_patterns
from ptychopinn.refinement.state import State

_log = logging.getLogger(__name__)

#: Trial values of the logarithm to base 2 of the common factor of the distances.
_COARSE = np.linspace(-2.0, 2.0, 9)
#: Between the last trials, which begin about the lowest of these and continue until J has a minimum, and their number.
_STEP = 0.25
_MOST = 12
#: Minima of the first trials that are compared by longer ones.
_MINIMA = 3
_PATTERNS = 49
_MARGIN = 8  # pixels of their canvas around them
_WARMUP = 5  # passes of "pie"
#: Passes of "lbfgs" of the first trials and of the last ones.
_PASSES = (40, 160)


def searches_distances(config: RefineConfig, experiment: Experiment, scratch: bool) -> bool:
    """Whether a refinement searches the distances of its experiment; ``scratch``: it has no start."""
    if config.find_slice_distances == "auto":
        return scratch and config.learn_slice_distances and bool(experiment.slice_distances)
    return config.find_slice_distances and bool(experiment.slice_distances)


def find_distances(objective: Objective, state: State, config: RefineConfig) -> tuple[Tensor, Tensor]:
    """Find a common factor of the distances between slices, and the probe that belongs to it.

    Every trial refines object and probe of the same neighbouring patterns from scratch. Several distances keep their
    ratios.

    Args:
        objective: of the scan.
        state: the initial state.
        config: of the refinement.

    Returns:
        (S - 1,), metres; and the probe (M, N, N) of the best trial, with the power and the centre of the initial one,
        to integer pixels. A probe that is not refined stays.
    """
    trials = _Trials(objective, state, config)
    values = [trials.value(float(point), _PASSES[0]) for point in _COARSE]
    _log.debug("J at factors %s: %s", (2**_COARSE).round(3), np.round(values))
    # Few passes may have a lower J at another minimum, or at an end, and are a few steps beside that of many passes.
    longer = {float(_COARSE[i]): trials.value(float(_COARSE[i]), _PASSES[1]) for i in lowest_minima(values, _MINIMA)}
    middle = min(longer, key=longer.__getitem__)
    points = [middle - _STEP, middle, middle + _STEP]
    values = [longer.get(point) or trials.value(point, _PASSES[1]) for point in points]
    while len(points) < _MOST and (lowest := int(np.argmin(values))) in (0, len(points) - 1):
        index, point = (0, points[0] - _STEP) if lowest == 0 else (len(points), points[-1] + _STEP)
        points.insert(index, point)
        values.insert(index, trials.value(point, _PASSES[1]))
    _log.debug("J at factors %s: %s", np.exp2(points).round(3), np.round(values))
    factor = 2 ** lowest_inner_minimum(np.array(points), values)
    found = state.distances * factor
    _log.info("distances between slices: %s m, %.3f times the stated ones", found.tolist(), factor)
    return found, trials.probe_like(state.probe) if config.learn_probe else state.probe


def lowest_minima(values: Sequence[float], most: int) -> list[int]:
    """Indices of local minima, ends included, the lowest first.

    Example:
        >>> lowest_minima([1.0, 2.0, 0.0, 3.0, 2.5], 2)
        [2, 0]
    """
    padded = [math.inf, *values, math.inf]
    minima = [i for i in range(len(values)) if padded[i] > values[i] <= padded[i + 2]]
    return sorted(minima, key=values.__getitem__)[:most]


class _Trials:
    """Refinements of a part of a scan; arguments are those of :func:`find_distances`."""

    def __init__(self, objective: Objective, state: State, config: RefineConfig) -> None:
        self.config = dataclasses.replace(
            config, learn_slice_distances=False, learn_intensities=False, learn_background=False,
            learn_variation_coefficients=False, total_variation=0.0, smoothness=0.0, slice_smoothness=0.0,
        )  # fmt: skip
        chosen = select_trial_patterns(objective.counts, state.positions, _PATTERNS, objective.good)
        chosen = chosen.to(objective.device)
        assert isinstance(objective, ExperimentObjective)
        margin = _MARGIN + max(max(pair) for pair in objective.reach)
        low = state.positions[chosen].amin(0).floor() - margin
        height, width = (int(v) for v in (state.positions[chosen] - low).amax(0).ceil() + objective.size + margin + 1)
        self.part = objective.of_patterns(chosen, (height, width), self.config)
        self.part.support = objective.support
        self.initial = dataclasses.replace(
            state,
            object=state.object.abs().mean((-2, -1), keepdim=True).expand(-1, height, width).to(state.object.dtype),
            positions=state.positions[chosen] - low,
            intensities=state.intensities[chosen],
            coefficients=state.coefficients[chosen],
        )
        self.project = affine_residual(self.initial.positions)
        self.passes, self.lowest, self.probe = 0, math.inf, state.probe

    def value(self, point: float, passes: int) -> float:
        """J after so many passes with the distances times 2^point; of the longest trials the best probe is kept."""
        trial = self.initial.copy()
        trial.distances *= 2**point
        warmup = PieEngine(self.part, trial, self.config, no_penalty, self.project)
        for _ in range(_WARMUP):
            warmup.advance()
        engine = LbfgsEngine(self.part, warmup.state, self.config, no_penalty, self.project)
        for _ in range(passes):
            engine.advance()
        if passes > self.passes or engine.value < self.lowest:
            self.passes, self.lowest, self.probe = passes, engine.value, engine.state.probe.clone()
        return engine.value

    def probe_like(self, initial: Tensor) -> Tensor:
        """The probe that was kept, with the power and the centre of another."""
        y, x = probe_drift(self.probe, initial)
        probe = torch.roll(self.probe, (-y, -x), (1, 2))
        return probe.mul(initial.norm() / probe.norm())
