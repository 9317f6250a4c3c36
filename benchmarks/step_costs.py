# SPDX-License-Identifier: BSD-3-Clause
"""What a training step costs: its time here, and the time to expect on an H200 (estimate.py).

A callback records the kernels of one step of a training on the CPU, which estimate.py would launch on a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from estimate import Kernel, Recorder, duration

from ptychopinn.batches.sizes import batch_groups

HOW = (
    "seconds of 40 epochs on an H200: steps of 40 epochs with the GPU's batch, times the sum over the kernels of one "
    "step by benchmarks/estimate.py at float32; recorded on the CPU, expected and not measured"
)


def expected_step(kernels: Sequence[Kernel], batch: float = 1.0) -> float:
    """Seconds of a captured step on an H200, with a batch so many times as large as the one that was recorded."""
    larger = (k._replace(nbytes=batch * k.nbytes, tiled=batch * k.tiled) for k in kernels)
    return 1e-6 * sum(duration(kernel, "32") for kernel in larger)


class StepWatch(L.Callback):
    """Times the steps of a training and, on the CPU, records the kernels of its fourth one.

    Attributes:
        seconds: of the calls that made steps, in which the recorded one is not.
        steps: of the optimiser.
        kernels: of one step; empty on other devices, and for trainings of fewer than four steps.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps = 0
        self.kernels: list[Kernel] = []
        self.epoch_steps = 0.0
        self._calls = 0
        self._mode: Recorder | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        config = data.config
        on_gpu = batch_groups(config, data.scans[0].patch_size, torch.device("cuda"))
        self.batch_ratio = on_gpu / data.batch_size
        self.epoch_steps = math.ceil(data.groups_per_epoch / (on_gpu * config.training.accumulate))
        self.patterns = data.batch_size * data.merged * config.data.group_size * config.training.accumulate
        self._counts = trainer.strategy.root_device.type == "cpu" and data.shape.steps == 1

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._counts and self._calls == 3:
            self._mode = Recorder()
            self._mode.__enter__()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._leave()
        if self._calls != 3:
            self.seconds.append(time.perf_counter() - self._start)
        self._calls += 1
        self.steps = trainer.global_step

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.kernels, self._mode = self._mode.kernels, None

    def columns(self) -> dict[str, Any]:
        """Steps, patterns of a step, milliseconds of a step, kernels, and the time of 40 epochs expected on an H200.

        With replayed steps, as on a GPU, a call makes several, and the milliseconds are not those of a step: empty.
        """
        expected = 40 * self.epoch_steps * expected_step(self.kernels, self.batch_ratio) if self.kernels else None
        return {
            "steps": self.steps,
            "step_patterns": self.patterns,
            "step_ms": 1e3 * float(np.median(self.seconds)) if self._counts and self.seconds else None,
            "kernels": len(self.kernels) or None,
            "expected_h200_s": expected,
        }
