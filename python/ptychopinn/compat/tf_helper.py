# SPDX-License-Identifier: BSD-3-Clause
"""PtychoPINN's ``ptycho.tf_helper`` on torch tensors.

Names, layouts (batch, row, column, channel), signs and canvases are those of the original; what was a global parameter
there (N, gridsize, offset) is a keyword here. Offsets are [x, y] at this boundary and nowhere behind it: ``to_yx`` is
the only conversion. "Section" means a section of docs/porting.md; translation and reassembly are in the modules beside
this one. Everything is differentiable and keeps the type of its images; sampling coordinates are float64, where the
original rounds them to float32 before taking the fraction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import ptycho_ext as ext
from ptychopinn.compat._layout import (
    _channel_to_patches,
    by_channel,
    channel_to_flat,
    flat_to_channel,
    flatten_offsets,
    get_padded_size,
    grid_to_channel,
    pad_patches,
    to_yx,
    togrid,
    trim_reconstruction,
)
from ptychopinn.compat._tf_reassembly import (
    _reassemble_patches_position_real,
    _reassemble_position_batched,
    extract_patches,
    extract_patches_inverse,
    mk_centermask,
    mk_norm,
    mk_reassemble_position_batched_real,
    mk_reassemble_position_real,
    reassemble_patches,
    reassemble_patches_real,
    reassemble_position,
    reassemble_whole_object,
    shift_and_sum,
)
from ptychopinn.compat._tf_translation import Translation, translate

__all__ = [
    "Translation",
    "_channel_to_patches",
    "_reassemble_patches_position_real",
    "_reassemble_position_batched",
    "center_channels",
    "channel_to_flat",
    "extract_patches",
    "extract_patches_inverse",
    "extract_patches_position",
    "flat_to_channel",
    "flatten_offsets",
    "get_padded_size",
    "grid_to_channel",
    "mk_centermask",
    "mk_norm",
    "mk_reassemble_position_batched_real",
    "mk_reassemble_position_real",
    "pad_and_diffract",
    "pad_patches",
    "reassemble_patches",
    "reassemble_patches_real",
    "reassemble_position",
    "reassemble_whole_object",
    "shift_and_sum",
    "togrid",
    "translate",
    "trim_reconstruction",
]


# --- patches of a region, and centring (section 4) ---


def extract_patches_position(imgs: Tensor, offsets_xy: Tensor, *, N: int) -> Tensor:
    """The central N x N of every image moved by +offset: the window centred at (image centre - offset).

    Section 4. Flat layout, as the original returns in spite of its docstring; sizes are those of
    :func:`trim_reconstruction` (N + 1 when M - N is odd, empty when M - N < 2).

    Args:
        imgs: (B, M, M, 1).
        offsets_xy: (B, 1, 2, C) [x, y].
        N: side of a patch.

    Returns:
        (B*C, N, N, 1).
    """
    side = imgs.shape[1]
    k = (side - N) // 2
    patches = ext.extract_patches(imgs[..., 0], k - to_yx(by_channel(offsets_xy)), side - 2 * k)
    return patches.flatten(0, 1).unsqueeze(-1)[:, : None if k else 0, : None if k else 0]


def center_channels(channels: Tensor, offsets_xy: Tensor) -> Tensor:
    """Every channel moved by -offset within its own N x N; what leaves it is lost. Section 4.

    Args:
        channels: (B, N, N, C).
        offsets_xy: (B, 1, 2, C) [x, y].

    Returns:
        (B, N, N, C).
    """
    return ext.translate_images(channels.movedim(-1, 1), -to_yx(by_channel(offsets_xy))).movedim(1, -1)


# --- diffraction (section 8) ---


def pad_and_diffract(x: Tensor, h: int, w: int, pad: bool = True) -> tuple[Tensor, Tensor]:
    """The far-field amplitude sqrt(|FFT2|^2 / (h * w)), zero frequency in the middle.

    Section 8. h * w is the area *before* padding. The gradient is finite where the amplitude is zero.

    Args:
        x: (B, h, w, 1) complex.
        h, w: its sides.
        pad: add h // 4 and w // 4 zeros on the sides first.

    Returns:
        padded input and amplitude, (B, H, W, 1) each, H = h + 2 * (h // 4) when padded.
    """
    if pad:
        x = torch.nn.functional.pad(x, (0, 0, w // 4, w // 4, h // 4, h // 4))
    amplitude = torch.fft.fft2(x, dim=(1, 2)).abs() / math.sqrt(h * w)
    return x, torch.fft.fftshift(amplitude, dim=(1, 2))
