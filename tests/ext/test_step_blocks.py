# SPDX-License-Identifier: BSD-3-Clause
"""pattern_step on CUDA without a GPU: its sources, with blocks run on the CPU (tests/native), against the CPU's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from block_cases import CPU, STEP_CASES, close, same, step_inputs


@pytest.mark.parametrize("size", [(5, 6), (16, 20), (30, 27), (64, 64), (72, 64)])
@pytest.mark.parametrize(("modes", "shared", "shifts"), STEP_CASES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_patterns_take_a_step_with_the_bits_of_the_cpu(
    blocks: Any, dtype: torch.dtype, modes: int, shared: bool, shifts: bool, size: tuple[int, int]
) -> None:
    """Transforms, likelihood and corrections of one pattern; only sums over patterns have another order."""
    tolerance = 1e-6 if dtype is torch.complex64 else 1e-14
    for n, loss in ((1, "amplitude"), (9, "poisson"), (40, "poisson")):
        inputs = (*step_inputs(size, n, dtype, modes, shared, shifts), loss, 0.1)
        got, want = blocks.pattern_step(*inputs), CPU.pattern_step(*inputs)
        same(got[:2], want[:2])
        if n == 1:
            same(got[2:4], want[2:4])
        elif not shared:
            same(got[3], want[3])
        for one, other in zip(got[2:], want[2:], strict=True):
            close(one, other, tolerance)


@pytest.mark.parametrize(
    ("size", "n"), [((96, 128), 3), ((128, 96), 1), ((256, 256), 2), ((243, 250), 1), ((5, 240), 2)]
)
@pytest.mark.parametrize(("modes", "shifts"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_images_that_are_larger_than_shared_memory(
    blocks: Any, dtype: torch.dtype, modes: int, shifts: bool, size: tuple[int, int], n: int
) -> None:
    """They are in global memory; the same bits."""
    inputs = (*step_inputs(size, n, dtype, modes, shifts=shifts), "poisson", 0.1)
    got, want = blocks.pattern_step(*inputs), CPU.pattern_step(*inputs)
    same(got[:2], want[:2])
    if n == 1:
        same(got[2:4], want[2:4])
    for one, other in zip(got[2:], want[2:], strict=True):
        close(one, other, 1e-6 if dtype is torch.complex64 else 1e-14)


@pytest.mark.parametrize("shifts", [False, True])
def test_corrections_that_are_not_asked_for(blocks: Any, shifts: bool) -> None:
    inputs = (*step_inputs((12, 10), 9, modes=2, shifts=shifts), "poisson", 0.1)
    full = blocks.pattern_step(*inputs)
    for wanted in itertools.product((True, False), repeat=3):
        got = blocks.pattern_step(*inputs, *wanted)
        same(got[:2], full[:2])
        for one, other, asked in zip(got[2:], full[2:], wanted, strict=True):
            same(one, other if asked else other.flatten()[:0])


def test_several_canvases_and_no_pattern(blocks: Any) -> None:
    inputs = (*step_inputs((12, 10), 7, torch.complex128, groups=3), "poisson", 0.1)
    for one, other in zip(blocks.pattern_step(*inputs), CPU.pattern_step(*inputs), strict=True):
        close(one, other, 1e-14)
    empty = step_inputs((12, 10), 0)
    same(tuple(blocks.pattern_step(*empty)), tuple(CPU.pattern_step(*empty)))


def test_positions_that_are_not_finite_give_nan(blocks: Any) -> None:
    """The host does not wait for a device to look at them."""
    canvas, positions, *rest = step_inputs((12, 10), 9)
    positions[4, 0] = torch.inf
    values, _, canvas_correction, *_ = blocks.pattern_step(canvas, positions, *rest)
    assert values.isnan().nonzero().flatten().tolist() == [4] and canvas_correction.isnan().all()


@pytest.mark.parametrize(
    ("size", "shared", "shifts", "sentence"),
    [
        ((14, 10), True, False, "probe's size must be at most 256, with prime factors 2, 3 and 5 only, got 14"),
        ((10, 270), True, False, "probe's size must be at most 256, with prime factors 2, 3 and 5 only, got 270"),
        ((12, 10), False, True, "probe must be the same for all patterns where there are shifts, got one for each"),
    ],
)
def test_what_no_block_can_take_is_an_error(
    blocks: Any, size: tuple[int, int], shared: bool, shifts: bool, sentence: str
) -> None:
    with pytest.raises(RuntimeError, match=f"^pattern_step: {sentence}$"):
        blocks.pattern_step(*step_inputs(size, 2, shared=shared, shifts=shifts))
