# SPDX-License-Identifier: BSD-3-Clause
"""Two engines behind one interface: steps after every batch, and a quasi-Newton step after every pass.

"pie": after each compact batch, object and probe take a step divided by their illumination, with momentum (the family
of rPIE and LSQ-ML; A. Maiden et al., Optica 4, 736 (2017), M. Odstrcil et al., Opt. Express 26, 3108 (2018)). Fast in
the first passes, then it wanders with the noise of the last batches.

"lbfgs": limited-memory BFGS on the likelihood of all patterns, in variables that are scaled by the root of their
illumination (J. Nocedal and S. Wright, Numerical Optimization, algorithms 7.4 and 3.1). It sees the coupling between
object, probe and positions, which is what makes the slow phase converge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.objective import Objective, compact_batches
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import first_says, reduce_sums

#: Relative to the brightest pixel: illumination below which the steps of object and probe are held back.
OBJECT_FLOOR = 0.02
PROBE_FLOOR = 0.05
#: Relative to the mean: curvature below which the step of a position is held back.
POSITION_FLOOR = 0.1
#: Largest step of a position in one pass, pixels.
LARGEST_MOVE = 1.0
_LARGEST_BATCH_MOVE = 0.5
_SUFFICIENT = 1e-4
_SMALLEST_STEP = 1e-4

#: Adds the half gradient of all regularisers, at a state under an illumination, to a gradient; returns their value.
Penalty = Callable[[State, Tensor, State], float]
#: Takes out of a step of the positions what is not to be refined.
Projection = Callable[[Tensor], Tensor]


class Engine(Protocol):
    """Improves a state pass by pass.

    ``explained`` is J of the state without regularisers, and ``residuals``, (n,), the deviance of every pattern per
    pixel; of "pie" as they were found during its last pass.
    """

    state: State
    explained: float
    residuals: Tensor

    def advance(self) -> float:
        """Improve the state by one pass; returns J. NaN never enters the state."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, saved: dict[str, Any]) -> None: ...


def scales(objective: Objective, state: State, config: RefineConfig, light: Tensor) -> State:
    """The inverse root of the diagonal curvature of every refined part, zero for what stays as it is.

    ``light`` is the illumination of the canvas, (H, W).
    """
    transmitted, motion = objective.curvatures(state)
    made = state.map(torch.zeros_like)
    made.object = torch.rsqrt(light + OBJECT_FLOOR * light.max()).to(state.object.dtype)
    if config.learn_probe:
        per_pixel = torch.rsqrt(transmitted + PROBE_FLOOR * transmitted.max())
        made.probe = per_pixel.to(state.probe.dtype).expand_as(state.probe).clone()
    if config.learn_positions:
        made.positions = torch.rsqrt(motion + POSITION_FLOOR * motion.mean() + 1e-30)
    if config.learn_intensities:
        power = (light.sum(dtype=torch.float64) / len(objective.counts)).clamp_min(1.0)
        made.intensities = torch.full_like(state.intensities, float(2 / torch.sqrt(power)))
    return made


class PieEngine:
    """See the head of this file."""

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.state, self.config, self.penalty, self.project = objective, state, config, penalty, project
        self.velocity = torch.zeros_like(state.object)
        self.residuals = torch.zeros_like(state.intensities)
        self.passes = 0
        self.damping = 1.0
        self.last = self.explained = float("inf")
        self.safe = state.copy()  # before the last pass that was kept

    def advance(self) -> float:
        before, velocity = self.state.copy(), self.velocity.clone()
        try:
            value, explained, residuals = self._pass()
        except BaseException:  # an interrupt: half a pass was never judged
            self.state, self.velocity = before, velocity
            raise
        if not (np.isfinite(value) and self.state.finite()) or value > 2 * self.last:
            # A step too far, of this pass or at the end of the one before: back to before both, with shorter ones.
            self.state, self.velocity = self.safe.copy(), velocity.zero_()
            self.damping *= 0.5
            return self.last
        self.last, self.explained, self.residuals, self.safe = value, explained, residuals, before
        return value

    def _pass(self) -> tuple[float, float, Tensor]:
        """One pass over all batches; J as it was met on the way with and without regularisers, and the residuals."""
        objective, state, config = self.objective, self.state, self.config
        rng = np.random.default_rng([config.seed, self.passes])
        objective.arrange(compact_batches(state.positions.cpu().numpy(), config.batch_size, rng), state.positions)
        self.passes += 1
        light = objective.illumination(state.probe)
        per_light = scales(objective, state, config, light).map(lambda part: part * part)
        moves, brighter = torch.zeros_like(state.positions), torch.zeros_like(state.intensities)
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=objective.device)
        for index in rng.permutation(len(objective.batches)).tolist():
            found = objective.downhill(index, state, objective.shift.represent(state.probe))
            reduce_sums(found.object, found.probe)
            members, window = objective.members[index], objective.places[index].window
            value += found.value
            velocity = self.velocity[window]
            velocity.mul_(config.momentum).add_(found.object * per_light.object[window])
            state.object[window] += self.damping * config.object_step * velocity
            if config.learn_probe:
                share = self.damping * config.probe_step * len(objective.counts) / len(objective.batches[index])
                state.probe += share * per_light.probe * objective.shift.probe_of(found.probe)
            moves[members] = found.positions * per_light.positions[members]
            brighter[members] = found.intensities * per_light.intensities[members]
            residuals[members] = found.residuals
        reduce_sums(value, moves, brighter, residuals)
        state.intensities += brighter
        if config.learn_positions:
            length = moves.norm(dim=1, keepdim=True)
            moves *= 0.5 * (_LARGEST_BATCH_MOVE / length.clamp_min(1e-12)).clamp_max(1.0)
            state.positions += self.project(moves)
        gradient = state.map(torch.zeros_like)
        total = float(value) + self.penalty(state, light, gradient)
        state.object -= gradient.object * per_light.object
        return total, float(value), residuals

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.to_dict(), "velocity": self.velocity, "residuals": self.residuals,
            "passes": self.passes, "damping": self.damping, "last": self.last, "explained": self.explained,
            "safe": self.safe.to_dict(),
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.state = State(**saved["state"])
        self.velocity, self.residuals = saved["velocity"], saved["residuals"]
        self.passes, self.damping = saved["passes"], saved["damping"]
        self.last, self.explained, self.safe = saved["last"], saved["explained"], State(**saved["safe"])


class LbfgsEngine:
    """See the head of this file."""

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.state, self.config, self.penalty, self.project = objective, state, config, penalty, project
        self.residuals = torch.zeros_like(state.intensities)
        self.evaluations = 0
        self.stuck = False
        self.start_again()

    def start_again(self) -> None:
        """Forget the curvature that was learned, and scale anew: after the state was changed from outside."""
        rng = np.random.default_rng([self.config.seed, 0])
        positions = self.state.positions
        self.objective.arrange(compact_batches(positions.cpu().numpy(), self.config.batch_size, rng), positions)
        self.light = self.objective.illumination(self.state.probe)
        self.scale = scales(self.objective, self.state, self.config, self.light)
        self.pairs: list[tuple[State, State, float]] = []
        self.value, self.explained, self.gradient, self.residuals = self._evaluate(self.state)
        self.stuck = not np.isfinite(self.value)

    def advance(self) -> float:
        if self.stuck:
            return self.value
        direction = self._direction()
        slope = first_says(2 * self.gradient.dot(direction), self.objective.device)
        if not slope < 0:  # rounding has spoiled the curvature
            self.pairs.clear()
            direction = self.gradient.copy().scale_(-1.0)
            slope = first_says(2 * self.gradient.dot(direction), self.objective.device)
        move = direction.map(torch.mul, self.scale)
        # Before and after the scaling, or the slope would not be that of the step.
        move.positions = self.project(move.positions)
        step = min(1.0, LARGEST_MOVE / max(float(move.positions.norm(dim=1).max()), 1e-12))
        while True:
            trial = self.state.plus(step, move)
            value, explained, gradient, residuals = self._evaluate(trial)
            if np.isfinite(value) and gradient.finite() and value <= self.value + _SUFFICIENT * step * slope:
                break
            if step < _SMALLEST_STEP:
                # No lower value along the best direction known: with no memory left to drop, this is the end.
                self.stuck = not self.pairs
                self.pairs.clear()
                return self.value
            rise = value - self.value - step * slope
            shorter = -slope * step * step / (2 * rise) if np.isfinite(rise) and rise > 0 else 0.0
            step = max(0.1 * step, min(0.5 * step, shorter))
        change = gradient.plus(-1.0, self.gradient)
        direction.scale_(step)
        curvature = direction.dot(change)
        if curvature > 1e-10 * change.dot(change):
            self.pairs.append((direction, change, 1 / curvature))
            del self.pairs[: -self.config.history]
        self.state, self.value, self.gradient = trial, value, gradient
        self.explained, self.residuals = explained, residuals
        return value

    def _direction(self) -> State:
        """Minus the inverse Hessian, as the pairs know it, times the gradient; in scaled variables."""
        direction = self.gradient.copy()
        weights = []
        for step, change, inverse in reversed(self.pairs):
            weight = inverse * step.dot(direction)
            direction.add_(-weight, change)
            weights.append(weight)
        if self.pairs:
            _, change, inverse = self.pairs[-1]
            direction.scale_(1 / (inverse * change.dot(change)))
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            direction.add_(weight - inverse * change.dot(direction), step)
        return direction.scale_(-1.0)

    def _evaluate(self, state: State) -> tuple[float, float, State, Tensor]:
        """J with and without regularisers, half the gradient of the first by the scaled variables, the residuals."""
        self.evaluations += 1
        explained, gradient, residuals = self.objective.gradient(state)
        value = first_says(explained + self.penalty(state, self.light, gradient), self.objective.device)
        gradient.positions = self.project(gradient.positions)
        return value, explained, gradient.map(torch.mul, self.scale), residuals

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.to_dict(),
            "value": self.value,
            "explained": self.explained,
            "gradient": self.gradient.to_dict(),
            "scale": self.scale.to_dict(),
            "light": self.light,
            "residuals": self.residuals,
            "anchors": self.objective.anchors,
            "batches": self.objective.batches,
            "pairs": [(step.to_dict(), change.to_dict(), inverse) for step, change, inverse in self.pairs],
            "evaluations": self.evaluations,
            "stuck": self.stuck,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.state, self.gradient, self.scale = (State(**saved[name]) for name in ("state", "gradient", "scale"))
        self.value, self.explained = saved["value"], saved["explained"]
        self.light, self.residuals = saved["light"], saved["residuals"]
        self.evaluations, self.stuck = saved["evaluations"], saved["stuck"]
        self.pairs = [(State(**step), State(**change), inverse) for step, change, inverse in saved["pairs"]]
        self.objective.batches = saved["batches"]
        self.objective.anchor(saved["anchors"])


ENGINES: dict[str, type[PieEngine] | type[LbfgsEngine]] = {"pie": PieEngine, "lbfgs": LbfgsEngine}
