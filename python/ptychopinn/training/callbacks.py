# SPDX-License-Identifier: BSD-3-Clause
"""Callbacks: a learning rate that fits epochs and a time limit at once, and the ways a training can end early.

The schedule follows progress, the larger of the shares of steps done and of time spent, so that a run with
``--minutes`` ends annealed wherever the time runs out. Without a time limit it depends on the step alone and is
reproducible.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from ptychopinn.config import TrainingConfig
from ptychopinn.errors import InputError
from ptychopinn.runtime.processes import agree, distributed

_log = logging.getLogger(__name__)

#: Seconds within which two signals are one Ctrl-C.
_SAME_INTERRUPT = 2.0


class Schedule(L.Callback):
    """Learning rates: a linear rise, then as ``training.schedule`` says; stops the training when the time is over.

    All groups of parameters follow one factor. The time spent and the plateaus are part of a checkpoint; the rates are
    not, so that a resumed training follows its own configuration.

    Args:
        config: of the training.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.kind = config.schedule
        self.warmup = config.warmup
        self.patience = config.patience
        self.seconds = math.inf if config.minutes is None else 60 * config.minutes
        self._started = 0.0
        self._spent_before = 0.0
        self._peaks: list[float] = []
        self._best, self._waited, self._reduced = math.inf, 0, 1.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before a checkpoint restores the optimiser, and with it rates of an earlier moment.
        self._peaks = [group["lr"] for group in trainer.optimizers[0].param_groups]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        spent = self._spent() / self.seconds
        # One decision for all processes, or some would wait for the others forever.
        spent = float(trainer.strategy.broadcast(spent)) if self.seconds < math.inf else 0.0
        progress = max(trainer.global_step / max(1, trainer.estimated_stepping_batches), spent)
        factor = self.factor(progress)
        for group, peak in zip(trainer.optimizers[0].param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        if progress >= 1:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.kind == "plateau":
            self.judge(float(trainer.callback_metrics["train_loss"]))

    def factor(self, progress: float) -> float:
        """Learning rate relative to its peak at ``progress`` in [0, 1]."""
        rise = min(1.0, (progress + 1e-3) / (self.warmup + 1e-3))
        progress = min(progress, 1.0)
        if self.kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "exponential":
            return rise * 0.01**progress
        return rise * self._reduced

    def judge(self, loss: float) -> None:
        """Halve the rates when ``loss`` has not been the lowest for longer than the patience."""
        self._waited = 0 if loss < self._best else self._waited + 1
        self._best = min(loss, self._best)
        if self._waited > self.patience:
            self._reduced, self._waited = 0.5 * self._reduced, 0

    def _spent(self) -> float:
        return self._spent_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {
            "spent": self._spent(),
            "best": self._best,
            "waited": self._waited,
            "reduced": self._reduced,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent_before = state_dict["spent"]
        self._best, self._waited, self._reduced = (state_dict[name] for name in ("best", "waited", "reduced"))


class LastEpoch(ModelCheckpoint):
    """Keeps ``last.ckpt``, the state after the last whole epoch, from which a training can be resumed exactly.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _whole_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)


class BestEpoch(ModelCheckpoint):
    """Keeps ``best.ckpt``, the whole epoch of the lowest loss, and beside it an epoch that was cut short.

    Ctrl-C or the time limit may end an epoch early, after which a resumed training does it again: it must not find a
    best epoch that it has not had.

    Args:
        folder: of the checkpoints.
        monitor: the loss.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(folder, "best", monitor=monitor, enable_version_counter=False)
        self.folder = folder
        self._cut = math.inf

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _whole_epoch(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _whole_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        else:
            self._cut = float(trainer.callback_metrics.get(str(self.monitor), math.inf))
            trainer.save_checkpoint(self.folder / "cut.ckpt", weights_only=True)

    def chosen(self) -> Path | None:
        """The file of the lowest loss in this folder."""
        best = math.inf if self.best_model_score is None else float(self.best_model_score)
        path = self.folder / ("cut.ckpt" if self._cut <= best else "best.ckpt")
        return path if path.exists() else None


def _whole_epoch(trainer: L.Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


class StopOnNonFinite(L.Callback):
    """Ends a training whose loss is no longer a number, with a sentence instead of a file full of NaN.

    It looks at the mean over an epoch, which any such step spoils: looking at every step would wait for the device.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise InputError(
                f"training: the loss is {loss} after step {trainer.global_step}; "
                "lower training.learning_rate, or check the scan's counts and probe with ptychopinn plot"
            )


class EpochLog(L.Callback):
    """One line per epoch, where a progress bar would fill a log file."""

    def __init__(self) -> None:
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses = "".join(
            f", {name} {float(trainer.callback_metrics[name]):.5g}"
            for name in ("train_loss", "val_loss")
            if name in trainer.callback_metrics
        )
        if trainer.is_global_zero:
            seconds = time.monotonic() - self._started
            _log.info("epoch %d/%s: %.0f s%s", trainer.current_epoch + 1, trainer.max_epochs, seconds, losses)


class StopTogether(L.Callback):
    """Of several processes, those that were not interrupted end after the same step as one that was.

    Args:
        asked: whether this process was interrupted.
    """

    def __init__(self, asked: threading.Event) -> None:
        self.asked = asked

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's answer to SIGTERM waits for the other processes, whose end is why torchrun sends it.
        if distributed() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if distributed() and agree(self.asked.is_set()):
            self.asked.set()
            trainer.should_stop = True


@contextmanager
def stop_on_interrupt(trainer: L.Trainer, asked: threading.Event) -> Iterator[None]:
    """The first Ctrl-C ends the training after its current step, so that it can be saved; a second one ends it at once.

    Outside the main thread the first one does.

    Args:
        trainer: about to train, of several processes with :class:`StopTogether`.
        asked: set by the first Ctrl-C.

    Raises:
        KeyboardInterrupt: the training was ended at once.
    """
    first = math.inf
    previous = signal.getsignal(signal.SIGINT)
    # In the background of a script Ctrl-C is ignored from the start; a second signal must end the training still.
    again = previous if callable(previous) else signal.default_int_handler

    def stop(*arguments: Any) -> None:
        nonlocal first
        if asked.is_set():
            # One Ctrl-C reaches a process twice, from the terminal and from torchrun.
            if time.monotonic() - first > _SAME_INTERRUPT or not distributed():
                again(*arguments)
            return
        asked.set()
        first = time.monotonic()
        trainer.should_stop = not distributed()
        _log.warning("interrupted: this step is finished and the model saved; interrupt again to stop at once")

    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    except SystemExit:  # Lightning's answer to a KeyboardInterrupt
        raise KeyboardInterrupt from None
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, previous)
