# SPDX-License-Identifier: BSD-3-Clause
"""Fake kernels, derivatives and vmap of exit waves and their adjoints.

The derivatives of each of the three functions are the other two; the position gradient is a separate operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check
from ptycho_ext.ops._registration import differentiable, writes_to
from ptycho_ext.ops._vmap import fold, lead, loop, unfold


def _fake_exit_waves(canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None) -> Tensor:
    Check("exit_waves").same_device(canvas, positions=positions, probe=probe, plan=order)
    return canvas.new_empty((*positions.shape[:-1], *probe.shape[-3:]))


def _fake_exit_waves_out(canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None, out: Tensor) -> None:
    Check("exit_waves").same_device(canvas, positions=positions, probe=probe, plan=order, out=out)


def _fake_exit_waves_adjoint(
    waves: Tensor,
    positions: Tensor,
    probe: Tensor,
    canvas_size: Sequence[int],
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> Tensor:
    Check("exit_waves_adjoint").same_device(waves, positions=positions, probe=probe, plan=tile_start)
    return waves.new_empty((*positions.shape[:-2], *canvas_size))


def _fake_exit_waves_adjoint_out(
    waves: Tensor,
    positions: Tensor,
    probe: Tensor,
    tile_start: Tensor | None,
    tile_patches: Tensor | None,
    out: Tensor,
) -> None:
    Check("exit_waves_adjoint").same_device(waves, positions=positions, probe=probe, plan=tile_start, out=out)


def _fake_exit_waves_adjoint_probe(
    waves: Tensor, canvas: Tensor, positions: Tensor, shared: bool, order: Tensor | None = None
) -> Tensor:
    Check("exit_waves_adjoint_probe").same_device(waves, positions=positions, canvas=canvas, plan=order)
    return waves.new_empty(waves.shape[-3:] if shared else (*positions.shape[:-1], *waves.shape[-3:]))


def _fake_exit_waves_adjoint_probe_out(
    waves: Tensor, canvas: Tensor, positions: Tensor, shared: bool, order: Tensor | None, out: Tensor
) -> None:
    Check("exit_waves_adjoint_probe").same_device(waves, positions=positions, canvas=canvas, plan=order, out=out)


def _fake_exit_waves_grad_positions(
    grad_waves: Tensor, canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None
) -> Tensor:
    check = Check("exit_waves_grad_positions")
    check.same_device(canvas, positions=positions, grad_waves=grad_waves, probe=probe, plan=order)
    return positions.new_empty(positions.shape)


torch.library.register_fake("ptycho::exit_waves", _fake_exit_waves)
torch.library.register_fake("ptycho::exit_waves_out", _fake_exit_waves_out)
torch.library.register_fake("ptycho::exit_waves_adjoint", _fake_exit_waves_adjoint)
torch.library.register_fake("ptycho::exit_waves_adjoint_out", _fake_exit_waves_adjoint_out)
torch.library.register_fake("ptycho::exit_waves_adjoint_probe", _fake_exit_waves_adjoint_probe)
torch.library.register_fake("ptycho::exit_waves_adjoint_probe_out", _fake_exit_waves_adjoint_probe_out)
torch.library.register_fake("ptycho::exit_waves_grad_positions", _fake_exit_waves_grad_positions)

Gradients = tuple[Tensor | None, ...]


class _ExitWaves(torch.autograd.Function):
    """Autograd of exit_waves; the tile lists of a plan are for the backward."""

    @staticmethod
    def forward(
        canvas: Tensor,
        positions: Tensor,
        probe: Tensor,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.exit_waves(canvas, positions, probe, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        canvas, positions, probe, *plan = inputs
        for_canvas, for_positions, for_probe = ctx.needs_input_grad[:3]
        canvas_ = canvas if for_positions or for_probe else None
        ctx.save_for_backward(canvas_, positions, probe if for_canvas or for_positions else None, *plan)
        ctx.canvas_size, ctx.shared = list(canvas.shape[-2:]), probe.ndim == 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        canvas, positions, probe, order, *lists = ctx.saved_tensors
        by_canvas = by_positions = by_probe = None
        if ctx.needs_input_grad[0]:
            by_canvas = apply_adjoint(grad, positions, probe, ctx.canvas_size, *lists, order)
        if ctx.needs_input_grad[1]:
            by_positions = apply_grad_positions(grad, canvas, positions, probe, order)
        if ctx.needs_input_grad[2]:
            by_probe = apply_adjoint_probe(grad, canvas, positions, ctx.shared, order, *lists)
        return by_canvas, by_positions, by_probe, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        canvas, positions, probe = args[:3]  # a plan does not fit the folded positions
        of_canvas, of_positions, of_probe = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves, info.batch_size
        if not _has_mapped(probe, of_probe):
            if of_canvas is None and of_positions is None:
                return unfold(size, op(canvas, positions, _modes(size, probe, of_probe)), inner=2)
        elif of_canvas is None:
            if of_probe is not None:
                probe = fold(size, probe, of_probe, inner=3)
            return unfold(size, op(canvas, fold(size, positions, of_positions, inner=1), probe), inner=3)
        elif of_canvas is not None:
            probe = probe if of_probe is None else probe.movedim(of_probe, 0)
            return op(lead(size, canvas, of_canvas), lead(size, positions, of_positions), probe), 0
        looped: tuple[Tensor, int] = loop(op, size, args[:3], in_dims[:3])
        return looped


class _Adjoint(torch.autograd.Function):
    """Autograd of exit_waves_adjoint; the order of a plan is for the backward."""

    @staticmethod
    def forward(
        waves: Tensor,
        positions: Tensor,
        probe: Tensor,
        canvas_size: list[int],
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        op = torch.ops.ptycho.exit_waves_adjoint
        result: Tensor = op(waves, positions, probe, canvas_size, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        waves, positions, probe, _, tile_start, tile_patches, order = inputs
        for_waves, for_positions, for_probe = ctx.needs_input_grad[:3]
        waves_ = waves if for_positions or for_probe else None
        probe_ = probe if for_waves or for_positions else None
        ctx.save_for_backward(waves_, positions, probe_, order, tile_start, tile_patches)
        ctx.shared, ctx.waves_shape = probe.ndim == 3, waves.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        waves, positions, probe, *plan = ctx.saved_tensors
        by_waves = by_positions = by_probe = None
        if ctx.needs_input_grad[0]:
            by_waves = apply_exit_waves(grad, positions, probe, *plan).sum_to_size(ctx.waves_shape)
        if ctx.needs_input_grad[1]:
            by_positions = apply_grad_positions(waves, grad, positions, probe, plan[0])
        if ctx.needs_input_grad[2]:
            by_probe = apply_adjoint_probe(waves, grad, positions, ctx.shared, *plan)
        return by_waves, by_positions, by_probe, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        waves, positions, probe, canvas_size = args[:4]
        of_waves, of_positions, of_probe = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves_adjoint, info.batch_size
        if _for_all(waves, of_waves) or not _has_mapped(probe, of_probe):
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        probe = probe if of_probe is None else probe.movedim(of_probe, 0)
        return op(lead(size, waves, of_waves), lead(size, positions, of_positions), probe, canvas_size), 0


class _AdjointProbe(torch.autograd.Function):
    """Autograd of exit_waves_adjoint_probe; the tile lists of a plan are for the backward."""

    @staticmethod
    def forward(
        waves: Tensor,
        canvas: Tensor,
        positions: Tensor,
        shared: bool,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.exit_waves_adjoint_probe(waves, canvas, positions, shared, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        waves, canvas, positions, _, *plan = inputs
        for_waves, for_canvas, for_positions = ctx.needs_input_grad[:3]
        waves_ = waves if for_canvas or for_positions else None
        ctx.save_for_backward(waves_, canvas if for_waves or for_positions else None, positions, *plan)
        ctx.canvas_size, ctx.waves_shape = list(canvas.shape[-2:]), waves.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        waves, canvas, positions, order, *lists = ctx.saved_tensors
        by_waves = by_canvas = by_positions = None
        if ctx.needs_input_grad[0]:
            by_waves = apply_exit_waves(canvas, positions, grad, order, *lists).sum_to_size(ctx.waves_shape)
        if ctx.needs_input_grad[1]:
            by_canvas = apply_adjoint(waves, positions, grad, ctx.canvas_size, *lists, order)
        if ctx.needs_input_grad[2]:
            by_positions = apply_grad_positions(waves, canvas, positions, grad, order)
        return by_waves, by_canvas, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        waves, canvas, positions, shared = args[:4]
        of_waves, of_canvas, of_positions = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves_adjoint_probe, info.batch_size
        if of_waves is not None and of_canvas is None and of_positions is None:
            return unfold(size, op(_modes(size, waves, of_waves), canvas, positions, shared), inner=2)
        if _for_all(waves, of_waves) or shared:
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        if of_canvas is None:
            waves, positions = fold(size, waves, of_waves, inner=3), fold(size, positions, of_positions, inner=1)
            return unfold(size, op(waves, canvas, positions, shared), inner=3)
        return op(*(lead(size, a, d) for a, d in zip(args[:3], in_dims[:3], strict=True)), shared), 0


class _GradPositions(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_waves: Tensor, canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None
    ) -> Tensor:
        op = torch.ops.ptycho.exit_waves_grad_positions
        result: Tensor = op(grad_waves, canvas, positions, probe, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, None]:
        raise NotImplementedError(
            "exit_waves: positions must be differentiated once only, got a second derivative "
            "(detach the positions, or their gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        grads, canvas, positions, probe = args[:4]
        of_grads, of_canvas, of_positions, of_probe = in_dims[:4]
        op, size = torch.ops.ptycho.exit_waves_grad_positions, info.batch_size
        if _for_all(grads, of_grads) or not _has_mapped(probe, of_probe):
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        if of_canvas is None:
            grads, positions = fold(size, grads, of_grads, inner=3), fold(size, positions, of_positions, inner=1)
            if of_probe is not None:
                probe = fold(size, probe, of_probe, inner=3)
            return unfold(size, op(grads, canvas, positions, probe), inner=1)
        probe = probe if of_probe is None else probe.movedim(of_probe, 0)
        return op(
            lead(size, grads, of_grads), lead(size, canvas, of_canvas), lead(size, positions, of_positions), probe
        ), 0


def _has_mapped(probe: Tensor, dim: int | None) -> bool:
    """Whether mapped patches can use this probe without copies: one probe for all, or one for each."""
    return probe.ndim == 3 if dim is None else probe.ndim > 4


def _for_all(waves: Tensor, dim: int | None) -> bool:
    """Whether all mapped calls, or all patches of each, have the same waves."""
    return dim is None or waves.ndim == 4


def _modes(batch_size: int, images: Tensor, dim: int | None) -> Tensor:
    """Merge the mapped dimension of a probe or waves (..., M, h, w) with the modes: (..., batch_size * M, h, w)."""
    return fold(batch_size, images, dim, inner=2)


apply_exit_waves = differentiable("exit_waves", _ExitWaves)
apply_adjoint = differentiable("exit_waves_adjoint", _Adjoint)
apply_adjoint_probe = differentiable("exit_waves_adjoint_probe", _AdjointProbe)
apply_grad_positions = differentiable("exit_waves_grad_positions", _GradPositions)
writes_to("exit_waves_out", 4)
writes_to("exit_waves_adjoint_out", 5)
writes_to("exit_waves_adjoint_probe_out", 5)
