# SPDX-License-Identifier: BSD-3-Clause
"""Options of reading a scan: values that override the file or supply what it lacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ptychopinn.errors import InputError

MEASUREMENTS = ("auto", "amplitude", "counts")
MEMORY = ("auto", "load", "stored")
_POSITIVE = {
    "pixel_size": "metres per object pixel",
    "energy": "eV",
    "distance": "metres from sample to detector",
    "detector_pixel_size": "metres",
}


@dataclass(frozen=True, eq=False)
class ReadOptions:
    """Options of reading a scan; each is optional and overrides the file.

    Args:
        measurement: "amplitude" or "counts", whichever the file holds; "auto" decides from the file.
        memory: "load" reads all patterns, "stored" keeps them on disk, "auto" does so if they are large.
        probe: (N, N) or (M, N, N) complex, or a file of such an array.
        bad_pixels: (N, N) bool, or an `.npy` file of such an array: pixels to ignore in addition to those in the file.
        pixel_size: metres per object pixel.
        energy: photon energy in eV.
        distance: metres from the sample to the detector.
        detector_pixel_size: metres per detector pixel.
        positions: CSV file of the positions, for plain arrays, Eiger, CXI and NeXus files.
        patterns: path of the patterns in an HDF5 file, or their key in an NPZ.
        partner: the other file of a ptychodus pair.

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

    def __post_init__(self) -> None:
        if self.measurement not in MEASUREMENTS:
            raise InputError(f"measurement must be one of {', '.join(MEASUREMENTS)}, got {self.measurement!r}")
        if self.memory not in MEMORY:
            raise InputError(f"memory must be one of {', '.join(MEMORY)}, got {self.memory!r}")
        for name, unit in _POSITIVE.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number ({unit}), got {value!r}")
