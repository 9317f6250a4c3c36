# SPDX-License-Identifier: BSD-3-Clause
"""Energy, distance and pixel sizes of a scan, from the file and from the options of the caller.

Options override the file. Implausible values are errors: with an energy in the wrong unit, positions would be wrong and
still look plausible.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import energy_range, near_field, object_pixel_size, positive, wavelength_of
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions

_DISAGREEMENT = 0.01
#: Largest span of a scan, metres, and largest step, relative to the field of view of the probe, without a unit.
_LARGEST_SPAN, _LARGEST_STEP = 1.0, 100.0
#: Largest relative difference of the sides of a square pixel.
_SQUARE = 1e-6
_SMALLER = {"mm": 1e-3, "um": 1e-6, "nm": 1e-9}

#: Energy in eV; distance, detector pixel size and object pixel size in metres; None where unknown. Keys are the names.
Scalars = Mapping[str, float | None]

_PLAIN = Experiment()

_log = logging.getLogger(__name__)


def resolved(
    own: Scalars,
    file: OpenFile,
    options: ReadOptions,
    size: int,
    needed_for: str | None = None,
    experiment: Experiment = _PLAIN,
    source_distance: float | None = None,
) -> dict[str, float | None]:
    """Determine energy, distance, detector pixel size and object pixel size, and the Fresnel number in the near field.

    The object pixel size is, in this order: the option; computed from energy, distance and detector pixel size if one
    of them is an option; the value in the file; computed from the values in the file. In the near field it is the
    detector pixel divided by the magnification.

    Args:
        own: the values in the file.
        file: named in errors.
        options: from the caller.
        size: N, pixels along one side of a pattern.
        needed_for: the purpose that requires a pixel size, for errors; None if it is not required.
        experiment: its radiation relates energy and wavelength; with its Fresnel number the detector is in the near
            field.
        source_distance: in the file, metres; used in the near field unless the caller states another.

    Returns:
        "energy" in eV; "distance", "detector_pixel_size", "pixel_size" and "source_distance" in metres;
        "fresnel_number"; None where unknown, of the source distance for a parallel beam and the far field.

    Raises:
        InputError: a value in the file is not plausible, or the pixel size, or in the near field the Fresnel number, is
            required and unknown.
    """
    _check(own, file, options, experiment.radiation)
    names = ("energy", "distance", "detector_pixel_size")
    values: dict[str, float | None] = {name: getattr(options, name) or own[name] for name in names}
    missing = [name for name in names if values[name] is None]
    fresnel = experiment.fresnel_number
    ways = "pixel_size= (--pixel-size)"
    if missing:
        ways = (
            f"{'= and '.join(missing)}= or pixel_size= (on the command line "
            f"{' and '.join('--' + name.replace('_', '-') for name in missing)}, or --pixel-size)"
        )
    known = {name: value for name, value in values.items() if value is not None}
    computed = None
    source = source_distance if options.source_distance is None else options.source_distance
    if source is not None and math.isinf(source):
        source = None
    if not missing and options.near_field:
        near = near_field(
            wavelength_of(known["energy"], experiment.radiation),
            known["distance"],
            known["detector_pixel_size"],
            source,
        )
        computed, fresnel = near.pixel_size, near.fresnel_number
    elif options.near_field and fresnel is None:
        way = ways.replace(" or pixel_size=", "").replace(", or --pixel-size", "")
        raise InputError(
            f"{file.path}: expected the lengths of a near field, found no {', '.join(missing)}; state {way}"
        )
    elif not missing and fresnel is None:
        computed = object_pixel_size(**known, size=size, radiation=experiment.radiation)
    stated = options.near_field or any(getattr(options, name) is not None for name in names)
    pixel_size = options.pixel_size or (computed if stated and computed else own["pixel_size"] or computed)
    if pixel_size is None and needed_for is not None:
        raise InputError(
            f"{file.path}: expected an object pixel size {needed_for}, found none and no {', '.join(missing)} to "
            f"compute it from; state {ways}"
        )
    if pixel_size and computed and abs(computed / pixel_size - 1) > _DISAGREEMENT:
        lengths = "the lengths of the near field" if options.near_field else "energy, distance and detector pixel size"
        _log.warning(
            "%s: the object pixel size is %.6g m, but %s give %.6g m", file.path, pixel_size, lengths, computed
        )
    source = None if fresnel is None else source
    return values | {"pixel_size": pixel_size, "fresnel_number": fresnel, "source_distance": source}


def own_pixel_size(own: Scalars, size: int, experiment: Experiment = _PLAIN) -> float | None:
    """Object pixel size in metres from the values in the file, for patterns of `size` px; None if unknown."""
    if own["pixel_size"] is not None or experiment.fresnel_number is not None:
        return positive(own["pixel_size"])
    energy, distance, side = (positive(own[name]) for name in ("energy", "distance", "detector_pixel_size"))
    low, high = energy_range(experiment.radiation)
    if not (energy and distance and side and low <= energy <= high):
        return None
    return object_pixel_size(energy, distance, side, size, experiment.radiation)


def check_metres(file: OpenFile, key: str, world: NDArray[np.float64], field_of_view: float) -> None:
    """Refuse positions without a unit that cannot be in metres.

    Args:
        file: named in errors.
        key: of the positions.
        world: (n, 2) metres, if the positions are in metres.
        field_of_view: of the probe, metres.

    Raises:
        InputError: they span more than a metre, or the median step is a hundred times the field of view.
    """
    span = float(np.ptp(world, axis=0).max(initial=0.0))
    steps = np.linalg.norm(np.diff(world, axis=0), axis=1)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if span <= _LARGEST_SPAN and step <= _LARGEST_STEP * field_of_view:
        return
    fitting = [unit for unit, factor in _SMALLER.items() if 0.002 <= factor * step / field_of_view <= 2]
    likely = fitting[0] if fitting else "um"
    file.fail(
        key,
        "positions in metres, or the attribute units",
        f"no attribute and positions that span {span:.3g} m in steps of {step / field_of_view:.3g} times the probe's "
        f"field of view, {field_of_view:.3g} m; state their unit in the file, with h5py: "
        f"file[{key!r}].attrs['units'] = {likely!r}{', which would fit' if fitting else ''}",
    )


def is_square(width: float | None, height: float | None) -> bool:
    """Whether sides of a pixel are equal, up to rounding, as far as they are known."""
    return width is None or height is None or abs(width - height) <= _SQUARE * abs(height)


def one_size(file: OpenFile, key: str, width: float | None, height: float | None, *, way: str = "") -> float | None:
    """The side of a square pixel, None if unknown; InputError, with a way out, if width and height differ."""
    if not is_square(width, height):
        file.fail(key, "square pixels", f"{width:g} m wide and {height:g} m high", way)
    return width if width is not None else height


def detector_sides(
    file: OpenFile, key: str, sides: Sequence[float | None], options: ReadOptions
) -> tuple[float | None, tuple[float, float] | None]:
    """Side of a detector's square pixels, and the sides (y, x) of others, if the caller wants them resampled.

    Args:
        file: named in errors.
        key: of the width, for errors.
        sides: width and height, metres; None where unknown.
        options: from the caller.

    Raises:
        InputError: pixels are not square, and the caller does not say what to do.
    """
    width, height = sides
    if options.detector_pixel_size is not None or isinstance(options.square_pixels, tuple):
        return None, None
    if options.square_pixels is None or is_square(width, height) or not (width and height):
        way = "square_pixels='file' (--square-pixels file) resamples them"
        return one_size(file, key, width, height, way=way), None
    return None, (height, width)


def _check(own: Scalars, file: OpenFile, options: ReadOptions, radiation: str) -> None:
    for name in ("energy", "distance", "detector_pixel_size", "pixel_size"):
        value = own[name]
        if value is None or getattr(options, name) is not None:
            continue
        if not (math.isfinite(value) and value > 0):
            file.fail(name, f"a positive number; state {name}= if the file is wrong", f"{value:g}")
    low, high = energy_range(radiation)
    energy = own["energy"]
    if energy is not None and options.energy is None and not low <= energy <= high:
        electrons = " of electrons" if radiation == "electron" else ""
        file.fail(
            "energy",
            f"between {low:g} and {high:g} eV{electrons} in the unit of the format; state energy= in eV if it is right",
            f"what reads as {energy:g} eV",
        )
