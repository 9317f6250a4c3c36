# SPDX-License-Identifier: BSD-3-Clause
"""Callbacks: checkpoints of complete epochs, what is printed, and the ways a training can end early."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from ptychopinn.errors import InputError
from ptychopinn.runtime.processes import agree, distributed
from ptychopinn.training.ending import RATIO

_log = logging.getLogger(__name__)

#: Seconds within which two signals are one Ctrl-C.
_SAME_INTERRUPT = 2.0
#: Key of the losses of the epoch in a checkpoint.
LOSSES = "epoch_losses"


class LastEpoch(ModelCheckpoint):
    """Keeps ``last.ckpt``, the state after the last complete epoch, from which a training can be resumed exactly.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _complete_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the losses, whose row of metrics.csv is written after the checkpoint."""
        values = trainer.callback_metrics
        checkpoint[LOSSES] = {name: float(value) for name, value in values.items() if name.endswith("_loss")}


class BestEpoch(ModelCheckpoint):
    """Keeps ``best.ckpt``, the complete epoch of the lowest loss, and beside it an epoch that was cut short.

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
        if _complete_epoch(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _complete_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        else:
            self._cut = float(trainer.callback_metrics.get(str(self.monitor), math.inf))
            trainer.save_checkpoint(self.folder / "cut.ckpt", weights_only=True)

    def chosen(self, located: Callable[[Path], Path]) -> Path | None:
        """The file of the lowest loss.

        Args:
            located: where a checkpoint of this folder was written to.
        """
        best = math.inf if self.best_model_score is None else float(self.best_model_score)
        path = located(self.folder / ("cut.ckpt" if self._cut <= best else "best.ckpt"))
        return path if path.exists() else None


def _complete_epoch(trainer: L.Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


class StopOnNonFinite(L.Callback):
    """Ends a training whose loss is no longer a number, with a sentence instead of a file full of NaN.

    It looks at the mean over an epoch, which any such step makes non-finite. Every step would wait for the device.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise InputError(
                f"training: the loss is {loss} after step {trainer.global_step}; "
                "lower training.learning_rate, or check the scan's counts and probe with ptychopinn plot"
            )


class EpochLog(L.Callback):
    """One line per epoch, where a progress bar would fill a log file.

    Args:
        minutes: time limit of the training, or None.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses = "".join(
            f", {name} {float(trainer.callback_metrics[name]):.5g}"
            for name in ("train_loss", "val_loss", RATIO)
            if name in trainer.callback_metrics
        )
        if trainer.is_global_zero:
            spent = f"{time.monotonic() - self._started:.0f}"
            if self.minutes is not None:
                spent += f" of {60 * self.minutes:.0f}"
            _log.info("epoch %d/%s: %s s%s", trainer.current_epoch + 1, trainer.max_epochs, spent, losses)


class StopAllProcesses(L.Callback):
    """Of several processes, those that were not interrupted end after the same step as one that was.

    Args:
        interrupt: set where this process was interrupted.
    """

    def __init__(self, interrupt: threading.Event) -> None:
        self.interrupt = interrupt

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's answer to SIGTERM waits for the other processes, whose end is why torchrun sends it.
        if distributed() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if distributed() and agree(self.interrupt.is_set()):
            self.interrupt.set()
            trainer.should_stop = True


@contextmanager
def stop_on_interrupt(trainer: L.Trainer, interrupt: threading.Event) -> Iterator[None]:
    """The first Ctrl-C ends the training after its current step, so that it can be saved; a second one ends it at once.

    Outside the main thread the first one does.

    Args:
        trainer: about to train, of several processes with :class:`StopAllProcesses`.
        interrupt: set by the first Ctrl-C.

    Raises:
        KeyboardInterrupt: the training was ended at once.
    """
    first = math.inf
    previous = signal.getsignal(signal.SIGINT)
    # In the background of a script Ctrl-C is ignored from the start; a second signal must end the training still.
    again = previous if callable(previous) else signal.default_int_handler

    def stop(*arguments: Any) -> None:
        nonlocal first
        if interrupt.is_set():
            # One Ctrl-C reaches a process twice, from the terminal and from torchrun.
            if time.monotonic() - first > _SAME_INTERRUPT or not distributed():
                again(*arguments)
            return
        interrupt.set()
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
