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

from ptycho_ext import CanvasGeometry, reassemble_patches
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.runtime.processes import broadcast, rank_and_size, reduce_sums
from ptychopinn.stitching.phases import Stitched, Window, agreeing_phases, overlap_products, overlapping_pairs

#: Weight, relative to the largest of a canvas, at or below which a pixel is not lit, as in ``reassemble_patches``.
_UNLIT = 1e-6


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
        """What :func:`ptychopinn.stitching.phases.stitch` makes of the canvases of all processes.

        Args:
            canvases: complex, (g, h, w), of this process's groups in their order.
            weights: real, (g, h, w).
            synchronise: remove the free phase of every canvas first.
        """
        if synchronise:
            phases = self._phases(canvases, weights)[torch.from_numpy(self.regions[self.rank])]
            canvases = canvases * phases.to(canvases)[:, None, None]
        height, width = canvases.shape[1:]
        geometry = CanvasGeometry.from_positions(torch.from_numpy(self.origins), (height, width))
        places = geometry.to_canvas(torch.from_numpy(self.origins[self.regions[self.rank]]))
        image, total = reassemble_patches(canvases, places, geometry.shape, weights, normalize=False)
        square, _ = reassemble_patches(squared_modulus(canvases), places, geometry.shape, weights, normalize=False)
        reduce_sums(image, square, total)
        lit = total > _UNLIT * total.max()
        scale = torch.where(lit, total, 1.0)
        return Stitched(torch.where(lit, image / scale, 0), total, geometry, torch.where(lit, square / scale, 0))

    def _phases(self, canvases: Tensor, weights: Tensor) -> Tensor:
        """Phase factors of all groups, complex128 (G,)."""
        count, size = len(self.origins), (canvases.shape[1], canvases.shape[2])
        pairs = overlapping_pairs(self.origins, size)
        owner = np.empty(count, np.int64)
        for rank, region in enumerate(self.regions):
            owner[region] = rank
        lit = dict(zip(self.regions[self.rank].tolist(), canvases * weights, strict=True))
        lit |= self._borrow(lit, owner, pairs, size)
        arrays = {group: canvas.numpy() for group, canvas in lit.items()}

        def window_of(group: int, window: Window) -> NDArray[np.complexfloating]:
            return arrays[int(group)][window]

        # The owner of a pair's first group compares it; the others leave it zero.
        own = owner[pairs[:, 0]] == self.rank
        products = torch.zeros(len(pairs), dtype=torch.complex128)
        products[torch.from_numpy(own)] = torch.from_numpy(overlap_products(window_of, self.origins, size, pairs[own]))
        reduce_sums(products)
        phases = torch.zeros(count, dtype=torch.complex128)
        if self.rank == 0:
            phases.copy_(torch.from_numpy(agreeing_phases(count, pairs, products.numpy())))
        broadcast(phases)
        return phases

    def _borrow(
        self, own: dict[int, Tensor], owner: NDArray[np.int64], pairs: NDArray[np.int64], size: tuple[int, int]
    ) -> dict[int, Tensor]:
        """Canvases of other processes that overlap this one's, for those given; all know who needs what."""
        received: dict[int, Tensor] = {}
        requests, kept = [], []
        needed = owner[pairs]
        for there in range(self.size):
            wanted = np.unique(pairs[(needed[:, 0] == there) & (needed[:, 1] == self.rank), 1])
            if there != self.rank and len(wanted):
                kept.append(torch.view_as_real(torch.stack([own[int(group)] for group in wanted])))
                requests.append(dist.isend(kept[-1], there))
            wanted = np.unique(pairs[(needed[:, 0] == self.rank) & (needed[:, 1] == there), 1])
            if there != self.rank and len(wanted):
                canvases = torch.empty(len(wanted), *size, dtype=torch.complex64)
                requests.append(dist.irecv(torch.view_as_real(canvases), there))
                received |= dict(zip(wanted.tolist(), canvases, strict=True))
        for request in requests:
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
