# SPDX-License-Identifier: BSD-3-Clause
"""Acquisition of a scan: distance, detector pixel size and origin in metres, and names of orientations of positions.

`Scan` and `Reconstruction` have an :class:`Acquisition`; photon energy and object pixel size are fields of theirs.
Functions of a scan in world coordinates are in :mod:`ptychopinn.world`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError

# Exact in SI since 2019. scipy.constants has them too, and takes 0.1 s to import, at the start of every command.
_H, _C, _E = 6.62607015e-34, 299792458.0, 1.602176634e-19
#: Planck's constant times the speed of light, in eV m.
HC: float = _H * _C / _E
JOULE_PER_EV: float = _E
#: Rest energy of an electron, eV (CODATA 2018).
ELECTRON_REST = 510_998.95
#: Range of energies that a file can have, eV; a caller can state any.
ENERGIES = (10.0, 1e6)
ELECTRON_ENERGIES = (1e3, 1e8)

#: Maps from the axes of a file to positions; `ptychopinn.inspection.orientation` has the matrices.
ORIENTATION_NAMES = (
    *("given", "flip_y", "flip_x", "rotate_180"),
    *("swap", "swap_flip_y", "swap_flip_x", "swap_rotate_180"),
)


def wavelength_of(energy: float, radiation: str = "photon") -> float:
    """Wavelength in metres of photons, or of electrons with this kinetic energy (relativistic).

    ``h c / E`` of photons, ``h c / sqrt(E (E + 2 m c^2))`` of electrons: E. J. Kirkland, Advanced Computing in Electron
    Microscopy (2010), equation 2.5.

    Args:
        energy: eV.
        radiation: "photon" or "electron".

    Example:
        >>> round(wavelength_of(10_000) * 1e10, 4)  # in angstrom
        1.2398
        >>> round(wavelength_of(300e3, "electron") * 1e12, 4)  # in pm
        1.9687
    """
    return HC / (energy if radiation == "photon" else math.sqrt(energy * (energy + 2 * ELECTRON_REST)))


def energy_of_wavelength(wavelength: float, radiation: str = "photon") -> float:
    """Energy in eV of a wavelength in metres: the inverse of :func:`wavelength_of`.

    Example:
        >>> round(energy_of_wavelength(wavelength_of(80e3, "electron"), "electron"))
        80000
    """
    momentum = HC / wavelength  # times c, in eV
    if radiation == "photon":
        return momentum
    return momentum**2 / (math.hypot(momentum, ELECTRON_REST) + ELECTRON_REST)  # has no cancellation


def energy_range(radiation: str) -> tuple[float, float]:
    """Lowest and highest energy in eV that a file can have."""
    return ELECTRON_ENERGIES if radiation == "electron" else ENERGIES


def energy_in_words(energy: float | None, radiation: str) -> tuple[str, str]:
    """Name and value of an energy, for reports.

    Example:
        >>> energy_in_words(300e3, "electron")
        ('electron energy', '300 keV')
    """
    return f"{radiation} energy", "unknown" if energy is None else f"{energy / 1e3:.6g} keV"


def object_pixel_size(
    energy: float, distance: float, detector_pixel_size: float, size: int, radiation: str = "photon"
) -> float:
    """Metres per object pixel in the far field: wavelength * distance / (N * detector pixel).

    Args:
        energy: eV.
        distance: metres from the sample to the detector.
        detector_pixel_size: metres.
        size: N, pixels along one side of a pattern.
        radiation: "photon" or "electron".

    Example:
        >>> round(object_pixel_size(10_000, 1.0, 75e-6, 32) * 1e9, 2)  # in nm
        51.66
    """
    return wavelength_of(energy, radiation) * distance / (size * detector_pixel_size)


@dataclass(frozen=True)
class NearField:
    """Geometry of a detector in the near field, in that of a parallel beam (Fresnel scaling theorem).

    A beam from a focus at z1 before the sample, recorded at z2 behind it, has the pattern of a parallel beam at the
    effective distance ``z1 z2 / (z1 + z2)``, magnified by ``M = (z1 + z2) / z1``. The sample beyond the focus has a
    positive z1, before it a negative one. D. M. Paganin, Coherent X-Ray Optics (2006), appendix B; in near-field
    ptychography M. Stockmar et al., Scientific Reports 3, 1927 (2013).

    Args:
        magnification: M; negative where the detector sees the sample upside down.
        distance: effective, metres.
        pixel_size: metres per object pixel, detector pixel / M.
        fresnel_number: of an object pixel, ``pixel_size^2 / (wavelength distance)``.
    """

    magnification: float
    distance: float
    pixel_size: float
    fresnel_number: float

    __repr__ = one_line


def near_field(
    wavelength: float, distance: float, detector_pixel_size: float, source_distance: float | None = None
) -> NearField:
    """Object pixel and Fresnel number of a detector in the near field.

    Args:
        wavelength: metres.
        distance: z2, metres from the sample to the detector.
        detector_pixel_size: metres.
        source_distance: z1, metres from the focus to the sample, negative for a sample before the focus; None: a
            parallel beam.

    Raises:
        InputError: a length is 0 or not finite, or the focus is at the detector or between sample and detector, where
            the detector sees the sample upside down or not at all.

    Example:
        >>> found = near_field(wavelength_of(17_000), 0.9, 5e-6, 0.1)
        >>> round(found.magnification), round(found.distance, 3), round(found.pixel_size * 1e9)
        (10, 0.09, 500)
    """
    for name, value in (
        ("wavelength", wavelength),
        ("distance", distance),
        ("detector_pixel_size", detector_pixel_size),
    ):
        if positive(value) is None:
            raise InputError(f"near_field: {name} must be positive finite metres, got {value!r}")
    magnification = 1.0
    if source_distance is not None:
        if not math.isfinite(source_distance) or source_distance == 0:
            raise InputError(
                f"near_field: source_distance must be finite metres other than 0, or None, got {source_distance!r}"
            )
        magnification = (source_distance + distance) / source_distance
    if magnification <= 0:
        raise InputError(
            f"near_field: source_distance must be positive, or below -distance, so that no focus is between sample and "
            f"detector, got {source_distance:g} m and {distance:g} m"
        )
    effective, pixel = distance / magnification, detector_pixel_size / magnification
    return NearField(magnification, effective, pixel, pixel**2 / (wavelength * effective))


@dataclass(frozen=True)
class Acquisition:
    """Distance, detector pixels and origin of a scan in metres; None where a value is not known.

    Args:
        distance: metres from the sample to the detector.
        detector_pixel_size: metres per detector pixel.
        world_origin: (y, x) metres, the world coordinate of the scan's pixel (0, 0).
        source_distance: metres from the focus to the sample, negative for a sample before the focus, of a scan in the
            near field; None there: a parallel beam.
    """

    distance: float | None = None
    detector_pixel_size: float | None = None
    world_origin: tuple[float, float] | None = None
    source_distance: float | None = None

    __repr__ = one_line

    def checked(self, owner: str) -> Acquisition:
        """A copy with checked values, as floats.

        Args:
            owner: the type that has this field, for errors.

        Raises:
            InputError: a length is not positive and finite, or the origin is not two finite numbers.
        """
        lengths = {name: getattr(self, name) for name in ("distance", "detector_pixel_size")}
        for name, value in lengths.items():
            if value is not None and positive(value) is None:
                raise InputError(f"{owner}.acquisition.{name} must be positive finite metres or None, got {value!r}")
        origin = None if self.world_origin is None else finite_pair(self.world_origin)
        if origin is None and self.world_origin is not None:
            raise InputError(
                f"{owner}.acquisition.world_origin must be two finite metres (y, x) or None, got {self.world_origin!r}"
            )
        source = nonzero(self.source_distance)
        if source is None and self.source_distance is not None:
            raise InputError(
                f"{owner}.acquisition.source_distance must be finite metres other than 0, or None, got "
                f"{self.source_distance!r}"
            )
        known = {name: positive(value) for name, value in lengths.items()}
        return replace(self, **known, world_origin=origin, source_distance=source)


def check_orientation_name(owner: str, name: object) -> None:
    """Raise InputError unless a name is in :data:`ORIENTATION_NAMES`; `owner` is the type that has it."""
    if name not in ORIENTATION_NAMES:
        raise InputError(f"{owner}.orientation must be one of {', '.join(ORIENTATION_NAMES)}, got {name!r}")


def positive(value: object) -> float | None:
    """A positive finite number as a float; None for anything else."""
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) and float(value) > 0 else None


def nonzero(value: object) -> float | None:
    """A finite number other than 0 as a float; None for anything else."""
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) and float(value) != 0 else None


def finite_pair(values: object) -> tuple[float, float] | None:
    """Two finite numbers as floats; None for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    if array.shape != (2,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return float(array[0]), float(array[1])
