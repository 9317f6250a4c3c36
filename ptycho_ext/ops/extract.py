# SPDX-License-Identifier: BSD-3-Clause
"""extract_patches and its adjoint: windows of a canvas at sub-pixel positions, and their sum back onto a canvas.

Each is the other's backward, so derivatives of any order with respect to the data need nothing else. The derivative
with respect to the positions is an operator of its own, shared by both (and by translation): the pairing
<grad_patches, extract(canvas, positions)> is the same number seen from either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_float64, as_pair
from ptycho_ext.ops._vmap import lead


def extract_patches(canvas: Tensor, positions: Tensor, patch_size: int | Sequence[int]) -> Tensor:
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

    Returns:
        (..., n, h, w) patches of the canvas's type.

    Raises:
        RuntimeError: a type, shape, device or size does not fit, or a position is not finite.

    Example:
        >>> canvas = torch.arange(12.0).reshape(3, 4)
        >>> extract_patches(canvas, torch.tensor([[1.0, 0.5]]), 2)
        tensor([[[4.5000, 5.5000],
                 [8.5000, 9.5000]]])
    """
    return _extract(canvas, as_float64(positions), as_pair(patch_size))


def extract_patches_adjoint(patches: Tensor, positions: Tensor, canvas_size: int | Sequence[int]) -> Tensor:
    r"""The sum of patches onto a canvas: the adjoint of :func:`extract_patches`.

    .. math:: \langle \mathrm{extract}(O, r), p \rangle = \langle O, \mathrm{adjoint}(p, r) \rangle

    What falls outside the canvas is dropped. Differentiable with respect to patches (any order) and positions (once).
    Deterministic: every pixel is summed in the order of the patches.

    Args:
        patches: (..., n, h, w) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0].
        canvas_size: (H, W), or one integer for both.

    Returns:
        (..., H, W) canvas of the patches' type.

    Raises:
        RuntimeError: a type, shape, device or size does not fit, or a position is not finite.

    Example:
        >>> extract_patches_adjoint(torch.ones(1, 1, 1), torch.tensor([[0.0, 1.25]]), (2, 4))
        tensor([[0.0000, 0.7500, 0.2500, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    return _adjoint(patches, as_float64(positions), as_pair(canvas_size))


def _fake_extract_patches(canvas: Tensor, positions: Tensor, patch_size: Sequence[int]) -> Tensor:
    check = Check("extract_patches")
    check.data("canvas", canvas)
    check.dims("canvas", canvas, 2, "(..., H, W)")
    check.positions_of_canvas(positions, canvas)
    check.size("patch_size", patch_size)
    return canvas.new_empty((*positions.shape[:-1], *patch_size))


def _fake_extract_patches_adjoint(patches: Tensor, positions: Tensor, canvas_size: Sequence[int]) -> Tensor:
    check = Check("extract_patches_adjoint")
    check.data("patches", patches)
    check.dims("patches", patches, 3, "(..., n, h, w)")
    check.positions_of_patches(positions, patches)
    check.size("canvas_size", canvas_size)
    return patches.new_empty((*patches.shape[:-3], *canvas_size))


def _fake_extract_patches_grad_positions(grad_patches: Tensor, canvas: Tensor, positions: Tensor) -> Tensor:
    check = Check("extract_patches_grad_positions")
    check.data("canvas", canvas)
    check.dims("canvas", canvas, 2, "(..., H, W)")
    check.positions_of_canvas(positions, canvas)
    check.type("grad_patches", grad_patches, canvas.dtype)
    check.dims("grad_patches", grad_patches, 3, "(..., n, h, w)")
    check.shape("grad_patches", grad_patches, (*positions.shape[:-1], *grad_patches.shape[-2:]))
    check.device("grad_patches", grad_patches, canvas)
    return positions.new_empty(positions.shape)


class _Extract(torch.autograd.Function):
    @staticmethod
    def forward(canvas: Tensor, positions: Tensor, patch_size: list[int]) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches(canvas, positions, patch_size)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
        canvas, positions, _ = inputs
        ctx.save_for_backward(positions, canvas if ctx.needs_input_grad[1] else None)
        ctx.canvas_size = canvas.shape[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        positions, canvas = ctx.saved_tensors
        grad_canvas = _adjoint(grad, positions, list(ctx.canvas_size)) if ctx.needs_input_grad[0] else None
        return grad_canvas, None if canvas is None else grad_positions(grad, canvas, positions), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        canvas, positions, patch_size = args
        canvas, positions = lead(info.batch_size, canvas, in_dims[0]), lead(info.batch_size, positions, in_dims[1])
        return _extract(canvas, positions, patch_size), 0


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(patches: Tensor, positions: Tensor, canvas_size: list[int]) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches_adjoint(patches, positions, canvas_size)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
        patches, positions, _ = inputs
        ctx.save_for_backward(positions, patches if ctx.needs_input_grad[1] else None)
        ctx.patch_size = patches.shape[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        positions, patches = ctx.saved_tensors
        grad_patches = _extract(grad, positions, list(ctx.patch_size)) if ctx.needs_input_grad[0] else None
        return grad_patches, None if patches is None else grad_positions(patches, grad, positions), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        patches, positions, canvas_size = args
        patches, positions = lead(info.batch_size, patches, in_dims[0]), lead(info.batch_size, positions, in_dims[1])
        return _adjoint(patches, positions, canvas_size), 0


class _GradPositions(torch.autograd.Function):
    @staticmethod
    def forward(grad_patches: Tensor, canvas: Tensor, positions: Tensor) -> Tensor:
        result: Tensor = torch.ops.ptycho.extract_patches_grad_positions(grad_patches, canvas, positions)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        raise NotImplementedError(
            "extract_patches: positions must be differentiated once only, got a second derivative "
            "(detach the positions, or their gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        return grad_positions(*(lead(info.batch_size, t, d) for t, d in zip(args, in_dims, strict=True))), 0


_extract: Callable[..., Tensor] = _Extract.apply
_adjoint: Callable[..., Tensor] = _Adjoint.apply
#: (grad_patches, canvas, positions) -> the derivative of Re <grad_patches, extract(canvas, positions)> by positions.
grad_positions: Callable[..., Tensor] = _GradPositions.apply

torch.library.register_fake("ptycho::extract_patches", _fake_extract_patches)
torch.library.register_fake("ptycho::extract_patches_adjoint", _fake_extract_patches_adjoint)
torch.library.register_fake("ptycho::extract_patches_grad_positions", _fake_extract_patches_grad_positions)
