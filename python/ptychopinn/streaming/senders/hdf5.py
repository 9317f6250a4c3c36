# SPDX-License-Identifier: BSD-3-Clause
"""A growing CXI file, as a detector's file writer makes it: frames and positions are appended and flushed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import JOULE_PER_EV
from ptychopinn.io.formats import cxi
from ptychopinn.io.hdf5 import put_units
from ptychopinn.io.lazy import h5py
from ptychopinn.streaming.frames import Series

_INVALID = 1  # the bit of a mask that marks an invalid pixel


class Hdf5Sender:
    """A writer of a growing CXI file.

    A series begins with a new file, which takes the place of an earlier one when its groups and data sets are complete.
    Frames that are not sent have no chunk in the file, and the position of a frame is NaN until it is known.

    Args:
        path: of the file.
        swmr: write in SWMR mode (single writer, multiple readers); otherwise the file is flushed after each frame.
        chunk: frames in a chunk of the file; damaged frames can be sent with 1 only.
    """

    def __init__(self, path: str | Path, swmr: bool = True, chunk: int = 1) -> None:
        self.address = str(path)
        self._path, self._swmr, self._chunk = Path(path), swmr, chunk
        self._file: h5py.File | None = None

    def begin(self, series: Series, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Begin a file of frames of this shape (h, w) and type; a second call begins another one."""
        self.end()
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        # Without locks, because readers of this process open it without, and HDF5 wants the same of all.
        self._file = h5py.File(temporary, "w", libver="latest" if self._swmr else None, locking=False)
        entry = self._file.create_group(cxi.ENTRY)
        self._file["cxi_version"] = cxi.VERSION
        entry["title"] = series.name
        detector, source = self._file.create_group(cxi.DETECTOR), self._file.create_group(cxi.SOURCE)
        if series.energy is not None:
            put_units(source, "energy", series.energy * JOULE_PER_EV, "J")
        if series.distance is not None:
            put_units(detector, "distance", series.distance, "m")
        if series.detector_pixel_size is not None:
            for axis in "xy":
                put_units(detector, f"{axis}_pixel_size", series.detector_pixel_size, "m")
        if series.beam_centre is not None:
            for axis, centre in zip("yx", series.beam_centre, strict=True):
                detector[f"beam_center_{axis}"] = centre
        if series.bad_pixels is not None:
            detector["mask"] = np.where(series.bad_pixels, _INVALID, 0).astype(np.uint32)
        self._counts = self._file.create_dataset(
            cxi.PATTERNS[0],
            (0, *shape),
            dtype,
            maxshape=(series.frames, *shape),
            chunks=(self._chunk, *shape),
            fletcher32=True,
        )
        self._positions = self._file.create_dataset(
            cxi.POSITIONS[0], (0, 3), np.float64, maxshape=(None, 3), chunks=(1024, 3), fillvalue=np.nan
        )
        self._positions.attrs["units"] = series.position_unit
        if self._swmr:
            self._file.swmr_mode = True
        self._file.flush()
        os.replace(temporary, self._path)

    def send(self, index: int, counts: NDArray[Any], position: tuple[float, float] | None) -> None:
        """Write a frame (h, w), with its position (y, x) if it is known, in the unit of the series."""
        self._resize(index)
        if position is not None:
            self._positions[index] = (position[1], position[0], 0.0)
            self._positions.flush()
        self._counts[index] = counts
        self._flush()

    def send_damaged(self, index: int) -> None:
        """Write a chunk whose checksum is wrong in place of a frame."""
        self._resize(index)
        size = int(np.prod(self._counts.chunks)) * self._counts.dtype.itemsize
        self._counts.id.write_direct_chunk((index // self._chunk * self._chunk, 0, 0), bytes([1]) * (size + 4))
        self._flush()

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file; a second call has no effect."""
        self.end()

    def _resize(self, index: int) -> None:
        for dataset in (self._positions, self._counts):
            if index >= len(dataset):
                dataset.resize(index + 1, 0)

    def _flush(self) -> None:
        assert self._file is not None
        if self._swmr:
            self._counts.flush()
        else:
            self._file.flush()
