# SPDX-License-Identifier: BSD-3-Clause
"""Overlapping patches onto one canvas: phase synchronisation, then a weighted average.

Patterns do not tell the constant phase of the patches that explain them, so every patch (or group canvas) comes with a
free phase of its own, and averaging them as they are would wash out the slow part of the object's phase. The phases
that agree best over all overlaps are the leading eigenvector of the Hermitian matrix of overlap products (angular
synchronisation; A. Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from torch import Tensor

from ptycho_ext import CanvasGeometry, reassemble_patches
from ptychopinn.physics.propagation import squared_modulus

#: Rows and columns of a patch.
Window = tuple[slice, slice]


class Stitched(NamedTuple):
    """Patches merged on one canvas.

    Attributes:
        image: complex, (H, W), zero where there is no weight.
        weights: real, (H, W), summed.
        geometry: of the canvas.
        square: real, (H, W), mean square modulus of the patches that cover a pixel; less that of the image it is their
            variance.
    """

    image: Tensor
    weights: Tensor
    geometry: CanvasGeometry
    square: Tensor


def stitch(patches: Tensor, positions: Tensor, weights: Tensor, *, synchronise: bool = True) -> Stitched:
    """Average overlapping patches onto the smallest canvas that holds them all.

    Args:
        patches: complex, (n, h, w).
        positions: float64 or integer, (n, 2), (y, x) scan coordinates of each patch's first sample.
        weights: real, (h, w) or (n, h, w), >= 0, usually the probe's intensity.
        synchronise: remove the free phase of every patch first.
    """
    positions = positions.to(torch.float64)
    if synchronise:
        phases = synchronise_phases(patches, positions, weights)
        patches = patches * phases[:, None, None]
    geometry = CanvasGeometry.from_positions(positions, (patches.shape[-2], patches.shape[-1]))
    places = geometry.to_canvas(positions)
    image, weight_sum = reassemble_patches(patches, places, geometry.shape, weights=weights)
    square, _ = reassemble_patches(squared_modulus(patches), places, geometry.shape, weights=weights)
    return Stitched(image, weight_sum, geometry, square)


def synchronise_phases(
    patches: Tensor, positions: Tensor, weights: Tensor, *, neighbours: int = 8, stride: int = 2
) -> Tensor:
    """Unit phase factors that make overlapping patches agree.

    Args:
        patches: complex, (n, h, w).
        positions: float64, (n, 2), (y, x) scan coordinates; differences are rounded to whole pixels here.
        weights: real, (h, w) or (n, h, w).
        neighbours: overlaps with so many nearest patches are compared, and with as many far ones.
        stride: use every ``stride``-th pixel of an overlap.

    Returns:
        complex, (n,), of modulus 1; multiply each patch by its factor. Patches without any overlap keep 1. The mean
        phase over each connected part of the scan is left as it was.
    """
    values, places = patches.detach().cpu().numpy(), positions.detach().cpu().numpy()
    light = np.broadcast_to(weights.detach().cpu().numpy(), patches.shape)
    size = (values.shape[1], values.shape[2])
    pairs = overlapping_pairs(places, size, neighbours)

    def lit(patch: int, window: Window) -> NDArray[np.complexfloating]:
        return values[patch][window] * light[patch][window]

    products = overlap_products(lit, places, size, pairs, stride)
    return torch.from_numpy(agreeing_phases(len(values), pairs, products)).to(patches)


def agreeing_phases(count: int, pairs: NDArray[np.int64], products: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Unit phase factors (count,) from the overlap products (k,) of pairs of patches (k, 2)."""
    factors = np.ones(count, np.complex128)
    upper = coo_array((products, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    upper.eliminate_zeros()
    links = upper + upper.conj().T
    parts, labels = connected_components(abs(links), directed=False)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(labels, minlength=parts))[:-1]):
        if len(members) > 1:
            vector = _leading_eigenvector(links[members][:, members])
            modulus = np.abs(vector)
            unit = np.where(modulus > 0, vector / np.where(modulus > 0, modulus, 1), 1)
            mean = unit.sum()
            factors[members] = unit * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1)
    return factors


def overlap_products(
    lit: Callable[[int, Window], NDArray[np.complexfloating]],
    positions: NDArray[np.generic],
    size: tuple[int, int],
    pairs: NDArray[np.int64],
    stride: int = 2,
) -> NDArray[np.complex128]:
    """``sum w_i w_j conj(o_i) o_j`` over the overlap of i and j, for pairs of patches.

    Args:
        lit: patch times weight in a window of it, given the patch's number.
        positions: (n, 2), (y, x).
        size: (h, w) of a patch.
        pairs: (k, 2).
        stride: use every ``stride``-th pixel of an overlap.

    Returns:
        (k,), zero where a pair does not overlap.
    """
    products = np.zeros(len(pairs), np.complex128)
    for index, (first, second) in enumerate(pairs):
        shift = np.rint(positions[second] - positions[first]).astype(np.int64)
        low, high = np.maximum(shift, 0), np.minimum(shift, 0) + size
        if (high > low).all():
            one = np.s_[low[0] : high[0] : stride, low[1] : high[1] : stride]
            low, high = low - shift, high - shift
            other = np.s_[low[0] : high[0] : stride, low[1] : high[1] : stride]
            products[index] = np.vdot(lit(first, one), lit(second, other))
    return products


def overlapping_pairs(positions: NDArray[np.generic], size: tuple[int, int], neighbours: int = 8) -> NDArray[np.int64]:
    """(k, 2) indices of the patches to compare, the lower one first.

    Nearest neighbours alone would leave the rows of a scan apart whose steps along a row are much the shorter, and
    repeats of one position apart from the others. So the plane is also cut into cells of a quarter patch, in which all
    patches overlap: each is compared with its cell's first, and that with the first ones of the nearest cells.
    """
    if len(positions) < 2 or neighbours < 1:
        return np.zeros((0, 2), np.int64)
    _, cell = np.unique(positions // np.maximum(np.array(size) // 4, 1), axis=0, return_inverse=True)
    _, first = np.unique(cell, return_index=True)
    everyone = np.arange(len(positions))
    found = [np.stack([everyone, first[cell.ravel()]], 1)]
    for members in (everyone, first):
        count = min(neighbours + 1, len(members))
        _, nearest = cKDTree(positions[members]).query(positions[members], k=[*range(1, count + 1)])
        found.append(np.stack([np.repeat(members, count), members[nearest].ravel()], 1))
    pairs = np.concatenate(found)
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _leading_eigenvector(links: csr_array) -> NDArray[np.complex128]:
    """Of ``D^-1/2 M D^-1/2`` with D the row sums of |M|: eigenvalues in [-1, 1], 1 where all overlaps agree."""
    scale = 1 / np.sqrt(np.asarray(abs(links).sum(axis=1)).ravel())
    normalised = diags_array(scale) @ links @ diags_array(scale)
    if links.shape[0] <= 32:
        return np.linalg.eigh(normalised.toarray())[1][:, -1]
    start = np.ones(links.shape[0], np.complex128)
    _, vectors = eigsh(normalised.tocsc(), k=1, sigma=1 + 1e-3, which="LM", v0=start)
    return vectors[:, 0]
