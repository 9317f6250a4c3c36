# SPDX-License-Identifier: BSD-3-Clause
"""ScanPlan: what the operators work out about a scan's positions, worked out once and used at every call.

It holds plain int64 tensors, so it passes through torch.compile and export like any other input. Results are bitwise
the same with and without one. The operators check it against the positions they are called with; on CUDA, where they do
not wait for the device, a canvas summed with the plan of other positions is NaN instead of an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ptycho_ext.canvas import CanvasGeometry
from ptycho_ext.ops._checks import Check, as_float64, as_pair


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """Which patches touch which part of the canvas, and in which order patches are best visited.

    Args:
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0], finite.
        patch_size: (h, w), or one integer for both.
        canvas_size: (H, W), or one integer for both.

    Attributes:
        order: (patches,) the order in which extraction visits the patches: neighbours on the canvas in succession.
        tile_start: (tiles + 1,) where each tile's list begins in tile_patches.
        tile_patches: (visits,) the patches of every tile, ascending; on CUDA with room for more behind the last.

    Raises:
        RuntimeError: a type, shape or size does not fit, the canvas is smaller than a patch, or a position is not
            finite (on CUDA this is the one look at the device that is waited for). An operator raises it too, when it
            is given a plan that was made for other positions, sizes or devices.

    Example:
        >>> from ptycho_ext import extract_patches
        >>> positions = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
        >>> plan = ScanPlan(positions, 2, (3, 4))
        >>> extract_patches(torch.arange(12.0).reshape(3, 4), positions, 2, plan=plan)[0]
        tensor([[4.5000, 5.5000],
                [8.5000, 9.5000]])
    """

    positions: Tensor = field(repr=False)
    patch_size: int | Sequence[int]
    canvas_size: int | Sequence[int]
    order: Tensor = field(init=False, repr=False)
    tile_start: Tensor = field(init=False, repr=False)
    tile_patches: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Detached: a plan holds integers only, and must not keep a graph alive.
        positions = as_float64(self.positions).detach()
        patch_size, canvas_size = as_pair(self.patch_size), as_pair(self.canvas_size)
        if positions.is_cuda and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing():
            bad = positions[~positions.isfinite()]
            Check("plan_tiles").require(bad.numel() == 0, "positions", "be finite", float(bad[0]) if len(bad) else "")
        order, tile_start, tile_patches = torch.ops.ptycho.plan_tiles(positions, patch_size, canvas_size)
        values = {
            "positions": positions,
            "patch_size": tuple(patch_size),
            "canvas_size": tuple(canvas_size),
            "order": order,
            "tile_start": tile_start,
            "tile_patches": tile_patches,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_scan_positions(
        cls, positions: Tensor | ArrayLike, patch_size: int | tuple[int, int], margin: int = 0
    ) -> tuple[ScanPlan, CanvasGeometry]:
        """The smallest canvas that holds the scan, and the plan on it.

        Args:
            positions: (..., n, 2) scan coordinates (y, x) of the patches' samples [0, 0].
            patch_size: (h, w), or one integer for both.
            margin: pixels to add on every side.

        Returns:
            The plan, whose ``positions`` are canvas coordinates, and the geometry that leads back to the scan.
        """
        geometry = CanvasGeometry.from_positions(positions, patch_size, margin)
        return cls(geometry.to_canvas(positions), patch_size, geometry.shape), geometry


def _fake_plan_tiles(
    positions: Tensor, patch_size: Sequence[int], canvas_size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    check = Check("plan_tiles")
    check.type("positions", positions, torch.float64)
    check.dims("positions", positions, 2, "(..., n, 2)")
    check.shape("positions", positions, (*positions.shape[:-1], 2))
    check.size("patch_size", patch_size)
    check.size("canvas_size", canvas_size)
    check.holds_patch("canvas_size", canvas_size, patch_size)
    # How many tiles there are is the backend's choice, and how many visits depends on the positions.
    context = torch.library.get_ctx()
    sizes = positions.numel() // 2, context.new_dynamic_size(min=1), context.new_dynamic_size()
    order, tile_start, tile_patches = (positions.new_empty(size, dtype=torch.int64) for size in sizes)
    return order, tile_start, tile_patches


torch.library.register_fake("ptycho::plan_tiles", _fake_plan_tiles)
