# SPDX-License-Identifier: BSD-3-Clause
"""Positions of outlier patterns, searched in an object that was refined without them.

An object that was refined with a pattern at a wrong position contains features of that pattern there, and keeps it in
place; and one such pattern among hundreds damages the object and the positions around it. So the patterns with a much
higher deviance than their neighbours are omitted, the object around them is refined again, and their positions are
searched by the likelihood, with the normal prior of position errors.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ptycho_ext import extract_patches
from ptychopinn.config import RefineConfig
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.lbfgs import LbfgsEngine
from ptychopinn.refinement.objective import PER_PATTERN, Objective
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regularisation import Regularisers
from ptychopinn.refinement.search import trial_objectives
from ptychopinn.refinement.state import State

_log = logging.getLogger(__name__)

#: Outliers exceed the median deviance of so many neighbours by so many standard deviations (robust) of this excess.
_NEIGHBOURS = 24
_OUTLIER = 3.0
#: Outliers of such an excess return to their centre where too few others cover the object to search them.
_GROSS = 10.0
#: Largest fraction of the patterns that is omitted; those with the highest excess.
_FRACTION = 0.1
#: Passes of "lbfgs" without the outliers, whose probe and positions are fixed.
_PASSES = 15
#: A position is replaced if J with the prior falls by so many nats, and where the other patterns have at least this
#: fraction of the typical illumination.
_GAIN = 5.0
_COVERED = 0.2
#: Lower bound of the standard deviation of the prior, pixels: outliers move further than other patterns.
_DEVIATION = 1.0
#: Distance of the search in standard deviations, which one of a million normal errors exceeds.
_REACH = 5.0


def local_excess(
    residuals: NDArray[np.float64], positions: NDArray[np.float64], noise: float = 0.0
) -> NDArray[np.float64]:
    """Deviance of every pattern above that of its neighbours, which have the same brightness.

    Args:
        residuals: (n,), deviance of every pattern.
        positions: (n, 2).
        noise: standard deviation of the deviance by photon noise, a lower bound of the unit.

    Returns:
        (n,), in standard deviations (robust) of this excess above its median.
    """
    count = min(_NEIGHBOURS + 1, len(positions))
    _, neighbours = KDTree(positions).query(positions, k=count)
    excess = residuals - np.median(residuals[neighbours.reshape(len(positions), count)], axis=1)
    excess -= np.median(excess)
    deviation = 1.4826 * np.median(np.abs(excess))
    scores: NDArray[np.float64] = excess / max(deviation, noise, 1e-12)
    return scores


def local_outliers(excess: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices, ascending, of the patterns of highest :func:`local_excess` (n,); at most a tenth of the patterns."""
    worst = np.argsort(-excess, kind="stable")[: int(_FRACTION * len(excess))]
    return np.sort(worst[excess[worst] > _OUTLIER])


def search_radius(config: RefineConfig, deviation: float) -> int:
    """Largest distance of a position from its centre, pixels: that of the configuration, or five deviations."""
    return max(config.search, math.ceil(_REACH * deviation))


def replace_outliers(
    objective: Objective, state: State, residuals: Tensor, centres: Tensor, config: RefineConfig, deviation: float
) -> State:
    """Refine the object without outliers, and search their positions in it.

    Args:
        objective: of the scan.
        state: the current one; it is not changed.
        residuals: (n,), deviance of every pattern.
        centres: (n, 2), canvas coordinates to search around, within :func:`search_radius`.
        config: of the refinement.
        deviation: standard deviation of the position errors along an axis, pixels.

    Returns:
        The state with the object around the outliers refined without them, and with better positions of outliers where
        there are any. Gross outliers that cover an area alone, as a group at the border does, are at their centres.
    """
    radius = search_radius(config, deviation)
    positions = read_back(state.positions)
    # The deviance of a bright pixel has a variance of 2; that of a pattern is the mean of its pixels.
    noise = math.sqrt(2 * len(positions) / objective.pixels)
    excess = local_excess(read_back(residuals), positions, noise)
    outliers = local_outliers(excess)
    others = np.setdiff1d(np.arange(len(positions)), outliers)
    if not len(outliers) or not len(others):
        return state
    distance, _ = KDTree(positions[outliers]).query(positions[others], p=np.inf)
    kept, members = (
        torch.from_numpy(part).to(objective.device) for part in (others[distance < objective.size], outliers)
    )
    if not len(kept):
        return state
    image, illumination = _refined_without(objective, state, kept, config)
    around = _around(objective, positions[outliers], radius)
    result = dataclasses.replace(
        state, object=torch.where(around, image, state.object), positions=state.positions.clone()
    )
    offsets = _disc(radius, objective.device)
    trials = torch.cat([state.positions[members, None], centres[members, None] + offsets], 1)
    values = trial_objectives(objective, result, members, trials).double()
    values += (trials - centres[members, None]).square().sum(2) / (4 * max(deviation, _DEVIATION) ** 2)
    lowest, index = values.min(1)
    best = trials[torch.arange(len(members), device=trials.device), index]
    covered = _coverage(objective, state, illumination, best) > _COVERED
    better = (lowest < values[:, 0] - _GAIN) & covered
    gross = torch.from_numpy(excess[outliers] > _GROSS).to(objective.device)
    back = torch.where((gross & ~covered)[:, None], centres[members], state.positions[members])
    result.positions[members] = torch.where(better[:, None], best, back)
    _log.info("%d outliers of %d patterns, %d with a better position", len(members), len(positions), int(better.sum()))
    return result


def _refined_without(objective: Objective, state: State, kept: Tensor, config: RefineConfig) -> tuple[Tensor, Tensor]:
    """Object refined with the patterns ``kept`` (k,) only, and their illumination of the canvas, (H, W)."""
    fixed = dataclasses.replace(
        config, learn_probe=False, learn_positions=False, learn_intensities=False, amplitude_limit=None
    )
    part = objective.of_patterns(kept, objective.canvas_size, fixed)
    parts = {name: value[kept] if name in PER_PATTERN else value.clone() for name, value in state.to_dict().items()}
    trial = State(**parts)
    engine = LbfgsEngine(part, trial, fixed, Regularisers(fixed, part.pixels, trial.positions), lambda moves: moves)
    for _ in range(_PASSES):
        engine.advance()
    return engine.state.object, engine.illumination


def _around(objective: Objective, corners: NDArray[np.float64], radius: int) -> Tensor:
    """Pixels (H, W) that patterns cut at these corners (k, 2) determine, before and after a search."""
    mask = np.zeros(objective.canvas_size, bool)
    reach = objective.size // 2 + radius
    for y, x in np.round(corners + objective.size / 2).astype(int):
        mask[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = True
    return torch.from_numpy(mask).to(objective.device)


def _disc(radius: int, device: torch.device) -> Tensor:
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64, device=device)
    offsets = torch.cartesian_prod(axis, axis)
    return offsets[offsets.norm(dim=1) <= radius]


def _coverage(objective: Objective, state: State, illumination: Tensor, positions: Tensor) -> Tensor:
    """Illumination by others under the probe at positions (k, 2), relative to the typical one, at most 1: (k,)."""
    typical = illumination[illumination > 0.02 * illumination.max()].median()
    relative = (illumination / typical).clamp(max=1.0)
    weight = squared_modulus(state.probe).sum(0)
    height, width = (side - objective.size for side in objective.canvas_size)
    corners = torch.stack([positions[:, 0].round().clamp(0, height), positions[:, 1].round().clamp(0, width)], 1)
    patches = extract_patches(relative, corners, objective.size)
    return (patches * (weight / weight.sum())).sum((1, 2))
