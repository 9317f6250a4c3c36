# SPDX-License-Identifier: BSD-3-Clause
"""Learning rates that fit epochs and a time limit at once.

The schedule follows progress, the larger of the fraction of steps done and of time spent, so that a run with
``--minutes`` ends annealed wherever the time runs out. Without a time limit it depends on the step alone and is
reproducible. torch's own schedules count steps, of which a time limit leaves the number open.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ptychopinn.config import TrainingConfig
from ptychopinn.training.optimiser import CompositeOptimizer


class ProgressLR(LRScheduler):
    """A linear rise, then as ``training.schedule`` states; all groups of parameters follow one factor.

    The plateaus are part of its state; the rates are not, so that a resumed training follows its own configuration.

    Args:
        optimizer: with the peak of every rate.
        config: of the training.
    """

    optimizer: CompositeOptimizer

    def __init__(self, optimizer: CompositeOptimizer, config: TrainingConfig) -> None:
        self.kind = config.schedule
        self.warmup = config.warmup
        self.progress = 0.0
        #: Steps at which a training began to end by itself and ends, and its progress at the first.
        self.end: tuple[int, int, float] | None = None
        #: A rate of 1 that is halved on every plateau: the factor of all others.
        self._relative = SGD([torch.zeros((), dtype=torch.float32, device="cpu")], lr=1.0)
        self._plateau = ReduceLROnPlateau(self._relative, factor=0.5, patience=config.patience, threshold=0, eps=0)
        super().__init__(optimizer)
        self.base_lrs: list[float | torch.Tensor] = [float(rate) for rate in self.base_lrs]

    def apply(self, progress: float) -> None:
        """Set the rates at ``progress``, such as over those of a checkpoint."""
        self.progress = progress
        self.optimizer.set_rates(self.rates(progress))

    def rates(self, progress: float) -> list[float]:
        """The rate of every group of parameters at ``progress`` in [0, 1]."""
        factor = self.factor(progress)
        return [float(peak) * factor for peak in self.base_lrs]

    def get_lr(self) -> list[float | torch.Tensor]:
        return list(self.rates(self.progress))

    def factor(self, progress: float) -> float:
        """Learning rate relative to its peak at ``progress`` in [0, 1]."""
        rise = min(1.0, (progress + 1e-3) / (self.warmup + 1e-3))
        progress = min(progress, 1.0)
        if self.kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "exponential":
            return rise * math.pow(0.01, progress)
        return rise * float(self._relative.param_groups[0]["lr"])

    def end_within(self, done: int, steps: int) -> None:
        """Let progress reach 1 so many steps after those that are done."""
        self.end = (done, done + steps, self.progress)

    def towards_end(self, progress: float, done: int) -> float:
        """Progress of a training after so many steps, which may be about to end by itself."""
        if self.end is None:
            return progress
        first, last, began = self.end
        return max(progress, began + (1 - began) * (done - first) / (last - first))

    def end_epoch(self, loss: float) -> None:
        """Halve the rates when the loss of an epoch has not been the lowest for longer than the patience."""
        if self.kind == "plateau":
            self._plateau.step(loss)
            self.apply(self.progress)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._plateau.best,
            "waited": self._plateau.num_bad_epochs,
            "reduced": self._relative.param_groups[0]["lr"],
            "end": self.end,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._plateau.best, self._plateau.num_bad_epochs = state_dict["best"], state_dict["waited"]
        self._relative.param_groups[0]["lr"] = state_dict["reduced"]
        end = state_dict.get("end")
        self.end = None if end is None else tuple(end)


def out_of_time(trainer: L.Trainer) -> bool:
    """Whether the time limit of a training is reached; False if it has none."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it without a type
    left = [timer.time_remaining() for timer in callbacks if isinstance(timer, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def progress_of(trainer: L.Trainer, done: int, total: int) -> float:
    """Progress of a training: the fraction of its steps that are done, or of the time of its Timer if that is more."""
    steps = done / max(1, total)
    spent = 0.0
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])  # which the Trainer's type does not declare
    for timer in (callback for callback in callbacks if isinstance(callback, Timer)):
        elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
        if remaining is not None:
            # One decision for all processes, whose rates must be the same.
            spent = float(trainer.strategy.broadcast(elapsed / max(elapsed + remaining, 1e-9)))
    return max(steps, spent)
