# SPDX-License-Identifier: BSD-3-Clause
"""A reconstruction by several processes: each predicts and stitches the groups of a region of its own.

Regions are compact, so that few groups overlap those of other regions; the canvases of these alone travel, to the one
process that compares each pair. Every process then knows all overlap products, which are a number for each pair, and
the phases that follow are those of one process. What the regions add up to is summed once over the processes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.runtime.processes import broadcast, rank_and_size, reduce_sums
from ptychopinn.stitching.accumulator import Accumulator, Stitched
from ptychopinn.stitching.canvases import Canvases
from ptychopinn.stitching.overlaps import (
    WeightedPatches,
    overlap_products,
    overlapping_pairs,
    scan_order,
    weighted_patches,
)
from ptychopinn.stitching.phases import agreeing_phases
from ptychopinn.stitching.stores import SharedStore


class Shard:
    """What one process has of the groups of a scan; all processes must make the same calls.

    Args:
        origins: (G, 2), of the canvases of all groups.
        size: (H, W) of a canvas.

    Attributes:
        groups: those of this process, in the order in which their canvases are predicted and stitched.

    Example:
        >>> shard = Shard(np.array([[9, 0], [0, 9], [0, 0]]), (4, 4))
        >>> shard.groups.tolist()  # all, in a single process
        [2, 1, 0]
    """

    def __init__(self, origins: NDArray[np.int64], size: tuple[int, int]) -> None:
        self.rank, self.count = rank_and_size()
        self.size = size
        # Numbers of groups are from here on those of this order, which is that of a single process.
        order = scan_order(origins, size)
        self.origins = origins[order]
        self.regions = regions(self.origins, self.count)
        self.groups: NDArray[np.int64] = order[self.regions[self.rank]]

    def stitch(self, canvases: Canvases, *, synchronise: bool = True) -> Stitched:
        """Stitch the canvases of all processes, as :func:`ptychopinn.stitching.phases.stitch` does those of one.

        Args:
            canvases: of this process's groups, complex64 on the CPU.
            synchronise: remove the free phase of every canvas first.

        Returns:
            The average of all, the same in every process.
        """
        own = torch.from_numpy(self.regions[self.rank])
        phases = self._phases(canvases)[own].to(torch.complex64) if synchronise else None
        origins = torch.from_numpy(self.origins)
        geometry = CanvasGeometry.from_positions(origins, self.size)
        store = SharedStore(geometry.shape, torch.complex64)
        average = Accumulator(geometry, store)
        for start, part, weights in canvases.parts():
            some = slice(start, start + len(part))
            average.add(part if phases is None else part * phases[some, None, None], origins[own[some]], weights)
        store.reduce()
        return average.mean()

    def _phases(self, canvases: Canvases) -> Tensor:
        """Phase factors of all groups, complex128 (G,)."""
        count = len(self.origins)
        pairs = overlapping_pairs(self.origins, self.size)
        owner = np.empty(count, np.int64)
        for rank, region in enumerate(self.regions):
            owner[region] = rank
        row = np.empty(count, np.int64)
        row[self.regions[self.rank]] = np.arange(len(canvases))
        own = weighted_patches(lambda group: canvases.one(row[group]), self.size)
        borrowed = self._borrow(own, owner, pairs, self.size)

        def patch(group: int) -> NDArray[np.complexfloating]:
            return borrowed[group] if group in borrowed else own(group)

        # The owner of a pair's first group compares it; the others leave it zero.
        mine = owner[pairs[:, 0]] == self.rank
        compared = overlap_products(patch, self.origins, self.size, pairs[mine])
        products = torch.zeros(len(pairs), dtype=torch.complex128, device="cpu")
        products[torch.from_numpy(mine)] = torch.from_numpy(compared)
        reduce_sums(products)
        phases = torch.zeros(count, dtype=torch.complex128, device="cpu")
        if self.rank == 0:
            phases.copy_(torch.from_numpy(agreeing_phases(count, pairs, products.numpy())))
        broadcast(phases)
        return phases

    def _borrow(
        self, own: WeightedPatches, owner: NDArray[np.int64], pairs: NDArray[np.int64], size: tuple[int, int]
    ) -> dict[int, NDArray[np.complexfloating]]:
        """Weighted canvases of other processes that overlap this one's, for those given; all know who needs what."""
        received: dict[int, NDArray[np.complexfloating]] = {}
        requests, kept = [], []
        needed = owner[pairs]
        for there in range(self.count):
            wanted = np.unique(pairs[(needed[:, 0] == there) & (needed[:, 1] == self.rank), 1])
            if there != self.rank and len(wanted):
                canvases = torch.from_numpy(np.stack([own(group) for group in wanted.tolist()]))
                kept.append(torch.view_as_real(canvases))
                requests.append(dist.isend(kept[-1], there))
            wanted = np.unique(pairs[(needed[:, 0] == self.rank) & (needed[:, 1] == there), 1])
            if there != self.rank and len(wanted):
                canvases = torch.empty(len(wanted), *size, dtype=torch.complex64, device="cpu")
                requests.append(dist.irecv(torch.view_as_real(canvases), there))
                received |= dict(zip(wanted.tolist(), canvases.numpy(), strict=True))
        for request in requests:
            assert request is not None, "this process belongs to the group"
            request.wait()
        return received


def regions(origins: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Cut a scan into compact regions with the same number of groups, but for one: cuts go across the longer side.

    Args:
        origins: (G, 2).
        count: of regions, some of which are empty if there are fewer groups.

    Returns:
        Ascending indices of each region's groups, disjoint, together 0 to G - 1.

    Example:
        >>> [region.tolist() for region in regions(np.array([[0, 0], [0, 9], [0, 1], [0, 8], [0, 2]]), 2)]
        [[0, 2], [1, 3, 4]]
    """
    found = []
    stack = [(np.arange(len(origins)), count)]
    while stack:
        members, parts = stack.pop()
        if parts == 1:
            found.append(np.sort(members))
            continue
        extent = np.ptp(origins[members], axis=0) if len(members) else np.zeros(2)
        order = members[np.argsort(origins[members, int(np.argmax(extent))], kind="stable")]
        cut = parts // 2 * len(order) // parts
        stack += [(order[cut:], parts - parts // 2), (order[:cut], parts // 2)]
    return found
