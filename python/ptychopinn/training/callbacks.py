# SPDX-License-Identifier: BSD-3-Clause
"""Callbacks: a learning rate that fits epochs and a time limit at once, and a stop on a loss that is not a number.

The schedule follows progress, the larger of the shares of steps done and of time spent, so that a run with ``--minutes``
ends annealed wherever the time runs out. Without a time limit it depends on the step alone and is reproducible.
"""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ptychopinn.errors import InputError


class WarmupCosine(L.Callback):
    """Linear rise, then a cosine to zero; stops the training when the time is over.

    Args:
        warmup: share of the training spent rising.
        minutes: time limit, or none.
    """

    def __init__(self, warmup: float, minutes: float | None = None) -> None:
        self.warmup = warmup
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._started = 0.0
        self._peaks: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()
        self._peaks = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        spent = (time.monotonic() - self._started) / self.seconds
        # One decision for all processes, or some would wait for the others forever.
        spent = float(trainer.strategy.broadcast(spent)) if self.seconds < math.inf else 0.0
        progress = max(trainer.global_step / max(1, trainer.estimated_stepping_batches), spent)
        factor = self.factor(progress)
        for group, peak in zip(trainer.optimizers[0].param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        if progress >= 1:
            trainer.should_stop = True

    def factor(self, progress: float) -> float:
        """Learning rate relative to its peak at ``progress`` in [0, 1]."""
        rise = min(1.0, (progress + 1e-3) / (self.warmup + 1e-3))
        return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class StopOnNonFinite(L.Callback):
    """Ends a training whose loss is no longer a number, with a sentence instead of a file full of NaN."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and not bool(torch.isfinite(loss)):
            raise InputError(
                f"training: the loss is {float(loss)} at step {trainer.global_step}; "
                "lower training.learning_rate, or check the scan's counts and probe with ptychopinn plot"
            )
