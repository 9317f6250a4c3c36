# SPDX-License-Identifier: BSD-3-Clause
"""Other methods for the operators' results, which gpu.py compares with ours and times.

Plain torch, compiled torch, and pty-chi's accumulation where it is installed. Data are real, (H W, 1), or the real and
imaginary parts, (H W, 2), because torch.compile does not generate code for complex tensors.
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
    """Another method: its calls, whether it needs integer positions, and whether it is captured in a graph."""

    make: Callable[[Sequence[Inputs], str], list[Call]]
    integer_positions: bool = False
    graph: bool = True
    note: str = ""


def lanes(t: Tensor) -> Tensor:
    """Real data with a last dimension of 1, or real and imaginary parts with one of 2."""
    return torch.view_as_real(t) if t.is_complex() else t.unsqueeze(-1)


def corners(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Flat index (n,) of each patch's first pixel, and the fractions (n, 1, 1, 1) along y and x."""
    first = p.positions.floor()
    fraction = (p.positions - first).to(p.patches.real.dtype)[:, :, None, None, None]
    first = first.long()
    return first[:, 0] * p.case.canvas + first[:, 1], fraction[:, 0], fraction[:, 1]


def pixel_index(first: Tensor, size: int, width: int) -> Tensor:
    """Flat indices (n, h, w) of the pixels of each patch."""
    steps = torch.arange(size, device=first.device)
    return first[:, None, None] + steps[:, None] * width + steps


def gather(flat: Tensor, first: Tensor, y: Tensor, x: Tensor, size: int, width: int, out: Tensor) -> Tensor:
    """Extraction in plain torch, to be compiled: four taps of ``flat`` (H W, 1 or 2) for every pixel."""
    index = pixel_index(first, size, width)
    top = (1 - x) * flat[index] + x * flat[index + 1]
    bottom = (1 - x) * flat[index + width] + x * flat[index + width + 1]
    return out.copy_((1 - y) * top + y * bottom)


def scatter(patches: Tensor, first: Tensor, y: Tensor, x: Tensor, size: int, width: int, out: Tensor) -> Tensor:
    """Adjoint in plain torch, to be compiled: four weighted copies are added to ``out`` (H W, 1 or 2)."""
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
    """Adjoint in plain torch: four weighted copies of the patches, added with an index that is made before."""

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
    """Deterministic kernel of ptychi.image_proc.place_patches_integer of pty-chi 2.2.

    It adds patches at integer positions to an image and returns a new one. The public function also computes the limits
    of the patches and synchronises with the device several times; only its kernel is timed.
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
        "pty-chi": Peer(ptychi_accumulate, integer_positions=True, note="integer positions for both"),
    },
}
