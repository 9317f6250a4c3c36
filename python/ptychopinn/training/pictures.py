# SPDX-License-Identifier: BSD-3-Clause
"""Pictures of the reconstruction while a network is trained: the eye sees sooner than a loss what is wrong."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import torch

from ptychopinn.config import Config
from ptychopinn.inference.predict import reconstruct
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.plotting.style import Drawings
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.processes import distributed
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule

_log = logging.getLogger(__name__)

#: Patterns in a picture at most, those in the middle of the scan: it must not cost more than it is worth.
_PATTERNS = 2000


class RunningPicture(L.Callback):
    """Draws the scan's reconstruction after every so many epochs; the training does not notice.

    Args:
        scan: of the training.
        config: of the training; the picture is made with as few groups as show every pattern.
        folder: of the run; pictures go to ``running/epoch-0010/amplitude.png`` and ``phase.png``.
        every: so many epochs.
        drawings: draw them, while the training continues.
    """

    def __init__(self, scan: Scan, config: Config, folder: Path, every: int, drawings: Drawings) -> None:
        inference = dataclasses.replace(config.inference, coverage=1, augment=1, uncertainty="none")
        self.config = dataclasses.replace(config, inference=inference)
        self.scan, self.folder, self.every, self.drawings = scan, folder, every, drawings

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0 and trainer.is_global_zero:
            for earlier in (self.folder / "running").glob("epoch-????"):
                shutil.rmtree(earlier)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every:
            return
        assert isinstance(pl_module, PtychoModule)
        scan, model = self._middle(), pl_module.model
        training, result = model.training, None
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), torch.no_grad():  # a loader draws a seed from torch's generator
                result = reconstruct(model, scan, self.config, pl_module.device)
        except Exception as error:  # of any kind: a picture must not cost the training
            if distributed():  # the others wait for this process
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            _log.warning("epoch %d: no picture of the reconstruction: %s; the training continues", epoch, reason)
        finally:
            model.train(training)
        if result is None or not trainer.is_global_zero:  # several processes share the groups; one draws
            return
        self.drawings.add(self._draw, result, epoch)

    def _draw(self, result: Reconstruction, epoch: int) -> list[Path]:
        written = plot_reconstruction(result, self.folder / "running" / f"epoch-{epoch:04d}")
        _log.info("epoch %d: the reconstruction is drawn in %s", epoch, self.folder / "running")
        return written

    def _middle(self) -> Scan:
        if self.scan.n <= _PATTERNS:
            return self.scan
        distance = np.square(self.scan.positions - np.median(self.scan.positions, axis=0)).sum(1)
        return self.scan.subset(np.sort(np.argsort(distance)[:_PATTERNS]))
