# SPDX-License-Identifier: BSD-3-Clause
"""Two engines with one interface: a step after every batch, or a quasi-Newton step after every pass.

"pie": after each compact batch, object and probe take a preconditioned gradient step with momentum, like rPIE and
LSQ-ML (A. Maiden et al., Optica 4, 736 (2017); M. Odstrcil et al., Opt. Express 26, 3108 (2018)). Converges fast in the
first passes, then fluctuates with the noise of the last batches.

"lbfgs": limited-memory BFGS on the likelihood of all patterns, in scaled variables (J. Nocedal and S. Wright, Numerical
Optimization, algorithms 7.4 and 3.1). It accounts for the coupling of object, probe and positions, which low spatial
frequencies of the phase need to converge.
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
from ptychopinn.runtime.processes import reduce_sums, value_of_first

#: Added to the curvature of object and probe, relative to its maximum: damps steps where illumination is weak.
OBJECT_FLOOR = 0.02
PROBE_FLOOR = 0.05
#: Added to the curvature of positions, relative to its mean.
POSITION_FLOOR = 0.1
#: Maximum step of a position in one pass, pixels: of "lbfgs", and of "pie".
MAX_POSITION_STEP = 1.0
_MAX_PIE_POSITION_STEP = 0.5
#: Constant of the Armijo condition, and step length at which the line search stops.
_ARMIJO = 1e-4
_MIN_STEP = 1e-4

#: Adds half the gradient of all regularisers, at a state with an illumination (H, W), to a gradient; returns J of them.
Penalty = Callable[[State, Tensor, State], float]
#: Projects steps of the positions (n, 2) onto those that are refined.
Projection = Callable[[Tensor], Tensor]


class Engine(Protocol):
    """Minimises J pass by pass.

    Attributes:
        state: the current state, always finite.
        data_term: J of the state without regularisers.
        residuals: (n,), deviance of every pattern per detector pixel. Of "pie", data term and residuals are those met
            during the last pass.
    """

    state: State
    data_term: float
    residuals: Tensor

    def advance(self) -> float:
        """Do one pass; returns J."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the engine as tensors and plain values, for a checkpoint."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


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
        scale.intensities = torch.full_like(state.intensities, float(2 / torch.sqrt(power)))
    return scale


class PieEngine:
    """Preconditioned gradient steps with momentum after every batch."""

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.state, self.config, self.penalty, self.project = objective, state, config, penalty, project
        self.velocity = torch.zeros_like(state.object)
        self.residuals = torch.zeros_like(state.intensities)
        self.passes = 0
        self.damping = 1.0
        self.last_value = self.data_term = float("inf")
        self.fallback = state.copy()  # the state before the last accepted pass

    def advance(self) -> float:
        before, velocity = self.state.copy(), self.velocity.clone()
        try:
            value, data_term, residuals = self._pass()
        except BaseException:  # an interrupt: a partial pass is discarded
            self.state, self.velocity = before, velocity
            raise
        if not (np.isfinite(value) and self.state.finite()) or value > 2 * self.last_value:
            # A step was too long, in this pass or at the end of the previous one: undo both and shorten the steps.
            self.state, self.velocity = self.fallback.copy(), velocity.zero_()
            self.damping *= 0.5
            return self.last_value
        self.last_value, self.data_term, self.residuals, self.fallback = value, data_term, residuals, before
        return value

    def _pass(self) -> tuple[float, float, Tensor]:
        """Do one pass over all batches; returns J with and without regularisers, and the residuals."""
        objective, state, config = self.objective, self.state, self.config
        rng = np.random.default_rng([config.seed, self.passes])
        objective.set_batches(compact_batches(state.positions.cpu().numpy(), config.batch_size, rng), state.positions)
        self.passes += 1
        illumination = objective.illumination(state.probe)
        scale = inverse_root_curvature(objective, state, config, illumination)
        inverse_curvature = scale.map(lambda part: part * part)
        moves, intensity_steps = torch.zeros_like(state.positions), torch.zeros_like(state.intensities)
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=objective.device)
        for index in rng.permutation(len(objective.batches)).tolist():
            batch = objective.batch_correction(index, state, objective.shift.represent(state.probe))
            reduce_sums(batch.object, batch.probe)
            members, slices = objective.members[index], objective.regions[index].slices
            value += batch.value
            velocity = self.velocity[slices]
            velocity.mul_(config.momentum).add_(batch.object * inverse_curvature.object[slices])
            state.object[slices] += self.damping * config.object_step * velocity
            if config.learn_probe:
                rate = self.damping * config.probe_step * len(objective.counts) / len(objective.batches[index])
                state.probe += rate * inverse_curvature.probe * objective.shift.restore(batch.probe)
            moves[members] = batch.positions * inverse_curvature.positions[members]
            intensity_steps[members] = batch.intensities * inverse_curvature.intensities[members]
            residuals[members] = batch.residuals
        reduce_sums(value, moves, intensity_steps, residuals)
        state.intensities += intensity_steps
        if config.learn_positions:
            length = moves.norm(dim=1, keepdim=True)
            moves *= 0.5 * (_MAX_PIE_POSITION_STEP / length.clamp_min(1e-12)).clamp_max(1.0)
            state.positions += self.project(moves)
        gradient = state.map(torch.zeros_like)
        total = float(value) + self.penalty(state, illumination, gradient)
        state.object -= gradient.object * inverse_curvature.object
        return total, float(value), residuals

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.to_dict(), "velocity": self.velocity, "residuals": self.residuals,
            "passes": self.passes, "damping": self.damping, "last": self.last_value,
            "explained": self.data_term, "safe": self.fallback.to_dict(),
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.state = State(**saved["state"])
        self.velocity, self.residuals = saved["velocity"], saved["residuals"]
        self.passes, self.damping = saved["passes"], saved["damping"]
        self.last_value, self.data_term = saved["last"], saved["explained"]
        self.fallback = State(**saved["safe"])


class LbfgsEngine:
    """Limited-memory BFGS with a backtracking line search."""

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.state, self.config, self.penalty, self.project = objective, state, config, penalty, project
        self.residuals = torch.zeros_like(state.intensities)
        self.evaluations = 0
        self.stalled = False
        self.restart()

    def restart(self) -> None:
        """Clear the memory and compute the scaling again, after the state was changed from outside."""
        rng = np.random.default_rng([self.config.seed, 0])
        positions = self.state.positions
        self.objective.set_batches(compact_batches(positions.cpu().numpy(), self.config.batch_size, rng), positions)
        self.illumination = self.objective.illumination(self.state.probe)
        self.scale = inverse_root_curvature(self.objective, self.state, self.config, self.illumination)
        self.pairs: list[tuple[State, State, float]] = []  # step, change of the gradient, 1 / their inner product
        self.value, self.data_term, self.gradient, self.residuals = self._evaluate(self.state)
        self.stalled = not np.isfinite(self.value)

    def advance(self) -> float:
        if self.stalled:
            return self.value
        direction = self._direction()
        derivative = value_of_first(2 * self.gradient.dot(direction), self.objective.device)
        if not derivative < 0:  # not a descent direction, because of rounding
            self.pairs.clear()
            direction = self.gradient.copy().scale_(-1.0)
            derivative = value_of_first(2 * self.gradient.dot(direction), self.objective.device)
        move = direction.map(torch.mul, self.scale)
        # The gradient is projected before the scaling, the step after it: so `derivative` is that along the step.
        move.positions = self.project(move.positions)
        step = min(1.0, MAX_POSITION_STEP / max(float(move.positions.norm(dim=1).max()), 1e-12))
        while True:
            trial = self.state.plus(step, move)
            value, data_term, gradient, residuals = self._evaluate(trial)
            if np.isfinite(value) and gradient.finite() and value <= self.value + _ARMIJO * step * derivative:
                break
            if step < _MIN_STEP:
                # The line search failed: continue along the gradient, or stop if this was the gradient.
                self.stalled = not self.pairs
                self.pairs.clear()
                return self.value
            excess = value - self.value - step * derivative
            minimum = -derivative * step * step / (2 * excess) if np.isfinite(excess) and excess > 0 else 0.0
            step = max(0.1 * step, min(0.5 * step, minimum))  # the minimum of a parabola, within bounds
        change = gradient.plus(-1.0, self.gradient)
        direction.scale_(step)
        curvature = direction.dot(change)
        if curvature > 1e-10 * change.dot(change):
            self.pairs.append((direction, change, 1 / curvature))
            del self.pairs[: -self.config.history]
        self.state, self.value, self.gradient = trial, value, gradient
        self.data_term, self.residuals = data_term, residuals
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
        """J with and without regularisers, half the gradient of the first in scaled variables, and the residuals."""
        self.evaluations += 1
        data_term, gradient, residuals = self.objective.gradient(state)
        value = value_of_first(data_term + self.penalty(state, self.illumination, gradient), self.objective.device)
        gradient.positions = self.project(gradient.positions)
        return value, data_term, gradient.map(torch.mul, self.scale), residuals

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.to_dict(),
            "value": self.value,
            "explained": self.data_term,
            "gradient": self.gradient.to_dict(),
            "scale": self.scale.to_dict(),
            "light": self.illumination,
            "residuals": self.residuals,
            "anchors": self.objective.anchors,
            "batches": self.objective.batches,
            "pairs": [(step.to_dict(), change.to_dict(), inverse) for step, change, inverse in self.pairs],
            "evaluations": self.evaluations,
            "stuck": self.stalled,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.state, self.gradient, self.scale = (State(**saved[name]) for name in ("state", "gradient", "scale"))
        self.value, self.data_term = saved["value"], saved["explained"]
        self.illumination, self.residuals = saved["light"], saved["residuals"]
        self.evaluations, self.stalled = saved["evaluations"], saved["stuck"]
        self.pairs = [(State(**step), State(**change), inverse) for step, change, inverse in saved["pairs"]]
        self.objective.batches = saved["batches"]
        self.objective.set_anchors(saved["anchors"])


ENGINES: dict[str, type[PieEngine] | type[LbfgsEngine]] = {"pie": PieEngine, "lbfgs": LbfgsEngine}
