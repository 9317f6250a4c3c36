# SPDX-License-Identifier: BSD-3-Clause
"""What a live run knows of the experiment before frames come, and how a frame of the detector becomes a pattern.

An earlier scan of the same setup has it all: probe, sizes, mask and orientation of the positions. What is stated by the
source itself (energy, distance, mask) counts where that scan does not have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.acquisition import object_pixel_size
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.inspection.orientation import ORIENTATIONS
from ptychopinn.io.stored_experiments import prefixed
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.frames import bin_frames, bin_mask
from ptychopinn.streaming.frames import Series

_SMALLEST = 8  # pixels along one side of a pattern


@dataclass(frozen=True, eq=False)
class Setup:
    """The experiment, as far as it is known.

    Args:
        size: N, pixels along one side of a pattern; None: the largest even square of the frames.
        probe: (M, N, N) complex64 in sqrt(counts); None: it is estimated from the patterns.
        bad_pixels: (N, N), True at pixels to ignore.
        pixel_size: metres per object pixel.
        energy: photon energy, eV.
        distance: from the sample to the detector, metres.
        source_distance: metres from the focus to the sample, in the near field, see :class:`Acquisition`.
        detector_pixel_size: metres, of the detector before binning.
        orientation: map from the positions as they come to those of the scan, see ``Scan.orientation``.
        mean_counts: of a pattern of the scan that the probe is from; None: the probe is scaled to the counts that come.
        centre: (y, x) detector pixel that becomes pixel (N//2, N//2); None: what the source states, or the middle.
        bin: detector pixels along one side of a pixel of a pattern.
        experiment: effects that do not belong to single patterns; they are kept with the frames. The path of an
            exposure is in the orientation of the positions as they come.
    """

    size: int | None = None
    probe: NDArray[np.complex64] | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    pixel_size: float | None = None
    energy: float | None = None
    distance: float | None = None
    source_distance: float | None = None
    detector_pixel_size: float | None = None
    orientation: str = "given"
    mean_counts: float | None = None
    centre: tuple[float, float] | None = None
    bin: int = 1
    experiment: Experiment = field(default_factory=Experiment)

    __repr__ = one_line

    @classmethod
    def like(cls, scan: Scan) -> Setup:
        """The setup of an earlier scan."""
        return cls(
            size=scan.patch_size,
            probe=scan.probe,
            bad_pixels=scan.bad_pixels,
            pixel_size=scan.pixel_size,
            energy=scan.energy,
            distance=scan.acquisition.distance,
            source_distance=scan.acquisition.source_distance,
            detector_pixel_size=scan.acquisition.detector_pixel_size,
            orientation=scan.orientation,
            mean_counts=total_counts(scan.counts) / scan.n,
            experiment=turned_path(_of_all_patterns(scan.experiment), ORIENTATIONS[scan.orientation].T),
        )

    def of_series(self, series: Series, shape: tuple[int, int]) -> Setup:
        """The same with what a source states, for frames (h, w).

        Raises:
            InputError: the frames are smaller than the patterns, or positions are in metres and the size of an object
                pixel is not known.
        """
        size = self.size or min(side // self.bin // 2 * 2 for side in shape)
        if size < _SMALLEST or min(shape) < size * self.bin:
            raise InputError(
                f"{series.name}: expected frames of at least {size * self.bin} x {size * self.bin} px for patterns of "
                f"{size} px, found {shape[0]} x {shape[1]}; state another --size, or the setup with --like"
            )
        stated = {
            name: getattr(self, name) or getattr(series, name) for name in ("energy", "distance", "detector_pixel_size")
        }
        made = replace(self, size=size, centre=self.centre or series.beam_centre, **stated)
        if made.pixel_size is None and all(stated.values()):
            side = made.bin * float(stated["detector_pixel_size"])
            pixel = object_pixel_size(float(stated["energy"]), float(stated["distance"]), side, size)
            made = replace(made, pixel_size=pixel)
        stated_mask = np.zeros(shape, np.bool_) if series.bad_pixels is None else series.bad_pixels
        mask = _cut(stated_mask, made, True)  # what is outside of the detector is bad
        if made.bad_pixels is None and mask.any():
            made = replace(made, bad_pixels=bin_mask(mask, made.bin))
        return made

    def pattern(self, counts: NDArray[Any]) -> NDArray[Any]:
        """The pattern (N, N) of a frame (h, w), of the frame's type or of a wider one; size is known.

        Raises:
            InputError: the frame is smaller than the pattern, or its values are no counts.
        """
        assert self.size is not None
        side = self.size * self.bin
        if counts.ndim != 2 or min(counts.shape) < side:
            raise InputError(f"a frame of {side} x {side} px or more is needed, got shape {counts.shape}")
        if counts.shape != (side, side) or self.centre is not None:
            counts = _cut(counts, self, 0)
        if self.bin > 1:
            counts = bin_frames(counts[None], self.bin, _sum_type(counts.dtype), None)[0]
        if counts.dtype.kind == "f" and not (np.isfinite(counts).all() and counts.min() >= 0):
            raise InputError("counts are needed, got values that are negative or not finite")
        return np.ascontiguousarray(counts)

    def facts(self, name: str, unit: str) -> dict[str, Any]:
        """JSON values of a spool of such patterns; see :mod:`ptychopinn.io.formats.live`."""
        return {
            "name": name,
            "position_unit": unit,
            "energy": self.energy,
            "pixel_size": self.pixel_size,
            "distance": self.distance,
            "source_distance": self.source_distance,
            "detector_pixel_size": None if self.detector_pixel_size is None else self.bin * self.detector_pixel_size,
            "mean_counts": self.mean_counts,
            **ScanRecord(experiment=self.experiment).to_json(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of such a spool by name."""
        arrays = {"probe": self.probe, "bad_pixels": self.bad_pixels}
        return {name: array for name, array in arrays.items() if array is not None} | prefixed(self.experiment)


def _of_all_patterns(experiment: Experiment) -> Experiment:
    """An experiment without values that belong to single patterns of its scan."""
    path = experiment.exposure if experiment.exposure is None or experiment.exposure.ndim == 2 else None
    return replace(
        experiment, exposure=path, probe_variations=None, variation_coefficients=None, background_factors=None
    )


def turned_path(experiment: Experiment, turn: NDArray[Any]) -> Experiment:
    """The experiment with the path of every exposure, as row vectors, turned by a matrix (2, 2)."""
    if experiment.exposure is None:
        return experiment
    return replace(experiment, exposure=np.ascontiguousarray(experiment.exposure @ turn.T, np.float64))


def parse_centre(text: str) -> tuple[float, float]:
    """The centre that a text "Y,X" states; InputError if it is another."""
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--centre must be Y,X in detector pixels, got {text!r}") from None
    return y, x


def _cut(frame: NDArray[Any], setup: Setup, fill: Any) -> NDArray[Any]:
    """The part of a frame (h, w) around the centre, before binning; pixels outside of the frame have a fill value."""
    assert setup.size is not None
    side = setup.size * setup.bin
    centre = setup.centre or tuple(length // 2 for length in frame.shape)
    first = [round(at) - side // 2 for at in centre]
    inside = tuple(slice(max(0, low), min(length, low + side)) for low, length in zip(first, frame.shape, strict=True))
    if any(part.stop <= part.start for part in inside):
        raise InputError(f"the centre {centre} (y, x) is not on the detector of {frame.shape}; state another --centre")
    there = tuple(slice(part.start - low, part.stop - low) for part, low in zip(inside, first, strict=True))
    cut = np.full((side, side), fill, frame.dtype)
    cut[there] = frame[inside]
    return cut


def _sum_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of sums of a few counts."""
    return dtype if dtype.kind == "f" or dtype.itemsize == 8 else np.dtype(f"u{2 * dtype.itemsize}")
