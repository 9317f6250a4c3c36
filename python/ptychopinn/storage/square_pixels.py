# SPDX-License-Identifier: BSD-3-Clause
"""Counts of detector pixels that are not square, in square ones of the longer side.

Along the axis of the shorter side the sum of the counts up to a pixel edge is interpolated at the new edges by cubics,
and new counts are its differences: their sum is conserved exactly, and they are exact where the counts are polynomials
of degree 2. An edge takes from a pixel neither less than nothing nor more than it has, so that no count is negative.
Where the ratio of the sides is an integer, new counts are sums of old ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.storage.frames import fit_frames, fit_mask, without_invalid

#: Distance in pixels up to which an edge is that of a pixel, and by which the last new edge may be away from its place
#: if pixels are summed.
_SAME, _INTEGER = 1e-6, 0.02


class SquarePixels:
    """The change of patterns (k, h, w) to (k, N, N) of square pixels; it can be pickled.

    In the far field the zero frequency, pixel (h//2, w//2), becomes (N//2, N//2); for sums of pixels it may be off the
    middle of the new one, as it is for bins. In the near field the middle of the detector stays the middle. What the
    detector does not fill is bad.

    Args:
        shape: (h, w), pixels.
        sides: (y, x) metres of a pixel.
        bad_pixels: (h, w) bool, pixels to ignore.
        near: whether the detector is in the near field.
        replace: values to replace, see :func:`~ptychopinn.storage.frames.without_invalid`; None: none.
        power: 2 for patterns that are amplitudes.

    Attributes:
        size: N.
        side: metres.
        axis: 0 or 1, along which pixels are changed.
        ratio: of the sides, at least 1.
        summed: whether new pixels are sums of old ones.
        offset: of the middle of pixel N//2 from that of the pixel that it replaces, in old pixels along the axis.
        bad_pixels: (N, N) bool; None: none.

    Raises:
        InputError: fewer than 8 new pixels fit.

    Example:
        >>> change = SquarePixels((8, 16), (2e-5, 1e-5))
        >>> change(np.ones((1, 8, 16), np.uint16))[0, 0], change.side
        (array([2, 2, 2, 2, 2, 2, 2, 2], dtype=uint32), 2e-05)
    """

    def __init__(
        self,
        shape: tuple[int, int],
        sides: tuple[float, float],
        bad_pixels: NDArray[np.bool_] | None = None,
        near: bool = False,
        replace: str | None = None,
        power: int = 1,
    ) -> None:
        self.shape, self.side, self.axis = shape, max(sides), int(sides[0] >= sides[1])
        self._replace, self._power = replace, power
        length = shape[self.axis]
        ratio = max(sides) / min(sides)
        number = max(1, round(ratio))
        self.summed = abs(ratio / number - 1) * length / (2 * number) < _INTEGER
        self.ratio = float(number) if self.summed else ratio
        # Left edge of the new pixel N//2, in old pixels whose edges are integers.
        first = length / 2 if near else length // 2 + 0.5 - self.ratio / 2
        if self.summed:  # as bins begin at pixel 0, where the detector is full of them
            first = length / 2 if length % (2 * number) == 0 else float(math.ceil(first))
        half = min(math.floor(first / self.ratio + _SAME), math.floor((length - first) / self.ratio + _SAME))
        edges = first + self.ratio * (np.arange(2 * half + 1) - half)
        self.offset = first + self.ratio / 2 - 0.5 - length // 2
        across = shape[1 - self.axis]
        if min(2 * half, across) < 8:
            raise InputError(
                f"square_pixels must leave 8 pixels or more along each axis, got {2 * half} and {across}; the sides "
                "of the detector's pixels are (y, x) metres"
            )
        self.size = max(2 * half, across) + max(2 * half, across) % 2
        self._bad = np.zeros(shape, np.bool_) if bad_pixels is None else bad_pixels
        near_edge = np.abs(edges - np.rint(edges)) < _SAME
        edges = np.where(near_edge, np.rint(edges), edges)
        self._pixels = np.minimum(np.floor(edges).astype(np.int64), length - 1)
        self._parts = edges - self._pixels
        self._weights = _weights(np.moveaxis(self._bad, self.axis, -1), self._pixels, self._parts)
        new_shape = (across, 2 * half) if self.axis else (2 * half, across)
        self.bad_pixels = fit_mask(self._covered_by_bad(edges), new_shape, self.size)

    def _covered_by_bad(self, edges: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """New pixels, before padding, that have a part of a bad one."""
        bad = np.moveaxis(self._bad, self.axis, -1)
        sums = np.concatenate([np.zeros((len(bad), 1), np.int64), np.cumsum(bad, axis=-1)], axis=-1)
        first, last = np.floor(edges[:-1]).astype(np.int64), np.ceil(edges[1:]).astype(np.int64)
        return np.moveaxis(sums[:, last] - sums[:, first] > 0, -1, self.axis)

    def dtype_of(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Type of the counts from patterns of this type."""
        if not self.summed:
            return np.dtype(np.float32)
        if self._power == 2 or dtype.kind == "f":
            return np.dtype(np.float64)
        return np.dtype(np.uint32 if dtype.itemsize <= 2 else np.uint64)

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        """Counts (k, N, N) of patterns (k, h, w); 0 at pixels that the detector does not fill."""
        values = block if self._replace is None else without_invalid(block, self._replace)
        values = np.where(self._bad, 0, values.astype(np.float64))
        if self._power == 2:
            values *= values
        values = np.moveaxis(values, self.axis + 1, -1)
        counts = np.moveaxis(self._sums(values), -1, self.axis + 1)
        dtype = self.dtype_of(block.dtype)
        return np.ascontiguousarray(fit_frames(counts, self.size).astype(dtype))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts between the new edges along the last axis."""
        total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
        part = np.clip(_parts_of(values, self._pixels, self._weights), 0, values[..., self._pixels])
        return np.diff(total[..., self._pixels] + part, axis=-1)

    def noise(self) -> tuple[float, float]:
        """Variance of a count by its mean, and correlation of neighbours along the axis, for even Poisson counts.

        They are (1, 0) for sums, whose counts are independent photon counts again.
        """
        if self.summed:
            return 1.0, 0.0
        single = np.eye(self.shape[self.axis])  # an old pixel in each row
        weights = _weights(np.zeros((1, len(single)), np.bool_), self._pixels, self._parts)
        total = np.concatenate([np.zeros((len(single), 1)), np.cumsum(single, axis=-1)], axis=-1)
        new = np.diff(total[:, self._pixels] + _parts_of(single, self._pixels, weights), axis=-1)
        variances = np.square(new).sum(0)
        shared = (new[:, 1:] * new[:, :-1]).sum(0) / np.sqrt(variances[1:] * variances[:-1])
        return float((variances / new.sum(0)).mean()), float(shared.mean())


_Weights = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _parts_of(values: NDArray[np.float64], pixels: NDArray[np.int64], weights: _Weights) -> NDArray[np.float64]:
    """Part of the count of the pixel of every edge that is before the edge."""
    below, within, above = weights
    part = within * values[..., pixels] + below * values[..., np.maximum(pixels - 1, 0)]
    return part + above * values[..., np.minimum(pixels + 1, values.shape[-1] - 1)]


def _weights(bad: NDArray[np.bool_], pixels: NDArray[np.int64], parts: NDArray[np.float64]) -> _Weights:
    """Weights (rows, edges) of the counts before, at and after the pixel of an edge in its part of the pixel's count.

    They are those of the cubic through four sums, and the part itself where a neighbour is bad or beyond the detector.
    """
    length = bad.shape[-1]
    t = parts
    below = np.where(pixels > 0, t * (t - 1) * (t - 2) / 6, 0.0)
    above = (t + 1) * t * (t - 1) / 6
    within = t - below - above
    plain = (pixels == 0) | (pixels == length - 1)
    plain = plain | bad[:, np.maximum(pixels - 1, 0)] | bad[:, np.minimum(pixels + 1, length - 1)]
    return np.where(plain, 0.0, below), np.where(plain, t, within), np.where(plain, 0.0, above)
