# SPDX-License-Identifier: BSD-3-Clause
"""Lightning's Trainer as the configuration has it, in one process or in those that torchrun has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, Timer, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.plotting.style import Drawings
from ptychopinn.runtime.devices import resolve_accelerator
from ptychopinn.runtime.processes import launched
from ptychopinn.runtime.progress import shows_bars
from ptychopinn.scan import Scan
from ptychopinn.training.averages import AverageOfSteps
from ptychopinn.training.callbacks import EpochLog, StopOnNonFinite
from ptychopinn.training.ending import EndByQuality
from ptychopinn.training.pictures import RunningPicture


class SummedGradients(DDPStrategy):
    """Processes whose training steps add up their gradients themselves, between two captured parts of a step."""

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "tf32": "32-true",  # set for the process, see runtime.float32
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def watchers_of(config: Config, monitor: str, scan: Scan, out: Path, drawings: Drawings) -> list[L.Callback]:
    """The optional callbacks: an end before the last epoch, and pictures."""
    execution, watchers = config.execution, list[L.Callback]()
    if config.training.stop == "quality":
        watchers.append(EndByQuality(config.training))
    if execution.early_stopping is not None:
        watchers.append(EarlyStopping(monitor, patience=execution.early_stopping, check_finite=False))
    if execution.picture_every is not None:
        watchers.append(RunningPicture(scan, config, out, execution.picture_every, drawings))
    return watchers


def make_trainer(
    config: Config, out: Path, first: Sequence[L.Callback], loggers: Sequence[Logger], checkpoints: CheckpointIO
) -> L.Trainer:
    """The Trainer of a configuration, with these callbacks before those that every training has.

    Raises:
        InputError: the devices cannot be used, or are more than there are processes.
    """
    execution, training = config.execution, config.training
    devices = _devices(execution.devices)
    plugins = [*devices.pop("plugins", ()), checkpoints]
    if execution.strategy == "ddp" and launched() == 1:
        raise InputError(
            "execution.strategy: 'ddp' takes several processes, and this is one: start them with "
            "torchrun --nproc-per-node 2 -m ptychopinn.cli train ..."
        )
    callbacks: list[L.Callback] = [*first, StopOnNonFinite()]
    if training.minutes is not None:
        callbacks.append(Timer(timedelta(minutes=training.minutes), verbose=False))
    if loggers:
        callbacks.append(LearningRateMonitor("epoch"))
    bar = execution.progress and shows_bars(sys.stdout)
    if execution.progress:
        callbacks.append(TQDMProgressBar(leave=False) if bar else EpochLog(training.minutes))
    try:
        accelerator = resolve_accelerator(execution.accelerator)
        if training.average is not None:
            device = None if accelerator == "cpu" else "cuda"
            callbacks.append(AverageOfSteps(training.average, device))
        trainer = L.Trainer(
            default_root_dir=out,
            accelerator=accelerator,
            **devices,
            plugins=plugins,
            precision=_PRECISIONS[execution.precision],
            max_epochs=training.epochs,
            deterministic=execution.deterministic,
            logger=list(loggers) or False,
            enable_checkpointing=execution.checkpoints,
            callbacks=callbacks,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # Members of the groups are drawn again in every epoch.
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,  # batches are shared as they are
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        chosen = f"accelerator {execution.accelerator!r} with devices {execution.devices!r}"
        raise InputError(f"execution: {chosen} cannot be used: {reason}") from error
    if trainer.world_size > launched():
        raise InputError(
            f"execution.devices: {execution.devices!r} takes {trainer.world_size} processes, and this is one: start "
            f"them with torchrun --nproc-per-node {trainer.world_size} -m ptychopinn.cli train ..."
        )
    return trainer


def _devices(wanted: int | str) -> dict[str, Any]:
    """The Trainer's arguments for one process, or for one of those that torchrun has started."""
    if launched() == 1:
        return {"devices": 1 if wanted == "auto" else wanted}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if wanted not in ("auto", here):
        raise InputError(
            f"execution.devices must be 'auto' or the {here} processes that torchrun has started on this node, "
            f"got {wanted!r}"
        )
    return {
        "devices": here,
        "num_nodes": launched() // here,
        "strategy": SummedGradients(),
        "plugins": [TorchElasticEnvironment()],
    }
