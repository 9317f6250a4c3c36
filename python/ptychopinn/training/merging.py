# SPDX-License-Identifier: BSD-3-Clause
"""The average of the predictions of neighbouring groups, which must explain the patterns of all of them.

A group explains its patterns in many ways, the fewer patterns it has the more, and its own loss does not see that its
neighbours contradict it. Their average, with the illumination as the weight, is what a reconstruction shows; as a term
of the loss it lets every group see its overlap with others. The network still sees single groups, so that nothing
changes in inference. Equations: docs/maths.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ptycho_ext import extract_patches_adjoint, reassemble_patches
from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.config import TrainingConfig

#: Squarings of the matrix of overlaps, whose leading eigenvector is that of its 32nd power's columns.
_SQUARINGS = 5


class Groups(NamedTuple):
    """The groups of B neighbourhoods of J groups each, in succession.

    Attributes:
        counts: (B J, C, N, N).
        positions: float64, (B J, C, 2), on the group's canvas.
        origins: float64, (B J, 2), of the group's canvas on that of its neighbourhood; integers.
        members: int64, (B J, C), indices of the patterns over all scans.
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    members: Tensor


class Merged(NamedTuple):
    """Predictions of B neighbourhoods.

    Attributes:
        groups: of all neighbourhoods.
        canvases: complex, (B J, h, w), of the groups.
        average: complex, (B, H, W).
        illumination: real, (B, H, W).
    """

    groups: Groups
    canvases: Tensor
    average: Tensor
    illumination: Tensor


class Merging(NamedTuple):
    """How neighbourhoods are divided into groups, and the groups averaged.

    Attributes:
        groups: J of a neighbourhood.
        canvas_size: (h, w) of a group.
        margin: pixels around the patches of a group on its canvas.
        own: weight of the groups' own losses, relative to that of the average; infinite: these alone.
        synchronise: remove the free phase of every group first.
    """

    groups: int
    canvas_size: tuple[int, int]
    margin: int
    own: float
    synchronise: bool

    @classmethod
    def of(cls, config: TrainingConfig, data: ScanDataModule, held_out: bool = False) -> Merging | None:
        """That of a training, or of its held-out groups; None: every group by itself."""
        groups = data.merged_in(held_out)
        if groups == 1:
            return None
        own = config.merge_own if data.merged > 1 else math.inf
        return cls(groups, data.group_canvas, data.margin, own, config.merge_synchronise)

    def split(self, batch: GroupBatch, positions: Tensor) -> Groups:
        """The groups of a batch of neighbourhoods (B, J C), with positions (B, J C, 2) as they are refined."""
        number = len(batch.counts) * self.groups
        given = batch.positions.view(number, -1, 2)
        # By the positions as they were given, so that canvases stay where they are while positions are refined.
        origins = torch.floor(given.amin(1)) - self.margin
        counts = batch.counts.view(number, given.shape[1], *batch.counts.shape[2:])
        members = batch.members.view(number, -1)
        return Groups(counts, positions.view(number, -1, 2) - origins.unsqueeze(1), origins, members)

    def average(
        self, canvases: Tensor, weights: Tensor, origins: Tensor, canvas_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The weighted average of the groups of every neighbourhood on its canvas.

        Args:
            canvases: complex, (B J, h, w), with gradient.
            weights: real, (B J, h, w), the illumination of each.
            origins: float64, (B J, 2), of each on the neighbourhood's canvas.
            canvas_size: (H, W) of a neighbourhood.

        Returns:
            average, complex (B, H, W), zero where nothing was illuminated; and weights, real (B, H, W).
        """
        if self.synchronise:
            factors = agreeing_phases(canvases.detach(), weights, origins, canvas_size, self.groups)
            canvases = canvases * factors[:, None, None]
        shape = (-1, self.groups, *canvases.shape[1:])
        return reassemble_patches(
            canvases.view(shape), origins.view(-1, self.groups, 2), canvas_size, weights=weights.view(shape)
        )


@torch.no_grad()
def agreeing_phases(
    canvases: Tensor, weights: Tensor, origins: Tensor, canvas_size: tuple[int, int], groups: int
) -> Tensor:
    """Phase factors by which the groups of every neighbourhood agree best with its first one.

    The leading eigenvector of their overlap products (see :mod:`ptychopinn.stitching.phases`), by matrix products
    alone: no value is read back.

    Arguments as for :meth:`Merging.average`; groups J of a neighbourhood.

    Returns:
        complex, (B J,), of modulus 1; 1 where a group has no overlap.
    """
    placed = extract_patches_adjoint((canvases * weights).unsqueeze(1), origins.unsqueeze(1), canvas_size)
    rows = placed.view(-1, groups, placed[0].numel())
    products = rows @ rows.mH
    # With the moduli of a row adding up to 1, as in angular synchronisation; powers of it are as well scaled.
    scale = torch.rsqrt(products.abs().sum(-1).clamp_min(torch.finfo(weights.dtype).tiny))
    power = products * (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    for _ in range(_SQUARINGS):
        power = power @ power
    found = power[:, 0].flatten()  # a row: what turns the phase of every group to that of the first one
    modulus = found.abs()
    return torch.where(modulus > 1e-6, found / modulus.clamp_min(1e-6), torch.ones_like(found))
