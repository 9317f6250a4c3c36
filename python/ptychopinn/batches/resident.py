# SPDX-License-Identifier: BSD-3-Clause
"""The counts of whole scans on a device, in the file's integer type; a batch takes its patterns from there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ptychopinn.batches.dataset import good_pixels
from ptychopinn.runtime.batching import free_memory
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Fraction of a device's free memory that counts may take.
_FRACTION = 0.5

#: Integer types without an index_select on CUDA -> types of the same width that have one.
_OF_ONE_WIDTH = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class ResidentCounts:
    """Counts of all patterns of one or several scans, (n, N, N) in FFT order.

    Args:
        scans: with patterns of one size and, if several, one mask of bad pixels.
        device: of the counts.
    """

    def __init__(self, scans: Sequence[Scan], device: torch.device) -> None:
        n, size = sum(scan.n for scan in scans), scans[0].patch_size
        counts = torch.empty(n, size, size, dtype=_type_of(scans), device=device)
        first = 0
        for scan in scans:
            for part in pattern_blocks(scan.counts.shape):
                block = torch.from_numpy(np.ascontiguousarray(scan.counts[part])).to(device)
                stored = counts[first : first + len(block)].view(_OF_ONE_WIDTH.get(counts.dtype, counts.dtype))
                if block.dtype == counts.dtype:
                    block = block.view(stored.dtype)
                stored.copy_(torch.fft.ifftshift(block.to(stored.dtype), dim=(-2, -1)))
                first += len(block)
        self.counts = counts
        self.good, self.empty = good_pixels(scans[0]), None
        if self.good is not None:
            self.good = self.good.to(device)
            empty = (np.abs(np.fft.fft2(scans[0].probe, norm="ortho")) ** 2).sum(0).astype(np.float32)
            self.empty = torch.from_numpy(empty).to(device)
            self.empty /= (self.empty * self.good).sum().clamp_min(1e-30)

    def __call__(self, members: Tensor) -> Tensor:
        """Counts of some patterns, float32, (..., N, N) for indices (...,); bad pixels hold an estimate.

        These are filled with the pattern of the probe behind an object of transmission 1, scaled to the counts of the
        good pixels, as in :meth:`GroupDataset.gather`.
        """
        kind = self.counts.dtype
        stored = self.counts.view(_OF_ONE_WIDTH.get(kind, kind))
        chosen = stored.index_select(0, members.flatten()).view(kind).to(torch.float32)
        chosen = chosen.view(*members.shape, *chosen.shape[1:])
        if self.good is None or self.empty is None:
            return chosen
        counted = chosen.masked_fill(~self.good, 0)
        return torch.where(self.good, chosen, counted.sum((-2, -1), keepdim=True) * self.empty)


def fits_on(device: torch.device, scans: Sequence[Scan]) -> bool:
    """Whether the counts of all scans take at most half of a device's free memory."""
    patterns = sum(scan.counts.shape[0] for scan in scans) * scans[0].patch_size ** 2
    return bool(patterns * _type_of(scans).itemsize <= _FRACTION * free_memory(device))


def _type_of(scans: Sequence[Scan]) -> torch.dtype:
    kinds = {torch.from_numpy(np.empty(0, scan.counts.dtype)).dtype for scan in scans}
    return kinds.pop() if len(kinds) == 1 else torch.float32
