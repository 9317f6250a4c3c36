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
from ptychopinn.stitching.overlaps import WeightedPatches, overlap_products, overlapping_pairs, weighted_patches
from ptychopinn.stitching.phases import agreeing_phases
from ptychopinn.stitching.stores import SharedStore


class Shard:
    """What one process has of the groups of a scan; all processes must make the same calls.

    Example:
        >>> shard = Shard()
        >>> shard.choose(np.array([[0, 0], [0, 9], [9, 0]])).tolist()  # all, in a single process
        [0, 1, 2]
    """

    def __init__(self) -> None:
        self.rank, self.size = rank_and_size()
        self.origins = np.zeros((0, 2), np.int64)
        self.regions: list[NDArray[np.int64]] = []

    def choose(self, origins: NDArray[np.int64]) -> NDArray[np.int64]:
        """The groups of this process, ascending, by the origins (G, 2) of all canvases."""
        self.origins = origins
        self.regions = regions(origins, self.size)
        return self.regions[self.rank]

    def stitch(self, canvases: Tensor, weights: Tensor, *, synchronise: bool = True) -> Stitched:
        """Stitch the canvases of all processes, as :func:`ptychopinn.stitching.phases.stitch` does those of one.

        Args:
            canvases: complex, (g, h, w), of this process's groups in their order.
            weights: real, (g, h, w), >= 0.
            synchronise: remove the free phase of every canvas first.

        Returns:
            The average of all, the same in every process.
        """
        own = torch.from_numpy(self.regions[self.rank])
        if synchronise:
            phases = self._phases(canvases, weights)[own]
            canvases = canvases * phases.to(canvases)[:, None, None]
        origins = torch.from_numpy(self.origins)
        geometry = CanvasGeometry.from_positions(origins, (canvases.shape[1], canvases.shape[2]))
        store = SharedStore(geometry.shape, canvases.dtype, canvases.device)
        average = Accumulator(geometry, store)
        average.add(canvases, origins[own], weights)
        store.reduce()
        return average.mean()

    def _phases(self, canvases: Tensor, weights: Tensor) -> Tensor:
        """Phase factors of all groups, complex128 (G,)."""
        count, size = len(self.origins), (canvases.shape[1], canvases.shape[2])
        pairs = overlapping_pairs(self.origins, size)
        owner = np.empty(count, np.int64)
        for rank, region in enumerate(self.regions):
            owner[region] = rank
        row = {group: row for row, group in enumerate(self.regions[self.rank].tolist())}
        here = canvases.numpy(), weights.numpy()
        own = weighted_patches(lambda group: (here[0][row[group]], here[1][row[group]]), size)
        borrowed = self._borrow(own, owner, pairs, size)

        def patch(group: int) -> NDArray[np.complexfloating]:
            return borrowed[group] if group in borrowed else own(group)

        # The owner of a pair's first group compares it; the others leave it zero.
        mine = owner[pairs[:, 0]] == self.rank
        compared = overlap_products(patch, self.origins, size, pairs[mine])
        products = torch.zeros(len(pairs), dtype=torch.complex128)
        products[torch.from_numpy(mine)] = torch.from_numpy(compared)
        reduce_sums(products)
        phases = torch.zeros(count, dtype=torch.complex128)
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
        for there in range(self.size):
            wanted = np.unique(pairs[(needed[:, 0] == there) & (needed[:, 1] == self.rank), 1])
            if there != self.rank and len(wanted):
                canvases = torch.from_numpy(np.stack([own(group) for group in wanted.tolist()]))
                kept.append(torch.view_as_real(canvases))
                requests.append(dist.isend(kept[-1], there))
            wanted = np.unique(pairs[(needed[:, 0] == self.rank) & (needed[:, 1] == there), 1])
            if there != self.rank and len(wanted):
                canvases = torch.empty(len(wanted), *size, dtype=torch.complex64)
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
