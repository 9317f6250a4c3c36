# SPDX-License-Identifier: BSD-3-Clause
"""Groups of overlapping patterns that a network sees together.

One rule for training, validation and inference: every pattern leads the same number of groups and is always a member of
those, so that each pattern is predicted equally often and none is dropped. Neighbours come from one k-d tree for the
whole scan; the random choice is seeded here and touches no global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptychopinn.errors import InputError

RULES = ("nearest", "quadrants")
#: Of the default pool of "quadrants", in patterns for each other member: enough for every quadrant to be in it.
_QUADRANT_POOL = 4


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
    """Group every pattern with `size - 1` of its neighbours.

    The members after the first are drawn without replacement from the `pool` patterns nearest to the first and are in
    order of distance from it. With a pool of `size - 1` there is nothing to draw. Patterns at the same position are
    neighbours like any others; a pattern is never twice in a group, and a pattern leads no two groups of the same
    members.

    Args:
        positions: (n, 2) scan positions, pixels.
        size: patterns in a group (C).
        pool: neighbours to choose from (K), C - 1 to n - 1; None means C - 1, exactly the nearest, or with "quadrants"
            the nearest of every quadrant among 4 (C - 1).
        groups_per_pattern: groups that each pattern leads (g), at most K choose C - 1.
        seed: of the random choice.
        rule: "nearest" draws from the whole pool; "quadrants" takes from each of the four quadrants around the first in
            turn, so that groups have it in their middle; where a quadrant is empty, as at the border of a scan, the
            others make up for it.
        min_distance: pixels; nearer patterns are no neighbours.
        max_distance: pixels; patterns further away are no neighbours. None: no limit.

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
    if min_distance == 0 and max_distance is None:
        near = _nearest_others(points, count)
    else:
        near = _others_within(points, count, min_distance, np.inf if max_distance is None else max_distance)
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


#: Times that groups are drawn again because their leader had the same ones already.
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
    """Whether every pattern has neighbours for a group, and for so many different ones."""
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
    """(r, count) columns of the pools `rows`, at random, ascending; columns that hold -1 are not drawn."""
    keys = rng.random(rows.shape)
    keys[rows < 0] = np.inf
    return np.sort(keys.argsort(axis=1)[:, :count], axis=1)


def _draw_from_quadrants(
    rows: NDArray[np.int64], quadrants: NDArray[np.int64], count: int, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """As :func:`_draw`, but from one quadrant after the other; without a generator the nearest of each."""
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
    # In each round the quadrants' own order is by distance, which the columns have.
    return np.sort(turn.argsort(axis=1, kind="stable")[:, :count], axis=1)


def _quadrants(points: NDArray[np.float64], near: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, count): in which quadrant (0 to 3) around its pattern a neighbour lies, each with one of the half axes."""
    y, x = np.moveaxis(points[near] - points[:, np.newaxis], -1, 0)
    return (np.floor(np.arctan2(y, x) / (np.pi / 2)).astype(np.int64)) % 4


def _repeats(columns: NDArray[np.int64], groups: int) -> NDArray[np.bool_]:
    """Which rows are the same as an earlier one of the same leader's `groups` rows."""
    if groups == 1:
        return np.zeros(len(columns), np.bool_)
    per_leader = columns.reshape(-1, groups, columns.shape[1])
    same = (per_leader[:, :, np.newaxis] == per_leader[:, np.newaxis]).all(-1)
    return np.asarray(np.tril(same, -1).any(-1).ravel())


def covering_groups(groups: NDArray[np.int64], coverage: int) -> NDArray[np.int64]:
    """Indices of a few of the groups that still show every pattern: fewer groups, faster, less averaging.

    Greedy in the order of the groups: one is taken if its leader appears fewer than `coverage` times so far. So every
    pattern leads a group or appears in at least `coverage` of them.

    Args:
        groups: (n, C) pattern indices, row k led by pattern k, as :func:`group_patterns` gives them.
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


def within_bounds(
    positions: ArrayLike, y_bounds: tuple[float, float], x_bounds: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which patterns lie within fractions (low, high) of the scanned extent along y and x; (n,).

    Example:
        >>> within_bounds([[0, 0], [5, 5], [10, 10]], (0.1, 0.9), (0.0, 1.0)).tolist()
        [False, True, False]
    """
    points = np.asarray(positions, np.float64)
    first, extent = points.min(0), np.ptp(points, axis=0)
    low, high = np.transpose([y_bounds, x_bounds])
    return np.asarray(((points >= first + low * extent) & (points <= first + high * extent)).all(1))


def compact_region(positions: ArrayLike, count: int, seed: int | Sequence[int] = 0) -> NDArray[np.int64]:
    """Indices of the `count` patterns nearest to one that the seed chooses, ascending: a part of the sample apart."""
    points = np.asarray(positions, np.float64)
    centre = points[np.random.default_rng(seed).integers(len(points))]
    return np.sort(np.argsort(np.square(points - centre).sum(1), kind="stable")[:count])


def _nearest_others(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(n, count) indices of the nearest other points, nearest first."""
    n = len(points)
    _, nearest = cKDTree(points).query(points, k=count + 1)
    own = nearest == np.arange(n)[:, np.newaxis]
    # Among more than `count` coincident points the query may leave out the point itself: then the last one goes.
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = nearest[~own].reshape(n, count).astype(np.int64, copy=False)
    return others


def _others_within(points: NDArray[np.float64], count: int, low: float, high: float) -> NDArray[np.int64]:
    """(n, count) indices of the nearest other points at distances from low to high, nearest first; -1 where too few."""
    n = len(points)
    tree, asked = cKDTree(points), count + 1
    while True:
        distances, nearest = tree.query(points, k=min(asked, n))
        valid = (nearest != np.arange(n)[:, np.newaxis]) & (distances >= low) & (distances <= high)
        if asked >= n or bool(((valid.sum(1) >= count) | (distances[:, -1] > high)).all()):
            break
        asked *= 2
    order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
    chosen = np.where(np.take_along_axis(valid, order, 1), np.take_along_axis(nearest, order, 1), -1)
    padding = np.full((n, count - chosen.shape[1]), -1)
    return np.concatenate([chosen, padding], axis=1).astype(np.int64, copy=False)
