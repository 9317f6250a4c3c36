# SPDX-License-Identifier: BSD-3-Clause
"""All mends of a scan in one order, and the choice of those that its findings ask for.

The order is that in which one mend needs another: faulty pixels disturb every measurement of patterns, the unit of the
positions that of their outliers, and cropping keeps what is at the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.inspection import Inspection, inspect_scan, oriented
from ptychopinn.mending.blocks import largest_of
from ptychopinn.mending.detector import RESIZERS, centre, shift
from ptychopinn.mending.dose import even_dose
from ptychopinn.mending.notes import Note, with_notes
from ptychopinn.mending.patterns import drop, drop_outliers, find_outliers
from ptychopinn.mending.pixels import clip, find_faulty, good_pixels, invert_mask, mask_above, mask_faulty, subtract
from ptychopinn.mending.positions import convert_positions, fitting_unit, scale_positions
from ptychopinn.mending.probe import centre_probe, scale_probe, scaled_by_reader
from ptychopinn.mending.reprojection import reproject
from ptychopinn.runtime.process_settings import own_defaults
from ptychopinn.scan import Scan

#: Mends after which a probe that the reader scaled to the counts is scaled again.
_OF_COUNTS = ("detector_tilt", "invert_mask", "subtract", "mask_faulty", "mask_above", "clip", "drop", "drop_outliers")


@dataclass(frozen=True)
class Mends:
    """Mends to apply, see :func:`mend`; None, False and () are not applied."""

    invert_mask: bool = False
    subtract: float | None = None
    mask_faulty: bool = False
    mask_above: float | None = None
    clip: float | None = None
    crop: int | None = None
    pad: int | None = None
    bin: int | None = None
    centre: bool = False
    shift: tuple[int, int] | None = None
    drop_outliers: bool = False
    drop: tuple[int, ...] = ()
    orientation: str | None = None
    position_unit: str | None = None
    scale_positions: float | None = None
    scale_probe: bool = False
    centre_probe: bool = False
    even_dose: bool = False
    detector_tilt: tuple[float, float] | None = None
    beam: tuple[float, float] | None = None

    __repr__ = one_line

    def __post_init__(self) -> None:
        for one, other in (("centre", "shift"), ("position_unit", "scale_positions")):
            if getattr(self, one) and getattr(self, other) is not None:
                raise InputError(f"{one} and {other} must not both be stated, got both")
        if self.beam is not None and self.detector_tilt is None:
            raise InputError("beam needs detector_tilt as well, 0,0 for a detector that is off the axis only")

    def __bool__(self) -> bool:
        return any(self._stated(field.name) for field in fields(self))

    def _stated(self, name: str) -> bool:
        return getattr(self, name) not in (None, False, ())

    def options(self) -> list[str]:
        """The options of the command line.

        Example:
            >>> Mends(centre=True, drop=(3, 5), crop=32).options()
            ['--crop', '32', '--centre', '--drop', '3,5']
        """
        words = []
        for name in (field.name for field in fields(self) if self._stated(field.name)):
            value = getattr(self, name)
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
        return words


@dataclass(frozen=True)
class Mended:
    """A mended scan.

    Attributes:
        scan: the scan, with the notes in its metadata.
        notes: what was done, in order.
        mends: what was applied, those that were chosen by the findings included.
    """

    scan: Scan
    notes: tuple[Note, ...]
    mends: Mends

    __repr__ = one_line


def mend(
    scan: Scan,
    *,
    all: bool = False,
    invert_mask: bool = False,
    subtract: float | None = None,
    mask_faulty: bool = False,
    mask_above: float | None = None,
    clip: float | None = None,
    crop: int | None = None,
    pad: int | None = None,
    bin: int | None = None,
    centre: bool = False,
    shift: tuple[int, int] | None = None,
    drop_outliers: bool = False,
    drop: Sequence[int] = (),
    orientation: str | None = None,
    position_unit: str | None = None,
    scale_positions: float | None = None,
    scale_probe: bool = False,
    centre_probe: bool = False,
    even_dose: bool = False,
    detector_tilt: tuple[float, float] | None = None,
    beam: tuple[float, float] | None = None,
) -> Scan:
    """Repair a scan, as `ptychopinn mend` does (docs/mend.md). Each argument is a mend of its own.

    Patterns on disk stay there. `metadata["mended"]` lists what was done. A probe that the reader scaled to the counts
    is scaled again when pixels are masked, counts clipped or patterns omitted.

    Args:
        scan: the scan, which is not changed.
        all: apply every mend that a finding of :func:`ptychopinn.inspection.inspect_scan` asks for.
        invert_mask: bad pixels become good, and good ones bad.
        subtract: counts of a constant background, which all pixels have; what would be negative becomes 0.
        mask_faulty: dead, stuck, hot and saturated pixels and gaps become bad pixels.
        mask_above: pixels that reach this number of counts in any pattern become bad pixels.
        clip: larger counts become the median of their neighbours in the same pattern.
        crop: to this number of pixels about the centre; the object pixel becomes larger.
        pad: to this number of pixels, with bad ones; the object pixel becomes smaller.
        bin: sums of so many pixels along each axis; the field of view becomes smaller.
        centre: roll the patterns so that the zero frequency is at pixel (N//2, N//2), out of FFT order too.
        shift: roll the patterns by (y, x) pixels.
        drop_outliers: omit patterns without counts, below 1 % and above 5 times the median, and those with a position
            far from all others.
        drop: indices of patterns to omit, of the scan as it is.
        orientation: of the positions, see :data:`ptychopinn.acquisition.ORIENTATION_NAMES`.
        position_unit: "um", "mm", "nm", "m" or "px", of the coordinates in the file, in place of the one that was read.
        scale_positions: factor of the positions.
        scale_probe: scale the probe to the mean counts of the patterns.
        centre_probe: roll the probe so that its centre of mass is at sample N//2.
        even_dose: divide patterns by their exposure, judged by their neighbours; counts become float32.
        detector_tilt: (pitch, yaw) rad of the detector: patterns are interpolated at the frequencies of an upright one;
            counts become float32.
        beam: with it, the pixel (y, x) where the beam meets the plane of the detector; None: (N//2, N//2).

    Returns:
        The mended scan.

    Raises:
        InputError: an argument is out of range, or nothing would be left of the scan.

    Example:
        >>> from ptychopinn.physics.simulate import simulate
        >>> scan = simulate(patterns=25, size=32)
        >>> scan.counts[7] = 0
        >>> mended = mend(scan, drop_outliers=True)
        >>> mended.n, [note["text"] for note in mended.metadata["mended"]]
        (24, ['1 pattern omitted: 1 without counts (7)'])
    """
    mends = Mends(
        invert_mask, subtract, mask_faulty, mask_above, clip, crop, pad, bin, centre, shift, drop_outliers, tuple(drop),
        orientation, position_unit, scale_positions, scale_probe, centre_probe,
        even_dose, detector_tilt, beam,
    )  # fmt: skip
    return apply_mends(scan, mends, all=all).scan


def apply_mends(
    scan: Scan,
    mends: Mends,
    *,
    all: bool = False,
    check_orientation: bool = True,
    coordinates: str | None = None,
    origin: str | None = None,
) -> Mended:
    """Apply mends in their order.

    Args:
        scan: the scan, which is not changed.
        mends: the mends.
        all: and those that a finding asks for.
        check_orientation: with `all`, check the orientation of a scan without other problems (a few seconds).
        coordinates: "m" or "px", in which the coordinates of the file were read; None: taken from the scan.
        origin: path of the file, for the notes in the metadata.

    Raises:
        InputError: see :func:`mend`.
    """
    with own_defaults():
        work = _Work(scan, coordinates, all)
        work.of_pixels(mends)
        if mends.detector_tilt is not None:
            work.take(reproject(work.scan, mends.detector_tilt, mends.beam))
        work.of_positions(mends)
        work.of_outliers(mends)
        work.of_centre(mends)
        work.of_probe(mends)
        work.of_orientation(mends, check_orientation)
        for name, resize in RESIZERS.items():
            if getattr(mends, name) is not None:
                work.take(resize(work.scan, getattr(mends, name)))
        if work.notes and not largest_of(work.scan.counts)[good_pixels(work.scan)].any():
            raise InputError(f"{scan.name}: expected good pixels with counts after mending, found none; mend less")
    return Mended(with_notes(work.scan, work.notes, origin), tuple(work.notes), replace(mends, **work.chosen))


class _Work:
    """A scan while it is mended.

    Args:
        scan: the scan.
        coordinates: see :func:`apply_mends`.
        all: apply what a finding asks for.
    """

    def __init__(self, scan: Scan, coordinates: str | None, all: bool) -> None:
        self.scan, self.coordinates, self.all = scan, coordinates, all
        self.notes: list[Note] = []
        self.chosen: dict[str, Any] = {}
        self._inspection: Inspection | None = None
        self._rows: NDArray[np.int64] = np.arange(scan.n)

    def take(self, result: tuple[Scan, Note], chosen: Any = None) -> None:
        """Continue with a result; ``chosen`` is the value of its option if a finding asked for it."""
        self.scan, note = result
        self._inspection = None
        self.notes.append(note)
        if chosen is not None:
            self.chosen[note.name] = chosen

    def found(self) -> Inspection:
        """The inspection of the scan as it is now."""
        if self._inspection is None:
            self._inspection = inspect_scan(self.scan, orientation=False)
        return self._inspection

    def asked_for(self, *keys: str) -> bool:
        """Whether a finding with one of these keys asks for a mend."""
        return self.all and any(finding.key in keys for finding in self.found().findings)

    def hidden(self) -> bool:
        """Whether the mask hides so much that it must mark good pixels."""
        return self.asked_for("mask") and any(
            f.key == "mask" and f.severity == "problem" for f in self.found().findings
        )

    def of_pixels(self, mends: Mends) -> None:
        if mends.drop:
            self.take(drop(self.scan, mends.drop))
            self._rows = np.setdiff1d(self._rows, mends.drop)
        if mends.invert_mask or self.hidden():
            self.take(invert_mask(self.scan), True)
        if mends.subtract is not None:
            self.take(subtract(self.scan, mends.subtract))
        elif self.asked_for("background"):
            background = self.found().patterns.background
            self.take(subtract(self.scan, background), background)
        if mends.mask_faulty or self.all:
            faulty = find_faulty(self.scan)
            if mends.mask_faulty or faulty.mask.any():
                self.take(mask_faulty(self.scan, faulty), True)
        if mends.mask_above is not None:
            self.take(mask_above(self.scan, mends.mask_above))
        if mends.clip is not None:
            self.take(clip(self.scan, mends.clip))

    def of_positions(self, mends: Mends) -> None:
        if mends.position_unit is not None:
            self.take(convert_positions(self.scan, mends.position_unit, self.coordinates))
        elif mends.scale_positions is not None:
            self.take(scale_positions(self.scan, mends.scale_positions, self.coordinates))
        elif self.all:
            unit = fitting_unit(self.scan, self.found().geometry.diameter, self.coordinates)
            factor = self.found().geometry.scaling
            if unit is not None:
                self.take(convert_positions(self.scan, unit, self.coordinates), unit)
            elif factor is not None and self.asked_for("units_of_positions", "overlap"):
                self.take(scale_positions(self.scan, factor, self.coordinates), factor)

    def of_outliers(self, mends: Mends) -> None:
        if mends.drop_outliers or self.all:
            outliers = find_outliers(self.scan)
            if mends.drop_outliers or outliers.rows:
                self.take(drop_outliers(self.scan, outliers, self._rows), True)
        if mends.even_dose or self.asked_for("dose_spread"):
            self.take(even_dose(self.scan), True)

    def of_centre(self, mends: Mends) -> None:
        if mends.shift is not None:
            self.take(shift(self.scan, mends.shift))
        elif mends.centre or self.asked_for("fft_order", "centre"):
            self.take(centre(self.scan), True)

    def of_probe(self, mends: Mends) -> None:
        if mends.centre_probe or self.asked_for("probe_centre"):
            self.take(centre_probe(self.scan), True)
        if mends.scale_probe or self.asked_for("transmission"):
            self.take(scale_probe(self.scan), True)
        elif scaled_by_reader(self.scan) and any(note.name in _OF_COUNTS for note in self.notes):
            self.take(scale_probe(self.scan))

    def of_orientation(self, mends: Mends, check: bool) -> None:
        name = mends.orientation
        chosen = None
        if name is None and self.all and check and not self.found().problems:
            found = inspect_scan(self.scan)
            if any(finding.key == "orientation" and finding.severity == "problem" for finding in found.findings):
                assert found.orientation is not None
                name = chosen = found.orientation.best
        if name is not None:
            turned = oriented(self.scan, name)
            lost = "; the known object is omitted" if self.scan.truth is not None and turned.truth is None else ""
            note = Note("orientation", f"positions turned: {name}{lost}", {"orientation": name})
            self.take((turned, note), chosen)
