# SPDX-License-Identifier: BSD-3-Clause
"""reassemble_patches: overlapping patches merged into one image, weighted.

Numerator and denominator are sums of the same weights at the same positions, made in one pass, so a constant stays that
constant however unevenly it was illuminated. The sums are linear, so all derivatives are extractions; the mean is taken
in the same pass, and its derivative needs the mean alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_pair
from ptycho_ext.ops._plan import plan_tensors
from ptycho_ext.ops._precision import coordinates_of, weights_like, widened
from ptycho_ext.ops._registration import composed, differentiable, writes_to
from ptycho_ext.ops._vmap import lead, lead_weights, loop
from ptycho_ext.ops._waves import apply_adjoint as waves_adjoint
from ptycho_ext.ops._waves import apply_adjoint_probe as waves_adjoint_probe
from ptycho_ext.ops._waves import apply_grad_positions as waves_grad_positions
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
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        canvas_size: (H, W), or one integer for both.
        weights: (h, w), shared by all patches, or (..., n, h, w); real and not negative, or complex where the patches
            are: then W is complex, and the threshold is one of its modulus. None: ones.
        normalize: False returns the sum S in place of the mean.
        eps: relative weight at or below which a pixel counts as not illuminated.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: two contiguous tensors to write image and weight_sum to, overlapping nothing; only where no gradient is
            required.

    Returns:
        image (..., H, W) of the patches' type, and weight_sum (..., H, W) of the weights' type; out, if given.

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
    patches, canvas_size = widened(patches), as_pair(canvas_size)
    positions = coordinates_of(positions, patches.shape[:-3])
    weights = weights_like(patches, weights)
    threshold = float(eps) if normalize else None
    order, *lists = plan_tensors("reassemble_patches", plan, positions, patches.shape[-2:], canvas_size)
    if weights.is_complex() and patches.is_complex():
        own = weights.to(patches.dtype)
        merged = _complex_merge(patches, positions, own, canvas_size, threshold, (*lists, order))
        return merged if out is None else _written(merged, out, patches, positions, weights)
    if out is None:
        result: tuple[Tensor, Tensor] = _reassemble(patches, positions, weights, canvas_size, threshold, *lists, order)
        return result
    check = Check("reassemble_patches")
    check.size("canvas_size", canvas_size)
    for number, part in enumerate(out):
        check.shape(f"out[{number}]", part, (*patches.shape[:-3], *canvas_size))
    torch.ops.ptycho.reassemble_patches_out(patches, positions, weights, threshold, *lists, *out)
    return out


def _complex_merge(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: list[int],
    eps: float | None,
    plan: tuple[Tensor | None, ...],
) -> tuple[Tensor, Tensor]:
    """Both sums, of complex weights, without a weighted copy of the patches; all of it differentiable operators."""
    own = weights.unsqueeze(-3)
    image = waves_adjoint(patches.unsqueeze(-3), positions, own.conj().resolve_conj(), canvas_size, *plan)
    total = waves_adjoint(own, positions, torch.ones_like(own[..., :1, :, :]), canvas_size, *plan)
    if eps is not None:
        Check("reassemble_patches").require(eps >= 0, "eps", "be at least 0", f"{eps:g}")
        faint = below_threshold(total.detach().abs(), eps)
        image = torch.where(faint, 0, image / torch.where(faint, 1, total))
    return image, total


def _written(merged: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the out form of the operator does: checks, and writes."""
    check = Check("reassemble_patches")
    check.no_gradient(torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, *out)))
    check.out(*out)
    for number, (part, result) in enumerate(zip(out, merged, strict=True)):
        kind = str(result.dtype).removeprefix("torch.")
        found = str(part.dtype).removeprefix("torch.")
        check.require(part.dtype == result.dtype, f"out[{number}]", f"be {kind}", found)
        check.shape(f"out[{number}]", part, result.shape)
        part.copy_(result)
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
    Check("reassemble_patches").same_device(patches, positions=positions, weights=weights, plan=tile_start)
    size = (*patches.shape[:-3], *canvas_size)
    return patches.new_empty(size), weights.new_empty(size)


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
    check = Check("reassemble_patches")
    check.same_device(patches, positions=positions, weights=weights, plan=tile_start, out=image)


def _fake_reassemble_patches_adjoint(
    image: Tensor, positions: Tensor, weights: Tensor, order: Tensor | None = None
) -> Tensor:
    Check("reassemble_patches_adjoint").same_device(image, positions=positions, weights=weights, plan=order)
    return image.new_empty((*positions.shape[:-1], *weights.shape[-2:]))


def _fake_reassemble_patches_mean_backward(
    grad_image: Tensor, weight_sum: Tensor, eps: float, image: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    Check("reassemble_patches_mean_backward").same_device(grad_image, weight_sum=weight_sum, image=image)
    return grad_image.new_empty(grad_image.shape), weight_sum.new_empty(0 if image is None else weight_sum.shape)


def _fake_reassemble_patches_backward(
    grad_image: Tensor,
    positions: Tensor,
    weights: Tensor,
    weight_sum: Tensor,
    eps: float,
    order: Tensor | None = None,
) -> Tensor:
    check = Check("reassemble_patches_backward")
    check.same_device(grad_image, positions=positions, weights=weights, weight_sum=weight_sum, plan=order)
    return grad_image.new_empty((*positions.shape[:-1], *weights.shape[-2:]))


torch.library.register_fake("ptycho::reassemble_patches", _fake_reassemble_patches)
torch.library.register_fake("ptycho::reassemble_patches_adjoint", _fake_reassemble_patches_adjoint)
torch.library.register_fake("ptycho::reassemble_patches_out", _fake_reassemble_patches_out)
torch.library.register_fake("ptycho::reassemble_patches_mean_backward", _fake_reassemble_patches_mean_backward)
torch.library.register_fake("ptycho::reassemble_patches_backward", _fake_reassemble_patches_backward)


class _Reassemble(torch.autograd.Function):
    takes_no_gradient = True  # of a result that was not used

    @staticmethod
    def forward(
        patches: Tensor,
        positions: Tensor,
        weights: Tensor,
        canvas_size: list[int],
        eps: float | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
        order: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        op = torch.ops.ptycho.reassemble_patches
        result: tuple[Tensor, Tensor] = op(patches, positions, weights, canvas_size, eps, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        patches, positions, weights, canvas_size, ctx.eps, tile_start, tile_patches, order = inputs
        plan, (_, for_positions, for_weights, *_) = (order, tile_start, tile_patches), ctx.needs_input_grad
        weight_sum = None if ctx.eps is None else output[1]
        if for_positions or for_weights:
            image = None if ctx.eps is None else output[0]
            ctx.save_for_backward(positions, weights, weight_sum, *plan, patches, image)
        else:
            ctx.save_for_backward(positions, weights, weight_sum, *plan)
        ctx.sizes, ctx.type = (*patches.shape[:-3], *canvas_size), patches.dtype

    @staticmethod
    def backward(ctx: Any, grad_image: Tensor | None, grad_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        positions, weights, weight_sum, order, tile_start, tile_patches, *more = ctx.saved_tensors
        if grad_image is None:
            grad_image = torch.zeros(ctx.sizes, dtype=ctx.type, device=weights.device)
        if not more:  # of the patches alone
            if weight_sum is None:
                by_patches = _adjoint(grad_image, positions, weights, order, tile_start, tile_patches)
            else:
                by_patches = _backward(grad_image, positions, weights, weight_sum, ctx.eps, order)
            return by_patches, None, None, None, None, None, None, None
        (patches, image), plan, patch_size = more, (order, tile_start, tile_patches), list(weights.shape[-2:])
        by_patches = by_positions = by_weights = None
        for_patches, for_positions, for_weights, *_ = ctx.needs_input_grad
        if grad_sum is None:
            grad_sum = torch.zeros(ctx.sizes, dtype=weights.dtype, device=weights.device)
        if weight_sum is not None:  # image = S / W: from here on grad_image is that of S, grad_sum that of W
            grad_image, by_weight_sum = _mean_backward(grad_image, weight_sum, ctx.eps, image)
            grad_sum = grad_sum + by_weight_sum
        if for_patches:
            by_patches = _adjoint(grad_image, positions, weights, *plan)
        if for_weights and weights.ndim == 2:  # summed over the patches while they are cut
            one = torch.ones((1, *weights.shape), dtype=weights.dtype, device=weights.device)
            by_sum = waves_adjoint_probe(patches.unsqueeze(-3), grad_image, positions, True, *plan)
            by_weights = (by_sum + waves_adjoint_probe(one, grad_sum, positions, True, *plan)).real[0]
        elif for_weights:
            by_weights = real_product(_extract(grad_image, positions, patch_size, *plan), patches)
            by_weights = by_weights + _extract(grad_sum, positions, patch_size, *plan)
        if for_positions:
            by_positions = _weighted_grad_positions(patches, weights, grad_image, positions, order)
            by_positions = by_positions + _weighted_grad_positions(None, weights, grad_sum, positions, order)
        return by_patches, by_positions, by_weights, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        patches, positions, weights, *rest = args[:5]  # with one more dimension a plan no longer fits
        op, size = torch.ops.ptycho.reassemble_patches, info.batch_size
        if in_dims[0] is None or (in_dims[2] is None and weights.ndim > 2):
            looped: tuple[tuple[Tensor, Tensor], tuple[int, int]] = loop(op, size, args[:5], in_dims[:5])
            return looped
        patches, positions = lead(size, patches, in_dims[0]), lead(size, positions, in_dims[1])
        return op(patches, positions, lead_weights(size, weights, in_dims[2], patches), *rest), (0, 0)


class _Adjoint(torch.autograd.Function):
    """The transpose of the sum: patches of the image, times the weights."""

    @staticmethod
    def forward(
        image: Tensor,
        positions: Tensor,
        weights: Tensor,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
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
            by_image = _reassemble(grad, positions, weights, ctx.canvas_size, None, *plan[1:], order)[0]
        if ctx.needs_input_grad[1]:
            by_positions = _weighted_grad_positions(grad, weights, image, positions, order)
        if ctx.needs_input_grad[2]:
            by_sum = waves_adjoint_probe(grad.unsqueeze(-3), image, positions, weights.ndim == 2, *plan)
            by_weights = by_sum.real.squeeze(-3)
        return by_image, by_positions, by_weights, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        image, positions, weights = args[:3]
        op, size = torch.ops.ptycho.reassemble_patches_adjoint, info.batch_size
        if in_dims[0] is None or (in_dims[2] is None and weights.ndim > 2):
            looped: tuple[Tensor, int] = loop(op, size, args[:3], in_dims[:3])
            return looped
        image, positions = lead(size, image, in_dims[0]), lead(size, positions, in_dims[1])
        patch_size = lead(size, weights, in_dims[2]).shape[-2:]
        patches = image.new_empty(()).expand(*positions.shape[:-1], *patch_size)
        return op(image, positions, lead_weights(size, weights, in_dims[2], patches)), 0


class _MeanBackward(torch.autograd.Function):
    """Of a mean S / W: with f = 1 / W, or 0 at or below the threshold, g f and -Re(conj(g f) S / W)."""

    @staticmethod
    def forward(
        grad_image: Tensor, weight_sum: Tensor, eps: float, image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        op = torch.ops.ptycho.reassemble_patches_mean_backward
        result: tuple[Tensor, Tensor] = op(grad_image, weight_sum, eps, image)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        grad_image, weight_sum, ctx.eps, image = inputs
        ctx.save_for_backward(grad_image, weight_sum, image)

    @staticmethod
    def backward(ctx: Any, by_sum: Tensor, by_weight_sum: Tensor) -> tuple[Tensor | None, ...]:
        grad_image, weight_sum, image = ctx.saved_tensors
        faint = below_threshold(weight_sum, ctx.eps)
        factor = torch.where(faint, 0, 1 / torch.where(faint, 1, weight_sum))
        scaled = factor * grad_image
        if image is not None:
            by_sum = by_sum - by_weight_sum * image
        by_weights = -factor * real_product(by_sum, scaled)
        return factor * by_sum, by_weights, None, None if image is None else -by_weight_sum * scaled

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], Any]:
        op, image = torch.ops.ptycho.reassemble_patches_mean_backward, args[3]
        if in_dims[0] is None or in_dims[1] is None or (image is not None and in_dims[3] is None):
            looped: tuple[tuple[Tensor, Tensor], Any] = loop(op, info.batch_size, args, in_dims)
            return looped
        grad_image, weight_sum = args[0].movedim(in_dims[0], 0), args[1].movedim(in_dims[1], 0)
        moved = None if image is None else image.movedim(in_dims[3], 0)
        return op(grad_image, weight_sum, args[2], moved), (0, None if image is None else 0)


def _weighted_grad_positions(
    patches: Tensor | None, weights: Tensor, canvas: Tensor, positions: Tensor, order: Tensor | None
) -> Tensor:
    """Of <weights * patches, extract(canvas)> by the positions, the product never made; patches None: ones."""
    if patches is None:
        if weights.ndim > 2:
            return grad_positions(weights, canvas, positions, order)  # type: ignore[no-any-return]
        patches = torch.ones_like(weights)
    return waves_grad_positions(  # type: ignore[no-any-return]
        patches.unsqueeze(-3), canvas, positions, weights.to(canvas.dtype).unsqueeze(-3), order
    )


def _backward_to_differentiate(
    grad_image: Tensor,
    positions: Tensor,
    weights: Tensor,
    weight_sum: Tensor,
    eps: float,
    order: Tensor | None = None,
) -> Tensor:
    """What the backward operator returns, from operators that have derivatives."""
    grad_sum: Tensor = _mean_backward(grad_image, weight_sum, eps)[0]
    by_patches: Tensor = _adjoint(grad_sum, positions, weights, order)
    return by_patches


def below_threshold(weight_sum: Tensor, eps: float) -> Tensor:
    """Where the mean is zero by its definition: neither do NaN weights count, nor have they any part in the largest."""
    largest = weight_sum.detach().nan_to_num(nan=0.0, posinf=None).amax((-2, -1), keepdim=True).clamp_min(0)
    return weight_sum <= eps * largest


def real_product(a: Tensor, b: Tensor) -> Tensor:
    """Re(conj(a) b), from real products: torch rounds complex ones by where its threads' shares begin and end."""
    return a.real * b.real + a.imag * b.imag if a.is_complex() else a * b


_reassemble = differentiable("reassemble_patches", _Reassemble)
_adjoint = differentiable("reassemble_patches_adjoint", _Adjoint)
_mean_backward = differentiable("reassemble_patches_mean_backward", _MeanBackward)
_backward = composed("reassemble_patches_backward", _backward_to_differentiate)
writes_to("reassemble_patches_out", 6, 7)
