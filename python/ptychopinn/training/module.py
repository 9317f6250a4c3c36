# SPDX-License-Identifier: BSD-3-Clause
"""The LightningModule: one loss, one optimiser, and nothing that inference needs.

It wraps a :class:`~ptychopinn.models.PtychoModel`. Its hyper-parameters are plain types, so that checkpoints load with
no arguments and ``weights_only=True``; the probe travels in the state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.batches.neighbourhoods import neighbourhood_size
from ptychopinn.batches.steps import Steps, checked
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.persistence.bundle import build_model
from ptychopinn.physics.likelihood import loss_of_fields
from ptychopinn.physics.noise_floor import noise_floor
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.plain_inputs import PlainInputs
from ptychopinn.physics.priors import supervised_loss, total_variation
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.runtime.processes import broadcast
from ptychopinn.training.averages import AverageOfSteps
from ptychopinn.training.ending import RATIO
from ptychopinn.training.experiment_loss import ExperimentLoss, joined_experiment, points_of
from ptychopinn.training.merging import Merged, Merging
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
        #: The same of held-out groups; None in supervised training.
        self.held_out_merging: Merging | None = None
        #: The loss of an experiment that is not plain, and what the network is given of its patterns.
        self.experiment_loss: ExperimentLoss | None = None
        self.inputs: PlainInputs | None = None
        #: Points of an exposure.
        self.points = 1

    def _loss(self, batch: GroupBatch, weights: Weights, free: Tensor | None = None) -> Tensor:
        """The loss of a batch; of several processes, this one's summand of it."""
        positions = self.model.refine(batch.positions, batch.members, free)
        if self.merging is not None:
            merged = self._merge(batch, positions, self.merging)
            loss = self._unexplained(merged.average, positions, batch.counts, batch.members)
            return self._combined(loss, merged, batch, weights, self.merging)
        canvases = self._predict(batch.counts, positions, batch.canvas_size, batch.members)
        if batch.truth is not None:
            return supervised_loss(canvases, batch.truth, self._illumination(batch, positions)) * weights.groups
        loss = self._unexplained(canvases, positions, batch.counts, batch.members) * weights.photons
        if self.config.training.total_variation:
            loss = loss + self._variation(canvases, self._illumination(batch, positions), batch) * weights.counts
        return loss

    def _held_out(self, batch: GroupBatch, weights: Weights) -> Tensor:
        """The loss of a batch, that of its averaged groups, and the noise floor of the latter, (3,)."""
        merging = self.held_out_merging
        if merging is None:
            loss = self._loss(batch, weights).reshape(())
            return torch.stack([loss, torch.zeros_like(loss), torch.zeros_like(loss)])
        positions = self.model.refine(batch.positions, batch.members)
        merged = self._merge(batch, positions, merging)
        if self.experiment_loss is None:
            fields = self.model.predict_fields(merged.average, positions)
            fit = loss_of_fields(self.config.training.loss, fields, batch.counts, self.model.good)
            intensity = squared_modulus(fields).sum(-3)
            floor = noise_floor(intensity, self.config.training.loss, self.model.good)
        else:
            fit, floor = self.experiment_loss.with_floor(
                merged.average, positions, batch.members, self.model.illumination.probe, batch.counts
            )
        loss = self._combined(fit, merged, batch, weights, merging)
        return torch.stack([loss.reshape(()), fit * weights.photons, floor * weights.photons])

    def _merge(self, batch: GroupBatch, positions: Tensor, merging: Merging) -> Merged:
        """Predict the groups of every neighbourhood, and average them."""
        groups = merging.split(batch, positions)
        canvases = self._predict(groups.counts, groups.positions, merging.canvas_size, groups.members)
        weight = illumination_weight(self.model.illumination.probe.detach())
        illumination = canvas_illumination(weight, groups.positions.detach(), merging.canvas_size)
        return Merged(groups, canvases, *merging.average(canvases, illumination, groups.origins, batch.canvas_size))

    def _combined(self, fit: Tensor, merged: Merged, batch: GroupBatch, weights: Weights, merging: Merging) -> Tensor:
        """The loss of averages and of the groups by themselves, as they are weighted in training."""
        groups, own = merged.groups, merging.own
        if own:
            alone = self._unexplained(merged.canvases, groups.positions, groups.counts, groups.members)
            fit = (fit + own * alone) / (1 + own) if math.isfinite(own) else alone
        loss = fit * weights.photons
        if self.config.training.total_variation:
            loss = loss + self._variation(merged.average, merged.illumination, batch) * weights.counts
        return loss

    def _predict(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], members: Tensor) -> Tensor:
        """Canvases of groups, by the network."""
        if self.inputs is None:
            canvases: Tensor = self.model(counts, positions, canvas_size)
            return canvases
        probe = self.inputs.probe(self.model.illumination.unscaled)
        canvases = self.model(self.inputs.counts(counts, members), positions, canvas_size, probe)
        return canvases

    def _unexplained(self, canvases: Tensor, positions: Tensor, counts: Tensor, members: Tensor) -> Tensor:
        """The loss of the patterns of canvases."""
        if self.experiment_loss is not None:
            return self.experiment_loss(canvases, positions, members, self.model.illumination.probe, counts)
        fields = self.model.predict_fields(canvases, positions)
        return loss_of_fields(self.config.training.loss, fields, counts, self.model.good)

    def _variation(self, canvases: Tensor, illumination: Tensor, batch: GroupBatch) -> Tensor:
        # Nats per pixel against nats per photon: with the dose the data outweigh the prior, as they should. Below a
        # count per pixel the prior becomes weaker with the dose, or it would be all that is learned.
        pixels = batch.counts.numel()
        pixels_per_photon = pixels / batch.counts.sum().clamp_min(float(pixels))
        return self.config.training.total_variation * pixels_per_photon * total_variation(canvases, illumination)

    def _illumination(self, batch: GroupBatch, positions: Tensor) -> Tensor:
        weight = illumination_weight(self.model.illumination.probe.detach())
        return canvas_illumination(weight, positions.detach(), batch.canvas_size)

    def training_step(self, batch: Steps | InputError, batch_index: int) -> None:
        steps = checked(batch)
        total = self.total_steps
        rates = [self.schedule.rates(self._progress(self.steps_done + step, total)) for step in range(steps.shape[0])]
        loss = self.training_steps.run(steps, rates)
        self.schedule.progress = self._progress(self.steps_done + steps.shape[0] - 1, total)
        epoch_loop = self.trainer.fit_loop.epoch_loop
        for _ in range(steps.shape[0]):
            epoch_loop.manual_optimization.optim_step_progress.increment_ready()
            epoch_loop.manual_optimization.optim_step_progress.increment_completed()
        epoch_loop._batches_that_stepped += steps.shape[0] - 1  # what loggers write as the step
        self._log_loss("train_loss", loss, steps.size)

    def validation_step(self, batch: Steps | InputError, batch_index: int) -> None:
        steps = checked(batch)
        loss, fit, floor = self.validation_losses.run(steps).unbind()
        self._log_loss("val_loss", loss, steps.size)
        if self.held_out_merging is not None:
            for name, value in (("val_fit", fit), ("val_floor", floor)):
                self._log_loss(name, value, steps.size)

    def on_validation_epoch_end(self) -> None:
        values = self.trainer.callback_metrics
        if self.held_out_merging is not None and "val_fit" in values:
            self.log(RATIO, values["val_fit"] / values["val_floor"].clamp_min(1e-30))

    def _progress(self, done: int, total: int) -> float:
        return self.schedule.towards_end(progress_of(self.trainer, done, total), done)

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
    def patterns_per_epoch(self) -> int:
        """Patterns that an epoch shows, each as often as it is a member of a group."""
        return self._data.groups_per_epoch * neighbourhood_size(self.config)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch."""
        return self._data.steps_per_epoch

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
        self.schedule.apply(self._progress(self.steps_done, self.total_steps))
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
            points=self.points,
        )

    def on_fit_start(self) -> None:
        self.merging = Merging.of(self.config.training, self._data)
        self.held_out_merging = Merging.of(self.config.training, self._data, held_out=True)
        self._set_experiment(joined_experiment(self._data.scans), self._data.scans[0].probe)
        tables = StepTables(self.model, self._data.resident, self.device)
        self.validation_losses = BatchLosses(self._held_out, tables, self.points)

    def _set_experiment(self, experiment: Experiment, probe: NDArray[np.complex64]) -> None:
        """Use the forward model of an experiment, unless it is plain."""
        if experiment.plain:
            return
        model, size = self.model, self.model.patch_size
        self.points = points_of(experiment)
        self.experiment_loss = ExperimentLoss(experiment, size, self.config.training.loss, model.good, self.device)
        self.inputs = PlainInputs.of(experiment, probe, self.device)

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
