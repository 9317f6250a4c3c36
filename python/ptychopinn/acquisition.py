# SPDX-License-Identifier: BSD-3-Clause
"""Metres and pixels: the size of an object pixel, and where a scan lies in the world.

A scan's positions are pixels of the patch's first sample; files of beamlines give metres of the beam's centre. Both
meet here. The world coordinate of a pattern is that of the *middle* of its patch, sample (N-1)/2:

    world = origin_m + pixel_size * (position + (N - 1) / 2)

where `origin_m` is the world coordinate of the scan's pixel (0, 0); readers keep it in `Scan.metadata["geometry"]`, so
that writers give the file's coordinates back.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.options import Given

if TYPE_CHECKING:
    from ptychopinn.io.fields import Source
    from ptychopinn.scan import Scan

#: Planck's constant times the speed of light, in eV m (both are exact in SI).
HC = 1.2398419843320026e-06
JOULE_PER_EV = 1.602176634e-19
_ENERGIES = (10.0, 1e6)  # eV, of what a file may say; a caller may state any
_DISAGREEMENT = 0.01

_log = logging.getLogger(__name__)


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
class Geometry:
    """What is known of an experiment: eV, and metres for the rest."""

    energy: float | None = None
    distance: float | None = None
    detector_pixel_size: float | None = None
    pixel_size: float | None = None

    def resolve(self, source: Source, given: Given, size: int, needed_for: str | None = None) -> Geometry:
        """This geometry of a file, under what the caller states, with the object pixel size.

        The pixel size is the caller's, else it follows from energy, distance and detector pixel where the caller
        states any of these, else it is the file's, else it follows from the file's.

        Args:
            source: the file, for complaints.
            given: what the caller states.
            size: N, pixels along one side of a pattern.
            needed_for: what cannot be done without a pixel size; None if it may stay unknown.

        Raises:
            InputError: a value of the file is not plausible, or the pixel size is needed and unknown.
        """
        self._check(source, given)
        names = ("energy", "distance", "detector_pixel_size")
        values = {name: getattr(given, name) or getattr(self, name) for name in names}
        missing = [name for name in names if values[name] is None]
        computed = None if missing else object_pixel_size(**values, size=size)
        stated = any(getattr(given, name) is not None for name in names)
        pixel_size = given.pixel_size or (computed if stated and computed else self.pixel_size or computed)
        if pixel_size is None and needed_for is not None:
            raise InputError(
                f"{source.path}: expected an object pixel size {needed_for}, found none and no {', '.join(missing)} to "
                f"compute it from; state {'= and '.join(missing)}= or pixel_size= (on the command line "
                f"{' and '.join('--' + name.replace('_', '-') for name in missing)}, or --pixel-size)"
            )
        if pixel_size and computed and abs(computed / pixel_size - 1) > _DISAGREEMENT:
            _log.warning(
                "%s: object pixels are taken as %.6g m; energy, distance and detector pixel make %.6g m",
                *(source.path, pixel_size, computed),
            )
        return replace(self, **values, pixel_size=pixel_size)

    def own_pixel_size(self, size: int) -> float | None:
        """Metres per object pixel by this geometry alone, for patterns of `size` px; None if silent or implausible."""
        if self.pixel_size is not None:
            return _sound(self.pixel_size)
        energy, distance, side = _sound(self.energy), _sound(self.distance), _sound(self.detector_pixel_size)
        if not (energy and distance and side and _ENERGIES[0] <= energy <= _ENERGIES[1]):
            return None
        return object_pixel_size(energy, distance, side, size)

    def _check(self, source: Source, given: Given) -> None:
        for name in ("energy", "distance", "detector_pixel_size", "pixel_size"):
            value = getattr(self, name)
            if value is None or getattr(given, name) is not None:
                continue
            if not (math.isfinite(value) and value > 0):
                source.fail(name, f"a positive number; state {name}= if the file is wrong", f"{value:g}")
        low, high = _ENERGIES
        if self.energy is not None and given.energy is None and not low <= self.energy <= high:
            source.fail(
                "energy",
                f"between {low:g} and {high:g} eV in the unit of the format; state energy= in eV if it is right",
                f"what reads as {self.energy:g} eV",
            )


def one_size(source: Source, key: str, width: float | None, height: float | None) -> float | None:
    """The side of a pixel, which must be square."""
    if width is not None and height is not None and abs(width - height) > 1e-6 * abs(height):
        source.fail(key, "square pixels", f"{width:g} m wide and {height:g} m high")
    return width if width is not None else height


def geometry_metadata(geometry: Geometry, origin_m: NDArray[np.float64] | None) -> dict[str, Any]:
    """What of a geometry `Scan` has no field for, as JSON types for `Scan.metadata["geometry"]`."""
    known: dict[str, Any] = {
        "distance_m": geometry.distance,
        "detector_pixel_size_m": geometry.detector_pixel_size,
        "world_origin_m": None if origin_m is None else [float(value) for value in origin_m],
    }
    return {name: value for name, value in known.items() if value is not None}


def saved_geometry(metadata: dict[str, Any]) -> tuple[Geometry, NDArray[np.float64] | None]:
    """Distance, detector pixel size and origin that a reader kept in a scan's metadata, where they are sound."""
    kept = metadata.get("geometry")
    kept = kept if isinstance(kept, dict) else {}
    numbers = {name: _sound(kept.get(f"{name}_m")) for name in ("distance", "detector_pixel_size")}
    origin = kept.get("world_origin_m")
    if not (isinstance(origin, list) and len(origin) == 2 and all(_is_number(value) for value in origin)):
        return Geometry(**numbers), None
    return Geometry(**numbers), np.asarray(origin, np.float64)


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
