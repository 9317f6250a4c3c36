# SPDX-License-Identifier: BSD-3-Clause
"""Other ways to the operators' results, which gpu.py compares with ours and times.

Plain torch, the same compiled, and pty-chi's accumulation where it is installed. Data are real lanes, (H W, 1) or
(H W, 2), as the compiler of torch.compile has no complex numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from cases import Problem
from gpu_ops import Call, Inputs
from torch import Tensor


@dataclass(frozen=True)
class Peer:
    """Another way to an operator's result: its calls, whether it needs whole pixels, and whether it is captured."""

    make: Callable[[Sequence[Inputs], str], list[Call]]
    whole_pixels: bool = False
    graph: bool = True
    note: str = ""


def lanes(t: Tensor) -> Tensor:
    """Real numbers with a last dimension of 1, or of 2 for complex data."""
    return torch.view_as_real(t) if t.is_complex() else t.unsqueeze(-1)


def corners(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The flat index of each patch's first pixel (n), and the fractions (n, 1, 1, 1) along y and x."""
    whole = p.positions.floor()
    fraction = (p.positions - whole).to(p.patches.real.dtype)[:, :, None, None, None]
    whole = whole.long()
    return whole[:, 0] * p.case.canvas + whole[:, 1], fraction[:, 0], fraction[:, 1]


def pixel_index(first: Tensor, size: int, width: int) -> Tensor:
    """The flat indices (n, h, w) of the pixels of each patch."""
    steps = torch.arange(size, device=first.device)
    return first[:, None, None] + steps[:, None] * width + steps


def gather(flat: Tensor, first: Tensor, y: Tensor, x: Tensor, size: int, width: int, out: Tensor) -> Tensor:
    """Extraction in plain torch, to be compiled: four taps of flat (H W, lanes) for every pixel."""
    index = pixel_index(first, size, width)
    top = (1 - x) * flat[index] + x * flat[index + 1]
    bottom = (1 - x) * flat[index + width] + x * flat[index + width + 1]
    return out.copy_((1 - y) * top + y * bottom)


def scatter(patches: Tensor, first: Tensor, y: Tensor, x: Tensor, size: int, width: int, out: Tensor) -> Tensor:
    """The adjoint in plain torch, to be compiled: four weighted copies are added to out (H W, lanes)."""
    index = pixel_index(first, size, width).flatten()
    out.zero_()
    for step, weight in ((0, (1 - y) * (1 - x)), (1, (1 - y) * x), (width, y * (1 - x)), (width + 1, y * x)):
        out.index_add_(0, index + step, (patches * weight).flatten(0, 2))
    return out


def compiled_gather(inputs: Sequence[Inputs], backend: str) -> list[Call]:
    torch.compiler.reset()
    compiled = torch.compile(gather, fullgraph=True, dynamic=False, backend=backend)

    def call(i: Inputs) -> Call:
        p = i.problem
        flat, taps, out = lanes(p.canvas).flatten(0, 1), corners(p), lanes(i.patches)
        return lambda: (compiled(flat, *taps, p.case.patch, p.case.canvas, out), i.patches)[1]

    return [call(i) for i in inputs]


def compiled_scatter(inputs: Sequence[Inputs], backend: str) -> list[Call]:
    torch.compiler.reset()
    compiled = torch.compile(scatter, fullgraph=True, dynamic=False, backend=backend)

    def call(i: Inputs) -> Call:
        p = i.problem
        patches, taps, out = lanes(p.patches), corners(p), lanes(i.canvas).flatten(0, 1)
        return lambda: (compiled(patches, *taps, p.case.patch, p.case.canvas, out), i.canvas)[1]

    return [call(i) for i in inputs]


def index_add(inputs: Sequence[Inputs], _: str) -> list[Call]:
    """The adjoint in plain torch: four weighted copies of the patches, added by an index that is ready-made."""

    def make(i: Inputs) -> Call:
        p, flat = i.problem, i.canvas.view(-1)
        first, y, x = corners(p)
        y, x, index = y.squeeze(-1), x.squeeze(-1), pixel_index(first, p.case.patch, p.case.canvas).flatten()
        steps = (0, 1, p.case.canvas, p.case.canvas + 1)
        weights = ((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x)

        def run() -> Tensor:
            flat.zero_()
            for step, weight in zip(steps, weights, strict=True):
                flat[step:].index_add_(0, index, (p.patches * weight).flatten())
            return i.canvas

        return run

    return [make(i) for i in inputs]


def ptychi_accumulate(inputs: Sequence[Inputs], _: str) -> list[Call]:
    """What pty-chi 2.2's ptychi.image_proc.place_patches_integer launches on a GPU, in its deterministic form.

    It adds whole-pixel patches to an image and returns a new one. The public function also looks for the patches'
    limits and waits for the device, several times; this is its kernel alone.
    """
    accumulate = importlib.import_module("ptychi.triton.patch_kernels").accumulate_patches

    def make(i: Inputs) -> Call:
        rows, cols = i.problem.positions.int().unbind(-1)
        rows, cols, empty = rows.contiguous(), cols.contiguous(), torch.zeros_like(i.canvas)
        return lambda: accumulate(empty, i.problem.patches, rows, cols, True)

    return [make(i) for i in inputs]


PEERS = {
    "extract": {"compiled gather": Peer(compiled_gather)},
    "adjoint": {
        "index_add_": Peer(index_add, graph=False),
        "compiled index_add_": Peer(compiled_scatter),
        "pty-chi": Peer(ptychi_accumulate, whole_pixels=True, note="whole-pixel positions on both sides"),
    },
}
