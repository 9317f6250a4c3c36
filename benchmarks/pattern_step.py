# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of pattern_step, compared with the chain of separate operators, in one run.

    python benchmarks/pattern_step.py                    # 64 and 128 px, 1 and 3 modes; writes results/
    python benchmarks/pattern_step.py --sizes 64 256 --patterns 500 --json rows.json

The chain is what one wrote before: exit waves, Fourier transform, correct_fields in place, inverse transform, and the
adjoints to canvas, probe and positions, each with the plan of the scan. "chain" has the stack of all patterns at once,
"best" batches of neighbouring patterns in the size that is quickest here. With ``--subpixel fourier`` the probe is
shifted by phase ramps, as in refinement, which takes two more transforms of every mode. All are timed in turn, and the
medians are reported; compare ratios in a row. Arrays of the stack come new from the system in every call, as in any
program, which can be a third of the chain's time; ``--keep-memory`` lets the process keep them, as in run.py. Bytes are
those that must pass the caches: of the chain, every array of the stack each time it is read or written; of the step,
the counts, and the canvas and its correction once. "LSQML" is that of pty-chi, where it is installed (refine_peer.py):
an epoch of compact batches of 100 over a quarter of the patterns, which also updates object and probe.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import MEMORY, RESULTS, hardware, milliseconds
from torch import Tensor

import ptycho_ext
from ptycho_ext import (
    ScanPlan,
    correct_fields,
    exit_waves,
    exit_waves_adjoint,
    exit_waves_adjoint_probe,
    pattern_step,
)
from ptychopinn import simulate

BACKGROUND = 0.1
BATCHES = {"cpu": (16, 32, 48, 64, 128), "cuda": (128, 512, 2048)}
COLUMNS = (
    "size", "modes", "likelihood", "subpixel", "patterns", "threads", "ours_ms", "values_ms", "chain_ms",
    "chain_best_ms", "best_batch", "chain_over_ours", "best_over_ours", "ours_per_second", "ours_us", "ours_bytes",
    "chain_bytes", "peer_us", "error", "rounds",
)  # fmt: skip


@dataclass
class Scan:
    """Patterns of a raster scan on a canvas: positions (n, 2), probe (M, N, N), counts (n, N, N), scale (n,)."""

    canvas: Tensor
    positions: Tensor
    probe: Tensor
    counts: Tensor
    scale: Tensor
    loss: str
    subpixel: str

    @property
    def anchors(self) -> Tensor:
        """Where patches are cut."""
        return self.positions.round() if self.subpixel == "fourier" else self.positions

    @property
    def shifts(self) -> Tensor | None:
        return self.positions - self.anchors if self.subpixel == "fourier" else None


def make_scan(size: int, modes: int, patterns: int, loss: str, subpixel: str, device: str = "cpu") -> Scan:
    """A raster scan with steps of 0.15 patches and jitter of a pixel."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    side = math.ceil(patterns**0.5)
    grid = np.stack(np.divmod(np.arange(patterns), side), 1) * 0.15 * size
    positions = torch.from_numpy(grid + random.uniform(0, 1, (patterns, 2)))
    extent = int(positions.max()) + size + 3
    probe = torch.randn(modes, size, size, dtype=torch.complex64, generator=generator)
    canvas = 1 + 0.1 * torch.randn(extent, extent, dtype=torch.complex64, generator=generator)
    counts = torch.poisson(torch.full((patterns, size, size), 2.0 * modes), generator=generator).to(torch.uint16)
    scale = 1 + 0.01 * torch.rand(patterns, generator=generator)
    return Scan(*(t.to(device) for t in (canvas, positions, probe, counts, scale)), loss, subpixel)


def ours(scan: Scan, corrections: bool = True) -> tuple[Tensor | None, ...]:
    return pattern_step(
        scan.canvas, scan.anchors, scan.probe, scan.counts, scale=scan.scale, shifts=scan.shifts, loss=scan.loss,
        background=BACKGROUND, to_canvas=corrections, to_probe=corrections, to_positions=corrections,
    )  # fmt: skip


class Batch:
    """Patterns [begin, end) of a scan and the part of the canvas that they cover, with the plan of their patches."""

    def __init__(self, scan: Scan, begin: int, end: int) -> None:
        self.scan, self.rows = scan, slice(begin, end)
        size, anchors = scan.probe.shape[-1], scan.anchors[self.rows]
        first, last = anchors.amin(0).floor(), anchors.amax(0).ceil() + size + 1
        self.corner, self.positions = [int(v) for v in first], anchors - first
        self.shape = tuple(int(v) for v in last - first)
        self.plan = ScanPlan(self.positions, size, self.shape)
        self.factors = scan.scale[self.rows] / size**2
        if scan.shifts is not None:
            self.frequencies = 2 * math.pi * torch.fft.fftfreq(size, device=anchors.device)
            self.spectrum = torch.fft.fft2(scan.probe, norm="forward")

    def step(self) -> tuple[Tensor, ...]:
        """Values, and corrections of the part of the canvas, the probe and the positions."""
        scan, (top, left), (height, width) = self.scan, self.corner, self.shape
        canvas = scan.canvas[top : top + height, left : left + width].contiguous()
        probes = scan.probe
        if scan.shifts is not None:
            phases = -scan.shifts[self.rows, :, None].float() * self.frequencies
            rows, columns = torch.polar(torch.ones_like(phases), phases).unbind(1)
            ramps = (rows[:, :, None] * columns[:, None, :]).unsqueeze(1)
            spectra = self.spectrum * ramps
            probes = torch.fft.ifft2(spectra, norm="forward")
        fields = torch.fft.fft2(exit_waves(canvas, self.positions, probes, plan=self.plan))
        correction, values, _ = correct_fields(
            fields, scan.counts[self.rows], scale=self.factors, loss=scan.loss, background=BACKGROUND, out=fields
        )
        waves = torch.fft.ifft2(correction, norm="forward")
        by_canvas = exit_waves_adjoint(waves, self.positions, probes, self.shape, plan=self.plan)
        if scan.shifts is None:
            by_probe = exit_waves_adjoint_probe(waves, canvas, self.positions, plan=self.plan)
            gradient = torch.ops.ptycho.exit_waves_grad_positions
            return values, by_canvas, by_probe, gradient(waves, canvas, self.positions, probes, self.plan.order)
        products = exit_waves_adjoint_probe(waves, canvas, self.positions, plan=self.plan, shared=False)
        by_spectra = torch.fft.fft2(products).conj_physical_()
        overlap = (by_spectra * spectra).imag.sum(1)
        along = [overlap.sum(axis) @ self.frequencies for axis in (2, 1)]
        by_probe = torch.fft.ifft2(by_spectra.mul_(ramps).sum(0).conj_physical_())
        return values, by_canvas, by_probe, torch.stack(along, 1).double()


def chain(scan: Scan, size: int) -> Callable[[], list[tuple[Tensor, ...]]]:
    """The separate operators in batches of ``size`` patterns."""
    n = len(scan.positions)
    batches = [Batch(scan, begin, min(begin + size, n)) for begin in range(0, n, size)]

    def run() -> list[tuple[Tensor, ...]]:
        results = []
        total, by_probe = torch.zeros_like(scan.canvas), torch.zeros_like(scan.probe)
        for batch in batches:
            values, by_canvas, probe, positions = batch.step()
            top, left = batch.corner
            total[top : top + batch.shape[0], left : left + batch.shape[1]].add_(by_canvas)
            by_probe += probe
            results.append((values, positions))
        return [(torch.cat([r[0] for r in results]), total, by_probe, torch.cat([r[1] for r in results]))]

    return run


def bytes_of(scan: Scan) -> tuple[int, int]:
    """Bytes that pass the caches in the step, and in the chain over the whole stack."""
    n, size = scan.counts.shape[:2]
    modes, counts = len(scan.probe), scan.counts.nbytes
    stack, canvas = 8 * n * modes * size**2, scan.canvas.nbytes
    # exit waves w; two transforms rw each (four, and two products, with shifts); correction rw; adjoints r r r
    passes = 1 + 2 * 2 + 2 + 3
    if scan.subpixel == "fourier":
        passes += 2 * 2 + 2 * 2 + 4
    return counts + 2 * canvas, counts + passes * stack


def elapsed(call: Callable[[], Any]) -> float:
    """Milliseconds, until a device has finished."""
    if not torch.cuda.is_available():
        return milliseconds(call)
    torch.cuda.synchronize()
    return milliseconds(lambda: (call(), torch.cuda.synchronize()))


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def measure(scan: Scan, repeats: int) -> dict[str, Any]:
    n = len(scan.positions)
    batches = {size: chain(scan, size) for size in BATCHES[scan.canvas.device.type] if size < n}
    quickest = {size: min(elapsed(call) for _ in range(2)) for size, call in batches.items()}
    best = min(quickest, key=quickest.__getitem__)
    variants: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(scan),
        "values": lambda: ours(scan, False),
        "chain": chain(scan, n),
        "chain_best": batches[best],
    }
    step, (reference,) = ours(scan), variants["chain"]()
    error = max(
        relative(one, other) for one, other in zip((step[0], *step[2:]), reference, strict=True) if one is not None
    )
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            times[name].append(elapsed(call))
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    ours_bytes, chain_bytes = bytes_of(scan)
    return {
        "size": scan.probe.shape[-1],
        "modes": len(scan.probe),
        "likelihood": scan.loss,
        "subpixel": scan.subpixel,
        "patterns": n,
        "threads": torch.get_num_threads(),
        **medians,
        "best_batch": best,
        "chain_over_ours": medians["chain_ms"] / medians["ours_ms"],
        "best_over_ours": medians["chain_best_ms"] / medians["ours_ms"],
        "ours_per_second": 1e3 * n / medians["ours_ms"],
        "ours_us": 1e3 * medians["ours_ms"] / n,
        "ours_bytes": ours_bytes,
        "chain_bytes": chain_bytes,
        "error": error,
        "rounds": repeats,
    }


def peer_us(size: int, modes: int, patterns: int) -> float | None:
    """Microseconds of a pattern in an epoch of LSQML of pty-chi, which updates object and probe too."""
    import refine_peer

    if not refine_peer.installed():
        return None
    scan = simulate("photos", "defocused", patterns=patterns, size=size, modes=modes, seed=1)
    ends = [time.perf_counter() for _ in refine_peer.lsqml(scan, refine_peer.SETTINGS[1], 4)]
    return 1e6 * min(after - before for before, after in itertools.pairwise(ends)) / scan.n


def write(rows: Sequence[dict[str, Any]], load: float) -> None:
    name, words = hardware()
    with (RESULTS / f"{name}-pattern-step.csv").open("w", newline="") as sheet:
        writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    level = ptycho_ext.simd_level()["operators"]
    lines = [
        f"# pattern_step: {words}, {rows[0]['threads']} threads",
        "",
        f"{datetime.date.today().isoformat()}, torch {torch.__version__}, ptycho_ext {ptycho_ext.__version__} "
        f"({level}), load average {load:.1f} at the start. complex64; median microseconds of a pattern; explained in "
        "../pattern_step.py.",
        "",
        "| size | modes | likelihood | sub-pixel | patterns | ours | values only | chain | best batch | chain / ours "
        "| best / ours | patterns/s | LSQML |",
        "|---:|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        us = {key: 1e3 * r[f"{key}_ms"] / r["patterns"] for key in ("ours", "values", "chain", "chain_best")}
        lines.append(
            f"| {r['size']} | {r['modes']} | {r['likelihood']} | {r['subpixel']} | {r['patterns']} | {us['ours']:.1f} "
            f"| {us['values']:.1f} | {us['chain']:.1f} | {us['chain_best']:.1f} ({r['best_batch']}) "
            f"| {r['chain_over_ours']:.1f} | {r['best_over_ours']:.1f} | {r['ours_per_second']:,.0f} "
            f"| {'' if r['peer_us'] is None else format(r['peer_us'], ',.0f')} |"
        )
    (RESULTS / f"{name}-pattern-step.md").write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Benchmark of pattern_step beside the chain of separate operators.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--modes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--patterns", type=int, default=2000, help="of 256 px a quarter")
    parser.add_argument("--likelihood", nargs="+", default=["poisson"], choices=["poisson", "amplitude"])
    parser.add_argument("--subpixel", nargs="+", default=["bilinear", "fourier"], choices=["bilinear", "fourier"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory in the process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, and no tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load, rows = os.getloadavg()[0], []
    for size in options.sizes:
        for modes in options.modes:
            peer = peer_us(size, modes, options.patterns // 4) if options.device == "cpu" else None
            for loss in options.likelihood:
                for subpixel in options.subpixel:
                    patterns = options.patterns if size < 256 else options.patterns // 4
                    with torch.no_grad():
                        scan = make_scan(size, modes, patterns, loss, subpixel, options.device)
                        row = measure(scan, options.repeats)
                    row["peer_us"] = peer if options.device == "cpu" else None
                    rows.append(row)
                    print(
                        f"{size:3} px, {modes} modes, {loss}, {subpixel:8}: ours {row['ours_us']:6.1f} us a pattern, "
                        f"chain {row['chain_over_ours']:.1f} times, best batch ({row['best_batch']}) "
                        f"{row['best_over_ours']:.1f} times; largest difference {row['error']:.1e}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    else:
        write(rows, load)
    return 0


if __name__ == "__main__":
    if "--keep-memory" in sys.argv and any(name not in os.environ for name in MEMORY):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], MEMORY | os.environ)
    raise SystemExit(main())
