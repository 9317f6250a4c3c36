# SPDX-License-Identifier: BSD-3-Clause
"""Groups of overlapping patterns that a network sees together.

One rule for training, evaluation and inference: every pattern leads the same number of groups and is always a member of
those, so that each pattern is predicted equally often and none is dropped. Neighbours come from one k-d tree query for
the whole scan; the random choice is seeded here and touches no global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptychopinn.errors import InputError


def group_nearest(
    positions: ArrayLike, size: int, pool: int | None = None, groups_per_pattern: int = 1, seed: int | Sequence[int] = 0
) -> NDArray[np.int64]:
    """Group every pattern with `size - 1` of its nearest neighbours.

    The members after the first are drawn without replacement from the `pool` patterns nearest to the first and are in
    order of distance from it. With `pool == size - 1` there is nothing to draw, and the groups of a pattern are equal.
    Patterns at the same position are neighbours like any others; a pattern is never twice in a group.

    Args:
        positions: (n, 2) scan positions, pixels.
        size: patterns in a group (C).
        pool: neighbours to choose from, C - 1 to n - 1; None means C - 1, exactly the nearest.
        groups_per_pattern: groups that each pattern leads (g).
        seed: of the random choice.

    Returns:
        (g n, C) int64 pattern indices; rows g k to g k + g - 1 are led by pattern k. The same for the same arguments.

    Raises:
        InputError: the scan is smaller than a group or than the pool, or an argument is out of its range.

    Example:
        >>> group_nearest([[0, 0], [0, 1], [0, 3]], size=2).tolist()
        [[0, 1], [1, 0], [2, 1]]
    """
    points = np.asarray(positions, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"group_nearest: positions must be finite and of shape (n, 2), got shape {points.shape}")
    n = len(points)
    pool = size - 1 if pool is None else pool
    if size < 1 or groups_per_pattern < 1:
        raise InputError(
            f"group_nearest: size and groups_per_pattern must be 1 or more, got {size}, {groups_per_pattern}"
        )
    if n < size:
        raise InputError(
            f"group_nearest: a group of {size} needs a scan of at least {size} patterns, got {n}; lower data.group_size"
        )
    if not size - 1 <= pool <= n - 1:
        raise InputError(
            f"group_nearest: pool must be from size - 1 = {size - 1} to n - 1 = {n - 1} other patterns, got {pool}"
        )
    leaders = np.repeat(np.arange(n, dtype=np.int64), groups_per_pattern)
    if size == 1:
        return leaders[:, np.newaxis]
    neighbours = _nearest_others(points, pool)[leaders]
    if pool > size - 1:
        order = np.random.default_rng(seed).random(neighbours.shape).argsort(axis=1)[:, : size - 1]
        neighbours = np.take_along_axis(neighbours, np.sort(order, axis=1), axis=1)
    return np.column_stack([leaders, neighbours])


def covering_groups(groups: NDArray[np.int64], coverage: int) -> NDArray[np.int64]:
    """Indices of a few of the groups that still show every pattern: fewer groups, faster, less averaging.

    Greedy in the order of the groups: one is taken if its leader appears fewer than `coverage` times so far. So every
    pattern leads a group or appears in at least `coverage` of them.

    Args:
        groups: (n, C) pattern indices, row k led by pattern k, as :func:`group_nearest` gives them.
        coverage: how often a pattern must appear for it not to lead a group itself.

    Returns:
        (g,) int64, ascending.

    Example:
        >>> covering_groups(np.array([[0, 1], [1, 0], [2, 1]]), coverage=1).tolist()
        [0, 2]
    """
    appearances = np.zeros(len(groups), np.int64)
    chosen = []
    for leader, members in enumerate(groups):
        if appearances[leader] < coverage:
            chosen.append(leader)
            appearances[members] += 1
    return np.array(chosen, np.int64)


def _nearest_others(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(n, count) indices of the nearest other points, nearest first."""
    n = len(points)
    _, nearest = cKDTree(points).query(points, k=count + 1)
    own = nearest == np.arange(n)[:, np.newaxis]
    # Among more than `count` coincident points the query may leave out the point itself: then the last one goes.
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = nearest[~own].reshape(n, count).astype(np.int64, copy=False)
    return others
