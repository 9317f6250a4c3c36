# SPDX-License-Identifier: BSD-3-Clause
"""The eight orientations of a scan: mirrored and rotated groups are different inputs with the same solution.

Averaging over them (test-time augmentation) removes what a network does in one direction only, and their spread is a
measure of what it does not know. An orientation is a number of three bits: transposed (4), then flipped in y (2), then
in x (1).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: inference.augment -> orientations; a half turn first, then the flips, then with transposition.
ORIENTATIONS = {1: (0,), 2: (0, 3), 4: (0, 3, 1, 2), 8: (0, 3, 1, 2, 4, 7, 5, 6)}


def turn_group(
    counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor, orientation: int
) -> tuple[Tensor, Tensor, tuple[int, int], Tensor]:
    """The arguments of a generator in another orientation.

    Args:
        counts: real, (B, C, N, N), FFT order.
        positions: float64, (B, C, 2), (y, x) on the canvas.
        canvas_size: (H, W).
        probe: complex, (M, N, N).
        orientation: 0 to 7; 0 changes nothing.
    """
    if orientation & 4:
        counts, probe = counts.transpose(-1, -2), probe.transpose(-1, -2)
        positions, canvas_size = positions.flip(-1), canvas_size[::-1]
    for axis, bit in enumerate((2, 1)):
        if orientation & bit:
            # A pattern is flipped about its DC at index 0, an image about the middle of its pixels.
            counts = counts.flip(axis - 2).roll(1, axis - 2)
            probe = probe.flip(axis - 2)
            start = positions.clone()
            start[..., axis] = canvas_size[axis] - counts.shape[-1] - positions[..., axis]
            positions = start
    return counts.contiguous(), positions.contiguous(), canvas_size, probe.contiguous()


def turn_back(canvases: Tensor, orientation: int) -> Tensor:
    """Canvases (B, H, W) that were predicted in ``orientation``, as those of orientation 0."""
    axes = [axis - 2 for axis, bit in enumerate((2, 1)) if orientation & bit]
    canvases = torch.flip(canvases, axes) if axes else canvases
    return canvases.transpose(-1, -2).contiguous() if orientation & 4 else canvases
