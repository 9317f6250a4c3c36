# SPDX-License-Identifier: BSD-3-Clause
"""Scan positions as learned parameters: the reported position plus an offset per pattern.

The offsets are learned through the exact position gradients of the operators. They are valid for one scan only, which
is identified by its reported positions and counts. A common shift of all positions only moves the object, so the mean
offset is subtracted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Largest difference, in pixels, between equal positions.
_SAME_POSITION = 1e-6

#: Largest offset of a position along each axis, in pixels; canvases have a margin of the same width.
REACH = 4


class PositionOffsets(nn.Module):
    """Learned offsets of n scan positions, initially zero.

    Before the mean is subtracted, offsets are below :data:`REACH` pixels along each axis.

    Args:
        patterns: n, of one scan or of several in succession.
    """

    reported: Tensor
    totals: Tensor
    centre: Tensor

    def __init__(self, patterns: int) -> None:
        super().__init__()
        self.register_buffer("reported", torch.zeros(patterns, 2, dtype=torch.float64, device="cpu"))
        self.register_buffer("totals", torch.zeros(patterns, dtype=torch.float64, device="cpu"))
        self.register_buffer("centre", torch.zeros(2, dtype=torch.float64, device="cpu"), persistent=False)
        self.free = nn.Parameter(torch.zeros(patterns, 2, dtype=torch.float32, device="cpu"))

    @torch.no_grad()
    def set_scans(self, scans: Sequence[Scan]) -> None:
        """Set the scans whose n patterns the offsets belong to, and reset the offsets to zero."""
        self.reported.copy_(torch.from_numpy(np.concatenate([scan.positions for scan in scans])))
        self.totals.copy_(torch.from_numpy(np.concatenate([_totals(scan) for scan in scans])))
        self.free.zero_()

    @property
    def offsets(self) -> Tensor:
        """Offsets (n, 2), float64, (y, x) in pixels, of zero mean."""
        bounded = _bounded(self.free)
        return bounded - bounded.detach().mean(0)

    @torch.no_grad()
    def recentre(self) -> None:
        """Determine the mean offset, which :meth:`forward` subtracts, from the present ones: once an epoch."""
        self.centre.copy_(_bounded(self.free).mean(0))

    def forward(self, positions: Tensor, members: Tensor, free: Tensor | None = None) -> Tensor:
        """Add the offsets of patterns to their positions, at a cost that does not depend on n.

        Args:
            positions: float64, (B, C, 2), as reported, in any frame.
            members: int64, (B, C), indices of the patterns.
            free: (B, C, 2), the rows ``members`` of the parameter, for a derivative by these alone; None: take them.
        """
        return positions + _bounded(self.free[members] if free is None else free) - self.centre

    def place_of(self, scan: Scan) -> slice | None:
        """Slice of the scan's patterns among those trained on; None if it was not trained on.

        The counts must agree, too: the same positions may have been used on another sample.
        """
        reported, totals = self.reported.cpu().numpy(), self.totals.cpu().numpy()
        for first in np.flatnonzero(np.abs(reported - scan.positions[0]).max(1) < _SAME_POSITION):
            part = slice(int(first), int(first) + scan.n)
            if (
                len(reported[part]) == scan.n
                and np.abs(reported[part] - scan.positions).max() < _SAME_POSITION
                and np.allclose(totals[part], _totals(scan), rtol=1e-6)
            ):
                return part
        return None

    @torch.no_grad()
    def applied_to(self, scan: Scan) -> Scan | None:
        """Copy of the scan with its refined positions; None if it was not trained on."""
        part = self.place_of(scan)
        if part is None:
            return None
        return dataclasses.replace(scan, positions=scan.positions + self.offsets[part].cpu().numpy())


def _bounded(free: Tensor) -> Tensor:
    return REACH * torch.tanh(free.double() / REACH)


def _totals(scan: Scan) -> NDArray[np.float64]:
    """Total counts of every pattern, (n,)."""
    return np.concatenate(
        [scan.counts[part].sum((1, 2), dtype=np.float64) for part in pattern_blocks(scan.counts.shape)]
    )
