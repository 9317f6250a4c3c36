# SPDX-License-Identifier: BSD-3-Clause
"""Patterns of a tilted or off-axis detector, as those of an upright one; see :mod:`ptychopinn.io.reprojection`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.io.probe import guess_probe
from ptychopinn.io.reprojection import Reprojection, TiltedDetector
from ptychopinn.mending.blocks import changed
from ptychopinn.mending.experiments import require_far_field
from ptychopinn.mending.notes import Note
from ptychopinn.scan import Scan


def reproject(
    scan: Scan, tilt: tuple[float, float] = (0.0, 0.0), beam: tuple[float, float] | None = None
) -> tuple[Scan, Note]:
    """Interpolate the patterns at the frequencies of an upright detector, with the zero frequency at (N//2, N//2).

    Counts become float32, expected counts that are no Poisson numbers: neighbours share counts. A probe that was
    estimated from the patterns is estimated again. The object pixel and the positions stay.

    Args:
        scan: with `acquisition.distance`, along the beam to the plane of the detector, and `detector_pixel_size`.
        tilt: (pitch, yaw) rad of the detector, see :class:`~ptychopinn.io.reprojection.TiltedDetector`.
        beam: (y, x) pixel of the patterns where the beam meets the plane of the detector; None: (N//2, N//2).

    Raises:
        InputError: a length is unknown, the scan is in the near field, or no pixel is left.
    """
    require_far_field(scan, "detector_tilt")
    distance, side, size = scan.acquisition.distance, scan.acquisition.detector_pixel_size, scan.patch_size
    if distance is None or side is None:
        missing = "distance" if distance is None else "detector_pixel_size"
        raise InputError(
            f"{scan.name}: expected distance and pixel of the detector for detector_tilt, found no {missing}; state "
            f"{missing}= (--{missing.replace('_', '-')})"
        )
    beam = (size // 2, size // 2) if beam is None else (float(beam[0]), float(beam[1]))
    detector = TiltedDetector((size, size), side, distance, beam, (float(tilt[0]), float(tilt[1])))
    change = Reprojection(detector, size, scan.bad_pixels)
    counts = changed(scan.counts, change, size, np.dtype(np.float32))
    if isinstance(counts, np.ndarray) and not counts.any():
        raise InputError("detector_tilt must leave pixels with counts, found none there; is the beam at this pixel?")
    experiment, lost = scan.experiment, ""
    if experiment.background is not None:
        experiment = replace(experiment, background=change(experiment.background[np.newaxis])[0])
    if experiment.saturation is not None:
        experiment, lost = replace(experiment, saturation=None), "; the saturation, a limit of pixels, is omitted"
    bad = change.bad_pixels if change.bad_pixels.any() else None
    probe = scan.probe
    if scan.decisions.probe is not None and scan.decisions.probe.value == "guessed":
        probe, lost = guess_probe(counts, bad), f"; the probe is estimated again{lost}"
    text = (
        f"patterns of a detector tilted by ({tilt[0]:g}, {tilt[1]:g}) rad with the beam at pixel ({beam[0]:g}, "
        f"{beam[1]:g}) interpolated to even frequencies, {int(change.bad_pixels.sum())} of {size**2} pixels without "
        f"data{lost}"
    )
    values = {"tilt_rad": [float(angle) for angle in tilt], "beam": [float(place) for place in beam]}
    mended = replace(scan, counts=counts, bad_pixels=bad, probe=probe, experiment=experiment)
    return mended, Note("detector_tilt", text, values)
