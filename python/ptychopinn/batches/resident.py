# SPDX-License-Identifier: BSD-3-Clause
"""The counts of whole scans on a device, in the file's integer type; a batch takes its patterns from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.batches.dataset import good_pixels
from ptychopinn.runtime.batching import free_memory
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.stored import StoredPatterns

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
            upload(scan.counts, counts[first : first + scan.n])
            first += scan.n
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
        chosen = select(self.counts, members.flatten()).to(torch.float32)
        chosen = chosen.view(*members.shape, *chosen.shape[1:])
        if self.good is None or self.empty is None:
            return chosen
        counted = chosen.masked_fill(~self.good, 0)
        return torch.where(self.good, chosen, counted.sum((-2, -1), keepdim=True) * self.empty)


def upload(counts: NDArray[Any] | StoredPatterns, to: Tensor) -> None:
    """Copy counts (n, N, N) to a tensor on a device, with the zero frequency moved to [0, 0] there.

    Args:
        counts: in the file's order.
        to: (n, N, N), of the same type or float32; written.
    """
    for part in pattern_blocks(counts.shape):
        block, target = torch.from_numpy(np.ascontiguousarray(counts[part])), to[part]
        if block.dtype == to.dtype:
            block, target = _signed(block), _signed(target)
        if to.is_cuda:
            block = block.pin_memory()
        block = block.to(to.device, non_blocking=True)
        target.copy_(torch.fft.ifftshift(block.to(target.dtype), dim=(-2, -1)))


def select(counts: Tensor, members: Tensor) -> Tensor:
    """Counts (b, N, N), in their type, of the patterns with indices ``members`` (b,)."""
    return _signed(counts).index_select(0, members).view(counts.dtype)


def _signed(counts: Tensor) -> Tensor:
    """The same bits in a type that torch can index and roll on any device."""
    return counts.view(_OF_ONE_WIDTH.get(counts.dtype, counts.dtype))


def fits_on(device: torch.device, scans: Sequence[Scan]) -> bool:
    """Whether the counts of all scans take at most half of a device's free memory."""
    patterns = sum(scan.counts.shape[0] for scan in scans) * scans[0].patch_size ** 2
    return bool(patterns * _type_of(scans).itemsize <= _FRACTION * free_memory(device))


def _type_of(scans: Sequence[Scan]) -> torch.dtype:
    kinds = {torch.from_numpy(np.empty(0, scan.counts.dtype)).dtype for scan in scans}
    return kinds.pop() if len(kinds) == 1 else torch.float32
