# SPDX-License-Identifier: BSD-3-Clause
"""Points at which an exposure is computed: the path of a fly scan, and an incoherent source of finite size.

Both are incoherent sums over positions of the probe on the sample. A normal distribution of source points is replaced
by the nodes of a Gauss-Hermite quadrature, which is exact for intensities that are polynomials of the position of a
degree below twice the number of nodes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptychopinn.experiment import Experiment

#: Nodes per axis up to a standard deviation in pixels: with them the error is a tenth of the shot noise of patterns of
#: 64 px with 1e6 photons, or less.
_NODES = ((1.0, 3), (1.5, 4), (2.0, 5), (3.0, 7), (math.inf, 9))


def exposure_points(
    experiment: Experiment, nodes: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the exposures, relative to the positions, and their weights.

    Args:
        experiment: its `exposure` and `source_size` are used.
        nodes: of the quadrature along each axis; None: by the size of the source.

    Returns:
        (1, K, 2) or (n, K, 2) float64, (y, x) in object pixels, and (K,) float64 of sum 1; one point (0, 0) for a still
        probe and a point source.

    Example:
        >>> points, weights = exposure_points(Experiment(source_size=(0.0, 0.4)))
        >>> points.shape, weights.round(3).tolist()
        ((1, 3, 2), [0.167, 0.667, 0.167])
    """
    path = np.zeros((1, 2)) if experiment.exposure is None else experiment.exposure
    path = path.reshape(-1, *path.shape[-2:])
    source, weights = np.zeros((1, 2)), np.ones(1)
    for axis, deviation in enumerate(experiment.source_size or (0.0, 0.0)):
        if deviation > 0:
            count = nodes or next(number for limit, number in _NODES if deviation <= limit)
            roots, factors = np.polynomial.hermite_e.hermegauss(count)
            moves = np.zeros((count, 2))
            moves[:, axis] = deviation * roots
            source = (source[:, None] + moves).reshape(-1, 2)
            weights = (weights[:, None] * (factors / factors.sum())).reshape(-1)
    points = (path[:, :, None] + source).reshape(len(path), -1, 2)
    return points, np.tile(weights, path.shape[1]) / path.shape[1]
