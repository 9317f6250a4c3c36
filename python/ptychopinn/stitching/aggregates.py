# SPDX-License-Identifier: BSD-3-Clause
"""Aggregates of patches that are linked, for the multigrid of :mod:`ptychopinn.stitching.multigrid`.

Roots are chosen so that none is within two links of another and every patch is within two links of one (a maximal
independent set, by M. Luby, SIAM J. Comput. 15 (1986) 1036); each patch joins that of its strongest link.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

#: A link is weak below this fraction of the strongest one of both its ends.
_WEAK = 0.25
#: Rounds in which all links inside an aggregate take part.
_ROUNDS = 3


def aggregate(links: csr_array) -> csr_array:
    """Join rows to aggregates.

    Args:
        links: complex128, (n, n), Hermitian with a zero diagonal.

    Returns:
        complex128, (n, m), in every row one phase factor, in the column of the row's aggregate: with these factors the
        links inside each aggregate agree.
    """
    graph = _Strong(links)
    roots = _roots(graph)
    joined = np.where(roots, np.cumsum(roots) - 1, -1)
    factors = roots.astype(np.complex128)
    for _ in range(2):  # neighbours of roots, then their neighbours
        strength = np.where(joined[graph.column] >= 0, graph.strength, -1.0)
        best = graph.largest(strength, -1.0)
        take = ((joined < 0) & (best > 0))[graph.row] & (strength == best[graph.row])
        rows, first = np.unique(graph.row[take], return_index=True)
        columns, values = graph.column[take][first], graph.value[take][first]
        joined[rows], factors[rows] = joined[columns], unit(values * factors[columns])
    alone = np.flatnonzero(joined < 0)
    joined[alone], factors[alone] = joined.max(initial=-1) + 1 + np.arange(len(alone)), 1
    inside = joined[graph.row] == joined[graph.column]
    own = csr_array((graph.value[inside], (graph.row[inside], graph.column[inside])), shape=links.shape)
    weights = row_sums_of_modulus(own)
    for _ in range(_ROUNDS):
        factors = unit(weights * factors + own @ factors)
    return csr_array((factors, joined, np.arange(len(joined) + 1)), shape=(len(joined), int(joined.max()) + 1))


def row_sums_of_modulus(matrix: csr_array) -> NDArray[np.float64]:
    """Sum of the moduli of every row, float64 (n,)."""
    return np.asarray(abs(matrix).sum(axis=1)).ravel()


def unit(values: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Phase factors of values; 1 for zero."""
    modulus = np.abs(values)
    return np.where(modulus > 0, values / np.where(modulus > 0, modulus, 1), 1)


class _Strong:
    """The strong links, in the order of their rows: row, column, value and its modulus."""

    def __init__(self, links: csr_array) -> None:
        count = links.shape[0]
        row = np.repeat(np.arange(count), np.diff(links.indptr))
        modulus = np.abs(links.data)
        self.starts, self.empty = links.indptr[:-1], np.diff(links.indptr) == 0
        largest = self.largest(modulus, 0.0)
        strong = modulus >= _WEAK * np.minimum(largest[row], largest[links.indices])
        self.row, self.column = row[strong], links.indices[strong]
        self.value, self.strength = links.data[strong], modulus[strong]
        counts = np.bincount(self.row, minlength=count)
        self.starts, self.empty = np.cumsum(counts) - counts, counts == 0

    def largest(self, values: NDArray[Any], empty: Any) -> NDArray[Any]:
        """The largest of the values, one for a link, of every row."""
        return np.where(self.empty, empty, np.maximum.reduceat(np.append(values, empty), self.starts))


def _roots(graph: _Strong) -> NDArray[np.bool_]:
    count = len(graph.starts)
    priority = np.random.default_rng(0).permutation(count)
    undecided, roots = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    while undecided.any():
        near = np.where(undecided, priority, -1)
        for _ in range(2):
            near = np.maximum(near, graph.largest(near[graph.column], -1))
        chosen = undecided & (near == priority)
        roots |= chosen
        for _ in range(2):
            chosen = chosen | graph.largest(chosen[graph.column], False)
        undecided &= ~chosen
    return roots
