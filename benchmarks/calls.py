# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the host overhead of a call, compared with torch.fft.fft2, on very small tensors.

A row is an operator: the raw one (torch.ops.ptycho), the public function without a gradient, with a gradient, and with
its backward; and for comparison fft2, and two fft2 with their backward. All are timed in turn for many rounds. Times
are minima over the rounds, because other programs can only increase them; ratios are medians over the rounds. Writes
results/calls/<hardware>.csv. See README.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from run import hardware
from torch import Tensor

import ptycho_ext as px

Call = Callable[[], Any]

RESULTS = Path(__file__).parent / "results" / "calls"
SIZE, PATCH, COUNT = (16, 16), (4, 4), 2
COLUMNS = (
    "op", "raw_us", "public_us", "forward_us", "backward_us", "fft2_us", "two_fft2_us",
    "public_over_raw", "forward_over_raw", "backward_over_two_fft2",
)  # fmt: skip


def operators(device: str) -> dict[str, tuple[Call, Callable[[Tensor], Any], Tensor]]:
    """Raw call, public function of the data, and data of every operator, by name."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int, dtype: torch.dtype = torch.complex64) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator).to(device)

    canvas, patches, weights = random(*SIZE), random(COUNT, *PATCH), random(*PATCH, dtype=torch.float32).abs()
    at = (torch.rand(COUNT, 2, dtype=torch.float64, generator=generator) * 9).to(device)
    ops, size, patch = torch.ops.ptycho, list(SIZE), list(PATCH)
    return {
        "extract_patches": (
            lambda: ops.extract_patches(canvas, at, patch),
            lambda x: px.extract_patches(x, at, PATCH),
            canvas,
        ),
        "extract_patches_adjoint": (
            lambda: ops.extract_patches_adjoint(patches, at, size),
            lambda x: px.extract_patches_adjoint(x, at, SIZE),
            patches,
        ),
        "translate_images": (
            lambda: ops.translate_images(patches, at, "bilinear"),
            lambda x: px.translate_images(x, at),
            patches,
        ),
        "reassemble_patches": (
            lambda: ops.reassemble_patches(patches, at, weights, size, 1e-6),
            lambda x: px.reassemble_patches(x, at, SIZE, weights)[0],
            patches,
        ),
        "overlap_project": (
            lambda: ops.overlap_project(patches, at, weights, size, 1e-6),
            lambda x: px.overlap_project(x, at, SIZE, weights),
            patches,
        ),
    }


def microseconds(call: Call, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return 1e6 * (time.perf_counter() - start) / number


def measure(
    op: str, raw: Call, public: Callable[[Tensor], Any], data: Tensor, rounds: int, number: int
) -> dict[str, Any]:
    """Measure one row."""
    leaf, image = data.clone().requires_grad_(), torch.randn(SIZE, dtype=torch.complex64, device=data.device)
    grad = torch.ones_like(public(data))
    image_leaf = image.clone().requires_grad_()
    synchronise = torch.cuda.synchronize if data.is_cuda else lambda: None
    calls: dict[str, Call] = {
        "raw": raw,
        "public": lambda: public(data),
        "forward": lambda: public(leaf),
        "backward": lambda: torch.autograd.grad(public(leaf), leaf, grad),
        "fft2": lambda: torch.fft.fft2(image),
        "two_fft2": lambda: torch.autograd.grad(torch.fft.fft2(torch.fft.fft2(image_leaf)), image_leaf, image),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            synchronise()
            times[name].append(microseconds(call, number))

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    return {
        "op": op,
        **{f"{name}_us": min(values) for name, values in times.items()},
        "public_over_raw": ratio("public", "raw"),
        "forward_over_raw": ratio("forward", "raw"),
        "backward_over_two_fft2": ratio("backward", "two_fft2"),
    }


def write(rows: Sequence[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Host overhead of a call of an operator.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=300, help="calls of each in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for op, (raw, public, data) in operators(options.device).items():
        row = measure(op, raw, public, data, options.rounds, options.number)
        rows.append(row)
        print(
            f"{op:24} raw {row['raw_us']:6.2f} us, public {row['public_us']:6.2f} "
            f"({row['public_over_raw']:.2f} of raw), "
            f"recording {row['forward_us']:6.2f} ({row['forward_over_raw']:.2f}), "
            f"with backward {row['backward_us']:6.2f} ({row['backward_over_two_fft2']:.2f} of two fft2); "
            f"fft2 {row['fft2_us']:.2f}, two with backward {row['two_fft2_us']:.2f}",
            flush=True,
        )
    name = torch.cuda.get_device_name().lower().replace(" ", "-") if options.device == "cuda" else hardware()[0]
    write(rows, options.out or RESULTS / f"{name}.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
