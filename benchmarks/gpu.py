# SPDX-License-Identifier: BSD-3-Clause
"""Times the CUDA operators as shares of the bandwidth of a device-to-device copy, in one run.

A row is a CUDA graph of one call per input set, replayed and timed with events: what the device takes, without the
host's part. There are so many sets that they exceed the second-level cache several times. The operators write to given
memory, as the copy does, and have a plan, whose making is timed apart. Where a case is small enough, index_add_ on
complex data with a ready-made index takes part as well. Results go to <folder>/<GPU>.csv and .md. See README.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cases import CASES, DTYPES, GPU_CASES, Case, Problem, make_problem
from torch import Tensor

import ptycho_ext

Call = Callable[[], Any]

COLUMNS = ("case", "op", "dtype", "sets", "ours_us", "copy_us", "share_of_copy", "plan_us", "index_add_us", "error")
CACHES = 4  # times that the input sets exceed the second-level cache
ERROR = 1e-3  # relative, above which a result is wrong
INDEXED = 1 << 27  # taps up to which index_add_ takes part
OPS = ("extract", "adjoint", "reassemble", "grad_positions")


class Device:
    """Where calls are timed: with events and graphs on a GPU; on the CPU only so that the tests can run this script."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
        self.cache = torch.cuda.get_device_properties(0).L2_cache_size if kind == "cuda" else 1 << 16

    def microseconds(self, calls: Sequence[Call], repeats: int, graph: bool = True) -> float:
        """The median time of one call, when they follow on each other."""
        if self.kind != "cuda":
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                for call in calls:
                    call()
                times.append(time.perf_counter() - start)
            return 1e6 * statistics.median(times) / len(calls)
        run = self._captured(calls) if graph else lambda: [call() for call in calls]
        run()
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for begin, end in events:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return 1e3 * statistics.median(begin.elapsed_time(end) for begin, end in events) / len(calls)

    @staticmethod
    def _captured(calls: Sequence[Call]) -> Call:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph.replay


def ours(op: str, p: Problem, plan: ptycho_ext.ScanPlan | None, patches: Tensor, canvas: Tensor) -> Call:
    """The call, writing to patches or to canvas."""
    size, canvas_size = p.case.patch, (p.case.canvas, p.case.canvas)
    order = None if plan is None else plan.order
    total = torch.empty_like(canvas.real) if op == "reassemble" else canvas
    calls: dict[str, Call] = {
        "extract": lambda: ptycho_ext.extract_patches(p.canvas, p.positions, size, plan=plan, out=patches),
        "adjoint": lambda: ptycho_ext.extract_patches_adjoint(
            p.patches, p.positions, canvas_size, plan=plan, out=canvas
        ),
        "reassemble": lambda: ptycho_ext.reassemble_patches(
            p.patches, p.positions, canvas_size, p.weights, plan=plan, out=(canvas, total)
        )[0],
        "grad_positions": lambda: torch.ops.ptycho.extract_patches_grad_positions(
            p.patches, p.canvas, p.positions, order
        ),
        "overlap": lambda: ptycho_ext.overlap_project(p.patches, p.positions, canvas_size, p.weights, out=patches),
        "translate": lambda: ptycho_ext.translate_images(p.patches, p.shifts, out=patches),
    }
    return calls[op]


def index_add(p: Problem, canvas: Tensor) -> Call:
    """The adjoint in plain torch: four weighted copies of the patches, added by an index that is ready-made."""
    whole = p.positions.floor()
    fraction = (p.positions - whole).to(p.patches.real.dtype)
    pixels = torch.arange(p.case.patch, device=canvas.device)
    rows, cols = (whole[:, axis, None].long() + pixels for axis in (0, 1))
    index = ((rows * p.case.canvas)[:, :, None] + cols[:, None, :]).flatten()
    y, x = fraction[:, 0, None, None], fraction[:, 1, None, None]

    def run() -> Tensor:
        flat = canvas.zero_().view(-1)
        for step, weight in (
            (0, (1 - y) * (1 - x)),
            (1, (1 - y) * x),
            (p.case.canvas, y * (1 - x)),
            (p.case.canvas + 1, y * x),
        ):
            flat[step:].index_add_(0, index, (p.patches * weight).flatten())
        return canvas

    return run


def check(op: str, p: Problem, plan: ptycho_ext.ScanPlan | None, got: Tensor, patches: Tensor) -> float:
    """The relative error of a result; patches: memory that a sum's check may write to.

    A sum of patches onto a canvas is checked whole, by the transpose: <canvas, sum> = <extract(canvas), patches> for a
    canvas of noise, as a part of that number's standard deviation. Anything else is compared with the CPU's on the
    first 8 patches or groups.
    """
    if op in ("adjoint", "reassemble"):
        weights = p.weights if op == "reassemble" else None
        if op == "reassemble":  # back from the mean to the sum
            got = got * ptycho_ext.extract_patches_adjoint(
                p.weights.expand(p.patches.shape), p.positions, (p.case.canvas,) * 2, plan=plan
            )
        ptycho_ext.extract_patches(p.canvas, p.positions, p.case.patch, plan=plan, out=patches)
        products = real_products(patches, p.patches, weights)
        difference = sum(real_products(p.canvas[None], got[None])) - sum(products)
        return abs(difference) / math.sqrt(sum(product**2 for product in products))
    head = p.part(8)
    host = Problem(p.case, *(getattr(head, name).cpu() for name in ("canvas", "positions", "patches", "weights")),
                   p.grad_canvas[:0].cpu(), head.shifts.cpu())  # fmt: skip
    want = ours(op, host, None, torch.empty_like(host.patches), torch.empty(0))()
    return float((got[: len(want)].cpu() - want).abs().max() / want.abs().max())


def real_products(a: Tensor, b: Tensor, weights: Tensor | None = None, few: int = 256) -> list[float]:
    """Re <a, b * weights> in double, of every `few` images: 2 GB of workspace for the largest."""
    lanes = [torch.view_as_real(t) if t.is_complex() else t.unsqueeze(-1) for t in (a, b)]
    factor = 1 if weights is None else weights.unsqueeze(-1)
    parts = zip(lanes[0].split(few), lanes[1].split(few), strict=True)
    return [float((x * y * factor).sum(dtype=torch.float64)) for x, y in parts]


def measure(device: Device, case: Case, dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    """The rows of a case: all its operators, and the copy that they are compared with."""
    stack = dtype.itemsize * case.groups * case.count * case.patch**2
    sets = max(1, -(-CACHES * device.cache // stack))
    problems = [make_problem(case, dtype, seed, device.kind) for seed in range(1, sets + 1)]
    patches = [torch.empty_like(p.patches) for p in problems]
    canvases = [torch.empty_like(p.canvas) for p in problems]
    copy = device.microseconds(
        [lambda p=p, out=out: out.copy_(p.patches) for p, out in zip(problems, patches, strict=True)], repeats
    )
    plans: list[ptycho_ext.ScanPlan | None] = [None] * sets
    plan_us = None
    if case.groups == 1 and case.ops != ("translate",):
        size = (case.canvas, case.canvas)
        plans = [ptycho_ext.ScanPlan(p.positions, case.patch, size) for p in problems]
        make = torch.ops.ptycho.plan_tiles
        plan_us = device.microseconds([lambda: make(problems[0].positions, [case.patch] * 2, size)], 3, graph=False)
    rows = []
    for op in OPS if case.ops not in (("overlap",), ("translate",)) else case.ops:
        calls = [ours(op, *inputs) for inputs in zip(problems, plans, patches, canvases, strict=True)]
        us = device.microseconds(calls, repeats)
        row = {"case": case.name, "op": op, "dtype": str(dtype).removeprefix("torch."), "sets": sets}
        row |= {"ours_us": us, "copy_us": copy, "plan_us": plan_us, "index_add_us": None}
        row["share_of_copy"] = problems[0].bytes(op) / us / (2 * problems[0].patches.nbytes / copy)
        got = calls[-1]()
        row["error"] = check(op, problems[-1], plans[-1], got, patches[-1])
        if op == "adjoint" and 4 * problems[0].patches.numel() <= INDEXED:
            plain = [index_add(p, canvas) for p, canvas in zip(problems, canvases, strict=True)]
            row["index_add_us"] = device.microseconds(plain, 3, graph=False)
        rows.append(row)
        print(describe(row), flush=True)
    return rows


def describe(row: dict[str, Any]) -> str:
    text = (
        f"{row['case']:20} {row['op']:15} {row['dtype']:10} {row['ours_us']:10.1f} us, copy {row['copy_us']:10.1f}, "
        f"{100 * row['share_of_copy']:5.1f} % of its bandwidth, error {row['error']:.1e}"
    )
    return text + (f", index_add_ {row['index_add_us'] / row['ours_us']:.1f} times" if row["index_add_us"] else "")


def format_markdown(rows: Sequence[dict[str, Any]], device: Device) -> str:
    info = ptycho_ext.build_info()
    lines = [
        f"# {device.name}",
        "",
        f"{datetime.date.today().isoformat()}, torch {torch.__version__}, ptycho_ext {info['version']}, CUDA "
        f"{info['cuda']} for {info['cuda_architectures']}. Median microseconds; the columns are explained in "
        "../README.md.",
        "",
        "| case | op | dtype | ours | copy | share of the copy's bandwidth | index_add_ / ours | plan | error |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        peer = f"{r['index_add_us'] / r['ours_us']:.1f}" if r["index_add_us"] else ""
        plan = f"{r['plan_us']:.0f}" if r["plan_us"] else ""
        lines.append(
            f"| {r['case']} | {r['op']} | {r['dtype']} | {r['ours_us']:.1f} | {r['copy_us']:.1f} "
            f"| {100 * r['share_of_copy']:.0f} % | {peer} | {plan} | {r['error']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Benchmarks of ptycho_ext's CUDA operators beside a copy.")
    parser.add_argument("--case", action="append", choices=[*GPU_CASES, "tiny"], help="this case only; may be repeated")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for the tables; none are written without")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here.")
        return 2
    device, rows, whole = Device(options.device), [], True
    for name in options.case or GPU_CASES:
        for dtype in DTYPES:
            try:
                rows += measure(device, CASES[name] if name == "tiny" else GPU_CASES[name], dtype, options.repeats)
            except torch.cuda.OutOfMemoryError as error:
                whole = False
                print(f"{name} {dtype}: {str(error).splitlines()[0]}", flush=True)
            if device.kind == "cuda":
                torch.cuda.empty_cache()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
        file.with_suffix(".md").write_text(format_markdown(rows, device))
        with file.with_suffix(".csv").open("w", newline="") as sheet:
            writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    right = all(row["error"] < ERROR for row in rows)  # not a number is not right
    if not (whole and right):
        print("Some results are wrong, or some cases did not fit.")
    return 0 if whole and right else 1


if __name__ == "__main__":
    raise SystemExit(main())
