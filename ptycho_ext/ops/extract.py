# SPDX-License-Identifier: BSD-3-Clause
"""extract_patches and its adjoint: patches of a canvas at sub-pixel positions, and their sum onto a canvas.

Each is the backward of the other, to any order of derivatives with respect to the data. The position gradient is a
separate operator, which both (and translation) share: it is the derivative of Re <grad_patches, extract(canvas,
positions)>.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_pair
from ptycho_ext.ops._plan import plan_tensors
from ptycho_ext.ops._precision import coordinates_of, widened
from ptycho_ext.ops._registration import differentiable, writes_to
from ptycho_ext.ops._vmap import fold, lead, loop, unfold

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
    r"""Extract patches of a canvas at sub-pixel positions, by bilinear interpolation.

    .. math:: o_k[i, j] = \mathrm{bilinear}(O,\; y_k + i,\; x_k + j)

    Each of the four taps of a sample is zero outside of the canvas. Linear in the canvas. Differentiable with
    respect to canvas (any order) and positions (once; at integer positions the right-hand difference). Deterministic:
    bitwise the same for any number of threads.

    Args:
        canvas: (..., H, W) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; the leading
            dimensions are those of canvas, or (n, 2): one set for all canvases, and a plan may be of that set. Computed
            with in float64; may lie anywhere.
        patch_size: (h, w), or one integer for both.
        plan: plan of these positions and sizes, so that it is not computed in every call, here and in the derivatives.
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
    canvas, patch_size = widened(canvas), as_pair(patch_size)
    positions = coordinates_of(positions, canvas.shape[:-2])
    tensors = plan_tensors("extract_patches", plan, positions, patch_size, canvas.shape[-2:])
    if out is None:
        patches: Tensor = _extract(canvas, positions, patch_size, *tensors)
        return patches
    check = Check("extract_patches")
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
    r"""Sum patches onto a canvas: the adjoint of :func:`extract_patches`.

    .. math:: \langle \mathrm{extract}(O, r), p \rangle = \langle O, \mathrm{adjoint}(p, r) \rangle

    Samples outside of the canvas are ignored. Differentiable with respect to patches (any order) and positions (once).
    Deterministic: every pixel is summed in the order of the patches.

    Args:
        patches: (..., n, h, w) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        canvas_size: (H, W), or one integer for both.
        plan: plan of these positions and sizes, so that it is not computed in every call, here and in the derivatives.
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
    patches, canvas_size = widened(patches), as_pair(canvas_size)
    positions = coordinates_of(positions, patches.shape[:-3])
    tensors = plan_tensors("extract_patches_adjoint", plan, positions, patches.shape[-2:], canvas_size)
    if out is None:
        canvas: Tensor = _adjoint(patches, positions, canvas_size, tensors[1], tensors[2], tensors[0])
        return canvas
    check = Check("extract_patches_adjoint")
    check.size("canvas_size", canvas_size)
    check.shape("out", out, (*patches.shape[:-3], *canvas_size))
    torch.ops.ptycho.extract_patches_adjoint_out(patches, positions, tensors[1], tensors[2], out)
    return out


def _fake_extract_patches(
    canvas: Tensor, positions: Tensor, patch_size: Sequence[int], order: Tensor | None = None
) -> Tensor:
    Check("extract_patches").same_device(canvas, positions=positions, plan=order)
    return canvas.new_empty((*positions.shape[:-1], *patch_size))


def _fake_extract_patches_out(canvas: Tensor, positions: Tensor, order: Tensor | None, out: Tensor) -> None:
    Check("extract_patches").same_device(canvas, positions=positions, plan=order, out=out)


def _fake_extract_patches_adjoint(
    patches: Tensor,
    positions: Tensor,
    canvas_size: Sequence[int],
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> Tensor:
    Check("extract_patches_adjoint").same_device(patches, positions=positions, plan=tile_start)
    return patches.new_empty((*patches.shape[:-3], *canvas_size))


def _fake_extract_patches_adjoint_out(
    patches: Tensor, positions: Tensor, tile_start: Tensor | None, tile_patches: Tensor | None, out: Tensor
) -> None:
    Check("extract_patches_adjoint").same_device(patches, positions=positions, plan=tile_start, out=out)


def _fake_extract_patches_grad_positions(
    grad_patches: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None = None
) -> Tensor:
    check = Check("extract_patches_grad_positions")
    check.same_device(canvas, positions=positions, grad_patches=grad_patches, plan=order)
    return positions.new_empty(positions.shape)


torch.library.register_fake("ptycho::extract_patches", _fake_extract_patches)
torch.library.register_fake("ptycho::extract_patches_out", _fake_extract_patches_out)
torch.library.register_fake("ptycho::extract_patches_adjoint", _fake_extract_patches_adjoint)
torch.library.register_fake("ptycho::extract_patches_adjoint_out", _fake_extract_patches_adjoint_out)
torch.library.register_fake("ptycho::extract_patches_grad_positions", _fake_extract_patches_grad_positions)

Gradients = tuple[Tensor | None, Tensor | None, None, None, None, None]


class _Extract(torch.autograd.Function):
    """Autograd of extract_patches; the tile lists of a plan are for the backward."""

    @staticmethod
    def forward(
        canvas: Tensor,
        positions: Tensor,
        patch_size: list[int],
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches(canvas, positions, patch_size, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        canvas, positions, _, order, tile_start, tile_patches = inputs
        canvas_ = canvas if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(positions, canvas_, order, tile_start, tile_patches)
        ctx.canvas_size = list(canvas.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        positions, canvas, order, tile_start, tile_patches = ctx.saved_tensors
        by_canvas = by_positions = None
        if ctx.needs_input_grad[0]:
            by_canvas = _adjoint(grad, positions, ctx.canvas_size, tile_start, tile_patches, order)
        if canvas is not None:
            by_positions = grad_positions(grad, canvas, positions, order)
        return by_canvas, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        canvas, positions, patch_size, *_ = args  # a plan does not fit the folded positions
        size = info.batch_size
        if in_dims[0] is None:
            positions = fold(size, positions, in_dims[1], inner=1)
            return unfold(size, torch.ops.ptycho.extract_patches(canvas, positions, patch_size), inner=2)
        canvas, positions = lead(size, canvas, in_dims[0]), lead(size, positions, in_dims[1])
        return torch.ops.ptycho.extract_patches(canvas, positions, patch_size), 0


class _Adjoint(torch.autograd.Function):
    """Autograd of extract_patches_adjoint; the order of a plan is for the backward."""

    @staticmethod
    def forward(
        patches: Tensor,
        positions: Tensor,
        canvas_size: list[int],
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        op = torch.ops.ptycho.extract_patches_adjoint
        result: Tensor = op(patches, positions, canvas_size, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        patches, positions, _, tile_start, tile_patches, order = inputs
        patches_ = patches if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(positions, patches_, order, tile_start, tile_patches)
        ctx.patch_size = list(patches.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        positions, patches, order, tile_start, tile_patches = ctx.saved_tensors
        by_patches = by_positions = None
        if ctx.needs_input_grad[0]:
            by_patches = _extract(grad, positions, ctx.patch_size, order, tile_start, tile_patches)
        if patches is not None:
            by_positions = grad_positions(patches, grad, positions, order)
        return by_patches, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        op = torch.ops.ptycho.extract_patches_adjoint
        if in_dims[0] is None:
            looped: tuple[Tensor, int] = loop(op, info.batch_size, args[:3], in_dims[:3])
            return looped
        patches, positions = lead(info.batch_size, args[0], in_dims[0]), lead(info.batch_size, args[1], in_dims[1])
        return op(patches, positions, args[2]), 0


class _GradPositions(torch.autograd.Function):
    @staticmethod
    def forward(grad_patches: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None = None) -> Tensor:
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
        op = torch.ops.ptycho.extract_patches_grad_positions
        grads, canvas, positions = args[:3]
        of_grads, of_canvas, of_positions = in_dims[:3]
        size = info.batch_size
        if of_grads is None:
            looped: tuple[Tensor, int] = loop(op, size, args[:3], in_dims[:3])
            return looped
        if of_canvas is None:
            grads, positions = fold(size, grads, of_grads, inner=2), fold(size, positions, of_positions, inner=1)
            return unfold(size, op(grads, canvas, positions), inner=1)
        return op(lead(size, grads, of_grads), lead(size, canvas, of_canvas), lead(size, positions, of_positions)), 0


_extract = differentiable("extract_patches", _Extract)
_adjoint = differentiable("extract_patches_adjoint", _Adjoint)
grad_positions = differentiable("extract_patches_grad_positions", _GradPositions)
writes_to("extract_patches_out", 3)
writes_to("extract_patches_adjoint_out", 4)
