# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the CUDA operators, relative to the bandwidth of the GPU on the same data in the same run.

A time is the device time of a CUDA graph of one call per input set, replayed and measured with events; the sets exceed
the L2 cache several times. The operators use out= and a plan, which is timed separately. The ceiling is the faster of
copy_ and neg of the stack. Plain torch, compiled torch and pty-chi's accumulation are timed where available, and the
host time of a call. Rows are written to <folder>/<GPU>.csv and .md as they are measured. See README.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cases import CASES, DTYPES, GPU_CASES, WAVE_OPS, Case, Problem, make_problem
from gpu_ops import OPS, Call, Inputs
from gpu_peers import PEERS
from torch import Tensor

import ptycho_ext

Row = dict[str, Any]

COLUMNS = (
    "case", "op", "dtype", "way", "sets", "us", "ours_us", "bytes", "ceiling", "ceiling_us", "ceiling_tb_per_s",
    "share", "copy_us", "neg_us", "plan_us", "error", "note",
)  # fmt: skip
CACHES = 4  # times that the input sets exceed the L2 cache
ERROR = 1e-3  # relative, above which a result is wrong
TOLERANCE = 1e-4  # largest difference of another method that is timed, relative to the largest value
PEER_TAPS = 1 << 29  # largest number of taps for which other methods are timed
HOST_CASE = Case("host-16x64", 16, 64, 128)
HOST_CALLS = 50  # calls per measurement of the host time: fewer than the launch queue holds


class Device:
    """Device on which calls are timed, with events and graphs on a GPU; the CPU is for the tests of this script."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = torch.cuda.get_device_name() if kind == "cuda" else "CPU"
        self.cache = torch.cuda.get_device_properties(0).L2_cache_size if kind == "cuda" else 1 << 16

    def microseconds(self, calls: Sequence[Call], repeats: int, graph: bool = True) -> float:
        """Median time of one call in a sequence of calls."""
        if self.kind != "cuda":
            times = []
            for _ in range(repeats + 1):  # the first one warms up
                start = time.perf_counter()
                for call in calls:
                    call()
                times.append(time.perf_counter() - start)
            return 1e6 * statistics.median(times[1:]) / len(calls)
        run = self._captured(calls) if graph else lambda: [call() for call in calls]
        run()
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for begin, end in events:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return 1e3 * statistics.median(begin.elapsed_time(end) for begin, end in events) / len(calls)

    def host_microseconds(self, call: Call, repeats: int) -> float:
        """Median host time of one call, from an idle device and without synchronisation."""
        times = []
        for _ in range(repeats + 1):  # the first one warms up
            if self.kind == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(HOST_CALLS):
                call()
            times.append(time.perf_counter() - start)
        return 1e6 * statistics.median(times[1:]) / HOST_CALLS

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


class Ceiling(NamedTuple):
    """Time of reading and writing a stack, in microseconds: the shorter of copy_ and neg."""

    copy_us: float
    neg_us: float
    stack: int  # bytes

    @property
    def name(self) -> str:
        return "copy" if self.copy_us <= self.neg_us else "neg"

    @property
    def us(self) -> float:
        return min(self.copy_us, self.neg_us)

    @property
    def bytes_per_us(self) -> float:
        return 2 * self.stack / self.us

    def columns(self, moved: int, us: float) -> Row:
        """Columns of an operator that moves `moved` bytes in `us` microseconds."""
        return {
            "us": us,
            "bytes": moved,
            "ceiling": self.name,
            "ceiling_us": self.us,
            "ceiling_tb_per_s": self.bytes_per_us / 1e6,
            "share": (moved / self.bytes_per_us) / us,
            "copy_us": self.copy_us,
            "neg_us": self.neg_us,
        }


def check(op: str, p: Problem, plan: ptycho_ext.ScanPlan | None, got: Tensor, patches: Tensor) -> float:
    """Relative error of a result; ``patches`` is temporary memory.

    A sum of patches onto a canvas is checked with the transpose: <canvas, sum> = <extract(canvas), patches> for a
    canvas of noise, relative to the standard deviation of the product. Exit waves and their adjoints are compared with
    the separate operators. Other results are compared with the CPU on the first 8 patches or groups.
    """
    if op in WAVE_OPS:
        want = separate_waves(op, p, plan)
        return float((got - want).abs().max() / want.abs().max())
    if op in ("adjoint", "reassemble"):
        weights = p.weights if op == "reassemble" else None
        if op == "reassemble":  # the sum from the mean
            got = got * ptycho_ext.extract_patches_adjoint(
                p.weights.expand(p.patches.shape), p.positions, (p.case.canvas,) * 2, plan=plan
            )
        ptycho_ext.extract_patches(p.canvas, p.positions, p.case.patch, plan=plan, out=patches)
        products = real_products(patches, p.patches, weights)
        difference = sum(real_products(p.canvas[None], got[None])) - sum(products)
        return abs(difference) / math.sqrt(sum(product**2 for product in products))
    head = p if op == "overlap" and p.case.groups == 1 else p.part(8)
    host = Problem(p.case, *(getattr(head, name).cpu() for name in ("canvas", "positions", "patches", "weights")),
                   p.grad_canvas[:0].cpu(), head.shifts.cpu())  # fmt: skip
    want = OPS[op].make(Inputs(host, None, torch.empty_like(host.patches), torch.empty_like(host.canvas)))()
    return float((got[: len(want)].cpu() - want).abs().max() / want.abs().max())


def separate_waves(op: str, p: Problem, plan: ptycho_ext.ScanPlan | None) -> Tensor:
    """Exit waves, or one of their adjoints, from extraction, product and sum."""
    if op == "exit_waves_adjoint":
        products = (p.waves * p.probe.conj()).sum(-3)
        return ptycho_ext.extract_patches_adjoint(products, p.positions, (p.case.canvas,) * 2, plan=plan)
    patches = ptycho_ext.extract_patches(p.canvas, p.positions, p.case.patch, plan=plan).unsqueeze(-3)
    return patches * p.probe if op == "exit_waves" else (patches.conj() * p.waves).flatten(0, -4).sum(0)


def real_products(a: Tensor, b: Tensor, weights: Tensor | None = None, few: int = 256) -> list[float]:
    """Re <a, b * weights> in double for blocks of `few` images, which limits the workspace to 2 GB."""
    lanes = [torch.view_as_real(t) if t.is_complex() else t.unsqueeze(-1) for t in (a, b)]
    factor = 1 if weights is None else weights.unsqueeze(-1)
    parts = zip(lanes[0].split(few), lanes[1].split(few), strict=True)
    return [float((x * y * factor).sum(dtype=torch.float64)) for x, y in parts]


def make_inputs(device: Device, case: Case, dtype: torch.dtype, integer_positions: bool = False) -> list[Inputs]:
    """Make the input sets of a case, with plans where there is one canvas."""
    stack = dtype.itemsize * case.groups * case.count * case.patch**2
    inputs = []
    for seed in range(1, max(1, -(-CACHES * device.cache // stack)) + 1):
        p = make_problem(case, dtype, seed, device.kind)
        if integer_positions:
            p = replace(p, positions=p.positions.floor())
        planned = case.groups == 1 and case.ops != ("translate",)
        plan = ptycho_ext.ScanPlan(p.positions, case.patch, (case.canvas,) * 2) if planned else None
        inputs.append(Inputs(p, plan, torch.empty_like(p.patches), torch.empty_like(p.canvas)))
    return inputs


def measure(device: Device, case: Case, dtype: torch.dtype, repeats: int) -> Iterator[Row]:
    """Rows of a case: all its operators, and the ceiling of its stack."""
    inputs = make_inputs(device, case, dtype)
    last = inputs[-1]
    ceiling = Ceiling(
        device.microseconds([lambda i=i: i.patches.copy_(i.problem.patches) for i in inputs], repeats),
        device.microseconds([lambda i=i: torch.neg(i.problem.patches, out=i.patches) for i in inputs], repeats),
        last.problem.patches.nbytes,
    )
    plan_us = None
    if last.plan is not None:
        arguments = inputs[0].problem.positions, [case.patch] * 2, [case.canvas] * 2
        plan_us = device.microseconds([lambda: torch.ops.ptycho.plan_tiles(*arguments)], 3, graph=False)
    for name in [name for name in OPS if name in case.ops]:
        calls = [OPS[name].make(i) for i in inputs]
        us = device.microseconds(calls, repeats)
        row = {"case": case.name, "op": name, "dtype": short(dtype), "way": "ours", "sets": len(inputs)}
        row |= ceiling.columns(OPS[name].bytes(last.problem), us)
        yield row | {"plan_us": plan_us, "error": check(name, last.problem, last.plan, calls[-1](), last.patches)}


def measure_peers(device: Device, case: Case, dtype: torch.dtype, repeats: int, backend: str) -> Iterator[Row]:
    """Rows of the other methods of a case. Each result is compared with ours first; both are timed."""
    for name, peers in PEERS.items():
        for way, peer in peers.items():
            if name not in case.ops:
                continue
            row: Row = {"case": case.name, "op": name, "dtype": short(dtype), "way": way, "note": peer.note}
            try:
                inputs = make_inputs(device, case, dtype, peer.integer_positions)
                calls, want = peer.make(inputs, backend), OPS[name].make(inputs[-1])().clone()
                got = calls[-1]()
                row["error"] = float((got - want).abs().max() / want.abs().max())
                if not row["error"] <= TOLERANCE:
                    raise ArithmeticError(f"its result differs from ours by {row['error']:.1e} of the largest value")
                row["us"] = device.microseconds(calls, repeats, graph=peer.graph)
                row["ours_us"] = device.microseconds([OPS[name].make(i) for i in inputs], repeats)
                row["sets"] = len(inputs)
            except Exception as error:  # a method that is not available or fails is reported and not timed
                row["note"] = f"n/a: {one_line(error)}"
            yield row


def measure_host(device: Device, repeats: int) -> Iterator[Row]:
    """Rows of the host time of a call: public functions, raw operators, and two functions of torch for comparison."""
    p = make_problem(HOST_CASE, torch.complex64, device=device.kind)
    size, canvas_size = [HOST_CASE.patch] * 2, [HOST_CASE.canvas] * 2
    canvas = p.canvas.clone().requires_grad_()
    raw, seed = torch.ops.ptycho, torch.ones_like(p.patches)
    calls: dict[tuple[str, str], Call] = {
        ("extract", "public"): lambda: ptycho_ext.extract_patches(p.canvas, p.positions, HOST_CASE.patch),
        ("extract", "torch.ops"): lambda: raw.extract_patches(p.canvas, p.positions, size),
        ("adjoint", "public"): lambda: ptycho_ext.extract_patches_adjoint(p.patches, p.positions, canvas_size),
        ("adjoint", "torch.ops"): lambda: raw.extract_patches_adjoint(p.patches, p.positions, canvas_size),
        ("reassemble", "public"): lambda: ptycho_ext.reassemble_patches(p.patches, p.positions, canvas_size, p.weights),
        ("reassemble", "torch.ops"): lambda: raw.reassemble_patches(p.patches, p.positions, p.weights, canvas_size),
        ("translate", "public"): lambda: ptycho_ext.translate_images(p.patches, p.shifts),
        ("translate", "torch.ops"): lambda: raw.translate_images(p.patches, p.shifts, "bilinear"),
        ("extract and backward", "public"): lambda: torch.autograd.grad(
            ptycho_ext.extract_patches(canvas, p.positions, HOST_CASE.patch), canvas, seed
        ),
        ("q * q", "torch"): lambda: p.patches * p.patches,
        ("fft2", "torch"): lambda: torch.fft.fft2(p.patches),
    }
    for (name, way), call in calls.items():
        row: Row = {"case": HOST_CASE.name, "op": name, "dtype": "complex64", "way": f"host, {way}"}
        try:
            row["us"] = device.host_microseconds(call, repeats)
        except Exception as error:  # so that a changed signature does not stop the other rows
            row["note"] = f"n/a: {one_line(error)}"
        yield row


def measure_memset(device: Device, repeats: int) -> Row:
    """What setting 32 bytes to zero takes on the device, again and again: a sum with a given plan begins with it."""
    counters = torch.empty(4, dtype=torch.int64, device=device.kind)
    us = device.microseconds([counters.zero_] * 64, repeats)
    return {"case": "memset-32", "op": "zero_", "dtype": "int64", "way": "memset, torch", "us": us}


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def one_line(error: Exception) -> str:
    """Type and first line of an error, without characters that break a table."""
    text = (str(error).strip().splitlines() or [""])[0].replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


def describe(row: Row) -> str:
    text = f"{row['case']:20} {row['op']:20} {row['dtype']:10} {row['way']:20}"
    if row.get("us") is not None:
        text += f" {row['us']:10.1f} us"
    if row.get("share") is not None:
        text += f", {100 * row['share']:5.1f} % of {row['ceiling_tb_per_s']:.2f} TB/s ({row['ceiling']})"
    if row.get("ours_us") is not None:
        text += f", {row['us'] / row['ours_us']:.1f} times ours"
    if row.get("error") is not None:
        text += f", error {row['error']:.1e}"
    return text + (f", {row['note']}" if row.get("note") else "")


MARKDOWN = (
    "| case | op | dtype | way | us | times ours | must move, MB | ceiling, us | TB/s | by | share | plan, us | error "
    "| note |",
    "|---|---|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---|",
)


def format_row(row: Row) -> str:
    """Format a row of the Markdown table; values that were not measured are empty."""

    def cell(value: float | None, form: str, scale: float = 1) -> str:
        return "" if value is None else format(value * scale, form)

    times = row["us"] / row["ours_us"] if row.get("ours_us") else None
    cells = [row["case"], row["op"], row["dtype"], row["way"], cell(row.get("us"), ".1f"), cell(times, ".1f")]
    cells += [cell(row.get("bytes"), ".1f", 1e-6), cell(row.get("ceiling_us"), ".1f")]
    cells += [cell(row.get("ceiling_tb_per_s"), ".2f"), row.get("ceiling") or "", cell(row.get("share"), ".0%")]
    cells += [cell(row.get("plan_us"), ".0f"), cell(row.get("error"), ".0e"), row.get("note") or ""]
    return f"| {' | '.join(cells)} |\n"


class Table:
    """The table of a run, in <folder>/<GPU>.csv and .md: every row is written when it is measured."""

    def __init__(self, folder: Path | None, device: Device) -> None:
        self.rows: list[Row] = []
        self.file = folder and folder / re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.with_suffix(".csv").open("w", newline="") as sheet:
                csv.writer(sheet, lineterminator="\n").writerow(COLUMNS)
            info = ptycho_ext.build_info()
            self.file.with_suffix(".md").write_text(
                f"# {device.name}\n\n{datetime.date.today().isoformat()}, torch {torch.__version__}, ptycho_ext "
                f"{info['version']}, CUDA {info['cuda']} for {info['cuda_architectures']}. Median microseconds; the "
                "columns are explained in ../README.md.\n\n" + "\n".join(MARKDOWN) + "\n"
            )

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(describe(row), flush=True)
        if self.file:
            with self.file.with_suffix(".csv").open("a", newline="") as sheet:
                writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
                writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
            with self.file.with_suffix(".md").open("a") as page:
                page.write(format_row(row))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Benchmarks of ptycho_ext's CUDA operators.")
    parser.add_argument("--case", action="append", choices=[*GPU_CASES, "tiny"], help="this case only; may be repeated")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for the tables; default: none are written")
    parser.add_argument("--backend", default="inductor", help="of torch.compile, for the compiled methods")
    parser.add_argument("--no-peers", action="store_true", help="our operators only, without the other methods")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here.")
        return 2
    device, complete = Device(options.device), True
    table = Table(options.out, device)
    cases = [CASES[name] if name == "tiny" else GPU_CASES[name] for name in options.case or GPU_CASES]
    pairs = [(case, dtype) for case in cases for dtype in DTYPES]
    for case, dtype in pairs:
        try:
            for row in measure(device, case, dtype, options.repeats):
                table.add(row)
        except torch.cuda.OutOfMemoryError as error:
            complete = False
            print(f"{case.name} {dtype}: {one_line(error)}", flush=True)
        if device.kind == "cuda":
            torch.cuda.empty_cache()
    for row in measure_host(device, min(options.repeats, 7)):
        table.add(row)
    table.add(measure_memset(device, options.repeats))
    for case, dtype in [] if options.no_peers else pairs:  # last, because they take the longest
        if case.groups == 1 and 4 * case.count * case.patch**2 <= PEER_TAPS:
            for row in measure_peers(device, case, dtype, 3, options.backend):
                table.add(row)
                if device.kind == "cuda":
                    torch.cuda.empty_cache()
    correct = all(row["error"] < ERROR for row in table.rows if row["way"] == "ours")  # False for NaN
    if not (complete and correct):
        print("Some results are wrong, or some cases did not fit.")
    return 0 if complete and correct else 1


if __name__ == "__main__":
    raise SystemExit(main())
