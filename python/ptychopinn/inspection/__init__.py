# SPDX-License-Identifier: BSD-3-Clause
"""Inspection of a scan before its reconstruction: statistics, faults, orientation of the positions."""

from __future__ import annotations

from ptychopinn.inspection.findings import Finding, Inspection
from ptychopinn.inspection.orientation import OrientationReport, check_orientation, oriented, require_orientation
from ptychopinn.inspection.report import inspect_scan

__all__ = [
    "Finding",
    "Inspection",
    "OrientationReport",
    "check_orientation",
    "inspect_scan",
    "oriented",
    "require_orientation",
]
