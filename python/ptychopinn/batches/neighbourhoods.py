# SPDX-License-Identifier: BSD-3-Clause
"""Neighbourhoods: groups near each other, whose predictions are averaged in training (``training.merge``).

A neighbourhood has a leader, as a group has one, and the groups of some patterns that are drawn from those near it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptychopinn.batches.grouping import nearest_others
from ptychopinn.config import Config
from ptychopinn.probe_size import probe_diameter
from ptychopinn.scan import Scan

#: Largest distance of neighbours, in diameters of the probe.
_REACH = 0.7
#: Default of ``training.merge`` by the size of a group; 1 for all others.
_DEFAULT = {1: 12}


def merged_groups(config: Config) -> int:
    """Groups of a neighbourhood: ``training.merge``, or its default for the size of the groups."""
    if config.training.supervised:
        return 1
    return config.training.merge or _DEFAULT.get(config.data.group_size, 1)


def neighbourhood_size(config: Config) -> int:
    """Patterns of a group or, where groups are merged, of a neighbourhood."""
    return config.data.group_size * merged_groups(config)


def reach_of(scan: Scan) -> float:
    """Largest distance of neighbours that are averaged, pixels: farther ones hardly see the same part of the object."""
    return min(float(scan.patch_size), _REACH * probe_diameter(scan.probe))


class Neighbourhoods:
    """Draws neighbours of the leaders of a scan.

    Args:
        positions: (n, 2) scan positions, pixels.
        among: (m,), ascending indices of the patterns that may be drawn.
        leaders: (l,), ascending indices of some of them.
        pool: nearest other patterns that are drawn from; fewer where there are fewer.
        reach: largest distance of a neighbour, pixels.
    """

    def __init__(
        self,
        positions: NDArray[np.float64],
        among: NDArray[np.integer],
        leaders: NDArray[np.integer],
        pool: int,
        reach: float,
    ) -> None:
        rows = np.searchsorted(among, leaders)
        others = among[nearest_others(positions[among], min(pool, len(among) - 1), rows)]
        near = np.square(positions[others] - positions[leaders][:, np.newaxis]).sum(-1) <= reach**2
        self._leaders = leaders
        #: The leader itself in place of patterns that are too far.
        self._others = np.where(near, others, leaders[:, np.newaxis]).astype(np.int32)

    def around(self, leaders: NDArray[np.integer]) -> NDArray[np.int64]:
        """The leaders (g,), and all patterns that are drawn from around each: (g, 1 + pool)."""
        others = self._others[np.searchsorted(self._leaders, leaders)]
        return np.column_stack([leaders, others]).astype(np.int64)

    def draw(self, leaders: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw neighbours of every leader, without replacement.

        Args:
            leaders: (g,), indices of patterns.
            count: patterns of a neighbourhood; some are repeated where there are fewer.
            rng: of the draws.

        Returns:
            (g, count), the leader first.
        """
        around = self.around(leaders)
        keys = rng.random(around.shape)
        keys[around == around[:, :1]] = 2.0
        keys[:, 0] = -1.0
        order = keys.argsort(axis=1)[:, : min(count, around.shape[1])]
        columns = order[:, np.arange(count) % order.shape[1]]
        return np.take_along_axis(around, columns, axis=1)
