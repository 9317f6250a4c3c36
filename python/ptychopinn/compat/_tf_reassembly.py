# SPDX-License-Identifier: BSD-3-Clause
"""The reassembly of ``ptycho.tf_helper``: of groups, of a scan, on a grid (sections 5 to 7 of docs/porting.md)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import ptycho_ext as ext
from ptychopinn.compat._layout import (
    _channel_to_patches,
    by_channel,
    centred,
    channel_to_flat,
    dynamic_pad,
    flatten_offsets,
    pad_patches,
    to_yx,
)
from ptychopinn.compat._tf_translation import translate

# --- reassembly of groups on canvases of a given size (section 5) ---

Reassemble = Callable[[Tensor], Tensor]


def _reassemble_patches_position_real(
    imgs: Tensor, offsets_xy: Tensor, agg: bool = True, *, padded_size: int, centre: Tensor | None = None
) -> Tensor:
    """Each group's patches summed on a canvas of its own, moved by -(offset - centre).

    Section 5. The default centre is the mean offset of the *whole batch*, so a group's canvas depends on the others;
    the original takes that mean in float32. Complex patches are allowed.

    Args:
        imgs: (B, N, N, C).
        offsets_xy: (B, 1, 2, C) [x, y].
        agg: False keeps the C moved patches apart.
        padded_size: side P of the canvas; P - N even.
        centre: (2,) the [x, y] that lies on the canvas centre.

    Returns:
        (B, P, P, 1), or (B, P, P, C) without agg.

    Raises:
        ValueError: padded_size - N is odd or negative.
    """
    margin = padded_size - imgs.shape[1]
    if margin < 0 or margin % 2:
        raise ValueError(f"reassemble: padded_size must be N + an even margin, got N={imgs.shape[1]}, {padded_size}")
    patches, offsets = imgs.movedim(-1, 1), centred(by_channel(offsets_xy), centre)
    if not agg:
        patches, offsets = patches.unsqueeze(2), offsets.unsqueeze(2)
    canvas = ext.extract_patches_adjoint(patches, margin // 2 - to_yx(offsets), padded_size)
    return canvas.unsqueeze(-1) if agg else canvas.movedim(1, -1)


def _reassemble_position_batched(
    imgs: Tensor, offsets_xy: Tensor, padded_size: int, batch_size: int = 64, *, centre: Tensor | None = None
) -> Tensor:
    """:func:`_reassemble_patches_position_real`, except that many patches share **one** canvas.

    Section 5. As in the original the shape of the result depends on how many patches there are: fewer than batch_size
    (64 if that is not positive) give (B, P, P, 1), others (1, P, P, 1), the sum over groups too. There an odd P - N is
    allowed and puts the patches half a pixel before the centre. The original refuses complex patches here.
    """
    size, (B, N, _, C) = batch_size if batch_size > 0 else 64, imgs.shape
    if size > B * C:
        return _reassemble_patches_position_real(imgs, offsets_xy, padded_size=padded_size, centre=centre)
    if padded_size < N:
        raise ValueError(f"reassemble: padded_size must be at least N={N}, got {padded_size}")
    positions = (padded_size - N) // 2 - to_yx(centred(flatten_offsets(offsets_xy), centre))
    canvas = ext.extract_patches_adjoint(channel_to_flat(imgs)[..., 0], positions, padded_size)
    return canvas[None, ..., None]


def mk_reassemble_position_real(offsets_xy: Tensor, *, padded_size: int, centre: Tensor | None = None) -> Reassemble:
    """The function of patches that :func:`reassemble_patches` wants, one canvas per group. Section 5."""
    return lambda imgs: _reassemble_patches_position_real(imgs, offsets_xy, padded_size=padded_size, centre=centre)


def mk_reassemble_position_batched_real(
    offsets_xy: Tensor, batch_size: int = 64, *, padded_size: int, centre: Tensor | None = None
) -> Reassemble:
    """The same around :func:`_reassemble_position_batched`; complex patches are allowed. Section 5."""
    return lambda imgs: _reassemble_position_batched(imgs, offsets_xy, padded_size, batch_size, centre=centre)


def mk_centermask(inputs: Tensor, N: int, c: int, kind: str = "center") -> Tensor:
    """(B, s, s, c) ones on the central N//2 pixels of an axis; "border" is its complement.

    Section 5. s = N//2 + 2 * (N//4), which is N only for multiples of 4.
    """
    k, core = N // 4, torch.ones(len(inputs), N // 2, N // 2, c, dtype=inputs.real.dtype, device=inputs.device)
    mask = torch.nn.functional.pad(core, (0, 0, k, k, k, k))
    if kind not in ("center", "border"):
        raise ValueError(f"mk_centermask: kind must be 'center' or 'border', got {kind!r}")
    return mask if kind == "center" else 1 - mask


def mk_norm(channels: Tensor, fn_reassemble_real: Reassemble) -> Tensor:
    """The reassembled centre masks of channels (B, N, N, C), plus 0.001. Section 5."""
    return fn_reassemble_real(mk_centermask(channels, channels.shape[1], channels.shape[-1])) + 0.001


def reassemble_patches(channels: Tensor, fn_reassemble_real: Reassemble) -> Tensor:
    """Sum of the **full** patches over the sum of their **centre masks** (plus 0.001).

    Section 5. Outside the centre windows that is a thousand times the sum; the operator
    :func:`ptycho_ext.reassemble_patches`, whose numerator and denominator share one weight, has no such rim.

    Args:
        channels: (B, N, N, C), N a multiple of 4 unless fn_reassemble_real shares one canvas.
        fn_reassemble_real: patches to canvases, e.g. ``mk_reassemble_position_real(offsets, padded_size=P)`` or
            ``partial(reassemble_patches_real, average=False, gridsize=g, offset=o)``, the original's default.

    Returns:
        (B, P, P, 1), or (1, P, P, 1) from one shared canvas.

    Raises:
        ValueError: the masks do not fit the canvas, N not being a multiple of 4.
    """
    total, norm = fn_reassemble_real(channels), mk_norm(channels, fn_reassemble_real)
    if total.shape != norm.shape:
        raise ValueError(f"reassemble_patches: N must be a multiple of 4, got {channels.shape[1]}")
    return total / norm


def reassemble_whole_object(
    patches: Tensor,
    offsets: Tensor,
    size: int = 226,
    norm: bool = False,
    batch_size: int | None = None,
    *,
    centre: Tensor | None = None,
) -> Tensor:
    """All groups on one canvas: :func:`reassemble_patches`, summed over what it returns.

    Section 5. With batch_size the quotient is taken once, of the sums over all groups; without it once per group:
    two different images. norm=True divides by the same of ones, and is NaN (0/0) where no patch reaches.

    Args:
        patches: (B, N, N, C).
        offsets: (B, 1, 2, C) [x, y].
        size: side P of the canvas.
        norm: divide by the whole object of ones.
        batch_size: of :func:`_reassemble_position_batched`; None is one canvas per group.
        centre: (2,) the [x, y] that lies on the canvas centre; by default the mean offset.

    Returns:
        (P, P, 1) of the patches' type.
    """
    if batch_size is None:
        fn = mk_reassemble_position_real(offsets, padded_size=size, centre=centre)
    else:
        fn = mk_reassemble_position_batched_real(offsets, batch_size, padded_size=size, centre=centre)
    image = reassemble_patches(patches, fn).sum(0)
    return image / reassemble_patches(torch.ones_like(patches.real), fn).sum(0) if norm else image


# --- reassembly of a scan on one canvas (section 6) ---


def _crop(patches: Tensor, M: int) -> Tensor:
    """The 2 * (M // 2) pixels of (n, N, N) around N // 2; M even, at most N."""
    N = patches.shape[-1]
    if M % 2 or not 0 < M <= N:
        raise ValueError(f"shift_and_sum: M must be even and at most N={N}, got {M}")
    return patches[:, N // 2 - M // 2 : N // 2 + M // 2, N // 2 - M // 2 : N // 2 + M // 2]


def shift_and_sum(
    obj_tensor: Tensor,
    global_offsets: Tensor,
    M: int = 10,
    *,
    centre: Tensor | None = None,
    use_xla_translate: bool = True,
) -> Tensor:
    """The patches' central M x M summed on one canvas, moved by **+**(offset - centre).

    Section 6. Patches are placed, not padded to the canvas one by one, so chunk_size has no place here. The original
    takes the mean in float32, which moves everything by up to 1e-3 pixels on long scans; pass centre to fix it.

    Args:
        obj_tensor: (n, N, N, 1), of any type the operators take.
        global_offsets: (n, 1, 1, 2) [x, y].
        M: even, at most N.
        centre: (2,) the [x, y] that lies on the canvas centre; by default the mean.
        use_xla_translate: False makes the original's other path, the image of the reflected positions.

    Returns:
        (P, P, 1), P = M + 2 * dynamic_pad(offset - centre).

    Raises:
        ValueError: M is odd or larger than N.
    """
    crop, adjusted = _crop(obj_tensor[..., 0], M), centred(global_offsets.reshape(-1, 2), centre)
    pad = dynamic_pad(adjusted)
    if not use_xla_translate:
        return translate(pad_patches(crop[..., None], M + 2 * pad), adjusted, use_xla_translate=False).sum(0)
    return ext.extract_patches_adjoint(crop, pad + to_yx(adjusted), M + 2 * pad)[..., None]


def reassemble_position(
    obj_tensor: Tensor, global_offsets: Tensor, M: int = 10, *, centre: Tensor | None = None
) -> Tensor:
    """:func:`shift_and_sum` of the patches over 1e-9 + that of ones: the mean of what overlaps.

    Section 6. Compare it only where the sum of ones is not tiny: at the rim both are rounding noise, in the original
    too. :func:`ptycho_ext.reassemble_patches` has a threshold there instead of 1e-9.
    """
    crop, adjusted = _crop(obj_tensor[..., 0], M), centred(global_offsets.reshape(-1, 2), centre)
    pad = dynamic_pad(adjusted)
    total, ones = ext.reassemble_patches(crop, pad + to_yx(adjusted), M + 2 * pad, normalize=False)
    return (total / (1e-9 + ones))[..., None]


# --- patches on a regular grid (section 7) ---


def extract_patches(x: Tensor, N: int, offset: int) -> Tensor:
    """All whole N x N windows of x (B, H, W, 1) in steps of offset: (B, rows, columns, N*N). Section 7."""
    starts = [torch.arange(0, size - N + 1, offset, device=x.device) for size in x.shape[1:3]]
    positions = torch.cartesian_prod(*starts)
    patches = ext.extract_patches(x[..., 0], positions.expand(len(x), -1, 2), N).flatten(2)
    grid: Tensor = patches.unflatten(1, [len(s) for s in starts])
    return grid


def extract_patches_inverse(inputs: Tensor, N: int, average: bool, *, gridsize: int, offset: int) -> Tensor:
    """The adjoint of :func:`extract_patches`; average divides by the number of windows over a pixel, 0/0 being NaN.

    Section 7.

    Args:
        inputs: (B, g, g, N*N).
        N: side of a patch.
        average: divide.
        gridsize, offset: g, and the step between windows.

    Returns:
        (B, P, P, 1), P = N + (g - 1) * offset.
    """
    steps = torch.arange(gridsize, device=inputs.device) * offset
    positions = torch.cartesian_prod(steps, steps).expand(len(inputs), -1, 2)
    patches, side = inputs.reshape(len(inputs), -1, N, N), N + (gridsize - 1) * offset
    total, count = ext.reassemble_patches(patches, positions, side, normalize=False)
    return (total / count if average else total).unsqueeze(-1)


def reassemble_patches_real(channels: Tensor, average: bool = True, *, gridsize: int, offset: int) -> Tensor:
    """:func:`extract_patches_inverse` of channels (B, N, N, C), real or complex: (B, P, P, 1). Section 7."""
    patches = _channel_to_patches(channels, gridsize=gridsize)
    return extract_patches_inverse(patches, channels.shape[1], average, gridsize=gridsize, offset=offset)
