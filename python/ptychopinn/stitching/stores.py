# SPDX-License-Identifier: BSD-3-Clause
"""Where the sums of an :class:`~ptychopinn.stitching.accumulator.Accumulator` lie: memory, scratch files, processes.

A store adds sums to a box of the canvas and reads a box back. It knows neither patches nor thresholds. Each keeps the
largest weight up to date from the boxes that are added, so that the mean of a box needs no pass over the canvas.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ptychopinn.runtime.processes import reduce_sums
from ptychopinn.stitching.scratch import ScratchArray

#: Rows and columns of a canvas, each a slice with a start and a stop and without a step.
Box = tuple[slice, slice]


class Sums(NamedTuple):
    """Sums over the patches that cover each pixel of a canvas or of a box.

    Attributes:
        image: complex, (H, W), of weight times patch.
        weights: real, (H, W), of the weights, in the weights' unit (usually counts).
        square: real, (H, W), of weight times squared modulus of the patch.
    """

    image: Tensor
    weights: Tensor
    square: Tensor


class Store(Protocol):
    """Sums of a whole canvas.

    Attributes:
        largest_weight: real, (), of the sums of weights so far, NaN not counted; on the sums' device.
    """

    largest_weight: Tensor

    def add(self, box: Box, sums: Sums) -> None:
        """Add the sums (h, w) of a box of the canvas to what it has."""

    def read(self, box: Box) -> Sums:
        """The present sums (h, w) of a box; they may share memory with the store."""


class MemoryStore:
    """Sums in memory; boxes may come in any order.

    Args:
        shape: (H, W) of the canvas.
        dtype: of the patches, complex.
        device: of the patches.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        image = torch.zeros(shape, dtype=dtype, device=device)
        self.sums = Sums(image, torch.zeros_like(image.real), torch.zeros_like(image.real))
        self.largest_weight = torch.zeros_like(self.sums.weights[0, 0])

    def add(self, box: Box, sums: Sums) -> None:
        """Add the sums (h, w) of a box of the canvas to what it has."""
        for total, part in zip(self.sums, sums, strict=True):
            total[box] += part
        self.largest_weight = torch.maximum(self.largest_weight, _largest(self.sums.weights[box]))

    def read(self, box: Box) -> Sums:
        """The present sums (h, w) of a box, as views."""
        return Sums(*(total[box] for total in self.sums))


class SharedStore(MemoryStore):
    """Sums over several processes, each of which adds patches of its own; arguments as for :class:`MemoryStore`."""

    def reduce(self) -> None:
        """Sum over the processes, once, after the last patches; all must call this, and all have the result."""
        reduce_sums(*self.sums)
        self.largest_weight = _largest(self.sums.weights)


class DiskStore:
    """Sums in scratch files, of which two bands of rows are in memory.

    Boxes must come from top to bottom: the top row of each lies in the band of the one before or further down, and none
    is taller than a band. Those of one band may come in any order.

    Args:
        folder: for the files, of 16 bytes for a pixel of the canvas.
        shape: (H, W) of the canvas.
        band: rows of a band.

    Raises:
        InputError: the folder's disk has too little space.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], band: int) -> None:
        self.shape, self.band = shape, band
        self._files = [ScratchArray(folder, shape, kind) for kind in ("c8", "f4", "f4")]
        kinds = (torch.complex64, torch.float32, torch.float32)
        self._near = Sums(*(torch.zeros(2 * band, shape[1], dtype=kind, device="cpu") for kind in kinds))
        self._top = 0  # row of the canvas where the two bands in memory begin
        self._written = True
        self.largest_weight = torch.zeros((), dtype=torch.float32, device="cpu")

    def add(self, box: Box, sums: Sums) -> None:
        """Add the sums (h, w) of a box of the canvas to what it has."""
        rows, columns = box
        while rows.start >= self._top + self.band:
            self._next_band()
        first, last = rows.start - self._top, rows.stop - self._top
        assert first >= 0 and last <= 2 * self.band, f"rows {rows} after those of the band at {self._top}"
        for near, part in zip(self._near, sums, strict=True):
            near[first:last, columns] += part.cpu()
        self.largest_weight = torch.maximum(self.largest_weight, _largest(self._near.weights[first:last, columns]))
        self._written = False

    def read(self, box: Box) -> Sums:
        """The present sums (h, w) of a box, as copies."""
        self._write()
        rows, columns = box
        return Sums(*(torch.from_numpy(file.read(rows.start, rows.stop)[:, columns]) for file in self._files))

    def _write(self) -> None:
        """Bring the files up to date with the bands in memory."""
        if not self._written:
            for file, near in zip(self._files, self._near, strict=True):
                file.write(self._top, near[: self.shape[0] - self._top].numpy())
        self._written = True

    def _next_band(self) -> None:
        """The upper band is complete."""
        for file, near in zip(self._files, self._near, strict=True):
            file.write(self._top, near[: self.band].numpy())
            near[: self.band] = near[self.band :]
            near[self.band :] = 0
        self._top += self.band
        self._written = False


def _largest(weights: Tensor) -> Tensor:
    """The largest weight, real (), NaN not counted."""
    return weights.detach().nan_to_num(nan=0.0).amax()
