# SPDX-License-Identifier: BSD-3-Clause
"""The shadow of a beamstop: a compact dark region in the middle of the patterns where the probe predicts counts.

A probe that was estimated from the patterns has the shadow too, as a central stop of its aperture, and then there is
nothing to see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Intensity that a probe predicts, relative to its maximum, from which a pixel can be in a shadow.
_BRIGHT = 0.05
#: Counts relative to what the probe predicts, in a shadow, and at least of the lower quarter of the pixels around it.
_DARK, _AROUND = 0.2, 0.5
#: Fewest pixels in a shadow, around it, and of the bright pixels, and the largest part of these.
_PIXELS, _RING, _FEWEST, _PART = 9, 8, 40, 0.6
#: Ratio of its sides, part of its bounding box, and distance of its middle from the zero frequency, of N.
_SIDES, _FILLED, _OFFSET = 2.0, 0.5, 0.1


def beamstop_shadow(
    mean: NDArray[np.float64], expected: NDArray[np.float64], usable: NDArray[np.bool_], offset: tuple[float, float]
) -> NDArray[np.bool_]:
    """Find the shadow of a beamstop.

    Args:
        mean: (N, N), the mean pattern.
        expected: (N, N), the far field of the probe where the mean pattern has it, of any scale.
        usable: bool, (N, N), pixels that are not faulty; those without counts may be in the shadow.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x), pixels.

    Returns:
        bool, (N, N), all False without a shadow.

    Example:
        >>> y, x = np.mgrid[-16:16, -16:16]
        >>> aperture = (np.hypot(y, x) < 8).astype(float)
        >>> int(beamstop_shadow(aperture * (np.hypot(y, x) > 2), aperture, aperture == aperture, (0.0, 0.0)).sum())
        13
    """
    size = len(mean)
    none = np.zeros_like(usable)
    bright = usable & (expected > _BRIGHT * expected.max())
    if bright.sum() < _FEWEST:
        return none
    ratio = mean / np.maximum(expected, 1e-300)
    scale = float(np.median(ratio[bright & (ratio > 0.1 * np.median(ratio[bright]))]))
    labels, number = ndimage.label(bright & (ratio < _DARK * scale))
    for label in range(1, number + 1):
        region: NDArray[np.bool_] = labels == label
        rows, columns = np.nonzero(region)
        extent = np.array([np.ptp(rows), np.ptp(columns)]) + 1
        middle = np.array([rows.mean(), columns.mean()]) - size // 2 - offset
        if not (
            region.sum() >= _PIXELS
            and extent.max() <= _SIDES * extent.min()
            and region.sum() > _FILLED * extent.prod()
            and region.sum() < _PART * bright.sum()
            and np.abs(middle).max() < _OFFSET * size
        ):
            continue
        ring = ndimage.binary_dilation(region, iterations=3) & ~ndimage.binary_dilation(region) & bright
        if ring.sum() >= _RING and np.quantile(ratio[ring], 0.25) > _AROUND * scale:
            return region
    return none
