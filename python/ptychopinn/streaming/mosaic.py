# SPDX-License-Identifier: BSD-3-Clause
"""The image as it grows: patches are added where they lie, in any order, on a canvas that grows with them.

Every patch has a free phase. New ones are made to agree with each other and with the image where they overlap it
(:func:`ptychopinn.stitching.phases.agreeing_phases`). Parts of the image that do not overlap have phases of their own;
each pixel is labelled with its part. When patches connect two parts, the smaller one is multiplied by the phase that
makes them agree. What is touched is the box of the new patches, and that of a part which is joined.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.stitching.accumulator import Accumulator, Stitched
from ptychopinn.stitching.overlaps import overlap_products, overlapping_pairs, scan_order, weighted_patches
from ptychopinn.stitching.phases import agreeing_phases
from ptychopinn.stitching.stores import Box, MemoryStore

#: Weight, relative to the largest of a patch, below which its pixels are not used: all others belong to a part.
_COVERED = 0.02
#: Fraction of a patch's energy that overlaps another one, or a part, from which its phase is known relative to that.
_LINKED = 0.01
#: A canvas that must grow does so by this fraction more than it must.
_AHEAD = 0.25
#: Pixels of a canvas, which has 24 bytes for each.
LARGEST_CANVAS = 1 << 28
_STRIDE = 2  # of the pixels of an overlap that are compared


class GrowingMosaic:
    """A weighted average of patches with free phases, which come in any order.

    Attributes:
        geometry: of the canvas; None before the first patch.
        parts: number of parts that do not overlap.
    """

    def __init__(self) -> None:
        self._average: Accumulator | None = None
        self._labels = torch.zeros((0, 0), dtype=torch.int32, device="cpu")
        self._boxes: dict[int, NDArray[np.int64]] = {}  # of each part, (top, left, bottom, right) in scan coordinates
        self._pixels: dict[int, int] = {}  # of each part, at most
        self._next = 1

    @property
    def geometry(self) -> CanvasGeometry | None:
        return None if self._average is None else self._average.geometry

    @property
    def parts(self) -> int:
        return len(self._boxes)

    def fits(self, origins: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Which patches (h, w) at origins (n, 2) are near enough for a canvas in memory; (n,)."""
        if self.geometry is not None:
            low, high = np.array(self.geometry.origin), np.array(self.geometry.origin) + self.geometry.shape
        else:
            low = np.median(origins, axis=0).astype(np.int64)
            high = low + size
        extent = np.maximum(origins + np.array(size), high) - np.minimum(origins, low)
        near: NDArray[np.bool_] = extent.astype(np.float64).prod(1) * (1 + _AHEAD) ** 2 <= LARGEST_CANVAS
        return near

    def add(self, patches: Tensor, origins: Tensor, weights: Tensor) -> Box:
        """Add patches.

        Args:
            patches: complex64, (n, h, w), n > 0, on the CPU.
            origins: int64, (n, 2), (y, x) scan coordinates of each patch's first pixel.
            weights: float32, (n, h, w), >= 0.

        Returns:
            The rows and columns of the canvas that they cover.
        """
        size = (patches.shape[-2], patches.shape[-1])
        weights = weights * (weights > _COVERED * weights.amax((-2, -1), keepdim=True))
        order = torch.from_numpy(scan_order(origins.numpy(), size))
        patches, origins, weights = patches[order], origins[order], weights[order]
        covered = CanvasGeometry.from_positions(origins, size)
        average = self._grown(covered)
        corners = (origins - torch.tensor(average.geometry.origin, dtype=torch.int64, device="cpu")).numpy()
        box = _box(covered, average.geometry)
        known, pairs, products = self._links(patches, weights, corners)
        count = len(known) + len(patches)
        factors = agreeing_phases(count, pairs, products)
        labels = self._joined(known, pairs, products, factors)
        phases = torch.from_numpy(factors[len(known) :]).to(patches.dtype)
        weights = self._marked(weights, corners, labels)
        average.add(patches * phases[:, None, None], origins.double(), weights)
        return box

    def mean(self, box: Box | None = None) -> Stitched:
        """The image so far, or a box of it; there has been a patch."""
        assert self._average is not None
        return self._average.mean(box)

    def covered(self) -> Tensor:
        """Pixels of the canvas that belong to a part, bool (H, W)."""
        return self._labels > 0

    def replace(self, image: Tensor, geometry: CanvasGeometry) -> None:
        """Put an image in place of the present one where that is covered; weights stay as they are.

        Args:
            image: complex64, (H, W), on the CPU.
            geometry: its place.
        """
        assert self._average is not None
        own = self._average.geometry
        low = np.maximum(own.origin, geometry.origin)
        high = np.minimum(np.add(own.origin, own.shape), np.add(geometry.origin, geometry.shape))
        here, there = (
            tuple(slice(int(a - o), int(b - o)) for a, b, o in zip(low, high, part.origin, strict=True))
            for part in (own, geometry)
        )
        sums = self._store().sums
        new = image[there]
        use = (self._labels[here] > 0) & (new != 0)
        sums.image[here] = torch.where(use, new * sums.weights[here], sums.image[here])
        sums.square[here] = torch.where(use, new.abs().square() * sums.weights[here], sums.square[here])

    def _store(self) -> MemoryStore:
        assert self._average is not None and isinstance(self._average.store, MemoryStore)
        return self._average.store

    def _grown(self, needed: CanvasGeometry) -> Accumulator:
        """The average on a canvas that has the needed part."""
        if self._average is not None:
            own = self._average.geometry
            low, high = np.array(own.origin), np.add(own.origin, own.shape)
            least, most = np.array(needed.origin), np.add(needed.origin, needed.shape)
            if (least >= low).all() and (most <= high).all():
                return self._average
            ahead = np.ceil(_AHEAD * (np.maximum(high, most) - np.minimum(low, least))).astype(np.int64)
            first = np.where(least < low, least - ahead, low)
            last = np.where(most > high, most + ahead, high)
        else:
            first, last = np.array(needed.origin), np.add(needed.origin, needed.shape)
        shape = (int(last[0] - first[0]), int(last[1] - first[1]))
        made = Accumulator(
            CanvasGeometry((int(first[0]), int(first[1])), shape), store := MemoryStore(shape, torch.complex64)
        )
        labels = torch.zeros(shape, dtype=torch.int32, device="cpu")
        if self._average is not None:
            box = _box(self._average.geometry, made.geometry)
            store.add(box, self._store().sums)
            labels[box] = self._labels
        self._average, self._labels = made, labels
        return made

    def _links(
        self, patches: Tensor, weights: Tensor, corners: NDArray[np.int64]
    ) -> tuple[list[int], NDArray[np.int64], NDArray[np.complex128]]:
        """Labels of the parts under the patches, and the overlap products of parts and patches, in this order."""
        height, width = patches.shape[-2:]
        sums = self._store().sums
        values, by = patches.numpy(), weights.numpy()
        image, labels = sums.image.numpy(), self._labels.numpy()
        known: list[int] = []
        pairs: list[tuple[int, int]] = []
        products: list[complex] = []
        for number, (top, left) in enumerate(corners.tolist()):
            box = np.s_[top : top + height : _STRIDE, left : left + width : _STRIDE]
            inside, under = labels[box], image[box]
            patch = by[number, ::_STRIDE, ::_STRIDE] * values[number, ::_STRIDE, ::_STRIDE]
            energy = np.square(np.abs(patch))
            for label in np.unique(inside[patch != 0]).tolist():
                here = inside == label
                if label == 0 or energy[here].sum() < _LINKED * energy.sum():
                    continue
                if label not in known:
                    known.append(label)
                pairs.append((label, number))
                # The image's sums are its weights times its mean.
                products.append(complex(np.vdot(under[here], patch[here])))
        place = {label: index for index, label in enumerate(known)}
        of_parts = np.array([(place[label], len(known) + number) for label, number in pairs], np.int64).reshape(-1, 2)
        own = overlapping_pairs(corners, (height, width))
        read = weighted_patches(lambda number: (values[number], by[number]), (height, width))
        of_patches = overlap_products(read, corners, (height, width), own, _STRIDE)
        norms = np.linalg.norm((by * values)[:, ::_STRIDE, ::_STRIDE].reshape(len(values), -1), axis=1)
        of_patches[np.abs(of_patches) < _LINKED * norms[own].prod(1)] = 0
        return (
            known,
            np.concatenate([of_parts, own + len(known)]),
            np.concatenate([np.array(products, np.complex128), of_patches]),
        )

    def _joined(
        self,
        known: list[int],
        pairs: NDArray[np.int64],
        products: NDArray[np.complex128],
        factors: NDArray[np.complex128],
    ) -> list[int]:
        """Join the parts that the links connect, and return the label of every patch; factors are changed in place.

        Of connected parts the largest keeps its phase.
        """
        count = len(factors)
        linked = products != 0
        graph = coo_array((np.ones(linked.sum()), (pairs[linked, 0], pairs[linked, 1])), shape=(count, count))
        groups, members = connected_components(graph, directed=False)
        labels = np.zeros(groups, np.int64)
        for group in range(groups):
            inside = np.flatnonzero(members == group)
            parts = [node for node in inside.tolist() if node < len(known)]
            if not parts:
                labels[group], self._next = self._next, self._next + 1
                continue
            first = max(parts, key=lambda node: self._pixels[known[node]])
            factors[inside] *= np.conj(factors[first])
            labels[group] = known[first]
            for node in parts:
                if node != first:
                    self._join(known[node], known[first], complex(factors[node]))
        return [int(labels[members[node]]) for node in range(len(known), count)]

    def _join(self, part: int, other: int, phase: complex) -> None:
        """Multiply a part by a phase, and make it a part of another one."""
        assert self._average is not None
        origin = np.array(self._average.geometry.origin)
        top, left, bottom, right = (self._boxes[part] - np.tile(origin, 2)).tolist()
        box = (slice(top, bottom), slice(left, right))
        inside, image = self._labels[box] == part, self._store().sums.image[box]
        image[inside] *= phase
        self._labels[box].masked_fill_(inside, other)
        self._boxes[other] = _union([self._boxes[other], self._boxes.pop(part)])
        self._pixels[other] += self._pixels.pop(part)

    def _marked(self, weights: Tensor, corners: NDArray[np.int64], labels: list[int]) -> Tensor:
        """Label the pixels that patches cover and no part has; returns the weights without pixels of other parts.

        So a pixel has patches of one part only, whose phase can be changed later.
        """
        assert self._average is not None
        height, width = weights.shape[-2:]
        weights = weights.clone()
        for number, (label, (top, left)) in enumerate(zip(labels, corners.tolist(), strict=True)):
            part = self._labels[top : top + height, left : left + width]
            new = (weights[number] > 0) & (part == 0)
            part.masked_fill_(new, label)
            weights[number].masked_fill_(part != label, 0)
            corner = corners[number] + self._average.geometry.origin
            box = np.concatenate([corner, np.add(corner, (height, width))])
            self._boxes[label] = _union([box, self._boxes.get(label, box)])
            self._pixels[label] = self._pixels.get(label, 0) + int(new.sum())
        return weights


def _box(part: CanvasGeometry, canvas: CanvasGeometry) -> Box:
    """The rows and columns of a canvas that a part of it covers."""
    top, left = part.origin[0] - canvas.origin[0], part.origin[1] - canvas.origin[1]
    return slice(top, top + part.shape[0]), slice(left, left + part.shape[1])


def _union(boxes: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The smallest box (top, left, bottom, right) that has all of these."""
    stacked = np.stack(list(boxes))
    return np.concatenate([stacked[:, :2].min(0), stacked[:, 2:].max(0)])
