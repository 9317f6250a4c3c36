# SPDX-License-Identifier: BSD-3-Clause
"""Quantiles of many durations in little memory: a histogram with logarithmic bins."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

#: Edges of the bins, seconds: 2 % apart.
_EDGES = np.geomspace(1e-3, 1e5, 931)


class Latencies:
    """Durations of which quantiles are wanted, to within 2 %.

    Example:
        >>> latencies = Latencies()
        >>> latencies.add([0.1] * 98 + [2.0] * 2)
        >>> round(latencies.quantile(0.5), 2), round(latencies.quantile(0.99), 1)
        (0.1, 2.0)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(len(_EDGES) + 1, np.int64)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, seconds: Iterable[float]) -> None:
        """Add durations."""
        np.add.at(self.counts, np.searchsorted(_EDGES, np.fromiter(seconds, np.float64)), 1)

    def quantile(self, fraction: float) -> float:
        """The duration that this fraction does not exceed; there has been one."""
        place = int(np.searchsorted(np.cumsum(self.counts), fraction * len(self)))
        return float(_EDGES[min(place, len(_EDGES) - 1)])
