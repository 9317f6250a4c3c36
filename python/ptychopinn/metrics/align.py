# SPDX-License-Identifier: BSD-3-Clause
"""Removal of the ambiguities of ptychography before two objects are compared.

Diffraction patterns do not determine the complex scale of the object, a linear phase ramp (the probe can have the
opposite one) or a common shift of object and probe. These are found by least squares or registration and removed. Other
errors, such as a slow phase error or a wrong sign, stay visible. Shared by the scores and the comparison plots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError

MIN_SIDE = 32  # smallest side of the compared region, in pixels: fewer rings give no useful ring correlation
_MASK_CELLS = 256  # cells per axis of the grid on which the largest rectangle is searched
_PAD = 32  # mirrored pixels around an image that is shifted by Fourier interpolation
_MAX_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Aligned:
    """A reconstruction and its truth on the same pixels, with the ambiguities removed.

    ``image[r] = scale * exp(i ramp . r) * input[r + first - shift]``, r counted from the first pixel of the region.

    Attributes:
        image: (h, w) complex128 aligned reconstruction.
        truth: (h, w) complex128 truth, unchanged.
        shift: (y, x) pixels by which the input was moved onto the truth.
        ramp: (y, x) phase ramp by which the input was multiplied, in rad/pixel.
        scale: complex factor by which the input was multiplied.
        region: (rows, columns) of the compared pixels in the input arrays.
        registered: False where no shift within the allowed range was found and none was applied.
    """

    image: np.ndarray
    truth: np.ndarray
    shift: tuple[float, float]
    ramp: tuple[float, float]
    scale: complex
    region: tuple[slice, slice]
    registered: bool

    __repr__ = one_line

    def levelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Image and truth without the phase ramp of the truth, (h, w) complex128 each, for spectra.

        A ramp would shift the spectrum, and with it the rings of a ring correlation. An image without features, to
        which the alignment has added the ramp of the truth, becomes a constant again.
        """
        back = phasor(self.truth.shape, -fit_ramp(np.ones_like(self.truth), self.truth))
        return self.image * back, self.truth * back


def align(
    image: np.ndarray,
    truth: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    border: int = 12,
    max_shift: float = 16.0,
    smoothing: float = 8.0,
    upsampling: int = 100,
) -> Aligned:
    """Align a complex image with a truth on the same pixel grid.

    Minimises ``sum |truth - scale exp(i ramp . r) image(r - shift)|^2`` by alternating between the ramp (peak of the
    zero-padded Fourier transform of ``truth conj(image)``, then Newton steps) and the sub-pixel shift
    (cross-correlation of the high-passed complex images) until the shift has converged; the scale is fitted last. The
    compared region is the largest rectangle inside the mask, trimmed by the border or by the shift, whichever is
    larger.

    Args:
        image: (H, W) complex reconstruction.
        truth: (H, W) complex truth.
        mask: (H, W) bool, True at pixels to compare; holes in it are filled. None: all.
        border: pixels trimmed from each side of the region after alignment.
        max_shift: largest accepted shift per axis, in pixels; a larger one is a failed registration.
        smoothing: sigma, in pixels, of the Gaussian-smoothed image that is subtracted before registration.
        upsampling: the shift is resolved to 1/upsampling of a pixel.

    Returns:
        The aligned pair, with the shift, ramp and scale that were applied.

    Raises:
        InputError: shapes differ, or fewer than 32 pixels remain on a side.

    Source: M. Guizar-Sicairos, S. T. Thurman and J. R. Fienup, Opt. Lett. 33, 156 (2008), for the registration.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.exp(0.3j * ndimage.gaussian_filter(rng.normal(size=(80, 96)), 2))
        >>> aligned = align(2j * truth * np.exp(0.01j * np.arange(96)), truth)
        >>> bool(np.allclose(aligned.image, aligned.truth, atol=1e-6)), round(aligned.ramp[1], 4)
        (True, -0.01)
    """
    if image.ndim != 2 or image.shape != truth.shape:
        raise InputError(f"align: image and truth must have one (H, W) shape, got {image.shape} and {truth.shape}")
    rows, columns = largest_rectangle(np.ones(image.shape, bool) if mask is None else mask)
    start = np.asarray(image[rows, columns], np.complex128)
    target = np.asarray(truth[rows, columns], np.complex128)
    _require_size(start.shape, border)
    target = target * phasor(target.shape, -fit_ramp(np.ones_like(target), target))

    shift, registered = np.zeros(2), True
    ramp = fit_ramp(start, target)
    for _ in range(_MAX_ROUNDS):
        current = shifted(start * phasor(start.shape, ramp), shift)
        step = _register(current, target, smoothing, upsampling)
        if np.abs(shift + step).max() > max_shift:
            shift, registered = np.zeros(2), False
            break
        shift = shift + step
        ramp = ramp + fit_ramp(current, target)
        if np.abs(step).max() <= 1 / upsampling:
            break

    trim = max(border, math.ceil(np.abs(shift).max()))
    _require_size(start.shape, trim)
    inner = (slice(trim, start.shape[0] - trim), slice(trim, start.shape[1] - trim))
    region = (_within(rows, inner[0]), _within(columns, inner[1]))
    goal = np.asarray(truth[region], np.complex128)
    # the shifted ramp has a phase at the first pixel of the region, which does not belong to the scale
    at_first = np.exp(-1j * np.dot(ramp, trim - shift))
    moved = at_first * shifted(start * phasor(start.shape, ramp), shift)[inner]
    rest = fit_ramp(moved, goal)
    moved = moved * phasor(moved.shape, rest)
    power = np.vdot(moved, moved).real
    scale = np.vdot(moved, goal) / power if power > 0 else 0j
    total = ramp + rest
    return Aligned(
        image=scale * moved,
        truth=goal,
        shift=(float(shift[0]), float(shift[1])),
        ramp=(float(total[0]), float(total[1])),
        scale=complex(scale),
        region=region,
        registered=registered,
    )


def fit_ramp(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fit the linear phase ramp between an image and a truth, by least squares.

    The ramp maximises ``|sum truth conj(image) exp(-i ramp . r)|``. The peak of an FFT with two-fold zero padding lies
    within the main lobe, where the logarithm of the modulus is concave; Newton steps on it reach the maximum.

    Args:
        image: (h, w) complex.
        truth: (h, w) complex.

    Returns:
        (2,) float64 (y, x) ramp in rad/pixel; zero where either input is zero.

    Example:
        >>> fit_ramp(np.ones((40, 50), complex), np.exp(0.05j * np.arange(50)) * np.ones((40, 1))).round(6).tolist()
        [0.0, 0.05]
    """
    product = truth * np.conj(image)
    padded = [fft.next_fast_len(2 * side) for side in product.shape]
    spectrum = np.abs(fft.fft2(product.astype(np.complex64), s=padded))
    peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
    ramp = np.array([2 * np.pi * fft.fftfreq(n)[k] for n, k in zip(padded, peak, strict=True)])
    if spectrum[peak] == 0:
        return np.zeros(2)
    # coordinates centred and divided by the side: the Newton system is then well conditioned at any size
    size = np.array(product.shape, float)
    y, x = ((np.arange(side) - (side - 1) / 2) / side for side in product.shape)
    powers_y, powers_x = np.stack([y**0, y, y**2]), np.stack([x**0, x, x**2])
    unknown = ramp * size
    for _ in range(20):
        wave_y, wave_x = powers_y * np.exp(-1j * unknown[0] * y), powers_x * np.exp(-1j * unknown[1] * x)
        moments = wave_y @ product @ wave_x.T
        first = -1j * np.array([moments[1, 0], moments[0, 1]])
        second = -np.array([[moments[2, 0], moments[1, 1]], [moments[1, 1], moments[0, 2]]])
        first, second = first / moments[0, 0], second / moments[0, 0]
        gradient, hessian = first.real, (second - np.outer(first, first)).real
        if np.linalg.eigvalsh(hessian)[-1] >= 0:
            break  # not a strict maximum nearby: keep the peak
        step = -np.linalg.solve(hessian, gradient)
        if np.abs(step).max() > np.pi:
            break  # would leave the main lobe
        unknown = unknown + step
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(unknown / size)


def phasor(shape: tuple[int, ...], ramp: np.ndarray) -> np.ndarray:
    """Phase ramp ``exp(i ramp . r)`` of a shape (h, w) and a ramp (y, x) in rad/pixel, r from the first pixel."""
    down, right = (np.exp(1j * r * np.arange(side)) for r, side in zip(ramp, shape, strict=True))
    return np.asarray(down[:, None] * right)


def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``image(r - shift)`` by Fourier interpolation, which preserves noise; mirrored margins reduce edge artefacts."""
    if not shift.any():
        return image
    spectrum = ndimage.fourier_shift(fft.fft2(np.pad(image, _PAD, mode="symmetric")), shift)
    return np.asarray(fft.ifft2(spectrum)[_PAD:-_PAD, _PAD:-_PAD])


def _register(image: np.ndarray, truth: np.ndarray, smoothing: float, upsampling: int) -> np.ndarray:
    # scipy.signal and skimage take half a second to import; a figure of a reconstruction needs only fit_ramp.
    from scipy.signal import get_window
    from skimage.registration import phase_cross_correlation

    tukey = [get_window(("tukey", 0.25), side, fftbins=False) for side in image.shape]
    window = tukey[0][:, None] * tukey[1]
    moving, fixed = (window * (a - ndimage.gaussian_filter(a, smoothing)) for a in (image, truth))
    for detail, original in ((moving, image), (fixed, truth)):
        if np.linalg.norm(detail) <= 1e-6 * np.linalg.norm(original):
            return np.zeros(2)  # without features there is nothing to register
    step, _, _ = phase_cross_correlation(fixed, moving, upsample_factor=upsampling, normalization=None)
    return np.asarray(step, float)


def _require_size(shape: tuple[int, ...], border: int) -> None:
    left = [side - 2 * border for side in shape]
    if min(left) < MIN_SIDE:
        raise InputError(
            f"only {max(left[0], 0)} x {max(left[1], 0)} well-illuminated pixels can be compared with the truth, after "
            f"a border of {border}; at least {MIN_SIDE} x {MIN_SIDE} are needed: use a larger scan, a lower coverage "
            "threshold or a smaller border"
        )


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def largest_rectangle(mask: np.ndarray) -> tuple[slice, slice]:
    """Largest axis-aligned rectangle of True in a mask (H, W) with its holes filled, as (rows, columns).

    On a large mask the search is on a coarser grid; the result still contains True only.
    """
    cell = max(1, math.ceil(max(mask.shape) / _MASK_CELLS))
    filled = ndimage.binary_fill_holes(mask)
    rows, columns = mask.shape[0] // cell, mask.shape[1] // cell
    cells = filled[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).all(axis=(1, 3))
    best_area, best = 0, (0, 0, 0, 0)
    heights = np.zeros(columns, int)  # run of True cells that ends in the current row
    for row in range(rows):
        heights = np.where(cells[row], heights + 1, 0)
        stack: list[tuple[int, int]] = []  # (first column, height), heights strictly increasing
        for column, height in enumerate([*heights.tolist(), 0]):
            first = column
            while stack and stack[-1][1] >= height:
                first, tall = stack.pop()
                area = tall * (column - first)
                if area > best_area:
                    best_area, best = area, (row + 1 - tall, row + 1, first, column)
            stack.append((first, height))
    top, bottom, left, right = (edge * cell for edge in best)
    return slice(top, bottom), slice(left, right)
