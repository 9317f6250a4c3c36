# SPDX-License-Identifier: BSD-3-Clause
"""The LightningModule: one loss, one optimiser, and nothing that inference needs.

It wraps a :class:`~ptychopinn.models.PtychoModel`. Its hyper-parameters are plain types, so that checkpoints load with
no arguments and ``weights_only=True``; the probe travels in the state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ptychopinn.config import Config
from ptychopinn.data.dataset import GroupBatch
from ptychopinn.inference.bundle import build_model
from ptychopinn.physics.likelihood import LOSSES


class PtychoModule(L.LightningModule):
    """Trains a model on diffraction patterns alone.

    Args:
        config: the resolved configuration, as :meth:`Config.to_dict` gives it.
        patch_size: detector side N in pixels.
        modes: probe modes M.
    """

    def __init__(self, config: Mapping[str, Any], patch_size: int, modes: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters({"config": dict(config), "patch_size": patch_size, "modes": modes}, logger=False)
        self.config = Config.from_dict(config)
        self.model = build_model(self.config, patch_size, modes)
        self.loss = LOSSES[self.config.training.loss]

    def _loss(self, batch: GroupBatch) -> Tensor:
        canvases = self.model(batch.counts, batch.positions, batch.canvas_size)
        predicted = self.model.predict_counts(canvases, batch.positions)
        return self.loss(predicted, batch.counts, self.model.good)

    def training_step(self, batch: GroupBatch, batch_index: int) -> Tensor:
        loss = self._loss(batch)
        self.log(
            "train_loss",
            loss,
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.counts),
            sync_dist=True,
        )
        return loss

    def validation_step(self, batch: GroupBatch, batch_index: int) -> None:
        self.log("val_loss", self._loss(batch), prog_bar=True, batch_size=len(batch.counts), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        training = self.config.training
        network = [p for p in self.model.generator.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": network, "lr": training.learning_rate}]
        physics = [p for p in self.model.illumination.parameters() if p.requires_grad]
        if physics:
            groups.append({"params": physics, "lr": training.probe_learning_rate})
        return torch.optim.Adam(groups)
