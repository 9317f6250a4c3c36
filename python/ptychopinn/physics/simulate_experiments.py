# SPDX-License-Identifier: BSD-3-Clause
"""Parts of experiments for simulated scans: exposures of fly scans, drifting probes, backgrounds and thick samples.

Each function returns an array that a field of :class:`Experiment` or :func:`~ptychopinn.physics.simulate.simulate`
takes. A drifting probe is made exactly for every pattern; :func:`as_variations` then writes it as the shapes and
coefficients of an experiment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.physics.objects import OBJECTS, PHOTOGRAPHS, Shape, photos

#: Variations of a smaller part of the largest are below the precision of complex64.
_NEGLIGIBLE = 1e-6
_CYCLES = 3  # of the drifts in a scan


def line_exposure(
    length: float | tuple[float, float],
    points: int,
    recorded_at: float = 0.5,
    directions: NDArray[np.generic] | None = None,
) -> NDArray[np.float64]:
    """Points of the exposures of a fly scan, the middles of equal parts of a straight path.

    Args:
        length: of the path, object pixels along x, the fast axis, or (y, x); the step of a scan without pauses.
        points: K.
        recorded_at: where on the path the position is recorded, from 0, its start, to 1, its end.
        directions: (n,), 1 or -1, of the motion during each pattern, see :func:`snake_directions`; None: all 1. With a
            position that is recorded in the middle of the path they make no difference.

    Returns:
        (K, 2) float64, (y, x) relative to the position, object pixels; (n, K, 2) with directions.

    Raises:
        InputError: `points` or `recorded_at` is out of its range.

    Example:
        >>> line_exposure(3.0, 3).tolist()
        [[-0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
        >>> line_exposure(3.0, 3, 0.0, np.array([1, -1]))[..., 1].tolist()
        [[0.5, 1.5, 2.5], [-0.5, -1.5, -2.5]]
    """
    if points < 1 or not 0 <= recorded_at <= 1:
        raise InputError(
            f"line_exposure: points must be 1 or more and recorded_at from 0 to 1, got {points} and {recorded_at}"
        )
    path = np.array([0.0, length] if np.ndim(length) == 0 else length, np.float64)
    fractions = (np.arange(points) + 0.5) / points - recorded_at
    line = fractions[:, np.newaxis] * path
    if directions is None:
        return np.asarray(line)
    return np.asarray(np.asarray(directions, np.float64)[:, np.newaxis, np.newaxis] * line)


def snake_directions(patterns: int, columns: int) -> NDArray[np.int64]:
    """Direction of each pattern, 1 or -1, in a scan whose rows of `columns` patterns alternate in direction.

    Example:
        >>> snake_directions(5, 2).tolist()
        [1, 1, -1, -1, 1]
    """
    return 1 - 2 * (np.arange(patterns) // columns % 2)


def drifting_probe(
    probe: NDArray[np.complexfloating[Any, Any]],
    patterns: int,
    amount: float = 1.0,
    position: float = 0.2,
    defocus: float = 0.15,
    astigmatism: float = 0.1,
    pointing: float = 0.2,
    intensity: float = 0.05,
    seed: int = 0,
) -> NDArray[np.complex128]:
    """Make a probe that drifts during a scan, exactly for every pattern.

    Position, defocus, both components of astigmatism, pointing and intensity follow independent smooth random curves of
    mean 0, sums of one to three cycles per scan. The aberrations are phases in the probe's Fourier plane of the form
    ``r^2``, ``r^2 cos 2a`` and ``r^2 sin 2a``, with r = 1 at the root mean square radius of its spectrum.

    Args:
        probe: (N, N), or (M, N, N) of which the first mode drifts.
        patterns: n.
        amount: factor of all of the following, which are standard deviations along the scan.
        position: of the probe on the sample, object pixels in y and in x.
        defocus: radians.
        astigmatism: radians, of each component.
        pointing: of the beam, which moves the far field, detector pixels in y and in x.
        intensity: relative.
        seed: of the curves.

    Returns:
        (n, N, N) complex128, the first mode of every pattern.

    Raises:
        InputError: `amount` is negative.

    Example:
        >>> from ptychopinn.physics.probes import PROBES
        >>> drifting_probe(PROBES["defocused"](32, 1), 9).shape
        (9, 32, 32)
    """
    if not (math.isfinite(amount) and amount >= 0):
        raise InputError(f"drifting_probe: amount must be 0 or more, got {amount}")
    field = probe.reshape(-1, *probe.shape[-2:])[0].astype(np.complex128)
    size = field.shape[-1]
    deviations = (position, position, defocus, astigmatism, astigmatism, pointing, pointing, intensity)
    curves = amount * np.array(deviations)[:, np.newaxis] * _smooth_curves(len(deviations), patterns, seed)
    y, x, focus, straight, diagonal, up, along, bright = curves[:, :, np.newaxis, np.newaxis]
    spectrum = scipy.fft.fft2(field)
    f = scipy.fft.fftfreq(size)
    fy, fx = f[:, np.newaxis], f
    power = np.abs(spectrum) ** 2 / np.sum(np.abs(spectrum) ** 2)
    square = np.sum(power * (fy**2 + fx**2))
    aberrations = (focus * (fy**2 + fx**2) + straight * (fx**2 - fy**2) + diagonal * (2 * fx * fy)) / square
    moved = scipy.fft.ifft2(spectrum * np.exp(1j * aberrations - 2j * np.pi * (y * fy + x * fx)))
    r = (np.arange(size) - size // 2) / size
    pointed = moved * np.exp(2j * np.pi * (up * r[:, np.newaxis] + along * r))
    return np.asarray(pointed * np.sqrt(np.maximum(1 + bright, 0.0)), np.complex128)


def as_variations(
    probes: NDArray[np.complexfloating[Any, Any]],
    probe: NDArray[np.complexfloating[Any, Any]],
    variations: int | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """Write the probes of all patterns as ``P_0 + sum_v c_kv V_v``, by a singular value decomposition.

    Coefficients are real, so that the decomposition is that of real and imaginary parts side by side.

    Args:
        probes: (n, N, N), the first mode of every pattern.
        probe: (N, N), or (M, N, N) whose first mode is P_0.
        variations: V, of the largest singular values; None: all down to 1e-6 of the largest, which are the exact probes
            in the precision of complex64.

    Returns:
        `probe_variations` (V, N, N) and `variation_coefficients` (n, V) of an experiment, with coefficients of root
        mean square 1 over the scan.

    Raises:
        InputError: all probes are equal to P_0, or `variations` is below 1.
    """
    if variations is not None and variations < 1:
        raise InputError(f"as_variations: variations must be 1 or more, got {variations}")
    first = probe.reshape(-1, *probe.shape[-2:])[0]
    n, size = len(probes), probes.shape[-1]
    changes = (probes - first).reshape(n, -1).astype(np.complex128)
    parts = np.concatenate([changes.real, changes.imag], axis=1)
    small = n <= parts.shape[1]
    powers, vectors = scipy.linalg.eigh(parts @ parts.T if small else parts.T @ parts)
    powers, vectors = powers[::-1], vectors[:, ::-1]
    if not powers[0] > 0:
        raise InputError("as_variations: probes must differ from the probe, got equal ones")
    count = int(np.sum(powers > _NEGLIGIBLE**2 * powers[0]))
    count = count if variations is None else min(variations, count)
    coefficients = vectors[:, :count] if small else parts @ vectors[:, :count] / np.sqrt(powers[:count])
    shapes = coefficients.T @ parts / math.sqrt(n)
    fields = (shapes[:, : size**2] + 1j * shapes[:, size**2 :]).reshape(count, size, size)
    return fields.astype(np.complex64), np.ascontiguousarray(coefficients * math.sqrt(n))


def smooth_background(size: int, mean: float, seed: int = 0) -> NDArray[np.float32]:
    """Make a background of scattered radiation: a uniform part, a gradient, and a broad maximum beside the centre.

    Args:
        size: N.
        mean: counts per pixel.
        seed: of the direction of gradient and maximum.

    Returns:
        (N, N) float32, counts.

    Raises:
        InputError: `mean` is not above 0.
    """
    if not (math.isfinite(mean) and mean > 0):
        raise InputError(f"smooth_background: mean must be above 0, got {mean}")
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    axis = (np.arange(size) - size // 2) / size
    y, x = axis[:, np.newaxis], axis
    along = np.sin(angle) * y + np.cos(angle) * x
    middle = 0.08 * np.sin(angle + 1), 0.08 * np.cos(angle + 1)
    shape = 0.5 + 0.4 * along + np.exp(-((y - middle[0]) ** 2 / 0.08 + (x - middle[1]) ** 2 / 0.04))
    return np.asarray(mean * shape / shape.mean(), np.float32)


def make_slices(
    objects: Sequence[str], shape: Shape, seed: int | np.random.Generator = 0, strength: float | None = None
) -> NDArray[np.complex64]:
    """Make the slices of a thick sample from test objects.

    Args:
        objects: S names in `OBJECTS`, in the order of the beam; the photographs of several "photos" differ.
        shape: (H, W).
        seed: of random objects, or their generator.
        strength: power of each transmission; None: 1/sqrt(S), with which the product of independent slices has about
            the contrast of one object.

    Returns:
        (S, H, W) complex64; their product is the truth of a simulated scan.

    Raises:
        InputError: there is no name, or one is unknown.

    Example:
        >>> make_slices(["dead_leaves", "siemens"], (60, 80)).shape
        (2, 60, 80)
    """
    unknown = [name for name in objects if name not in OBJECTS]
    if unknown or not objects or isinstance(objects, str):
        raise InputError(f"make_slices: objects must be names of {', '.join(OBJECTS)}, got {objects!r}")
    rng = np.random.default_rng(seed)
    power = 1 / math.sqrt(len(objects)) if strength is None else strength
    slices, pictures = [], 0
    for name, stream in zip(objects, rng.spawn(len(objects)), strict=True):
        make = OBJECTS[name]
        if name == "photos" and pictures:
            pair = [PHOTOGRAPHS[(number + 2 * pictures) % len(PHOTOGRAPHS)] for number in (6, 2)]
            make = partial(photos, amplitude_photo=pair[0], phase_photo=pair[1])
        pictures += name == "photos"
        made = make(shape, stream)
        slices.append(np.abs(made) ** power * np.exp(1j * power * np.angle(made)))
    return np.stack(slices).astype(np.complex64)


def _smooth_curves(count: int, n: int, seed: int) -> NDArray[np.float64]:
    """Random curves (count, n) of mean 0 and standard deviation 1, of up to three cycles."""
    rng = np.random.default_rng(seed)
    cycles = np.arange(1, _CYCLES + 1)
    amplitudes = rng.normal(size=(count, _CYCLES, 1)) / cycles[:, np.newaxis]
    phases = rng.uniform(0, 2 * np.pi, (count, _CYCLES, 1))
    time = (np.arange(n) + 0.5) / n
    curves = np.sum(amplitudes * np.cos(2 * np.pi * cycles[:, np.newaxis] * time + phases), axis=1)
    curves -= curves.mean(axis=1, keepdims=True)
    deviations = curves.std(axis=1, keepdims=True)
    return np.asarray(curves / np.where(deviations > 0, deviations, 1))
