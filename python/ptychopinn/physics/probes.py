# SPDX-License-Identifier: BSD-3-Clause
"""Probes for simulated scans: incoherent modes on an N x N grid with sum abs(P)^2 = 1, centred at sample N//2.

Lengths scale with N: a probe covers the same fraction of its patch at every size. A curved wavefront spreads the
intensity over the detector and resolves the ambiguities of a flat one; `defocused` is therefore the default.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from ptychopinn.errors import InputError


def disk(size: int, modes: int = 1, diameter: float = 0.5, edge: float = 1.0) -> NDArray[np.complex64]:
    """A disk with a flat wavefront and a Gaussian-blurred edge.

    Args:
        size: N, pixels.
        modes: M incoherent modes, see `add_modes`.
        diameter: of the disk, as a fraction of N.
        edge: Gaussian sigma of the edge in pixels at N = 64; it scales with N.

    Returns:
        (M, N, N) complex64.

    Raises:
        InputError: see `add_modes`.
    """
    axis = np.arange(size) - size // 2
    distance = np.hypot(axis[:, np.newaxis], axis) - diameter * size / 2
    return add_modes(0.5 * erfc(distance / (np.sqrt(2) * edge * size / 64)), modes)


def defocused(size: int, modes: int = 1, diameter: float = 0.5) -> NDArray[np.complex64]:
    """A defocused, slightly aberrated lens with a central stop: an annular probe with a curved wavefront.

    The pupil is half as wide as the detector; defocus `pi k^2 diameter / (N / 2)` (k in cycles per patch) spreads it
    geometrically over `diameter N` pixels. Trefoil, coma and astigmatism of 0.15 to 0.2 rad break every symmetry.

    Args:
        size: N, pixels.
        modes: M incoherent modes, see `add_modes`.
        diameter: of the probe in the sample plane, as a fraction of N.

    Returns:
        (M, N, N) complex64.

    Raises:
        InputError: see `add_modes`.

    Example:
        >>> probe = defocused(64, modes=2)
        >>> probe.shape, round(float(np.sum(np.abs(probe) ** 2)), 4)
        ((2, 64, 64), 1.0)
    """
    k = np.fft.fftfreq(size, 1 / size)
    radius, angle = np.hypot(k[:, np.newaxis], k), np.arctan2(k[:, np.newaxis], k)
    # Edges of at least two frequency samples: sharper ones ring across the whole patch and wrap around it.
    pupil, edge = size / 4, max(size / 32, 2.0)
    rho = radius / pupil
    aperture = 0.5 * erfc((radius - pupil) / edge) - 0.45 * erfc((radius - 3 * size / 64) / (0.75 * edge))
    defocus = 2 * np.pi * diameter / size * radius**2
    aberration = rho**3 * (0.15 * np.sin(3 * angle) + 0.2 * np.cos(angle + 0.4)) + 0.15 * rho**2 * np.sin(2 * angle)
    return add_modes(np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * (defocus + aberration)))), modes)


PROBES: dict[str, Callable[[int, int], NDArray[np.complex64]]] = {"disk": disk, "defocused": defocused}


def add_modes(probe: NDArray[np.generic], modes: int, decay: float = 0.4) -> NDArray[np.complex64]:
    """Orthogonal incoherent modes of a partially coherent probe, made from one coherent probe.

    Mode m is the probe times the m-th monomial of 1, x, y, x^2, xy, y^2, ..., orthogonalised against the previous
    modes; its power is `decay^m` times that of mode 0.

    Args:
        probe: (N, N), any scale.
        modes: M >= 1.
        decay: ratio of the powers of successive modes, above 0 and at most 1.

    Returns:
        (M, N, N) complex64 with sum abs(P)^2 = 1.

    Raises:
        InputError: `modes` is less than 1 or `decay` out of range.
    """
    if modes < 1 or not 0 < decay <= 1:
        raise InputError(f"add_modes: modes must be 1 or more and decay above 0 and at most 1, got {modes}, {decay}")
    size = probe.shape[-1]
    x = (np.arange(size) - size // 2) / (size / 4)
    powers = [(total - j, j) for total in range(modes) for j in range(total + 1)][:modes]
    stack = np.stack([(probe * x**i * (x[:, np.newaxis] ** j)).ravel() for i, j in powers], axis=1)
    basis, triangle = np.linalg.qr(stack.astype(np.complex128))
    basis = basis * np.exp(1j * np.angle(np.diag(triangle)))  # QR fixes no phase: keep that of the probe
    weights = np.sqrt(decay ** np.arange(modes) / np.sum(decay ** np.arange(modes)))
    field: NDArray[np.complex64] = (basis * weights).T.reshape(modes, size, size).astype(np.complex64)
    return field
