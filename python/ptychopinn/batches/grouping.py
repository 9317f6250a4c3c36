# SPDX-License-Identifier: BSD-3-Clause
"""Groups of overlapping patterns, the inputs of a network.

Training, validation and inference use the same rule: every pattern leads the same number of groups and is the first
member of those, so that no pattern is omitted. Neighbours are found with one k-d tree of the scan; random draws use a
generator with a given seed and leave global generators unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptychopinn.errors import InputError

RULES = ("nearest", "quadrants")
#: Default pool of "quadrants", in patterns per member other than the leader: enough to contain every quadrant.
_QUADRANT_POOL = 4
#: Points among which neighbours are searched for on one thread.
_FEW = 2000


def group_patterns(
    positions: ArrayLike,
    size: int,
    pool: int | None = None,
    groups_per_pattern: int = 1,
    seed: int | Sequence[int] = 0,
    *,
    rule: str = "nearest",
    min_distance: float = 0.0,
    max_distance: float | None = None,
) -> NDArray[np.int64]:
    """Group every pattern, the leader, with `size - 1` of its neighbours.

    The members after the leader are drawn without replacement from the `pool` patterns nearest to it and are sorted by
    their distance from it. With a pool of `size - 1` the groups are deterministic. Patterns at the same position are
    neighbours. A group contains every pattern at most once, and the groups of one leader differ in their members.

    Args:
        positions: (n, 2) scan positions, pixels.
        size: patterns in a group (C).
        pool: neighbours to draw from (K), C - 1 to n - 1; None: C - 1, the nearest, or with "quadrants" the nearest of
            every quadrant among 4 (C - 1).
        groups_per_pattern: groups that each pattern leads (g), at most K choose C - 1.
        seed: of the random draws.
        rule: "nearest" draws from the pool; "quadrants" draws from each of the four quadrants around the leader in
            turn, which centres the group on its leader. Where a quadrant is empty, as at the border of a scan, more
            members are drawn from the others.
        min_distance: smallest distance of neighbours, pixels.
        max_distance: largest distance of neighbours, pixels. None: no limit.

    Returns:
        (g n, C) int64 pattern indices; rows g k to g k + g - 1 are led by pattern k. The same for the same arguments.

    Raises:
        InputError: the scan is smaller than a group or than the pool, patterns have too few neighbours within the
            distances or for so many groups, or an argument is out of its range.

    Example:
        >>> group_patterns([[0, 0], [0, 1], [0, 3]], size=2).tolist()
        [[0, 1], [1, 0], [2, 1]]
        >>> group_patterns([[0, 0], [0, 1], [0, 3]], size=2, min_distance=1.5).tolist()
        [[0, 2], [1, 2], [2, 1]]
    """
    points = np.asarray(positions, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"group_patterns: positions must be finite and of shape (n, 2), got shape {points.shape}")
    _check_range(len(points), size, pool, groups_per_pattern, rule, min_distance, max_distance)
    n = len(points)
    leaders = np.repeat(np.arange(n, dtype=np.int64), groups_per_pattern)
    if size == 1:
        return leaders[:, np.newaxis]
    count = pool or (size - 1 if rule == "nearest" else min(_QUADRANT_POOL * (size - 1), n - 1))
    near = _others(points, count, min_distance, max_distance)
    _check_enough(near, size, groups_per_pattern, drawn=rule == "nearest" or pool is not None)
    rng = np.random.default_rng(seed)
    rows = near[leaders]
    if rule == "quadrants":
        turns = _quadrants(points, near)[leaders]
        columns = _draw_from_quadrants(rows, turns, size - 1, rng if pool is not None else None)
    elif count > size - 1:
        columns = _draw(rows, size - 1, rng)
    else:
        return np.column_stack([leaders, rows])
    for _ in range(_ATTEMPTS):
        again = _repeats(columns, groups_per_pattern)
        if not again.any():
            break
        columns[again] = (
            _draw(rows[again], size - 1, rng)
            if rule == "nearest"
            else _draw_from_quadrants(rows[again], turns[again], size - 1, rng)
        )
    else:
        raise InputError(
            f"group_patterns: no {groups_per_pattern} different groups were found for every pattern; raise the pool"
        )
    return np.column_stack([leaders, np.take_along_axis(rows, columns, axis=1)])


def pools(
    positions: ArrayLike, pool: int, min_distance: float = 0.0, max_distance: float | None = None
) -> NDArray[np.int64]:
    """Every pattern and all those that groups of it are drawn from.

    Arguments as for :func:`group_patterns`.

    Returns:
        (n, 1 + pool) pattern indices, row k of pattern k; it is repeated where fewer are within the distances.

    Example:
        >>> pools([[0, 0], [0, 1], [0, 5]], 2, max_distance=2).tolist()
        [[0, 1, 0], [1, 0, 1], [2, 2, 2]]
    """
    points = np.asarray(positions, np.float64)
    near = _others(points, pool, min_distance, max_distance)
    leaders = np.arange(len(points), dtype=np.int64)[:, np.newaxis]
    return np.concatenate([leaders, np.where(near < 0, leaders, near)], axis=1)


#: Number of times that repeated groups of a leader are drawn again.
_ATTEMPTS = 1000


def _check_range(n: int, size: int, pool: int | None, groups: int, rule: str, low: float, high: float | None) -> None:
    if size < 1 or groups < 1:
        raise InputError(f"group_patterns: size and groups_per_pattern must be 1 or more, got {size}, {groups}")
    if rule not in RULES:
        raise InputError(f"group_patterns: rule must be one of {', '.join(RULES)}, got {rule!r}")
    if n < size:
        raise InputError(
            f"group_patterns: a group of {size} needs a scan of at least {size} patterns, got {n}; "
            "lower data.group_size"
        )
    if pool is not None and not size - 1 <= pool <= n - 1:
        raise InputError(
            f"group_patterns: pool must be from size - 1 = {size - 1} to n - 1 = {n - 1} other patterns, got {pool}"
        )
    if not 0 <= low < (math.inf if high is None else high):
        raise InputError(
            f"group_patterns: min_distance must be at least 0 and below max_distance, got {low} and {high}"
        )


def _check_enough(near: NDArray[np.int64], size: int, groups: int, drawn: bool) -> None:
    """Check that every pattern has enough neighbours for a group, and for `groups` different ones."""
    found = (near >= 0).sum(1)
    few = found < size - 1
    if few.any():
        first = int(np.argmax(few))
        raise InputError(
            f"group_patterns: {int(few.sum())} of {len(near)} patterns have fewer than {size - 1} neighbours within "
            f"the distances, the first is pattern {first} with {int(found[first])}; widen data.min_distance and "
            "data.max_distance, or lower data.group_size"
        )
    most = min((math.comb(int(k), size - 1) for k in np.unique(found)), default=1) if drawn else 1
    if groups > most:
        raise InputError(
            f"group_patterns: a pattern can lead at most {most} different groups of {size} with its neighbours, got "
            f"groups_per_pattern {groups}; raise data.pool"
        )


def _draw(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw columns (r, count) of the pools `rows` (r, K), ascending; columns that hold -1 are not drawn."""
    keys = rng.random(rows.shape)
    keys[rows < 0] = np.inf
    return np.sort(keys.argsort(axis=1)[:, :count], axis=1)


def _draw_from_quadrants(
    rows: NDArray[np.int64], quadrants: NDArray[np.int64], count: int, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """As :func:`_draw`, but from the quadrants in turn; without a generator the nearest of each."""
    keys = (
        np.tile(np.arange(rows.shape[1], dtype=np.float64), (len(rows), 1)) if rng is None else rng.random(rows.shape)
    )
    keys[rows < 0] = np.inf
    turn = np.zeros(rows.shape)
    order = keys.argsort(axis=1, kind="stable")
    for quadrant in range(4):
        inside = np.take_along_axis(quadrants, order, axis=1) == quadrant
        np.put_along_axis(
            turn, order, np.where(inside, np.cumsum(inside, axis=1), np.take_along_axis(turn, order, 1)), 1
        )
    turn[rows < 0] = np.inf
    # The sort is stable, and columns are sorted by distance: within a turn the nearest comes first.
    return np.sort(turn.argsort(axis=1, kind="stable")[:, :count], axis=1)


def _quadrants(points: NDArray[np.float64], near: NDArray[np.int64]) -> NDArray[np.int64]:
    """Quadrant (0 to 3) of every neighbour around its pattern, (n, count); each includes one of the half axes."""
    y, x = np.moveaxis(points[near] - points[:, np.newaxis], -1, 0)
    quadrants: NDArray[np.int64] = np.floor(np.arctan2(y, x) / (np.pi / 2)).astype(np.int64) % 4
    return quadrants


def _repeats(columns: NDArray[np.int64], groups: int) -> NDArray[np.bool_]:
    """Mask of the rows that repeat an earlier one of the same leader's `groups` rows."""
    if groups == 1:
        return np.zeros(len(columns), np.bool_)
    per_leader = columns.reshape(-1, groups, columns.shape[1])
    same = (per_leader[:, :, np.newaxis] == per_leader[:, np.newaxis]).all(-1)
    return np.asarray(np.tril(same, -1).any(-1).ravel())


def covering_groups(groups: NDArray[np.int64], coverage: int) -> NDArray[np.int64]:
    """Choose a subset of the groups that contains every pattern: less computation, and less averaging.

    The choice is greedy in the order of the groups: a group is chosen if its leader is in fewer than `coverage` of the
    groups chosen before. Every pattern then leads a group or is a member of at least `coverage` groups.

    Args:
        groups: (n, C) pattern indices, row k led by pattern k, from :func:`group_patterns`.
        coverage: number of groups that a pattern must be a member of if it leads none.

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


def within_bounds(
    positions: ArrayLike, y_bounds: tuple[float, float], x_bounds: tuple[float, float]
) -> NDArray[np.bool_]:
    """Mask (n,) of the positions within fractions (low, high) of the scan's extent along y and x.

    Args:
        positions: (n, 2) scan positions, pixels.
        y_bounds: (low, high), 0 to 1.
        x_bounds: (low, high), 0 to 1.

    Example:
        >>> within_bounds([[0, 0], [5, 5], [10, 10]], (0.1, 0.9), (0.0, 1.0)).tolist()
        [False, True, False]
    """
    points = np.asarray(positions, np.float64)
    first, extent = points.min(0), np.ptp(points, axis=0)
    low, high = np.transpose([y_bounds, x_bounds])
    return np.asarray(((points >= first + low * extent) & (points <= first + high * extent)).all(1))


def compact_region(positions: ArrayLike, count: int, seed: int | Sequence[int] = 0) -> NDArray[np.int64]:
    """Choose a compact region: the `count` positions nearest to a random one.

    Args:
        positions: (n, 2) scan positions, pixels.
        count: patterns in the region.
        seed: of the random position.

    Returns:
        (count,) int64 indices, ascending.
    """
    points = np.asarray(positions, np.float64)
    centre = points[np.random.default_rng(seed).integers(len(points))]
    return np.sort(np.argsort(np.square(points - centre).sum(1), kind="stable")[:count])


def _others(points: NDArray[np.float64], count: int, low: float, high: float | None) -> NDArray[np.int64]:
    """Indices (n, count) of the nearest other points at these distances, nearest first, padded with -1."""
    if low == 0 and high is None:
        return nearest_others(points, count)
    return _others_within(points, count, low, np.inf if high is None else high)


def nearest_others(
    points: NDArray[np.float64], count: int, rows: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Indices (n, count) of the other points nearest to each, or to those of some rows (n,), nearest first."""
    rows = np.arange(len(points)) if rows is None else rows
    _, nearest = cKDTree(points).query(points[rows], k=count + 1, workers=_threads(len(points)))
    own = nearest.reshape(len(rows), count + 1) == rows[:, np.newaxis]
    # With more than `count` coincident points the query may not return the point itself: the last one is dropped then.
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = nearest.reshape(own.shape)[~own].reshape(len(rows), count).astype(np.int64, copy=False)
    return others


def _others_within(points: NDArray[np.float64], count: int, low: float, high: float) -> NDArray[np.int64]:
    """Indices (n, count) of the nearest other points at distances from low to high, nearest first, padded with -1."""
    n = len(points)
    tree, queried = cKDTree(points), count + 1
    while True:
        distances, nearest = tree.query(points, k=min(queried, n), workers=_threads(n))
        valid = (nearest != np.arange(n)[:, np.newaxis]) & (distances >= low) & (distances <= high)
        if queried >= n or bool(((valid.sum(1) >= count) | (distances[:, -1] > high)).all()):
            break
        queried *= 2
    order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
    chosen = np.where(np.take_along_axis(valid, order, 1), np.take_along_axis(nearest, order, 1), -1)
    padding = np.full((n, count - chosen.shape[1]), -1)
    return np.concatenate([chosen, padding], axis=1).astype(np.int64, copy=False)


def _threads(points: int) -> int:
    """Threads of a search for neighbours: starting them takes longer than a search among few points."""
    return torch.get_num_threads() if points > _FEW else 1
