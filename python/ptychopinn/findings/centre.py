# SPDX-License-Identifier: BSD-3-Clause
"""The zero frequency of the patterns, by correlation of the mean pattern with the far field of the probe.

The mean pattern of many positions is the image of the aperture, blurred by scattering in the sample. An error of the
probe's defocus or width does not move the maximum of the correlation. Patterns that are off centre belong to exit waves
with a phase ramp, which the object can represent: the reconstruction succeeds, with a phase ramp over the object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychopinn.scan import Scan

_UPSAMPLING = 20

#: Offset of the zero frequency along an axis, pixels, that is reported; noise and samples cause up to 0.2.
OFF_CENTRE = 0.75


def probe_far_field(probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Far-field intensity of a probe (M, N, N): (N, N), counts, zero frequency at (N//2, N//2)."""
    fields = np.fft.fft2(probe.astype(np.complex128), norm="ortho")
    power: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(fields)).sum(0))
    return power


def pattern_of_probe(scan: Scan) -> NDArray[np.float64]:
    """Counts (N, N) of a pattern behind an empty sample: of the probe in the far field, or at the near-field detector.

    Without background and point spread; the zero frequency is at (N//2, N//2).
    """
    if scan.experiment.fresnel_number is None:
        return probe_far_field(scan.probe)
    from ptychopinn.physics.simulate_waves import Optics, detector_transfer

    optics = Optics(scan.pixel_size, scan.energy)
    transfer = detector_transfer(scan.experiment, optics, scan.patch_size)
    assert transfer is not None
    waves = np.fft.ifft2(np.fft.fft2(scan.probe.astype(np.complex128)) * transfer)
    power: NDArray[np.float64] = np.square(np.abs(waves)).sum(0)
    return power


def centre_offset(mean: NDArray[np.float64], probe: NDArray[np.complex64]) -> tuple[float, float]:
    """Offset (y, x) of the zero frequency of a mean pattern from pixel (N//2, N//2), from -N/2 to N/2 pixels.

    Args:
        mean: (N, N), counts, without faulty pixels.
        probe: (M, N, N); its defocus does not matter.

    Example:
        >>> from ptychopinn.physics.probes import defocused
        >>> probe = defocused(32)
        >>> centre_offset(np.roll(probe_far_field(probe), (3, -2), (0, 1)), probe)
        (3.0, -2.0)
    """
    from skimage.registration import phase_cross_correlation  # half a second, for commands that do not inspect

    shifts, _, _ = phase_cross_correlation(
        np.sqrt(mean), np.sqrt(probe_far_field(probe)), upsample_factor=_UPSAMPLING, normalization=None
    )
    half = mean.shape[0] / 2
    y, x = ((float(shift) + half) % (2 * half) - half + 0.0 for shift in shifts)
    return y, x


def in_fft_order(offset: tuple[float, float], size: int) -> bool:
    """Whether the zero frequency is in the corner, as after a Fourier transform without fftshift."""
    return all(abs(abs(shift) - size / 2) <= 1 for shift in offset)


def off_centre(offset: tuple[float, float]) -> bool:
    """Whether an offset (y, x) of the zero frequency is about a pixel or more."""
    return max(abs(shift) for shift in offset) >= OFF_CENTRE


def fill_pixels(image: NDArray[np.float64], faulty: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Replace every faulty pixel of an image (N, N) by its nearest valid neighbour."""
    if faulty is None or not faulty.any() or faulty.all():
        return image
    nearest = ndimage.distance_transform_edt(faulty, return_distances=False, return_indices=True)
    copied: NDArray[np.float64] = image[tuple(nearest)]
    return copied
