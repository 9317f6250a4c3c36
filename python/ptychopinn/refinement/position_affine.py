# SPDX-License-Identifier: BSD-3-Clause
"""Common scale, rotation and shear of the positions, refined as four parameters before the single positions.

With a known probe they are observable, because every pattern sees the object in the pixel size of its probe. Refined
with all positions at once they converge in thousands of passes: object and single positions adapt to the wrong scale
within a few, and hold it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ptychopinn.refinement.ambiguities import affine_residual

#: Passes in which only the four parameters move, of those from scratch.
AFFINE_PASSES = 90


def affine_first(
    reported: Tensor, passes: Callable[[], int], groups: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Make the projection of moves (n, 2) onto those of common scale, rotation and shear; later onto all but the mean.

    Args:
        reported: float64, (n, 2), positions.
        passes: returns the number of passes until now.
        groups: (n,), of positions that have the four parameters in common; None: all have.
    """
    residual = affine_residual(reported, groups)

    def project(moves: Tensor) -> Tensor:
        chosen = moves - residual(moves) if passes() < AFFINE_PASSES else moves
        return chosen - chosen.mean(0)

    return project
