# SPDX-License-Identifier: BSD-3-Clause
"""Scan positions as learned parameters: what the microscope reported plus an offset per pattern.

The offsets are found through the exact position gradients of the operators. They belong to one scan, which is
recognised by its reported positions and counts; applied to any other, they would be nonsense. A common shift of all
positions only moves the object, so the mean offset is taken out.
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

_SAME_PLACE = 1e-6

#: Pixels by which a position may move, and by which canvases are larger for it.
REACH = 4


class PositionOffsets(nn.Module):
    """Offsets of n scan positions, zero at the start, less than :data:`REACH` pixels along each axis before the mean.

    Args:
        patterns: n, of one scan or of several, one after the other.
    """

    def __init__(self, patterns: int) -> None:
        super().__init__()
        self.register_buffer("reported", torch.zeros(patterns, 2, dtype=torch.float64))
        self.register_buffer("totals", torch.zeros(patterns, dtype=torch.float64))
        self.free = nn.Parameter(torch.zeros(patterns, 2))

    @torch.no_grad()
    def set_scans(self, scans: Sequence[Scan]) -> None:
        """Note which patterns the offsets belong to, and begin again at zero."""
        self.reported.copy_(torch.from_numpy(np.concatenate([scan.positions for scan in scans])))
        self.totals.copy_(torch.from_numpy(np.concatenate([_totals(scan) for scan in scans])))
        self.free.zero_()

    @property
    def offsets(self) -> Tensor:
        """float64, (n, 2), (y, x) pixels, of zero mean."""
        bounded = REACH * torch.tanh(self.free.double() / REACH)
        return bounded - bounded.detach().mean(0)

    def forward(self, positions: Tensor, members: Tensor) -> Tensor:
        """Refined positions (B, C, 2) of patterns ``members`` (B, C), from those reported, in any frame."""
        return positions + self.offsets[members]

    def place_of(self, scan: Scan) -> slice | None:
        """Where the scan's patterns are among those trained on; None if it was not trained on.

        A raster alone identifies no scan, for it may have been driven over another sample: the counts must agree, too.
        """
        reported, totals = self.reported.cpu().numpy(), self.totals.cpu().numpy()
        for first in np.flatnonzero(np.abs(reported - scan.positions[0]).max(1) < _SAME_PLACE):
            part = slice(int(first), int(first) + scan.n)
            if (
                len(reported[part]) == scan.n
                and np.abs(reported[part] - scan.positions).max() < _SAME_PLACE
                and np.allclose(totals[part], _totals(scan), rtol=1e-6)
            ):
                return part
        return None

    @torch.no_grad()
    def applied_to(self, scan: Scan) -> Scan | None:
        """The scan with its refined positions; None if it was not trained on."""
        part = self.place_of(scan)
        if part is None:
            return None
        return dataclasses.replace(scan, positions=scan.positions + self.offsets[part].cpu().numpy())


def _totals(scan: Scan) -> NDArray[np.float64]:
    """Counts of every pattern."""
    return np.concatenate(
        [scan.counts[part].sum((1, 2), dtype=np.float64) for part in pattern_blocks(scan.counts.shape)]
    )
