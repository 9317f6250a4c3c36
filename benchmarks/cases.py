# SPDX-License-Identifier: BSD-3-Clause
"""Problems of the benchmarks: a jittered raster of patches, in scan order, on one or many canvases.

Every patch and all its taps are inside its canvas, so methods in plain torch need no bounds checks, which favours them.
All data are seeded. run.py times the problems, peers.py solves them in plain torch, tests/test_benchmarks.py runs the
tiny one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

SCAN_OPS = ("extract", "adjoint", "reassemble", "grad_positions", "roundtrip")
GROUP_OPS = (*SCAN_OPS, "overlap")
WAVE_OPS = ("exit_waves", "exit_waves_adjoint", "exit_waves_adjoint_probe")
OPS = (*GROUP_OPS, "translate", *WAVE_OPS)
DTYPES = (torch.float32, torch.complex64)
MAX_SHIFT = 5.0


@dataclass(frozen=True)
class Case:
    """One problem: ``count`` square patches of ``patch`` pixels on each of ``groups`` canvases of ``canvas`` pixels.

    For the operator translate, ``count`` images of ``patch`` pixels; there is no canvas. ``modes``: of exit waves.
    """

    name: str
    count: int
    patch: int
    canvas: int
    groups: int = 1
    ops: tuple[str, ...] = SCAN_OPS
    modes: int = 2


CASES = {
    case.name: case
    for case in (
        Case("small-5000x64-1000", 5000, 64, 1000),
        Case("large-20000x64-4096", 20000, 64, 4096),
        Case("groups-512x4x64", 4, 64, 78, groups=512, ops=GROUP_OPS),
        Case("groups-512x9x64", 9, 64, 88, groups=512, ops=GROUP_OPS),
        Case("big-patches-1000x128-2048", 1000, 128, 2048),
        Case("translate-2048x64", 2048, 64, 64, ops=("translate",)),
        Case("waves-5000x1x64-1000", 5000, 64, 1000, ops=WAVE_OPS, modes=1),
        Case("waves-5000x3x64-1000", 5000, 64, 1000, ops=WAVE_OPS, modes=3),
        Case("waves-1089x1x64-1000", 1089, 64, 1000, ops=WAVE_OPS, modes=1),
        Case("waves-1089x3x64-1000", 1089, 64, 1000, ops=WAVE_OPS, modes=3),
        Case("tiny", 12, 8, 24, ops=OPS),
    )
}

GPU_CASES = {
    case.name: case
    for case in (
        Case("5000x64-1000", 5000, 64, 1000),
        Case("5000x128-2048", 5000, 128, 2048),
        Case("100000x64-8192", 100_000, 64, 8192),
        Case("100000x128-16384", 100_000, 128, 16384),
        Case("groups-2048x4x64", 4, 64, 78, groups=2048, ops=("overlap",)),
        Case("translate-100000x64", 100_000, 64, 64, ops=("translate",)),
        Case("waves-20000x1x64-4096", 20_000, 64, 4096, ops=WAVE_OPS, modes=1),
        Case("waves-20000x3x64-4096", 20_000, 64, 4096, ops=WAVE_OPS, modes=3),
    )
}


@dataclass(frozen=True)
class Problem:
    """A case's tensors. Leading dimensions: none for one canvas, (B,) for groups.

    ``canvas`` (..., H, W), ``positions`` (..., n, 2), ``patches``, also used as their gradient, (..., n, h, w),
    ``weights`` (h, w), ``grad_canvas`` (..., H, W), ``shifts`` (n, 2) for translate.
    """

    case: Case
    canvas: Tensor
    positions: Tensor
    patches: Tensor
    weights: Tensor
    grad_canvas: Tensor
    shifts: Tensor

    @cached_property
    def waves(self) -> Tensor:
        """Exit waves (..., n, M, h, w), made at the first use."""
        return self._normal(*self.positions.shape[:-1], self.case.modes, self.case.patch, self.case.patch)

    @cached_property
    def probe(self) -> Tensor:
        return self._normal(self.case.modes, self.case.patch, self.case.patch)

    def _normal(self, *shape: int) -> Tensor:
        generator = torch.Generator(self.canvas.device).manual_seed(2)
        return torch.randn(shape, dtype=self.canvas.dtype, generator=generator, device=self.canvas.device)

    @property
    def items(self) -> int:
        """Number of groups, or of patches where there is one canvas."""
        return self.case.groups if self.case.groups > 1 else self.case.count

    def part(self, items: int) -> Problem:
        """Problem of the first ``items`` groups or patches; the canvas of a scan keeps its size."""
        if items >= self.items:
            return self
        positions, patches = self.positions[:items], self.patches[:items]
        if self.case.groups > 1:
            case = replace(self.case, groups=items)
            canvas, grad_canvas = self.canvas[:items], self.grad_canvas[:items]
            return replace(
                self, case=case, canvas=canvas, positions=positions, patches=patches, grad_canvas=grad_canvas
            )
        case = replace(self.case, count=items)
        return replace(self, case=case, positions=positions, patches=patches, shifts=self.shifts[:items])

    def bytes(self, op: str) -> int:
        """Bytes that must be moved: every patch and every canvas once, for each pass over the patches."""
        if op in WAVE_OPS:
            return self.waves.nbytes + self.probe.nbytes + self.canvas.nbytes
        stack = self.patches.nbytes
        if op in ("translate", "overlap"):
            return 2 * stack
        passes = {"roundtrip": 4}.get(op, 1)
        return passes * (stack + self.canvas.nbytes)


def make_problem(case: Case, dtype: torch.dtype, seed: int = 1, device: str = "cpu") -> Problem:
    """Make the tensors of a case, with normally distributed data. Positions are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    data_generator = torch.Generator(device).manual_seed(seed) if device != "cpu" else generator
    lead = (case.groups,) if case.groups > 1 else ()
    canvas_shape = (*lead, case.canvas, case.canvas)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=data_generator, device=device)

    radius = torch.arange(case.patch, dtype=torch.float64) - (case.patch - 1) / 2
    profile = torch.exp(-((2.5 * radius / case.patch) ** 2)).to(torch.float32)
    uniform = torch.rand(case.count, 2, dtype=torch.float64, generator=generator)
    return Problem(
        case=case,
        canvas=normal(*canvas_shape),
        positions=raster(case, generator).to(device),
        patches=normal(*lead, case.count, case.patch, case.patch),
        weights=torch.outer(profile, profile).to(device),
        grad_canvas=normal(*canvas_shape),
        shifts=(MAX_SHIFT * (2 * uniform - 1)).to(device),
    )


def raster(case: Case, generator: torch.Generator) -> Tensor:
    """Positions (..., n, 2) of a raster over the canvas, row by row, each moved by up to a quarter of a step."""
    side = math.ceil(math.sqrt(case.count))
    extent = max(case.canvas - case.patch - 1e-3, 0.0)  # the last tap is at position + patch
    step = extent / side
    index = torch.arange(case.count)
    nodes = torch.stack([index.div(side, rounding_mode="floor"), index % side], -1) + 0.5
    lead = (case.groups,) if case.groups > 1 else ()
    jitter = torch.rand(*lead, case.count, 2, dtype=torch.float64, generator=generator) - 0.5
    return (step * (nodes + 0.5 * jitter)).clamp_(0.0, extent - 1e-3 if extent > 1e-3 else 0.0)
