# SPDX-License-Identifier: BSD-3-Clause
"""Calibration of electron microscopes: steps of the scan and of the detector with their units.

The object pixel is 1/(N dq) for a detector step dq in reciprocal space, or wavelength/(N dtheta) for a step in angle.
A camera length and the detector pixel, which a caller can state, take the place of a calibration.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ptychopinn.acquisition import ELECTRON_ENERGIES, wavelength_of
from ptychopinn.experiment import Experiment
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.options import ReadOptions

#: The experiment in a file of an electron microscope.
ELECTRONS = Experiment(radiation="electron")
_UNEQUAL = 1e-3
_LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "nm": 1e-9, "pm": 1e-12}
_LENGTHS |= {"a": 1e-10, "å": 1e-10, "angstrom": 1e-10, "angstroms": 1e-10}
_ANGLES = {"rad": 1.0, "mrad": 1e-3}
_UNKNOWN = {"", "pixels", "pixel", "pix", "px", "none", "<undefined>"}
#: Names of the energy of the electrons, or of the voltage that accelerates them, in files.
_ENERGY_NAMES = ("beam_energy", "accelerating_voltage", "acceleration_voltage", "voltage", "high_tension", "energy")
_VOLTS = {"v": 1.0, "ev": 1.0, "kv": 1e3, "kev": 1e3}
#: Largest number without a unit that is of kV.
_LARGEST_KILOVOLTS = 3000.0

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
    return wavelength_of(energy, "electron")


def stated_energy(file: Hdf5, group: str) -> float | None:
    """Energy of the electrons in eV that a group states, as a data set or an attribute; None if it states none.

    The unit is that of `units` or of `NAME_units`; without one a number up to 3000 is of kV, and a larger one of V.

    Raises:
        InputError: the value is no positive number, or its unit is no energy and no voltage.
    """
    for name in _ENERGY_NAMES:
        key = f"{group}/{name}"
        if file.has(key) and file.is_array(key):
            value = file.text(key) if file.is_text(key) else file.scalar(key)
            unit = file.text_attribute(key, "units")
            if unit is None and file.has(f"{key}_units") and file.is_text(f"{key}_units"):
                unit = file.text(f"{key}_units")
        elif (text := file.text_attribute(group, name)) is not None:
            value, unit = text, file.text_attribute(group, f"{name}_units")
        else:
            value, unit = file.attribute(group, name), file.text_attribute(group, f"{name}_units")
        if value is not None and str(value).strip().lower() not in _UNKNOWN:
            return _electronvolts(file, key, value, unit)
    return None


def _electronvolts(file: OpenFile, key: str, value: float | str, unit: str | None) -> float:
    way = "state energy= (--energy), eV"
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        file.fail(key, "the energy of the electrons", repr(value), way)
    if unit is None or _plain(unit) in _UNKNOWN:
        factor = 1e3 if number <= _LARGEST_KILOVOLTS else 1.0
        _log.info("%s: key '%s': %g without a unit is taken as %g eV", file.path, key, number, number * factor)
        return number * factor
    if _plain(unit) not in _VOLTS:
        file.fail(key, "eV, keV, V or kV as the unit", repr(unit), way)
    return number * _VOLTS[_plain(unit)]


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


def object_pixel(
    file: OpenFile, key: str, step: Step | None, width: int, options: ReadOptions, energy: float | None = None
) -> float | None:
    """Metres per object pixel for patterns of `width` px; None if the caller states it, or the lengths that give it.

    Args:
        file: named in errors.
        key: of the calibration, for errors.
        step: of the detector.
        width: pixels along a pattern.
        options: from the caller.
        energy: in the file, eV.

    Raises:
        InputError: the calibration is missing, of an unknown unit, or an angle without an energy.
    """
    if options.pixel_size is not None or options.near_field or options.distance is not None:
        return None
    way = "state pixel_size= (--pixel-size), 1/(N dq), metres per object pixel"
    if step is None or _plain(step.unit) in _UNKNOWN:
        file.fail(key, "the calibration of the detector", "none" if step is None else repr(step.unit), way)
    first, second = (abs(value) for value in step.values)
    if not (first > 0 and second > 0 and abs(first / second - 1) < _UNEQUAL):
        file.fail(key, "the same step on both axes, not 0", f"{step.values}", way)
    unit = _plain(step.unit)
    if unit in _ANGLES:
        energy = options.energy or energy
        if energy is None:
            stated = "state energy= (--energy) of the electrons in eV, or pixel_size= (--pixel-size)"
            file.fail(key, "a step in reciprocal space", step.unit, stated)
        return wavelength_of(energy, options.radiation or "electron") / (width * first * _ANGLES[unit])
    length = unit.removeprefix("1/") if unit.startswith("1/") else unit.removesuffix("^-1").removesuffix("-1")
    if length == unit or length not in _LENGTHS:
        file.fail(key, "a unit such as A^-1, 1/nm or mrad", repr(step.unit), way)
    return _LENGTHS[length] / (width * first)


def electron_options(file: OpenFile, options: ReadOptions) -> ReadOptions:
    """Options for a file of an electron microscope, whose radiation is electrons unless the caller states another.

    Raises:
        InputError: the energy is no energy of electrons in eV, or only one of the distance, which is the camera length,
            and the detector pixel is stated.
    """
    if options.radiation == "photon":
        return options
    lengths = ("distance", "detector_pixel_size")
    stated = [name for name in lengths if getattr(options, name) is not None]
    if len(stated) == 1:
        (name,), (other,) = stated, [name for name in lengths if name not in stated]
        way = f"state {other}= (--{other.replace('_', '-')}) as well"
        expected = "pixel_size= (--pixel-size) for electrons, metres per object pixel, or camera length and pixel"
        file.fail(name, expected, f"{name}= (--{name.replace('_', '-')})", way)
    if options.energy is not None and options.energy < ELECTRON_ENERGIES[0]:
        file.fail("energy", "the energy of the electrons in eV, such as 300e3 for 300 keV", f"{options.energy:g}")
    return replace(options, radiation="electron")


def _plain(unit: str) -> str:
    """A unit in lower case without brackets: "[n_m^-1]" of EMD is "nm^-1"."""
    plain = unit.strip().strip("[]()").replace("_", "").replace(" ", "").replace("⁻¹", "^-1")
    return plain.replace("$", "").replace("{", "").replace("}", "").lower()
