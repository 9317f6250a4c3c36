# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the operators of ptycho_ext, compared with the fastest method in plain torch and with a copy.

Copy, ours and the other method are timed in turn and medians are reported, because ratios within one run depend little
on machine and load. The process does not return memory to the system and uses huge pages where possible, so that all
methods use the same kind of memory. All methods in plain torch are first timed on a part of the problem; the two
fastest are run on the full problem, checked to 1e-4, and the faster one is timed. A run of all cases writes
results/<hardware>.csv and .md. See README.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cases import CASES, DTYPES, OPS, WAVE_OPS, Case, Problem, make_problem
from peers import WAYS
from torch import Tensor

import ptycho_ext
from ptycho_ext import ScanPlan

Call = Callable[[], Any]

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4  # of the largest value
SMALLEST = 64  # fewest groups or patches of the part on which a method is tried; otherwise an eighth of the problem
ROW_SECONDS = 4.0  # after which no further round begins, if three are done
TICKS = 0.05  # error of the system's processor times, in seconds
MEMORY = {  # keep freed memory in the process, and request huge pages for large tensors
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "THP_MEM_ALLOC_ENABLE": "1",
}
QUICK = ("small-5000x64-1000", "groups-512x4x64", "translate-2048x64")
COLUMNS = (
    "case", "op", "dtype", "threads", "ours_ms", "copy_ms", "best_torch_ms", "best_torch_name", "torch_over_ours",
    "ours_over_copy", "ours_gb_per_s", "plan_ms", "rounds", "other_cores",
)  # fmt: skip


def ours(op: str, problem: Problem, plan: ScanPlan | None) -> Call:
    """Make the call of ptycho_ext that other methods are compared with, in time and result."""
    p, size, canvas_size = problem, problem.case.patch, (problem.case.canvas, problem.case.canvas)
    planned: dict[str, Any] = {} if plan is None else {"plan": plan}

    def roundtrip() -> Tensor:
        canvas = p.canvas.detach().requires_grad_()
        patches = ptycho_ext.extract_patches(canvas, p.positions, size, **planned)
        image, _ = ptycho_ext.reassemble_patches(patches, p.positions, canvas_size, p.weights, **planned)
        return torch.autograd.grad(image, canvas, p.grad_canvas)[0]

    patches, canvas = torch.empty_like(p.patches), torch.empty_like(p.canvas)
    sums = (canvas, torch.empty_like(canvas.real))
    if op == "extract":
        return lambda: ptycho_ext.extract_patches(p.canvas, p.positions, size, **planned, out=patches)
    if op == "adjoint":
        return lambda: ptycho_ext.extract_patches_adjoint(p.patches, p.positions, canvas_size, **planned, out=canvas)
    if op == "grad_positions":
        positions = p.positions.detach().requires_grad_()
        extracted = ptycho_ext.extract_patches(p.canvas, positions, size, **planned)
        return lambda: torch.autograd.grad(extracted, positions, p.patches, retain_graph=True)[0]
    if op in WAVE_OPS:
        waves = torch.empty_like(p.waves) if op == "exit_waves" else p.waves
        probe = torch.empty_like(p.probe) if op == "exit_waves_adjoint_probe" else p.probe
        return {
            "exit_waves": lambda: ptycho_ext.exit_waves(p.canvas, p.positions, probe, **planned, out=waves),
            "exit_waves_adjoint": lambda: ptycho_ext.exit_waves_adjoint(
                waves, p.positions, probe, canvas_size, **planned, out=canvas
            ),
            "exit_waves_adjoint_probe": lambda: ptycho_ext.exit_waves_adjoint_probe(
                waves, p.canvas, p.positions, **planned, out=probe
            ),
        }[op]
    calls: dict[str, Call] = {
        "reassemble": lambda: ptycho_ext.reassemble_patches(
            p.patches, p.positions, canvas_size, p.weights, **planned, out=sums
        )[0],
        "roundtrip": roundtrip,
        "overlap": lambda: ptycho_ext.overlap_project(p.patches, p.positions, canvas_size, p.weights, out=patches),
        "translate": lambda: ptycho_ext.translate_images(p.patches, p.shifts, out=patches),
    }
    return calls[op]


def make_plan(op: str, problem: Problem) -> tuple[ScanPlan | None, float | None]:
    """Make the plan of a scan, where the operator has one; returns its time in ms, which is not part of a row."""
    if op in ("translate", "overlap"):
        return None, None
    side = problem.case.canvas
    start = time.perf_counter()
    plan = ScanPlan(problem.positions, problem.case.patch, (side, side))
    return plan, 1e3 * (time.perf_counter() - start)


def milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


class OtherProcesses:
    """Number of cores that other processes use from now on; 0 where the system does not report it."""

    def __init__(self) -> None:
        self._begin, self._busy = time.perf_counter(), self._elsewhere()

    def cores(self) -> float:
        elapsed = time.perf_counter() - self._begin
        return max(0.0, self._elsewhere() - self._busy - TICKS) / elapsed

    @staticmethod
    def _elsewhere() -> float:
        path = Path("/proc/stat")
        if not path.exists():
            return 0.0
        user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - time.process_time()


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def try_ways(op: str, problem: Problem) -> dict[str, dict[str, Any]]:
    """Time, scaled to the full problem, and error of every method, from the second of two runs on a part of it."""
    tried = {}
    wants: dict[int, Tensor] = {}
    for name, way in WAYS[op].items():
        items = way.items(problem) if way.items else max(SMALLEST, problem.items // 8)
        part = problem.part(items)
        if part.items not in wants:
            wants[part.items] = ours(op, part, make_plan(op, part)[0])()
        call = way.prepare(part)
        error = relative_error(call(), wants[part.items])
        ms = milliseconds(call) * problem.items / part.items
        tried[name] = {"ms": ms, "error": error, "estimated_from": part.items, "of": problem.items}
    return tried


def best_way(op: str, problem: Problem, tried: dict[str, dict[str, Any]]) -> tuple[str, Call]:
    """Faster one of the two fastest exact methods, both run and checked on the full problem."""
    want = ours(op, problem, make_plan(op, problem)[0])()
    exact = [name for name, t in tried.items() if t["error"] <= TOLERANCE and WAYS[op][name].items is None]
    calls = {}
    for name in sorted(exact, key=lambda name: tried[name]["ms"])[:2]:
        call = WAYS[op][name].prepare(problem)
        start = time.perf_counter()
        got = call()
        ms = 1e3 * (time.perf_counter() - start)
        error = relative_error(got, want)
        tried[name] = {"ms": ms, "error": error, "estimated_from": problem.items, "of": problem.items}
        if error <= TOLERANCE:
            calls[name] = call
    if not calls:
        raise RuntimeError(f"no method in plain torch agrees with ptycho_ext on {problem.case.name}, {op}")
    name = min(calls, key=lambda name: tried[name]["ms"])
    return name, calls[name]


def measure(case: Case, op: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Measure one row: medians of copy, ours and the other method, timed in turn."""
    problem = make_problem(case, dtype)
    choosing = OtherProcesses()
    tried = try_ways(op, problem)
    name, peer = best_way(op, problem, tried)
    beside_choice = choosing.cores()
    plan, plan_ms = make_plan(op, problem)
    stack = problem.waves if op in WAVE_OPS else problem.patches
    destination = stack.clone()
    variants: dict[str, Call] = {
        "copy_ms": lambda: destination.copy_(stack),
        "ours_ms": ours(op, problem, plan),
        "best_torch_ms": peer,
    }
    variants["ours_ms"]()
    times: dict[str, list[float]] = {key: [] for key in variants}
    begin, rounds = time.perf_counter(), OtherProcesses()
    for done in range(repeats):
        if done >= 3 and time.perf_counter() - begin > ROW_SECONDS:
            break
        for key, call in variants.items():
            times[key].append(milliseconds(call))
    row: dict[str, Any] = {
        "case": case.name,
        "op": op,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "best_torch_name": name,
        "plan_ms": plan_ms,
        "rounds": len(times["ours_ms"]),
        "other_cores": max(beside_choice, rounds.cores()),
    }
    row |= {key: statistics.median(values) for key, values in times.items()}
    row["torch_over_ours"] = row["best_torch_ms"] / row["ours_ms"]
    row["ours_over_copy"] = row["ours_ms"] / row["copy_ms"]
    row["ours_gb_per_s"] = problem.bytes(op) / row["ours_ms"] / 1e6
    row["fastest"] = {key: min(values) for key, values in times.items()}
    row["ways"] = tried
    return row


def hardware() -> tuple[str, str]:
    """Name of the processor, as (part of a file name, text)."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    model, cores = (found[1].strip() if found else "unknown processor"), len(os.sched_getaffinity(0))
    return re.sub(r"[^a-z0-9]+", "-", f"{model} {cores} cores".lower()).strip("-"), f"{model}, {cores} cores"


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def format_markdown(rows: Sequence[dict[str, Any]], load: float) -> str:
    """Format the table, and a list of the times of all methods in plain torch."""
    info = ptycho_ext.build_info()
    lines = [
        f"# {hardware()[1]}, {rows[0]['threads']} threads",
        "",
        f"{datetime.date.today().isoformat()}, torch {torch.__version__}, ptycho_ext {info['version']} "
        f"({ptycho_ext.simd_level()['operators']}), load average {load:.1f} at the start. Median milliseconds; the "
        "columns are explained in ../README.md.",
        "† other programs used the same cores while this row was measured: its ratios, and the choice of the "
        "fastest method, are not reliable.",
        "",
        "| case | op | dtype | ours | copy | best plain torch | torch / ours | ours / copy | GB/s |",
        "|---|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for r in rows:
        mark = " †" if disturbed(r) else ""
        lines.append(
            f"| {r['case']}{mark} | {r['op']} | {r['dtype']} | {r['ours_ms']:.4g} | {r['copy_ms']:.4g} "
            f"| {r['best_torch_ms']:.4g}, {r['best_torch_name']} "
            f"| {r['torch_over_ours']:.1f} | {r['ours_over_copy']:.2f} | {r['ours_gb_per_s']:.1f} |"
        )
    lines += [
        "",
        "## All methods in plain torch",
        "",
        "Milliseconds of one run, fastest first; ~ is an estimate from a part.",
        "",
    ]
    for r in rows:
        ways = sorted(r["ways"].items(), key=lambda item: item[1]["ms"])
        lines.append(f"- {r['case']}, {r['op']}, {r['dtype']}: " + "; ".join(describe(*way) for way in ways))
    return "\n".join(lines) + "\n"


def disturbed(row: dict[str, Any]) -> bool:
    """Whether other processes used the cores that the row was timed on."""
    return bool(row["threads"] + row["other_cores"] > len(os.sched_getaffinity(0)) + 0.2)


def describe(name: str, tried: dict[str, Any]) -> str:
    part, total = tried["estimated_from"], tried["of"]
    text = f"{name} {tried['ms']:.4g}" if part == total else f"{name} ~{tried['ms']:.3g} (from {part} of {total})"
    return text if tried["error"] <= TOLERANCE else f"{text} (inexact: {tried['error']:.0e})"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of ptycho_ext, compared with plain torch and a copy.")
    parser.add_argument("--case", action="append", choices=CASES, help="this case only; may be repeated")
    parser.add_argument("--op", action="append", choices=OPS, help="this operator only; may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="rounds of a row (7; 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} only, 3 rounds")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, and no tables")
    options = parser.parse_args(arguments)
    if options.threads < 1 or (options.repeats is not None and options.repeats < 1):
        parser.error("--threads and --repeats must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        for case in CASES.values():
            print(f"{case.name}: {', '.join(case.ops)}")
        return 0
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    all_cases = not (options.case or options.op or options.quick)
    names = options.case or (QUICK if options.quick else [name for name in CASES if name != "tiny"])
    rows = []
    for case in (CASES[name] for name in names):
        for op in (op for op in case.ops if not options.op or op in options.op):
            for dtype in DTYPES:
                row = measure(case, op, dtype, options.repeats or (3 if options.quick else 7))
                rows.append(row)
                print(
                    f"{row['case']:26} {op:15} {row['dtype']:10} ours {row['ours_ms']:9.3f} ms, "
                    f"copy {row['copy_ms']:8.3f}, "
                    f"torch {row['best_torch_ms']:9.3f} ({row['torch_over_ours']:.1f} times: {row['best_torch_name']})",
                    flush=True,
                )
    if not rows:
        print("No case has this operator; --list names them.")
        return 2
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    elif all_cases:
        RESULTS.mkdir(exist_ok=True)
        for suffix, text in ((".csv", format_csv(rows)), (".md", format_markdown(rows, load))):
            (RESULTS / f"{hardware()[0]}{suffix}").write_text(text)
    return 0


if __name__ == "__main__":
    if any(name not in os.environ for name in MEMORY):  # the variables are read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], MEMORY | os.environ)
    raise SystemExit(main())
