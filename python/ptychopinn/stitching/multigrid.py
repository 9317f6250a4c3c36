# SPDX-License-Identifier: BSD-3-Clause
"""The phases that agree best over the links of many patches, by multigrid: memory and time grow with the links' number.

The links of a scan are a graph in the plane, on which phases that vary slowly are found slowly. So patches are joined
to aggregates of about ten neighbours, whose phases agree, and these again until a few dozen are left. On the way back
each level starts from the coarser one. With the phases that are found the links are nearly real and positive, and the
aggregates are the levels of a multigrid for their Laplacian (smoothed aggregation; P. Vanek, J. Mandel and M. Brezina,
Computing 56 (1996) 179), which preconditions the iterations. The levels are made once, on the host; the iterations are
products with sparse matrices on any device, whose rows are summed in a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from ptychopinn.stitching.aggregates import aggregate, row_sums_of_modulus, unit

#: Unknowns of the coarsest level, which is solved directly, and largest number of levels above it.
_COARSEST, _LEVELS = 64, 20
#: Sweeps over a level on the way from the coarsest one, and steps of all phases after it.
_SWEEPS, _STEPS = 4, 12
#: Iterations between two readings of the accuracy, their largest number, and the angle of a step at which they end.
_BETWEEN, _LARGEST, _ANGLE = 8, 128, 1e-10
#: Angle of the last step up to which the eigenvector counts as found, and the fall of the angle between two readings
#: below which it will not be, unless the angle is small already.
_FOUND, _FALL, _HOPELESS = 1e-6, 0.3, 1e-2
#: Smallest weight of a link in the Laplacian, relative to its modulus.
_LEAST = 0.05
_TINY = 1e-300


def best_phases(links: csr_array, device: torch.device | str = "cpu") -> Tensor:
    """Phase factors of the vector v with the largest ``v^H M v / v^H D v``, with D the row sums of |M|.

    Where links are so noisy, and so many, that this vector is large in some region of the scan and vanishes elsewhere,
    the iteration does not find it in a bounded number of steps. The phase factors s with the largest ``s^H M s`` near
    the start are then the result: those that agree best where every patch counts.

    Args:
        links: complex128, (n, n), Hermitian with a zero diagonal, of a connected graph.
        device: for the iterations.

    Returns:
        complex128, (n,), of modulus 1, on the device.

    Source:
        Conjugate gradients for the smallest eigenvalue of D - M: W. W. Bradbury and R. Fletcher, Numer. Math. 9 (1966)
        259, preconditioned.
    """
    device = torch.device(device)
    start, joined = _start(links)
    grid = _Multigrid(_laplacian(links, start), joined, device)
    matrix, mass = Rows(links, device), _to(row_sums_of_modulus(links), device)
    phases = _agree(matrix, grid, _to(start, device))
    vector, angle = _leading(matrix, mass, grid, phases)
    return torch.where(angle < _FOUND, vector / vector.abs().clamp_min(_TINY), phases)


class Rows:
    """Product of a sparse matrix with vectors on a device; every row is summed in the order of its columns.

    Args:
        matrix: float64 or complex128, (m, n).
        device: of the vectors.
    """

    def __init__(self, matrix: csr_array, device: torch.device) -> None:
        self.matrix, self.device = matrix, device
        if device.type != "cpu":
            self.columns, self.starts = (_to(part.astype(np.int64), device) for part in (matrix.indices, matrix.indptr))
            self.values = _to(matrix.data, device)

    def __call__(self, vector: Tensor) -> Tensor:
        """Multiply a vector, complex128 or float64 (n,)."""
        if self.device.type == "cpu":
            return torch.from_numpy(self.matrix @ vector.numpy())
        return row_sums(self.values * vector[self.columns], self.starts)


def row_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums of values (k,) from each start to the next, int64 (m + 1,): (m,)."""
    parts = torch.view_as_real(values) if values.is_complex() else values
    sums = torch.segment_reduce(parts, "sum", offsets=starts, axis=0, unsafe=True, initial=0.0)
    return torch.view_as_complex(sums) if values.is_complex() else sums


def _start(links: csr_array) -> tuple[NDArray[np.complex128], list[NDArray[np.int64]]]:
    """Phase factors (n,), and the aggregate of every row of each level.

    Moduli are one on every level: an eigenvector of noisy links is large where these happen to agree best, and what is
    left elsewhere would be a bad start.
    """
    levels: list[tuple[csr_array, csr_array]] = []
    while links.shape[0] > _COARSEST and len(levels) < _LEVELS:
        joined = aggregate(links)
        if joined.shape[1] == joined.shape[0]:
            break
        levels.append((links, joined))
        links = (joined.conj().T @ (links @ joined)).tocsr()
        links.setdiag(0)
        links.eliminate_zeros()
    scale = 1 / np.sqrt(np.maximum(row_sums_of_modulus(links), _TINY))
    dense = scale[:, None] * links.toarray() * scale
    factors = unit(np.linalg.eigh((dense + dense.conj().T) / 2)[1][:, -1])
    for finer, joined in reversed(levels):
        factors = joined @ factors
        weights = row_sums_of_modulus(finer)
        for _ in range(_SWEEPS):
            factors = unit(weights * factors + finer @ factors)
    return factors, [joined.indices.astype(np.int64) for _, joined in levels]


def _laplacian(links: csr_array, factors: NDArray[np.complex128]) -> csr_array:
    """Laplacian of the links with these phases, float64: the curvature of ``s^H M s``, where that is positive."""
    turned = (diags_array(factors.conj()) @ links @ diags_array(factors)).tocsr()
    weights = np.maximum(turned.data.real, _LEAST * np.abs(turned.data))
    positive = csr_array((weights, turned.indices, turned.indptr), shape=turned.shape)
    return (diags_array(np.asarray(positive.sum(axis=1)).ravel()) - positive).tocsr()


@dataclass
class _Level:
    """One level: its damped inverse diagonal, its matrix, and the way to the next coarser level and back."""

    damping: Tensor
    matrix: Rows
    restrict: Rows
    prolong: Rows


class _Multigrid:
    """The inverse of a Laplacian, about, as one V-cycle.

    Args:
        matrix: float64, (n, n), the Laplacian.
        joined: the aggregate of every row, for each level.
        device: of the vectors.
    """

    def __init__(self, matrix: csr_array, joined: list[NDArray[np.int64]], device: torch.device) -> None:
        self.levels: list[_Level] = []
        for columns in joined:
            count = len(columns)
            diagonal = np.maximum(matrix.diagonal(), _TINY)
            # At most the largest eigenvalue of the matrix divided by its diagonal (Gershgorin).
            bound = float((row_sums_of_modulus(matrix) / diagonal).max())
            damping = 4 / (3 * bound) / diagonal
            constant = csr_array((np.ones(count), columns, np.arange(count + 1)), shape=(count, int(columns.max()) + 1))
            prolong = (constant - diags_array(damping) @ (matrix @ constant)).tocsr()
            restrict = prolong.T.tocsr()
            rows = (Rows(part, device) for part in (matrix, restrict, prolong))
            self.levels.append(_Level(_to(damping, device), *rows))
            matrix = (restrict @ (matrix @ prolong)).tocsr()
        dense = matrix.toarray()
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        # The constant, to which every step is indifferent, would have an infinite factor: it has the next smaller one.
        least = max(values[min(1, len(values) - 1)], values[-1] * 1e-12, _TINY)
        self.inverse = _to((vectors / np.maximum(values, least)) @ vectors.T, device)

    def __call__(self, right: Tensor, first: int = 0) -> Tensor:
        """Apply to a right-hand side, complex128 or float64 (n,)."""
        if first == len(self.levels):
            return self.inverse.to(right.dtype) @ right
        level = self.levels[first]
        found = level.damping * right
        coarse = self(level.restrict(right - level.matrix(found)), first + 1)
        found = found + level.prolong(coarse)
        return found + level.damping * (right - level.matrix(found))


def _agree(matrix: Rows, grid: _Multigrid, phases: Tensor) -> Tensor:
    """Newton's steps, about, to the phase factors s near the start with the largest ``s^H M s``."""
    for _ in range(_STEPS):
        gradient = (phases.conj() * matrix(phases)).imag
        turned = phases * torch.complex(torch.ones_like(gradient), -grid(-gradient))
        phases = turned / turned.abs()
    return phases


def _leading(matrix: Rows, mass: Tensor, grid: _Multigrid, phases: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvector, and the angle of the last step; nothing is read back but that angle, every so many steps."""
    vector = phases / _norm(phases, mass)
    image = mass * vector - matrix(vector)
    direction = residual = torch.zeros_like(vector)
    last = angle = torch.zeros_like(mass[0])
    before = math.inf
    for step in range(1, _LARGEST + 1):
        value = _dot(vector, image).real
        previous, residual = residual, image - value * (mass * vector)
        better = phases * grid(phases.conj() * residual)
        now = _dot(residual, better).real
        turn = ((now - _dot(previous, better).real) / last.clamp_min(_TINY)).clamp(0, 1e3)
        last = now
        direction = -better + turn * direction
        # The best combination of the vector and the direction, in closed form.
        direction = direction - _dot(vector, mass * direction) * vector
        direction = direction / _norm(direction, mass).clamp_min(_TINY)
        moved = mass * direction - matrix(direction)
        mixed = _dot(direction, image)
        half = (_dot(direction, moved).real - value) / 2
        length = half + torch.sqrt(half.square() + mixed.real.square() + mixed.imag.square())
        tangent = -mixed / length.clamp_min(_TINY)
        angle = tangent.abs()
        vector, image = vector + tangent * direction, image + tangent * moved
        direction = tangent * direction  # conjugate to the step that was taken, its phase included
        scale = 1 / _norm(vector, mass)
        vector, image, direction = vector * scale, image * scale, direction * scale
        if step % _BETWEEN == 0:
            reached = float(angle)
            if reached < _ANGLE or reached > max(_FALL * before, _HOPELESS):
                break
            before = reached
            image = mass * vector - matrix(vector)
    return vector, angle


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product, complex (), summed in a fixed order."""
    return (a.conj() * b).sum()


def _norm(vector: Tensor, mass: Tensor) -> Tensor:
    return (mass * (vector.real.square() + vector.imag.square())).sum().sqrt()


def _to(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
