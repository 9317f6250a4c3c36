# SPDX-License-Identifier: BSD-3-Clause
"""The result of a diagnosis as text and as JSON types."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptychopinn._one_line import one_line
from ptychopinn.diagnosis.causes import LIKELY, Cause
from ptychopinn.diagnosis.experiments import Experiments
from ptychopinn.diagnosis.residuals import Residuals
from ptychopinn.findings.finding import Finding
from ptychopinn.findings.report import json_values, wrapped


@dataclass(frozen=True)
class Diagnosis:
    """The result of :func:`ptychopinn.diagnose`.

    Attributes:
        name: of the scan.
        causes: possible causes, the most likely first.
        residuals: of the result, over detector and scan.
        experiments: the trials on a sample of the patterns.
        findings: of the check of the scan.
        facts: rows of a label and a text, what the result was.
        seconds: that the diagnosis took.
    """

    name: str
    causes: tuple[Cause, ...]
    residuals: Residuals
    experiments: Experiments
    findings: tuple[Finding, ...]
    facts: tuple[tuple[str, str], ...]
    seconds: float

    __repr__ = one_line

    @property
    def cause(self) -> str:
        """Key of the most likely cause; "none" if no fault was found."""
        return self.causes[0].key

    @property
    def ratio(self) -> float:
        """Loss of the result over the noise floor, of all patterns that were compared."""
        return self.residuals.ratio

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON types, without images; None for NaN and infinity."""
        experiments = asdict(self.experiments)
        residuals = self.residuals
        measured, predicted = residuals.radial()
        values = {
            "name": self.name,
            "cause": self.cause,
            "ratio": self.ratio,
            "causes": [asdict(cause) for cause in self.causes],
            "findings": [asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
            "experiments": experiments,
            "patterns": {
                "members": residuals.members.tolist(),
                "ratios": residuals.ratios.tolist(),
                "intensities": residuals.intensities.tolist(),
            },
            "rings": {"measured": measured.tolist(), "predicted": predicted.tolist()},
            "seconds": self.seconds,
        }
        plain: dict[str, Any] = json_values(values)
        return plain

    def __str__(self) -> str:
        first, residuals = self.causes[0], self.residuals
        lines = [
            self.name,
            "",
            f"The result explains the data to within {self.ratio:.2f} times shot noise.",
            *wrapped(f"Most likely: {first.title}."),
            *wrapped(f"  evidence: {first.evidence}", "    "),
            *wrapped(f"  what to do: {first.advice}", "    "),
        ]
        if len(self.causes) > 1:
            lines += ["", "Also found, the most likely first:"]
        for cause in self.causes[1:]:
            lines += wrapped(f"- {cause.title}{'' if cause.weight >= LIKELY else ' (a small effect)'}", "  ")
            lines += wrapped(f"  evidence: {cause.evidence}", "    ")
            lines += wrapped(f"  what to do: {cause.advice}", "    ")
        if self.findings:
            lines += ["", "The check of the scan found:"]
            for finding in self.findings:
                lines += wrapped(f"- {finding}", "  ")
        lines += ["", "Residuals"]
        for label, text in (*self.facts, *_rows(residuals)):
            lines += wrapped(f"  {label:22}{text}", " " * 24)
        return "\n".join(lines)


def _rows(residuals: Residuals) -> list[tuple[str, str]]:
    ratios, spread = residuals.ratios, residuals.intensities
    worst = residuals.members[np.argsort(-ratios)[:5]]
    pixel = residuals.pixel_ratio[np.isfinite(residuals.pixel_ratio)]
    quarter = len(ratios) // 4 + 1
    first, last = float(ratios[:quarter].mean()), float(ratios[-quarter:].mean())
    high, highest = float(np.quantile(ratios, 0.95)), float(np.quantile(pixel, 0.99))
    return [
        (
            "patterns",
            f"loss over noise floor: median {np.median(ratios):.2f}, 95 % below {high:.2f}",
        ),
        ("worst patterns", ", ".join(str(index) for index in worst)),
        ("over time", f"first quarter {first:.2f}, last quarter {last:.2f}"),
        (
            "over the detector",
            f"median {np.median(pixel):.2f}, 99 % of the pixels below {highest:.2f}",
        ),
        ("intensity", f"measured over predicted, standard deviation {float(spread.std()):.1%}"),
    ]
