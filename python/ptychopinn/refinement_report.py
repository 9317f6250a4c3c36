# SPDX-License-Identifier: BSD-3-Clause
"""The report of a refinement: how long it took, how well it explains the patterns, what it found beside the object.

`Reconstruction` carries it; :mod:`ptychopinn.refinement` fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RefinementReport:
    """The report of a refinement.

    Args:
        passes: over the scan.
        seconds: that they took, those before a resumed run included.
        deviance: per detector pixel, after every pass.
        interrupted: the refinement was stopped by hand.
        mode_powers: (M,) shares of the probe's modes in its power, strongest first.
        affine_matrix: (2, 2) the affine part of what the positions did: `refined = matrix @ (y, x) + shift`.
        affine_shift: (2,) pixels, its shift.
        split_half: agreement of two independent halves, see :func:`ptychopinn.metrics.scores.frc_figures`; None where
            halves were not compared or are too small.
        config: the configuration, JSON types.
    """

    passes: int
    seconds: float
    deviance: tuple[float, ...]
    interrupted: bool = False
    mode_powers: tuple[float, ...] = ()
    affine_matrix: tuple[tuple[float, float], tuple[float, float]] | None = None
    affine_shift: tuple[float, float] | None = None
    split_half: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
