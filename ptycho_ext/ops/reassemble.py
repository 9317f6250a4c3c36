# SPDX-License-Identifier: BSD-3-Clause
"""reassemble_patches: overlapping patches merged into one image, weighted.

Numerator and denominator are sums of the same weights at the same positions, made in one pass, so a constant stays that
constant however unevenly it was illuminated. The sums are linear, so all derivatives are extractions; the mean is taken
in the same pass, and its derivative needs the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_float64, as_pair, real_type
from ptycho_ext.ops._plan import NO_PLAN, plan_tensors
from ptycho_ext.ops._vmap import lead, lead_weights
from ptycho_ext.ops.extract import _extract, grad_positions

if TYPE_CHECKING:
    from ptycho_ext.plan import ScanPlan


def reassemble_patches(
    patches: Tensor,
    positions: Tensor,
    canvas_size: int | Sequence[int],
    weights: Tensor | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
    *,
    plan: ScanPlan | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The weighted mean of overlapping patches on a canvas, and the weight that every pixel received.

    .. math:: S = \sum_k A_k^T (w_k o_k), \quad W = \sum_k A_k^T w_k, \quad
              \mathrm{image} = S / W \text{ where } W > \mathrm{eps} \cdot \max W, \text{ else } 0

    with A_k the extraction at position k. The threshold is relative to the largest weight of each canvas and nothing
    is added to the denominator: a constant object comes back as that constant wherever it was illuminated, whatever
    the weights' scale, and pixels that were not are exactly zero. Differentiable with respect to patches, weights
    (any order; the threshold counts as constant) and positions (once). Deterministic: every pixel is summed in the
    order of the patches, bitwise the same for any number of threads.

    Args:
        patches: (..., n, h, w) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0].
        canvas_size: (H, W), or one integer for both.
        weights: (h, w), shared by all patches, or (..., n, h, w); real and not negative. None: ones.
        normalize: False returns the sum S in place of the mean.
        eps: relative weight at or below which a pixel counts as not illuminated.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: two contiguous tensors to write image and weight_sum to, overlapping nothing; only where no gradient is
            required.

    Returns:
        image (..., H, W) of the patches' type, and weight_sum (..., H, W) of its real type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is smaller than a patch, a position
            is not finite, or a gradient is required with out.

    Example:
        >>> image, weight = reassemble_patches(torch.full((2, 1, 2), 3.0), torch.tensor([[0.0, 0.0], [0, 1.5]]), (1, 5))
        >>> image
        tensor([[3., 3., 3., 3., 0.]])
        >>> weight
        tensor([[1.0000, 1.5000, 1.0000, 0.5000, 0.0000]])
    """
    if weights is None:
        weights = torch.ones(patches.shape[-2:], dtype=real_type(patches.dtype), device=patches.device)
    elif not weights.is_complex():
        weights = weights.to(real_type(patches.dtype))
    positions, canvas_size = as_float64(positions), as_pair(canvas_size)
    tensors = plan_tensors("reassemble_patches", plan, positions, patches.shape[-2:], canvas_size)
    threshold = float(eps) if normalize else None
    if out is None:
        return _reassemble(patches, positions, weights, canvas_size, threshold, *tensors)
    check = Check("reassemble_patches")
    check.no_gradient(patches, positions, weights, *out)
    check.size("canvas_size", canvas_size)
    for number, part in enumerate(out):
        check.shape(f"out[{number}]", part, (*patches.shape[:-3], *canvas_size))
    torch.ops.ptycho.reassemble_patches_out(patches, positions, weights, threshold, *tensors[1:], *out)
    return out


def _fake_reassemble_patches(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: Sequence[int],
    eps: float | None = None,
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    Check("reassemble_patches").merge(patches, positions, weights, canvas_size)
    shape = (*patches.shape[:-3], *canvas_size)
    return patches.new_empty(shape), weights.new_empty(shape)


def _fake_reassemble_patches_out(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    eps: float | None,
    tile_start: Tensor | None,
    tile_patches: Tensor | None,
    image: Tensor,
    weight_sum: Tensor,
) -> None:
    check, canvas_size = Check("reassemble_patches"), image.shape[-2:]
    check.merge(patches, positions, weights, canvas_size)
    check.out(image, patches, (*patches.shape[:-3], *canvas_size), "out[0]")
    check.out(weight_sum, weights, (*patches.shape[:-3], *canvas_size), "out[1]")


def _fake_reassemble_patches_adjoint(
    image: Tensor, positions: Tensor, weights: Tensor, order: Tensor | None = None
) -> Tensor:
    check = Check("reassemble_patches_adjoint")
    check.data("image", image)
    check.dims("image", image, 2, "(..., H, W)")
    check.positions_of_canvas(positions, image)
    check.type("weights", weights, real_type(image.dtype))
    check.dims("weights", weights, 2, "(..., h, w)")
    if weights.ndim > 2:
        check.shape("weights", weights, (*positions.shape[:-1], *weights.shape[-2:]))
    check.device("weights", weights, image)
    check.size("weights' size", weights.shape[-2:])
    check.holds_patch("image", image.shape[-2:], weights.shape[-2:])
    return image.new_empty((*positions.shape[:-1], *weights.shape[-2:]))


class _Reassemble(torch.autograd.Function):
    @staticmethod
    def forward(
        patches: Tensor,
        positions: Tensor,
        weights: Tensor,
        canvas_size: list[int],
        eps: float | None,
        order: Tensor | None,
        tile_start: Tensor | None,
        tile_patches: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        op = torch.ops.ptycho.reassemble_patches
        result: tuple[Tensor, Tensor] = op(patches, positions, weights, canvas_size, eps, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        patches, positions, weights, _, ctx.eps, order, tile_start, tile_patches = inputs
        needs_patches = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        patches_ = patches if needs_patches else None
        image, weight_sum = (None, None) if ctx.eps is None else output
        ctx.save_for_backward(positions, weights, patches_, image, weight_sum, order, tile_start, tile_patches)
        ctx.patch_size = list(patches.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad_image: Tensor, grad_sum: Tensor) -> tuple[Tensor | None, ...]:
        positions, weights, patches, image, weight_sum, order, tile_start, tile_patches = ctx.saved_tensors
        plan = (order, tile_start, tile_patches)
        for_patches, for_positions, for_weights, *_ = ctx.needs_input_grad
        if ctx.eps is not None:  # image = S / W where seen: from here on grad_image is that of S, grad_sum that of W
            seen = weight_sum > ctx.eps * weight_sum.detach().amax((-2, -1), keepdim=True)
            grad_image = grad_image * torch.where(seen, 1 / torch.where(seen, weight_sum, 1), 0)
            if for_positions or for_weights:
                grad_sum = grad_sum - real_product(grad_image, image)
        by_patches = by_positions = grad_weights = None
        if for_weights:
            grad_weighted = _extract(grad_image, positions, ctx.patch_size, *plan)
            grad_weights = real_product(grad_weighted, patches)
            grad_weights = grad_weights + _extract(grad_sum, positions, ctx.patch_size, *plan)
            grad_weights = grad_weights.sum_to_size(weights.shape)
        if for_patches:
            by_patches = reassemble_adjoint(grad_image, positions, weights, *plan)
        if for_positions:
            by_positions = grad_positions(patches * weights, grad_image, positions, order)
            by_positions = by_positions + grad_positions(weights.expand(patches.shape), grad_sum, positions, order)
        return by_patches, by_positions, grad_weights, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        patches, positions, weights, canvas_size, eps, *_ = args  # with one more dimension the plan no longer fits
        size = info.batch_size
        patches, positions = lead(size, patches, in_dims[0]), lead(size, positions, in_dims[1])
        weights = lead_weights(size, weights, in_dims[2], patches)
        return _reassemble(patches, positions, weights, canvas_size, eps, *NO_PLAN), (0, 0)


class _Adjoint(torch.autograd.Function):
    """The transpose of the sum: patches of the image, times the weights."""

    @staticmethod
    def forward(
        image: Tensor,
        positions: Tensor,
        weights: Tensor,
        order: Tensor | None,
        tile_start: Tensor | None,
        tile_patches: Tensor | None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.reassemble_patches_adjoint(image, positions, weights, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, positions, weights, order, tile_start, tile_patches = inputs
        needs_image = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(positions, weights, image if needs_image else None, order, tile_start, tile_patches)
        ctx.canvas_size = list(image.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        positions, weights, image, order, tile_start, tile_patches = ctx.saved_tensors
        plan = (order, tile_start, tile_patches)
        by_image = by_positions = by_weights = None
        if ctx.needs_input_grad[0]:
            by_image = _reassemble(grad, positions, weights, ctx.canvas_size, None, *plan)[0]
        if ctx.needs_input_grad[1]:
            by_positions = grad_positions(grad * weights, image, positions, order)
        if ctx.needs_input_grad[2]:
            extracted = _extract(image, positions, list(weights.shape[-2:]), *plan)
            by_weights = real_product(extracted, grad).sum_to_size(weights.shape)
        return by_image, by_positions, by_weights, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        image, positions, weights, *_ = args
        size = info.batch_size
        image, positions = lead(size, image, in_dims[0]), lead(size, positions, in_dims[1])
        patches = image.new_empty(()).expand(*positions.shape[:-1], *weights.shape[-2:])
        return reassemble_adjoint(image, positions, lead_weights(size, weights, in_dims[2], patches), *NO_PLAN), 0


def real_product(a: Tensor, b: Tensor) -> Tensor:
    """Re(conj(a) b), from real products: torch rounds complex ones by where its threads' shares begin and end."""
    return a.real * b.real + a.imag * b.imag if a.is_complex() else a * b


_reassemble: Callable[..., tuple[Tensor, Tensor]] = _Reassemble.apply
reassemble_adjoint: Callable[..., Tensor] = _Adjoint.apply

torch.library.register_fake("ptycho::reassemble_patches", _fake_reassemble_patches)
torch.library.register_fake("ptycho::reassemble_patches_adjoint", _fake_reassemble_patches_adjoint)
torch.library.register_fake("ptycho::reassemble_patches_out", _fake_reassemble_patches_out)
