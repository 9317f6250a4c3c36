# SPDX-License-Identifier: BSD-3-Clause
"""Crop, padding and binning of detector frames, masks and probes, and values of frames that are no counts.

Pure functions of arrays. Frames are cropped and padded about their zero frequency, pixel (h//2, w//2), which becomes
(N//2, N//2). Bins of K x K pixels begin at pixel (0, 0), so that the zero frequency is (K-1)/2 pixels before the middle
of its bin; :func:`bin_probe` has the phase ramp of this shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fit_frames(frames: NDArray[Any], size: int, fill: Any = 0) -> NDArray[Any]:
    """Crop longer axes and pad shorter ones about the zero frequency.

    Args:
        frames: (..., h, w).
        size: N.
        fill: value of new pixels.

    Returns:
        (..., N, N) of the same type; a view if no axis is padded.

    Example:
        >>> fit_frames(np.arange(6).reshape(1, 6), 4).tolist()
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]
    """
    shape = frames.shape[-2:]
    (top, row), (left, column) = (_overlap(length, size) for length in shape)
    cropped = frames[..., top, left]
    if cropped.shape[-2:] == (size, size):
        return cropped
    fitted = np.full((*frames.shape[:-2], size, size), fill, frames.dtype)
    fitted[..., row, column] = cropped
    return fitted


def fit_mask(bad: NDArray[np.bool_] | None, shape: tuple[int, int], size: int) -> NDArray[np.bool_] | None:
    """Bad pixels (N, N) of frames (h, w) after :func:`fit_frames`: new pixels are bad; None if none is bad."""
    mask = fit_frames(np.zeros(shape, np.bool_) if bad is None else bad, size, True)
    return np.ascontiguousarray(mask) if mask.any() else None


def fit_probe(probe: NDArray[np.complex64], size: int) -> NDArray[np.complex64]:
    """Crop or pad the far field of a probe (M, N, N) to (M, size, size): N/size as large pixels in real space."""
    waves = np.fft.fftshift(np.fft.fft2(_shifted(probe), norm="ortho"), axes=(-2, -1))
    fitted = np.fft.ifft2(_shifted(fit_frames(waves, size)), norm="ortho")
    return np.fft.fftshift(fitted, axes=(-2, -1)).astype(np.complex64)


def resample_probe(probe: NDArray[np.complex64], ratio: float, size: int) -> NDArray[np.complex64]:
    """Probe (M, N, N) at other pixels and of another field of view, (M, size, size), with the same power.

    The values are those of the trigonometric polynomial through the samples, without the frequencies that the new
    pixels do not resolve; outside of the field of view of the probe they are 0. Pixel N//2 becomes size//2. Crop,
    padding and bins of detectors are special cases.

    Args:
        probe: (M, N, N).
        ratio: of the pixel sizes, new to old.
        size: pixels along one side of the result.
    """
    length = probe.shape[-1]
    frequencies = np.fft.fftfreq(length)
    positions = (np.arange(size) - size // 2) * ratio + length // 2
    inside = (positions >= -0.5) & (positions < length - 0.5)
    kept = np.abs(frequencies) <= 0.5 / max(ratio, 1.0)
    matrix = (
        np.exp(2j * np.pi * positions[:, np.newaxis] * frequencies) * (inside[:, np.newaxis] & kept) * (ratio / length)
    )
    spectrum = np.fft.fft2(probe.astype(np.complex128))
    return np.asarray((matrix @ spectrum @ matrix.T) / ratio, np.complex64)


def bin_frames(
    counts: NDArray[Any], factor: int, dtype: np.dtype[Any], bad: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Sum counts over bins of factor x factor pixels; bad pixels count as 0.

    Args:
        counts: (..., N, N), N a multiple of `factor`.
        factor: K.
        dtype: of the result, which must hold the sums.
        bad: (N, N) bool.

    Returns:
        (..., N/K, N/K).

    Example:
        >>> bin_frames(np.arange(16).reshape(4, 4), 2, np.dtype(np.uint8)).tolist()
        [[10, 18], [42, 50]]
    """
    values = counts if bad is None else np.where(bad, counts.dtype.type(0), counts)
    *leading, height, width = values.shape
    parts = values.reshape(*leading, height // factor, factor, width // factor, factor)
    sums = parts.sum(axis=(-3, -1), dtype=np.float64 if values.dtype.kind == "f" else np.uint64)
    binned: NDArray[Any] = sums.astype(dtype, copy=False)
    return binned


def bin_mask(bad: NDArray[np.bool_] | None, factor: int) -> NDArray[np.bool_] | None:
    """Bad bins: those with a bad pixel; None if there are none."""
    return None if bad is None else bin_frames(bad.astype(np.uint8), factor, np.dtype(np.bool_))


def bin_probe(probe: NDArray[np.complex64], factor: int) -> NDArray[np.complex64]:
    """Probe (M, N/K, N/K) of binned frames: the middle of the probe (M, N, N), with the phase ramp of the bins.

    A bin samples the far field (K-1)/2 pixels beyond its first pixel, a ramp in real space. What is outside of the
    middle N/K pixels is lost, since binned frames do not resolve it.
    """
    size = probe.shape[-1]
    ramp = np.exp(-2j * np.pi * (factor - 1) / 2 * (np.arange(size) - size // 2) / size)
    middle = fit_frames(probe * (ramp[:, np.newaxis] * ramp), size // factor)
    return np.ascontiguousarray(middle.astype(np.complex64))


def near_probe(probe: NDArray[np.complex64], size: int, factor: int) -> NDArray[np.complex64]:
    """Probe (M, size/K, size/K) of frames in the near field that are cropped or padded and then binned.

    There a frame is an image on the grid of the probe: crop and padding (with 0) are those of the probe itself, and
    bins of K x K pixels keep its lowest frequencies, at the middles of the bins; the power is kept.

    Args:
        probe: (M, N, N).
        size: pixels after crop and padding.
        factor: K, of which `size` is a multiple.
    """
    fitted = np.ascontiguousarray(fit_frames(probe, size))
    if factor == 1:
        return fitted
    # fit_probe keeps pixel size//2 at pixel (size/K)//2, which is the first pixel of a bin.
    k = 2j * np.pi * np.fft.fftfreq(size) * (factor - 1) / 2
    moved = np.fft.ifft2(np.fft.fft2(fitted.astype(np.complex128)) * (np.exp(k)[:, np.newaxis] * np.exp(k)))
    return fit_probe(moved.astype(np.complex64), size // factor)


def calibrate_frames(
    values: NDArray[Any], gain: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Counts ``max(0, (value - offset) / gain)``; the dead-pixel marker becomes NaN.

    Args:
        values: (..., h, w), as in the file.
        gain: values per count, (h, w) or (1, 1).
        offset: value without counts, in the same way.
    """
    counts = np.subtract(values, offset, dtype=np.float64)
    counts /= gain
    np.maximum(counts, 0, out=counts)  # NaN stays
    if values.dtype.kind in "iu" and values.dtype.itemsize >= 4:
        counts[values == np.iinfo(values.dtype).max] = np.nan
    return np.asarray(counts, np.float32)


def invalid_values(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are no counts: NaN, infinite, negative, or the largest integer of 32 or 64 bits (a dead pixel)."""
    wrong: NDArray[np.bool_]
    if values.dtype.kind == "f":
        wrong = ~(np.isfinite(values) & (values >= 0))
        return wrong
    wrong = values < 0 if values.dtype.kind == "i" else np.zeros(values.shape, np.bool_)
    return wrong if values.dtype.itemsize < 4 else wrong | (values == np.iinfo(values.dtype).max)


def without_invalid(values: NDArray[Any], which: str) -> NDArray[Any]:
    """Values with 0 in place of those that are no counts.

    Args:
        values: of any shape.
        which: "invalid", see :func:`invalid_values`, or "negative", negative floats only.

    Returns:
        A copy, or `values` if there is nothing to replace.
    """
    if which == "invalid":
        wrong = invalid_values(values)
    elif values.dtype.kind == "f":
        wrong = values < 0
    else:
        return values
    return np.where(wrong, values.dtype.type(0), values) if wrong.any() else values


def _overlap(length: int, size: int) -> tuple[slice, slice]:
    """Slices of an axis of `length` pixels and of one of `size` pixels that show the same pixels."""
    first, start = max(0, length // 2 - size // 2), max(0, size // 2 - length // 2)
    count = min(length - first, size - start)
    return slice(first, first + count), slice(start, start + count)


def _shifted(waves: NDArray[Any]) -> NDArray[Any]:
    """Waves in double precision with pixel N//2 at 0."""
    return np.fft.ifftshift(waves.astype(np.complex128), axes=(-2, -1))
