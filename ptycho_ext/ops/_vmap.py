# SPDX-License-Identifier: BSD-3-Clause
"""vmap for the operators, without repeating what is not mapped.

Three ways, chosen by what a call maps: the mapped dimension becomes the first of all leading dimensions (``lead``), or
joins the patches' dimension of operators that take any number of them (``fold``), or the calls are made one after the
other (``loop``), where a large operand that is not mapped would have to be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def lead(batch_size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with its mapped dimension in front, repeated there (without a copy) if it was not mapped."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def fold(batch_size: int, tensor: Tensor, dim: int | None, inner: int) -> Tensor:
    """The tensor (..., n, <inner dimensions>) with the mapped dimension joined to n: (..., batch_size * n, <inner>)."""
    return lead(batch_size, tensor, dim).movedim(0, -inner - 2).flatten(-inner - 2, -inner - 1)


def unfold(batch_size: int, tensor: Tensor, inner: int) -> tuple[Tensor, int]:
    """The inverse of ``fold``: the tensor, and which of its dimensions is the mapped one."""
    return tensor.unflatten(-inner - 1, (batch_size, -1)), tensor.ndim - inner - 1


def loop(
    function: Callable[..., Any], batch_size: int, args: Sequence[Any], in_dims: Sequence[int | None]
) -> tuple[Any, Any]:
    """One call after the other, results stacked in front."""

    def arguments(i: int) -> list[Any]:
        return [a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)]

    results = [function(*arguments(i)) for i in range(batch_size)]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])
    return torch.stack(results), 0


def lead_weights(batch_size: int, weights: Tensor, dim: int | None, patches: Tensor) -> Tensor:
    """Weights for patches (V, ..., n, h, w) that already lead: (h, w) where all calls share them, else per patch."""
    if dim is None and weights.ndim == 2:
        return weights
    weights = lead(batch_size, weights, dim)
    if weights.ndim == 3:  # (V, h, w): one per mapped call, shared by its patches
        weights = weights.reshape(batch_size, *[1] * (patches.ndim - 3), *weights.shape[1:]).expand(patches.shape)
    return weights
