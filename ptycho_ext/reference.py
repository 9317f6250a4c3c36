# SPDX-License-Identifier: BSD-3-Clause
"""The specification of every operator: NumPy, float64, one patch at a time, as plain as it can be.

The operators are tested against these functions; where the two differ, these are right. Conventions, for all of them:

Index: positions and shifts are (y, x) in pixels; a position is the canvas coordinate of a patch's sample [0, 0]; pixel
centres are integers. Boundary: each tap outside the source is zero by itself, so values fall off over one pixel.
Dtype: coordinates in float64; data and weights in float64 or complex128, whatever their type was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def extract_patches(canvas: ArrayLike, positions: ArrayLike, patch_size: tuple[int, int]) -> Array:
    """Patches (..., n, h, w) of a canvas (..., H, W) at positions (..., n, 2): patch[i, j] = canvas(y + i, x + j)."""
    canvas, positions = _widen(canvas), np.asarray(positions, np.float64)
    if canvas.ndim > 2:
        return _stack(extract_patches, canvas, positions, (*positions.shape[1:-1], *patch_size), patch_size)
    h, w = patch_size
    patches = np.empty((len(positions), h, w), canvas.dtype)
    for patch, (y, x) in zip(patches, positions, strict=True):
        patch[:] = _axis_matrix(y, h, canvas.shape[0]) @ canvas @ _axis_matrix(x, w, canvas.shape[1]).T
    return patches


def extract_patches_adjoint(patches: ArrayLike, positions: ArrayLike, canvas_size: tuple[int, int]) -> Array:
    """Canvas (..., H, W), the sum of patches (..., n, h, w) spread with the weights they would be gathered with."""
    patches, positions = _widen(patches), np.asarray(positions, np.float64)
    if patches.ndim > 3:
        return _stack(extract_patches_adjoint, patches, positions, (*patches.shape[1:-3], *canvas_size), canvas_size)
    canvas = np.zeros(canvas_size, patches.dtype)
    for patch, (y, x) in zip(patches, positions, strict=True):
        canvas += (
            _axis_matrix(y, patch.shape[0], canvas_size[0]).T @ patch @ _axis_matrix(x, patch.shape[1], canvas_size[1])
        )
    return canvas


def extract_patches_grad_positions(grad_patches: ArrayLike, canvas: ArrayLike, positions: ArrayLike) -> Array:
    """Derivative (..., n, 2) of Re sum(conj(grad_patches) * extract_patches(canvas, positions)) by the positions.

    At an integer coordinate it is the right-hand derivative.
    """
    grads, canvas, positions = _widen(grad_patches), _widen(canvas), np.asarray(positions, np.float64)
    if canvas.ndim > 2:
        shape = positions.shape[1:]
        parts = [extract_patches_grad_positions(*part) for part in zip(grads, canvas, positions, strict=True)]
        return np.stack(parts) if parts else np.empty((0, *shape))
    result = np.empty(positions.shape)
    for out, grad, (y, x) in zip(result, grads, positions, strict=True):
        (h, w), (rows, cols) = grad.shape, canvas.shape
        by_y = _axis_slope(y, h, rows) @ canvas @ _axis_matrix(x, w, cols).T
        by_x = _axis_matrix(y, h, rows) @ canvas @ _axis_slope(x, w, cols).T
        out[:] = np.sum(np.conj(grad) * by_y).real, np.sum(np.conj(grad) * by_x).real
    return result


def translate_images(images: ArrayLike, shifts: ArrayLike, mode: str = "bilinear") -> Array:
    """Images (..., H, W) moved by shifts (..., 2): out[i, j] = in(i - t_y, j - t_x).

    "nearest" takes in[rint(i - t)], ties to even, where 0 <= i - t <= n - 1 before rounding, and zero elsewhere.
    "fourier" is periodic: in is the trigonometric polynomial through the samples, with its highest frequency, where n
    is even, a cosine (the real choice: half of it at either sign).
    """
    images, shifts = _widen(images), np.asarray(shifts, np.float64)
    if images.ndim > 2:
        return _stack(translate_images, images, shifts, images.shape[1:], mode)
    matrices = []
    for shift, n in zip(shifts, images.shape, strict=True):
        if mode == "bilinear":
            matrices.append(_axis_matrix(-shift, n, n))
        elif mode == "fourier":
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
    """Weighted mean (or sum) and weight (..., H, W) of patches (..., n, h, w), weights (h, w) or (..., n, h, w).

    The mean is the quotient of two adjoints with the same weights where the weight exceeds eps times the canvas's
    largest, and zero elsewhere.
    """
    patches = _widen(patches)
    weights = np.ones(patches.shape[-2:]) if weights is None else np.asarray(weights, np.float64)
    image = extract_patches_adjoint(patches * weights, positions, canvas_size)
    total = extract_patches_adjoint(np.broadcast_to(weights, patches.shape), positions, canvas_size)
    if normalize:
        seen = total > eps * total.max((-2, -1), keepdims=True)
        image = np.where(seen, image / np.where(seen, total, 1), 0)
    return image, total


def reassemble_patches_adjoint(image: ArrayLike, positions: ArrayLike, weights: ArrayLike) -> Array:
    """Patches (..., n, h, w) of an image (..., H, W) times weights (h, w) or (..., n, h, w)."""
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
    """Patches (..., n, h, w) of the mean of the patches of each group: reassembly, then extraction."""
    image, _ = reassemble_patches(patches, positions, canvas_size, weights, True, eps)
    h, w = np.shape(patches)[-2:]
    return extract_patches(image, positions, (h, w))


def _axis_matrix(position: float, size: int, extent: int) -> Array:
    """(size, extent) weights of linear interpolation along one axis; taps outside have no column."""
    whole = np.floor(position)
    fraction = position - whole
    tap = whole + np.arange(size)[:, None]
    columns = np.arange(extent)
    return np.asarray((1 - fraction) * (tap == columns) + fraction * (tap + 1 == columns))


def _axis_slope(position: float, size: int, extent: int) -> Array:
    """Derivative of _axis_matrix by the position."""
    tap = np.floor(position) + np.arange(size)[:, None]
    columns = np.arange(extent)
    return np.asarray((tap + 1 == columns).astype(np.float64) - (tap == columns))


def _axis_periodic(shift: float, n: int) -> Array:
    """(n, n) periodic interpolation at i - shift: the mean over k of exp(2 pi i k (i - j - shift) / n)."""
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
    """The function of every leading index; shape is that of one result."""
    parts = [function(*part, option) for part in zip(data, coordinates, strict=True)]
    return np.stack(parts) if parts else np.empty((0, *shape), data.dtype)
