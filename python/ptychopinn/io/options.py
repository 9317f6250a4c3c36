# SPDX-License-Identifier: BSD-3-Clause
"""Options of reading a scan: values that override the file or supply what it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import finite_pair
from ptychopinn.errors import InputError
from ptychopinn.experiment import RADIATIONS, Experiment

MEASUREMENTS = ("auto", "amplitude", "counts")
MEMORY = ("auto", "load", "stored")
#: Units of positions in metres.
LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "A": 1e-10, "pm": 1e-12}
_POSITIVE = {
    "pixel_size": "metres per object pixel",
    "energy": "eV",
    "distance": "metres from sample to detector",
    "detector_pixel_size": "metres",
}
#: Fields of an experiment whose options on the command line have another name.
_OPTIONS = {"slice_distances": "slices"}
_SMALLEST = 8  # pixels along one side of a pattern


@dataclass(frozen=True, eq=False)
class ReadOptions:
    """Options of reading a scan; each is optional and overrides the file.

    Args:
        measurement: "amplitude" or "counts", whichever the file holds; "auto" decides from the file.
        memory: "load" reads all patterns, "stored" keeps them on disk, "auto" does so if they are large.
        probe: (N, N) or (M, N, N) complex, or a file of such an array.
        bad_pixels: (N, N) bool, or an `.npy` file of such an array: pixels to ignore in addition to those in the file.
        pixel_size: metres per object pixel.
        energy: in eV, of photons, or the kinetic energy of electrons.
        distance: metres from the sample to the detector.
        detector_pixel_size: metres per detector pixel.
        positions: table of the positions, for formats without them.
        patterns: path of the patterns in an HDF5 file, or their key in an NPZ.
        partner: the other file of a ptychodus pair.
        position_columns: names or numbers from 0 of the columns (y, x) in the table of positions.
        position_unit: of the table of positions, "m", "mm", "um", "nm", "A" or "pm".
        position_scan: number of the scan in a SPEC file of positions; None: the first.
        scan_shape: (rows, columns) of a raster, whose positions follow from `scan_step`.
        scan_step: (y, x) metres between the positions of a raster, or one number for both.
        crop: N, even; the middle N x N pixels of the detector are read.
        pad: N, even; detectors that are smaller than N x N pixels are filled up with bad pixels.
        bin: K; the counts of K x K pixels are summed.
        square_pixels: the detector's pixels are not square: sides (y, x) in metres, or "file"; patterns are resampled.
        mask_invalid: pixels with NaN, infinite or negative values or the dead-pixel marker become bad pixels.
        clip_negative: negative values of floats, as dark subtraction leaves them, become 0.
        experiment: what differs from the plain forward model, in pixels of the detector and of the object in the file,
            or a mapping of the fields, see :func:`~ptychopinn.io.experiments.stated_experiment`.
        radiation: "photon" or "electron"; None: as the format or the file states.
        near_field: the detector is in the near field.
        source_distance: metres from the focus to the sample, for the near field; infinity: a parallel beam; None: as
            the file states, else a parallel beam.
        gain: values in the file per count, a number, (h, w), or a file of an array.
        offset: value in the file without counts, in the same ways; counts are (value - offset) / gain.
        fly_scan: number of points on the way to the next position, at which an exposure is computed.

    Raises:
        InputError: an option is not one of the permitted words, or not a positive number.
    """

    measurement: str = "auto"
    memory: str = "auto"
    probe: NDArray[Any] | str | Path | None = None
    bad_pixels: NDArray[Any] | str | Path | None = None
    pixel_size: float | None = None
    energy: float | None = None
    distance: float | None = None
    detector_pixel_size: float | None = None
    positions: str | Path | None = None
    partner: str | Path | None = None
    patterns: str | None = None
    position_columns: tuple[str | int, str | int] | None = None
    position_unit: str | None = None
    position_scan: int | None = None
    scan_shape: tuple[int, int] | None = None
    scan_step: tuple[float, float] | float | None = None
    crop: int | None = None
    pad: int | None = None
    bin: int = 1
    square_pixels: tuple[float, float] | str | None = None
    mask_invalid: bool = False
    clip_negative: bool = False
    experiment: Experiment | Mapping[str, Any] | None = None
    radiation: str | None = None
    near_field: bool = False
    source_distance: float | None = None
    gain: NDArray[Any] | float | str | Path | None = None
    offset: NDArray[Any] | float | str | Path | None = None
    fly_scan: int | None = None

    @property
    def states_positions(self) -> bool:
        """Whether positions are stated, as a table or as a raster."""
        return any(value is not None for value in (self.positions, self.scan_step, self.scan_shape))

    def __post_init__(self) -> None:
        if self.measurement not in MEASUREMENTS:
            raise InputError(f"measurement must be one of {', '.join(MEASUREMENTS)}, got {self.measurement!r}")
        if self.memory not in MEMORY:
            raise InputError(f"memory must be one of {', '.join(MEMORY)}, got {self.memory!r}")
        for name, unit in _POSITIVE.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number ({unit}), got {value!r}")
        for name in ("crop", "pad"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < _SMALLEST or value % 2):
                raise InputError(f"{name} must be an even number of pixels of at least {_SMALLEST}, got {value!r}")
        if not isinstance(self.bin, Integral) or self.bin < 1:
            raise InputError(f"bin must be a positive number of pixels, got {self.bin!r}")
        if self.position_unit is not None and self.position_unit not in LENGTHS:
            raise InputError(f"position_unit must be one of {', '.join(LENGTHS)}, got {self.position_unit!r}")
        if self.position_columns is not None and len(self.position_columns) != 2:
            raise InputError(f"position_columns must be two columns (y, x), got {self.position_columns!r}")
        if self.scan_shape is not None and not (len(self.scan_shape) == 2 and min(self.scan_shape) >= 1):
            raise InputError(f"scan_shape must be two positive numbers (rows, columns), got {self.scan_shape!r}")
        if self.scan_step is not None:
            step = (
                np.broadcast_to(np.asarray(self.scan_step, np.float64), (2,)) if np.size(self.scan_step) < 3 else None
            )
            if step is None or not (np.isfinite(step).all() and step.all()):
                raise InputError(f"scan_step must be metres (y, x) other than 0, or one number, got {self.scan_step!r}")
            object.__setattr__(self, "scan_step", (float(step[0]), float(step[1])))
        if self.square_pixels is not None:
            self._check_square_pixels()
        self._check_experiment()

    def _check_square_pixels(self) -> None:
        sides = self.square_pixels
        if sides != "file":
            pair = finite_pair(sides)
            if pair is None or min(pair) <= 0:
                raise InputError(f"square_pixels must be metres (y, x), or 'file', got {sides!r}")
            object.__setattr__(self, "square_pixels", pair)
        if self.detector_pixel_size is not None:
            raise InputError(
                "square_pixels= (--square-pixels) states the sides of the detector's pixels, got detector_pixel_size= "
                "(--detector-pixel-size) as well"
            )

    def _check_experiment(self) -> None:
        if not isinstance(self.experiment, Experiment | Mapping | None):
            found = type(self.experiment).__name__
            raise InputError(f"experiment must be an Experiment or a mapping of its fields, got {found}")
        if self.radiation is not None and self.radiation not in RADIATIONS:
            raise InputError(f"radiation must be one of {', '.join(RADIATIONS)}, got {self.radiation!r}")
        if self.source_distance is not None:
            if not self.near_field:
                raise InputError("source_distance= (--source-distance) needs near_field= (--near-field) as well")
            if math.isnan(self.source_distance) or self.source_distance == 0:
                raise InputError(f"source_distance must be metres other than 0, got {self.source_distance!r}")
        if self.fly_scan is not None and (not isinstance(self.fly_scan, Integral) or self.fly_scan < 2):
            raise InputError(f"fly_scan must be a number of points of 2 or more, got {self.fly_scan!r}")

    @property
    def changes_frames(self) -> bool:
        """Whether frames are cropped, padded, binned or resampled."""
        return self.crop is not None or self.pad is not None or self.bin > 1 or self.square_pixels is not None

    @property
    def changes_values(self) -> bool:
        """Whether values in the file are converted to counts with a gain or an offset."""
        return self.gain is not None or self.offset is not None


def option_words(stated: Mapping[str, Any]) -> list[str]:
    """Words of a command line that state these options of reading; defaults are omitted.

    Example:
        >>> option_words({"crop": 32, "bin": 1, "experiment": {"slice_distances": [1e-6, 2e-6]}, "near_field": True})
        ['--crop', '32', '--slices', '1e-06,2e-06', '--near-field']
    """
    words: list[str] = []
    for name, value in stated.items():
        if isinstance(value, Experiment):
            value = value.scalars() | value.arrays()
        if isinstance(value, Mapping):
            words += option_words(value)
        elif isinstance(value, np.ndarray) or (value not in (None, "auto", False) and (name, value) != ("bin", 1)):
            words.append(f"--{_OPTIONS.get(name, name).replace('_', '-')}")
            if value is not True:
                words.append(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    return words
