# SPDX-License-Identifier: BSD-3-Clause
"""What runs in the processes that ptychodus starts, one for every training, inference and refinement.

ptychodus calls each with its job and a queue for what is to be shown. It looks whether to stop only when something
arrives there; that is why a training reports its progress twice a second, and not only after an epoch.
"""

from __future__ import annotations

import dataclasses
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import ReconstructOutput, TrainOutput
from ptychodus.model.processing.subprocess_reconstructor import TAG_MODEL_SAVED, TAG_OUTPUT, TAG_TRAIN_OUTPUT

from ptychopinn.config import Config, ExecutionConfig, RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import reconstruct
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import is_bundle, load_bundle
from ptychopinn.persistence.checkpoint import copy_chosen, load_checkpoint
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.workflow import Progress, refine
from ptychopinn.runtime.devices import device_of
from ptychopinn.scan import Scan
from ptychopinn.training.callbacks import EpochLog
from ptychopinn.training.workflow import train
from ptychopinn_ptychodus.payloads import Inference, Refinement, Training
from ptychopinn_ptychodus.scans import product_of, scan_of, start_of

#: Seconds between two words of a training.
_OFTEN = 0.5
#: Seconds between two pictures of a refinement, which has to finish its pass first.
_PICTURES = 2.0


def run_training(job: Training, queue: Any) -> None:
    """Train; the queue gets losses after every epoch, and the path of the best checkpoint at the end."""
    config, losses = Config.from_dict(job.settings), _Losses()
    # A line per epoch, for ptychodus' window, and not a bar on the terminal that it was started from.
    config = dataclasses.replace(config, execution=dataclasses.replace(config.execution, progress=False))
    folder = job.target / time.strftime("run_%Y%m%d-%H%M%S")
    with _telling(losses, queue):
        run = train(scans_in(job.source), folder, config, callbacks=[losses, EpochLog()])
    assert run.checkpoint is not None
    queue.put((TAG_TRAIN_OUTPUT, pickle.dumps(losses.reported())))
    queue.put((TAG_MODEL_SAVED, str(copy_chosen(run.checkpoint, folder))))


def run_inference(job: Inference, queue: Any) -> None:
    """Reconstruct; the queue gets one product."""
    model, trained = load_model(job.model)
    stated = Config.from_dict({name: job.settings[name] for name in ("inference", "execution")})
    config = dataclasses.replace(trained, inference=stated.inference, execution=stated.execution)
    result = reconstruct(model, scan_of(job.parameters), config, _place(stated.execution))
    product = product_of(result, job.parameters, job.losses)
    queue.put((TAG_OUTPUT, pickle.dumps(ReconstructOutput(product, progress=1))))


def run_refinement(job: Refinement, queue: Any) -> None:
    """Refine; the queue gets a product every few seconds, with the deviance per pixel as its loss."""
    config, device = RefineConfig(**job.settings), _place(ExecutionConfig(**job.execution))
    scan = scan_of(job.parameters)
    losses, shown = list[LossValue](), time.monotonic()

    def show(result: Reconstruction) -> None:
        nonlocal shown
        product = product_of(result, job.parameters, losses)
        queue.put((TAG_OUTPUT, pickle.dumps(ReconstructOutput(product, losses[-1].epoch))))
        shown = time.monotonic()

    def tell(progress: Progress) -> None:
        losses.append(LossValue(progress.passes, progress.deviance))
        if time.monotonic() - shown > _PICTURES:
            show(progress.result())

    result = refine(scan, start_of(scan), config, device, progress=tell, every=1)
    if not losses:
        raise InputError("refine: no pass was made; allow more refine.minutes")
    show(result)


def _place(execution: ExecutionConfig) -> torch.device:
    """Where to compute, with as many threads."""
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    return device_of(execution)


def scans_in(folder: Path) -> list[Scan]:
    """The exported scans of a folder (`*.npz`); where there is none, its `diffraction.h5` with `product.h5`.

    Raises:
        InputError: there is neither, or a file cannot be used.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npz")
    if files:
        return [Scan.load(file) for file in files]
    if all((folder / f"{name}.h5").is_file() for name in ("diffraction", "product")):
        return [Scan.load(folder, "ptychodus")]
    raise InputError(
        f"{folder}: expected exported training data (*.npz), or diffraction.h5 with product.h5, found neither"
    )


def load_model(path: Path) -> tuple[PtychoModel, Config]:
    """A trained model from a checkpoint or from a bundle, whatever the name of the file.

    Raises:
        InputError: the file is neither, or damaged.
    """
    return load_bundle(path) if is_bundle(path) else load_checkpoint(path)[:2]


class _Losses(L.Callback):
    """What a training has reached."""

    def __init__(self) -> None:
        self.training, self.validation, self.epochs = list[LossValue](), list[LossValue](), 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, values in (("train_loss", self.training), ("val_loss", self.validation)):
            if name in trainer.callback_metrics:
                values.append(LossValue(trainer.current_epoch, float(trainer.callback_metrics[name])))
        self.epochs = trainer.current_epoch + 1

    def reported(self) -> TrainOutput:
        return TrainOutput(list(self.training), list(self.validation), self.epochs)


@contextmanager
def _telling(losses: _Losses, queue: Any) -> Iterator[None]:
    """Put what a training has reached into the queue, again and again while it runs."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_OFTEN):
            queue.put((TAG_TRAIN_OUTPUT, pickle.dumps(losses.reported())))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
