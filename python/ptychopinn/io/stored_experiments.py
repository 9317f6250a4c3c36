# SPDX-License-Identifier: BSD-3-Clause
"""The experiment of a scan or a result in files: arrays under names of its fields, scalars in the JSON of the record.

In HDF5 the arrays are in a group `experiment` of this package, in NPZ their keys begin with `experiment_`. Files of
plain experiments have neither. What another program does not read there is named in one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.experiment import Experiment
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.lazy import h5py
from ptychopinn.io.options import ReadOptions
from ptychopinn.storage.new_hdf5 import put_array

GROUP = "experiment"
PREFIX = "experiment_"
#: Field -> kinds of NumPy types that are read, the type of the field, and whether its first axis may be the patterns.
_ARRAYS: dict[str, tuple[str, Any, bool]] = {
    "exposure": ("iuf", np.float64, True),
    "probe_variations": ("iufc", np.complex64, False),
    "variation_coefficients": ("iuf", np.float64, True),
    "background": ("iuf", np.float32, False),
    "background_factors": ("iuf", np.float64, True),
}
NAMES = tuple(_ARRAYS)

_log = logging.getLogger(__name__)


def prefixed(experiment: Experiment) -> dict[str, NDArray[Any]]:
    """The arrays of an experiment by their keys in an NPZ file."""
    return {f"{PREFIX}{name}": value for name, value in experiment.arrays().items()}


def put_experiment(group: h5py.Group, experiment: Experiment) -> None:
    """Write the arrays of an experiment to the group `experiment` in a group of HDF5, if there are any."""
    arrays = experiment.arrays()
    if arrays:
        inside = group.create_group(GROUP)
        for name, value in arrays.items():
            put_array(inside, name, value)


def experiment_in(file: OpenFile, prefix: str, scalars: Experiment, n: int | None = None) -> Experiment:
    """The experiment of a file: its arrays, and the scalars of the record.

    Args:
        file: the open file.
        prefix: of the keys of the arrays: :data:`PREFIX`, or a group with a slash.
        scalars: of the record.
        n: number of patterns; arrays with values for each have so many; None: not checked here.

    Raises:
        InputError: an array is damaged, or has another number of patterns.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, (kinds, dtype, of_patterns) in _ARRAYS.items():
        key = f"{prefix}{name}"
        if not file.has(key):
            continue
        array = file.numeric(key, kinds)
        if of_patterns and n is not None and not (name == "exposure" and array.ndim == 2) and len(array) != n:
            file.fail(key, f"{n} rows, one for each pattern", f"shape {array.shape}")
        arrays[name] = array.astype(dtype, copy=False)
    return Experiment.from_parts(arrays, scalars.scalars())


def with_probe(experiment: Experiment, options: ReadOptions, factor: float) -> Experiment:
    """The experiment of a scan with its probe: the variations are scaled with the probe of the file.

    A probe that the caller states replaces that of the file with its variations, unless he states these as well.

    Args:
        experiment: of the file, with what the caller states.
        options: from the caller.
        factor: by which the probe of the file was scaled.
    """
    variations, stated = experiment.probe_variations, options.experiment
    own = stated.probe_variations if isinstance(stated, Experiment) else (stated or {}).get("probe_variations")
    if variations is None or own is not None:
        return experiment
    if options.probe is not None:
        _log.warning("the probe that is stated replaces that of the file, whose variations along the scan are omitted")
        return replace(experiment, probe_variations=None, variation_coefficients=None)
    if factor == 1:
        return experiment
    return replace(experiment, probe_variations=(variations * factor).astype(np.complex64))


def warn_of_unread(path: Path, experiment: Experiment, program: str, known: Collection[str] = ()) -> None:
    """Name in one warning the effects that only this package reads from a file for other programs.

    Args:
        path: of the file.
        experiment: that is written.
        program: that reads the file, in words.
        known: effects that it reads too, in the words of :meth:`Experiment.effects`.
    """
    if unread := [effect for effect in experiment.effects() if effect not in known]:
        _log.warning("%s: only this package reads %s from the file, %s does not", path, " and ".join(unread), program)


def warn_of_omitted(path: Path, experiment: Experiment, format: str, known: Collection[str] = ()) -> None:
    """Name in one warning the effects that a file cannot hold; arguments as for :func:`warn_of_unread`."""
    if omitted := [effect for effect in experiment.effects() if effect not in known]:
        _log.warning("%s: %s has no place for %s: omitted", path, format, " and ".join(omitted))
