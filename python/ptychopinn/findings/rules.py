# SPDX-License-Identifier: BSD-3-Clause
"""Rules that turn the statistics of a scan into findings, each with a sentence and advice."""

from __future__ import annotations

from collections.abc import Iterator

from ptychopinn.decisions import Decision
from ptychopinn.findings.centre import in_fft_order, off_centre
from ptychopinn.findings.finding import SEVERITIES, Finding
from ptychopinn.findings.measure import BRIGHT, FAINT, PatternStatistics, ScanGeometry

#: Linear overlap below which there is a warning, and a problem.
_OVERLAP, _NO_OVERLAP = 0.5, 0.1
#: Distance of neighbours, pixels, below which positions are in another unit.
_MIN_STEP = 0.05
_OVERSAMPLING = 1.5
_EDGE_FRACTION = 0.02
_PROBE_OFFSET = 0.125  # of N
_TRANSMISSION = (0.02, 1.1)
#: Fraction of saturated patterns from which saturation is a problem.
_SATURATED = 0.1
_SHOWN = 8  # indices in a sentence


def findings_of(
    patterns: PatternStatistics, geometry: ScanGeometry, measurement: Decision | None
) -> tuple[Finding, ...]:
    """The findings of a scan, worst first.

    Args:
        patterns: statistics of its counts.
        geometry: statistics of its positions and probe.
        measurement: the decision of its reader on the unit of the patterns, None if there was none.
    """
    return by_severity(
        [
            *_of_units(measurement, patterns),
            *_of_centre(patterns),
            *_of_pixels(patterns),
            *_of_outliers(patterns),
            *_of_positions(geometry, patterns),
            *_of_probe(geometry, patterns),
        ]
    )


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings, worst first."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _of_units(decision: Decision | None, patterns: PatternStatistics) -> Iterator[Finding]:
    if decision is not None and decision.by_default:
        yield Finding(
            "warning", "measurement",
            f"the file does not record whether patterns are amplitudes or counts; they were read as "
            f"{decision.value}",
            "state it with --measurement",
        )  # fmt: skip
    elif not patterns.integer:
        yield Finding(
            "note", "fractional_counts", "counts are not integers",
            "doses are correct only if the unit of the file is one photon",
        )  # fmt: skip


def _of_centre(patterns: PatternStatistics) -> Iterator[Finding]:
    half = patterns.size // 2
    if in_fft_order(patterns.offset, patterns.size):
        yield Finding(
            "problem", "fft_order",
            "the zero frequency is in the corner of the patterns (FFT order)",
            f"roll the patterns by {half} px along both axes (numpy.fft.fftshift)",
        )  # fmt: skip
    elif off_centre(patterns.offset):
        y, x = patterns.offset
        yield Finding(
            "warning", "centre",
            f"the zero frequency is at pixel ({half + y:.1f}, {half + x:.1f}) (y, x), expected ({half}, {half})",
            f"roll the patterns by ({-round(y)}, {-round(x)}) px, or expect a phase ramp over the object",
        )  # fmt: skip


def _of_pixels(patterns: PatternStatistics) -> Iterator[Finding]:
    rules = (
        ("dead", patterns.dead, "without counts in all patterns, in spite of illumination"),
        ("stuck", patterns.constant, "constant in all patterns"),
        ("hot", patterns.hot, "far above the neighbours in nearly all patterns"),
    )
    for key, number, description in rules:
        if number:
            yield Finding(
                "warning", f"{key}_pixels", f"{number} {'pixel is' if number == 1 else 'pixels are'} {description}",
                "mask them: --mask writes a mask for --bad-pixels",
            )  # fmt: skip


def _of_outliers(patterns: PatternStatistics) -> Iterator[Finding]:
    rules = (
        ("empty", patterns.empty, "without counts"),
        ("faint", patterns.faint, f"with less than {FAINT:.0%} of the median counts"),
        ("glaring", patterns.bright, f"with more than {BRIGHT:g} times the median counts"),
    )
    for key, indices, description in rules:
        if indices:
            yield Finding(
                "warning", f"{key}_patterns", f"{_patterns(indices)} {description}: {_some(indices)}",
                "remove them from the scan, or find the cause",
            )  # fmt: skip
    if patterns.saturated_at is not None:
        many = len(patterns.saturated) >= _SATURATED * patterns.number
        yield Finding(
            "problem" if many else "warning", "saturated",
            f"{_patterns(patterns.saturated)} saturated at {patterns.saturated_at:.6g} counts: "
            f"{_some(patterns.saturated)}",
            "mask these pixels, or measure with a lower intensity",
        )  # fmt: skip


def _of_positions(geometry: ScanGeometry, patterns: PatternStatistics) -> Iterator[Finding]:
    if geometry.duplicates:
        repeated = [second for _, second in geometry.duplicates]
        yield Finding(
            "warning", "duplicates", f"{_patterns(repeated)} at the position of an earlier one: {_some(repeated)}",
            "correct for repeated measurements; otherwise positions are missing or rounded",
        )  # fmt: skip
    if patterns.number > 1 and geometry.step < _MIN_STEP:
        yield Finding(
            "problem", "units_of_positions",
            f"all positions are within {max(geometry.extent):.3g} px, with neighbours {geometry.step:.3g} px apart",
            "convert the positions from metres to object pixels",
        )  # fmt: skip
    elif geometry.overlap < _NO_OVERLAP:
        yield Finding(
            "problem", "overlap",
            f"neighbours are {geometry.step:.1f} px apart and the probe is {geometry.diameter:.1f} px wide: there is "
            "hardly any overlap",
            "check the unit of the positions and the pixel size",
        )  # fmt: skip
    elif geometry.overlap < _OVERLAP:
        yield Finding(
            "warning", "overlap", f"the linear overlap is {geometry.overlap:.0%}",
            f"at least {_OVERLAP:.0%} is usual; scan in smaller steps",
        )  # fmt: skip


def _of_probe(geometry: ScanGeometry, patterns: PatternStatistics) -> Iterator[Finding]:
    if max(abs(shift) for shift in geometry.probe_offset) > _PROBE_OFFSET * patterns.size:
        y, x = geometry.probe_offset
        yield Finding(
            "warning", "probe_centre",
            f"the probe is ({y:.1f}, {x:.1f}) px (y, x) from the centre of its patch",
            "roll it to the centre (numpy.fft.fftshift if it is in the corners)",
        )  # fmt: skip
    elif geometry.edge_fraction > _EDGE_FRACTION:
        yield Finding(
            "warning", "probe_edge",
            f"{geometry.edge_fraction:.1%} of the probe's intensity is at the border of its patch",
            "the detector samples the patterns too coarsely for this probe, or the probe is a poor estimate",
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
            "scale the probe: the sum of |P|^2 should be the counts of a pattern without a sample",
        )  # fmt: skip


def _patterns(indices: list[int]) -> str:
    return f"{len(indices)} pattern{'' if len(indices) == 1 else 's'}"


def _some(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:_SHOWN]))
    return shown if len(indices) <= _SHOWN else f"{shown}, ..."
