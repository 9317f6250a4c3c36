# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the block programs share: inputs, and comparisons with the CPU's operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from op_cases import data
from torch import Tensor

WIDE = (torch.float64, torch.complex128)
CPU = torch.ops.ptycho


def same(got: Any, want: Any) -> None:
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def same_position_gradients(
    blocks: Any, grads: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None = None
) -> None:
    """To rounding, of sums whose terms are at most |grads| times the canvas's largest value and may cancel."""
    got = blocks.extract_patches_grad_positions(grads, canvas, positions, order)
    want = CPU.extract_patches_grad_positions(grads, canvas, positions)
    terms = float(grads.abs().sum((-2, -1)).max() * canvas.abs().max())
    assert float((got - want).abs().max()) <= terms * (1e-15 if grads.dtype in WIDE else 3e-7)


def same_wave_sums(blocks: Any, op: str, *args: Any) -> None:
    """The shared probe, and the derivative by positions: to rounding of a sum of many terms."""
    got, want = getattr(blocks, op)(*args), getattr(CPU, op)(*args)
    largest = math.prod(
        float(a.abs().max()) if a.numel() else 0.0 for a in args if isinstance(a, Tensor) and a.ndim > 2
    )
    terms = max(1.0, largest) * args[0].numel()
    if got.numel():
        assert float((got - want).abs().max()) <= terms * (1e-15 if args[0].dtype in WIDE else 3e-7)


def shifted(shape: tuple[int, ...], dtype: torch.dtype, offset: int) -> Tensor:
    """Contiguous data that begin `offset` elements behind a boundary and end with the memory."""
    memory = data((offset + torch.Size(shape).numel(),), dtype)
    return memory[offset:].view(shape)


def scan(count: int, size: tuple[int, int], groups: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(groups, count, 2, dtype=torch.float64, generator=generator) * torch.tensor(size) - 9
