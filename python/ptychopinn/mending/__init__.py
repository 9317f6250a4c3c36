# SPDX-License-Identifier: BSD-3-Clause
"""Repair of a scan: functions from a scan to a better one, each with a note of what it did.

Counts stay as they are where a mend does not ask for others; patterns on disk stay there, and are changed block by
block when they are read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptychopinn.mending.apply import Mended, Mends, apply_mends, mend
    from ptychopinn.mending.notes import Note

_WHERE = {
    "Mended": "ptychopinn.mending.apply",
    "Mends": "ptychopinn.mending.apply",
    "Note": "ptychopinn.mending.notes",
    "apply_mends": "ptychopinn.mending.apply",
    "mend": "ptychopinn.mending.apply",
}

__all__ = ["Mended", "Mends", "Note", "apply_mends", "mend"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
