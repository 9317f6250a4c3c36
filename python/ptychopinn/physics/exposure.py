# SPDX-License-Identifier: BSD-3-Clause
"""Points at which an exposure is computed: the path of a fly scan, and an incoherent source of finite size.

Both are incoherent sums over positions of the probe on the sample. A normal distribution of source points is replaced
by the nodes of a quadrature, exact for intensities that are polynomials of the position up to a degree: Gauss-Hermite
along one axis, and for a source in two axes a cubature of the same degree, which needs fewer points than the grid of
the nodes of both. Cubatures: A. H. Stroud, Approximate Calculation of Multiple Integrals (1971), E2^r2; those of degree
9 and 13 are solutions of the moment equations on rings of six.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.experiment import Experiment

#: Nodes per axis up to a standard deviation in pixels. With them the error is at most 0.02 to 0.13 of the shot noise of
#: patterns of 64 px with 1e6 photons for a smooth object (from the first limit to that of 3 px), and 0.24 to 1.0 for an
#: object with edges as sharp as the pixels; it falls with the fourth to tenth power of the size.
_NODES = ((1.0, 3), (1.5, 4), (2.0, 5), (3.0, 7), (math.inf, 9))
#: The same for each of two axes of different size: two nodes are enough for a narrow one.
_NODES_OF_TWO = ((0.4, 2), *_NODES)


@dataclass(frozen=True)
class _Cubature:
    """A rule for the standard normal distribution in two axes, symmetric about the middle.

    Args:
        limit: largest standard deviation, pixels, with the errors of the rules for one axis.
        centre: weight of the middle.
        rings: of each its radius, the angle of its first point, the number of its points, even, and their weight.
    """

    limit: float
    centre: float
    rings: tuple[tuple[float, float, int, float], ...]

    __repr__ = one_line

    @property
    def number(self) -> int:
        """Number of points."""
        return (1 if self.centre else 0) + sum(number for _, _, number, _ in self.rings)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points (K, 2) and weights (K,); in the reverse order they are the opposite points."""
        half, weights = [], []
        for radius, first, number, weight in self.rings:
            angles = first + 2 * np.pi / number * np.arange(number // 2)
            half.append(radius * np.stack([np.sin(angles), np.cos(angles)], axis=1))
            weights += [weight] * (number // 2)
        middle = np.zeros((1 if self.centre else 0, 2))
        points = np.concatenate([*half, middle, *(-part[::-1] for part in half[::-1])])
        return points, np.array([*weights, *[self.centre] * len(middle), *weights[::-1]])


_ROOT = math.sqrt(5)
#: Of degree 5, 7, 9 and 13.
_CUBATURES = (
    _Cubature(0.9, 1 / 2, ((2.0, 0.0, 6, 1 / 12),)),
    _Cubature(
        1.3,
        0.0,
        (
            (math.sqrt(6), 0.0, 4, 1 / 36),
            (math.sqrt((9 - 3 * _ROOT) / 2), math.pi / 4, 4, (5 + 2 * _ROOT) / 45),
            (math.sqrt((9 + 3 * _ROOT) / 2), math.pi / 4, 4, (5 - 2 * _ROOT) / 45),
        ),
    ),
    _Cubature(
        1.8,
        31 / 96,
        (
            (3.359078674059715, 0.0, 6, 0.0017516939863437477),
            (1.5591267349907618, 0.0, 6, 0.10328302823587843),
            (math.sqrt(8), math.pi / 6, 6, 1 / 128),
        ),
    ),
    _Cubature(
        2.7,
        0.23516343400262654,
        (
            (3.502205260428059, 0.0, 6, 0.0005647145950540655),
            (2.2955445677767763, 0.0, 6, 0.018110051016930716),
            (2.743283409129435, math.pi / 6, 6, 0.006930433010004444),
            (1.315423592818789, math.pi / 6, 6, 0.10170093230182604),
            (4.1303607821583554, 0.3048307385213933, 6, 8.331503787347696e-05),
            (4.1303607821583554, -0.3048307385213933, 6, 8.331503787347696e-05),
        ),
    ),
)


def exposure_points(
    experiment: Experiment, nodes: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the exposures, relative to the positions, and their weights.

    Args:
        experiment: its `exposure` and `source_size` are used.
        nodes: of the quadrature along each axis; None: by the size of the source in pixels, which are as large as the
            smallest features of probe and object.

    Returns:
        (1, K, 2) or (n, K, 2) float64, (y, x) in object pixels, and (K,) float64 of sum 1; one point (0, 0) for a still
        probe and a point source.

    Example:
        >>> points, weights = exposure_points(Experiment(source_size=(0.0, 0.4)))
        >>> points.shape, weights.round(3).tolist()
        ((1, 3, 2), [0.167, 0.667, 0.167])
        >>> exposure_points(Experiment(source_size=(0.9, 0.8)))[0].shape
        (1, 7, 2)
    """
    path = np.zeros((1, 2)) if experiment.exposure is None else experiment.exposure
    path = path.reshape(-1, *path.shape[-2:])
    source, weights = _source_points(experiment.source_size or (0.0, 0.0), nodes)
    points = (path[:, :, None] + source).reshape(len(path), -1, 2)
    return points, np.tile(weights, path.shape[1]) / path.shape[1]


def _source_points(
    deviations: tuple[float, float], nodes: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (K, 2) of a source, symmetric about 0, and their weights (K,)."""
    two = min(deviations) > 0
    table = _NODES_OF_TWO if two else _NODES
    counts = [nodes or next(number for limit, number in table if deviation <= limit) for deviation in deviations]
    if two and nodes is None:
        cubature = next((rule for rule in _CUBATURES if max(deviations) <= rule.limit), None)
        if cubature is not None and cubature.number < counts[0] * counts[1]:
            points, weights = cubature.points()
            return points * deviations, weights
    source, weights = np.zeros((1, 2)), np.ones(1)
    for axis, (deviation, count) in enumerate(zip(deviations, counts, strict=True)):
        if deviation > 0:
            roots, factors = np.polynomial.hermite_e.hermegauss(count)
            moves = np.zeros((count, 2))
            moves[:, axis] = deviation * roots
            source = (source[:, None] + moves).reshape(-1, 2)
            weights = (weights[:, None] * (factors / factors.sum())).reshape(-1)
    return source, weights
