# SPDX-License-Identifier: BSD-3-Clause
"""Engine "lbfgs": limited-memory BFGS on the likelihood of all patterns, in scaled variables, with backtracking.

It accounts for the coupling of object, probe and positions, which low spatial frequencies of the phase need to converge
(J. Nocedal and S. Wright, Numerical Optimization, algorithms 7.5 and 3.1).

A pass is three pieces of work on buffers of fixed shape: the direction and first step; an attempt, which evaluates J
and its gradient at a step, tests it and chooses the next one; and the acceptance, which adds the pair. Tests and steps
are tensors: the host reads one small vector after each attempt, to know whether another one is needed. On CUDA each
piece is a graph, if the regions of the batches are fixed and the counts on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.history import History
from ptychopinn.refinement.interrupts import uninterrupted
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.scaling import Penalty, Projection, inverse_root_curvature
from ptychopinn.refinement.state import Layout, State, Vector, largest
from ptychopinn.runtime.graphs import Captured
from ptychopinn.runtime.processes import broadcast, distributed

#: Maximum step of a position in one pass, pixels.
MAX_POSITION_STEP = 1.0
#: Constant of the Armijo condition, and step length at which the line search stops.
_ARMIJO = 1e-4
_MIN_STEP = 1e-4


class LbfgsEngine:
    """Limited-memory BFGS with a backtracking line search.

    Attributes:
        state: views of the buffers; they change with the next pass.
        value: J of the state.
        stalled: whether no step along the gradient lowers J.
    """

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.config, self.penalty, self.project = objective, config, penalty, project
        self.layout = layout = Layout(state, config)
        self.history = History(layout, config.history)
        self._current, self._trial, self._gradient, self._trial_gradient, self._direction, self._scale = (
            layout.zeros() for _ in range(6)
        )
        # Parts that are not refined; their gradients are of no use. The object always is.
        others = [torch.zeros_like(part) for part in list(state)[1:]]
        self._fixed = State(state.object.new_empty(0), *map(torch.clone, others))
        unused = State(state.object.new_empty(0), *others)
        self._trial_state = layout.state(self._trial, self._fixed)
        self._gradients = {vector: layout.state(vector, unused) for vector in (self._gradient, self._trial_gradient)}
        self.residuals, self._trial_residuals = (torch.zeros_like(state.intensities) for _ in range(2))
        self._value, self._trial_value, self._derivative, self._step, self._quasi = torch.zeros(
            5, dtype=torch.float64, device=layout.device
        )
        self._report = torch.zeros(5, dtype=torch.float64, device=layout.device)
        self.state = state
        self.value = self.data_term = float("inf")
        self.evaluations = 0
        self.stalled = False
        self.restart()

    def restart(self) -> None:
        """Clear the memory and compute the scaling again, after the state was changed from outside."""
        for own, part in zip(self.layout.state(self._current, self._fixed), self.state, strict=True):
            own.copy_(part)
        self.state = self.layout.state(self._current, self._fixed)
        self.history.clear()
        positions = read_back(self.state.positions)
        while True:
            try:
                self._draw_batches(positions)
                self.illumination = self.objective.illumination(self.state.probe)
                self._set_scale(inverse_root_curvature(self.objective, self.state, self.config, self.illumination))
                values, residuals = self._evaluate(self.state, self._gradient)
                break
            except torch.OutOfMemoryError as error:
                self.objective.batch.halve(error)
        self.residuals.copy_(residuals)
        self._value.copy_(values[0])
        self.value, self.data_term, _ = read_back(values).tolist()
        self.stalled = not np.isfinite(self.value)
        self._capture()

    def _draw_batches(self, positions: NDArray[np.float64]) -> None:
        rng = np.random.default_rng([self.config.seed, 0])
        self.objective.set_batches(compact_batches(positions, self.objective.batch_size(), rng), positions)

    def _set_scale(self, scale: State) -> None:
        for own, part in zip(self.layout.state(self._scale, scale), scale, strict=True):
            if own.is_complex():
                part = torch.complex(part.real, part.real)  # for real and imaginary part
            own.copy_(part)

    def _capture(self) -> None:
        """Capture again, because regions, anchors or weights of priors have changed."""
        device, alone = self.layout.device, not distributed()
        fixed = alone and self.objective.fixed_regions
        self._choose = Captured(self._choose_direction, device, "the direction of a pass", enabled=alone)
        self._attempt = Captured(self._attempt_step, device, "the evaluation of a pass", enabled=fixed)
        self._accept = Captured(self._accept_step, device, "the step of a pass", enabled=alone)

    def advance(self) -> float:
        """See :class:`Engine`."""
        if self.stalled:
            return self.value
        self._choose()
        while True:
            value, data_term, accepted, step, quasi = self._attempted()
            if accepted:
                break
            if step < _MIN_STEP:
                # The line search failed: continue along the gradient, or stop if this was the gradient.
                self.stalled = not quasi
                self.history.clear()
                return self.value
        with uninterrupted():
            self._accept()
            self.value, self.data_term = value, data_term
        return value

    def _attempted(self) -> list[float]:
        """Make one attempt, with smaller batches where the memory of the device is not enough; returns its report."""
        while True:
            try:
                self.evaluations += 1
                self._attempt()
                report: list[float] = read_back(self._report).tolist()
                return report
            except torch.OutOfMemoryError as error:
                self.objective.batch.halve(error)
                self._draw_batches(self.objective.anchors)
                self._capture()

    def _choose_direction(self) -> None:
        """Choose the direction, and the first step along it."""
        gradient, direction = self._gradient, self._direction
        self.history.direction(gradient, direction)
        derivative, steepest = 2 * gradient.dot(direction), -2 * gradient.dot(gradient)
        decision = torch.stack([derivative, steepest])
        broadcast(decision)
        # The gradient is projected before the scaling, the step after it: so this is the derivative along the step.
        derivative, steepest = decision
        uphill = ~(derivative < 0)  # because of rounding
        self._derivative.copy_(torch.where(uphill, steepest, derivative))
        for part, other in zip(direction, gradient, strict=True):
            part.copy_(torch.where(uphill, -other, part))
        self.history.forget(uphill)
        self._quasi.copy_(self.history.valid.any())
        self._step.copy_(self._first_step())
        broadcast(self._step)

    def _first_step(self) -> Tensor:
        if not self.config.learn_positions:
            return torch.ones_like(self._step)
        longest = self._position_moves().norm(dim=1).max()
        step: Tensor = (MAX_POSITION_STEP / longest.clamp_min(1e-12)).clamp_max(1.0)
        return step

    def _position_moves(self) -> Tensor:
        part = self.layout.slices["positions"]
        moves = self._direction.double[part] * self._scale.double[part]
        return self.project(moves.view(self.layout.shapes["positions"]))

    def _attempt_step(self) -> None:
        """Evaluate J at the step, test it, and choose the next step if it is rejected."""
        for trial, current, direction, scale in zip(
            self._trial, self._current, self._direction, self._scale, strict=True
        ):
            torch.mul(direction, scale, out=trial)
            if trial.dtype == torch.float64 and self.config.learn_positions:
                trial[self.layout.slices["positions"]] = self._position_moves().view(-1)
            torch.addcmul(current, trial, self._step.to(trial.dtype), out=trial)
        values, residuals = self._evaluate(self._trial_state, self._trial_gradient)
        self._trial_residuals.copy_(residuals)
        value, data_term, finite = values
        step, predicted = self._step, self._step * self._derivative
        accepted = (finite > 0) & (value <= self._value + _ARMIJO * predicted)
        self._report.copy_(torch.stack([value, data_term, accepted.double(), step, self._quasi]))
        self._trial_value.copy_(value)
        # The minimum of a parabola, within bounds.
        excess = value - self._value - predicted
        minimum = torch.where((finite > 0) & (excess > 0), -predicted * step / (2 * excess), 0.0)
        smaller = torch.maximum(0.1 * step, torch.minimum(0.5 * step, minimum))
        self._step.copy_(torch.where(accepted, step, smaller))

    def _accept_step(self) -> None:
        """Make the trial the current state, and add the pair of step and change of the gradient."""
        step = Vector(*(part * self._step.to(part.dtype) for part in self._direction))
        change = Vector(*(new - old for new, old in zip(self._trial_gradient, self._gradient, strict=True)))
        self.history.add(step, change)
        self._current.copy_(self._trial)
        self._gradient.copy_(self._trial_gradient)
        self.residuals.copy_(self._trial_residuals)
        self._value.copy_(self._trial_value)

    def _evaluate(self, state: State, gradient: Vector) -> tuple[Tensor, Tensor]:
        """Write half the gradient, in scaled variables, to ``gradient``.

        Returns:
            J with and without regularisers and whether J and the gradient are finite, float64, (3,); the residuals.
        """
        parts = self._gradients[gradient]
        data_term, _, residuals = self.objective.gradient(state, parts)
        value = data_term + self.penalty(state, self.illumination, parts)
        if self.config.learn_positions:
            parts.positions.copy_(self.project(parts.positions))
        for part, scale in zip(gradient, self._scale, strict=True):
            part.mul_(scale)
        finite = torch.stack([value, *map(largest, gradient)]).isfinite().all()
        values = torch.stack([value, data_term, finite.double()])
        broadcast(values)
        return values, residuals

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Engine`."""
        return {
            "state": self.state.to_dict(),
            "value": self.value,
            "explained": self.data_term,
            "gradient": self._gradient.to_dict(),
            "scale": self._scale.to_dict(),
            "light": self.illumination,
            "residuals": self.residuals,
            "anchors": torch.from_numpy(self.objective.anchors),
            "batches": [torch.from_numpy(batch) for batch in self.objective.batches],
            "history": self.history.state_dict(),
            "evaluations": self.evaluations,
            "stuck": self.stalled,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """See :class:`Engine`."""
        for own, part in zip(self.state, State(**saved["state"]), strict=True):
            own.copy_(part)
        for vector, name in ((self._gradient, "gradient"), (self._scale, "scale")):
            vector.copy_(Vector(**saved[name]))
        self.value, self.data_term = saved["value"], saved["explained"]
        self._value.fill_(self.value)
        self.illumination = saved["light"]
        self.residuals.copy_(saved["residuals"])
        self.evaluations, self.stalled = saved["evaluations"], saved["stuck"]
        self.history.load_state_dict(saved["history"])
        self.objective.set_batches([batch.cpu().numpy() for batch in saved["batches"]], saved["anchors"].cpu().numpy())
        self._capture()
