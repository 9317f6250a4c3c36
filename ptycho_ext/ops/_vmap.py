# SPDX-License-Identifier: BSD-3-Clause
"""vmap for operators that take any leading dimensions: the mapped dimension becomes the first of every tensor."""

from __future__ import annotations

from torch import Tensor


def lead(batch_size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with its mapped dimension in front, repeated there (without a copy) if it was not mapped."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
