# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the block programs share: inputs, and comparisons with the CPU's operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from op_cases import REAL, data, uniform
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


#: Modes, whether all patterns have the same probe, and whether it is shifted.
STEP_CASES = [(1, True, False), (3, True, False), (2, False, False), (1, True, True), (2, True, True)]


def step_inputs(
    size: tuple[int, int],
    n: int,
    dtype: torch.dtype = torch.complex64,
    modes: int = 1,
    shared: bool = True,
    shifts: bool = False,
    groups: int = 0,
) -> tuple[Any, ...]:
    """Tensors of the raw operator, with everything that is optional; patches across the borders."""
    lead = (groups, n) if groups else (n,)
    canvas = data((*lead[:-1], size[0] + 40, size[1] + 31), dtype)
    positions = uniform((*lead, 2), 1) * torch.tensor([45.0, 35.0]) - 3
    counts = (20 * uniform((*lead, *size), 2)).round().to(torch.uint16)
    probe = data((modes, *size) if shared else (*lead, modes, *size), dtype, 3)
    scale, weights = (0.5 + uniform((2, *lead), 4)).to(REAL[dtype])
    moves = 2 * uniform((*lead, 2), 5) - 1 if shifts else None
    return (
        canvas,
        positions.floor() if shifts else positions,
        probe,
        counts,
        uniform(size, 6) > 0.2,
        scale,
        weights,
        moves,
    )


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())
