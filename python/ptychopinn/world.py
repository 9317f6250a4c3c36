# SPDX-License-Identifier: BSD-3-Clause
"""World coordinates of a scan in metres.

Positions of a scan are those of the first sample of a patch in pixels; beamline files have the beam centre in metres.
The world coordinate of a pattern is that of the *centre* of its patch, sample (N-1)/2:

    world = origin + pixel_size * (position + (N - 1) / 2)

where `origin` is the world coordinate of the scan's pixel (0, 0); readers keep it in `Scan.acquisition`, so that
writers give the file's coordinates back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import energy_of_wavelength, object_pixel_size, wavelength_of
from ptychopinn.errors import InputError
from ptychopinn.scan import Scan


def known_detector_pixel_size(scan: Scan) -> float | None:
    """Detector pixel size in metres, stated or computed from energy, distance and pixel size; None if unknown.

    In the near field it is not computed, since the magnification is not known.
    """
    stated, distance = scan.acquisition.detector_pixel_size, scan.acquisition.distance
    far = scan.experiment.fresnel_number is None
    if stated is None and far and distance and scan.energy and scan.pixel_size:
        radiation = scan.experiment.radiation  # the formula is its own inverse
        return object_pixel_size(scan.energy, distance, scan.pixel_size, scan.patch_size, radiation)
    return stated


def photon_energy(scan: Scan) -> float | None:
    """Energy in eV of photons of the scan's wavelength, for formats that have energies of photons only."""
    if scan.energy is None or scan.experiment.radiation == "photon":
        return scan.energy
    return energy_of_wavelength(wavelength_of(scan.energy, scan.experiment.radiation))


def world_origin(scan: Scan) -> NDArray[np.float64]:
    """World coordinate (2,), (y, x) in metres, of the scan's pixel (0, 0).

    If the file has none, the origin of world coordinates is the centre of the truth, or else the scan's pixel (0, 0).

    Raises:
        InputError: the scan has no pixel size.
    """
    if scan.acquisition.world_origin is not None:
        return np.asarray(scan.acquisition.world_origin, np.float64)
    if scan.truth is None:
        return np.zeros(2)
    return -needed_pixel_size(scan) * (np.asarray(scan.truth.shape, np.float64) - 1) / 2


def world_positions(scan: Scan) -> NDArray[np.float64]:
    """World coordinates (n, 2), (y, x) in metres, of the patch centres.

    Raises:
        InputError: the scan has no pixel size.
    """
    return world_origin(scan) + needed_pixel_size(scan) * (scan.positions + (scan.patch_size - 1) / 2)


def needed_pixel_size(scan: Scan) -> float:
    """The scan's pixel size in metres; InputError if it is unknown."""
    if scan.pixel_size is None:
        raise InputError(
            f"{scan.name}: expected a pixel size to write positions in metres, found none; load the scan with "
            "pixel_size= (--pixel-size), or save it as npz, whose positions are pixels"
        )
    return scan.pixel_size
