# SPDX-License-Identifier: BSD-3-Clause
"""The canvases of groups between their prediction and the stitching: in memory, or in a scratch file.

The phases that synchronise the groups follow from overlaps of all of them, so no canvas can be added to the image
before all are predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.physics.overlap import canvas_illumination
from ptychopinn.stitching.scratch import ScratchArray

_CHUNK = 64 << 20  # bytes of canvases that are read at a time


class Canvases(Protocol):
    """Canvases of groups with their weights, in the order in which they are stitched.

    Attributes:
        size: (H, W) of a canvas.
    """

    size: tuple[int, int]

    def __len__(self) -> int: ...

    def write(self, start: int, canvases: Tensor, weights: Tensor) -> None:
        """Store canvases, complex (g, H, W), and weights, real (g, H, W), from number `start` on."""

    def one(self, number: int) -> tuple[NDArray[np.complexfloating], NDArray[np.floating]]:
        """One canvas and its weights, (H, W)."""

    def parts(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All canvases and weights, some at a time, with the number of the first."""


class CanvasesInMemory:
    """Canvases in the memory of a device.

    Args:
        count: of the canvases.
        size: (H, W) of a canvas.
        device: of their memory.
    """

    def __init__(self, count: int, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.size = size
        self.canvases = torch.empty(count, *size, dtype=torch.complex64, device=device)
        self.weights = torch.empty(count, *size, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.canvases)

    def write(self, start: int, canvases: Tensor, weights: Tensor) -> None:
        """Store canvases, complex (g, H, W), and weights, real (g, H, W), from number `start` on."""
        some = slice(start, start + len(canvases))
        self.canvases[some].copy_(canvases)
        self.weights[some].copy_(weights)

    def one(self, number: int) -> tuple[NDArray[np.complexfloating], NDArray[np.floating]]:
        """One canvas and its weights, (H, W); on the CPU only."""
        return self.canvases[number].numpy(), self.weights[number].numpy()

    def parts(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All canvases and weights, some at a time, with the number of the first."""
        step = max(1, _CHUNK // (8 * math.prod(self.size)))
        for start in range(0, len(self), step):
            yield start, self.canvases[start : start + step], self.weights[start : start + step]


class CanvasesOnDisk:
    """Canvases of groups in a scratch file; their weights are computed again when they are read.

    Args:
        folder: for the file, of 8 bytes for a pixel of the canvases.
        dataset: the groups.
        order: those that are stored, in this order.
        weight: real, (N, N), of a pattern, as they were predicted with.

    Raises:
        InputError: the folder's disk has too little space.
    """

    def __init__(self, folder: Path, dataset: GroupDataset, order: NDArray[np.int64], weight: Tensor) -> None:
        self.size = dataset.canvas_size
        self._dataset, self._order, self._weight = dataset, order, weight
        self._file = ScratchArray(folder, (len(order), *self.size), np.complex64)

    def __len__(self) -> int:
        return len(self._order)

    def write(self, start: int, canvases: Tensor, weights: Tensor | None = None) -> None:
        """Store canvases, complex (g, H, W) on any device, from number `start` on; weights are not stored."""
        self._file.write(start, canvases.cpu().numpy())

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Canvases and their weights, (g, H, W), of `start` to `stop` (exclusive)."""
        canvases = torch.from_numpy(self._file.read(start, stop))
        return canvases, _illumination(self._dataset, self._order[start:stop], self._weight)

    def one(self, number: int) -> tuple[NDArray[np.complexfloating], NDArray[np.floating]]:
        """One canvas and its weights, (H, W)."""
        canvas, weights = self.read(number, number + 1)
        return canvas[0].numpy(), weights[0].numpy()

    def parts(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All canvases and weights, some at a time, with the number of the first."""
        step = max(1, _CHUNK // (8 * math.prod(self.size)))
        for start in range(0, len(self), step):
            yield (start, *self.read(start, min(start + step, len(self))))


def _illumination(dataset: GroupDataset, groups: NDArray[np.int64], weight: Tensor) -> Tensor:
    """Illumination of the canvases of some groups, (g, H, W), as it was when they were predicted."""
    positions = dataset.scan.positions[dataset.groups[groups]] - dataset.origins[groups][:, None]
    return canvas_illumination(weight, torch.from_numpy(positions), dataset.canvas_size)
