# SPDX-License-Identifier: BSD-3-Clause
"""PtychoPINN's ``ptycho_torch.helper`` and the accumulators of ``ptycho_torch.reassembly``.

Names, layouts (batch, channel, row, column), signs and canvases are those of the original; what came from its
configuration objects is a keyword here. Offsets are [x, y] at this boundary, converted by ``to_yx`` alone.
"Section" means a section of docs/porting.md. Everything is differentiable and keeps the type of its images. Sampling
is exact: the original goes through a normalised grid and is off by about 6e-7 of the canvas side, in units of the data.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

import ptycho_ext as ext
from ptychopinn.compat._layout import centred, dynamic_pad, to_yx


def Translation(img: Tensor, offset: Tensor) -> Tensor:
    """Images (n, H, W) moved by +offset (n, 1, 2) [x, y]: (n, 1, H, W). Section 1.

    The original's random position jitter is not here: add noise to the offsets.
    """
    return ext.translate_images(img, to_yx(offset[:, 0])).unsqueeze(1)


def get_padded_size(*, N: int, grid_size: tuple[int, int], max_neighbor_distance: float) -> int:
    """Side of a group's canvas: N + (rows - 1) * the distance, rounded up and made even; no jitter. Section 3."""
    step = math.ceil(max_neighbor_distance)
    return N + (grid_size[0] - 1) * (step + step % 2)


def trim_reconstruction(inputs: Tensor, N: int) -> Tensor:
    """The central N x N of (..., S, S); of an odd margin the larger part is taken off the end. Section 3."""
    start = (inputs.shape[-1] - N) // 2
    return inputs[..., start : start + N, start : start + N]


def mk_centermask(inputs: Tensor) -> Tensor:
    """Ones in the shape of inputs (B, C, N, N), without a border, in spite of the name. Section 5."""
    return torch.ones_like(inputs.real)


def extract_channels_from_region(inputs: Tensor, offsets_xy: Tensor, *, N: int) -> Tensor:
    """The central N x N of every canvas moved by +offset: the window centred at (canvas centre - offset).

    Section 4.

    Args:
        inputs: (B, 1, M, M).
        offsets_xy: (B, C, 1, 2) [x, y].
        N: side of a patch.

    Returns:
        (B, C, N, N).
    """
    start = (inputs.shape[-1] - N) // 2
    return ext.extract_patches(inputs[:, 0], start - to_yx(offsets_xy[:, :, 0]), N)


# --- reassembly of groups (section 9) ---


def _place(patches: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Each of (B, C, h, w) moved by offsets (B, C, 2) [x, y] on a canvas of its own: (B, C, size, size)."""
    positions = (size - patches.shape[-1]) // 2 + to_yx(offsets)
    return ext.extract_patches_adjoint(patches.unsqueeze(2), positions.unsqueeze(2), size)


def _centre_window(patches: Tensor) -> Tensor:
    """(N, N) real: ones on the N//2 rows and columns from N//4 on."""
    N = patches.shape[-1]
    mask = patches.real.new_zeros(N, N)
    mask[N // 4 : N // 4 + N // 2, N // 4 : N // 4 + N // 2] = 1
    return mask


def reassemble_patches_position_real(
    inputs: Tensor,
    offsets_xy: Tensor,
    *,
    padded_size: int | None = None,
    crop_size: int | None = None,
    agg: bool = True,
) -> tuple[Tensor, Tensor, int] | Tensor:
    """Each group's patches merged on a canvas of its own, moved by -offset.

    Section 9. Without crop_size: patch and centre window are moved, multiplied and summed, and divided by the summed
    windows + 0.001 where these exceed 1e-6. With crop_size m: the central m x m are summed, moved by the offset from
    the mean of the *whole batch*, and divided by the number of patches over a pixel + 1e-9.

    Args:
        inputs: (B, C, N, N).
        offsets_xy: (B, C, 1, 2) [x, y].
        padded_size: side P of the canvas, see :func:`get_padded_size`; with crop_size it follows from the offsets.
        crop_size: side of the centre to use; even or odd.
        agg: False returns the moved patches (B, C, P, P) alone.

    Returns:
        merged (B, P, P), mask (B, P, P) of the pixels that were reached, P.

    Raises:
        ValueError: neither or both of padded_size and crop_size are given.
    """
    if (padded_size is None) == (crop_size is None):
        raise ValueError("reassemble: padded_size or crop_size must be given, not both")
    if padded_size is not None:
        if not agg:
            return _place(inputs, -offsets_xy[:, :, 0], padded_size)
        return *_merge(inputs, offsets_xy, padded_size), padded_size
    assert crop_size is not None
    patches, offsets = _crop(inputs, crop_size), centred(offsets_xy[:, :, 0], None)
    pad = dynamic_pad(offsets)
    size = crop_size + 2 * pad
    if not agg:
        return _place(patches, -offsets, size)
    total, cover = ext.reassemble_patches(patches, pad - to_yx(offsets), size, normalize=False)
    return total / (cover + 1e-9), cover > 1e-6, size


def _crop(patches: Tensor, size: int) -> Tensor:
    """The size x size of (..., N, N) from N // 2 - size // 2 on."""
    low = patches.shape[-1] // 2 - size // 2
    return patches[..., low : low + size, low : low + size]


def _merge(inputs: Tensor, offsets_xy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The image and mask of :func:`reassemble_patches_position_real` without crop_size."""
    offsets = offsets_xy[:, :, 0]
    masks = _place(_centre_window(inputs).expand(inputs.shape), -offsets, size)
    cover = masks.sum(1)
    mask = cover > 1e-6
    return (_place(inputs, -offsets, size) * masks).sum(1) * mask / (cover + 1e-3), mask


def reassemble_patches_position_real_probe(
    inputs: Tensor, offsets_xy: Tensor, probe: Tensor, *, padded_size: int, uniform: bool = False
) -> tuple[Tensor, Tensor, int]:
    """:func:`reassemble_patches_position_real` with the probe's intensity as the weight, and no constant below.

    Section 9. Sum of moved patch * moved weight over the summed weights (at least 1e-12), where these exceed 1e-6 of
    the largest on that canvas; zero elsewhere. :func:`ptycho_ext.reassemble_patches` moves the product instead.

    Args:
        inputs: (B, C, N, N).
        offsets_xy: (B, C, 1, 2) [x, y].
        probe: (N, N), (B, N, N) or modes (B | 1, C | 1, P, N, N), whose intensities are summed.
        padded_size: side P of the canvas.
        uniform: weight by the centre window instead, threshold 1e-6.

    Returns:
        merged (B, P, P), mask (B, P, P) of the pixels that were reached, P.

    Raises:
        ValueError: the probe has another number of dimensions.
    """
    if uniform:
        weights = _centre_window(inputs)
    elif probe.ndim in (2, 3):
        weights = (probe.abs() ** 2).unsqueeze(-3)
    elif probe.ndim == 5:
        weights = (probe.abs() ** 2).sum(2)
    else:
        raise ValueError(f"reassemble: probe must be (N, N), (B, N, N) or (B, C, P, N, N), got {tuple(probe.shape)}")
    offsets = offsets_xy[:, :, 0]
    moved_weights = _place(weights.expand(inputs.shape), -offsets, padded_size)
    total = (_place(inputs, -offsets, padded_size) * moved_weights).sum(1)
    cover = moved_weights.sum(1)
    mask = cover > (1e-6 if uniform else 1e-6 * cover.detach().amax((1, 2), keepdim=True))
    return total * mask / cover.clamp(min=1e-12), mask, padded_size


# --- reassembly of a scan on one canvas (section 9) ---


def reassemble_single_channel(
    im: Tensor, global_coords: Tensor, com: Tensor, *, max_offset: float, middle: int
) -> tuple[Tensor, Tensor]:
    """The patches' central middle x middle summed on one canvas, moved by +(coordinate - com).

    Section 9.

    Args:
        im: (n, 1, N, N).
        global_coords: (n, 1, 1, 2) [x, y].
        com: (2,) [x, y] that lies on the canvas centre.
        max_offset: the margin of the canvas, rounded up, but not made even.
        middle: side of the centre to use.

    Returns:
        sum and count (P, P) of the images' type, P = middle + 2 * ceil(max_offset); nothing is divided.
    """
    patches, pad = _crop(im[:, 0], middle), math.ceil(max_offset)
    positions = pad + to_yx(centred(global_coords.reshape(-1, 2), com))
    total, count = ext.reassemble_patches(patches, positions, middle + 2 * pad, normalize=False)
    return total, count.to(total.dtype)


def reassemble_multi_channel(
    im: Tensor,
    relative_coords: Tensor,
    centers: Tensor,
    com: Tensor,
    *,
    padded_size: int,
    max_offset: float,
    middle: int,
) -> tuple[Tensor, Tensor]:
    """Groups merged on canvases of their own, whose central middle x middle are summed on one canvas.

    Section 9. The count sums moved masks (0 or 1), not the groups' weights.

    Args:
        im: (B, C, N, N).
        relative_coords: (B, C, 1, 2) [x, y] from the group's centre; patches are moved by their negative.
        centers: (B, 1, 1, 2) [x, y] of the groups, which are moved by +(centre - com).
        com: (2,) [x, y] that lies on the canvas centre.
        padded_size: side of a group's canvas, see :func:`get_padded_size`.
        max_offset, middle: as in :func:`reassemble_single_channel`.

    Returns:
        sum (P, P) of the images' type and count (P, P), real; nothing is divided.
    """
    merged, mask = _merge(im, relative_coords, padded_size)
    total, _ = reassemble_single_channel(merged[:, None], centers, com, max_offset=max_offset, middle=middle)
    seen = mask[:, None].to(im.real.dtype)
    count, _ = reassemble_single_channel(seen, centers, com, max_offset=max_offset, middle=middle)
    return total, count


class VectorizedBarycentricAccumulator:
    """Sums of whole patches at sub-pixel positions, and of the weight that every pixel received.

    Section 9. A position is the patch's *middle*: its sample [0, 0] lies at (y, x) - S / 2. As in the original a patch
    that touches the border, ``floor(corner) < 0`` or ``floor(corner) + S + 1 >= extent``, is dropped whole;
    :func:`ptycho_ext.reassemble_patches` keeps the part that is inside.

    Args:
        canvas_size: (H, W).
        dtype: of the canvas.
        device: where the canvas lies; None: the CPU.

    Attributes:
        canvas, weights: the sums (H, W) so far; nothing is divided.
        accepted, total: patches that were placed, and that were given.
    """

    def __init__(
        self,
        canvas_size: tuple[int, int],
        *,
        dtype: torch.dtype = torch.complex64,
        device: torch.device | str | None = None,
    ) -> None:
        self.canvas = torch.zeros(canvas_size, dtype=dtype, device=device or "cpu")
        self.weights = torch.zeros_like(self.canvas.real)
        self.accepted = self.total = 0

    def accumulate_batch(self, patches: Tensor, positions_px: Tensor) -> None:
        """Add patches (n, S, S) at positions (n, 2) [x, y]; patches outside are dropped silently."""
        self._add(patches, positions_px, None)

    def _add(self, patches: Tensor, positions_px: Tensor, weights: Tensor | None) -> int:
        """Add what fits, and return how many did not."""
        side = patches.shape[-1]
        corners = to_yx(positions_px) - side / 2
        low, extent = corners.detach().floor(), corners.new_tensor(self.canvas.shape)
        fits = ((low >= 0) & (low + side + 1 < extent)).all(1)
        if weights is not None and weights.ndim == 3:
            weights = weights[fits]
        total, weight = ext.reassemble_patches(
            patches[fits], corners[fits], self.canvas.shape, weights, normalize=False
        )
        self.canvas, self.weights = self.canvas + total, self.weights + weight
        placed = int(fits.sum())
        self.accepted, self.total = self.accepted + placed, self.total + len(patches)
        return len(patches) - placed


class VectorizedWeightedAccumulator(VectorizedBarycentricAccumulator):
    """The same with patches weighted by the probe's intensity before they are moved, and a warning for dropped ones."""

    def accumulate_batch(  # type: ignore[override]
        self, patches: Tensor, positions_px: Tensor, probe_mag_sq: Tensor
    ) -> None:
        """Add patches (n, S, S) at positions (n, 2) [x, y] with weights (S, S) or (n, S, S)."""
        dropped = self._add(patches, positions_px, probe_mag_sq)
        if dropped:
            warnings.warn(
                f"accumulator: {dropped} of {len(patches)} patches do not lie inside the canvas", stacklevel=2
            )


# --- diffraction (section 8) ---


def pad_and_diffract(x: Tensor, pad: bool = True) -> tuple[Tensor, Tensor]:
    """The far-field amplitude of P **coherent** modes, sqrt(|sum_p FFT2|^2 / (h * w)), zero frequency in the middle.

    Section 8. h * w is the area *before* padding. The tuple is in the other order than in ``tf_helper``.

    Args:
        x: (n, C, P, h, w) complex.
        pad: add h // 4 and w // 4 zeros on the sides first.

    Returns:
        amplitude (n, C, H, W), and the padded input (n, C, P, H, W).
    """
    h, w = x.shape[-2:]
    if pad:
        x = torch.nn.functional.pad(x, (w // 4, w // 4, h // 4, h // 4))
    amplitude = torch.fft.fft2(x).sum(-3).abs() / math.sqrt(h * w)
    return torch.fft.fftshift(amplitude, dim=(-2, -1)), x


def illuminate_and_diffract(obj: Tensor, probe: Tensor, *, nphotons: float) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities of objects behind a probe of **coherent** modes, scaled to nphotons per pattern on average.

    Section 8. Incoherent modes are in :func:`ptychopinn.physics.propagation.diffract`.

    Args:
        obj: (n, H, W) complex.
        probe: (P, H, W) complex.
        nphotons: mean photons per pattern; where the mean is zero to rounding, nothing is scaled.

    Returns:
        intensity (n, H, W), zero frequency in the middle; obj; the scaled probe (1, P, H, W).
    """
    intensity = torch.fft.fft2(obj[:, None] * probe, norm="ortho").sum(1).abs() ** 2
    mean = intensity.sum((1, 2)).mean()
    scale = nphotons / mean if mean > max(1e-9, 1e-9 * nphotons) else torch.ones_like(mean)
    return torch.fft.fftshift(scale * intensity, dim=(-2, -1)), obj, (probe * scale.sqrt())[None]
