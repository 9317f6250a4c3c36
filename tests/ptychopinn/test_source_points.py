# SPDX-License-Identifier: BSD-3-Clause
"""Points of an incoherent source: moments, symmetry, and the error of the patterns against a dense grid in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.physics.simulate_waves import Optics, expected_counts

N = 32
#: Largest source in pixels of a rule -> its number of points, its degree, and the grid before with its largest source.
RULES = {0.4: (4, 3, 1.0), 0.9: (7, 5, 1.0), 1.3: (12, 7, 1.5), 1.8: (19, 9, 2.0), 2.7: (37, 13, 3.0)}
GRIDS = {1.0: 3, 1.5: 4, 2.0: 5, 3.0: 7}


def source(*deviations: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = exposure_points(Experiment(source_size=(deviations[0], deviations[-1])))
    return points[0], weights


@pytest.mark.parametrize("limit", RULES)
def test_moments_are_those_of_a_normal_distribution(limit: float) -> None:
    number, degree, _ = RULES[limit]
    points, weights = source(limit, 0.8 * limit)
    assert len(points) == len(weights) == number and weights.min() > 0
    y, x = points[:, 0] / limit, points[:, 1] / (0.8 * limit)
    for total in range(degree + 1):
        for power in range(total + 1):
            one, other = power, total - power
            exact = 0.0 if one % 2 or other % 2 else float(_odd_product(one) * _odd_product(other))
            assert (weights * y**one * x**other).sum() == pytest.approx(exact, abs=2e-12 * max(1, exact))
    assert (weights * y ** (degree + 1)).sum() != pytest.approx(_odd_product(degree + 1), rel=1e-6)
    # Reversed points are the opposite ones, which inputs of networks rely on.
    np.testing.assert_allclose(points[::-1], -points, atol=1e-15)
    np.testing.assert_allclose(weights[::-1], weights, atol=1e-15)


def _odd_product(n: int) -> int:
    return math.prod(range(1, n, 2))


def sharp() -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
    """Object with edges as sharp as the pixels, a curved probe off the middle, positions that differ per axis."""
    rng = np.random.default_rng(4)
    coarse = np.kron(rng.random((30, 26)), np.ones((4, 5)))
    image = (0.7 + 0.3 * coarse) * np.exp(2j * np.roll(coarse, 3, axis=1))
    y, x = np.indices((N, N)) - N / 2
    probe = np.exp(-((y - 1) ** 2) / 50 - (x + 2) ** 2 / 36 + 0.02j * (y**2 + 0.5 * x**2 - x * y))
    probe *= np.sqrt(2.5e5 / np.square(np.abs(probe)).sum())  # the counts per pixel of 1e6 in 64 x 64
    return image[np.newaxis], probe[np.newaxis], np.array([[42.0, 44.3], [37.4, 52.0]])


def counts(points: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    image, probe, positions = sharp()
    total = np.zeros((len(positions), N, N))
    for point, weight in zip(points, weights, strict=True):
        total += weight * expected_counts(image, probe, positions + point, Experiment(), Optics())
    return total


def grid(deviation: float, nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = exposure_points(Experiment(source_size=(deviation, deviation)), nodes=nodes)
    return points[0], weights


@pytest.mark.parametrize("limit", RULES)
def test_patterns_are_as_exact_as_with_the_grid(limit: float) -> None:
    """In units of the shot noise, at the largest source of each rule; the grid has 9, 9, 16, 25 and 49 points."""
    before = RULES[limit][2]

    def error(deviation: float, found: NDArray[np.float64]) -> float:
        exact = counts(*grid(deviation, 17))
        return float(np.sqrt((np.square(found - exact) / np.maximum(exact, 0.1)).mean()))

    of_grid = error(before, counts(*grid(before, GRIDS[before])))
    own = error(limit, counts(*source(limit)))
    print(limit, own, of_grid)
    assert own < 1.05 * of_grid
    if limit > 0.4:  # the rule of the next smaller source would not do
        narrower = max(size for size in RULES if size < limit)
        points, weights = source(narrower)
        assert error(limit, counts(points * (limit / narrower), weights)) > 1.2 * own


def test_sources_of_one_axis_and_of_different_sizes() -> None:
    for deviation, nodes in ((0.3, 3), (1.2, 4), (2.5, 7), (4.0, 9)):
        roots, _ = np.polynomial.hermite_e.hermegauss(nodes)
        points, _ = source(0.0, deviation)
        np.testing.assert_array_equal(points[:, 1], deviation * roots)
        assert not points[:, 0].any()
    assert len(source(0.3, 2.5)[0]) == 2 * 7  # fewer than 37
    assert len(source(0.6, 0.8)[0]) == 7
    assert len(source(4.0, 3.5)[0]) == 81
    path, weights = exposure_points(Experiment(source_size=(0.8, 0.8), exposure=np.array([[0.0, -1.0], [0.5, 1.0]])))
    assert path.shape == (1, 14, 2) and weights.sum() == pytest.approx(1)
