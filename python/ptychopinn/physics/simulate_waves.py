# SPDX-License-Identifier: BSD-3-Clause
"""Expected counts of the experiments that `Experiment` describes, in NumPy and float64, for the simulator.

Independent of the torch forward model, whose errors would otherwise cancel in tests: the probe is moved by the
remainder of a position with a Fourier shift, and the object is never sampled between its pixels. In the near field the
wave behind the sample is moved back, since a pattern there moves with the probe. Equations: docs/maths.md,
"Experiments".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.acquisition import wavelength_of
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points

#: Nodes of the quadrature over the source along each axis, up to a standard deviation of two pixels and beyond.
_NODES, _MANY_NODES = 7, 13


@dataclass(frozen=True, eq=False)
class Optics:
    """Lengths that propagation between slices and in the near field needs; None: unknown.

    Args:
        pixel_size: metres per object pixel.
        energy: of a photon or an electron, eV.
    """

    pixel_size: float | None = None
    energy: float | None = None

    __repr__ = one_line

    def wavelength(self, radiation: str) -> float | None:
        """Metres; None if the energy is unknown."""
        return None if self.energy is None else wavelength_of(self.energy, radiation)


def source_points(experiment: Experiment) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (1, K, 2) or (n, K, 2) and weights (K,) of the exposures, finer than those of a reconstruction."""
    wide = max(experiment.source_size or (0.0, 0.0)) > 2
    return exposure_points(experiment, nodes=_MANY_NODES if wide else _NODES)


def expected_counts(
    slices: NDArray[np.complexfloating[Any, Any]],
    probe: NDArray[np.complexfloating[Any, Any]],
    positions: NDArray[np.float64],
    experiment: Experiment,
    optics: Optics,
) -> NDArray[np.float64]:
    """Expected counts of patterns before noise and saturation, ``G(sum_j w_j sum_m |D psi_kjm|^2) + f_k B``.

    Args:
        slices: (S, H, W), transmissions in the order of the beam.
        probe: (M, N, N), in sqrt(counts).
        positions: (n, 2), (y, x) of each patch's first sample on the object, in pixels.
        experiment: of these n patterns.
        optics: pixel size and energy.

    Returns:
        (n, N, N) float64.

    Raises:
        InputError: a patch extends beyond the object, there are not as many slices as in the experiment, or pixel size
            or energy of a thick sample are unknown.
    """
    if len(slices) != experiment.slices:
        raise InputError(
            f"diffract: the object must have the {experiment.slices} slices of the experiment, (S, H, W), "
            f"got shape {slices.shape}"
        )
    modes = [mode[np.newaxis] for mode in probe.astype(np.complex128)]
    if experiment.probe_variations is not None and experiment.variation_coefficients is not None:
        varied = np.tensordot(experiment.variation_coefficients, experiment.probe_variations.astype(np.complex128), 1)
        modes[0] = modes[0] + varied
    size = probe.shape[-1]
    between = slice_transfers(experiment, optics, size)
    detector = detector_transfer(experiment, optics, size)
    points, weights = source_points(experiment)
    expected = np.zeros((len(positions), size, size))
    for number, weight in enumerate(weights):
        patches, ramps = _patches(slices, positions + points[:, number], size)
        for mode in modes:
            wave = scipy.fft.ifft2(scipy.fft.fft2(mode) * ramps) * patches[0]
            for transfer, patch in zip(between, patches[1:], strict=True):
                wave = scipy.fft.ifft2(scipy.fft.fft2(wave) * transfer) * patch
            if detector is None:
                wave = scipy.fft.fft2(wave, norm="ortho")
            else:
                wave = scipy.fft.ifft2(scipy.fft.fft2(wave) * (detector * ramps.conj()))
            expected += weight * np.square(np.abs(wave))
    if detector is None:
        expected = np.fft.fftshift(expected, axes=(-2, -1))
    if experiment.point_spread is not None:
        expected = blurred(expected, experiment.point_spread)
    if experiment.background is not None:
        factors = experiment.background_factors
        expected += experiment.background * (1.0 if factors is None else factors[:, np.newaxis, np.newaxis])
    return expected


def blurred(intensities: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Periodic convolution of intensities (..., N, N) with a Gaussian of this standard deviation in pixels.

    Its transform is that of the Gaussian, ``exp(-2 pi^2 s^2 |f|^2)``; negative values, as the limit of the frequencies
    leaves beside bright pixels for a deviation below about 0.7 px, become 0.
    """
    rows, columns = (
        np.exp(-2 * (np.pi * deviation * frequencies) ** 2)
        for frequencies in (scipy.fft.fftfreq(intensities.shape[-2]), scipy.fft.rfftfreq(intensities.shape[-1]))
    )
    spectrum = scipy.fft.rfft2(intensities) * (rows[:, np.newaxis] * columns)
    return np.asarray(np.maximum(scipy.fft.irfft2(spectrum, s=intensities.shape[-2:]), 0))


def free_space(size: int, fresnel_number: float, ratio: float = 0.0) -> NDArray[np.complex128]:
    """Transfer function of free space, ``exp(2 pi i / (a^2 F) (sqrt(1 - a^2 |f|^2) - 1))``, in FFT order.

    Args:
        size: N.
        fresnel_number: F of a pixel, ``pixel^2 / (wavelength distance)``.
        ratio: a, wavelength by pixel; 0: the paraxial limit ``exp(-i pi |f|^2 / F)``.

    Returns:
        (N, N).
    """
    f = scipy.fft.fftfreq(size)
    square = f[:, np.newaxis] ** 2 + f**2
    if ratio > 0:  # evanescent waves have the phase of the border
        square = np.minimum(square, ratio**-2)
    # (sqrt(1 - s) - 1) / a^2 = -|f|^2 / (1 + sqrt(1 - s)) has no cancellation, and the limit of a = 0.
    path = square / (1 + np.sqrt(np.maximum(1 - ratio**2 * square, 0)))
    return np.asarray(np.exp(-2j * np.pi / fresnel_number * path), np.complex128)


def detector_transfer(experiment: Experiment, optics: Optics, size: int) -> NDArray[np.complex128] | None:
    """Transfer function from the sample to a detector in the near field; None for the far field."""
    if experiment.fresnel_number is None:
        return None
    wavelength = optics.wavelength(experiment.radiation)
    known = wavelength is not None and optics.pixel_size is not None
    return free_space(size, experiment.fresnel_number, wavelength / optics.pixel_size if known else 0.0)  # type: ignore[operator]


def slice_transfers(experiment: Experiment, optics: Optics, size: int) -> list[NDArray[np.complex128]]:
    """Transfer functions from slice to slice, with the displacement by a tilted beam.

    Raises:
        InputError: pixel size or energy of a thick sample are unknown.
    """
    if not experiment.slice_distances:
        return []
    pixel, wavelength = optics.pixel_size, optics.wavelength(experiment.radiation)
    if pixel is None or wavelength is None:
        raise InputError(
            "diffract: a thick sample must have pixel_size and energy, which relate the distances of its slices to "
            f"pixels, got {pixel} and {optics.energy}; state pixel_size= (--pixel-size) and energy= (--energy)"
        )
    f = scipy.fft.fftfreq(size)
    transfers = []
    for distance in experiment.slice_distances:
        y, x = (distance * math.tan(angle) / pixel for angle in experiment.tilt)
        displaced = np.exp(-2j * np.pi * (y * f[:, np.newaxis] + x * f))
        transfers.append(free_space(size, pixel**2 / (wavelength * distance), wavelength / pixel) * displaced)
    return transfers


def _patches(
    slices: NDArray[np.complexfloating[Any, Any]], positions: NDArray[np.float64], size: int
) -> tuple[list[NDArray[Any]], NDArray[np.complex128]]:
    """Patches (n, N, N) of every slice at the nearest integer positions, and Fourier shifts by the remainders."""
    nearest = np.floor(positions + 0.5).astype(np.int64)
    if (nearest < 0).any() or (nearest + size > slices.shape[1:]).any():
        raise InputError(
            f"diffract: all patches must lie within the object of shape {slices.shape[1:]}, some extend beyond it"
        )
    views = (np.lib.stride_tricks.sliding_window_view(image, (size, size)) for image in slices)
    patches = [view[nearest[:, 0], nearest[:, 1]] for view in views]
    k = -2j * np.pi * np.fft.fftfreq(size)
    remainder = positions - nearest
    ramps = np.exp(k * remainder[:, :1])[:, :, np.newaxis] * np.exp(k * remainder[:, 1:])[:, np.newaxis, :]
    return patches, ramps
