# SPDX-License-Identifier: BSD-3-Clause
"""vmap of the operators, without copies of operands that are not mapped.

There are three methods: the mapped dimension becomes the first leading dimension (``lead``), it is merged with the
patches' dimension (``fold``), or the operator is called in a loop (``loop``), where a large operand that is not mapped
would have to be copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def lead(batch_size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """Move the mapped dimension to the front, or expand a tensor that is not mapped (without a copy)."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def fold(batch_size: int, tensor: Tensor, dim: int | None, inner: int) -> Tensor:
    """Merge the mapped dimension of (..., n, <inner dimensions>) with n, to (..., batch_size * n, <inner>)."""
    return lead(batch_size, tensor, dim).movedim(0, -inner - 2).flatten(-inner - 2, -inner - 1)


def unfold(batch_size: int, tensor: Tensor, inner: int) -> tuple[Tensor, int]:
    """Split the mapped dimension from n, the inverse of ``fold``; returns the tensor and that dimension's index."""
    return tensor.unflatten(-inner - 1, (batch_size, -1)), tensor.ndim - inner - 1


def loop(
    function: Callable[..., Any], batch_size: int, args: Sequence[Any], in_dims: Sequence[int | None]
) -> tuple[Any, Any]:
    """Call a function for every index of the mapped dimension, and stack the results in front."""

    def arguments(i: int) -> list[Any]:
        return [a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)]

    results = [function(*arguments(i)) for i in range(batch_size)]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])
    return torch.stack(results), 0


def lead_weights(batch_size: int, weights: Tensor, dim: int | None, patches: Tensor) -> Tensor:
    """Weights for patches (V, ..., n, h, w): (h, w) where they are not mapped, else one image per patch."""
    if dim is None and weights.ndim == 2:
        return weights
    weights = lead(batch_size, weights, dim)
    if weights.ndim == 3:  # (V, h, w): one per mapped call, shared by its patches
        weights = weights.reshape(batch_size, *[1] * (patches.ndim - 3), *weights.shape[1:]).expand(patches.shape)
    return weights
