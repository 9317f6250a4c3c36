# SPDX-License-Identifier: BSD-3-Clause
"""The weighted average of overlapping patches, for patches that come in parts and sums that lie anywhere.

What is kept are three sums, to which patches are added in boxes: the mean follows from them at any time, for a part of
the canvas if only that is wanted. Stitching in memory, on disk and over several processes differ in the store of these
sums (:mod:`ptychopinn.stitching.stores`); how patches are added, the threshold and the mean are here, once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry, reassemble_patches
from ptychopinn.errors import InputError
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.stitching.stores import Box, Store, Sums

#: Weight, relative to the largest of the canvas, at or below which a pixel counts as uncovered: the default of
#: :func:`ptycho_ext.reassemble_patches`.
THRESHOLD = 1e-6


class Stitched(NamedTuple):
    """Patches merged on one canvas, or a part of that.

    Attributes:
        image: complex, (H, W), weighted mean of the patches, zero where uncovered.
        weights: real, (H, W), sum of the weights, in their unit (usually counts).
        geometry: place of the image in scan coordinates (pixels).
        square: real, (H, W), weighted mean of the patches' squared modulus, zero where uncovered; less the squared
            modulus of the image it is the patches' variance.
    """

    image: Tensor
    weights: Tensor
    geometry: CanvasGeometry
    square: Tensor

    def part(self, box: Box) -> Stitched:
        """The rows and columns of a box, as views."""
        return Stitched(self.image[box], self.weights[box], box_geometry(self.geometry, box), self.square[box])


class Accumulator:
    """A running weighted average of patches on a canvas.

    ``image = sum_k w_k o_k / sum_k w_k`` where the sum of weights is above :data:`THRESHOLD` times its largest, else 0.
    Patches may be added in any parts, in an order that the store takes; only the box that they cover is touched. Sums
    of floating point numbers depend on the order in their last bits, and on nothing else.

    Args:
        geometry: the canvas; all patches must lie on it.
        store: for the sums, zero at first, with the canvas' shape.

    Example:
        >>> from ptychopinn.stitching.stores import MemoryStore
        >>> canvas = CanvasGeometry((0, 0), (1, 4))
        >>> average = Accumulator(canvas, MemoryStore(canvas.shape, torch.complex64))
        >>> average.add(torch.full((1, 1, 2), 1j), torch.tensor([[0, 0]]), torch.ones(1, 2))
        >>> average.add(torch.full((1, 1, 2), 4j), torch.tensor([[0, 1]]), torch.full((1, 2), 2.0))
        >>> average.mean().image.imag
        tensor([[1., 3., 4., 0.]])
    """

    def __init__(self, geometry: CanvasGeometry, store: Store) -> None:
        self.geometry, self.store = geometry, store

    def add(self, patches: Tensor, positions: Tensor, weights: Tensor) -> None:
        """Add patches to the sums.

        Args:
            patches: complex, (n, h, w); none is allowed.
            positions: float64 or integer, (n, 2), (y, x) scan coordinates of each patch's first sample, in pixels; on
                any device.
            weights: real, (h, w) or (n, h, w), >= 0.

        Raises:
            InputError: a patch does not lie on the canvas.
        """
        if len(patches) == 0:
            return
        positions = self.geometry.to_canvas(positions)
        # Counted from the canvas first: the second difference is then exact, whatever the box.
        part = CanvasGeometry.from_positions(positions, (patches.shape[-2], patches.shape[-1]))
        box = _box(part)
        if min(part.origin) < 0 or any(b.stop > size for b, size in zip(box, self.geometry.shape, strict=True)):
            raise InputError(
                f"accumulator: patches must lie on the canvas of {self.geometry.shape} pixels, got some on rows "
                f"{box[0].start} to {box[0].stop - 1} and columns {box[1].start} to {box[1].stop - 1}"
            )
        corners = part.to_canvas(positions).to(patches.device)
        self.store.add(box, sums_of(patches, corners, part.shape, weights))

    def mean(self, box: Box | None = None) -> Stitched:
        """The average of the patches so far.

        Args:
            box: rows and columns of the canvas; none: all of it.

        Returns:
            The average on the box, with its place in scan coordinates; weights may share memory with the store.
        """
        box = (slice(0, self.geometry.shape[0]), slice(0, self.geometry.shape[1])) if box is None else box
        sums = self.store.read(box)
        uncovered = sums.weights <= THRESHOLD * self.store.largest_weight
        divisor = sums.weights.masked_fill(uncovered, 1)
        # Real and imaginary part by themselves, as the operator does: a complex quotient rounds more often.
        image = torch.complex(sums.image.real / divisor, sums.image.imag / divisor).masked_fill_(uncovered, 0)
        square = (sums.square / divisor).masked_fill_(uncovered, 0)
        return Stitched(image, sums.weights, box_geometry(self.geometry, box), square)


def sums_of(patches: Tensor, corners: Tensor, shape: tuple[int, int], weights: Tensor) -> Sums:
    """Sums (H, W) of patches (n, h, w) at corners (n, 2) on a canvas of this shape, all on one device."""
    image, total = reassemble_patches(patches, corners, shape, weights, normalize=False)
    square, _ = reassemble_patches(squared_modulus(patches), corners, shape, weights, normalize=False)
    return Sums(image, total, square)


def box_geometry(geometry: CanvasGeometry, box: Box) -> CanvasGeometry:
    """The place of a box of a canvas in scan coordinates."""
    (top, left), (rows, columns) = geometry.origin, box
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    return CanvasGeometry((top + rows.start, left + columns.start), shape)


def _box(part: CanvasGeometry) -> Box:
    """The box of a canvas that a part of it covers, whose origin counts from the canvas."""
    (top, left), (height, width) = part.origin, part.shape
    return slice(top, top + height), slice(left, left + width)
