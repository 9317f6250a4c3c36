# SPDX-License-Identifier: BSD-3-Clause
"""Scores of one image against another of the same shape: pure functions of arrays.

Inputs are assumed to be aligned (see ``align``). An image without features scores 0 in every correlation, not NaN.
Shared by ``evaluate``, plots and tests.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import ndimage

_LEAST = 1e-5  # variation below this fraction of the largest amplitude is none: truths are complex64
_ROUNDING = 1e-7  # variation below this fraction of the magnitude is rounding of float32


def pearson(image: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation of two real images in the same unit, in [-1, 1]; 0 where either is constant.

    An image is constant where it varies by less than the rounding of the larger of the two.

    Example:
        >>> a = np.arange(12.0).reshape(3, 4)
        >>> round(pearson(2 * a + 1, a), 12), pearson(np.ones_like(a), a)
        (1.0, 0.0)
    """
    a, b = (np.asarray(v, np.float64) for v in (image, truth))
    da, db = a - a.mean(), b - b.mean()
    norm_a, norm_b = np.linalg.norm(da), np.linalg.norm(db)
    if min(norm_a, norm_b) <= _ROUNDING * max(np.linalg.norm(a), np.linalg.norm(b)):
        return 0.0
    return float(np.clip((da * db).sum() / (norm_a * norm_b), -1.0, 1.0))


def rmse(image: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square difference, in the unit of the inputs.

    Example:
        >>> rmse(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == math.sqrt(2)
        True
    """
    return float(np.sqrt(np.mean(np.abs(np.asarray(image) - np.asarray(truth)) ** 2)))


def psnr(image: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Peak signal-to-noise ratio ``20 log10(peak / rmse)`` in dB; inf for equal images, nan where peak is 0.

    Args:
        image: real, of any shape.
        truth: real, of the same shape.
        peak: full scale, in the unit of the images; report it with the score (see :func:`data_range`).

    Example:
        >>> round(psnr(np.full((4, 4), 0.1), np.zeros((4, 4)), peak=1.0), 6)
        20.0
    """
    error = rmse(image, truth)
    if peak <= 0:
        return math.nan
    return 20 * math.log10(peak / error) if error > 0 else math.inf


def ssim(image: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """Mean structural similarity (7 x 7 pixels, scikit-image); nan where data_range is 0.

    Source: Z. Wang et al., IEEE Trans. Image Process. 13, 600 (2004).

    Example:
        >>> a = np.random.default_rng(0).normal(size=(16, 16))
        >>> ssim(a, a, data_range=2.0)
        1.0
    """
    if data_range <= 0:
        return math.nan
    from skimage.metrics import structural_similarity  # half a second, which figures without a truth do not need

    return float(structural_similarity(truth, image, data_range=data_range))


def nmse(image: np.ndarray, truth: np.ndarray) -> float:
    """Normalised squared error of complex images: ``sum |image - truth|^2 / sum |truth|^2``; nan for a truth of zeros.

    Example:
        >>> nmse(np.array([3.0, 1.0]), np.array([1.0, 1.0]))
        2.0
    """
    power = float((np.abs(truth) ** 2).sum())
    return float((np.abs(image - truth) ** 2).sum() / power) if power > 0 else math.nan


def constant_parts(truth: np.ndarray) -> tuple[bool, bool]:
    """Whether the amplitude of a complex image is constant, and whether its phase is, but for rounding.

    Where the amplitude is 0 there is no phase.

    Args:
        truth: (h, w), without a phase ramp (see ``Aligned.levelled``).

    Example:
        >>> constant_parts(np.array([[1.0, 2.0], [0.0, 3.0]]) * 1j)
        (False, True)
    """
    largest = float(np.abs(truth).max())
    if largest == 0:
        return True, True
    turned = truth * np.exp(-1j * np.angle(truth.sum()))  # real and not negative where the phase is constant
    away = max(float(np.abs(turned.imag).max()), float(-turned.real.min()))
    return bool(np.ptp(np.abs(truth)) <= _LEAST * largest), away <= _LEAST * largest


def data_range(truth: np.ndarray) -> float:
    """Span between the 0.5 and 99.5 percentiles of a real image: full scale without outliers.

    Example:
        >>> data_range(np.arange(201.0))
        198.0
    """
    low, high = np.percentile(truth, (0.5, 99.5))
    return float(high - low)


def high_pass(image: np.ndarray, sigma: float) -> np.ndarray:
    """Subtract the Gaussian-smoothed image: structure of period 5.3 sigma is halved, slower structure is suppressed.

    A constant gives exactly 0, without rounding.

    Args:
        image: (h, w) real or complex.
        sigma: standard deviation of the Gaussian, in pixels.

    Example:
        >>> high_pass(np.full((8, 8), 0.1), 2.0).any()
        np.False_
    """
    detail = image - ndimage.gaussian_filter(image, sigma)
    structured = np.linalg.norm(detail) > _ROUNDING * np.linalg.norm(image)
    return detail if structured else np.zeros_like(detail)


def remove_plane(image: np.ndarray) -> np.ndarray:
    """Subtract the least-squares plane of a real image.

    Example:
        >>> bool(np.allclose(remove_plane(np.add.outer(np.arange(5.0), 2 * np.arange(4.0)) + 7), 0))
        True
    """
    y, x = (np.arange(side) - (side - 1) / 2 for side in image.shape)
    ramp_y, ramp_x = image.mean(axis=1) @ y / (y @ y), image.mean(axis=0) @ x / (x @ x)
    return np.asarray(image - image.mean() - np.add.outer(ramp_y * y, ramp_x * x))


def matched_phases(image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unwrapped phases of an aligned image and of its truth.

    Where the phase of the truth is within pi of its mean, the image's phase is that of the truth plus the wrapped
    difference, so noise makes no jumps. Otherwise image and truth are unwrapped separately, because the wrapped
    difference would give even a constant image the steps of 2 pi of the truth.

    Args:
        image: (h, w) complex, aligned to the truth.
        truth: (h, w) complex.

    Returns:
        (phase of the image, phase of the truth), (h, w) float64 in rad.

    Example:
        >>> phase = np.linspace(-3, 3, 64).reshape(8, 8)
        >>> a, b = matched_phases(np.exp(1j * (phase + 0.3)), np.exp(1j * phase))
        >>> bool(np.allclose(b, phase)), bool(np.allclose(a - b, 0.3))
        (True, True)
    """
    from skimage.restoration import unwrap_phase  # half a second, which figures without a truth do not need

    mean = np.angle(truth.sum())
    own, reference = np.angle(image * np.exp(-1j * mean)), unwrap_phase(np.angle(truth * np.exp(-1j * mean)))
    if np.abs(reference).max() < np.pi:
        own = reference + np.angle(np.exp(1j * (own - reference)))
    else:
        own = unwrap_phase(own)
        own += 2 * np.pi * np.round(np.median(reference - own) / (2 * np.pi))
    return own + mean, reference + mean


def frc(image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fourier ring correlation of two complex images, from frequency 0 up to the Nyquist frequency, exclusive.

    ``|sum_ring A conj(B)| / sqrt(sum_ring |A|^2 sum_ring |B|^2)`` of the images without their means, under a Hann
    window. Rings are 1/min(h, w) cycles/pixel wide, also where the image is not square. A ring without power above
    rounding is 0. The modulus does not show a wrong sign: the conjugate of a weak phase object scores almost 1, so
    report the correlation of the phases as well.

    Args:
        image: (h, w), real or complex, aligned to the truth.
        truth: (h, w), real or complex.

    Returns:
        (frequency in units of Nyquist, correlation in [0, 1]), each (min(h, w) // 2,).

    Source: W. O. Saxton and W. Baumeister, J. Microsc. 127, 127 (1982).

    Example:
        >>> a = np.random.default_rng(0).normal(size=(32, 48))
        >>> frequency, correlation = frc(3 * a, a)
        >>> len(frequency), bool(np.allclose(correlation, 1))
        (16, True)
    """
    height, width = truth.shape
    side = min(height, width)
    from scipy.signal.windows import hann  # a third of a second, which figures without a truth do not need

    window = hann(height)[:, None] * hann(width)
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ring = np.rint(cycles * side).astype(int).ravel()
    rings = side // 2

    def ring_sum(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values.ravel(), minlength=rings)[:rings]

    def spectrum(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        transform = np.fft.fft2((values - values.mean()) * window)
        power = ring_sum(np.abs(transform) ** 2)
        floor = _ROUNDING**2 * values.size * (np.abs(values * window) ** 2).sum() / rings
        return transform, np.where(power > floor, power, np.inf)

    (a, power_a), (b, power_b) = spectrum(np.asarray(image)), spectrum(np.asarray(truth))
    cross = a * np.conj(b)
    correlation = np.hypot(ring_sum(cross.real), ring_sum(cross.imag)) / np.sqrt(power_a) / np.sqrt(power_b)
    return np.arange(rings) / (side / 2), correlation


def mean_frc(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the FRC over all rings but the first, on the square of side min(h, w) at the images' first pixel.

    A single score in [0, 1] for all frequencies. Unrelated images score about the inverse square root of the number of
    pixels in a ring, a few hundredths.

    Example:
        >>> a = np.random.default_rng(0).normal(size=(32, 48))
        >>> round(mean_frc(a, a), 6), mean_frc(np.ones((32, 48)), a)
        (1.0, 0.0)
    """
    side = min(truth.shape)
    return float(frc(image[:side, :side], truth[:side, :side])[1][1:].mean())


def frc_figures(image: np.ndarray, truth: np.ndarray, pixel_size: float | None = None) -> dict[str, Any]:
    """Fourier ring correlation, its mean and its crossings, as a dictionary for JSON.

    Args:
        image: (h, w), aligned to the truth, without the truth's phase ramp (see ``Aligned.levelled``).
        truth: (h, w), without its phase ramp.
        pixel_size: metres per pixel; None: unknown.

    Returns:
        ``mean``, ``crossing_0.5`` and ``crossing_1_7`` (units of Nyquist), ``frequency``, ``correlation``, and
        ``half_period_0.5_m`` where the pixel size is known.
    """
    frequency, correlation = frc(image, truth)
    half = crossing(frequency, correlation, 0.5)
    figures: dict[str, Any] = {
        "mean": mean_frc(image, truth),
        "crossing_0.5": half,
        "crossing_1_7": crossing(frequency, correlation, 1 / 7),
        "frequency": frequency.tolist(),
        "correlation": correlation.tolist(),
    }
    if pixel_size is not None:
        figures["half_period_0.5_m"] = pixel_size / half
    return figures


def crossing(frequency: np.ndarray, correlation: np.ndarray, level: float) -> float:
    """First frequency at which a correlation falls below a level, linear between rings; 1 (Nyquist) if there is none.

    Ring 0 is ignored, because the mean was subtracted. A curve that is below the level at ring 1 crosses there.

    Example:
        >>> crossing(np.array([0, 0.25, 0.5, 0.75]), np.array([0, 1.0, 0.8, 0.2]), level=0.5)
        0.625
    """
    below = np.flatnonzero(correlation[1:] < level) + 1
    if below.size == 0:
        return 1.0
    k = int(below[0])
    if k == 1:
        return float(frequency[1])
    fraction = (correlation[k - 1] - level) / (correlation[k - 1] - correlation[k])
    return float(frequency[k - 1] + fraction * (frequency[k] - frequency[k - 1]))
