# SPDX-License-Identifier: BSD-3-Clause
"""Grouping: every pattern leads the same number of groups, members are neighbours, and draws depend on the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychopinn.batches.grouping import compact_region, covering_groups, group_patterns, within_bounds
from ptychopinn.errors import InputError


def distances_to_others(points: np.ndarray, leader: int) -> np.ndarray:
    distances = np.hypot(*(points - points[leader]).T)
    distances[leader] = np.inf
    return np.sort(distances)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 40),
    size=st.integers(1, 6),
    extra=st.integers(0, 5),
    groups=st.integers(1, 3),
    levels=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_members_are_nearest_others_for_any_scan(
    n: int, size: int, extra: int, groups: int, levels: int, seed: int
) -> None:
    if n < size + (extra if size > 1 else 0):
        return
    points = np.random.default_rng(seed).integers(0, levels, (n, 2)).astype(float)  # few levels: many coincide
    pool = None if extra == 0 else size - 1 + extra
    if pool is not None and pool > n - 1:
        return
    if size > 1 and groups > math.comb(pool or size - 1, size - 1):
        with pytest.raises(InputError, match="a pattern can lead at most"):
            group_patterns(points, size, pool, groups, seed)
        return
    result = group_patterns(points, size, pool, groups, seed)
    assert len({(row[0], *sorted(row[1:])) for row in result}) == len(result) or size == 1
    assert result.shape == (n * groups, size) and result.dtype == np.int64
    np.testing.assert_array_equal(result[:, 0], np.repeat(np.arange(n), groups))
    for row in result:
        assert len(set(row)) == size
        distances = np.hypot(*(points[row] - points[row[0]]).T)
        assert (np.diff(distances) >= 0).all()
        if size > 1:
            assert distances[-1] <= distances_to_others(points, row[0])[(pool or size - 1) - 1]
    np.testing.assert_array_equal(result, group_patterns(points, size, pool, groups, seed))


def test_default_pool_is_the_nearest_patterns() -> None:
    points = np.random.default_rng(1).uniform(0, 100, (50, 2))
    for row in group_patterns(points, 4):
        distances = np.hypot(*(points[row] - points[row[0]]).T)
        np.testing.assert_allclose(distances[1:], distances_to_others(points, row[0])[:3])


def test_draws_depend_on_the_seed_and_use_all_of_the_pool() -> None:
    points = np.random.default_rng(2).uniform(0, 100, (30, 2))
    first, second = (group_patterns(points, 3, pool=6, groups_per_pattern=10, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    for leader in range(30):
        members, times = np.unique(first[first[:, 0] == leader, 1:], return_counts=True)
        assert len(members) == 6
        assert times.min() >= 1  # 10 of the 15 pairs; each is in 5 of them


def test_all_patterns_at_one_position() -> None:
    result = group_patterns(np.zeros((12, 2)), 4)
    assert all(len(set(row)) == 4 for row in result)
    np.testing.assert_array_equal(result[:, 0], np.arange(12))


def test_group_of_one_is_the_pattern() -> None:
    np.testing.assert_array_equal(group_patterns(np.zeros((3, 2)), 1), [[0], [1], [2]])
    np.testing.assert_array_equal(group_patterns(np.zeros((1, 2)), 1, groups_per_pattern=2), [[0], [0]])


def test_global_generator_does_not_change() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    group_patterns(np.random.default_rng(0).random((9, 2)), 3, pool=5)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 2)), 4), "a group of 4 needs a scan of at least 4 patterns, got 3"),
        ((np.zeros((5, 2)), 4, 2), "pool must be from size - 1 = 3 to n - 1 = 4 other patterns, got 2"),
        ((np.zeros((5, 2)), 4, 5), "pool must be from size - 1 = 3 to n - 1 = 4 other patterns, got 5"),
        ((np.zeros((5, 2)), 0), "size and groups_per_pattern must be 1 or more, got 0, 1"),
        ((np.zeros((5, 2)), 2, None, 0), "size and groups_per_pattern must be 1 or more, got 2, 0"),
        ((np.zeros((5, 2)), 3, 3, 4), "a pattern can lead at most 3 different groups of 3"),
        ((np.zeros((5, 3)), 2), r"positions must be finite and of shape \(n, 2\), got shape \(5, 3\)"),
        ((np.full((5, 2), np.nan), 2), "positions must be finite"),
    ],
)
def test_wrong_arguments_are_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=f"group_patterns: {message}"):
        group_patterns(*arguments)


def raster(rows: int, columns: int, step: float = 10.0) -> np.ndarray:
    y, x = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    return np.column_stack([y.ravel(), x.ravel()])


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(0, 25),
    width=st.floats(5, 60),
    size=st.integers(2, 5),
    extra=st.integers(0, 4),
    seed=st.integers(0, 9),
)
@pytest.mark.parametrize("rule", ["nearest", "quadrants"])
def test_distances_are_within_their_limits_or_an_error_is_raised(
    rule: str, low: float, width: float, size: int, extra: int, seed: int
) -> None:
    points = np.random.default_rng(seed).uniform(0, 80, (40, 2))
    distance = np.hypot(*(points[:, np.newaxis] - points).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    others = ((distance >= low) & (distance <= low + width)).sum(1)
    arguments = {"rule": rule, "min_distance": low, "max_distance": low + width, "seed": seed}
    if others.min() < size - 1:
        short = int((others < size - 1).sum())
        with pytest.raises(InputError, match=f"{short} of 40 patterns have fewer than {size - 1} neighbours"):
            group_patterns(points, size, size - 1 + extra, **arguments)
        return
    for row in group_patterns(points, size, size - 1 + extra, **arguments):
        members = distance[row[0], row[1:]]
        assert len(set(row)) == size and (members >= low).all() and (members <= low + width).all()
        nearest = np.sort(distance[row[0]][distance[row[0]] >= low])[: size - 1 + extra]
        assert members.max() <= nearest[-1] + 1e-9


@pytest.mark.parametrize("pool", [None, 12])
def test_quadrants_centre_groups_on_their_leader(pool: int | None) -> None:
    points = raster(9, 9) + np.random.default_rng(3).uniform(-2, 2, (81, 2))
    groups = group_patterns(points, 5, pool, rule="quadrants")
    for row in groups:
        if not within_bounds(points, (0.2, 0.8), (0.2, 0.8))[row[0]]:
            continue
        y, x = (points[row[1:]] - points[row[0]]).T
        assert sorted(np.floor(np.arctan2(y, x) / (np.pi / 2)) % 4) == [0, 1, 2, 3]
    corner = groups[0]
    assert corner[0] == 0 and len(set(corner)) == 5  # more members from the quadrants inside the scan
    if pool:
        assert not np.array_equal(groups, group_patterns(points, 5, pool, rule="quadrants", seed=1))
    else:
        nearest = group_patterns(points, 5)
        assert not np.array_equal(groups, nearest)


def test_bounds_are_fractions_of_the_scanned_extent() -> None:
    points = raster(11, 21) + np.array([300.0, -70.0])
    inside = within_bounds(points, (0.1, 0.9), (0.0, 0.5))
    chosen = points[inside]
    assert chosen.min(0).tolist() == [310, -70] and chosen.max(0).tolist() == [390, 30]
    assert inside.sum() == 9 * 11


def test_region_is_compact_and_depends_on_the_seed() -> None:
    points = raster(10, 10)
    region = compact_region(points, 20, seed=4)
    assert len(region) == 20 and (np.diff(region) > 0).all()
    assert np.ptp(points[region], axis=0).max() <= 60  # a quarter of a disk of 20 has a radius of 5 steps
    assert np.array_equal(region, compact_region(points, 20, seed=4))
    assert any(not np.array_equal(region, compact_region(points, 20, seed=k)) for k in range(3))


@pytest.mark.parametrize("coverage", [1, 2, 5])
def test_covering_groups_contain_every_pattern(coverage: int) -> None:
    positions = np.random.default_rng(3).uniform(0, 90, (80, 2))
    groups = group_patterns(positions, size=6)
    chosen = covering_groups(groups, coverage)
    appearances = np.bincount(groups[chosen].ravel(), minlength=80)
    assert ((appearances >= coverage) | np.isin(np.arange(80), chosen)).all()
    assert (appearances > 0).all() and len(chosen) < 80
    assert len(covering_groups(groups, 100)) == 80
