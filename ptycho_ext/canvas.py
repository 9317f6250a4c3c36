# SPDX-License-Identifier: BSD-3-Clause
"""Geometry of a canvas in scan coordinates.

A canvas is a rectangle of pixels of the scan plane, with integer coordinates: its sample [0, 0] is the scan pixel
``origin``. Origin and shape together locate an image on the scan, or on another image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True)
class CanvasGeometry:
    """A rectangle of pixels of the scan plane.

    Args:
        origin: (y, x) scan pixel of canvas sample [0, 0].
        shape: (H, W) in pixels.

    Raises:
        ValueError: a side is not positive.

    Example:
        >>> geometry = CanvasGeometry.from_positions([[10.5, -3.0], [14.0, 2.25]], patch_size=8)
        >>> geometry
        CanvasGeometry(origin=(10, -3), shape=(12, 14))
        >>> geometry.to_canvas([[10.5, -3.0]])
        tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """

    origin: tuple[int, int]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"CanvasGeometry: shape must be two positive integers, got {self.shape}")

    @classmethod
    def from_positions(
        cls, positions: Tensor | ArrayLike, patch_size: int | tuple[int, int], margin: int = 0
    ) -> CanvasGeometry:
        """Smallest canvas that contains every sample of every patch, and every tap of its interpolation.

        Args:
            positions: (..., 2) scan coordinates (y, x) of the patches' first samples, finite, at least one.
            patch_size: (h, w), or one integer for both.
            margin: pixels to add on every side.

        Returns:
            The geometry; ``to_canvas(positions)`` gives positions on this canvas.

        Raises:
            ValueError: no positions, positions that are not finite or not (..., 2), or a negative margin.
        """
        points = _float64(positions)
        if points.ndim < 1 or points.shape[-1] != 2 or points.numel() == 0:
            raise ValueError(f"CanvasGeometry: positions must have shape (..., 2), got {tuple(points.shape)}")
        if not bool(torch.isfinite(points).all()):
            raise ValueError("CanvasGeometry: positions must be finite, got nan or inf")
        if margin < 0:
            raise ValueError(f"CanvasGeometry: margin must be at least 0, got {margin}")
        sizes = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        points = points.reshape(-1, 2)
        low = [math.floor(v) - margin for v in points.amin(0).tolist()]
        # The last sample is at position + size - 1; a fractional one also taps the pixel above.
        high = [math.ceil(v) + size - 1 + margin for v, size in zip(points.amax(0).tolist(), sizes, strict=True)]
        return cls((low[0], low[1]), (high[0] - low[0] + 1, high[1] - low[1] + 1))

    def to_canvas(self, positions: Tensor | ArrayLike) -> Tensor:
        """Convert scan coordinates (..., 2) to canvas coordinates, float64."""
        points = _float64(positions)
        return points - points.new_tensor(self.origin)

    def to_scan(self, positions: Tensor | ArrayLike) -> Tensor:
        """Convert canvas coordinates (..., 2) to scan coordinates, float64."""
        points = _float64(positions)
        return points + points.new_tensor(self.origin)


def _float64(positions: Tensor | ArrayLike) -> Tensor:
    if isinstance(positions, Tensor):
        return positions.to(torch.float64)
    return torch.as_tensor(positions, dtype=torch.float64, device="cpu")
