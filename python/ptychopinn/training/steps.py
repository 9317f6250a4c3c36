# SPDX-License-Identifier: BSD-3-Clause
"""The steps of a training: several in succession on tensors that stay where they are, captured on CUDA.

A step takes its patterns, positions and learning rates from tables by a counter that is a tensor itself, so that the
host does nothing between two steps but launch them, and reads nothing back. The tables are filled for K steps at a
time. On the CPU it is the same code without a capture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.batches.resident import ResidentCounts
from ptychopinn.batches.steps import Steps
from ptychopinn.models import PtychoModel
from ptychopinn.runtime.graphs import Captured
from ptychopinn.runtime.processes import distributed, rank_and_size, reduce_sums
from ptychopinn.training.optimiser import CompositeOptimizer, RowAdam
from ptychopinn.training.shard_weights import Weights, parts_of, weights_of

#: The loss of a batch; positions are learned by the rows (B, C, 2) of their parameter, if given.
Loss = Callable[[GroupBatch, Weights, Tensor | None], Tensor]

#: Values of a held-out batch: its loss, that of averaged groups, the noise floor of the latter.
VALUES = 3
#: Largest gradient norm of a probe of power 1: at high dose some batches have zeros of the far field on many pixels,
#: where the gradient through the unrolled steps has no bound.
_STEEPEST_PROBE = 0.25


class Tables(NamedTuple):
    """What K steps read, by step, batch of the step, group and pattern.

    Attributes:
        rows: int64, (K, A, B, C), of the patterns among the counts.
        positions: float64, (K, A, B, C, 2).
        origins: int64, (K, A, B, 2).
        members: int64, (K, A, B, C).
        weights: float32, (K, A, 3), of the batches of this process in a loss; see :class:`Weights`.
        counts: float32, (R, N, N), FFT order, unless the counts of all scans are on the device.
        truth: complex64, (K, A, B, H, W), if it is trained on.
    """

    rows: Tensor
    positions: Tensor
    origins: Tensor
    members: Tensor
    weights: Tensor
    counts: Tensor | None
    truth: Tensor | None


class StepTables:
    """The tables of K steps on a device; on CUDA they stay in place while shapes stay the same.

    Args:
        model: has the mask of good pixels.
        resident: the counts of all scans on the device, or None: they come with the steps.
        device: of the tables.
    """

    def __init__(self, model: PtychoModel, resident: ResidentCounts | None, device: torch.device) -> None:
        self.model, self.resident, self.device = model, resident, device
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self.canvas_size = (0, 0)
        self.batches = 1
        self.tables: Tables | None = None

    def fill(self, steps: Steps) -> bool:
        """Write the tables of these steps; returns whether they are new tensors, of other shapes."""
        given = self._tables(steps)
        size, batches = steps.patterns.canvas_size, steps.shape[1]
        self.cursor.zero_()
        fits = self.tables is not None and (self.canvas_size, self.batches) == (size, batches)
        if self.device.type == "cuda" and fits and self._copied(given):
            return False
        self.tables, self.canvas_size, self.batches = given, size, batches
        return True

    def _copied(self, given: Tables) -> bool:
        """Whether tables of K steps took these, of as many or fewer."""
        assert self.tables is not None
        pairs = [(old, new) for old, new in zip(self.tables, given, strict=True) if new is not None or old is not None]
        for old, new in pairs:
            if old is None or new is None or old.shape[1:] != new.shape[1:] or len(old) < len(new):
                return False
        for old, new in pairs:
            assert old is not None and new is not None
            old[: len(new)].copy_(new)
        return True

    def _tables(self, steps: Steps) -> Tables:
        patterns = steps.patterns
        members = steps.in_steps(patterns.members)
        if self.resident is None:
            counts = patterns.finish().counts.flatten(0, 1)
            rows = torch.arange(len(counts), device=self.device).view(members.shape)
        else:
            counts, rows = None, members
        return Tables(
            rows,
            steps.in_steps(patterns.positions),
            steps.in_steps(patterns.origins),
            members,
            self._weights(steps, rows, counts),
            counts,
            None if patterns.truth is None else steps.in_steps(patterns.truth),
        )

    def _weights(self, steps: Steps, rows: Tensor, counts: Tensor | None) -> Tensor:
        if not distributed():
            return torch.ones(*steps.shape[:2], 3, dtype=torch.float32, device=self.device)
        return weights_of(lambda k: self._patterns(rows[k], counts), steps, self.model.good)

    def batch(self, part: int) -> GroupBatch:
        """Batch `part` of the step at the cursor."""
        assert self.tables is not None
        tables = self.tables
        return GroupBatch(
            self._patterns(self._at(tables.rows, part), tables.counts),
            self._at(tables.positions, part),
            self._at(tables.origins, part),
            self.canvas_size,
            self._at(tables.members, part),
            None if tables.truth is None else self._at(tables.truth, part),
        )

    def weights(self, part: int) -> Weights:
        """The weights of batch `part` of the step at the cursor."""
        assert self.tables is not None
        return Weights(*self._at(self.tables.weights, part).unbind())

    def _at(self, table: Tensor, part: int) -> Tensor:
        return table.index_select(0, self.cursor)[0, part]

    def _patterns(self, rows: Tensor, counts: Tensor | None) -> Tensor:
        if counts is None:
            assert self.resident is not None
            return self.resident(rows)
        return counts.index_select(0, rows.flatten()).view(*rows.shape, *counts.shape[1:])


class RowExchange:
    """Gradients of learned positions of all processes, in tensors that stay where they are.

    Processes with fewer rows repeat their first one, with a gradient of zero.

    Args:
        steps: K steps of A batches.
        parameter: the positions' (n, 2).

    Attributes:
        rows: int64, (m,), of all processes.
        gradients: (m, 2).
    """

    def __init__(self, steps: Steps, parameter: Tensor) -> None:
        _, processes = rank_and_size()
        _, batches, _ = steps.shape
        patterns = steps.patterns.members.shape[-1]
        most = batches * math.ceil(steps.groups / processes) * patterns
        self._own_rows = torch.zeros(most, dtype=torch.int64, device=parameter.device)
        self._own = torch.zeros(most, parameter.shape[1], dtype=parameter.dtype, device=parameter.device)
        self.rows = self._own_rows.repeat(processes)
        self.gradients = self._own.repeat(processes, 1)

    def put(self, rows: Tensor, gradients: Tensor) -> None:
        """Set what this process has."""
        self._own_rows.copy_(rows[:1].expand_as(self._own_rows))
        self._own_rows[: len(rows)] = rows
        self._own[: len(rows)] = gradients

    def gather(self) -> None:
        """Bring together what all processes have."""
        count = rank_and_size()[1]
        dist.all_gather(list(self.rows.chunk(count)), self._own_rows)
        dist.all_gather(list(self.gradients.chunk(count)), self._own)


class TrainingSteps:
    """Does the steps of a training.

    Args:
        loss: of a batch.
        model: what is trained; its network, illumination and positions are clipped and stepped by themselves.
        optimiser: of the model.
        tables: of the steps.
        clip: largest gradient norm of the network; None: no limit.
        average: called after every step, to average the weights.
        before_step: called before every step of the optimiser that is not replayed.
        scaler: of the gradients of half precision, which reads back in every step: such steps are not captured.
        points: of an exposure.
    """

    def __init__(
        self,
        loss: Loss,
        model: PtychoModel,
        optimiser: CompositeOptimizer,
        tables: StepTables,
        *,
        clip: float | None = None,
        average: Callable[[], None] | None = None,
        before_step: Callable[[], None] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        points: int = 1,
    ) -> None:
        self.loss, self.model, self.optimiser, self.tables = loss, model, optimiser, tables
        self.clip, self.average, self.before_step, self.scaler = clip, average, before_step, scaler
        self.device, self.points = tables.device, points
        rows = [part for part in optimiser.parts if isinstance(part, RowAdam)]
        self.position_optimiser = rows[0] if rows else None
        self.dense = [
            parameter
            for part in optimiser.parts
            if not isinstance(part, RowAdam)
            for group in part.param_groups
            for parameter in group["params"]
        ]
        #: All gradients, which are views of it, so that they are summed over the processes at once.
        self._sums: Tensor | None = None
        if distributed():
            self._sums = torch.zeros(sum(p.numel() for p in self.dense), dtype=torch.float32, device=self.device)
        self._exchange: RowExchange | None = None
        self._unsplit = any(isinstance(layer, _BatchNorm) for layer in model.modules())
        self._losses = self._rates = torch.zeros(0, dtype=torch.float32, device=self.device)
        self._forget_captures()

    def _forget_captures(self) -> None:
        possible = self.scaler is None
        name = "the training step"
        if self._sums is None:
            self._parts = [Captured(self._step, self.device, name, enabled=possible)]
        else:
            self._parts = [
                Captured(self._gradients, self.device, name, enabled=possible),
                Captured(self._update, self.device, name, enabled=possible),
            ]

    def run(self, steps: Steps, rates: Sequence[Sequence[float]]) -> Tensor:
        """Do K steps.

        Args:
            steps: their groups, on the device.
            rates: learning rates of every group of parameters, for every step.

        Returns:
            The mean of the steps' losses, a tensor on the device; of several processes, this one's summand of it.
        """
        count = steps.shape[0]
        if self.tables.fill(steps):
            self._losses = torch.zeros(count, dtype=torch.float32, device=self.device)
            if self.device.type == "cuda":
                self._rates = torch.zeros(count, len(rates[0]), dtype=torch.float32, device=self.device)
            if self.model.positions is not None and self._sums is not None:
                self._exchange = RowExchange(steps, self.model.positions.free)
            self._forget_captures()
        if self.device.type == "cuda":
            self._rates[:count].copy_(torch.tensor(rates, dtype=torch.float32, device="cpu"), non_blocking=True)
        for step in range(count):
            if self.device.type != "cuda":
                self.optimiser.set_rates(rates[step])
            gradients, *update = self._parts
            gradients()
            if update:
                self._add_up()
                update[0]()
        return self._losses[:count].mean()

    def _step(self) -> None:
        self._gradients()
        self._update()

    def _gradients(self) -> None:
        """The loss of the step at the cursor, and its gradients."""
        if self._sums is None:
            for parameter in self.dense:
                parameter.grad = None
        else:
            self._sums.zero_()
            sizes = [parameter.numel() for parameter in self.dense]
            for parameter, part in zip(self.dense, self._sums.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter)
        total = torch.zeros(1, dtype=torch.float32, device=self.device)
        for batch, weights in self._batches():
            free = None
            if self.position_optimiser is not None:
                assert self.model.positions is not None
                free = self.model.positions.free.detach()[batch.members].requires_grad_()
            loss = self.loss(batch, weights, free) / self.tables.batches
            with _without_autocast(self.device):
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            if self.position_optimiser is not None:
                assert free is not None and free.grad is not None
                gradient = free.grad if self.scaler is None else free.grad / self.scaler.get_scale()
                self.position_optimiser.add_gradient(batch.members, gradient)
            total += loss.detach()
        if self._exchange is not None and self.position_optimiser is not None:
            self._exchange.put(*self.position_optimiser.take_gradients())
        self._losses.index_copy_(0, self.tables.cursor, total)

    def _batches(self) -> Iterator[tuple[GroupBatch, Weights]]:
        """The batches of the step at the cursor, in parts unless a layer takes statistics of batches."""
        for number in range(self.tables.batches):
            batch, weights = self.tables.batch(number), self.tables.weights(number)
            parts = parts_of(batch, weights, self.model.good, self.points)
            yield from [(batch, weights)] if self._unsplit else parts

    def _update(self) -> None:
        """Clip the gradients, and step."""
        if self._exchange is not None and self.position_optimiser is not None:
            self.position_optimiser.add_gradient(self._exchange.rows, self._exchange.gradients)
        if self.optimiser.rates is not None:
            self.optimiser.rates.copy_(self._rates.index_select(0, self.tables.cursor)[0])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        if self.before_step is not None:
            self.before_step()
        self._clip()
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        if self.average is not None:
            self.average()
        self.tables.cursor.add_(1)

    def _clip(self) -> None:
        """Each by itself: the probe's gradient is the larger by far, and that of positions has other units."""
        at_once = self.device.type == "cuda" or None
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.generator.parameters(), self.clip, foreach=at_once)
        torch.nn.utils.clip_grad_norm_(self.model.illumination.parameters(), _STEEPEST_PROBE, foreach=at_once)

    def _add_up(self) -> None:
        """Sum the gradients of all processes."""
        assert self._sums is not None
        reduce_sums(self._sums)
        if self._exchange is not None:
            self._exchange.gather()


class BatchLosses:
    """The losses of batches that nothing is learned from.

    Args:
        losses: of a batch, (L,), with the weights of its summand.
        tables: of steps of one batch each.
        points: of an exposure.
    """

    def __init__(self, losses: Callable[[GroupBatch, Weights], Tensor], tables: StepTables, points: int = 1) -> None:
        self.losses, self.tables, self.points = losses, tables, points
        self._values: Tensor | None = None
        self._captured = Captured(self._batch, tables.device, "the validation step")

    def run(self, steps: Steps) -> Tensor:
        """The means (L,) of the losses of K batches, on the device; returns as :meth:`TrainingSteps.run`."""
        count = steps.shape[0]
        if self.tables.fill(steps):
            self._values = None
            self._captured = Captured(self._batch, self.tables.device, "the validation step")
        if self._values is None:
            self._values = torch.zeros(count, VALUES, dtype=torch.float32, device=self.tables.device)
        for _ in range(count):
            self._captured()
        return self._values[:count].mean(0)

    @torch.no_grad()
    def _batch(self) -> None:
        assert self._values is not None
        parts = parts_of(self.tables.batch(0), self.tables.weights(0), self.tables.model.good, self.points)
        values = torch.stack([self.losses(batch, weights) for batch, weights in parts]).sum(0)
        self._values.index_copy_(0, self.tables.cursor, values.unsqueeze(0))
        self.tables.cursor.add_(1)


def _without_autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Backward passes take the types of the forward pass."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
