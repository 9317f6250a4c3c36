# SPDX-License-Identifier: BSD-3-Clause
"""Inspection of a scan before its reconstruction: statistics, faults, orientation of the positions.

Names are imported when they are first used: every command turns positions, and few inspect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptychopinn._submodules import imported, submodules

if TYPE_CHECKING:
    from ptychopinn.findings.finding import Finding
    from ptychopinn.inspection.orientation import OrientationReport, check_orientation, oriented, require_orientation
    from ptychopinn.inspection.report import inspect_scan
    from ptychopinn.inspection.result import Inspection

_WHERE = {
    "Finding": "ptychopinn.findings.finding",
    "Inspection": "ptychopinn.inspection.result",
    "OrientationReport": "ptychopinn.inspection.orientation",
    "check_orientation": "ptychopinn.inspection.orientation",
    "inspect_scan": "ptychopinn.inspection.report",
    "oriented": "ptychopinn.inspection.orientation",
    "require_orientation": "ptychopinn.inspection.orientation",
}

__all__ = [
    "Finding",
    "Inspection",
    "OrientationReport",
    "check_orientation",
    "inspect_scan",
    "oriented",
    "require_orientation",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(imported(_WHERE[name]), name)
    return submodules(__name__)(name)


def __dir__() -> list[str]:
    return __all__
