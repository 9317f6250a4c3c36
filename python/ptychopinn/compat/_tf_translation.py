# SPDX-License-Identifier: BSD-3-Clause
"""The translations of ``ptycho.tf_helper`` (section 1 of docs/porting.md), by both of its paths."""

from __future__ import annotations

import torch
from torch import Tensor

import ptycho_ext as ext
from ptychopinn.compat._layout import to_yx


def translate(
    imgs: Tensor, offsets: Tensor, interpolation: str = "bilinear", *, use_xla_translate: bool = True
) -> Tensor:
    """Images moved by +offset: content goes to larger x and y.

    Section 1. Images outnumbering offsets share them cyclically, image b with offset b % T; the original's other path,
    ``use_xla_translate=False``, gives blocks of B // T images one offset, moves by **-offset**, loses the last row and
    column when bilinear, and repeats the edge when nearest. It is here so that old results can be made again.

    Args:
        imgs: (B, H, W, C), real or complex.
        offsets: (T, 2) [x, y] in pixels, T a divisor of B.
        interpolation: "bilinear" or "nearest".
        use_xla_translate: the original's default path.

    Returns:
        (B, H, W, C) of the images' type.

    Raises:
        ValueError: the number of images is not a multiple of the number of offsets.

    Example:
        >>> translate(torch.tensor([1.0, 2, 4, 8, 16]).reshape(1, 1, 5, 1), torch.tensor([[0.5, 0.0]])).flatten()
        tensor([ 0.5000,  1.5000,  3.0000,  6.0000, 12.0000])
    """
    count, shared = len(imgs), len(offsets)
    if shared == 0 or count % shared:
        raise ValueError(f"translate: offsets must divide the {count} images evenly, got {shared}")
    if not use_xla_translate:
        return _translate_simple(imgs, offsets.repeat_interleave(count // shared, 0), interpolation)
    shifts = to_yx(offsets).repeat(count // shared, 1)
    planes = imgs.movedim(-1, 1)
    return ext.translate_images(planes, shifts[:, None].expand(*planes.shape[:2], 2), interpolation).movedim(1, -1)


def _translate_simple(imgs: Tensor, offsets: Tensor, interpolation: str) -> Tensor:
    """The other path: sampling at i + t, (B, H, W, C) by (B, 2) [x, y]."""
    real = imgs.real.dtype
    rows, columns = (
        torch.arange(size, dtype=real, device=imgs.device) + shift[:, None].to(real)
        for size, shift in zip(imgs.shape[1:3], to_yx(offsets).unbind(-1), strict=True)
    )
    if interpolation == "nearest":
        i, j = (s.round().long().clamp(0, n - 1) for s, n in zip((rows, columns), imgs.shape[1:3], strict=True))
        return imgs[torch.arange(len(imgs), device=imgs.device)[:, None, None], i[:, :, None], j[:, None, :]]
    # Both taps are clipped to the last sample in [n - 1, n), where their weights cancel: the border is lost.
    inside = [(s >= 0) & (s < n - 1) for s, n in zip((rows, columns), imgs.shape[1:3], strict=True)]
    return translate(imgs, -offsets) * (inside[0][:, :, None] & inside[1][:, None, :])[..., None]


class Translation(torch.nn.Module):
    """The layer around :func:`translate`: ``Translation()([imgs, offsets])``.

    Section 1. The original's random position jitter is not here: add noise to the offsets.
    """

    def forward(self, inputs: tuple[Tensor, Tensor] | list[Tensor]) -> Tensor:
        """Translate imgs (B, H, W, C) by offsets (B, 2), or anything that reshapes to it, [x, y]."""
        imgs, offsets = inputs
        return translate(imgs, offsets.reshape(-1, 2))
