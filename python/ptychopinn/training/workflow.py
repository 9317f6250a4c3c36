# SPDX-License-Identifier: BSD-3-Clause
"""From a scan to a trained model in a folder: what ``ptychopinn train`` and :func:`ptychopinn.train` do.

A run's folder holds the bundle (wts.h5.zip), the checkpoints, metrics.csv, config.yaml and pictures. Nothing is written
before the scan and the configuration are known to fit each other.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ptychopinn.config import Config
from ptychopinn.data.atomic import atomic_path
from ptychopinn.data.datamodule import ScanDataModule
from ptychopinn.data.dataset import good_pixels
from ptychopinn.data.scan import Scan
from ptychopinn.devices import resolve_accelerator
from ptychopinn.errors import InputError
from ptychopinn.inference.bundle import BUNDLE_NAME, save_bundle
from ptychopinn.metrics.plots import plot_scan_overview, plot_training
from ptychopinn.models import PtychoModel
from ptychopinn.training.callbacks import EpochLog, StopOnNonFinite, WarmupCosine, stop_on_interrupt
from ptychopinn.training.module import PtychoModule

_log = logging.getLogger(__name__)

# What Lightning warns of and is meant here.
_EXPECTED_WARNINGS = (
    ".*does not have many workers",
    ".*number of training batches",
    "Experiment logs directory .* exists and is not empty",
    "Checkpoint directory .* exists and is not empty",
    "Total length of `list` across ranks is zero",
    ".*LeafSpec.* is deprecated",
)


@dataclass(frozen=True)
class TrainedRun:
    """A finished training.

    Args:
        model: the trained model, on the CPU, as saved in the bundle.
        config: the resolved configuration.
        folder: where everything was written.
        losses: last "train_loss" and, if groups were held out, "val_loss".
        interrupted: the training was ended by Ctrl-C before its time.
    """

    model: PtychoModel
    config: Config
    folder: Path
    losses: dict[str, float]
    interrupted: bool = False


def train(scan: Scan, out: str | Path, config: Config | None = None, *, overwrite: bool = False) -> TrainedRun:
    """Train a model on a scan and write it to a folder.

    Args:
        scan: the scan; its truth, if it has one, is not looked at.
        out: the run's folder.
        config: the configuration; defaults otherwise.
        overwrite: replace the model of an earlier run in that folder.

    Raises:
        InputError: the folder holds a model already, the configuration does not fit the scan or the machine, or the
            loss diverged.
        KeyboardInterrupt: Ctrl-C before the first step, or twice; later, one Ctrl-C ends the training and saves it.
    """
    config, out = config or Config(), Path(out)
    if (out / BUNDLE_NAME).exists() and not overwrite:
        raise InputError(
            f"{out}: expected a folder without a trained model, found {BUNDLE_NAME}; name another, or --overwrite"
        )
    if config.execution.threads is not None:
        torch.set_num_threads(config.execution.threads)
    L.seed_everything(config.training.seed, workers=True, verbose=False)

    module = PtychoModule(config.to_dict(), scan.patch_size, scan.modes)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    good = good_pixels(scan)
    if good is not None:
        module.model.good.copy_(good)
    data = ScanDataModule(scan, config, module.model.generator.canvas_multiple)
    data.train_dataloader()  # a group that does not fit the scan is found here, before anything is written

    monitor = "val_loss" if len(data.validation_leaders) else "train_loss"
    best = ModelCheckpoint(out / "checkpoints", "best", monitor=monitor, save_last=True, enable_version_counter=False)
    trainer = _trainer(config, out, best)

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: expected a folder that can be made, found: {error.strerror}") from error
    _write_config(config, out / "config.yaml")
    plot_scan_overview(scan, out / "scan.png")
    start = time.perf_counter()
    with warnings.catch_warnings():
        for expected in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=expected)
        with stop_on_interrupt(trainer) as interrupted:
            trainer.fit(module, data)
    if trainer.global_step == 0:  # interrupted before anything was learned
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start

    losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith("_loss")}
    if best.best_model_path:
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(state)
    model = module.model.cpu().eval()
    if trainer.is_global_zero:
        info = {"scan": scan.name, "epochs": trainer.current_epoch, "seconds": seconds, **losses}
        save_bundle(model, config, out / BUNDLE_NAME, info)
        plot_training(out / "metrics.csv", out / "training.png")
    _log.info("trained %d epochs in %.0f s", trainer.current_epoch, seconds)
    return TrainedRun(model, config, out, losses, interrupted.is_set())


def _trainer(config: Config, out: Path, checkpoints: ModelCheckpoint) -> L.Trainer:
    execution, training = config.execution, config.training
    callbacks: list[L.Callback] = [checkpoints, WarmupCosine(training.warmup, training.minutes), StopOnNonFinite()]
    bar = execution.progress and sys.stdout.isatty()
    if execution.progress:
        callbacks.append(TQDMProgressBar(leave=False) if bar else EpochLog())
    try:
        return L.Trainer(
            default_root_dir=out,
            accelerator=resolve_accelerator(execution.accelerator),
            devices=execution.devices,
            max_epochs=training.epochs,
            gradient_clip_val=training.gradient_clip,
            deterministic=execution.deterministic,
            logger=CSVLogger(out, name="", version=""),
            callbacks=callbacks,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # Members of the groups are drawn anew in every epoch.
            reload_dataloaders_every_n_epochs=1,
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        chosen = f"accelerator {execution.accelerator!r} with devices {execution.devices!r}"
        raise InputError(f"execution: {chosen} cannot be used: {reason}") from error


def _write_config(config: Config, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
