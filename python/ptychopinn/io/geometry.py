# SPDX-License-Identifier: BSD-3-Clause
"""What a file says of the experiment, checked, and brought together with what the caller states.

The caller goes over the file; a number that cannot be right is refused rather than used, since a wrong unit of the
energy makes positions that look plausible.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from ptychopinn.acquisition import ENERGIES, object_pixel_size, positive
from ptychopinn.errors import InputError
from ptychopinn.io.fields import Source
from ptychopinn.io.options import ReadOptions

_DISAGREEMENT = 0.01

#: Energy in eV; distance, detector pixel size and object pixel size in metres; by these names, None where unknown.
Scalars = Mapping[str, float | None]

_log = logging.getLogger(__name__)


def resolved(
    own: Scalars, source: Source, options: ReadOptions, size: int, needed_for: str | None = None
) -> dict[str, float | None]:
    """Energy and lengths of a file, under what the caller states, with the object pixel size.

    The pixel size is the caller's, else it follows from energy, distance and detector pixel where the caller
    states any of these, else it is the file's, else it follows from the file's.

    Args:
        own: what the file says.
        source: the file, for complaints.
        options: what the caller states.
        size: N, pixels along one side of a pattern.
        needed_for: what cannot be done without a pixel size; None if it may stay unknown.

    Raises:
        InputError: a value of the file is not plausible, or the pixel size is needed and unknown.
    """
    _check(own, source, options)
    names = ("energy", "distance", "detector_pixel_size")
    values = {name: getattr(options, name) or own[name] for name in names}
    missing = [name for name in names if values[name] is None]
    computed = None if missing else object_pixel_size(**values, size=size)
    stated = any(getattr(options, name) is not None for name in names)
    pixel_size = options.pixel_size or (computed if stated and computed else own["pixel_size"] or computed)
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
    return values | {"pixel_size": pixel_size}


def own_pixel_size(own: Scalars, size: int) -> float | None:
    """Metres per object pixel by these numbers alone, for patterns of `size` px; None if unknown or implausible."""
    if own["pixel_size"] is not None:
        return positive(own["pixel_size"])
    energy, distance, side = (positive(own[name]) for name in ("energy", "distance", "detector_pixel_size"))
    if not (energy and distance and side and ENERGIES[0] <= energy <= ENERGIES[1]):
        return None
    return object_pixel_size(energy, distance, side, size)


def one_size(source: Source, key: str, width: float | None, height: float | None) -> float | None:
    """The side of a pixel, which must be square."""
    if width is not None and height is not None and abs(width - height) > 1e-6 * abs(height):
        source.fail(key, "square pixels", f"{width:g} m wide and {height:g} m high")
    return width if width is not None else height


def _check(own: Scalars, source: Source, options: ReadOptions) -> None:
    for name in ("energy", "distance", "detector_pixel_size", "pixel_size"):
        value = own[name]
        if value is None or getattr(options, name) is not None:
            continue
        if not (math.isfinite(value) and value > 0):
            source.fail(name, f"a positive number; state {name}= if the file is wrong", f"{value:g}")
    low, high = ENERGIES
    energy = own["energy"]
    if energy is not None and options.energy is None and not low <= energy <= high:
        source.fail(
            "energy",
            f"between {low:g} and {high:g} eV in the unit of the format; state energy= in eV if it is right",
            f"what reads as {energy:g} eV",
        )
