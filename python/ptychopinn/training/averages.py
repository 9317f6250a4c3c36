# SPDX-License-Identifier: BSD-3-Clause
"""The exponential moving average of the weights, taken after every step and saved in their place."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AverageOfSteps(EMAWeightAveraging):
    """Lightning's average, which the training steps update themselves, on the device and without the host.

    Args:
        decay: of the average in every step.
        device: of the average; None: that of the weights.
    """

    def __init__(self, decay: float, device: str | None) -> None:
        super().__init__(device=device, decay=decay, use_buffers=False)
        self._average = get_ema_multi_avg_fn(decay)
        self._begun = False
        self._weights: list[torch.Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._average_model is not None
        self._begun = bool(self._average_model.n_averaged > 0)
        self._weights = list(pl_module.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step in; the first are the average."""
        assert self._average_model is not None
        averages: list[torch.Tensor] = list(self._average_model.module.parameters())
        if self._begun:
            self._average(averages, self._weights, self._average_model.n_averaged)
        else:
            torch._foreach_copy_(averages, self._weights)
        self._begun = True
        self._average_model.n_averaged.add_(1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._latest_update_step = trainer.global_step
