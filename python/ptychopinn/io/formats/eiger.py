# SPDX-License-Identifier: BSD-3-Clause
"""Files of Eiger and Pilatus detectors (DECTRIS): a master file with data files, or all data sets in one file.

The master has links `entry/data/data_000001`, `data_000002`, ... to data files in its folder, and the detector's
geometry. It has no positions of a scan, which are a CSV file. Lengths have `units`; the wavelength is in angstrom
without them (SIMPLON API reference).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import HC, Acquisition
from ptychopinn.io.build import Contents, assemble
from ptychopinn.io.candidates import patterns_key
from ptychopinn.io.formats.arrays import table_beside
from ptychopinn.io.geometry import detector_sides
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.io.masks import nexus_mask
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.units import ENERGIES, LENGTHS, Units
from ptychopinn.scan import Scan

_PART = re.compile(r"(?:(?P<group>.+)/)?data_\d{6}")
DETECTOR, _BEAM = "entry/instrument/detector", "entry/instrument/beam"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
_ANGSTROM = 1e-10


def read_eiger(path: Path, options: ReadOptions) -> Scan:
    """Read a scan from a master file, or from one file with all data sets, and positions from a CSV file.

    Args:
        path: the file, with `data_000001` and so on in `entry/data`.
        options: from the caller; `positions` unless the CSV file is beside the file.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "an Eiger file") as file:
        units = Units(file, options)
        keys = parts(file) if options.patterns is None else []
        keys = keys or [patterns_key(file, options, "entry/data/data", "entry/data/data_000001")]
        frames = Frames(file, keys)
        sides = [
            units.number(file.first(f"{DETECTOR}/{axis}_pixel_size", f"{SPECIFIC}/{axis}_pixel_size"), LENGTHS)
            for axis in "xy"
        ]
        side, pixel_sides = detector_sides(file, f"{DETECTOR}/x_pixel_size", sides, options)
        distance = file.first(f"{DETECTOR}/detector_distance", f"{DETECTOR}/distance")
        contents = Contents(
            file=file,
            key=keys[0],
            patterns=frames,
            table=table_beside(path),
            energy=energy_of(file, units),
            acquisition=Acquisition(
                distance=units.number(distance, LENGTHS) or None,  # 0 is not known
                detector_pixel_size=side,
            ),
            pixel_sides=pixel_sides,
            bad_pixels=pixel_mask_of(file),
            name=path.stem.removesuffix("_master"),
        )
        units.report()
        return assemble(contents, options)


def parts(file: Hdf5) -> list[str]:
    """Paths of the data sets `data_000001`, `data_000002`, ... in the order of their numbers."""
    for group in ("entry/data", "entry", ""):
        names = [name for name in file.members(group or "/") if _PART.fullmatch(name)]
        if names:
            return [f"{group}/{name}" if group else name for name in sorted(names)]
    return []


def is_eiger(content: Content) -> bool:
    """Whether a file has data sets `data_000001` and so on, or links to them, and no other patterns of a detector."""
    detectors = [path for path, kind in content.classes.items() if kind == "NXdetector"]
    if content.kind != "hdf5" or any(content.has(f"{path}/data") for path in detectors):
        return False
    groups = {match["group"] for name in content.names if (match := _PART.fullmatch(name)) is not None}
    return bool(groups & {None, "entry", "entry/data"})


def energy_of(file: Hdf5, units: Units) -> float | None:
    """Photon energy in eV, from the energy or the wavelength of the beam; zero is not known."""
    for key in (f"{_BEAM}/incident_energy", f"{SPECIFIC}/photon_energy", f"{_BEAM}/photon_energy"):
        if file.has(key) and (energy := units.number(key, ENERGIES)):
            return energy
    for key in (f"{_BEAM}/incident_wavelength", f"{_BEAM}/wavelength"):
        if file.has(key) and (length := units.number(key, LENGTHS, without=_ANGSTROM)):
            if length < 0:
                file.fail(key, "a positive wavelength", f"{length}")
            return HC / length
    return None


def pixel_mask_of(file: Hdf5) -> NDArray[np.bool_] | None:
    """The mask (h, w) of the detector, True at pixels to ignore; None if there is none."""
    key = file.first(f"{DETECTOR}/pixel_mask", f"{SPECIFIC}/pixel_mask", f"{SPECIFIC}/detectorModule_000/pixel_mask")
    return None if key is None else nexus_mask(file, key)


register(
    Format(
        "eiger",
        "master file of an Eiger with its data files",
        (),
        is_eiger,
        read_eiger,
        takes=("positions", "patterns"),
        order=75,
    )
)
