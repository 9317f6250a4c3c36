# SPDX-License-Identifier: BSD-3-Clause
"""ScanPlan: what the operators work out about a scan's positions, worked out once and used at every call.

It holds plain int64 tensors, so it passes through torch.compile and export like any other input. Results are bitwise
the same with and without one. The operators check it against the positions they are called with; on CUDA, where they do
not wait for the device, a canvas summed with the plan of other positions is NaN instead of an error.

It is a module without parameters, because what uses it is one: it follows its owner to another device, and is worked
out again there, since every kind of device cuts the canvas in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ptycho_ext.canvas import CanvasGeometry
from ptycho_ext.ops._checks import Check, as_pair
from ptycho_ext.ops._precision import as_float64


class ScanPlan(nn.Module):
    """Which patches touch which part of the canvas, and in which order patches are best visited.

    Args:
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0], finite.
        patch_size: (h, w), or one integer for both.
        canvas_size: (H, W), or one integer for both.

    Attributes:
        positions: (..., n, 2) float64, detached.
        patch_size: (h, w).
        canvas_size: (H, W).
        order: (patches,) the order in which extraction visits the patches: neighbours on the canvas in succession.
        tile_start: (tiles + 1,) where each tile's list begins in tile_patches.
        tile_patches: (pairs,) the patches of every tile, ascending; on CUDA with room for more behind the last.

    ``to(device)``, of the plan or of a module that holds it, works it out again on that device. A conversion of type
    does not concern it: its positions stay float64. It has nothing in a state dict.

    Raises:
        RuntimeError: a type, shape or size does not fit, the canvas is smaller than a patch, or a position is not
            finite (on CUDA this is the one look at the device that is waited for). An operator raises it too, when it
            is given a plan that was made for other positions, sizes or devices.

    Example:
        >>> from ptycho_ext import extract_patches
        >>> positions = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
        >>> plan = ScanPlan(positions, 2, (3, 4))
        >>> plan
        ScanPlan(2 patches of (2, 2) on (3, 4), cpu)
        >>> extract_patches(torch.arange(12.0).reshape(3, 4), positions, 2, plan=plan)[0]
        tensor([[4.5000, 5.5000],
                [8.5000, 9.5000]])
    """

    positions: Tensor
    order: Tensor
    tile_start: Tensor
    tile_patches: Tensor

    def __init__(self, positions: Tensor, patch_size: int | Sequence[int], canvas_size: int | Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(as_pair(patch_size))
        self.canvas_size = tuple(as_pair(canvas_size))
        # Detached: a plan holds integers only, and must not keep a graph alive.
        self._make(as_float64(positions).detach())

    def _make(self, positions: Tensor) -> None:
        if positions.is_cuda and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing():
            bad = positions[~positions.isfinite()]
            Check("plan_tiles").require(bad.numel() == 0, "positions", "be finite", float(bad[0]) if len(bad) else "")
        self.positions = positions
        self._repeated: dict[tuple[int, ...], ScanPlan] = {}
        self.order, self.tile_start, self.tile_patches = torch.ops.ptycho.plan_tiles(
            positions, list(self.patch_size), list(self.canvas_size)
        )

    def repeated(self, leading: tuple[int, ...]) -> ScanPlan:
        """This plan for positions (n, 2) that serve canvases (..., H, W) of these leading dimensions, made once."""
        if leading not in self._repeated:
            positions = self.positions.expand(*leading, *self.positions.shape)
            self._repeated = {leading: ScanPlan(positions, self.patch_size, self.canvas_size)}
        return self._repeated[leading]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScanPlan:
        """What ``to``, ``cuda`` and ``cpu`` of a module call: ``fn`` moves a tensor, and may convert it."""
        device = fn(self.positions.reshape(-1)[:0]).device
        if device.type == "meta":  # there is nothing to work out
            for name in ("positions", "order", "tile_start", "tile_patches"):
                setattr(self, name, getattr(self, name).to(device))
            self._repeated = {}
        elif device != self.positions.device:
            self._make(self.positions.to(device))
        return self

    def __repr__(self) -> str:
        count = self.positions.numel() // 2
        return f"ScanPlan({count} patches of {self.patch_size} on {self.canvas_size}, {self.positions.device})"

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
    # How many tiles there are is the backend's choice, and how many pairs depends on the positions.
    context: Any = torch.library.get_ctx()
    sizes = positions.numel() // 2, context.new_dynamic_size(min=1), context.new_dynamic_size()
    order, tile_start, tile_patches = (positions.new_empty(size, dtype=torch.int64) for size in sizes)
    return order, tile_start, tile_patches


torch.library.register_fake("ptycho::plan_tiles", _fake_plan_tiles)
