# SPDX-License-Identifier: BSD-3-Clause
"""The LightningModule: one loss, one optimiser, and nothing that inference needs.

It wraps a :class:`~ptychopinn.models.PtychoModel`. Its hyper-parameters are plain types, so that checkpoints load with
no arguments and ``weights_only=True``; the probe travels in the state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor

from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.batches.steps import Steps, checked
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.persistence.bundle import build_model
from ptychopinn.physics.likelihood import loss_of_fields
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.priors import supervised_loss, total_variation
from ptychopinn.runtime.processes import broadcast
from ptychopinn.training.averages import AverageOfSteps
from ptychopinn.training.merging import Merging
from ptychopinn.training.optimiser import make_optimiser
from ptychopinn.training.schedule import ProgressLR, progress_of
from ptychopinn.training.shard_weights import Weights
from ptychopinn.training.steps import BatchLosses, StepTables, TrainingSteps


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
        self.automatic_optimization = False  # several steps in a row are made without Lightning
        arguments = {"config": dict(config), "patch_size": patch_size, "modes": modes, "patterns": patterns}
        self.save_hyperparameters(arguments, logger=False)
        self.config = Config.from_dict(config)
        self.model = build_model(self.config, patch_size, modes, patterns)
        #: How neighbouring groups are averaged; None: every group by itself.
        self.merging: Merging | None = None

    def _loss(self, batch: GroupBatch, weights: Weights, free: Tensor | None = None) -> Tensor:
        """The loss of a batch; of several processes, this one's summand of it."""
        training = self.config.training
        positions = self.model.refine(batch.positions, batch.members, free)
        if self.merging is not None:
            canvases, illumination, loss = self._merged(batch, positions, weights, self.merging)
        else:
            canvases = self.model(batch.counts, positions, batch.canvas_size)
            if batch.truth is not None:
                return supervised_loss(canvases, batch.truth, self._illumination(batch, positions)) * weights.groups
            loss, illumination = self._unexplained(canvases, positions, batch.counts) * weights.photons, None
        if training.total_variation:
            # Nats per pixel against nats per photon: with the dose the data outweigh the prior, as they should.
            pixels_per_photon = batch.counts.numel() / batch.counts.sum().clamp_min(1.0)
            illumination = self._illumination(batch, positions) if illumination is None else illumination
            variation = total_variation(canvases, illumination)
            loss = loss + training.total_variation * pixels_per_photon * variation * weights.counts
        return loss

    def _merged(
        self, batch: GroupBatch, positions: Tensor, weights: Weights, merging: Merging
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The averages of neighbouring groups, their illumination, and the mean of their loss and the groups' own."""
        groups = merging.split(batch, positions)
        canvases = self.model(groups.counts, groups.positions, merging.canvas_size)
        weight = illumination_weight(self.model.illumination.probe.detach())
        illumination = canvas_illumination(weight, groups.positions.detach(), merging.canvas_size)
        average, total = merging.average(canvases, illumination, groups.origins, batch.canvas_size)
        loss = self._unexplained(average, positions, batch.counts)
        if merging.own:
            own = self._unexplained(canvases, groups.positions, groups.counts)
            loss = (loss + merging.own * own) / (1 + merging.own)
        return average, total, loss * weights.photons

    def _unexplained(self, canvases: Tensor, positions: Tensor, counts: Tensor) -> Tensor:
        """The loss of the patterns that canvases (B, H, W) predict at positions (B, C, 2)."""
        fields = self.model.predict_fields(canvases, positions)
        return loss_of_fields(self.config.training.loss, fields, counts, self.model.good)

    def _illumination(self, batch: GroupBatch, positions: Tensor) -> Tensor:
        weight = illumination_weight(self.model.illumination.probe.detach())
        return canvas_illumination(weight, positions.detach(), batch.canvas_size)

    def training_step(self, batch: Steps | InputError, batch_index: int) -> None:
        steps = checked(batch)
        total = self.total_steps
        rates = [
            self.schedule.rates(progress_of(self.trainer, self.steps_done + step, total))
            for step in range(steps.shape[0])
        ]
        loss = self.training_steps.run(steps, rates)
        self.schedule.progress = progress_of(self.trainer, self.steps_done + steps.shape[0] - 1, total)
        epoch_loop = self.trainer.fit_loop.epoch_loop
        for _ in range(steps.shape[0]):
            epoch_loop.manual_optimization.optim_step_progress.increment_ready()
            epoch_loop.manual_optimization.optim_step_progress.increment_completed()
        epoch_loop._batches_that_stepped += steps.shape[0] - 1  # what loggers write as the step
        self._log_loss("train_loss", loss, steps.size)

    def validation_step(self, batch: Steps | InputError, batch_index: int) -> None:
        steps = checked(batch)
        self._log_loss("val_loss", self.validation_losses.run(steps), steps.size)

    def _log_loss(self, name: str, loss: Tensor, groups: int) -> None:
        # Lightning's log takes the mean over processes, and the sum is wanted.
        loss = loss * self.trainer.world_size
        self.log(name, loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=groups, sync_dist=True)

    @property
    def _data(self) -> ScanDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ScanDataModule)
        return data

    @property
    def steps_done(self) -> int:
        """Steps of the optimiser so far."""
        return self.trainer.global_step

    @property
    def total_steps(self) -> int:
        """Steps of the whole training, without a time limit."""
        return self._data.steps_per_epoch * int(self.trainer.max_epochs or 1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        self.optimiser = make_optimiser(self.model, self.config, self._data.shape)
        self.schedule = ProgressLR(self.optimiser, self.config.training)
        stepped = LRSchedulerConfigType(scheduler=self.schedule, interval="step", name="learning_rate")
        return OptimizerLRSchedulerConfig(optimizer=self.optimiser, lr_scheduler=stepped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Checkpoints of earlier versions have the number of steps where Lightning counts those it makes itself.
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        counts = loop.get("epoch_loop.manual_optimization.optim_step_progress", {}).get("total", {})
        for count in counts:
            counts[count] = max(counts[count], int(checkpoint["global_step"]))

    def on_train_start(self) -> None:
        # A checkpoint restores the optimiser, and with it rates of its own configuration.
        self.schedule.apply(progress_of(self.trainer, self.steps_done, self.total_steps))
        broadcast(*self.state_dict().values())
        averages = [c for c in self.trainer.callbacks if isinstance(c, AverageOfSteps)]  # type: ignore[attr-defined]
        tables = StepTables(self.model, self._data.resident, self.device)
        self.training_steps = TrainingSteps(
            self._loss,
            self.model,
            self.optimiser,
            tables,
            clip=self.config.training.gradient_clip,
            average=averages[0].update if averages else None,
            before_step=self._before_step,
            scaler=getattr(self.trainer.precision_plugin, "scaler", None),
        )

    def on_fit_start(self) -> None:
        self.merging = Merging.of(self.config.training, self._data)
        tables = StepTables(self.model, self._data.resident, self.device)
        self.validation_losses = BatchLosses(self._loss, tables)

    def on_train_epoch_start(self) -> None:
        if self.model.positions is not None:
            self.model.positions.recentre()

    def _before_step(self) -> None:
        """Tell those who watch every step, where steps are not replayed."""
        self.on_before_optimizer_step(self.optimiser)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_before_optimizer_step(self.trainer, self, self.optimiser)

    def on_train_epoch_end(self) -> None:
        self.schedule.end_epoch(float(self.trainer.callback_metrics["train_loss"]))
