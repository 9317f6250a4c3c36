# SPDX-License-Identifier: BSD-3-Clause
"""Patterns of a plane detector that is tilted or off the axis, at the frequencies of the forward model.

A pixel sees the direction s of a scattered wave, whose spatial frequency is ``(s_y, s_x) / wavelength`` on the Ewald
sphere. On a detector at a right angle to the beam these are evenly spaced for small angles alone; here they become so
for any. Counts per area of frequencies are interpolated by cubic convolution, so that counts are conserved where the
pattern is smooth. Source of the kernel: R. G. Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError

_LARGEST_TILT = math.radians(80)
#: Distance, in pixels, up to which a place is that of a pixel, whatever its neighbours are.
_SAME = 1e-3
_TAPS = np.arange(-1, 3)


@dataclass(frozen=True)
class TiltedDetector:
    """A plane detector of square pixels.

    Lengths along the beam are z; rows of an upright detector are along y, columns along x.

    Args:
        shape: (h, w), pixels.
        pixel_size: metres.
        distance: metres along the beam from the sample to the plane of the detector.
        beam: (y, x) pixel, also of a fraction or outside of the detector, where the beam meets this plane.
        tilt: (pitch, yaw) rad: the pitch turns the detector about x, a positive one takes higher rows away from the
            sample; the yaw then turns it about y, a positive one takes higher columns away.

    Raises:
        InputError: a length is not positive and finite, or the tilt is beyond 80 degrees.
    """

    shape: tuple[int, int]
    pixel_size: float
    distance: float
    beam: tuple[float, float]
    tilt: tuple[float, float] = (0.0, 0.0)

    __repr__ = one_line

    def __post_init__(self) -> None:
        for name in ("pixel_size", "distance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"TiltedDetector.{name} must be positive finite metres, got {value!r}")
        if not np.isfinite(self.beam).all():
            raise InputError(f"TiltedDetector.beam must be two finite numbers (y, x), got {self.beam}")
        if not (np.isfinite(self.tilt).all() and np.abs(self.tilt).max() <= _LARGEST_TILT):
            raise InputError(
                f"TiltedDetector.tilt must be (pitch, yaw) within {_LARGEST_TILT:.3g} rad, got {self.tilt}"
            )

    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Directions (3,) of rising rows and columns, in components (y, x, z)."""
        (pitch, yaw) = self.tilt
        rows = np.array([math.cos(pitch), -math.sin(pitch) * math.sin(yaw), math.sin(pitch) * math.cos(yaw)])
        return rows, np.array([0.0, math.cos(yaw), math.sin(yaw)])

    def directions(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unit vectors (..., 3), components (y, x, z), from the sample to pixels (y, x)."""
        rows, columns = self.axes()
        steps = (y - self.beam[0])[..., np.newaxis] * rows + (x - self.beam[1])[..., np.newaxis] * columns
        rays = steps * self.pixel_size + np.array([0.0, 0.0, self.distance])
        return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))

    def pixels(self, directions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels (y, x) that these directions (..., 3) meet; NaN for those that leave the plane behind them."""
        rows, columns = self.axes()
        normal = np.cross(rows, columns)
        normal = normal if normal[2] > 0 else -normal
        facing = directions @ normal
        length = np.where(facing > 1e-9, self.distance * normal[2] / np.where(facing > 1e-9, facing, 1.0), np.nan)
        steps = directions * length[..., np.newaxis] - np.array([0.0, 0.0, self.distance])
        return (
            self.beam[0] + steps @ rows / self.pixel_size,
            self.beam[1] + steps @ columns / self.pixel_size,
        )


class Reprojection:
    """The change from patterns of a detector to evenly spaced frequencies; it can be pickled.

    The frequency at pixel (k, l) is ``pixel_size / (wavelength distance) (k - N//2, l - N//2)``, so that the object
    pixel is ``wavelength distance / (N pixel_size)`` as for an upright detector.

    Args:
        detector: of the patterns.
        size: N, even, of the result.
        bad_pixels: (h, w) bool, pixels to ignore.

    Attributes:
        bad_pixels: (N, N) bool, pixels that need a bad pixel, or one beyond the detector.
        magnification: (N, N), area of a new pixel on the detector in its pixels; the counts are multiplied by it.

    Raises:
        InputError: no pixel is left.

    Example:
        >>> upright = TiltedDetector((8, 8), 75e-6, 2.0, (4.0, 4.0))
        >>> change = Reprojection(upright, 8)
        >>> pattern = np.arange(64.0).reshape(1, 8, 8)
        >>> bool(np.allclose(change(pattern)[:, 1:-1, 1:-1], pattern[:, 1:-1, 1:-1], rtol=1e-4))
        True
    """

    def __init__(self, detector: TiltedDetector, size: int, bad_pixels: NDArray[np.bool_] | None = None) -> None:
        self.shape, self.size = detector.shape, size
        step = detector.pixel_size / detector.distance
        across = (np.arange(size) - size // 2) * step
        y, x = np.meshgrid(across, across, indexing="ij")
        forward = 1 - y**2 - x**2
        seen = forward > 0
        directions = np.stack([y, x, np.sqrt(np.where(seen, forward, 1.0))], axis=-1)
        rows, columns = detector.pixels(directions)
        seen &= np.isfinite(rows) & np.isfinite(columns)
        self.magnification = np.where(seen, _area(detector, directions, rows, columns), 0.0)
        good = np.ones(self.shape, np.bool_) if bad_pixels is None else ~bad_pixels
        self._matrix, covered = _weights(rows, columns, seen, self.shape, good)
        self.bad_pixels = ~covered
        self._factors = np.where(covered, self.magnification, 0.0).ravel()
        if self.bad_pixels.all():
            raise InputError(
                f"reprojection: expected pixels of the detector in the {size} x {size} new ones, found none; correct "
                "the tilt and the pixel of the beam"
            )

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Expected counts (k, N, N) of patterns (k, h, w); 0 at bad pixels."""
        flat = block.reshape(len(block), -1).astype(np.float32)
        values = (self._matrix @ flat.T).T * self._factors
        return np.asarray(np.maximum(values, 0).reshape(len(block), self.size, self.size), np.float32)


def _area(
    detector: TiltedDetector, directions: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area of evenly spaced frequencies on the detector, in pixels: 1 over the determinant of their gradient."""
    axes = detector.axes()
    steps = (rows - detector.beam[0])[..., np.newaxis] * axes[0] + (columns - detector.beam[1])[..., np.newaxis] * axes[
        1
    ]
    length = np.linalg.norm(steps * detector.pixel_size + np.array([0.0, 0.0, detector.distance]), axis=-1)
    # d s / d pixel = pixel_size / |r| (e - s (s . e)), and new pixels are s distance / pixel_size.
    first, second = (axis - directions * (directions @ axis)[..., np.newaxis] for axis in axes)
    determinant = np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((length / detector.distance) ** 2 / determinant)


def _weights(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    seen: NDArray[np.bool_],
    shape: tuple[int, int],
    good: NDArray[np.bool_],
) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Sparse matrix (N N, h w) of the interpolation, and where all pixels with a weight are good ones."""
    count = seen.size
    taps = []
    for points in (rows, columns):
        points = np.where(seen, points, -10.0).ravel()
        near = np.abs(points - np.rint(points)) < _SAME
        points = np.where(near, np.rint(points), points)
        first = np.floor(points)
        taps.append((first[:, np.newaxis].astype(np.int64) + _TAPS, _keys(points - first)))
    (y, wy), (x, wx) = taps
    weights = (wy[:, :, np.newaxis] * wx[:, np.newaxis, :]).reshape(count, -1)
    y, x = (np.broadcast_to(index, (count, 4, 4)).reshape(count, -1) for index in (y[:, :, None], x[:, None, :]))
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    flat = np.where(inside, y * shape[1] + x, 0)
    usable = inside & good.ravel()[flat]
    covered = (usable | (weights == 0)).all(axis=1) & seen.ravel()
    kept = usable & covered[:, np.newaxis] & (weights != 0)
    owners = np.broadcast_to(np.arange(count)[:, np.newaxis], kept.shape)[kept]
    matrix = csr_matrix(
        (weights[kept].astype(np.float32), (owners, flat[kept])), shape=(count, shape[0] * shape[1]), dtype=np.float32
    )
    return matrix, covered.reshape(seen.shape)


def _keys(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (..., 4) of cubic convolution for samples at -1, 0, 1, 2; exact for polynomials of degree 2."""
    t = fraction[..., np.newaxis]
    return np.concatenate(
        [
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t**2 + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t**2,
        ],
        axis=-1,
    )
