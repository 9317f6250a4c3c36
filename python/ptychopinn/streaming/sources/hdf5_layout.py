# SPDX-License-Identifier: BSD-3-Clause
"""Where the patterns and positions of a growing HDF5 file are, and what it states of the experiment.

The keys and units are those of the readers of finished files (:mod:`ptychopinn.io.formats`): CXI, NeXus, files of an
Eiger, and files with one data set of three axes. Positions are read as far as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.candidates import patterns_key
from ptychopinn.io.formats import arrays, cxi, eiger, nexus
from ptychopinn.io.geometry import one_size
from ptychopinn.io.hdf5 import Hdf5
from ptychopinn.io.masks import cxi_mask
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.scans import formats
from ptychopinn.io.sniff import _hdf5 as content_of_open
from ptychopinn.io.units import ENERGIES, LENGTHS, Units
from ptychopinn.streaming.frames import Series
from ptychopinn.streaming.sources.growing_hdf5 import GrowingFile, Parts
from ptychopinn.streaming.sources.hdf5_parts import UnusableError

#: Values of the attribute `units` of positions in object pixels.
_PIXELS = ("px", "pixel", "pixels")
#: Name of a counter of frames beside the patterns: a data set of one number.
_COUNTER = "frames_written"
#: Live runs do not resample; what reads the file afterwards does.
_RESAMPLED = "read the complete file with square_pixels='file' (--square-pixels file), which resamples them"
#: Name of positions whose columns are x, y and z, as in CXI and NeXus.
_TRANSLATION = "translation"


class Column(NamedTuple):
    """One coordinate of the positions.

    Attributes:
        key: of its data set.
        column: of a data set with several; None for one with a number for each frame.
        factor: from its numbers to the unit.
    """

    key: str
    column: int | None
    factor: float


class PositionKeys(NamedTuple):
    """Where positions are, and in which unit they are read: "m" or "px"."""

    y: Column
    x: Column
    unit: str


class Layout(NamedTuple):
    """Where patterns and positions are.

    Attributes:
        patterns: keys of the data sets with the frames, in their order.
        positions: None if the file has none.
        counter: key of the number of frames that are written; None without one.
    """

    patterns: tuple[str, ...]
    positions: PositionKeys | None
    counter: str | None


def find_layout(file: GrowingFile, patterns: str | None, positions: str | None, counter: str | None) -> Layout:
    """Find patterns and positions.

    Args:
        file: open.
        patterns: key that the caller states.
        positions: key, or two keys Y,X, that the caller states.
        counter: key of the number of written frames that the caller states.

    Raises:
        InputError: they are missing, or not written yet.
    """
    options = ReadOptions(patterns=patterns)
    units = Units(file, options)
    kind = _format(file)
    keys = _patterns(file, kind, options)
    found = positions_of_keys(file, units, positions) if positions else _positions(file, units, kind)
    if counter is None and len(keys) == 1:
        counter = file.first(f"{keys[0].rpartition('/')[0]}/{_COUNTER}".lstrip("/"))
    elif counter is not None:
        file.need(counter)
    return Layout(keys, found, counter)


def find_positions(file: GrowingFile, stated: str | None) -> PositionKeys:
    """Find the positions alone; arguments and errors as for :func:`find_layout`."""
    units = Units(file, ReadOptions())
    found = positions_of_keys(file, units, stated) if stated else _positions(file, units, _format(file))
    if found is None:
        raise InputError(
            f"{file.path}: expected positions of frames, found none that are known by their name; state FILE.h5:KEY"
        )
    return found


def find_series(file: GrowingFile, layout: Layout, parts: Parts) -> Series:
    """What the file states of the experiment.

    Raises:
        InputError: a unit is not known, or a mask is none.
    """
    kind, options = _format(file), ReadOptions()
    units = Units(file, options, joule=kind == "cxi")
    name, energy, distance, mask, detector = file.path.stem, None, None, None, ""
    sides: list[float | None] = [None, None]
    frames = parts.announced
    if kind == "cxi":
        detector = cxi.DETECTOR
        name = file.text(f"{cxi.ENTRY}/title") or name
        energy = units.number(f"{cxi.SOURCE}/energy", ENERGIES)
        distance = units.number(f"{detector}/distance", LENGTHS)
        sides = [cxi.detector_pixel(file, units)] * 2
        mask = cxi_mask(file, f"{detector}/mask")
    elif kind == "nexus":
        entry, instrument, detector = _nexus_groups(file)
        name = file.text(f"{entry}/title") or name
        energy = nexus.energy_of(file, units, instrument, entry)
        distance = units.number(f"{detector}/distance", LENGTHS)
        sides = [units.number(f"{detector}/{axis}_pixel_size", LENGTHS) for axis in "yx"]
        mask = nexus.pixel_mask_of(file, detector)
    elif kind == "eiger":
        detector = eiger.DETECTOR
        name = name.removesuffix("_master")
        energy = eiger.energy_of(file, units)
        distance = units.number(file.first(f"{detector}/detector_distance", f"{detector}/distance"), LENGTHS)
        keys = [[f"{group}/{axis}_pixel_size" for group in (detector, eiger.SPECIFIC)] for axis in "yx"]
        sides = [units.number(file.first(*one), LENGTHS) for one in keys]
        mask = eiger.pixel_mask_of(file)
        frames = frames or _announced(file)
    centre = [_one_number(file, f"{detector}/beam_center_{axis}") for axis in "yx"]
    return Series(
        name=name,
        frames=frames,
        energy=energy or None,
        distance=distance or None,
        detector_pixel_size=one_size(file, f"{detector}/x_pixel_size", sides[1], sides[0], way=_RESAMPLED) or None,
        beam_centre=(centre[0], centre[1]) if centre[0] and centre[1] else None,
        bad_pixels=mask,
        position_unit="m" if layout.positions is None else layout.positions.unit,
    )


def positions_of_keys(file: GrowingFile, units: Units, stated: str) -> PositionKeys:
    """Where positions are by the keys that the caller states: one, or two Y,X.

    One data set has the columns y, x; with the name `translation` it has x, y and perhaps z, as in CXI.

    Raises:
        InputError: not found, not of such a shape, or of an unknown unit.
    """
    keys = [key.strip() for key in stated.split(",")]
    if len(keys) > 2:
        found = f"expected one key of positions, or two Y,X, found {stated!r}"
        raise UnusableError(f"{file.path}: {found}; state them again")
    if len(keys) == 2:
        return _pair(file, units, keys[0], keys[1])
    key = keys[0]
    shape: tuple[int, ...] = file.dataset(key).shape or ()
    translation = key.rpartition("/")[2] == _TRANSLATION
    if len(shape) != 2 or shape[1] not in ((2, 3) if translation else (2,)):
        file.fail(key, "columns x, y and z" if translation else "columns y and x, or two keys Y,X", f"shape {shape}")
    return _columns(file, units, key, 1, 0) if translation else _columns(file, units, key, 0, 1)


def read_positions(file: GrowingFile, keys: PositionKeys) -> NDArray[np.float64]:
    """Positions (n, 2), (y, x), up to the last one that is written, NaN where one before is not.

    In data sets with space for all frames, rows at the end that have the fill value are not written.
    """
    axes = []
    unwritten = []
    for axis in (keys.y, keys.x):
        try:
            dataset = file.dataset(axis.key)
        except InputError:  # an external or virtual data set whose file is missing so far
            return np.empty((0, 2))
        file.check_kind(axis.key, dataset.dtype, "iuf")
        file.check_memory(axis.key, dataset.shape, dataset.dtype)
        values = np.ravel(dataset[()] if axis.column is None else dataset[:, axis.column])
        fixed = dataset.maxshape[0] == dataset.shape[0]
        unwritten.append(np.equal(values, dataset.fillvalue) & fixed)
        axes.append(values.astype(np.float64) * axis.factor)
    n = min(len(axis) for axis in axes)
    world = np.stack([axis[:n] for axis in axes], axis=1)
    empty = unwritten[0][:n] & unwritten[1][:n]
    last = int((~empty & np.isfinite(world).all(axis=1)).nonzero()[0].max(initial=-1))
    return world[: last + 1]


def read_counter(file: GrowingFile, key: str) -> int:
    """The number of frames that a counter states to be written; InputError if it is no number."""
    return max(0, int(file.scalar(key) or 0))


def _format(file: GrowingFile) -> str:
    """The name of the format that recognises the file."""
    content = content_of_open(Path(file.path), file.root)
    return next((name for name in ("cxi", "nexus", "eiger") if formats()[name].recognise(content)), "arrays")


def _patterns(file: GrowingFile, kind: str, options: ReadOptions) -> tuple[str, ...]:
    if options.patterns is None and kind == "eiger" and (found := eiger.parts(file)):
        return tuple(found)
    if options.patterns is None and kind == "arrays":
        return (arrays.only_cube(file),)
    usual: Mapping[str, tuple[str, ...]] = {"cxi": cxi.PATTERNS, "eiger": ("entry/data/data",)}
    names = (f"{_nexus_groups(file)[2]}/data",) if kind == "nexus" and options.patterns is None else usual.get(kind, ())
    return (patterns_key(file, options, *names),)


def _positions(file: GrowingFile, units: Units, kind: str) -> PositionKeys | None:
    """The positions that a format has by its definition."""
    if kind == "cxi":
        key = file.first(*cxi.POSITIONS)
        return None if key is None else _columns(file, units, key, 1, 0)
    if kind != "nexus":
        return None
    entry, _, detector = _nexus_groups(file)
    samples = nexus.groups_of_class(file, entry, "NXsample")
    groups = [
        path for sample in samples for path in (sample, *nexus.groups_of_class(file, sample, "NXtransformations"))
    ]
    for group in [*groups, *nexus.groups_of_class(file, entry, "NXdata")]:
        y, x = (file.first(f"{group}/{axis}", f"{group}/{axis}_translation") for axis in "yx")
        if y is not None and x is not None:
            return _pair(file, units, y, x)
    key = file.first(*(f"{sample}/geometry_1/translation" for sample in samples), f"{detector}/translation")
    return None if key is None else _columns(file, units, key, 1, 0)


def _nexus_groups(file: Hdf5) -> tuple[str, str, str]:
    """Entry, instrument and detector of a NeXus file."""
    entry = nexus.only_one(file, "", "NXentry")
    instrument = nexus.only_one(file, entry, "NXinstrument")
    return entry, instrument, nexus.only_one(file, instrument, "NXdetector")


def _pair(file: GrowingFile, units: Units, y: str, x: str) -> PositionKeys:
    factors, unit = _factors(file, units, (y, x))
    return PositionKeys(Column(y, None, factors[0]), Column(x, None, factors[1]), unit)


def _columns(file: GrowingFile, units: Units, key: str, y: int, x: int) -> PositionKeys:
    factors, unit = _factors(file, units, (key, key))
    return PositionKeys(Column(key, y, factors[0]), Column(key, x, factors[1]), unit)


def _factors(file: GrowingFile, units: Units, keys: tuple[str, str]) -> tuple[list[float], str]:
    """Factors to the unit of the positions, and that unit."""
    stated = [(file.text_attribute(file.need(key), "units") or "").strip().lower() for key in keys]
    if all(unit in _PIXELS for unit in stated):
        return [1.0, 1.0], "px"
    return [units.factor(key, LENGTHS) for key in keys], "m"


def _one_number(file: GrowingFile, key: str) -> float | None:
    """The number at a path; None for none, or for one of each frame."""
    return file.scalar(key) if file.is_array(key) and file.dataset(key).size == 1 else None


def _announced(file: GrowingFile) -> int | None:
    """Number of frames that the master file of an Eiger announces."""
    counts = [file.scalar(f"{eiger.SPECIFIC}/{name}") for name in ("nimages", "ntrigger")]
    if counts[0] is None or not counts[0] >= 1:
        return None
    return int(counts[0] * max(1.0, counts[1] or 1.0))


def written_frames(file: GrowingFile, counter: str) -> int:
    """The number of frames that a counter states; InputError if it is no number."""
    value = file.scalar(counter)
    return max(0, int(value or 0))
