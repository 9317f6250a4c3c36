# SPDX-License-Identifier: BSD-3-Clause
"""Plans as arguments of operators: the tensors of a plan, or None for each.

Sizes are compared here; the kernels check that the plan was made for the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ptycho_ext.ops._checks import Check

if TYPE_CHECKING:
    from ptycho_ext.plan import ScanPlan

#: order, tile_start, tile_patches
PlanTensors = tuple[Tensor | None, Tensor | None, Tensor | None]
NO_PLAN: PlanTensors = (None, None, None)


def plan_tensors(
    op: str,
    plan: ScanPlan | None,
    positions: Tensor,
    patch_size: Sequence[int],
    canvas_size: Sequence[int],
) -> PlanTensors:
    """Tensors of a plan, after a check of its number of positions and of its sizes; without a plan, None for each."""
    if plan is None:
        return NO_PLAN
    check = Check(op)
    check.device("plan", plan.order, positions)
    if plan.positions.ndim == 2 and positions.ndim > 2 and plan.positions.shape == positions.shape[-2:]:
        plan = plan.repeated(tuple(positions.shape[:-2]))
    made_for = (tuple(plan.positions.shape), plan.patch_size, plan.canvas_size)
    called_with = (tuple(positions.shape), tuple(patch_size), tuple(canvas_size))
    names = ("positions of shape", "patches of", "a canvas of")
    for name, wanted, got in zip(names, called_with, made_for, strict=True):
        if got != wanted:
            check.require(False, "plan", f"be made for {name} {wanted}", str(got))
    return plan.order, plan.tile_start, plan.tile_patches
