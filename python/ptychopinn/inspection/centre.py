# SPDX-License-Identifier: BSD-3-Clause
"""Where the zero frequency of the patterns lies: the shift at which their mean looks like the probe's far field.

The mean pattern of many places is the aperture's image, blurred by what the sample scatters. Neither a wrong defocus
nor a wrong width of the probe moves the peak of the correlation. A pattern that is s pixels off belongs to an exit wave
with a phase ramp, which the object can absorb: it spoils no reconstruction, but it shows as a ramp over the object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

_UPSAMPLING = 20

#: Pixels along an axis from which the zero frequency counts as misplaced; noise and samples make up to 0.2.
MISPLACED = 0.75


def probe_far_field(probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Mean pattern without a sample, (N, N) in counts, zero frequency at (N//2, N//2), of a probe (M, N, N)."""
    fields = np.fft.fft2(probe.astype(np.complex128), norm="ortho")
    power: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(fields)).sum(0))
    return power


def centre_offset(mean: NDArray[np.float64], probe: NDArray[np.complex64]) -> tuple[float, float]:
    """How far (y, x) the zero frequency of a mean pattern lies from pixel (N//2, N//2), from -N/2 to N/2 pixels.

    Args:
        mean: (N, N), counts, no faulty pixels.
        probe: (M, N, N), of any defocus.

    Example:
        >>> from ptychopinn.physics.probes import defocused
        >>> probe = defocused(32)
        >>> centre_offset(np.roll(probe_far_field(probe), (3, -2), (0, 1)), probe)
        (3.0, -2.0)
    """
    found, _, _ = phase_cross_correlation(
        np.sqrt(mean), np.sqrt(probe_far_field(probe)), upsample_factor=_UPSAMPLING, normalization=None
    )
    half = mean.shape[0] / 2
    y, x = ((float(shift) + half) % (2 * half) - half + 0.0 for shift in found)
    return y, x


def in_fft_order(offset: tuple[float, float], size: int) -> bool:
    """Whether the zero frequency is in the corner, where Fourier transforms leave it."""
    return all(abs(abs(shift) - size / 2) <= 1 for shift in offset)


def misplaced(offset: tuple[float, float]) -> bool:
    """Whether patterns with this offset are off by about a pixel or more."""
    return max(abs(shift) for shift in offset) >= MISPLACED


def filled(image: NDArray[np.float64], faulty: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """The image with the nearest other pixel's value in place of each faulty pixel; (N, N)."""
    if faulty is None or not faulty.any() or faulty.all():
        return image
    nearest = ndimage.distance_transform_edt(faulty, return_distances=False, return_indices=True)
    copied: NDArray[np.float64] = image[tuple(nearest)]
    return copied
