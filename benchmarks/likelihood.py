# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of correct_fields, compared with the torch operations that it replaces and with a copy, in one run.

    python benchmarks/likelihood.py                # 64 px, 16 and 1,089 patterns, 1 and 3 modes; writes results/
    python benchmarks/likelihood.py --patterns 16 --modes 1 --repeats 3 --json rows.json

The torch operations are the shortest sequence that we know, in place where possible. "refine": correction, value and
derivative by the scale, with counts in uint16, as in refinement; "bad": the same with a mask. "step": the correction of
the amplitude loss, as in a step of the unrolled generator; "train": the same with its backward. As in run.py, all are
timed in turn and medians are reported; compare ratios in a row.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from run import MEMORY, RESULTS, Call, hardware, milliseconds, relative_error
from torch import Tensor

import ptycho_ext
from ptycho_ext import correct_fields

BACKGROUND = 0.1
LEAST_EXCESS = -1 + 2.0**-24  # keeps the logarithm finite where float32 rounds to -1
COLUMNS = (
    "work", "loss", "patterns", "modes", "threads", "ours_ms", "torch_ms", "copy_ms", "torch_over_ours",
    "ours_over_copy", "error", "rounds",
)  # fmt: skip


def intensity_of(fields: Tensor) -> Tensor:
    return torch.addcmul(fields.real.square(), fields.imag, fields.imag).sum(1)


def chain(fields: Tensor, counts: Tensor, scale: Tensor, good: Tensor | None, loss: str) -> tuple[Tensor, ...]:
    """Compute correction, values and derivatives by the logarithm of the scale in plain torch."""
    factors = scale[:, None, None]
    intensity = intensity_of(fields).mul_(factors)
    measured = counts.to(torch.float32).add_(BACKGROUND)
    predicted = intensity + BACKGROUND
    if loss == "amplitude":
        step = measured.sqrt_().mul_(predicted.rsqrt()).sub_(1)
        terms = step.square().mul_(predicted)
    else:
        excess = predicted / measured - 1
        terms = measured.mul(excess - torch.log1p(excess.clamp_min(LEAST_EXCESS))).mul_(0.5)
        step = measured.div_(predicted).sub_(1).mul_(0.5)
    if good is not None:
        terms, step = terms.mul_(good), step.mul_(good)
    slopes = -(step * intensity).sum((1, 2)).double()
    return fields * step.mul_(factors).unsqueeze(1), terms.sum((1, 2)).double(), slopes


class Modulus(torch.autograd.Function):
    """Squared modulus with two passes over memory forward and one backward."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor) -> Tensor:
        ctx.save_for_backward(fields)
        return torch.addcmul(fields.real.square(), fields.imag, fields.imag)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * (2 * grad)  # type: ignore[no-any-return]


def step_chain(fields: Tensor, amplitude: Tensor) -> Tensor:
    """Compute the correction of the amplitude loss in plain torch, differentiable."""
    intensity = Modulus.apply(fields).sum(1)  # type: ignore[no-untyped-call]
    return fields * (amplitude * torch.rsqrt(intensity + BACKGROUND) - 1).unsqueeze(1)


def calls(work: str, loss: str, patterns: int, modes: int) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)
    fields = 5 * torch.randn(patterns, modes, 64, 64, dtype=torch.complex64, generator=generator)
    counts = torch.poisson(intensity_of(fields), generator=generator)
    out = fields.clone()
    copy = {"copy": lambda: out.copy_(fields)}
    if work in ("refine", "bad"):
        raw = counts.to(torch.uint16)
        scale = 1 + 0.01 * torch.rand(patterns, generator=generator)
        good = torch.rand(64, 64, generator=generator) > 0.1 if work == "bad" else None
        options: dict[str, Any] = {"mask": good, "scale": scale, "loss": loss, "background": BACKGROUND}
        as_float = None if good is None else good.float()
        return copy | {
            "ours": lambda: correct_fields(fields, raw, **options, out=out),
            "torch": lambda: chain(fields, raw, scale, as_float, loss),
        }
    amplitude = torch.sqrt(counts + BACKGROUND)

    def ours() -> Tensor:
        return correct_fields(fields, counts, loss=loss, background=BACKGROUND)[0]

    if work == "step":
        return copy | {"ours": ours, "torch": lambda: step_chain(fields, amplitude)}
    grad = torch.randn(fields.shape, dtype=fields.dtype, generator=generator)
    fields.requires_grad_()
    return {
        "copy": lambda: out.copy_(fields.detach()),
        "ours": lambda: torch.autograd.grad(ours(), fields, grad)[0],
        "torch": lambda: torch.autograd.grad(step_chain(fields, amplitude), fields, grad)[0],
    }


def measure(work: str, loss: str, patterns: int, modes: int, repeats: int) -> dict[str, Any]:
    variants = calls(work, loss, patterns, modes)
    results = [(r if isinstance(r, tuple) else (r,)) for r in (variants["ours"](), variants["torch"]())]
    error = max(relative_error(one, other) for one, other in zip(*results, strict=True))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            times[name].append(milliseconds(call))
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    return {
        "work": work,
        "loss": loss,
        "patterns": patterns,
        "modes": modes,
        "threads": torch.get_num_threads(),
        "error": error,
        "rounds": repeats,
        "torch_over_ours": medians["torch_ms"] / medians["ours_ms"],
        "ours_over_copy": medians["ours_ms"] / medians["copy_ms"],
        **medians,
    }


def write(rows: Sequence[dict[str, Any]], load: float) -> None:
    name, words = hardware()
    with (RESULTS / f"{name}-likelihood.csv").open("w", newline="") as sheet:
        writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    level = ptycho_ext.simd_level()["operators"]
    lines = [
        f"# correct_fields: {words}, {rows[0]['threads']} threads",
        "",
        f"{datetime.date.today().isoformat()}, torch {torch.__version__}, ptycho_ext {ptycho_ext.__version__} "
        f"({level}), load average {load:.1f} at the start. 64 px, complex64; median milliseconds; explained in "
        "../likelihood.py.",
        "",
        "| work | loss | patterns | modes | ours | torch | copy | torch / ours | ours / copy |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['work']} | {r['loss']} | {r['patterns']} | {r['modes']} | {r['ours_ms']:.3g} | {r['torch_ms']:.3g} "
            f"| {r['copy_ms']:.3g} | {r['torch_over_ours']:.1f} | {r['ours_over_copy']:.1f} |"
        )
    (RESULTS / f"{name}-likelihood.md").write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Benchmark of correct_fields beside plain torch and a copy.")
    parser.add_argument("--patterns", type=int, nargs="+", default=[16, 1089])
    parser.add_argument("--modes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, and no tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    rows = []
    for patterns in options.patterns:
        for modes in options.modes:
            for work in ("refine", "bad", "step", "train"):
                for loss in ("poisson", "amplitude") if work in ("refine", "bad") else ("amplitude",):
                    row = measure(work, loss, patterns, modes, options.repeats)
                    rows.append(row)
                    print(
                        f"{work:7} {loss:10} {patterns:5} patterns of {modes}: ours {row['ours_ms']:8.3f} ms, "
                        f"torch {row['torch_ms']:8.3f} ({row['torch_over_ours']:.1f} times), copy {row['copy_ms']:.3f}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    else:
        write(rows, load)
    return 0


if __name__ == "__main__":
    if any(name not in os.environ for name in MEMORY):  # the variables are read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], MEMORY | os.environ)
    raise SystemExit(main())
