# SPDX-License-Identifier: BSD-3-Clause
"""The attribute `units` of quantities in HDF5 files, for all formats.

A unit that is not known is an error. A quantity without one is taken in that of its format, SI or eV, which is logged,
because files exist whose numbers are in others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ptychopinn.acquisition import JOULE_PER_EV
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.options import ReadOptions

#: Name of a unit, in lower case -> metres.
LENGTHS: Mapping[str, float] = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1.0),
    "cm": 1e-2,
    **dict.fromkeys(("mm", "millimetre", "millimeter", "millimetres", "millimeters"), 1e-3),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometre", "micrometer"), 1e-6),
    **dict.fromkeys(("micrometres", "micrometers"), 1e-6),
    **dict.fromkeys(("nm", "nanometre", "nanometer", "nanometres", "nanometers"), 1e-9),
    **dict.fromkeys(("angstrom", "angstroms", "å", "å", "a"), 1e-10),
    "pm": 1e-12,
}
#: Name of a unit, in lower case -> eV.
ENERGIES: Mapping[str, float] = {"ev": 1.0, "kev": 1e3, "mev": 1e6, "j": 1 / JOULE_PER_EV, "joule": 1 / JOULE_PER_EV}
#: Units to name in errors.
_USUAL = {id(LENGTHS): "m, cm, mm, um, nm, angstrom, pm", id(ENERGIES): "eV, keV, MeV, J"}
#: The option of the caller that replaces a quantity, by a word in the last part of its path.
_OPTIONS = {
    "distance": "distance",
    "energy": "energy",
    "wavelength": "energy",
    "pixel_size": "detector_pixel_size",
    "basis_vectors": "detector_pixel_size",
}

_log = logging.getLogger(__name__)


def _option(key: str) -> str | None:
    return next((option for word, option in _OPTIONS.items() if word in key.rsplit("/", 1)[-1]), None)


class Units:
    """Reads quantities of one file, and collects those without a unit.

    Args:
        file: the open file.
        options: from the caller; a quantity that an option replaces is not read.
        joule: energies without a unit are in joule, not in eV.
    """

    def __init__(self, file: Hdf5, options: ReadOptions, joule: bool = False) -> None:
        self._file, self.options = file, options
        self._energy = ENERGIES["j"] if joule else 1.0
        self._absent: dict[str, list[str]] = {}

    def number(self, key: str | None, table: Mapping[str, float], without: float | None = None) -> float | None:
        """The number at a path in metres or eV, None if there is none; an array must have equal values.

        Args:
            key: the path.
            table: `LENGTHS` or `ENERGIES`.
            without: the factor of a quantity that has no unit, where the format defines another than SI.
        """
        option = None if key is None else _option(key)
        if key is None or (option is not None and getattr(self.options, option) is not None):
            return None
        if not self._file.has(key):
            return None
        values = np.unique(self._file.numeric(key, "iuf"))
        if values.size != 1:
            self._file.fail(key, "one number", f"{values.size} different numbers")
        return float(values[0]) * self.factor(key, table, without)

    def factor(self, key: str, table: Mapping[str, float], without: float | None = None) -> float:
        """The factor from the numbers at a path to metres or eV; InputError for a unit that is not known."""
        name = self._file.text_attribute(key, "units") or self._file.text_attribute(key, "unit")
        if name is None or not name.strip():
            if without is not None:
                return without
            energies = table is ENERGIES
            taken = "metres" if not energies else "eV" if self._energy == 1.0 else "joule"
            self._absent.setdefault(taken, []).append(key)
            return self._energy if energies else 1.0
        factor = table.get(name.strip().lower())
        if factor is None:
            option = _option(key)
            way_out = f"state {option}= (--{option.replace('_', '-')})" if option else "correct the attribute"
            self._file.fail(f"{key}@units", f"one of {_USUAL[id(table)]}", f"{name!r}; {way_out}")
        return factor

    def stated(self, key: str) -> bool:
        """Whether a quantity has a unit."""
        return not any(key in keys for keys in self._absent.values())

    def report(self) -> None:
        """Log the quantities without a unit."""
        for taken, keys in self._absent.items():
            _log.info("%s: no unit of %s: taken as %s", self._file.path, ", ".join(keys), taken)
