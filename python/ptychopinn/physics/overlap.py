# SPDX-License-Identifier: BSD-3-Clause
"""The overlap constraint: patches of one group must agree where they overlap.

Merging is the weighted average of the patches on the group's canvas; the weight is usually the probe's intensity.
Projecting extracts the patches from that canvas again. Numerator and denominator have the same weight, so a constant
object is preserved.
"""

from __future__ import annotations

import torch
from torch import Tensor

import ptycho_ext
from ptycho_ext import extract_patches_adjoint, reassemble_patches
from ptychopinn.physics.propagation import squared_modulus


def illumination_weight(probe: Tensor) -> Tensor:
    """Probe intensity ``sum_m |P_m|^2``: complex (M, N, N) to real (N, N), in counts per pixel."""
    return squared_modulus(probe).sum(0)


def canvas_illumination(weight: Tensor, positions: Tensor, canvas_size: tuple[int, int]) -> Tensor:
    """Sum a weight over the positions of every group, on its canvas.

    Args:
        weight: real, (N, N), of one pattern, usually :func:`illumination_weight`.
        positions: float64, (B, C, 2), (y, x) of each patch's first sample on its canvas, in pixels.
        canvas_size: (H, W) in pixels.

    Returns:
        real, (B, H, W), in the unit of the weight.
    """
    weights = weight.expand(*positions.shape[:2], *weight.shape).contiguous()
    return extract_patches_adjoint(weights, positions, canvas_size)


def merge_patches(
    patches: Tensor, positions: Tensor, canvas_size: tuple[int, int], weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the weighted average of the patches of every group on its canvas.

    Args:
        patches: complex, (B, C, N, N).
        positions: float64, (B, C, 2), (y, x) of each patch's first sample on its canvas.
        canvas_size: (H, W) in pixels.
        weights: real, (N, N), >= 0, usually :func:`illumination_weight`.

    Returns:
        canvas (B, H, W) complex, zero where no patch has weight; and the summed weights (B, H, W).
    """
    return reassemble_patches(patches, positions, canvas_size, weights=weights)


def overlap_project(patches: Tensor, positions: Tensor, canvas_size: tuple[int, int], weights: Tensor) -> Tensor:
    """Project patches onto the overlap constraint: merge them on the group's canvas, then extract them again.

    Arguments as for :func:`merge_patches`.

    Returns:
        complex, (B, C, N, N).
    """
    return ptycho_ext.overlap_project(patches, positions, canvas_size, weights)


def accumulate_weight(weight: Tensor, positions: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum over positions (n, 2) of a weight (N, N) times a value (n,) each, on a canvas of shape (H, W)."""
    total = torch.zeros(shape, dtype=torch.float32, device=weight.device)
    for part, value in zip(positions.split(256), values.float().split(256), strict=True):
        total += extract_patches_adjoint(value[:, None, None] * weight, part, shape)
    return total
