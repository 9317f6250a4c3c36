# SPDX-License-Identifier: BSD-3-Clause
"""Quality that the choices of ``execution.precision`` cost: the same training in each, on the CPU.

"bf16" runs as it is. TF32 needs a GPU, so it is emulated: both operands of every convolution of the network are rounded
to the 10 stored bits of its mantissa, in the forward and in the backward pass, and sums are float32, as on the GPU. A
row is one training and the scores of one reconstruction; rows of a seed differ in the precision only. Times would say
nothing of a GPU and are not taken.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptychopinn.config import Config
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.physics.simulate import simulate
from ptychopinn.training.workflow import train

PRECISIONS = ("32", "tf32", "bf16")
#: Bits of a float32's mantissa that TF32 does not have.
_DROPPED = 13


def rounded(values: Tensor) -> Tensor:
    """Round float32 to the nearest TF32, ties away from zero, as the conversion of the GPU does."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + (1 << (_DROPPED - 1))) >> _DROPPED << _DROPPED).view(torch.float32)


class _Operand(torch.autograd.Function):
    """Round in the forward pass only."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return rounded(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class _Result(torch.autograd.Function):
    """Round in the backward pass only, where the gradient is an operand."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return rounded(gradient)


@contextmanager
def tf32_convolutions() -> Iterator[None]:
    """Context manager in which torch's 2D convolutions are rounded as in TF32."""
    plain = nn.Conv2d._conv_forward

    def emulated(self: nn.Conv2d, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = plain(self, _Operand.apply(values), _Operand.apply(weight), None)
        result = _Result.apply(result)
        return result if bias is None else result + bias[:, None, None]

    nn.Conv2d._conv_forward = emulated  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Conv2d._conv_forward = plain  # type: ignore[method-assign]


def measure(precision: str, seed: int, epochs: int, patterns: int, threads: int) -> dict[str, Any]:
    """Train and reconstruct one scan; returns the row."""
    scan = simulate("photos", patterns=patterns, seed=seed)
    config = Config.from_dict(
        {
            "training": {"epochs": epochs, "seed": seed},
            "execution": {
                "accelerator": "cpu",
                "threads": threads,
                "precision": "32" if precision == "tf32" else precision,
                "progress": False,
                "picture_every": None,
                "checkpoints": False,
            },
        }
    )
    with tempfile.TemporaryDirectory() as folder, tf32_convolutions() if precision == "tf32" else nullcontext():
        run = train(scan, Path(folder) / "run", config)
        result = reconstruct(run.model, scan, config, "cpu")
    scores = evaluate(result, scan)
    return {
        "precision": precision,
        "seed": seed,
        "epochs": epochs,
        "train_loss": run.losses["train_loss"],
        "frc_mean": round(scores["frc"]["mean"], 4),
        "frc_crossing_0.5": round(scores["frc"]["crossing_0.5"], 4),
        "amplitude_pearson": round(scores["amplitude"]["pearson"], 4),
        "phase_pearson": round(scores["phase"]["pearson"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patterns", type=int, default=1089)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    writer = None
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            row = measure(precision, seed, options.epochs, options.patterns, options.threads)
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row))
                writer.writeheader()
            writer.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
