# SPDX-License-Identifier: BSD-3-Clause
"""The experiment of a scan as it is read: of the file, with what a caller states, for the pixels that are read.

Lengths in pixels that a caller states are those of the detector and of the object in the file, like its pixel sizes;
crop, padding and bins change them along with all else (:mod:`ptychopinn.io.framing`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.array_files import read_array
from ptychopinn.io.contents import Contents
from ptychopinn.io.options import ReadOptions
from ptychopinn.storage.frames import bin_frames, fit_frames

_LINE = re.compile(r"(?:(?P<y>[^,/]+),)?(?P<x>[^,/]+)/(?P<points>\d+)")
#: Largest ratio of successive steps, and largest angle (cosine) between them, within a row of a fly scan.
_LONGER, _STRAIGHT = 2.0, 0.7


def stated_experiment(stated: Experiment | Mapping[str, Any] | None) -> Experiment:
    """The experiment that a caller states, as an object or as a mapping of its fields.

    Args:
        stated: an :class:`~ptychopinn.experiment.Experiment`, or a mapping of names of its fields to values as JSON has
            them: `background` and `exposure` can be files, `source_size` one number for both axes, and `exposure`
            "LENGTH/K" or "Y,X/K", a straight path of K points along x, or by (y, x) pixels, with the position in its
            middle.

    Raises:
        InputError: a name is unknown, or a value is no such value; shapes are checked when the scan is made.
    """
    if stated is None:
        return Experiment()
    if isinstance(stated, Experiment):
        return stated
    known = {field.name for field in fields(Experiment)}
    if wrong := [name for name in stated if name not in known]:
        raise InputError(f"experiment must have fields of {', '.join(sorted(known))}, got {', '.join(wrong)}")
    values = {name: value for name, value in stated.items() if value is not None}
    if "background" in values:
        values["background"] = read_array(values["background"], "background", "--background")[1].astype(np.float32)
    if "exposure" in values:
        values["exposure"] = _exposure(values["exposure"])
    if isinstance(values.get("source_size"), int | float):
        values["source_size"] = (values["source_size"],) * 2
    for name in ("source_size", "tilt", "slice_distances"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return Experiment(**values)


def merged(contents: Contents, options: ReadOptions) -> Experiment:
    """The experiment of a file, of its record and of its format, with what the caller states in its place."""
    stated = stated_experiment(options.experiment)
    if options.fly_scan is not None and stated.exposure is not None:
        raise InputError("fly_scan= (--fly-scan) makes the path of every exposure, got exposure= (--exposure) as well")
    changed = {**_set(contents.record.experiment), **_set(contents.experiment), **_set(stated)}
    if options.radiation is not None:
        changed["radiation"] = options.radiation
    return Experiment(**changed)


def _set(experiment: Experiment) -> dict[str, Any]:
    """Fields that differ from their defaults."""
    return experiment.arrays() | {
        field.name: value
        for field in fields(Experiment)
        if not isinstance(value := getattr(experiment, field.name), np.ndarray) and value != field.default
    }


def fitted_experiment(
    experiment: Experiment, size: int, factor: int, ratio: float, variations: NDArray[np.complex64] | None
) -> Experiment:
    """The experiment of patterns that are cropped, padded and binned.

    Args:
        experiment: of the detector in the file.
        size: N, pixels along a pattern before binning.
        factor: K, pixels along a bin.
        ratio: of the object pixels, new to old.
        variations: shapes of the probe's variations for the new patterns.

    Returns:
        A saturated pixel makes a bin saturated, so that the threshold of a pixel is that of a bin.
    """
    values: dict[str, Any] = {"probe_variations": variations}
    if experiment.exposure is not None:
        values["exposure"] = experiment.exposure / ratio
    if experiment.source_size is not None:
        values["source_size"] = tuple(deviation / ratio for deviation in experiment.source_size)
    if experiment.point_spread is not None:
        values["point_spread"] = experiment.point_spread / factor
    if experiment.fresnel_number is not None:
        values["fresnel_number"] = experiment.fresnel_number * ratio**2
    background = experiment.background
    if background is not None and np.ndim(background) == 2 and background.shape != (size // factor,) * 2:
        background = fit_frames(background, size)
        values["background"] = background if factor == 1 else bin_frames(background, factor, np.dtype(np.float32))
    return replace(experiment, **values)


def with_fly_path(experiment: Experiment, positions: NDArray[np.float64], options: ReadOptions) -> Experiment:
    """The experiment with the path from each position to the next, if the caller states that the scan flies."""
    if options.fly_scan is None:
        return experiment
    return replace(experiment, exposure=fly_path(positions, options.fly_scan))


def fly_path(positions: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Paths of the exposures of a fly scan, from the position of a pattern to that of the next.

    A position is taken to be where its exposure begins. A step that is far longer or shorter than those before and
    after it, or turned against both, leads from one row to the next: the last pattern of a row, and of the scan, has
    the step of the pattern before it.

    Args:
        positions: (n, 2), in pixels, in the order of the exposures.
        points: K; the points are the middles of K equal parts of the path.

    Returns:
        (n, K, 2) float64, relative to the positions.

    Raises:
        InputError: rows of three or more patterns cannot be recognised.

    Example:
        >>> line = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 8.0]])
        >>> fly_path(line, 2)[2].tolist()
        [[0.0, 1.0], [0.0, 3.0]]
    """
    steps = np.diff(positions, axis=0)
    alike = np.zeros(max(len(steps) - 1, 0), np.bool_)
    if len(steps) > 1:
        lengths = np.linalg.norm(steps, axis=1)
        short, long = np.minimum(lengths[:-1], lengths[1:]), np.maximum(lengths[:-1], lengths[1:])
        cosine = (steps[:-1] * steps[1:]).sum(axis=1) / np.maximum(lengths[:-1] * lengths[1:], np.finfo(float).tiny)
        alike = (short > 0) & (long <= _LONGER * short) & (cosine >= _STRAIGHT)
    within = np.append(alike, False) | np.insert(alike, 0, False)
    if within.sum() * 2 < len(positions) - 1 or not within.any():
        raise InputError(
            f"fly_scan: expected positions in rows of three or more, in the order of the exposures, found "
            f"{int(within.sum())} of {len(positions)} steps along a row; state the path with exposure= (--exposure)"
        )
    # Rows of the nearest step along a row before each pattern; the first patterns take the one after them.
    index = np.where(np.append(within, False), np.arange(len(positions)), -1)
    last = np.maximum.accumulate(index)
    last[last < 0] = int(np.argmax(within))
    parts = (np.arange(points) + 0.5) / points
    return np.asarray(steps[last][:, np.newaxis] * parts[:, np.newaxis])


def _exposure(stated: Any) -> NDArray[np.float64]:
    found = _LINE.fullmatch(stated.strip()) if isinstance(stated, str) and not Path(stated).exists() else None
    if found is None:
        return read_array(stated, "exposure", "--exposure")[1]
    try:
        path = np.array([float(found["y"] or 0), float(found["x"])])
    except ValueError:
        path = np.full(2, np.nan)
    points = int(found["points"])
    if not np.isfinite(path).all() or points < 1:
        raise InputError(f"exposure must be a file, LENGTH/POINTS or Y,X/POINTS in pixels, got {stated!r}")
    return np.asarray(((np.arange(points) + 0.5) / points - 0.5)[:, np.newaxis] * path)
