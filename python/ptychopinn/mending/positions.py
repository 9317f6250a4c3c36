# SPDX-License-Identifier: BSD-3-Clause
"""Units of positions.

Readers take the coordinates of a file as pixels (NPZ, training files) or as metres (all other formats). Where the file
has another unit, the coordinates of the patch centres are scaled, about the origin of the file's coordinates.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.findings.geometry import TYPICAL_STEP, median_step, usual_step
from ptychopinn.mending.experiments import moved
from ptychopinn.mending.notes import Note
from ptychopinn.scan import Scan

#: Unit -> metres; None for pixels.
UNITS: dict[str, float | None] = {"um": 1e-6, "mm": 1e-3, "nm": 1e-9, "m": 1.0, "px": None}


def read_as(scan: Scan) -> str:
    """The unit in which the scan's reader took the coordinates of the file: "m", or "px" where nothing is in metres."""
    return "px" if scan.acquisition.world_origin is None or scan.decisions.coordinates is not None else "m"


def scale_positions(scan: Scan, factor: float, unit: str | None = None, taken: str | None = None) -> tuple[Scan, Note]:
    """Multiply the coordinates of the file by a factor.

    Args:
        scan: the scan.
        factor: positive; extent and distances of the positions scale with it.
        unit: "m" or "px", in which the coordinates were read; None: see :func:`read_as`.
        taken: the unit that they have, for the note.

    Returns:
        The scan; its truth is omitted if patches are no longer inside of it.

    Raises:
        InputError: the factor is not positive.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"scale_positions must be a positive number, got {factor!r}")
    unit = read_as(scan) if unit is None else unit
    size, coordinates = scan.patch_size, scan.decisions.coordinates
    # The sample to which coordinates refer: N//2 for the NPZ contract, (N - 1) / 2 for all others.
    contract = unit == "px" and (coordinates is None or coordinates.value == "sample N//2")
    middle = size // 2 if contract else (size - 1) / 2
    positions = (scan.positions + middle) * factor - middle
    origin = scan.acquisition.world_origin
    acquisition = scan.acquisition
    if origin is not None and unit == "m":
        acquisition = replace(acquisition, world_origin=(origin[0] * factor, origin[1] * factor))
    truth, lost = scan.truth, ""
    if truth is not None and ((positions < -1).any() or (positions + size > np.array(truth.shape) + 1).any()):
        truth, lost = None, "; the known object is omitted, as patches are not inside of it"
    experiment = moved(scan.experiment, factor * np.eye(2))
    mended = replace(scan, positions=positions, acquisition=acquisition, truth=truth, experiment=experiment)
    name = "scale_positions" if taken is None else "position_unit"
    what = "" if taken is None else f"in {taken}, read as {unit}: "
    step = median_step(mended.positions)
    text = f"positions {what}multiplied by {factor:.6g}; neighbours are {step:.4g} px apart{lost}"
    return mended, Note(name, text, {"factor": factor, **({} if taken is None else {"unit": taken})})


def convert_positions(scan: Scan, unit: str, taken: str | None = None) -> tuple[Scan, Note]:
    """Convert positions to object pixels whose coordinates in the file are in `unit`, whatever was assumed.

    Args:
        scan: the scan; needs a pixel size unless both units are metric.
        unit: "um", "mm", "nm", "m" or "px".
        taken: "m" or "px", in which they were read; None: see :func:`read_as`.

    Raises:
        InputError: there is no such unit, or the pixel size is unknown.
    """
    if unit not in UNITS:
        raise InputError(f"position_unit must be one of {', '.join(UNITS)}, got {unit!r}")
    taken = read_as(scan) if taken is None else taken
    return scale_positions(scan, _factor(scan, unit, taken), taken, unit)


def _factor(scan: Scan, unit: str, taken: str) -> float:
    lengths = []
    for name in (unit, taken):
        metres = UNITS[name] or scan.pixel_size
        if metres is None and unit != taken:
            raise InputError(
                f"{scan.name}: expected a pixel size to convert positions from {unit}, found none; state pixel_size= "
                "(--pixel-size), or the factor with scale_positions= (--scale-positions)"
            )
        lengths.append(metres or 1.0)
    return lengths[0] / lengths[1]


def fitting_unit(scan: Scan, diameter: float, taken: str | None = None) -> str | None:
    """The unit in which neighbours would be a usual distance apart for this probe; None if none would, or they are.

    Args:
        scan: the scan.
        diameter: of the probe, pixels.
        taken: see :func:`convert_positions`.
    """
    step, taken = median_step(scan.positions), read_as(scan) if taken is None else taken
    if step == 0 or usual_step(step, diameter):
        return None
    known = [unit for unit in UNITS if unit == taken or scan.pixel_size is not None or (UNITS[unit] and UNITS[taken])]
    steps = {unit: step * _factor(scan, unit, taken) for unit in known}
    fitting = [unit for unit in known if usual_step(steps[unit], diameter)]
    return min(fitting, key=lambda unit: abs(math.log(steps[unit] / diameter / TYPICAL_STEP)), default=None)
