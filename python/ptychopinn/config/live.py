# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of a live run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ptychopinn._one_line import one_line
from ptychopinn.config.checks import check_fields, require


@dataclass(frozen=True)
class LiveConfig:
    """How a scan is reconstructed while it runs.

    Args:
        batch_size: frames that are predicted at a time, at most.
        batch_seconds: a frame waits at most so long for others to be predicted with it.
        picture_seconds: seconds between two pictures, at least.
        save_seconds: seconds between two results that are saved while frames come.
        improve: refine the image against the counts while no frames wait.
        improve_seconds: seconds that a refinement may take before waiting frames are looked at again.
        improve_passes: passes over the scan after which an image is not refined further, until frames come.
        checks: compare the first frames with the setup (dose, centre, orientation), and warn.
        final: reconstruct all frames once more when the scan has ended, as `ptychopinn reconstruct` does.
    """

    batch_size: int = 256
    batch_seconds: float = 0.25
    picture_seconds: float = 0.25
    save_seconds: float = 30.0
    improve: bool = True
    improve_seconds: float = 0.5
    improve_passes: int = 60
    checks: bool = True
    final: bool = True

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "live")
        require(self.batch_size >= 1, "live.batch_size", "be at least 1", self.batch_size)
        require(self.improve_passes >= 0, "live.improve_passes", "be at least 0", self.improve_passes)
        for name in ("batch_seconds", "picture_seconds", "save_seconds", "improve_seconds"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"live.{name}", "be positive", value)
