# SPDX-License-Identifier: BSD-3-Clause
"""Specification of every operator in NumPy and float64, one patch at a time.

The operators are tested against these functions; where they differ, these are right. Conventions of all functions:

Index: positions and shifts are (y, x) in pixels; a position is the canvas coordinate of a patch's sample [0, 0]; pixel
centres are integers. Boundary: each tap outside the source is zero, so values decrease to zero over one pixel. Every
tap inside is used, also with a weight of zero: beside an integer position a NaN or infinity gives a NaN. Dtype:
coordinates in float64; data and weights are converted to float64 or complex128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def extract_patches(canvas: ArrayLike, positions: ArrayLike, patch_size: tuple[int, int]) -> Array:
    """Extract patches (..., n, h, w) of a canvas (..., H, W) at positions (..., n, 2).

    patch[i, j] = canvas(y + i, x + j).
    """
    canvas, positions = _widen(canvas), np.asarray(positions, np.float64)
    if canvas.ndim > 2:
        return _stack(extract_patches, canvas, positions, (*positions.shape[1:-1], *patch_size), patch_size)
    h, w = patch_size
    patches = np.empty((len(positions), h, w), canvas.dtype)
    for patch, (y, x) in zip(patches, positions, strict=True):
        patch[:] = _blend(_blend(_taps(canvas, y, x, h + 1, w + 1), y, 0), x, 1)
    return patches


def extract_patches_adjoint(patches: ArrayLike, positions: ArrayLike, canvas_size: tuple[int, int]) -> Array:
    """Sum patches (..., n, h, w) onto a canvas (..., H, W), with the interpolation weights of the extraction."""
    patches, positions = _widen(patches), np.asarray(positions, np.float64)
    if patches.ndim > 3:
        return _stack(extract_patches_adjoint, patches, positions, (*patches.shape[1:-3], *canvas_size), canvas_size)
    canvas = np.zeros(canvas_size, patches.dtype)
    for patch, (y, x) in zip(patches, positions, strict=True):
        spread = _spread(_spread(patch, y, 0), x, 1)
        canvas += _taps(spread, -np.floor(y), -np.floor(x), *canvas_size)
    return canvas


def extract_patches_grad_positions(grad_patches: ArrayLike, canvas: ArrayLike, positions: ArrayLike) -> Array:
    """Position gradient (..., n, 2) of Re sum(conj(grad_patches) * extract_patches(canvas, positions)).

    At an integer coordinate it is the right-hand derivative.
    """
    grads, canvas, positions = _widen(grad_patches), _widen(canvas), np.asarray(positions, np.float64)
    if canvas.ndim > 2:
        shape = positions.shape[1:]
        parts = [extract_patches_grad_positions(*part) for part in zip(grads, canvas, positions, strict=True)]
        return np.stack(parts) if parts else np.empty((0, *shape))
    result = np.empty(positions.shape)
    for out, grad, (y, x) in zip(result, grads, positions, strict=True):
        taps = _taps(canvas, y, x, grad.shape[0] + 1, grad.shape[1] + 1)
        by_y, by_x = np.diff(_blend(taps, x, 1), axis=0), np.diff(_blend(taps, y, 0), axis=1)
        out[:] = np.sum(np.conj(grad) * by_y).real, np.sum(np.conj(grad) * by_x).real
    return result


def translate_images(images: ArrayLike, shifts: ArrayLike, mode: str = "bilinear") -> Array:
    """Translate images (..., H, W) by shifts (..., 2): out[i, j] = in(i - t_y, j - t_x).

    "nearest" uses in[rint(i - t)], ties to even, where 0 <= i - t <= n - 1 before rounding, and zero elsewhere.
    "fourier" is periodic: in is the trigonometric polynomial through the samples, whose highest frequency is a cosine
    where n is even (half of it at either sign).
    """
    images, shifts = _widen(images), np.asarray(shifts, np.float64)
    if images.ndim > 2:
        return _stack(translate_images, images, shifts, images.shape[1:], mode)
    if mode == "bilinear":
        patches: Array = extract_patches(images, -shifts[None], (images.shape[0], images.shape[1]))[0]
        return patches
    matrices = []
    for shift, n in zip(shifts, images.shape, strict=True):
        if mode == "fourier":
            matrices.append(_axis_periodic(shift, n))
        else:
            s = np.arange(n) - shift
            matrices.append((np.rint(s)[:, None] == np.arange(n)) & ((s >= 0) & (s <= n - 1))[:, None])
    return np.asarray(matrices[0] @ images @ matrices[1].T)


def reassemble_patches(
    patches: ArrayLike,
    positions: ArrayLike,
    canvas_size: tuple[int, int],
    weights: ArrayLike | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
) -> tuple[Array, Array]:
    """Compute the weighted mean (or sum) and the weight (..., H, W) of patches (..., n, h, w).

    Weights are (h, w) or (..., n, h, w). The mean is the quotient of two adjoints with the same weights, and zero where
    the weight (the modulus of complex weights) is at most eps times the largest of the canvas. A weight that is NaN
    makes the pixels that it contributes to NaN, and no others.
    """
    patches = _widen(patches)
    weights = np.ones(patches.shape[-2:]) if weights is None else _widen(weights)
    image = extract_patches_adjoint(patches * weights, positions, canvas_size)
    total = extract_patches_adjoint(np.broadcast_to(weights, patches.shape), positions, canvas_size)
    if normalize:
        modulus = np.abs(total) if np.iscomplexobj(total) else total
        largest = np.where(np.isnan(modulus), 0, modulus).max((-2, -1), keepdims=True, initial=0)
        faint = modulus <= eps * largest
        with np.errstate(invalid="ignore"):
            image = np.where(faint, 0, image / np.where(faint, 1, total))
    return image, total


def reassemble_patches_adjoint(image: ArrayLike, positions: ArrayLike, weights: ArrayLike) -> Array:
    """Extract patches (..., n, h, w) of an image (..., H, W), times weights (h, w) or (..., n, h, w)."""
    weights = np.asarray(weights, np.float64)
    h, w = weights.shape[-2:]
    return np.asarray(weights * extract_patches(image, positions, (h, w)))


def overlap_project(
    patches: ArrayLike,
    positions: ArrayLike,
    canvas_size: tuple[int, int],
    weights: ArrayLike | None = None,
    eps: float = 1e-6,
) -> Array:
    """Project patches (..., n, h, w) onto the overlap constraint: reassembly of each group, then extraction."""
    image, _ = reassemble_patches(patches, positions, canvas_size, weights, True, eps)
    h, w = np.shape(patches)[-2:]
    return extract_patches(image, positions, (h, w))


def exit_waves(canvas: ArrayLike, positions: ArrayLike, probe: ArrayLike) -> Array:
    """Exit waves (..., n, M, h, w) of an object (..., H, W): probe[m] * extract_patches(canvas, positions)[k].

    The probe's modes are (M, h, w), the same for all patches, or (..., n, M, h, w).
    """
    probe = _widen(probe)
    h, w = probe.shape[-2:]
    return np.asarray(extract_patches(canvas, positions, (h, w))[..., None, :, :] * probe)


def exit_waves_adjoint(waves: ArrayLike, positions: ArrayLike, probe: ArrayLike, canvas_size: tuple[int, int]) -> Array:
    """Sum conj(probe[m]) * waves[k, m] over the modes and onto a canvas (..., H, W)."""
    products = np.conj(_widen(probe)) * _widen(waves)
    return extract_patches_adjoint(products.sum(-3), positions, canvas_size)


def exit_waves_adjoint_probe(waves: ArrayLike, canvas: ArrayLike, positions: ArrayLike, shared: bool = True) -> Array:
    """Sum conj(patch[k]) * waves[k, m] over all patches, (M, h, w); if not shared, its terms (..., n, M, h, w)."""
    waves = _widen(waves)
    h, w = waves.shape[-2:]
    products = np.conj(extract_patches(canvas, positions, (h, w)))[..., None, :, :] * waves
    return products.reshape(-1, *products.shape[-3:]).sum(0) if shared else np.asarray(products)


def exit_waves_grad_positions(
    grad_waves: ArrayLike, canvas: ArrayLike, positions: ArrayLike, probe: ArrayLike
) -> Array:
    """Position gradient (..., n, 2) of Re sum(conj(grad_waves) * exit_waves(canvas, positions, probe))."""
    products = (np.conj(_widen(probe)) * _widen(grad_waves)).sum(-3)
    return extract_patches_grad_positions(products, canvas, positions)


def correct_fields(
    fields: ArrayLike,
    counts: ArrayLike,
    mask: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    loss: str = "poisson",
    background: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Compare far fields (n, M, h, w) with counts (n, h, w): correction, value and derivative by the log scale.

    With the intensity I = scale * sum abs(field)^2 over the modes, predicted p = I + background and measured
    m = counts + background, the value (n,) of a pattern is the sum over its good pixels of

        amplitude: (sqrt(m) - sqrt(p))^2                step r = sqrt(m / p) - 1
        poisson:   (p - m + m log(m / p)) / 2           step r = (m / p - 1) / 2

    half the negative logarithm of the likelihood above its minimum. The correction (n, M, h, w) is scale * r * field,
    minus the derivative of the value by conj(field). The derivative of the value by log(scale) is -sum(r * I), (n,).
    mask: True where a pixel is good, (h, w) or (n, h, w). Counts of bad pixels are ignored.
    """
    fields, counts = _widen(fields), np.asarray(counts, np.float64)
    good = np.broadcast_to(True if mask is None else np.asarray(mask, bool), counts.shape)
    factors = np.ones(len(fields)) if scale is None else np.asarray(scale, np.float64)
    intensity = factors[:, None, None] * np.sum(np.abs(fields) ** 2, 1)
    predicted, measured = intensity + background, np.where(good, counts, 0) + background
    if loss == "amplitude":
        values = (np.sqrt(measured) - np.sqrt(predicted)) ** 2
        step = np.sqrt(measured / predicted) - 1
    else:
        logarithm = np.log(np.where(measured > 0, measured, 1) / np.where(measured > 0, predicted, 1))
        values = (predicted - measured + measured * logarithm) / 2
        step = (measured / predicted - 1) / 2
    values, step = np.where(good, values, 0), np.where(good, step, 0)
    correction = factors[:, None, None, None] * step[:, None] * fields
    return correction, values.sum((1, 2)), -(step * intensity).sum((1, 2))


def pattern_step(
    canvas: ArrayLike,
    positions: ArrayLike,
    probe: ArrayLike,
    counts: ArrayLike,
    mask: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    shifts: ArrayLike | None = None,
    loss: str = "poisson",
    background: float = 0.0,
) -> tuple[Array, Array, Array, Array, Array]:
    """Compare the patterns that an object (H, W) and a probe predict with counts (n, h, w), and correct both.

    The probe is (M, h, w), the same for all patterns, or (n, M, h, w); with shifts (n, 2), translated periodically by
    them. Its product with the patches is transformed to orthonormal far fields, which are compared and corrected as by
    correct_fields. Returned are the value and the derivative by the log scale of every pattern, (n,) each, and of J,
    the sum of the values times the weights (n,), minus half the gradient by the canvas, the probe, and the shifts if
    there are any, or else the positions (n, 2).
    """
    canvas, probe, counts = _widen(canvas), _widen(probe), np.asarray(counts)
    n, (h, w) = len(counts), probe.shape[-2:]
    steps = np.zeros((n, 2)) if shifts is None else np.asarray(shifts, np.float64)
    frequencies = [2 * np.pi * np.fft.fftfreq(side) for side in (h, w)]
    phases = steps[:, 0, None, None] * frequencies[0][:, None] + steps[:, 1, None, None] * frequencies[1]
    ramps = np.exp(-1j * phases)[:, None]
    spectra = np.fft.fft2(np.broadcast_to(probe, (n, *probe.shape[-3:])), norm="ortho") * ramps
    probes = np.fft.ifft2(spectra, norm="ortho")
    fields = np.fft.fft2(exit_waves(canvas, positions, probes), norm="ortho")
    correction, values, slopes = correct_fields(fields, counts, mask, scale, loss, background)
    if weights is not None:
        correction = correction * np.asarray(weights, np.float64)[:, None, None, None]
    waves = np.fft.ifft2(correction, norm="ortho")
    by_canvas = exit_waves_adjoint(waves, positions, probes, (canvas.shape[-2], canvas.shape[-1]))
    by_spectra = np.fft.fft2(exit_waves_adjoint_probe(waves, canvas, positions, shared=False), norm="ortho")
    by_probe = np.fft.ifft2(by_spectra * np.conj(ramps), norm="ortho")
    if shifts is None:
        by_positions = exit_waves_grad_positions(waves, canvas, positions, probes)
    else:
        overlap = np.sum(np.conj(by_spectra) * spectra, 1).imag
        by_positions = np.stack([overlap.sum(2) @ frequencies[0], overlap.sum(1) @ frequencies[1]], 1)
    return values, slopes, by_canvas, by_probe.sum(0) if probe.ndim == 3 else by_probe, by_positions


def update_canvas(
    canvas: ArrayLike,
    numerator: ArrayLike,
    inverse_illumination: ArrayLike,
    floor: ArrayLike,
    factors: ArrayLike,
    velocity: ArrayLike | None = None,
    momentum: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Update an object (..., H, W) by its velocity: the updated object, the new velocity, and the direction.

    The direction is the numerator times the inverse illumination; the new velocity is the direction plus momentum times
    the velocity. Relative to the object's phase its real part is multiplied by factors[0] and its imaginary part by
    factors[1]. The phase factor of a value z is z / sqrt(abs(z)^2 + floor^2), with a floor (...,) of every object.
    """
    canvas = _widen(canvas)
    direction = _widen(numerator) * np.asarray(inverse_illumination, np.float64)
    moved = direction if velocity is None else direction + np.asarray(momentum, np.float64) * _widen(velocity)
    unit = canvas / np.sqrt(np.abs(canvas) ** 2 + np.asarray(floor, np.float64)[..., None, None] ** 2)
    relative = moved * np.conj(unit)
    along, across = np.asarray(factors, np.float64)
    return canvas + unit * (along * relative.real + 1j * across * relative.imag), moved, direction


def _taps(source: Array, y: float, x: float, rows: int, cols: int) -> Array:
    """Samples source[floor(y) + i, floor(x) + j], zero outside."""
    taps = np.zeros((rows, cols), source.dtype)
    limit = 1e12  # larger than any source
    top, left = (int(np.clip(np.floor(v), -limit, limit)) for v in (y, x))
    r, c = np.arange(top, top + rows), np.arange(left, left + cols)
    inside = ((r >= 0) & (r < source.shape[0]), (c >= 0) & (c < source.shape[1]))
    taps[np.ix_(*inside)] = source[np.ix_(r[inside[0]], c[inside[1]])]
    return taps


def _blend(taps: Array, position: float, axis: int) -> Array:
    """Interpolate linearly between neighbours along an axis, which becomes shorter by one."""
    fraction = position - np.floor(position)
    left, right = (np.take(taps, np.arange(taps.shape[axis] - 1) + step, axis) for step in (0, 1))
    return np.asarray((1 - fraction) * left + fraction * right)


def _spread(patch: Array, position: float, axis: int) -> Array:
    """Transpose of _blend: the axis becomes longer by one."""
    fraction = position - np.floor(position)
    after, before = ([(0, 0), (0, 0)] for _ in range(2))
    after[axis], before[axis] = (0, 1), (1, 0)
    return np.asarray(np.pad((1 - fraction) * patch, after) + np.pad(fraction * patch, before))


def _axis_periodic(shift: float, n: int) -> Array:
    """Matrix (n, n) of periodic interpolation at i - shift: the mean over k of exp(2 pi i k (i - j - shift) / n)."""
    shift = np.mod(shift, n)
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    frequencies = np.arange(1, (n + 1) // 2)
    waves = np.cos(2 * np.pi / n * np.multiply.outer(frequencies, distance - shift))
    matrix = 1 + 2 * waves.sum(0)
    if n % 2 == 0:
        matrix = matrix + np.cos(np.pi * shift) * np.cos(np.pi * distance)
    return np.asarray(matrix / n)


def _widen(data: ArrayLike) -> Array:
    data = np.asarray(data)
    return data.astype(np.complex128 if np.iscomplexobj(data) else np.float64)


def _stack(function: Any, data: Array, coordinates: Array, shape: tuple[int, ...], option: Any) -> Array:
    """Stack the results of a function over the leading index; shape is that of one result."""
    parts = [function(*part, option) for part in zip(data, coordinates, strict=True)]
    return np.stack(parts) if parts else np.empty((0, *shape), data.dtype)
