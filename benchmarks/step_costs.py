# SPDX-License-Identifier: BSD-3-Clause
"""What a training step costs: its time here, and the time to expect on an H200, from operators that are counted.

A callback counts the operators of one step of a training on the CPU, with the bytes of their inputs and outputs and the
floating-point operations of convolutions and products. On the GPU steps are captured, so an operator takes as long as
the slowest of its launches, its memory traffic and its arithmetic. This is an expectation, not a measurement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ptychopinn.batches.datamodule import batch_groups

#: Seconds of a launch in a replayed graph: a step of 1,237 launches took 3.148 ms on an H200
#: (results/nvidia-h200-end-to-end.json, graphed_step_batch1).
LAUNCH = 3.148e-3 / 1237
#: Bytes per second that copies move on an H200 (results/nvidia-h200.md: 4.0 to 4.25 TB/s).
BANDWIDTH = 4.0e12
#: float32 operations per second without tensor cores: half of the 67 TFLOP/s of its data sheet, an assumption.
ARITHMETIC = 33e12
#: Kernels of an operator, where there is more than one: gradients of input, weights and bias.
_LAUNCHES = {"convolution": 2, "convolution_backward": 4}
#: Operators that make or describe tensors and launch nothing.
_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}

HOW = (
    "seconds of 40 epochs on an H200: steps of 40 epochs with the GPU's batch, times the sum over the operators of one "
    f"step of the largest of {1e6 * LAUNCH:.2f} us a launch, bytes / {BANDWIDTH / 1e12:g} TB/s and operations / "
    f"{ARITHMETIC / 1e12:g} TFLOP/s; counted on the CPU, expected and not measured"
)


class Operator(NamedTuple):
    """One operator of a step: kernels, bytes read and written, floating-point operations."""

    launches: int
    bytes: int
    operations: int


class Operators(TorchDispatchMode):
    """Lists the operators that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operator] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if func.is_view or name in _NOTHING or func.namespace == "prim" or not tensors:
            return result
        count = flop_registry.get(func.overloadpacket)
        operations = int(count(*args, **(kwargs or {}), out_val=result)) if count else 0
        size = sum(t.numel() * t.element_size() for t in tensors)
        self.found.append(Operator(_LAUNCHES.get(name, 1), size, operations))
        return result


def expected_step(operators: Sequence[Operator], batch: float = 1.0) -> float:
    """Seconds of a captured step on an H200, with a batch so many times as large as the one that was counted."""
    return sum(
        max(LAUNCH * op.launches, batch * op.bytes / BANDWIDTH, batch * op.operations / ARITHMETIC) for op in operators
    )


class StepWatch(L.Callback):
    """Times the steps of a training and, on the CPU, counts the operators of its fourth one.

    Attributes:
        seconds: of the calls that made steps, in which the counted one is not.
        steps: of the optimiser.
        operators: of one step; empty on other devices, and for trainings of fewer than four steps.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps = 0
        self.operators: list[Operator] = []
        self.epoch_steps = 0.0
        self._calls = 0
        self._mode: Operators | None = None

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
            self._mode = Operators()
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
            self.operators, self._mode = self._mode.found, None

    def columns(self) -> dict[str, Any]:
        """Steps, patterns of a step, milliseconds of a step, operators, and the time of 40 epochs expected on an H200.

        With replayed steps, as on a GPU, a call makes several, and the milliseconds are not those of a step: empty.
        """
        expected = 40 * self.epoch_steps * expected_step(self.operators, self.batch_ratio) if self.operators else None
        return {
            "steps": self.steps,
            "step_patterns": self.patterns,
            "step_ms": 1e3 * float(np.median(self.seconds)) if self._counts and self.seconds else None,
            "operators": len(self.operators) or None,
            "expected_h200_s": expected,
        }
