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
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor

from ptycho_ext import extract_patches_adjoint
from ptychopinn.batches.datamodule import batch_groups
from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.config import Config
from ptychopinn.persistence.bundle import build_model
from ptychopinn.physics.likelihood import CURVATURES, LOSSES
from ptychopinn.physics.overlap import illumination_weight
from ptychopinn.physics.priors import supervised_loss, total_variation
from ptychopinn.runtime.processes import distributed
from ptychopinn.training.optimiser import CompositeOptimizer
from ptychopinn.training.schedule import ProgressLR, progress_of
from ptychopinn.training.shard_weights import Weights, weights_of

#: Power of the noise that a full step may add to a probe of power 1.
_NOISE = 3e-4

#: Largest gradient norm of a probe of power 1: at high dose some batches have zeros of the far field on many pixels,
#: where the gradient through the unrolled steps has no bound.
_STEEPEST_PROBE = 0.25


class PtychoModule(L.LightningModule):
    """Trains a model on diffraction patterns alone, or, if so configured, on the truth of simulated ones.

    Args:
        config: the resolved configuration, as :meth:`Config.to_dict` gives it.
        patch_size: detector side N in pixels.
        modes: probe modes M.
        patterns: patterns n of all scans together, whose positions may be learned.
    """

    def __init__(self, config: Mapping[str, Any], patch_size: int, modes: int = 1, patterns: int = 0) -> None:
        super().__init__()
        arguments = {"config": dict(config), "patch_size": patch_size, "modes": modes, "patterns": patterns}
        self.save_hyperparameters(arguments, logger=False)
        self.config = Config.from_dict(config)
        self.model = build_model(self.config, patch_size, modes, patterns)

    def _loss(self, batch: GroupBatch, weights: Weights) -> Tensor:
        """The loss of a batch; of several processes, this one's summand of it."""
        training = self.config.training
        positions = self.model.refine(batch.positions, batch.members)
        canvases = self.model(batch.counts, positions, batch.canvas_size)
        if batch.truth is not None:
            return supervised_loss(canvases, batch.truth, self._illumination(batch, positions)) * weights.groups
        predicted = self.model.predict_counts(canvases, positions)
        loss = LOSSES[training.loss](predicted, batch.counts, self.model.good) * weights.photons
        if training.total_variation:
            # Nats per pixel against nats per photon: with the dose the data outweigh the prior, as they should.
            pixels_per_photon = batch.counts.numel() / batch.counts.sum().clamp_min(1.0)
            variation = total_variation(canvases, self._illumination(batch, positions))
            loss = loss + training.total_variation * pixels_per_photon * variation * weights.counts
        return loss

    def _illumination(self, batch: GroupBatch, positions: Tensor) -> Tensor:
        weight = illumination_weight(self.model.illumination.probe.detach()).expand(batch.counts.shape).contiguous()
        return extract_patches_adjoint(weight, positions.detach(), batch.canvas_size)

    def training_step(self, batch: GroupBatch, batch_index: int) -> Tensor:
        loss = self._logged_loss("train_loss", batch)
        if distributed():
            # DDP waits for a gradient of every parameter, and a generator may have some that it does not use.
            loss = loss + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return loss

    def validation_step(self, batch: GroupBatch, batch_index: int) -> None:
        self._logged_loss("val_loss", batch)

    def _logged_loss(self, name: str, batch: GroupBatch) -> Tensor:
        # DDP and Lightning's log take the mean over processes, of gradients and of losses, and the sum is wanted.
        loss = self._loss(batch, weights_of(batch, self.model.good)) * self.trainer.world_size
        groups = len(batch.counts) if batch.batch_size is None else batch.batch_size
        self.log(name, loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=groups, sync_dist=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        training, model = self.config.training, self.model
        newton = training.probe_step * self._trust() / CURVATURES[training.loss]
        network = {"params": list(model.generator.parameters()), "name": "network"}
        parts: list[torch.optim.Optimizer] = [torch.optim.Adam([network], training.learning_rate)]
        physics = [p for p in model.illumination.parameters() if p.requires_grad]
        if physics:
            parts.append(torch.optim.SGD([{"params": physics, "name": "probe"}], newton, momentum=0.9))
        if model.positions is not None:
            positions = {"params": list(model.positions.parameters()), "name": "positions"}
            parts.append(torch.optim.Adam([positions], training.position_step))
        optimiser = CompositeOptimizer(parts)
        self.schedule = ProgressLR(optimiser, training)
        stepped = LRSchedulerConfigType(scheduler=self.schedule, interval="step", name="learning_rate")
        return OptimizerLRSchedulerConfig(optimizer=optimiser, lr_scheduler=stepped)

    def on_train_start(self) -> None:
        # A checkpoint restores the optimiser, and with it rates of its own configuration.
        self.schedule.apply(progress_of(self.trainer))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.advance(progress_of(self.trainer))

    def on_train_epoch_end(self) -> None:
        self.schedule.end_epoch(float(self.trainer.callback_metrics["train_loss"]))

    def _trust(self) -> float:
        """Share of the probe's step that the photons of one step can bear.

        A detector pixel's amplitude has a variance of 1/4, whatever its counts, so a full step from K patterns of n
        photons moves a probe of power 1 by a noise of power ``N^2 / (4 n K)``.
        """
        patterns = self.config.data.group_size * batch_groups(self.config) * self.config.training.accumulate
        photons = patterns * float(self.model.illumination.unit) ** 2
        return min(1.0, _NOISE * 4 * photons / self.model.patch_size**2)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each by itself: the probe's gradient is the larger by far, and that of positions has other units."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.model.generator.parameters(), gradient_clip_val)
        torch.nn.utils.clip_grad_norm_(self.model.illumination.parameters(), _STEEPEST_PROBE)
