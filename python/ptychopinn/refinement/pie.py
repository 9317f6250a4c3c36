# SPDX-License-Identifier: BSD-3-Clause
"""Engine "pie": after each compact batch, object and probe take a preconditioned gradient step with momentum.

Like rPIE and LSQ-ML (A. Maiden et al., Optica 4, 736 (2017); M. Odstrcil et al., Opt. Express 26, 3108 (2018)).
Converges fast in the first passes, then fluctuates with the noise of the last batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.limits import Limits
from ptychopinn.refinement.objective import PER_PATTERN, Objective
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regions import compact_batches
from ptychopinn.refinement.scaling import Penalty, Projection, inverse_root_curvature
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import broadcast, reduce_sums

#: Maximum step of a position in one pass, pixels.
_MAX_POSITION_STEP = 0.5


class PieEngine:
    """Preconditioned gradient steps with momentum after every batch.

    Batches are drawn again in every pass, on the host from a copy of the positions, so a pass is not captured.
    """

    def __init__(
        self, objective: Objective, state: State, config: RefineConfig, penalty: Penalty, project: Projection
    ) -> None:
        self.objective, self.state, self.config, self.penalty, self.project = objective, state, config, penalty, project
        self.limits = Limits(config, objective.pixels)
        self.velocity = torch.zeros_like(state.object)
        self.residuals = torch.zeros_like(state.intensities)
        self.passes = 0
        self.damping = 1.0
        self.last_value = self.data_term = float("inf")
        self.fallback = state.copy()  # the state before the last accepted pass
        self._copied: tuple[Tensor, NDArray[np.float64]] | None = None  # positions, and their copy on the host
        self._copied_fallback: NDArray[np.float64] | None = None  # the copy of those of the fallback

    def advance(self) -> float:
        """See :class:`Engine`."""
        before, velocity, passes = self.state.copy(), self.velocity.clone(), self.passes
        copied = self._host_positions()
        while True:
            try:
                value, data_term, finite, residuals = self._pass()
                break
            except BaseException as error:  # a partial pass is discarded, also by an interrupt
                self.state, self.velocity, self.passes = before, velocity, passes
                if not isinstance(error, torch.OutOfMemoryError):
                    raise
                self.objective.batch.halve(error)
                before, velocity = before.copy(), velocity.clone()
        if not (finite and np.isfinite(value)) or value > 2 * self.last_value:
            # A step was too long, in this pass or at the end of the previous one: undo both and shorten the steps.
            self.state, self.velocity = self.fallback.copy(), velocity.zero_()
            self._copied = None if self._copied_fallback is None else (self.state.positions, self._copied_fallback)
            self.damping *= 0.5
            return self.last_value
        self.last_value, self.data_term, self.residuals, self.fallback = value, data_term, residuals, before
        self._copied_fallback = copied
        return value

    def _pass(self) -> tuple[float, float, bool, Tensor]:
        """Do one pass; returns J with and without regularisers, whether the state is finite, and the residuals."""
        objective, state, config = self.objective, self.state, self.config
        rng = np.random.default_rng([config.seed, self.passes])
        positions = self._host_positions()
        objective.set_batches(compact_batches(positions, objective.batch_size(steps=True), rng), positions)
        self.passes += 1
        illumination = objective.illumination(state.probe)
        scale = inverse_root_curvature(objective, state, config, illumination)
        inverse_curvature = scale.map(lambda part: part * part)
        moves, intensity_steps = torch.zeros_like(state.positions), torch.zeros_like(state.intensities)
        others = {name: torch.zeros_like(part) for name, part in state.to_dict().items() if name in objective.learned}
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=objective.device)
        factors = objective.represent(state).factors
        order = rng.permutation(len(objective.batches)).tolist()
        for index, counts in zip(order, objective.batch_counts(order), strict=True):
            region = objective.regions[index]
            probe = objective.represent(state, factors)
            batch = objective.batch_correction(region, counts, state, probe)
            reduce_sums(batch.object, batch.probe)
            value += batch.value
            velocity = self.velocity[region.slices]
            velocity.mul_(config.momentum).addcmul_(batch.object, inverse_curvature.object[region.slices])
            state.object[region.slices].add_(velocity, alpha=self.damping * config.object_step)
            if config.learn_probe:
                rate = self.damping * config.probe_step * objective.pattern_count(region) / region.count
                state.probe.addcmul_(inverse_curvature.probe, objective.restore(batch.probe), value=rate)
            for steps, part in ((moves, batch.positions), (intensity_steps, batch.intensities)):
                if part is not None:
                    steps.index_copy_(0, region.members, part)
            for name, part in batch.others.items():
                if name in PER_PATTERN:
                    others[name].index_copy_(0, region.members, part)
                else:
                    others[name] += part
            residuals.index_copy_(0, region.members, batch.residuals)
        moves *= inverse_curvature.positions
        intensity_steps *= inverse_curvature.intensities
        reduce_sums(value, moves, intensity_steps, residuals, *others.values())
        state.intensities += intensity_steps
        for name, step in others.items():
            getattr(state, name).add_(step * getattr(inverse_curvature, name), alpha=config.probe_step)
        if config.learn_positions:
            length = moves.norm(dim=1, keepdim=True)
            moves *= 0.5 * (_MAX_POSITION_STEP / length.clamp_min(1e-12)).clamp_max(1.0)
            state.positions += self.project(moves)
        gradient = state.map(torch.zeros_like)
        total = value + self.penalty(state, illumination, gradient)
        step = gradient.object * inverse_curvature.object
        if self.limits:
            step /= 1 + self.limits.stiffness(state.object, illumination)
        state.object -= step
        if "background" in others:
            state.background -= config.probe_step * gradient.background * inverse_curvature.background
        return *self._report(total, value), residuals

    def _report(self, total: Tensor, value: Tensor) -> tuple[float, float, bool]:
        """J with and without regularisers, and whether the state is finite; with the new positions, if they moved."""
        state = self.state
        report = torch.stack([total, value, state.finite().double()])
        broadcast(report)
        moved = state.positions.flatten() if self.config.learn_positions else report.new_zeros(0)
        host = read_back(torch.cat([report, moved]))
        if self.config.learn_positions:
            self._copied = state.positions, host[3:].reshape(-1, 2)
        return float(host[0]), float(host[1]), bool(host[2])

    def _host_positions(self) -> NDArray[np.float64]:
        """A copy of the positions on the host, read from the device only if they were replaced since the last pass."""
        if self._copied is None or self._copied[0] is not self.state.positions:
            self._copied = self.state.positions, read_back(self.state.positions)
        return self._copied[1]

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Engine`."""
        return {
            "state": self.state.to_dict(), "velocity": self.velocity, "residuals": self.residuals,
            "passes": self.passes, "damping": self.damping, "last": self.last_value,
            "explained": self.data_term, "safe": self.fallback.to_dict(),
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """See :class:`Engine`."""
        self.state = State(**saved["state"])
        self.velocity, self.residuals = saved["velocity"], saved["residuals"]
        self.passes, self.damping = saved["passes"], saved["damping"]
        self.last_value, self.data_term = saved["last"], saved["explained"]
        self.fallback, self._copied_fallback = State(**saved["safe"]), None
