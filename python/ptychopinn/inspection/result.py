# SPDX-License-Identifier: BSD-3-Clause
"""The result of an inspection, statistics and findings, as text and as JSON types."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.acquisition import energy_in_words
from ptychopinn.findings.finding import SEVERITIES, Finding
from ptychopinn.findings.geometry import ENCIRCLED, ScanGeometry
from ptychopinn.findings.measure import FORMER_NAMES, PatternStatistics
from ptychopinn.findings.report import json_values, wrapped
from ptychopinn.findings.signs import Signs
from ptychopinn.inspection.orientation import SURE, OrientationReport

_LABEL = 22


@dataclass(frozen=True)
class Inspection:
    """The result of :func:`ptychopinn.inspection.inspect_scan`.

    Attributes:
        name: of the scan.
        pixel_size: of the object, m, or None.
        energy: of a photon, or the kinetic energy of an electron, eV, or None.
        measurement: what the file holds, "amplitude" or "counts", or None if that is not recorded.
        measurement_reason: how that was decided.
        truth: whether the scan has a known object.
        patterns: statistics of the counts.
        geometry: statistics of positions and probe.
        orientation: the check of the orientation, or None if it was not done.
        findings: faults, worst first.
        radiation: "photon" or "electron".
        effects: what the scan states beside the plain forward model, in words.
        signs: of effects that it does not state; None: not measured.
    """

    name: str
    pixel_size: float | None
    energy: float | None
    measurement: str | None
    measurement_reason: str | None
    truth: bool
    patterns: PatternStatistics
    geometry: ScanGeometry
    orientation: OrientationReport | None
    findings: tuple[Finding, ...]
    radiation: str = "photon"
    effects: tuple[str, ...] = ()
    signs: Signs | None = None

    __repr__ = one_line

    @property
    def problems(self) -> int:
        """Number of findings that are problems."""
        return sum(finding.severity == "problem" for finding in self.findings)

    @property
    def bad_pixels(self) -> NDArray[np.bool_]:
        """Mask (N, N) of the scan's bad pixels and of faulty ones, for `Scan.bad_pixels`."""
        return self.patterns.masked | self.patterns.faulty

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON types: faulty pixels as (row, column), no images, None for NaN and infinity."""
        values = asdict(self)
        for image in ("mean", "masked", "suspects", "saturated_pixels", "totals", "intact"):
            del values["patterns"][image]
        if self.signs is not None:
            values["signs"]["motion"] = self.signs.motion.tolist()
        values["patterns"]["suspects"] = np.argwhere(self.patterns.suspects).tolist()
        for part in ("patterns", "geometry"):
            values[part] = {FORMER_NAMES.get(name, name): value for name, value in values[part].items()}
        plain: dict[str, Any] = json_values(values)
        return plain

    def _repr_html_(self) -> str:
        """The report with the mean pattern, for notebooks."""
        from ptychopinn.plotting.notebook import block, pattern_picture

        rows = [(f"{title}: {label}", text) for title, section in self._sections() for label, text in section]
        mean = np.where(self.patterns.masked, np.nan, self.patterns.mean)
        return block(f"{self.name}: {_summary(self)}", rows, self.findings, pattern_picture(mean))

    def __str__(self) -> str:
        lines = [self.name, ""]
        for title, rows in self._sections():
            lines.append(title)
            for label, text in rows:
                lines += wrapped(f"  {label:{_LABEL}}{text}", " " * (_LABEL + 2))
            lines.append("")
        for finding in self.findings:
            lines += wrapped(str(finding), "  ")
        lines.append(_summary(self))
        return "\n".join(lines)

    def _sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        patterns, geometry, size = self.patterns, self.geometry, self.patterns.size
        centre = ", ".join(f"{shift + size // 2:.2f}" for shift in patterns.offset)
        zero = f"at pixel ({centre}) (y, x); expected ({size // 2}, {size // 2})"
        pixel = None if self.pixel_size is None else 1e6 * self.pixel_size
        return [
            (
                "patterns",
                [
                    ("number and size", f"{patterns.number} of {size} x {size} px, {patterns.type}"),
                    ("read as", f"{self.measurement}: {self.measurement_reason}" if self.measurement else "not stated"),
                    (
                        "photons per pattern",
                        f"mean {patterns.mean_total:.4g}, from {patterns.lowest:.4g} to {patterns.highest:.4g}",
                    ),
                    ("brightest pixel", f"{patterns.largest:.6g} counts"),
                    ("zero frequency", zero if patterns.far else "none, in the near field"),
                    (
                        "pixels",
                        f"{int(patterns.masked.sum())} masked; of the others {patterns.dead} dead, "
                        f"{patterns.constant} stuck, {patterns.hot} hot"
                        + (f", {patterns.beamstop} behind a beamstop" if patterns.beamstop else ""),
                    ),
                ],
            ),
            (
                "scan",
                [
                    ("experiment", ", ".join(self.effects) or "thin sample, still probe, far field, ideal detector"),
                    ("extent (y, x)", _lengths(geometry.extent, pixel)),
                    ("known object", "in the file, for `ptychopinn evaluate`" if self.truth else "none"),
                    ("canvas", f"{geometry.canvas[0]} x {geometry.canvas[1]} px"),
                    ("neighbours", f"{_lengths((geometry.step,), pixel)} apart (median distance to the nearest)"),
                    (
                        "photons per pixel",
                        f"{geometry.dose:.4g} (total counts / {geometry.illuminated} illuminated object pixels)",
                    ),
                ],
            ),
            (
                "probe",
                [
                    ("modes", str(geometry.modes)),
                    ("diameter", f"{_lengths((geometry.diameter,), pixel)} (with {ENCIRCLED:.0%} of the intensity)"),
                    ("linear overlap", f"{geometry.overlap:.0%} (1 - distance of neighbours / diameter)"),
                    ("oversampling", f"{geometry.oversampling:.2f} (patch side / diameter)"),
                    ("mean transmission", f"{geometry.transmission:.3g} (mean counts / power of the probe)"),
                ],
            ),
            (
                "units",
                [
                    energy_in_words(self.energy, self.radiation),
                    ("object pixel", "unknown" if pixel is None else f"{1e3 * pixel:.4g} nm"),
                ],
            ),
            ("orientation", self._orientation()),
        ]

    def _orientation(self) -> list[tuple[str, str]]:
        report = self.orientation
        if report is None:
            return [("best fit", "not checked")]
        pair = "" if report.twin is None else f" or {report.twin}, which fit equally well with this probe"
        margin = f"{report.confidence:.1f} standard errors over {report.patterns} patterns; significant from {SURE:g}"
        return [("best fit", report.best + pair), ("margin", margin)]


def _summary(found: Inspection) -> str:
    if not found.findings:
        return "no findings"
    counts = [(sum(f.severity == severity for f in found.findings), severity) for severity in SEVERITIES]
    return ", ".join(f"{number} {severity}{'s' if number > 1 else ''}" for number, severity in counts if number)


def _lengths(pixels: tuple[float, ...], pixel: float | None) -> str:
    """Lengths in pixels, and in micrometres if the pixel size is known."""
    text = " x ".join(f"{length:.1f}" for length in pixels) + " px"
    return text if pixel is None else text + " = " + " x ".join(f"{length * pixel:.3g}" for length in pixels) + " µm"
