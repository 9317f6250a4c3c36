# SPDX-License-Identifier: BSD-3-Clause
"""Batches of neighbouring patterns, and the parts of the canvas that they cover.

Their sizes must be known on the host. They are computed there, from a copy of the positions, for all batches at once,
and what the device needs of them is uploaded in three tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import EllipsisType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import ScanPlan


@dataclass
class BatchRegion:
    """A batch of patterns, and the part of the canvas that their patches cover.

    Attributes:
        rows: int64, (b,), indices of this process's patterns, on the CPU.
        members: the same on the device.
        anchors: float64, (b, 2), where their patches are cut, canvas coordinates.
        positions: the same, relative to the part's first pixel.
        slices: of a canvas (..., H, W), its last two axes.
        shape: of the part.
        count: patterns of the batch, of all processes.
        plan: tiles of these patches, or None without patches.
        canvas: the part that :meth:`crop` returned last.
    """

    rows: NDArray[np.int64]
    members: Tensor
    anchors: Tensor
    positions: Tensor
    slices: tuple[EllipsisType, slice, slice]
    shape: tuple[int, int]
    count: int
    size: int
    plan: ScanPlan | None = field(init=False)
    canvas: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.plan = ScanPlan(self.positions, self.size, self.shape, finite=True) if len(self.rows) else None

    @property
    def corner(self) -> Tensor:
        """First pixel of the part, float64, (2,)."""
        return self.anchors[0] - self.positions[0]

    def crop(self, canvas: Tensor) -> Tensor:
        """Copy the part of a canvas (..., H, W)."""
        self.canvas = canvas[self.slices].contiguous()
        return self.canvas


def make_regions(
    batches: Sequence[NDArray[np.int64]],
    anchors: NDArray[np.float64],
    shard: slice,
    size: int,
    taps: int,
    canvas_size: tuple[int, int],
    device: torch.device,
    reach: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> list[BatchRegion]:
    """The regions of all batches.

    Args:
        batches: indices of their patterns, ascending.
        anchors: (n, 2), finite, where all patches are cut, canvas coordinates.
        shard: the patterns of a batch that this process computes.
        size: N.
        taps: pixels that interpolation reads beyond the last sample of a patch.
        canvas_size: (H, W).
        device: of the computation.
        reach: pixels (y, x) by which regions extend before and behind the patches, within the canvas.
    """
    rows = [batch[shard] for batch in batches]
    firsts, lasts = [], []
    for batch in batches:
        first = np.floor(anchors[batch].min(0)).astype(np.int64) - reach[0]
        firsts.append(np.maximum(first, 0) if any(reach[0]) else first)
        last = np.ceil(anchors[batch].max(0)).astype(np.int64) + size + taps + reach[1]
        lasts.append(np.minimum(last, canvas_size))
    if not rows:
        return []
    flat = np.concatenate(rows)
    lengths = [len(part) for part in rows]
    relative = anchors[flat] - np.repeat(np.array(firsts), lengths, axis=0)
    members, cut, positions = (upload(array, device).split(lengths) for array in (flat, anchors[flat], relative))
    regions = []
    for index, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        (top, left), (bottom, right) = first.tolist(), last.tolist()
        slices, shape = (..., slice(top, bottom), slice(left, right)), (bottom - top, right - left)
        arguments = (rows[index], members[index], cut[index], positions[index])
        regions.append(BatchRegion(*arguments, slices, shape, len(batches[index]), size))
    return regions


def upload(array: NDArray[np.int64] | NDArray[np.float64], device: torch.device) -> Tensor:
    """A copy of an array on a device; nothing waits for it."""
    source = torch.from_numpy(array)
    if device.type == "cuda" and torch.cuda.is_available():
        return source.pin_memory().to(device, non_blocking=True)
    return source.to(device, copy=True)


def compact_batches(positions: NDArray[np.float64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Split a scan recursively, across its longer side, into batches of about ``size`` neighbouring patterns.

    The longer side is chosen with random weights, so that another draw gives batches with other borders.

    Args:
        positions: (n, 2).
        size: target number of patterns in a batch, >= 1.
        rng: random generator.

    Returns:
        Index arrays, a partition of 0 to n - 1.
    """
    batches: list[NDArray[np.int64]] = []
    stack = [np.arange(len(positions))]
    while stack:
        members = stack.pop()
        parts = round(len(members) / size)
        if parts < 2:
            batches.append(members)
            continue
        extent = np.ptp(positions[members], axis=0) * rng.uniform(0.7, 1.4, 2)
        order = members[np.argsort(positions[members, int(np.argmax(extent))], kind="stable")]
        first = parts // 2 + (int(rng.integers(2)) if parts % 2 else 0)
        cut = round(first / parts * len(order))
        stack += [order[:cut], order[cut:]]
    return batches
