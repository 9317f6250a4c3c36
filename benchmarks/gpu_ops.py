# SPDX-License-Identifier: BSD-3-Clause
"""Operators that gpu.py times: their calls and the bytes that they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from cases import Problem
from torch import Tensor

import ptycho_ext

Call = Callable[[], Any]


class Inputs(NamedTuple):
    """Inputs of a call and memory for its results: ``patches`` for a stack, ``canvas`` for a canvas."""

    problem: Problem
    plan: ptycho_ext.ScanPlan | None
    patches: Tensor
    canvas: Tensor


@dataclass(frozen=True)
class Op:
    """An operator: a function that makes its call, and the bytes that it moves (S: the stack, C: the canvases)."""

    make: Callable[[Inputs], Call]
    bytes: Callable[[Problem], int]


def make_extract(i: Inputs) -> Call:
    p = i.problem
    return lambda: ptycho_ext.extract_patches(p.canvas, p.positions, p.case.patch, plan=i.plan, out=i.patches)


def make_adjoint(i: Inputs) -> Call:
    p, size = i.problem, (i.problem.case.canvas,) * 2
    return lambda: ptycho_ext.extract_patches_adjoint(p.patches, p.positions, size, plan=i.plan, out=i.canvas)


def make_reassemble(i: Inputs) -> Call:
    p, size, total = i.problem, (i.problem.case.canvas,) * 2, torch.empty_like(i.canvas.real)
    return lambda: ptycho_ext.reassemble_patches(
        p.patches, p.positions, size, p.weights, plan=i.plan, out=(i.canvas, total)
    )[0]


def make_grad_positions(i: Inputs) -> Call:
    p, order = i.problem, None if i.plan is None else i.plan.order
    return lambda: torch.ops.ptycho.extract_patches_grad_positions(p.patches, p.canvas, p.positions, order)


def make_overlap(i: Inputs) -> Call:
    p, size = i.problem, (i.problem.case.canvas,) * 2
    return lambda: ptycho_ext.overlap_project(p.patches, p.positions, size, p.weights, out=i.patches)


def make_translate(i: Inputs) -> Call:
    return lambda: ptycho_ext.translate_images(i.problem.patches, i.problem.shifts, out=i.patches)


def make_exit_waves(i: Inputs) -> Call:
    p, out = i.problem, torch.empty_like(i.problem.waves)
    return lambda: ptycho_ext.exit_waves(p.canvas, p.positions, p.probe, plan=i.plan, out=out)


def make_exit_waves_adjoint(i: Inputs) -> Call:
    p, size = i.problem, (i.problem.case.canvas,) * 2
    return lambda: ptycho_ext.exit_waves_adjoint(p.waves, p.positions, p.probe, size, plan=i.plan, out=i.canvas)


def make_exit_waves_adjoint_probe(i: Inputs) -> Call:
    p, out = i.problem, torch.empty_like(i.problem.probe)
    return lambda: ptycho_ext.exit_waves_adjoint_probe(p.waves, p.canvas, p.positions, plan=i.plan, out=out)


OPS = {
    "extract": Op(make_extract, lambda p: p.patches.nbytes + p.canvas.nbytes),
    "adjoint": Op(make_adjoint, lambda p: p.patches.nbytes + p.canvas.nbytes),
    # The sum of the weights is real: 2 C for real data, 1.5 C for complex data.
    "reassemble": Op(make_reassemble, lambda p: p.patches.nbytes + p.canvas.nbytes + p.canvas.real.nbytes),
    "grad_positions": Op(make_grad_positions, lambda p: p.patches.nbytes + p.canvas.nbytes),
    "overlap": Op(make_overlap, lambda p: 2 * p.patches.nbytes),
    "translate": Op(make_translate, lambda p: 2 * p.patches.nbytes),
    "exit_waves": Op(make_exit_waves, lambda p: p.bytes("exit_waves")),
    "exit_waves_adjoint": Op(make_exit_waves_adjoint, lambda p: p.bytes("exit_waves_adjoint")),
    "exit_waves_adjoint_probe": Op(make_exit_waves_adjoint_probe, lambda p: p.bytes("exit_waves_adjoint_probe")),
}
