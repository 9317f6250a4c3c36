# SPDX-License-Identifier: BSD-3-Clause
"""overlap_project: each patch replaced by what the patches of its group agree on.

One operator in place of reassembly, division and extraction: the canvases of all groups never exist together. Its
gradients by patches and weights come from one operator too; where they are to be differentiated again, and for the
positions, the backward is composed of the other operators, on canvases.
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
from ptycho_ext.ops.reassemble import below_threshold, real_product

if TYPE_CHECKING:
    from ptycho_ext.plan import ScanPlan


def overlap_project(
    patches: Tensor,
    positions: Tensor,
    canvas_size: int | Sequence[int],
    weights: Tensor | None = None,
    eps: float = 1e-6,
    *,
    plan: ScanPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Merge the patches of every group on its canvas and cut them out again.

    .. math:: o'_k = A_k \frac{\sum_l A_l^T (w_l o_l)}{\sum_l A_l^T w_l}

    with A_k the extraction at position k: ``extract_patches(reassemble_patches(...)[0], ...)`` to rounding, and zero
    where no patch has weight. Differentiable with respect to patches, weights (any order; the threshold counts as
    constant) and positions (once; at integer positions the right-hand difference). Deterministic: bitwise the same
    for any number of threads. Parallel over groups: for one large canvas call the two operators instead.

    Args:
        patches: (..., n, h, w) float32, float64, complex64 or complex128; every leading index is a group.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        canvas_size: (H, W) of the canvas of each group, or one integer for both; taps outside it are zero.
        weights: (h, w), shared by all patches, or (..., n, h, w); real and not negative. None: ones.
        eps: part of a canvas's largest weight at or below which a pixel counts as not illuminated.
        plan: made for these positions and sizes; of use to derivatives by positions, and on CUDA to groups of many
            patches or on large canvases.
        out: (..., n, h, w) contiguous tensor to write to, not overlapping patches; only where no gradient is required.

    Returns:
        (..., n, h, w) patches of the same type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is smaller than a patch, a position
            is not finite, or a gradient is required with out.

    Example:
        >>> patches = torch.tensor([[[1.0, 1.0, 1.0]], [[3.0, 3.0, 3.0]]])
        >>> overlap_project(patches, torch.tensor([[0.0, 0.0], [0.0, 2.0]]), (1, 5))
        tensor([[[1., 1., 2.]],
        <BLANKLINE>
                [[2., 3., 3.]]])
    """
    patches, canvas_size = widened(patches), as_pair(canvas_size)
    positions = coordinates_of(positions, patches.shape[:-3])
    weights = weights_like(patches, weights)
    lists = plan_tensors("overlap_project", plan, positions, patches.shape[-2:], canvas_size)
    if out is None:
        projected: Tensor = _project(patches, positions, weights, canvas_size, eps, *lists)
        return projected
    torch.ops.ptycho.overlap_project_out(patches, positions, weights, canvas_size, eps, *lists, out)
    return out


def _fake_overlap_project(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: Sequence[int],
    eps: float,
    order: Tensor | None = None,
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> Tensor:
    Check("overlap_project").same_device(patches, positions=positions, weights=weights, plan=order)
    return patches.new_empty(patches.shape)


def _fake_overlap_project_out(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: Sequence[int],
    eps: float,
    order: Tensor | None,
    tile_start: Tensor | None,
    tile_patches: Tensor | None,
    out: Tensor,
) -> None:
    Check("overlap_project").same_device(patches, positions=positions, weights=weights, plan=order, out=out)


def _fake_overlap_project_backward(
    grad: Tensor,
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: Sequence[int],
    eps: float,
    for_weights: bool,
    order: Tensor | None = None,
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check = Check("overlap_project_backward")
    check.same_device(patches, positions=positions, weights=weights, grad=grad, plan=order)
    return patches.new_empty(patches.shape), weights.new_empty(weights.shape if for_weights else (0,))


torch.library.register_fake("ptycho::overlap_project", _fake_overlap_project)
torch.library.register_fake("ptycho::overlap_project_backward", _fake_overlap_project_backward)
torch.library.register_fake("ptycho::overlap_project_out", _fake_overlap_project_out)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        patches: Tensor,
        positions: Tensor,
        weights: Tensor,
        canvas_size: list[int],
        eps: float,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        plan = (order, tile_start, tile_patches)
        result: Tensor = torch.ops.ptycho.overlap_project(patches, positions, weights, canvas_size, eps, *plan)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        patches, positions, weights, ctx.canvas_size, ctx.eps, *plan = inputs
        needs_patches = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(positions, weights, patches if needs_patches else None, *plan)
        ctx.shape = patches.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        positions, weights, patches, *plan = ctx.saved_tensors
        for_patches, for_positions, for_weights, *_ = ctx.needs_input_grad
        options = (ctx.canvas_size, ctx.eps)
        if for_positions:
            gradients = _composed_backward(grad, patches, positions, weights, *options, ctx.needs_input_grad, plan)
            return *gradients, *[None] * 5
        given = grad if patches is None else patches
        by_patches, by_weights = _backward(grad, given, positions, weights, *options, for_weights, *plan)
        return by_patches if for_patches else None, None, by_weights if for_weights else None, *[None] * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        patches, positions, weights, *rest = args[:5]  # with one more dimension a plan no longer fits
        op, size = torch.ops.ptycho.overlap_project, info.batch_size
        if in_dims[0] is None or (in_dims[2] is None and weights.ndim > 2):
            looped: tuple[Tensor, int] = loop(op, size, args[:5], in_dims[:5])
            return looped
        patches, positions = lead(size, patches, in_dims[0]), lead(size, positions, in_dims[1])
        return op(patches, positions, lead_weights(size, weights, in_dims[2], patches), *rest), 0


def _composed_backward(
    grad: Tensor,
    patches: Tensor | None,
    positions: Tensor,
    weights: Tensor,
    size: list[int],
    eps: float,
    needed: tuple[bool, ...],
    plan: list[Tensor | None],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of image = S / W: grad_S = grad_image / W and grad_W = -Re(conj(image) grad_S), zero where not seen."""
    for_patches, for_positions, for_weights, *_ = needed
    order, *lists = plan
    patch_size = list(grad.shape[-2:])
    each = weights.expand(grad.shape)
    op = torch.ops.ptycho
    if patches is None:
        total = op.extract_patches_adjoint(each, positions, size, *lists)
    else:
        image, total = op.reassemble_patches(patches, positions, weights, size, eps, *lists)
    faint = below_threshold(total, eps)
    grad_sum = op.extract_patches_adjoint(grad, positions, size, *lists)
    grad_sum = torch.where(faint, 0, grad_sum / torch.where(faint, 1, total))
    by_patches = by_positions = by_weights = None
    if for_patches:
        by_patches = op.reassemble_patches_adjoint(grad_sum, positions, weights, order)
    if patches is not None:
        grad_total = -real_product(image, grad_sum)
        if for_weights:
            spread = op.extract_patches(grad_sum, positions, patch_size, order)
            by_weights = real_product(patches, spread) + op.extract_patches(grad_total, positions, patch_size, order)
            by_weights = by_weights.sum_to_size(weights.shape)
        if for_positions:
            grad_positions = op.extract_patches_grad_positions
            by_positions = grad_positions(grad, image, positions, order)
            by_positions = by_positions + grad_positions(patches * weights, grad_sum, positions, order)
            by_positions = by_positions + grad_positions(each, grad_total, positions, order)
    return by_patches, by_positions, by_weights


def _backward_to_differentiate(
    grad: Tensor,
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas_size: list[int],
    eps: float,
    for_weights: bool,
    order: Tensor | None = None,
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What the backward operator returns, from operators that have derivatives."""
    plan = [order, tile_start, tile_patches]
    needed = (True, False, for_weights)
    own = patches if for_weights else None
    gradients = _composed_backward(grad, own, positions, weights, canvas_size, eps, needed, plan)
    by_patches, by_weights = gradients[0], gradients[2]
    assert by_patches is not None
    return by_patches, weights.new_empty(0) if by_weights is None else by_weights


_project = differentiable("overlap_project", _Project)
_backward = composed("overlap_project_backward", _backward_to_differentiate)
writes_to("overlap_project_out", 8)
