# SPDX-License-Identifier: BSD-3-Clause
"""What the measurements of a scan mean: one rule for each thing that can be wrong, with a sentence and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ptychopinn.decisions import Decision
from ptychopinn.inspection.centre import in_fft_order, misplaced
from ptychopinn.inspection.findings import SEVERITIES, Finding, Inspection
from ptychopinn.inspection.measure import FAINT, GLARING, Geometry, Patterns, measure_geometry, measure_patterns
from ptychopinn.inspection.orientation import FEWEST, OrientationReport, check_orientation
from ptychopinn.scan import Scan

#: Linear overlap below which neighbours share too little, and hardly anything.
_OVERLAP, _NO_OVERLAP = 0.5, 0.1
#: Below it, neighbours are closer than positions are known: they are in another unit.
_LEAST_STEP = 0.05
_OVERSAMPLING = 1.5
_EDGE_LIGHT = 0.02
_PROBE_OFFSET = 0.125  # of N
_TRANSMISSION = (0.02, 1.1)
#: Share of patterns at the ceiling from which saturation is a problem.
_SATURATED = 0.1
_SHOWN = 8  # indices in a sentence


def inspect_scan(scan: Scan, orientation: bool = True, seed: int = 0) -> Inspection:
    """Measure a scan, and find what is wrong with it.

    Args:
        scan: the scan; its truth is not looked at.
        orientation: check the orientation, too (a few seconds), if there are patterns enough.
        seed: of that check.

    Example:
        >>> from ptychopinn.physics.simulate import simulate
        >>> found = inspect_scan(simulate(patterns=25, size=32), orientation=False)
        >>> found.findings, round(found.geometry.overlap, 1)
        ((), 0.8)
    """
    patterns = measure_patterns(scan)
    geometry = measure_geometry(scan, patterns)
    decision = scan.decisions.measurement
    turned = None
    if orientation and scan.n >= FEWEST and geometry.step > 0:
        turned = check_orientation(replace(scan, bad_pixels=patterns.masked | patterns.suspects), seed)
    findings = [
        *_of_units(decision, patterns),
        *_of_centre(patterns),
        *_of_pixels(patterns),
        *_of_outliers(patterns),
        *_of_positions(geometry, patterns),
        *_of_probe(geometry, patterns),
        *_of_orientation(turned),
    ]
    return Inspection(
        name=scan.name,
        pixel_size=scan.pixel_size,
        energy=scan.energy,
        measurement=None if decision is None else decision.value,
        measurement_reason=None if decision is None else decision.reason,
        patterns=patterns,
        geometry=geometry,
        orientation=turned,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
    )


def _of_units(decision: Decision | None, patterns: Patterns) -> Iterator[Finding]:
    if decision is not None and decision.by_default:
        yield Finding(
            "warning", "measurement",
            f"nothing in the file says whether patterns are amplitudes or counts, and they were read as "
            f"{decision.value}",
            "state it with --measurement",
        )  # fmt: skip
    elif not patterns.whole:
        yield Finding(
            "note", "fractional_counts", "counts are not whole numbers",
            "the doses below are right only if the file's unit is one photon",
        )  # fmt: skip


def _of_centre(patterns: Patterns) -> Iterator[Finding]:
    half = patterns.size // 2
    if in_fft_order(patterns.offset, patterns.size):
        yield Finding(
            "problem", "fft_order",
            "the zero frequency is in the corner of the patterns, as Fourier transforms leave it",
            f"roll the patterns by {half} px along both axes (numpy.fft.fftshift)",
        )  # fmt: skip
    elif misplaced(patterns.offset):
        y, x = patterns.offset
        yield Finding(
            "warning", "centre",
            f"the zero frequency is at pixel ({half + y:.1f}, {half + x:.1f}) (y, x), expected is ({half}, {half})",
            f"roll the patterns by ({-round(y)}, {-round(x)}) px, or expect a phase ramp over the object",
        )  # fmt: skip


def _of_pixels(patterns: Patterns) -> Iterator[Finding]:
    rules = (
        ("dead", patterns.dead, "without a count in any pattern where there is light"),
        ("stuck", patterns.constant, "the same in all patterns"),
        ("hot", patterns.hot, "far above the pixels around in all patterns"),
    )
    for key, number, what in rules:
        if number:
            yield Finding(
                "warning", f"{key}_pixels", f"{number} {'pixel is' if number == 1 else 'pixels are'} {what}",
                "ignore them: --mask writes a mask that --bad-pixels takes",
            )  # fmt: skip


def _of_outliers(patterns: Patterns) -> Iterator[Finding]:
    rules = (
        ("empty", patterns.empty, "without counts"),
        ("faint", patterns.faint, f"with less than {FAINT:.0%} of the median counts"),
        ("glaring", patterns.glaring, f"with more than {GLARING:g} times the median counts"),
    )
    for key, found, what in rules:
        if found:
            yield Finding(
                "warning", f"{key}_patterns", f"{_patterns(found)} {what}: {_some(found)}",
                "leave them out, or find out why",
            )  # fmt: skip
    if patterns.saturated_at is not None:
        many = len(patterns.saturated) >= _SATURATED * patterns.number
        yield Finding(
            "problem" if many else "warning", "saturated",
            f"{_patterns(patterns.saturated)} at a ceiling of {patterns.saturated_at:.6g} counts: "
            f"{_some(patterns.saturated)}",
            "mask these pixels, or measure with less light",
        )  # fmt: skip


def _of_positions(geometry: Geometry, patterns: Patterns) -> Iterator[Finding]:
    if geometry.duplicates:
        doubled = [second for _, second in geometry.duplicates]
        yield Finding(
            "warning", "duplicates", f"{_patterns(doubled)} at the place of an earlier one: {_some(doubled)}",
            "fine if they were measured again; else positions are missing or were rounded",
        )  # fmt: skip
    if patterns.number > 1 and geometry.step < _LEAST_STEP:
        yield Finding(
            "problem", "units_of_positions",
            f"all positions lie within {max(geometry.extent):.3g} px, neighbours {geometry.step:.3g} px apart",
            "positions are to be in object pixels, not in metres",
        )  # fmt: skip
    elif geometry.overlap < _NO_OVERLAP:
        yield Finding(
            "problem", "overlap",
            f"neighbours are {geometry.step:.1f} px apart and the probe is {geometry.diameter:.1f} px wide, so they "
            "share hardly anything",
            "check the unit of the positions and the pixel size; nothing ties the patterns together",
        )  # fmt: skip
    elif geometry.overlap < _OVERLAP:
        yield Finding(
            "warning", "overlap", f"the linear overlap is {geometry.overlap:.0%}",
            f"{_OVERLAP:.0%} and more is usual; scan in smaller steps",
        )  # fmt: skip


def _of_probe(geometry: Geometry, patterns: Patterns) -> Iterator[Finding]:
    if max(abs(shift) for shift in geometry.probe_offset) > _PROBE_OFFSET * patterns.size:
        y, x = geometry.probe_offset
        yield Finding(
            "warning", "probe_centre",
            f"the probe lies ({y:.1f}, {x:.1f}) px (y, x) from the middle of its patch",
            "roll it there (numpy.fft.fftshift if it is in the corners)",
        )  # fmt: skip
    elif geometry.edge_light > _EDGE_LIGHT:
        yield Finding(
            "warning", "probe_edge", f"{geometry.edge_light:.1%} of the probe's light is at the border of its patch",
            "the patterns are sampled too coarsely for it, or it is a poor guess",
        )  # fmt: skip
    if geometry.oversampling < _OVERSAMPLING:
        yield Finding(
            "warning", "oversampling", f"the patch is only {geometry.oversampling:.2f} times as wide as the probe",
            "use a larger detector distance, smaller pixels or a smaller probe",
        )  # fmt: skip
    low, high = _TRANSMISSION
    if not low <= geometry.transmission <= high:
        yield Finding(
            "warning", "transmission", f"the patterns have {geometry.transmission:.3g} times the power of the probe",
            "scale the probe: the sum of |P|^2 is to be the counts of a pattern behind an empty sample",
        )  # fmt: skip


def _of_orientation(report: OrientationReport | None) -> Iterator[Finding]:
    if report is None:
        return
    if report.sure and not report.given_is_best:
        yield Finding(
            "problem", "orientation", report.sentence,
            f"use --orientation {report.best} with train, reconstruct and refine, or export the positions again",
        )  # fmt: skip
    elif not report.sure:
        yield Finding(
            "note", "orientation", report.sentence,
            "make sure that the probe is about right, above all its defocus; a sample without features tells nothing",
        )  # fmt: skip


def _patterns(indices: list[int]) -> str:
    return f"{len(indices)} pattern{'' if len(indices) == 1 else 's'}"


def _some(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:_SHOWN]))
    return shown if len(indices) <= _SHOWN else f"{shown}, ..."
