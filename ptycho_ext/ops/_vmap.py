# SPDX-License-Identifier: BSD-3-Clause
"""vmap for operators that take any leading dimensions: the mapped dimension becomes the first of every tensor."""

from __future__ import annotations

from torch import Tensor


def lead(batch_size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with its mapped dimension in front, repeated there (without a copy) if it was not mapped."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def lead_weights(batch_size: int, weights: Tensor, dim: int | None, patches: Tensor) -> Tensor:
    """Weights for patches (V, ..., n, h, w) that already lead: (h, w) where all calls share them, else per patch."""
    if dim is None and weights.ndim == 2:
        return weights
    weights = lead(batch_size, weights, dim)
    if weights.ndim == 3:  # (V, h, w): one per mapped call, shared by its patches
        weights = weights.reshape(batch_size, *[1] * (patches.ndim - 3), *weights.shape[1:]).expand(patches.shape)
    return weights
