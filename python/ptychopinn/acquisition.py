# SPDX-License-Identifier: BSD-3-Clause
"""Metres and pixels: the size of an object pixel, and where a scan lies in the world.

A scan's positions are pixels of the patch's first sample; files of beamlines give metres of the beam's centre. Both
meet here. The world coordinate of a pattern is that of the *middle* of its patch, sample (N-1)/2:

    world = origin_m + pixel_size * (position + (N - 1) / 2)

where `origin_m` is the world coordinate of the scan's pixel (0, 0); readers keep it in `Scan.metadata["geometry"]`, so
that writers give the file's coordinates back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import constants

from ptychopinn.errors import InputError
from ptychopinn.scan import Scan

#: Planck's constant times the speed of light, in eV m (both are exact in SI).
HC: float = constants.h * constants.c / constants.e
JOULE_PER_EV: float = constants.electron_volt
#: eV, of what a file may say; a caller may state any.
ENERGIES = (10.0, 1e6)


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
    """What is known of an experiment: eV, and metres for the rest."""

    energy: float | None = None
    distance: float | None = None
    detector_pixel_size: float | None = None
    pixel_size: float | None = None

    def own_pixel_size(self, size: int) -> float | None:
        """Metres per object pixel by this geometry alone, for patterns of `size` px; None if silent or implausible."""
        if self.pixel_size is not None:
            return _sound(self.pixel_size)
        energy, distance, side = _sound(self.energy), _sound(self.distance), _sound(self.detector_pixel_size)
        if not (energy and distance and side and ENERGIES[0] <= energy <= ENERGIES[1]):
            return None
        return object_pixel_size(energy, distance, side, size)


def geometry_metadata(geometry: Acquisition, origin_m: NDArray[np.float64] | None) -> dict[str, Any]:
    """What of a geometry `Scan` has no field for, as JSON types for `Scan.metadata["geometry"]`."""
    known: dict[str, Any] = {
        "distance_m": geometry.distance,
        "detector_pixel_size_m": geometry.detector_pixel_size,
        "world_origin_m": None if origin_m is None else [float(value) for value in origin_m],
    }
    return {name: value for name, value in known.items() if value is not None}


def saved_geometry(metadata: dict[str, Any]) -> tuple[Acquisition, NDArray[np.float64] | None]:
    """Distance, detector pixel size and origin that a reader kept in a scan's metadata, where they are sound."""
    kept = metadata.get("geometry")
    kept = kept if isinstance(kept, dict) else {}
    numbers = {name: _sound(kept.get(f"{name}_m")) for name in ("distance", "detector_pixel_size")}
    origin = kept.get("world_origin_m")
    if not (isinstance(origin, list) and len(origin) == 2 and all(_is_number(value) for value in origin)):
        return Acquisition(**numbers), None
    return Acquisition(**numbers), np.asarray(origin, np.float64)


def known_distance(scan: Scan) -> float | None:
    """Metres from sample to detector, where the scan's file or the caller said so."""
    return saved_geometry(scan.metadata)[0].distance


def known_detector_pixel_size(scan: Scan) -> float | None:
    """Metres of a detector pixel: as stated, or what energy, distance and object pixel size make it."""
    kept = saved_geometry(scan.metadata)[0]
    if kept.detector_pixel_size is None and kept.distance and scan.energy and scan.pixel_size:
        return object_pixel_size(scan.energy, kept.distance, scan.pixel_size, scan.patch_size)  # its own inverse
    return kept.detector_pixel_size


def world_origin(scan: Scan) -> NDArray[np.float64]:
    """(2,) metres (y, x): the world coordinate of the scan's pixel (0, 0).

    Where no file gave one, the world's zero is the middle of the truth, or else the scan's pixel (0, 0).

    Raises:
        InputError: the scan has no pixel size.
    """
    origin = saved_geometry(scan.metadata)[1]
    if origin is not None:
        return origin
    if scan.truth is None:
        return np.zeros(2)
    return -needed_pixel_size(scan) * (np.asarray(scan.truth.shape, np.float64) - 1) / 2


def world_positions(scan: Scan) -> NDArray[np.float64]:
    """(n, 2) metres (y, x): the world coordinates of the middles of the patches.

    Raises:
        InputError: the scan has no pixel size.
    """
    return world_origin(scan) + needed_pixel_size(scan) * (scan.positions + (scan.patch_size - 1) / 2)


def needed_pixel_size(scan: Scan) -> float:
    """The scan's pixel size, for what is written in metres; InputError if there is none."""
    if scan.pixel_size is None:
        raise InputError(
            f"{scan.name}: expected a pixel size to write positions in metres, found none; load the scan with "
            "pixel_size= (--pixel-size), or save it as npz, whose positions are pixels"
        )
    return scan.pixel_size


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(float(value))


def _sound(value: object) -> float | None:
    return float(value) if isinstance(value, Real) and _is_number(value) and float(value) > 0 else None
