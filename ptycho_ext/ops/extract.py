# SPDX-License-Identifier: BSD-3-Clause
"""extract_patches and its adjoint: windows of a canvas at sub-pixel positions, and their sum back onto a canvas.

Each is the other's backward, so derivatives of any order with respect to the data need nothing else. The derivative
with respect to the positions is an operator of its own, shared by both (and by translation): the pairing
<grad_patches, extract(canvas, positions)> is the same number seen from either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_float64, as_pair
from ptycho_ext.ops._plan import NO_PLAN, plan_tensors
from ptycho_ext.ops._vmap import lead

if TYPE_CHECKING:
    from ptycho_ext.plan import ScanPlan


def extract_patches(
    canvas: Tensor,
    positions: Tensor,
    patch_size: int | Sequence[int],
    *,
    plan: ScanPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Bilinear windows of a canvas at sub-pixel positions.

    .. math:: o_k[i, j] = \mathrm{bilinear}(O,\; y_k + i,\; x_k + j)

    Samples outside the canvas are zero, each of the four taps on its own. Linear in the canvas. Differentiable with
    respect to canvas (any order) and positions (once; at integer positions the right-hand difference). Deterministic:
    bitwise the same for any number of threads.

    Args:
        canvas: (..., H, W) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; the leading
            dimensions are those of canvas. Computed with in float64; may lie anywhere.
        patch_size: (h, w), or one integer for both.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: (..., n, h, w) contiguous tensor to write to, not overlapping canvas; only where no gradient is required.

    Returns:
        (..., n, h, w) patches of the canvas's type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is smaller than a patch, a position
            is not finite, or a gradient is required with out.

    Example:
        >>> canvas = torch.arange(12.0).reshape(3, 4)
        >>> extract_patches(canvas, torch.tensor([[1.0, 0.5]]), 2)
        tensor([[[4.5000, 5.5000],
                 [8.5000, 9.5000]]])
    """
    positions, patch_size = as_float64(positions), as_pair(patch_size)
    tensors = plan_tensors("extract_patches", plan, positions, patch_size, canvas.shape[-2:])
    if out is None:
        return _extract(canvas, positions, patch_size, *tensors)
    check = Check("extract_patches")
    check.no_gradient(canvas, positions, out)
    check.size("patch_size", patch_size)
    check.shape("out", out, (*positions.shape[:-1], *patch_size))
    torch.ops.ptycho.extract_patches_out(canvas, positions, tensors[0], out)
    return out


def extract_patches_adjoint(
    patches: Tensor,
    positions: Tensor,
    canvas_size: int | Sequence[int],
    *,
    plan: ScanPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""The sum of patches onto a canvas: the adjoint of :func:`extract_patches`.

    .. math:: \langle \mathrm{extract}(O, r), p \rangle = \langle O, \mathrm{adjoint}(p, r) \rangle

    What falls outside the canvas is dropped. Differentiable with respect to patches (any order) and positions (once).
    Deterministic: every pixel is summed in the order of the patches.

    Args:
        patches: (..., n, h, w) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0].
        canvas_size: (H, W), or one integer for both.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: (..., H, W) contiguous tensor to write to, not overlapping patches; only where no gradient is required.

    Returns:
        (..., H, W) canvas of the patches' type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is smaller than a patch, a position
            is not finite, or a gradient is required with out.

    Example:
        >>> extract_patches_adjoint(torch.ones(1, 1, 1), torch.tensor([[0.0, 1.25]]), (2, 4))
        tensor([[0.0000, 0.7500, 0.2500, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    positions, canvas_size = as_float64(positions), as_pair(canvas_size)
    tensors = plan_tensors("extract_patches_adjoint", plan, positions, patches.shape[-2:], canvas_size)
    if out is None:
        return _adjoint(patches, positions, canvas_size, *tensors)
    check = Check("extract_patches_adjoint")
    check.no_gradient(patches, positions, out)
    check.size("canvas_size", canvas_size)
    check.shape("out", out, (*patches.shape[:-3], *canvas_size))
    torch.ops.ptycho.extract_patches_adjoint_out(patches, positions, tensors[1], tensors[2], out)
    return out


def _fake_extract_patches(
    canvas: Tensor, positions: Tensor, patch_size: Sequence[int], order: Tensor | None = None
) -> Tensor:
    check = Check("extract_patches")
    check.data("canvas", canvas)
    check.dims("canvas", canvas, 2, "(..., H, W)")
    check.positions_of_canvas(positions, canvas)
    check.size("patch_size", patch_size)
    check.holds_patch("canvas", canvas.shape[-2:], patch_size)
    return canvas.new_empty((*positions.shape[:-1], *patch_size))


def _fake_extract_patches_out(canvas: Tensor, positions: Tensor, order: Tensor | None, out: Tensor) -> None:
    patches = _fake_extract_patches(canvas, positions, out.shape[-2:])
    Check("extract_patches").out(out, canvas, patches.shape)


def _fake_extract_patches_adjoint(
    patches: Tensor,
    positions: Tensor,
    canvas_size: Sequence[int],
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> Tensor:
    check = Check("extract_patches_adjoint")
    check.data("patches", patches)
    check.dims("patches", patches, 3, "(..., n, h, w)")
    check.positions_of_patches(positions, patches)
    check.size("canvas_size", canvas_size)
    check.holds_patch("canvas_size", canvas_size, patches.shape[-2:])
    return patches.new_empty((*patches.shape[:-3], *canvas_size))


def _fake_extract_patches_adjoint_out(
    patches: Tensor, positions: Tensor, tile_start: Tensor | None, tile_patches: Tensor | None, out: Tensor
) -> None:
    canvas = _fake_extract_patches_adjoint(patches, positions, out.shape[-2:])
    Check("extract_patches_adjoint").out(out, patches, canvas.shape)


def _fake_extract_patches_grad_positions(
    grad_patches: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None = None
) -> Tensor:
    check = Check("extract_patches_grad_positions")
    check.data("canvas", canvas)
    check.dims("canvas", canvas, 2, "(..., H, W)")
    check.positions_of_canvas(positions, canvas)
    check.type("grad_patches", grad_patches, canvas.dtype)
    check.dims("grad_patches", grad_patches, 3, "(..., n, h, w)")
    check.shape("grad_patches", grad_patches, (*positions.shape[:-1], *grad_patches.shape[-2:]))
    check.device("grad_patches", grad_patches, canvas)
    check.holds_patch("canvas", canvas.shape[-2:], grad_patches.shape[-2:])
    return positions.new_empty(positions.shape)


Gradients = tuple[Tensor | None, Tensor | None, None, None, None, None]


class _Extract(torch.autograd.Function):
    @staticmethod
    def forward(
        canvas: Tensor,
        positions: Tensor,
        patch_size: list[int],
        order: Tensor | None,
        tile_start: Tensor | None,
        tile_patches: Tensor | None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches(canvas, positions, patch_size, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        canvas, positions, _, order, tile_start, tile_patches = inputs
        canvas_ = canvas if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(positions, canvas_, order, tile_start, tile_patches)
        ctx.canvas_size = canvas.shape[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        positions, canvas, order, tile_start, tile_patches = ctx.saved_tensors
        plan = (order, tile_start, tile_patches)
        grad_canvas = _adjoint(grad, positions, list(ctx.canvas_size), *plan) if ctx.needs_input_grad[0] else None
        by_positions = None if canvas is None else grad_positions(grad, canvas, positions, order)
        return grad_canvas, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        canvas, positions, patch_size, *_ = args  # with one more dimension the plan no longer fits
        canvas, positions = lead(info.batch_size, canvas, in_dims[0]), lead(info.batch_size, positions, in_dims[1])
        return _extract(canvas, positions, patch_size, *NO_PLAN), 0


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        patches: Tensor,
        positions: Tensor,
        canvas_size: list[int],
        order: Tensor | None,
        tile_start: Tensor | None,
        tile_patches: Tensor | None,
    ) -> Tensor:
        op = torch.ops.ptycho.extract_patches_adjoint
        result: Tensor = op(patches, positions, canvas_size, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        patches, positions, _, order, tile_start, tile_patches = inputs
        patches_ = patches if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(positions, patches_, order, tile_start, tile_patches)
        ctx.patch_size = patches.shape[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        positions, patches, order, tile_start, tile_patches = ctx.saved_tensors
        plan = (order, tile_start, tile_patches)
        grad_patches = _extract(grad, positions, list(ctx.patch_size), *plan) if ctx.needs_input_grad[0] else None
        by_positions = None if patches is None else grad_positions(patches, grad, positions, order)
        return grad_patches, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        patches, positions, canvas_size, *_ = args
        patches, positions = lead(info.batch_size, patches, in_dims[0]), lead(info.batch_size, positions, in_dims[1])
        return _adjoint(patches, positions, canvas_size, *NO_PLAN), 0


class _GradPositions(torch.autograd.Function):
    @staticmethod
    def forward(grad_patches: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches_grad_positions(grad_patches, canvas, positions, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        raise NotImplementedError(
            "extract_patches: positions must be differentiated once only, got a second derivative "
            "(detach the positions, or their gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        mapped = [lead(info.batch_size, t, d) for t, d in zip(args[:3], in_dims[:3], strict=True)]
        return grad_positions(*mapped), 0


_grad_positions: Callable[..., Tensor] = _GradPositions.apply
_extract: Callable[..., Tensor] = _Extract.apply
_adjoint: Callable[..., Tensor] = _Adjoint.apply


def grad_positions(grad_patches: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None = None) -> Tensor:
    """The derivative (..., n, 2) of Re <grad_patches, extract(canvas, positions)> by positions."""
    return _grad_positions(grad_patches, canvas, positions, order)


torch.library.register_fake("ptycho::extract_patches", _fake_extract_patches)
torch.library.register_fake("ptycho::extract_patches_out", _fake_extract_patches_out)
torch.library.register_fake("ptycho::extract_patches_adjoint", _fake_extract_patches_adjoint)
torch.library.register_fake("ptycho::extract_patches_adjoint_out", _fake_extract_patches_adjoint_out)
torch.library.register_fake("ptycho::extract_patches_grad_positions", _fake_extract_patches_grad_positions)
