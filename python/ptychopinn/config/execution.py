# SPDX-License-Identifier: BSD-3-Clause
"""Section ``execution`` of the configuration: devices, processes, precision and logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptychopinn._one_line import one_line
from ptychopinn.config.checks import check_fields, require


@dataclass(frozen=True)
class ExecutionConfig:
    """Devices, processes, precision and logging; they change speed, and results by rounding only.

    Args:
        accelerator: "cpu", "gpu", or "auto": a GPU if torch and the operators can use one.
        devices: "auto", which is one, or as many as torchrun has started processes on this node; or "1," for GPU 1.
        strategy: how several processes work together: "ddp", or "auto": so where torchrun has started some. "ddp" in a
            single process is an error.
        deterministic: use deterministic algorithms only; the same seed then gives the same result, bit for bit.
        precision: of the network; the physics is float32 in any case. "32": float32, with TF32 off. "tf32":
            convolutions and matrix products in TF32 on GPUs that have it, in float32 elsewhere. "bf16", "16":
            training in bfloat16, or in float16 with a scaled loss, on a GPU. docs/performance.md has what each costs in
            quality.
        threads: number of CPU threads while it runs; none: as torch is set.
        workers: number of processes that prepare batches; 0: the main process prepares them.
        steps_at_once: steps that the device does between two looks of the host, as for Ctrl-C; none: 1
            on the CPU, 32 on a GPU.
        progress: show a progress bar on a terminal or in a notebook, a line per epoch elsewhere.
        logger: destination of losses: "csv" (metrics.csv in the run's folder), "tensorboard" or "mlflow" (besides
            that), or "none".
        checkpoints: keep the best and the last epoch in the run's folder; without, the model is that of the last step,
            and nothing can be resumed.
        early_stopping: epochs without a lower loss (of what is held out, if anything is) after which it ends; none:
            never. A falling schedule is not at its end then: "plateau" or "constant" go with it.
        fallback_folder: where a training whose disk is full keeps its checkpoints and its model, in a folder of the
            run's name; none: nowhere, it ends.
        grace: seconds that a training has to end in order after SIGTERM; then, or with a second SIGTERM, it is ended.
        picture_every: epochs between pictures of the running reconstruction; none: no pictures.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | str = "auto"
    strategy: Literal["auto", "ddp"] = "auto"
    deterministic: bool = False
    precision: Literal["32", "tf32", "bf16", "16"] = "32"
    threads: int | None = None
    workers: int = 0
    steps_at_once: int | None = None
    progress: bool = True
    logger: Literal["csv", "tensorboard", "mlflow", "none"] = "csv"
    checkpoints: bool = True
    early_stopping: int | None = None
    fallback_folder: str | None = None
    grace: float = 30.0
    picture_every: int | None = 10

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "execution")
        require(self.threads is None or self.threads >= 1, "execution.threads", "be at least 1", self.threads)
        require(self.workers >= 0, "execution.workers", "be at least 0", self.workers)
        require(self.grace >= 0, "execution.grace", "be at least 0", self.grace)
        for name in ("early_stopping", "picture_every", "steps_at_once"):
            number = getattr(self, name)
            require(number is None or number >= 1, f"execution.{name}", "be at least 1", number)
