# SPDX-License-Identifier: BSD-3-Clause
"""Former name of :mod:`ptychopinn.physics.initial_estimate`."""

from __future__ import annotations

import warnings
from typing import Any

from ptychopinn.physics import initial_estimate

_NEW_NAMES = {
    "start_patches": "initial_patches",
    "start_waves": "initial_waves",
    "transmission_level": "transmission_level",
}


def __getattr__(name: str) -> Any:
    if name not in _NEW_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _NEW_NAMES[name]
    warnings.warn(
        f"{__name__}.{name} is now {initial_estimate.__name__}.{new}; the old name will be removed",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(initial_estimate, new)
