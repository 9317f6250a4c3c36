# SPDX-License-Identifier: BSD-3-Clause
"""reassemble_patches: overlapping patches merged into one image, weighted.

Numerator and denominator are sums of the same weights at the same positions, made in one pass, so a constant stays that
constant however unevenly it was illuminated. The sums are linear; all derivatives are extractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_float64, as_pair, real_type
from ptycho_ext.ops._vmap import lead
from ptycho_ext.ops.extract import extract_patches, grad_positions


def reassemble_patches(
    patches: Tensor,
    positions: Tensor,
    canvas_size: int | Sequence[int],
    weights: Tensor | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
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

    Returns:
        image (..., H, W) of the patches' type, and weight_sum (..., H, W) of its real type.

    Raises:
        RuntimeError: a type, shape, device or size does not fit, or a position is not finite.

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
    image_sum, weight_sum = _reassemble(patches, as_float64(positions), weights, as_pair(canvas_size))
    if not normalize:
        return image_sum, weight_sum
    seen = weight_sum > eps * weight_sum.detach().amax((-2, -1), keepdim=True)
    return torch.where(seen, image_sum / torch.where(seen, weight_sum, 1), 0), weight_sum


def _fake_reassemble_patches(
    patches: Tensor, positions: Tensor, weights: Tensor, canvas_size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    check = Check("reassemble_patches")
    check.data("patches", patches)
    check.dims("patches", patches, 3, "(..., n, h, w)")
    check.positions_of_patches(positions, patches)
    check.type("weights", weights, real_type(patches.dtype))
    check.shape("weights", weights, patches.shape[-2:] if weights.ndim == 2 else patches.shape)
    check.device("weights", weights, patches)
    check.size("canvas_size", canvas_size)
    shape = (*patches.shape[:-3], *canvas_size)
    return patches.new_empty(shape), weights.new_empty(shape)


class _Reassemble(torch.autograd.Function):
    @staticmethod
    def forward(patches: Tensor, positions: Tensor, weights: Tensor, canvas_size: list[int]) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = torch.ops.ptycho.reassemble_patches(patches, positions, weights, canvas_size)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, list[int]], output: Any) -> None:
        patches, positions, weights, _ = inputs
        needs_patches = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(positions, weights, patches if needs_patches else None)
        ctx.patch_size = list(patches.shape[-2:])

    @staticmethod
    def backward(
        ctx: Any, grad_image: Tensor, grad_sum: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        positions, weights, patches = ctx.saved_tensors
        for_patches, for_positions, for_weights, _ = ctx.needs_input_grad
        grad_weighted = extract_patches(grad_image, positions, ctx.patch_size)
        grad_positions_ = grad_weights = None
        if for_positions:
            per_patch = weights.expand(patches.shape)
            grad_positions_ = grad_positions(patches * weights, grad_image, positions)
            grad_positions_ = grad_positions_ + grad_positions(per_patch, grad_sum, positions)
        if for_weights:
            pairing = grad_weighted * patches.conj() if patches.is_complex() else grad_weighted * patches
            grad_weights = torch.real(pairing) + extract_patches(grad_sum, positions, ctx.patch_size)
            grad_weights = grad_weights.sum_to_size(weights.shape)
        return grad_weighted * weights if for_patches else None, grad_positions_, grad_weights, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        patches, positions, weights, canvas_size = args
        size = info.batch_size
        patches, positions = lead(size, patches, in_dims[0]), lead(size, positions, in_dims[1])
        if in_dims[2] is not None or weights.ndim > 2:
            weights = lead(size, weights, in_dims[2])
            if weights.ndim == 3:  # (V, h, w): one per mapped call, shared by its patches
                weights = weights.reshape(size, *[1] * (patches.ndim - 3), *weights.shape[1:]).expand(patches.shape)
        return _reassemble(patches, positions, weights, canvas_size), (0, 0)


_reassemble: Callable[..., tuple[Tensor, Tensor]] = _Reassemble.apply

torch.library.register_fake("ptycho::reassemble_patches", _fake_reassemble_patches)
