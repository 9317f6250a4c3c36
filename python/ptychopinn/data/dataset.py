# SPDX-License-Identifier: BSD-3-Clause
"""Groups of a scan as batches of tensors, for training, validation and inference alike.

A batch is gathered when it is asked for: patterns keep the file's integer type in memory and become float32, with the
DC moved to [0, 0], only here. Each group gets the smallest integer window of the scan as its canvas; all groups of a
data set share one canvas size, so that batches are rectangular and compiled code sees one shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ptychopinn.data.scan import Scan


class GroupBatch(NamedTuple):
    """B groups of C patterns.

    Attributes:
        counts: float32, (B, C, N, N), FFT order (DC at [0, 0]); bad pixels hold an estimate, not what was measured.
        positions: float64, (B, C, 2), (y, x) on the group's canvas.
        origins: int64, (B, 2), scan coordinate of each canvas's [0, 0].
        canvas_size: (H, W).
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    canvas_size: tuple[int, int]


class GroupDataset(Dataset[int]):
    """The groups of one scan; items are indices of groups, :meth:`collate` turns some of them into a batch.

    Args:
        scan: the scan.
        groups: int64, (G, C), pattern indices.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
    """

    def __init__(self, scan: Scan, groups: NDArray[np.int64], canvas_multiple: int = 1) -> None:
        self.scan = scan
        self.groups = groups
        positions = scan.positions[groups]
        self.origins = np.floor(positions.min(1)).astype(np.int64)
        extent = np.ceil((positions - self.origins[:, None]).max((0, 1))).astype(int) + scan.patch_size
        height, width = (int(-(-side // canvas_multiple) * canvas_multiple) for side in extent)
        self.canvas_size = (height, width)
        self._good = good_pixels(scan)
        # Counts behind an object of transmission 1.
        self._empty = (np.abs(np.fft.fft2(scan.probe, norm="ortho")) ** 2).sum(0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self.groups):
            raise IndexError(index)
        return index

    def collate(self, indices: Sequence[int]) -> GroupBatch:
        """Gather the groups ``indices`` into one batch."""
        chosen = np.asarray(indices)
        members = self.groups[chosen]
        counts = np.fft.ifftshift(self.scan.counts[members], axes=(-2, -1)).astype(np.float32, copy=False)
        if self._good is not None:
            # A generator knows no mask and must not see what a dead or hot pixel says, nor a hole: the probe's own
            # pattern, as bright as the rest of this one, stands in. The loss ignores these pixels.
            good = self._good.numpy()
            brightness = counts[..., good].sum(-1, keepdims=True) / max(self._empty[good].sum(), 1e-30)
            counts[..., ~good] = brightness * self._empty[~good]
        positions = self.scan.positions[members] - self.origins[chosen][:, None]
        return GroupBatch(
            torch.from_numpy(np.ascontiguousarray(counts)),
            torch.from_numpy(positions),
            torch.from_numpy(self.origins[chosen]),
            self.canvas_size,
        )


def good_pixels(scan: Scan) -> Tensor | None:
    """Mask (N, N) of the pixels to use, in FFT order like the batches; None if all are good."""
    if scan.bad_pixels is None or not scan.bad_pixels.any():
        return None
    return torch.from_numpy(np.fft.ifftshift(~scan.bad_pixels).copy())
