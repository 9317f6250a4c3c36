# SPDX-License-Identifier: BSD-3-Clause
"""The inspection of a scan: statistics and findings, and the orientation of its positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ptychopinn.findings.finding import Finding
from ptychopinn.findings.geometry import measure_geometry
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.findings.rules import by_severity, findings_of
from ptychopinn.findings.signs import measure_signs
from ptychopinn.inspection.orientation import FEWEST, OrientationReport, check_orientation
from ptychopinn.inspection.result import Inspection
from ptychopinn.runtime.process_settings import own_defaults
from ptychopinn.scan import Scan


def inspect_scan(scan: Scan, orientation: bool = True, seed: int = 0) -> Inspection:
    """Inspect a scan: statistics, faults and the orientation of its positions.

    Args:
        scan: the scan; its truth is not used.
        orientation: check the orientation (a few seconds) if the scan has at least `orientation.FEWEST` patterns, and
            positions without a problem.
        seed: of that check.

    Returns:
        The statistics and the findings.

    Example:
        >>> from ptychopinn.physics.simulate import simulate
        >>> found = inspect_scan(simulate(patterns=25, size=32), orientation=False)
        >>> found.findings, round(found.geometry.overlap, 1)
        ((), 0.8)
    """
    with own_defaults():
        patterns = measure_patterns(scan)
        geometry, signs = measure_geometry(scan, patterns), measure_signs(scan, patterns)
    decision = scan.decisions.measurement
    findings = findings_of(patterns, geometry, decision, signs, scan.experiment)
    turned = None
    if orientation and scan.n >= FEWEST and not any(_is_of_positions(finding) for finding in findings):
        turned = check_orientation(replace(scan, bad_pixels=patterns.masked | patterns.suspects), seed)
    return Inspection(
        name=scan.name,
        pixel_size=scan.pixel_size,
        energy=scan.energy,
        radiation=scan.experiment.radiation,
        measurement=None if decision is None else decision.value,
        measurement_reason=None if decision is None else decision.reason,
        truth=scan.truth is not None,
        effects=tuple(scan.experiment.effects()),
        signs=signs,
        patterns=patterns,
        geometry=geometry,
        orientation=turned,
        findings=by_severity([*findings, *_of_orientation(turned)]),
    )


def _is_of_positions(finding: Finding) -> bool:
    """Whether a finding is a problem of the positions, with which their orientation cannot be tried."""
    return finding.severity == "problem" and finding.key in (
        "positions",
        "units_of_positions",
        "overlap",
        "outlying_positions",
    )


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
            "check the probe, above all its defocus; a sample without features does not determine the orientation",
        )  # fmt: skip
