# SPDX-License-Identifier: BSD-3-Clause
"""Grouping: every pattern leads its share of groups, members are its nearest others, and a seed decides the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychopinn.data.grouping import covering_groups, group_nearest
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
    result = group_nearest(points, size, pool, groups, seed)
    assert result.shape == (n * groups, size) and result.dtype == np.int64
    np.testing.assert_array_equal(result[:, 0], np.repeat(np.arange(n), groups))
    for row in result:
        assert len(set(row)) == size
        distances = np.hypot(*(points[row] - points[row[0]]).T)
        assert (np.diff(distances) >= 0).all()
        if size > 1:
            assert distances[-1] <= distances_to_others(points, row[0])[(pool or size - 1) - 1]
    np.testing.assert_array_equal(result, group_nearest(points, size, pool, groups, seed))


def test_default_pool_is_exactly_the_nearest() -> None:
    points = np.random.default_rng(1).uniform(0, 100, (50, 2))
    for row in group_nearest(points, 4):
        distances = np.hypot(*(points[row] - points[row[0]]).T)
        np.testing.assert_allclose(distances[1:], distances_to_others(points, row[0])[:3])


def test_draws_depend_on_the_seed_and_reach_the_whole_pool() -> None:
    points = np.random.default_rng(2).uniform(0, 100, (30, 2))
    first, second = (group_nearest(points, 3, pool=6, groups_per_pattern=40, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    for leader in range(30):
        members, times = np.unique(first[first[:, 0] == leader, 1:], return_counts=True)
        assert len(members) == 6
        assert times.min() > 3  # each expected 40 * 2 / 6 = 13 times


def test_all_patterns_at_one_position() -> None:
    result = group_nearest(np.zeros((12, 2)), 4)
    assert all(len(set(row)) == 4 for row in result)
    np.testing.assert_array_equal(result[:, 0], np.arange(12))


def test_group_of_one_is_the_pattern() -> None:
    np.testing.assert_array_equal(group_nearest(np.zeros((3, 2)), 1), [[0], [1], [2]])
    np.testing.assert_array_equal(group_nearest(np.zeros((1, 2)), 1, groups_per_pattern=2), [[0], [0]])


def test_no_global_generator_is_touched() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    group_nearest(np.random.default_rng(0).random((9, 2)), 3, pool=5)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.zeros((3, 2)), 4), "a group of 4 needs a scan of at least 4 patterns, got 3"),
        ((np.zeros((5, 2)), 4, 2), "pool must be from size - 1 = 3 to n - 1 = 4 other patterns, got 2"),
        ((np.zeros((5, 2)), 4, 5), "pool must be from size - 1 = 3 to n - 1 = 4 other patterns, got 5"),
        ((np.zeros((5, 2)), 0), "size and groups_per_pattern must be 1 or more, got 0, 1"),
        ((np.zeros((5, 2)), 2, None, 0), "size and groups_per_pattern must be 1 or more, got 2, 0"),
        ((np.zeros((5, 3)), 2), r"positions must be finite and of shape \(n, 2\), got shape \(5, 3\)"),
        ((np.full((5, 2), np.nan), 2), "positions must be finite"),
    ],
)
def test_refused(arguments: tuple, sentence: str) -> None:
    with pytest.raises(InputError, match=f"group_nearest: {sentence}"):
        group_nearest(*arguments)


@pytest.mark.parametrize("coverage", [1, 2, 5])
def test_covering_groups_show_every_pattern(coverage: int) -> None:
    positions = np.random.default_rng(3).uniform(0, 90, (80, 2))
    groups = group_nearest(positions, size=6)
    chosen = covering_groups(groups, coverage)
    appearances = np.bincount(groups[chosen].ravel(), minlength=80)
    assert ((appearances >= coverage) | np.isin(np.arange(80), chosen)).all()
    assert (appearances > 0).all() and len(chosen) < 80
    assert len(covering_groups(groups, 100)) == 80
