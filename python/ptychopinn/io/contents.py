# SPDX-License-Identifier: BSD-3-Clause
"""What the reader of a format finds in a file, before counts and positions are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Decision
from ptychopinn.experiment import Experiment
from ptychopinn.io.counts import RawPatterns
from ptychopinn.io.fields import OpenFile
from ptychopinn.records import ScanRecord


@dataclass
class Contents:
    """The contents of a scan file.

    Args:
        file: the open file.
        key: of the patterns.
        patterns: (n, h, w) as stored.
        world: (n, 2) world coordinates (y, x) of the beam centre in metres; None if `pixels` is set.
        positions_without_unit: path of `world` in the file, if it is taken to be in metres for lack of a unit.
        pixels: (n, 2) beam centre (y, x) in object pixels, relative to the object's pixel (0, 0), which is also the
            scan's; None if `world` is set.
        table: file of the positions, used if `world` and `pixels` are None and the caller states none.
        raster: (rows, columns) of patterns that the file has in a raster.
        step: (y, x) metres between the positions of the raster.
        energy: in the file, eV, of the radiation of `experiment`.
        photon_energy: `energy` is that of photons of the same wavelength, whatever the radiation is.
        pixel_size: of the object in the file, metres, for patterns of the width w.
        pixel_sides: (y, x) metres of the detector's pixels, if they are not square and the caller wants them resampled.
        acquisition: geometry in the file; `world_origin` is the world coordinate of the object's pixel (0, 0), None if
            the file has no object.
        probe: (M, N, N), None if the file has none.
        probe_layout: how the probe was arranged, if its axes or its type leave a choice.
        scale_known: the reason why the probe is known to be in sqrt(counts); None if it is not known.
        bad_pixels: (N, N), True at pixels to ignore.
        truth: (H, W), the known object; None if there is none.
        stated: "amplitude" or "counts" if the file states which it holds.
        default: "amplitude" or "counts", used if neither file nor values decide.
        name: of the scan.
        frame_indexes: (n,) indexes of the patterns, see :class:`Scan`.
        record: decisions, orientation and metadata that this package wrote to the file.
        experiment: in the file, for its patterns and pixels as they are; the caller's overrides its fields.
    """

    file: OpenFile
    key: str
    patterns: RawPatterns
    world: NDArray[np.float64] | None = None
    positions_without_unit: str | None = None
    pixels: NDArray[np.float64] | None = None
    table: Path | None = None
    raster: tuple[int, int] | None = None
    step: tuple[float, float] | None = None
    energy: float | None = None
    photon_energy: bool = False
    pixel_size: float | None = None
    pixel_sides: tuple[float, float] | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    probe: NDArray[np.complex64] | None = None
    probe_layout: Decision | None = None
    scale_known: str | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    truth: NDArray[np.complex64] | None = None
    stated: str | None = None
    default: str = "counts"
    name: str = ""
    frame_indexes: NDArray[np.int64] | None = None
    record: ScanRecord = field(default_factory=ScanRecord)
    experiment: Experiment = field(default_factory=Experiment)
