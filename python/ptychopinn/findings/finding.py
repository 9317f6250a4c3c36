# SPDX-License-Identifier: BSD-3-Clause
"""A fault of a scan, in words and for programs."""

from __future__ import annotations

from dataclasses import dataclass

from ptychopinn._one_line import one_line

#: Worst first: a "problem" prevents a reconstruction, a "warning" may lower its quality, a "note" is information.
SEVERITIES = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """A fault of a scan.

    Attributes:
        severity: one of `SEVERITIES`.
        key: a short name for programs, the same in all versions.
        sentence: what was found.
        advice: what to do.
    """

    severity: str
    key: str
    sentence: str
    advice: str

    __repr__ = one_line

    def __str__(self) -> str:
        return f"{self.severity.upper()}: {self.sentence}: {self.advice}"
