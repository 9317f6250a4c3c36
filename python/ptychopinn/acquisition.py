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
#: Range of photon energies that a file can have, eV; a caller can state any.
ENERGIES = (10.0, 1e6)

#: Maps from the axes of a file to positions; `ptychopinn.inspection.orientation` has the matrices.
ORIENTATION_NAMES = (
    *("given", "flip_y", "flip_x", "rotate_180"),
    *("swap", "swap_flip_y", "swap_flip_x", "swap_rotate_180"),
)


def wavelength_of(energy: float) -> float:
    """Wavelength in metres of photons of `energy` eV.

    Example:
        >>> round(wavelength_of(10_000) * 1e10, 4)  # in angstrom
        1.2398
    """
    return HC / energy


def object_pixel_size(energy: float, distance: float, detector_pixel_size: float, size: int) -> float:
    """Metres per object pixel in the far field: wavelength * distance / (N * detector pixel).

    Args:
        energy: photon energy in eV.
        distance: metres from the sample to the detector.
        detector_pixel_size: metres.
        size: N, pixels along one side of a pattern.

    Example:
        >>> round(object_pixel_size(10_000, 1.0, 75e-6, 32) * 1e9, 2)  # in nm
        51.66
    """
    return wavelength_of(energy) * distance / (size * detector_pixel_size)


@dataclass(frozen=True)
class Acquisition:
    """Distance, detector pixels and origin of a scan in metres; None where a value is not known.

    Args:
        distance: metres from the sample to the detector.
        detector_pixel_size: metres per detector pixel.
        world_origin: (y, x) metres, the world coordinate of the scan's pixel (0, 0).
    """

    distance: float | None = None
    detector_pixel_size: float | None = None
    world_origin: tuple[float, float] | None = None

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
        return replace(self, **{name: positive(value) for name, value in lengths.items()}, world_origin=origin)


def check_orientation_name(owner: str, name: object) -> None:
    """Raise InputError unless a name is in :data:`ORIENTATION_NAMES`; `owner` is the type that has it."""
    if name not in ORIENTATION_NAMES:
        raise InputError(f"{owner}.orientation must be one of {', '.join(ORIENTATION_NAMES)}, got {name!r}")


def positive(value: object) -> float | None:
    """A positive finite number as a float; None for anything else."""
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) and float(value) > 0 else None


def finite_pair(values: object) -> tuple[float, float] | None:
    """Two finite numbers as floats; None for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    if array.shape != (2,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return float(array[0]), float(array[1])
