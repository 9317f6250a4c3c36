# SPDX-License-Identifier: BSD-3-Clause
"""Scan positions as learned parameters: what the microscope reported plus an offset per pattern.

The offsets are found through the exact position gradients of the operators. They belong to one scan, which is
recognised by its reported positions; applied to any other, they would be nonsense. A common shift of all positions only
moves the object, so the mean offset is taken out.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from ptychopinn.data.scan import Scan

#: Pixels by which a position may move, and by which canvases are larger for it.
REACH = 4


class PositionOffsets(nn.Module):
    """Offsets of n scan positions, zero at the start, at most :data:`REACH` pixels along each axis.

    Args:
        patterns: n.
    """

    def __init__(self, patterns: int) -> None:
        super().__init__()
        self.register_buffer("reported", torch.zeros(patterns, 2, dtype=torch.float64))
        self.free = nn.Parameter(torch.zeros(patterns, 2))

    @property
    def offsets(self) -> Tensor:
        """float64, (n, 2), (y, x) pixels, of zero mean."""
        free = self.free.double()
        return (free - free.mean(0)).clamp(-REACH, REACH)

    def forward(self, positions: Tensor, members: Tensor) -> Tensor:
        """Refined positions (B, C, 2) of patterns ``members`` (B, C), from those reported, in any frame."""
        return positions + self.offsets[members]

    def belongs_to(self, scan: Scan) -> bool:
        """Whether these are offsets of this scan."""
        return np.array_equal(self.reported.cpu().numpy(), scan.positions)

    @torch.no_grad()
    def applied_to(self, scan: Scan) -> Scan:
        """The scan with the refined positions."""
        return dataclasses.replace(scan, positions=scan.positions + self.offsets.cpu().numpy())
