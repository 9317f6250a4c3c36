# SPDX-License-Identifier: BSD-3-Clause
"""From a scan to a trained model in a folder: what ``ptychopinn train`` and :func:`ptychopinn.train` do.

A run's folder holds the bundle (wts.h5.zip), the checkpoints, metrics.csv, config.yaml and pictures. Nothing is written
before the scan and the configuration are known to fit each other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from ptychopinn._one_line import one_line
from ptychopinn.batches.datamodule import ScanDataModule, check_alike
from ptychopinn.batches.dataset import good_pixels
from ptychopinn.config import Config, TrainingConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import FILE, check_metadata, require_sound, write_findings
from ptychopinn.inference.predict import choose_probe
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import bundle_info, load_bundle, save_bundle
from ptychopinn.physics.plain_inputs import centred, exposure_reach, require_thin_and_far
from ptychopinn.physics.positions import REACH
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.plotting.style import Drawings, drawn
from ptychopinn.plotting.training import plot_training
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.runtime.processes import agree, broadcast, for_this_process, processes, rank_and_size, shared_errors
from ptychopinn.runtime.termination import ended_after_grace
from ptychopinn.runtime.warning_filters import ignored_warnings
from ptychopinn.scan import Scan
from ptychopinn.storage.claims import Claim
from ptychopinn.training.callbacks import BestEpoch, LastEpoch, StopAllProcesses, stop_on_interrupt
from ptychopinn.training.ending import FEWEST_EPOCHS, Fit
from ptychopinn.training.experiment_loss import joined_experiment
from ptychopinn.training.initial_network import InitialNetwork, initial_network, with_rate
from ptychopinn.training.loggers import MetricsFile, make_loggers
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.run_folder import Checkpoints, HeldFolder, RunFolder, read_config, write_config
from ptychopinn.training.schedule import out_of_time
from ptychopinn.training.trainer import make_trainer, watchers_of

__all__ = ["TrainedRun", "read_config", "train"]

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
        fit: how well held-out groups were explained after the last epoch, if any were held out.
    """

    model: PtychoModel
    config: Config
    folder: Path
    losses: dict[str, float]
    interrupted: bool = False
    checkpoint: Path | None = None
    fit: Fit | None = None

    __repr__ = one_line


def train(
    scan: Scan | Sequence[Scan],
    out: str | Path,
    config: Config | None = None,
    *,
    overwrite: bool = False,
    start: PtychoModel | None = None,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
    accept: str | Collection[str] = (),
) -> TrainedRun:
    """Train a model on one or several scans and write it to a folder.

    Args:
        scan: the scan, or several that share one probe up to its scale; their truths are looked at only if
            ``training.supervised``.
        out: the run's folder.
        config: the configuration; defaults otherwise.
        overwrite: replace the model of an earlier run in that folder.
        start: a trained model whose network to begin with. The probe is the scan's, unless ``inference.probe`` is
            "model". None: as ``training.start`` states.
        resume: continue from the last complete epoch of the run in that folder, or begin if there is none. On the CPU,
            with ``execution.deterministic``, the result is bit for bit that of a run that was never stopped.
        callbacks: Lightning's, besides our own.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.

    Raises:
        InputError: a scan has a problem that is not accepted, the folder holds a model already (or, to resume, a model
            without a checkpoint, or more epochs than ``training.epochs``), another process trains there, the disk is
            full, the configuration does not fit the scan, the machine, the model to begin with or the checkpoint, or
            the loss diverged.
        KeyboardInterrupt: Ctrl-C before the first step, or twice; later, one Ctrl-C ends the training and saves it.
    """
    scans = [scan] if isinstance(scan, Scan) else list(scan)
    config = config or Config()
    folder = RunFolder(Path(out))
    with (
        process_settings(config.execution, seed=config.training.seed),
        processes(),
        Claim(folder.running) as claim,
        Drawings() as drawings,
    ):
        return _train(scans, folder, config, overwrite, start, resume, callbacks, drawings, claim, accept)


def _train(
    scans: list[Scan],
    folder: RunFolder,
    config: Config,
    overwrite: bool,
    start: PtychoModel | None,
    resume: bool,
    callbacks: Sequence[L.Callback],
    drawings: Drawings,
    claim: Claim,
    accept: str | Collection[str],
) -> TrainedRun:
    out, last = folder.path, folder.last
    interrupt = threading.Event()
    with shared_errors():
        resume = folder.check(overwrite, resume)
        for scan in scans:
            require_thin_and_far(scan)
        check_alike(scans)
        joined_experiment(scans)
        for scan in scans:
            require_sound(scan, accept)
        start, name = initial_network(config, start)
        config = with_rate(config, name)
        begun = InitialNetwork(name)
        module = _module(scans, config, start)
        middles = [centred(scan) for scan in scans]
        margin = REACH if module.model.positions is not None else 0
        margin += max(exposure_reach(scan.experiment) for scan in middles)
        data = ScanDataModule(middles, config, module.model.generator.canvas_multiple, margin)
        saved = folder.last_epoch(module) if resume else None
        if saved is not None and folder.is_complete(saved, config.training.epochs):
            return _complete(folder)
        # A group that does not fit the scan is found here, before anything is written.
        data.train_dataloader()
        data.val_dataloader()

        monitor = "val_loss" if len(data.validation_leaders) else "train_loss"
        best = BestEpoch(folder.checkpoints, monitor)
        earlier = [] if saved is None else folder.logged(saved)
        loggers = make_loggers(config, out)
        kept = [best, LastEpoch(folder.checkpoints)] if config.execution.checkpoints else []
        watchers = [HeldFolder(claim), StopAllProcesses(interrupt), begun]
        watchers += [*watchers_of(config, monitor, scans[0], out, drawings), *callbacks]
        fallback = config.execution.fallback_folder
        other = None if fallback is None else Path(fallback) / out.resolve().name
        checkpoints = Checkpoints(other)
        trainer = make_trainer(config, out, [*kept, *watchers], loggers, checkpoints)
        data.place(trainer.strategy.root_device)
    if trainer.world_size > data.batch_size:
        _log.warning(
            "training.batch_size: %d processes share batches of %d groups, so that some have nothing to do; "
            "--training.batch_size %d would keep all busy",
            trainer.world_size, data.batch_size, trainer.world_size,
        )  # fmt: skip
    with shared_errors():
        if trainer.is_global_zero:
            folder.begin(config, resume, claim)
            write_findings(scans, out / FILE)
            drawings.add(plot_scan_overview, scans[0], out / "scan.png")
            for logger in loggers[1:]:  # the first has config.yaml beside it
                logger.log_hyperparams(config.to_dict())
    if saved is None:
        _log.info("training begins with %s, and ends after %s", begun.name, _limits(config.training))
        _log.debug(
            "%d groups of %d patterns, %d in a batch, held out %d, on %s",
            len(data.training_groups), config.data.group_size, data.batch_size, len(data.validation_leaders),
            trainer.strategy.root_device,
        )  # fmt: skip
    began = time.perf_counter()
    with ignored_warnings(*_EXPECTED_WARNINGS):
        for step, row in earlier if loggers else ():
            loggers[0].log_metrics(row, step)
        try:
            with stop_on_interrupt(trainer, interrupt), ended_after_grace(config.execution.grace):
                trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
        except InputError as error:  # of losses that all processes share
            lost = error is checkpoints.failure
            raise for_this_process(InputError(f"{error}; {_remains(last)}") if lost else error) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                f"execution.workers: a process that prepares batches has ended ({' '.join(str(error).split())}); with "
                "execution.workers 0 there is none, and --resume continues after the last complete epoch"
            ) from error
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
    fit = Fit.of(values, config.training.loss)
    model = module.model.cpu().eval()
    chosen = None
    if trainer.is_global_zero:
        chosen = best.chosen(checkpoints.located) if config.execution.checkpoints else None
        if chosen is not None:
            module.load_state_dict(torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"])
        names = ", ".join(scan.name for scan in scans)
        turned = sorted({scan.orientation for scan in scans})
        info = {
            "scan": names,
            "orientation": turned,
            "start": begun.name,
            "epochs": trainer.current_epoch,
            "seconds": seconds,
            **losses,
            **({} if fit is None else {"val_ratio": fit.ratio, "r_factor": fit.r_factor}),
            **check_metadata(scans),
        }
        try:
            save_bundle(model, config, folder.bundle, info)
        except InputError as error:
            remains = _remains(last)
            if other is not None:
                write_config(config, other)
                save_bundle(model, config, RunFolder(other).bundle, info)
                remains = f"the model is in {other}"
            raise for_this_process(InputError(f"{error}; {remains}")) from error
        if loggers:
            _finish(loggers[0])
            drawn(plot_training, out / "metrics.csv", out / "training.png")
    with torch.no_grad():
        broadcast(*model.state_dict().values())
    explains = "" if fit is None else f"; the model {fit.summary}"
    if fit is not None and fit.is_poor:
        explains += f": `ptychopinn diagnose {out}` looks for the reason"
    limited = out_of_time(trainer) and trainer.current_epoch < config.training.epochs
    of_all = f" of {config.training.epochs}" if limited else ""
    _log.info("trained %d%s epochs in %.0f s%s", trainer.current_epoch, of_all, seconds, explains)
    if limited and trainer.current_epoch < FEWEST_EPOCHS:
        _log.warning(
            "the time limit ended the training after %d of %d epochs: --resume --minutes %g would continue it",
            trainer.current_epoch, config.training.epochs, 5 * (config.training.minutes or 1),
        )  # fmt: skip
    return TrainedRun(model, config, out, losses, interrupted, chosen, fit)


def _limits(training: TrainingConfig) -> str:
    """When a training ends, in words."""
    text = f"{training.epochs} epoch{'s' if training.epochs > 1 else ''}"
    return text if training.minutes is None else f"{text} or {training.minutes:g} min, whichever is first"


def _complete(folder: RunFolder) -> TrainedRun:
    """A run with nothing left to do."""
    model, config = load_bundle(folder.bundle)
    info = bundle_info(folder.bundle)
    if rank_and_size()[0] == 0:
        folder.remove_leftovers()
        picture = folder.path / "training.png"
        if folder.metrics.exists() and not picture.exists():  # the process was killed before it drew
            drawn(plot_training, folder.metrics, picture)
    _log.info("%s: complete with %s epochs, nothing is left to do", folder.path, info.get("epochs"))
    losses = {name: float(value) for name, value in info.items() if name.endswith("_loss")}
    return TrainedRun(model, config, folder.path, losses)


def _remains(last: Path) -> str:
    """What is left of a training whose model cannot be written."""
    if last.exists():
        return f"the last complete epoch is in {last}, and --resume continues from it"
    return "no epoch was saved"


def _finish(logger: Logger) -> None:
    try:
        if isinstance(logger, MetricsFile):
            logger.finish()
    except InputError as error:
        raise for_this_process(InputError(f"{error}; the model is saved")) from error


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
                    f"to begin with, found {tuple(probe.shape)}; "
                    "state inference.probe scan, or another probe with --probe"
                )
            probe = choose_probe(start, scan, "model").detach()
    model.illumination.set_probe(probe)
    good = good_pixels(scan)
    if good is not None:
        model.good.copy_(good)
    if model.positions is not None:
        model.positions.set_scans(scans)
    return module
