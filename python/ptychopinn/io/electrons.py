# SPDX-License-Identifier: BSD-3-Clause
"""Calibration of electron microscopes: steps of the scan and of the detector with their units.

The object pixel is 1/(N dq) for a detector step dq in reciprocal space, or wavelength/(N dtheta) for a step in angle.
`Scan.energy` is that of photons, so the energy of electrons is kept in the metadata, and is used for angles only.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ptychopinn.acquisition import HC
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions

#: Rest energy of an electron in eV.
_REST = 510_998.95
_SMALLEST_ENERGY = 1e3
_UNEQUAL = 1e-3
_LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "nm": 1e-9, "pm": 1e-12}
_LENGTHS |= {"a": 1e-10, "å": 1e-10, "angstrom": 1e-10, "angstroms": 1e-10}
_ANGLES = {"rad": 1.0, "mrad": 1e-3}
_UNKNOWN = {"", "pixels", "pixel", "pix", "px", "none", "<undefined>"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """Steps of two axes (y, x) and their unit, as in a file."""

    values: tuple[float, float]
    unit: str


def electron_wavelength(energy: float) -> float:
    """Wavelength in metres of electrons of `energy` eV, relativistic.

    Example:
        >>> round(electron_wavelength(300e3) * 1e12, 4)  # in pm
        1.9687
    """
    return HC / float(np.sqrt(energy * (energy + 2 * _REST)))


def scan_step(file: OpenFile, key: str, step: Step | None) -> tuple[float, float] | None:
    """Metres (y, x) between positions; None if the file does not have them."""
    if step is None or _plain(step.unit) in _UNKNOWN:
        return None
    factor = _LENGTHS.get(_plain(step.unit))
    if factor is None:
        file.fail(key, "a length as the unit", repr(step.unit), "state scan_step= (--scan-step Y,X)")
    if not (np.isfinite(step.values).all() and all(step.values)):
        file.fail(key, "steps that are not 0", f"{step.values}", "state scan_step= (--scan-step Y,X)")
    return step.values[0] * factor, step.values[1] * factor


def object_pixel(file: OpenFile, key: str, step: Step | None, width: int, options: ReadOptions) -> float | None:
    """Metres per object pixel for patterns of `width` px; None if the caller states it.

    Raises:
        InputError: the calibration is missing, of an unknown unit, or an angle without an energy.
    """
    if options.pixel_size is not None:
        return None
    way = "state pixel_size= (--pixel-size), 1/(N dq), metres per object pixel"
    if step is None or _plain(step.unit) in _UNKNOWN:
        file.fail(key, "the calibration of the detector", "none" if step is None else repr(step.unit), way)
    first, second = (abs(value) for value in step.values)
    if not (first > 0 and second > 0 and abs(first / second - 1) < _UNEQUAL):
        file.fail(key, "the same step on both axes, not 0", f"{step.values}", way)
    unit = _plain(step.unit)
    if unit in _ANGLES:
        if options.energy is None:
            energy = "state energy= (--energy) of the electrons in eV, or pixel_size= (--pixel-size)"
            file.fail(key, "a step in reciprocal space", step.unit, energy)
        return electron_wavelength(options.energy) / (width * first * _ANGLES[unit])
    length = unit.removeprefix("1/") if unit.startswith("1/") else unit.removesuffix("^-1").removesuffix("-1")
    if length == unit or length not in _LENGTHS:
        file.fail(key, "a unit such as A^-1, 1/nm or mrad", repr(step.unit), way)
    return _LENGTHS[length] / (width * first)


def electron_options(file: OpenFile, options: ReadOptions) -> tuple[ReadOptions, dict[str, Any]]:
    """Options without the energy of the electrons, and metadata that hold it.

    Raises:
        InputError: the energy is no energy of electrons in eV, or a distance is stated, which is for photons.
    """
    for name in ("distance", "detector_pixel_size"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            file.fail(name, "pixel_size= (--pixel-size) for electrons, metres per object pixel", f"{name}= ({option})")
    if options.energy is None:
        return options, {}
    if options.energy < _SMALLEST_ENERGY:
        file.fail("energy", "the energy of the electrons in eV, such as 300e3 for 300 keV", f"{options.energy:g}")
    return replace(options, energy=None), {"electron_energy_eV": float(options.energy)}


def _plain(unit: str) -> str:
    """A unit in lower case without brackets: "[n_m^-1]" of EMD is "nm^-1"."""
    plain = unit.strip().strip("[]()").replace("_", "").replace(" ", "").replace("⁻¹", "^-1")
    return plain.replace("$", "").replace("{", "").replace("}", "").lower()
