# SPDX-License-Identifier: BSD-3-Clause
"""The report of a refinement: duration, fit to the patterns, and results other than the object.

:mod:`ptychopinn.refinement` makes it, and it is a field of `Reconstruction`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ptychopinn._one_line import one_line


@dataclass(frozen=True)
class RefinementReport:
    """The report of a refinement.

    Args:
        passes: number of passes over the scan.
        seconds: duration of all passes, including those before the run was resumed.
        deviance: per detector pixel, after each pass.
        interrupted: the user interrupted the refinement.
        mode_powers: (M,) fraction of the probe's power in each mode, descending.
        affine_matrix: (2, 2), of the affine map that fits the refined positions: `refined = matrix @ (y, x) + shift`.
        affine_shift: (2,) (y, x) in pixels, the shift of this map.
        split_half: figures of the split-half Fourier ring correlation, see
            :func:`ptychopinn.metrics.scores.frc_figures`; None if it was not computed, or the overlap is too small.
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

    __repr__ = one_line
