# SPDX-License-Identifier: BSD-3-Clause
"""The free phases of overlapping patches, made to agree.

Patterns do not tell the constant phase of the patches that explain them, so every patch (or group canvas) comes with a
free phase of its own, and averaging them as they are would wash out the slow part of the object's phase. The phases
that agree best over all overlaps are the leading eigenvector of the Hermitian matrix of overlap products (angular
synchronisation; A. Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20).
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.runtime.progress import progress
from ptychopinn.stitching.accumulator import Accumulator, Stitched
from ptychopinn.stitching.aggregates import row_sums_of_modulus, unit
from ptychopinn.stitching.multigrid import best_phases
from ptychopinn.stitching.overlaps import (
    overlap_products,
    overlap_products_on_device,
    overlapping_pairs,
    scan_order,
    weighted_patches,
)
from ptychopinn.stitching.stores import MemoryStore

_log = logging.getLogger(__name__)

#: Linked patches up to which the eigenvector is computed directly.
_FEW = 64
#: Pixels of patches that are added at a time. The sums depend on it in their last bits, so it is the same everywhere.
_PART = 8 << 20
#: Steps of the power iteration, where the eigenvector is not found.
_STEPS = 100


def stitch(patches: Tensor, positions: Tensor, weights: Tensor, *, synchronise: bool = True) -> Stitched:
    """Average overlapping patches onto the smallest canvas that holds them all.

    All of it is computed on the patches' device. The order of the patches makes no difference, to the last bit, where
    no two have the same position: they are compared and added in the order of
    :func:`~ptychopinn.stitching.overlaps.scan_order`.

    Args:
        patches: complex, (n, h, w).
        positions: float64 or integer, (n, 2), (y, x) scan coordinates of each patch's first sample, in pixels; on any
            device.
        weights: real, (h, w) or (n, h, w), >= 0, usually the probe's intensity in counts.
        synchronise: remove the free phase of every patch first.

    Returns:
        The average with its weights and its place in scan coordinates, of the patches' type and on their device.
    """
    size = (patches.shape[-2], patches.shape[-1])
    positions = positions.detach().cpu().to(torch.float64)
    phases = synchronise_phases(patches, positions, weights) if synchronise else None
    geometry = CanvasGeometry.from_positions(positions, size)
    average = Accumulator(geometry, MemoryStore(geometry.shape, patches.dtype, patches.device))
    order = torch.from_numpy(scan_order(positions.numpy(), size))
    with progress("stitch", len(order), "canvases") as advance:
        for chosen in order.split(max(1, _PART // math.prod(size))):
            there = chosen.to(patches.device)
            part = patches.index_select(0, there)  # a copy
            if phases is not None:
                part *= phases[there][:, None, None]
            average.add(part, positions[chosen], weights if weights.dim() == 2 else weights.index_select(0, there))
            advance(len(chosen))
    return average.mean()


def synchronise_phases(
    patches: Tensor, positions: Tensor, weights: Tensor, *, neighbours: int = 8, stride: int = 2
) -> Tensor:
    """Unit phase factors that make overlapping patches agree.

    Args:
        patches: complex, (n, h, w).
        positions: float64, (n, 2), (y, x) scan coordinates in pixels; differences are rounded to whole pixels here.
        weights: real, (h, w) or (n, h, w).
        neighbours: overlaps with so many nearest patches are compared, and with as many far ones.
        stride: use every ``stride``-th pixel of an overlap.

    Returns:
        complex, (n,), of modulus 1; multiply each patch by its factor. Patches without any overlap keep 1. The mean
        phase over each connected part of the scan is left as it was.
    """
    patches, size = patches.detach(), (patches.shape[-2], patches.shape[-1])
    order = scan_order(corners := positions.detach().cpu().numpy(), size)
    corners = corners[order]
    pairs = overlapping_pairs(corners, size, neighbours)
    shared = weights.detach().expand(patches.shape)
    if patches.device.type == "cpu":
        values, by = patches.numpy(), shared.numpy()
        weighted = weighted_patches(lambda number: (values[order[number]], by[order[number]]), size)
        products = overlap_products(weighted, corners, size, pairs, stride)
    else:
        products = overlap_products_on_device(patches, shared, order, corners, pairs, stride).cpu().numpy()
    factors = np.empty(len(order), np.complex128)
    factors[order] = agreeing_phases(len(order), pairs, products, patches.device)
    return torch.from_numpy(factors).to(patches)


def agreeing_phases(
    count: int,
    pairs: NDArray[np.int64],
    products: NDArray[np.complex128],
    device: torch.device | str = "cpu",
) -> NDArray[np.complex128]:
    """Unit phase factors from overlap products.

    Args:
        count: of the patches.
        pairs: (k, 2), numbers of patches, each pair once.
        products: (k,), of each pair as :func:`~ptychopinn.stitching.overlaps.overlap_products` has them.
        device: for the iterations where there are many patches.

    Returns:
        (count,), of modulus 1; see :func:`synchronise_phases`. Where the eigenvector is not found, a warning is logged
        and the phases are those of a power iteration; products that are not finite count as no overlap.
    """
    products = np.where(np.isfinite(products), products, 0)
    factors = np.ones(count, np.complex128)
    upper = coo_array((products, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    upper.eliminate_zeros()
    links = (upper + upper.conj().T).tocsr()
    parts, labels = connected_components(abs(links), directed=False)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(labels, minlength=parts))[:-1]):
        if len(members) > 1:
            part = links if parts == 1 else links[members][:, members]
            found = _eigenvector(part, device)
            mean = found.sum()
            factors[members] = found * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1)
    return factors


def _eigenvector(links: csr_array, device: torch.device | str) -> NDArray[np.complex128]:
    """Phases of the links' leading eigenvector, or of a power iteration if a library does not find it."""
    try:
        found = _exactly(links) if links.shape[0] <= _FEW else best_phases(links, device).cpu().numpy()
        if np.isfinite(found).all():
            return found
        reason = "it is not finite"
    except np.linalg.LinAlgError as error:
        reason = str(error)
    _log.warning(
        "phases of %d overlapping patches: no eigenvector (%s); those of a power iteration are used",
        links.shape[0], reason,
    )  # fmt: skip
    factors, weights = _along_a_tree(links), row_sums_of_modulus(links)
    for _ in range(_STEPS):
        factors = unit(weights * factors + links @ factors)
    return factors


def _along_a_tree(links: csr_array) -> NDArray[np.complex128]:
    """Phases that agree over the links of a tree, the strongest ones that connect all patches."""
    inverse = abs(links)
    inverse.data = 1 / inverse.data
    order, before = breadth_first_order(minimum_spanning_tree(inverse), 0, directed=False)
    factors = np.ones(links.shape[0], np.complex128)
    turned = unit(np.asarray(links[order[1:], before[order[1:]]]).ravel())
    for patch, factor in zip(order[1:], turned, strict=True):
        factors[patch] = factor * factors[before[patch]]
    return factors


def _exactly(links: csr_array) -> NDArray[np.complex128]:
    """Phases of the leading eigenvector of ``D^-1/2 M D^-1/2`` with D the row sums of |M|.

    Its eigenvalues are in [-1, 1], and 1 is one of them where all overlaps agree.
    """
    scale = 1 / np.sqrt(row_sums_of_modulus(links))
    normalised = diags_array(scale) @ links @ diags_array(scale)
    return unit(np.linalg.eigh(normalised.toarray())[1][:, -1])
