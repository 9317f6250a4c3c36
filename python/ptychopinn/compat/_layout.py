# SPDX-License-Identifier: BSD-3-Clause
"""Layouts, sizes and offsets of PtychoPINN, shared by the modules of this package ("section": of docs/porting.md).

Offsets are [x, y] there and (y, x) here; ``to_yx`` is the only place that turns one into the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_yx(offsets_xy: Tensor) -> Tensor:
    """Offsets (..., 2) [x, y] as the operators' (y, x), float64.

    Example:
        >>> to_yx(torch.tensor([3.0, -1.0]))
        tensor([-1.,  3.], dtype=torch.float64)
    """
    return offsets_xy.flip(-1).to(torch.float64)


# --- layouts (section 2): channel (B, N, N, C), flat (B*C, N, N, 1), grid (B, g, g, N, N, 1); C = g*g ---


def channel_to_flat(img: Tensor) -> Tensor:
    """(B, N, N, C) to (B*C, N, N, 1); the channels of one group stay together. Section 2."""
    return img.movedim(-1, 1).flatten(0, 1).unsqueeze(-1)


def flat_to_channel(img: Tensor, *, gridsize: int) -> Tensor:
    """(B*C, N, N, 1) to (B, N, N, C), the inverse of :func:`channel_to_flat`. Section 2."""
    channel: Tensor = img[..., 0].unflatten(0, (-1, gridsize**2)).movedim(1, -1)
    return channel


def togrid(img: Tensor, *, gridsize: int) -> Tensor:
    """(B*C, N, N, 1) to (B, g, g, N, N, 1), rows of the grid first. Section 2."""
    grid: Tensor = img.unflatten(0, (-1, gridsize, gridsize))
    return grid


def grid_to_channel(grid: Tensor) -> Tensor:
    """(B, g, g, N, N, 1) to (B, N, N, C), channel = row * g + column of the grid. Section 2."""
    return grid[..., 0].flatten(1, 2).movedim(1, -1)


def _channel_to_patches(channel: Tensor, *, gridsize: int) -> Tensor:
    """(B, N, N, C) to (B, g, g, N*N), pixels row by row. Section 2."""
    patches: Tensor = channel.movedim(-1, 1).flatten(2).unflatten(1, (gridsize, gridsize))
    return patches


def flatten_offsets(offsets: Tensor) -> Tensor:
    """(B, 1, 2, C) to (B*C, 2), still [x, y]. Section 2."""
    return by_channel(offsets).flatten(0, 1)


def by_channel(offsets: Tensor) -> Tensor:
    """(B, 1, 2, C) to (B, C, 2)."""
    return offsets.squeeze(1).transpose(1, 2)


# --- sizes (section 3) ---


def get_padded_size(*, N: int, gridsize: int, offset: int, max_position_jitter: int) -> int:
    """Side of a group's canvas, ``N + (gridsize - 1) * offset + max_position_jitter``. Section 3."""
    return N + (gridsize - 1) * offset + max_position_jitter


def pad_patches(imgs: Tensor, padded_size: int) -> Tensor:
    """(B, N, N, C) with (padded_size - N) // 2 zeros on every side: one pixel short when that is odd. Section 3."""
    k = (padded_size - imgs.shape[1]) // 2
    return torch.nn.functional.pad(imgs, (0, 0, k, k, k, k))


def trim_reconstruction(x: Tensor, N: int) -> Tensor:
    """The centre of (B, S, S, C): k = (S - N) // 2 off every side, so N + 1 remain when S - N is odd.

    Section 3. As in the original nothing remains when k = 0: ``x[k:-k]`` is empty.
    """
    k = (x.shape[1] - N) // 2
    return x[:, k:-k, k:-k]


# --- offsets from a centre ---


def centred(offsets_xy: Tensor, centre: Tensor | None) -> Tensor:
    """Offsets (..., 2) from the centre, by default their mean; float64."""
    offsets = offsets_xy.to(torch.float64)
    return offsets - (offsets.reshape(-1, 2).mean(0) if centre is None else centre.to(offsets))


def dynamic_pad(adjusted: Tensor) -> int:
    """Pixels to add on every side for offsets (..., 2) from the centre: the largest, rounded up, made even.

    Rounded to float32 first, so that float64 noise above a whole pixel does not grow the canvas.
    """
    pad = math.ceil(adjusted.detach().abs().max().to(torch.float32).item())
    return pad + pad % 2
