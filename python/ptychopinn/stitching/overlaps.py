# SPDX-License-Identifier: BSD-3-Clause
"""Which patches overlap, and how much each pair agrees: the links from which phases are found.

Patches are asked for by number, so that they may come from memory, from a file or from another process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

#: A patch times its weights, complex (h, w), by the patch's number.
WeightedPatches = Callable[[int], NDArray[np.complexfloating]]

_KEPT = 256 << 20  # bytes of weighted patches
_AT_ONCE = 16 << 20  # pixels of pairs that are compared at a time on a device


def weighted_patches(
    read: Callable[[int], tuple[NDArray[np.complexfloating], NDArray[np.floating]]], size: tuple[int, int]
) -> WeightedPatches:
    """Multiply patches by their weights when they are asked for; those used last are kept.

    Args:
        read: a patch, complex (h, w), and its weights, real (h, w), by the patch's number.
        size: (h, w) of a patch.
    """

    @lru_cache(max(2, _KEPT // (8 * size[0] * size[1])))
    def product(number: int) -> NDArray[np.complexfloating]:
        patch, weights = read(number)
        weighted: NDArray[np.complexfloating] = patch * weights
        return weighted

    return product


def overlap_products(
    patches: WeightedPatches,
    positions: NDArray[np.generic],
    size: tuple[int, int],
    pairs: NDArray[np.int64],
    stride: int = 2,
) -> NDArray[np.complex128]:
    """``sum w_i w_j conj(o_i) o_j`` over the overlap of i and j, for pairs of patches.

    Args:
        patches: each times its weights, by number; asked for in the order of the pairs.
        positions: (n, 2), (y, x) scan coordinates, in pixels; differences are rounded to whole pixels.
        size: (h, w) of a patch.
        pairs: (k, 2), numbers of patches.
        stride: use every ``stride``-th pixel of an overlap.

    Returns:
        (k,), zero where a pair does not overlap.
    """
    products = np.zeros(len(pairs), np.complex128)
    for index, (first, second) in enumerate(pairs.tolist()):
        shift = np.rint(positions[second] - positions[first]).astype(np.int64)
        low, high = np.maximum(shift, 0), np.minimum(shift, 0) + size
        if (high > low).all():
            one = np.s_[low[0] : high[0] : stride, low[1] : high[1] : stride]
            low, high = low - shift, high - shift
            other = np.s_[low[0] : high[0] : stride, low[1] : high[1] : stride]
            products[index] = np.vdot(patches(first)[one], patches(second)[other])
    return products


def overlap_products_on_device(
    patches: Tensor,
    weights: Tensor,
    order: NDArray[np.int64],
    positions: NDArray[np.generic],
    pairs: NDArray[np.int64],
    stride: int = 2,
) -> Tensor:
    """The products of :func:`overlap_products`, many pairs at a time, for patches that are in the memory of a device.

    The views of all pairs have the size of a patch, and pixels outside of the overlap count as zero, so that all pairs
    are alike. Nothing is read back. On the CPU this is slower than one pair after the other.

    Args:
        patches: complex, (n, h, w).
        weights: real, (n, h, w), any strides.
        order: (n,), the patch of each number.
        positions: (n, 2), (y, x) scan coordinates by number, in pixels; differences are rounded to whole pixels.
        pairs: (k, 2), numbers.
        stride: use every ``stride``-th pixel of an overlap.

    Returns:
        complex128, (k,), on the device; zero where a pair does not overlap.
    """
    device, (height, width) = patches.device, patches.shape[1:]
    size = np.array([height, width])
    corners: NDArray[np.float64] = positions.astype(np.float64)
    shift = np.rint(corners[pairs[:, 1]] - corners[pairs[:, 0]]).astype(np.int64)
    low = np.maximum(shift, 0)
    counts = np.maximum(-(-(np.minimum(shift, 0) + size - low) // stride), 0)
    # The overlap begins in the first patch at `low` and in the second one at `low - shift`, both inside.
    inside = (counts > 0).all(1)
    low, shift, counts = (np.where(inside[:, None], part, 0) for part in (low, shift, counts))
    members = order[pairs]
    table = torch.from_numpy(np.concatenate([members, low, low - shift, counts], 1)).to(device)
    rows, columns = (torch.arange(0, side, stride, device=device) for side in (height, width))
    which_rows, which_columns = (torch.arange(len(part), device=device) for part in (rows, columns))
    products = torch.empty(len(pairs), dtype=torch.complex128, device=device)
    step = max(1, _AT_ONCE // (len(rows) * len(columns)))
    for start in range(0, len(pairs), step):
        first, second, y, x, other_y, other_x, down, across = table[start : start + step].unbind(1)

        def weighted(patch: Tensor, y: Tensor, x: Tensor) -> Tensor:
            at = patch[:, None, None], (y[:, None] + rows) % height, (x[:, None] + columns) % width
            index = at[0], at[1][:, :, None], at[2][:, None, :]
            return patches[index] * weights[index]

        covered = (which_rows < down[:, None])[:, :, None] & (which_columns < across[:, None])[:, None, :]
        product = weighted(first, y, x).conj() * weighted(second, other_y, other_x)
        total = torch.where(covered, product, torch.zeros_like(product)).sum((1, 2), dtype=torch.complex128)
        products[start : start + step] = total
    return products


def scan_order(positions: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.int64]:
    """The order in which patches are added: by bands of rows as high as a patch, from left to right in each.

    Successive patches are then near each other, so that the box of some of them is small. Patches at one position keep
    their order.

    Args:
        positions: (n, 2), (y, x) scan coordinates, in pixels.
        size: (h, w) of a patch.

    Example:
        >>> scan_order(np.array([[9, 0], [1, 5], [0, 7], [2, 5]]), (8, 8)).tolist()
        [1, 3, 2, 0]
    """
    top = np.floor(positions[:, 0].min()) if len(positions) else 0
    bands = (positions[:, 0] - top) // size[0]
    order: NDArray[np.int64] = np.lexsort((positions[:, 0], positions[:, 1], bands))
    return order


def overlapping_pairs(positions: NDArray[np.generic], size: tuple[int, int], neighbours: int = 8) -> NDArray[np.int64]:
    """Choose the pairs of patches to compare.

    Nearest neighbours alone would leave the rows of a scan apart whose steps along a row are much the shorter, and
    repeats of one position apart from the others. So the plane is also cut into cells of a quarter patch, in which all
    patches overlap: each is compared with its cell's first, and that with the first ones of the nearest cells.

    Args:
        positions: (n, 2), (y, x) scan coordinates, in pixels, in the order of :func:`scan_order`: of the patches of a
            cell the first is the one to compare with.
        size: (h, w) of a patch.
        neighbours: nearest patches with which each is compared, and nearest cells.

    Returns:
        (k, 2), each pair once, ascending, the lower number first.
    """
    if len(positions) < 2 or neighbours < 1:
        return np.zeros((0, 2), np.int64)
    cells = (positions // np.maximum(np.array(size) // 4, 1)).astype(np.int64)
    cells -= cells.min(0)
    _, first, cell = np.unique(
        cells[:, 0] * (cells[:, 1].max() + 1) + cells[:, 1], return_index=True, return_inverse=True
    )
    everyone, total = np.arange(len(positions)), len(positions)
    found = [_numbered(everyone, first[cell.ravel()], total)]
    for members in (everyone, first):
        count = min(neighbours + 1, len(members))
        _, nearest = cKDTree(positions[members]).query(positions[members], k=[*range(1, count + 1)])
        found.append(_numbered(np.repeat(members, count), members[nearest].ravel(), total))
    pairs: NDArray[np.int64] = np.stack(np.divmod(np.unique(np.concatenate(found)), total), 1)
    return pairs


def _numbered(one: NDArray[np.int64], other: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """A number for each pair of different patches, the lower one first: numbers sort much faster than pairs."""
    one, other = one[one != other], other[one != other]
    keys: NDArray[np.int64] = np.minimum(one, other) * total + np.maximum(one, other)
    return keys
