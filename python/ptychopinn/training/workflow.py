# SPDX-License-Identifier: BSD-3-Clause
"""From a scan to a trained model in a folder: what ``ptychopinn train`` and :func:`ptychopinn.train` do.

A run's folder holds the bundle (wts.h5.zip), the checkpoints, metrics.csv, config.yaml and pictures. Nothing is written
before the scan and the configuration are known to fit each other.
"""

from __future__ import annotations

import csv
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import lightning as L
import torch
import yaml

from ptychopinn.batches.datamodule import ScanDataModule, check_alike
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.config import Config
from ptychopinn.errors import InputError, not_found
from ptychopinn.inference.predict import choose_probe
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import BUNDLE_NAME, save_bundle
from ptychopinn.physics.positions import REACH
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.plotting.style import Drawings, drawn
from ptychopinn.plotting.training import plot_training
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.runtime.processes import agree, broadcast, for_this_process, processes, shared_errors
from ptychopinn.runtime.warning_filters import ignored_warnings
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import write_text
from ptychopinn.training.callbacks import BestEpoch, LastEpoch, StopAllProcesses, stop_on_interrupt
from ptychopinn.training.loggers import make_loggers
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.trainer import make_trainer, watchers_of

_log = logging.getLogger(__name__)

# What Lightning warns of and is meant here.
_EXPECTED_WARNINGS = (
    ".*does not have many workers",
    ".*number of training batches",
    "Experiment logs directory .* exists and is not empty",
    "Checkpoint directory .* exists and is not empty",
    "Total length of `list` across ranks is zero",
    ".*LeafSpec.* is deprecated",
    "To copy construct from a tensor",  # a rate on the GPU, in Lightning's monitor of rates
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
        checkpoint: that of the model, if checkpoints were kept (in the first of several processes).
    """

    model: PtychoModel
    config: Config
    folder: Path
    losses: dict[str, float]
    interrupted: bool = False
    checkpoint: Path | None = None


def train(
    scan: Scan | Sequence[Scan],
    out: str | Path,
    config: Config | None = None,
    *,
    overwrite: bool = False,
    start: PtychoModel | None = None,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> TrainedRun:
    """Train a model on one or several scans and write it to a folder.

    Args:
        scan: the scan, or several that share one probe up to its scale; their truths are looked at only if
            ``training.supervised``.
        out: the run's folder.
        config: the configuration; defaults otherwise.
        overwrite: replace the model of an earlier run in that folder.
        start: a trained model whose network to begin with. The probe is the scan's, unless ``inference.probe`` is
            "model".
        resume: continue from the last complete epoch of the run in that folder. On the CPU, with
            ``execution.deterministic``, the result is bit for bit that of a run that was never stopped.
        callbacks: Lightning's, besides our own.

    Raises:
        InputError: the folder holds a model already (or, to resume, no checkpoint), the configuration does not fit the
            scan, the machine, the model to begin with or the checkpoint, or the loss diverged.
        KeyboardInterrupt: Ctrl-C before the first step, or twice; later, one Ctrl-C ends the training and saves it.
    """
    scans = [scan] if isinstance(scan, Scan) else list(scan)
    config = config or Config()
    with process_settings(config.execution, seed=config.training.seed), processes(), Drawings() as drawings:
        return _train(scans, Path(out), config, overwrite, start, resume, callbacks, drawings)


def _train(
    scans: list[Scan],
    out: Path,
    config: Config,
    overwrite: bool,
    start: PtychoModel | None,
    resume: bool,
    callbacks: Sequence[L.Callback],
    drawings: Drawings,
) -> TrainedRun:
    last = out / "checkpoints" / "last.ckpt"
    interrupt = threading.Event()
    with shared_errors():
        _check_folder(out, overwrite, resume)
        check_alike(scans)
        module = _module(scans, config, start)
        margin = REACH if module.model.positions is not None else 0
        data = ScanDataModule(scans, config, module.model.generator.canvas_multiple, margin)
        finished = _check_resumable(last, module) if resume else -1
        # A group that does not fit the scan is found here, before anything is written.
        data.train_dataloader()
        data.val_dataloader()

        monitor = "val_loss" if len(data.validation_leaders) else "train_loss"
        best = BestEpoch(out / "checkpoints", monitor)
        earlier = _logged(out / "metrics.csv", finished) if resume else []
        loggers = make_loggers(config, out)
        kept = [best, LastEpoch(out / "checkpoints")] if config.execution.checkpoints else []
        watchers = [StopAllProcesses(interrupt), *watchers_of(config, monitor, scans[0], out, drawings), *callbacks]
        trainer = make_trainer(config, out, [*kept, *watchers], loggers)
        data.place(trainer.strategy.root_device)
    if trainer.world_size > data.batch_size:
        _log.warning(
            "training.batch_size: %d processes share batches of %d groups, so that some have nothing to do; "
            "--training.batch_size %d would keep all busy",
            trainer.world_size, data.batch_size, trainer.world_size,
        )  # fmt: skip
    with shared_errors():
        if trainer.is_global_zero:
            _begin_folder(out, config, resume)
            drawings.add(plot_scan_overview, scans[0], out / "scan.png")
            for logger in loggers[1:]:  # the first has config.yaml beside it
                logger.log_hyperparams(config.to_dict())
    began = time.perf_counter()
    with ignored_warnings(*_EXPECTED_WARNINGS):
        for step, row in earlier if loggers else ():
            loggers[0].log_metrics(row, step)
        try:
            with stop_on_interrupt(trainer, interrupt):
                trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
        except InputError as error:  # of losses that all processes share
            raise for_this_process(error) from None
    interrupted = agree(interrupt.is_set())
    if trainer.global_step == 0:
        if interrupted:
            raise KeyboardInterrupt
        raise for_this_process(
            InputError("training: no step was made; allow more training.minutes or a smaller training.accumulate")
        )
    seconds = time.perf_counter() - began

    values: Mapping[str, float | torch.Tensor] = trainer.callback_metrics
    values = values or dict(pair for _, row in earlier for pair in row.items())
    losses = {name: float(value) for name, value in values.items() if name.endswith("_loss")}
    model = module.model.cpu().eval()
    chosen = None
    if trainer.is_global_zero:
        chosen = best.chosen() if config.execution.checkpoints else None
        if chosen is not None:
            module.load_state_dict(torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"])
        names = ", ".join(scan.name for scan in scans)
        turned = sorted({scan.orientation for scan in scans})
        info = {"scan": names, "orientation": turned, "epochs": trainer.current_epoch, "seconds": seconds, **losses}
        save_bundle(model, config, out / BUNDLE_NAME, info)
        if loggers:
            drawn(plot_training, out / "metrics.csv", out / "training.png")
    with torch.no_grad():
        broadcast(*model.state_dict().values())
    _log.info("trained %d epochs in %.0f s", trainer.current_epoch, seconds)
    return TrainedRun(model, config, out, losses, interrupted, chosen)


def _check_folder(out: Path, overwrite: bool, resume: bool) -> None:
    last = out / "checkpoints" / "last.ckpt"
    if resume and not out.exists():
        raise not_found(out, "the folder of a run to resume")
    if resume and not last.exists():
        raise not_found(
            last,
            "a run to resume, whose last.ckpt is written after the first complete epoch, unless execution.checkpoints "
            "is off; --from starts with a model that was saved",
        )
    if (out / BUNDLE_NAME).exists() and not (overwrite or resume):
        raise InputError(
            f"{out}: expected a folder without a trained model, found {BUNDLE_NAME}; name another, --overwrite or "
            "--resume"
        )


def _begin_folder(out: Path, config: Config, resume: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: expected a folder that can be made, found: {error.strerror}") from error
    for name in ("best", "last", "cut") if not resume else ("cut",):
        (out / "checkpoints" / f"{name}.ckpt").unlink(missing_ok=True)  # of an earlier run, or written again
    for name in ("metrics.csv", "training.png") if not resume else ():
        (out / name).unlink(missing_ok=True)
    _write_config(config, out / "config.yaml")


def _module(scans: Sequence[Scan], config: Config, start: PtychoModel | None) -> PtychoModule:
    """What is trained, with what the scans and the earlier model determine."""
    scan = scans[0]
    module = PtychoModule(config.to_dict(), scan.patch_size, scan.modes, sum(scan.n for scan in scans))
    model = module.model
    probe = torch.from_numpy(scan.probe)
    if start is not None:
        try:
            model.generator.load_state_dict(start.generator.state_dict())
        except RuntimeError as error:
            raise InputError(
                f"the model to begin with has another network than model.generator {config.model.generator!r} with "
                f"these model.options and data.group_size: {str(error).splitlines()[-1].strip()}"
            ) from None
        if config.inference.probe == "model":
            if start.illumination.probe.shape != probe.shape:
                raise InputError(
                    f"{scan.name}: expected a probe of shape {tuple(start.illumination.probe.shape)} as in the model "
                    f"to begin with, found {tuple(probe.shape)}"
                )
            probe = choose_probe(start, scan, "model").detach()
    model.illumination.set_probe(probe)
    good = good_pixels(scan)
    if good is not None:
        model.good.copy_(good)
    if model.positions is not None:
        model.positions.set_scans(scans)
    return module


def _check_resumable(path: Path, module: PtychoModule) -> int:
    """The last epoch of a checkpoint. Rates, losses and epochs may change on the way; what is learned may not."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        earlier, epoch = checkpoint["hyper_parameters"], int(checkpoint["epoch"])
    except (RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"{path}: expected a checkpoint of ptychopinn, found another or damaged file: {error}"
        ) from None
    before = Config.from_dict(earlier.get("config", {}))
    was, now = dict(earlier), dict(module.hparams)
    was["model"], now["model"] = before.model, module.config.model
    held = ("group_size", "validation", "validation_fraction")  # what is held out must stay so
    for name in held:
        was[f"data.{name}"], now[f"data.{name}"] = getattr(before.data, name), getattr(module.config.data, name)
    for key in ("model", "patch_size", "modes", "patterns", *(f"data.{name}" for name in held)):
        if was.get(key) != now.get(key):
            raise InputError(f"{path}: expected a checkpoint with {key} {now.get(key)!r}, found {was.get(key)!r}")
    return epoch


def _logged(path: Path, last_epoch: int) -> list[tuple[int, dict[str, float]]]:
    """Steps and figures of an earlier metrics.csv, for the logger empties the file when it opens it."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Rates have rows without an epoch, before those of its losses.
    kept = [k for k, row in enumerate(rows) if row["epoch"] and int(row["epoch"]) <= last_epoch]
    rows = rows[: kept[-1] + 1] if kept else []
    return [
        (
            int(row["step"]),
            {k: int(v) if k == "epoch" else float(v) for k, v in row.items() if v and k != "step"},
        )
        for row in rows
    ]


def read_config(folder: Path) -> Config:
    """The configuration that a run wrote beside itself.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise not_found(path if folder.exists() else folder, "the folder of a run, with its config.yaml")
    return Config.load(path)


def _write_config(config: Config, path: Path) -> None:
    write_text(path, yaml.safe_dump(config.to_dict(), sort_keys=False))
