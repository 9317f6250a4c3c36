# SPDX-License-Identifier: BSD-3-Clause
"""ScanPlan: the tile lists and the order of the patches of a scan, computed once for many calls.

A plan contains int64 tensors, so it passes through torch.compile and export like other inputs. Results are bitwise the
same with and without one. The operators check it against the positions of a call; on CUDA, where they do not wait for
the device, a canvas summed with the plan of other positions is NaN instead of an error.

It is a module without parameters, so that it moves to another device with the module that uses it. It is computed again
there, because tile sizes depend on the kind of device.
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
    """Tile lists, the patches that overlap each tile of a canvas, and the order in which patches are processed.

    Args:
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0], finite.
        patch_size: (h, w), or one integer for both.
        canvas_size: (H, W), or one integer for both.
        finite: the positions are known to be finite, so that nothing waits for a CUDA device to check them.

    Attributes:
        positions: (..., n, 2) float64, detached.
        patch_size: (h, w).
        canvas_size: (H, W).
        order: (patches,) order in which extraction processes the patches: neighbours on the canvas in succession.
        tile_start: (tiles + 1,) start of each tile's list in tile_patches.
        tile_patches: (pairs,) patches of every tile, ascending; on CUDA followed by unused elements.

    ``to(device)``, of the plan or of a module that contains it, computes the plan again on that device. Conversions of
    type do not change it: its positions stay float64. It adds nothing to a state dict.

    Raises:
        RuntimeError: a type, shape or size does not fit, the canvas is smaller than a patch, or a position is not
            finite (on CUDA this check waits for the device). An operator raises it, too, for a plan that was made for
            other positions, sizes or devices.

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

    def __init__(
        self,
        positions: Tensor,
        patch_size: int | Sequence[int],
        canvas_size: int | Sequence[int],
        finite: bool = False,
    ) -> None:
        super().__init__()
        self._finite = finite
        self.patch_size = tuple(as_pair(patch_size))
        self.canvas_size = tuple(as_pair(canvas_size))
        # Detached, because a plan has no gradient and must not keep a graph alive.
        self._make(as_float64(positions).detach())

    def _make(self, positions: Tensor) -> None:
        unknown = positions.is_cuda and not self._finite
        if unknown and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing():
            bad = positions[~positions.isfinite()]
            Check("plan_tiles").require(bad.numel() == 0, "positions", "be finite", float(bad[0]) if len(bad) else "")
        self.positions = positions
        self._repeated: dict[tuple[int, ...], ScanPlan] = {}
        self.order, self.tile_start, self.tile_patches = torch.ops.ptycho.plan_tiles(
            positions, list(self.patch_size), list(self.canvas_size)
        )

    def repeated(self, leading: tuple[int, ...]) -> ScanPlan:
        """The plan of positions (n, 2) for canvases (..., H, W) with these leading dimensions, made once."""
        if leading not in self._repeated:
            positions = self.positions.expand(*leading, *self.positions.shape)
            self._repeated = {leading: ScanPlan(positions, self.patch_size, self.canvas_size)}
        return self._repeated[leading]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScanPlan:
        """Move the plan; ``to``, ``cuda`` and ``cpu`` of a module call it with ``fn``, which moves one tensor."""
        device = fn(self.positions.reshape(-1)[:0]).device
        if device.type == "meta":  # without data there is nothing to compute
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
        """Smallest canvas that contains the scan, and the plan on it.

        Args:
            positions: (..., n, 2) scan coordinates (y, x) of the patches' samples [0, 0].
            patch_size: (h, w), or one integer for both.
            margin: pixels to add on every side.

        Returns:
            The plan, whose ``positions`` are canvas coordinates, and the geometry of the canvas.

        Raises:
            ValueError: see :meth:`CanvasGeometry.from_positions`.
        """
        geometry = CanvasGeometry.from_positions(positions, patch_size, margin)
        return cls(geometry.to_canvas(positions), patch_size, geometry.shape), geometry


def _fake_plan_tiles(
    positions: Tensor, patch_size: Sequence[int], canvas_size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    # The number of tiles depends on the backend, the number of pairs on the positions.
    context: Any = torch.library.get_ctx()
    sizes = positions.numel() // 2, context.new_dynamic_size(min=1), context.new_dynamic_size()
    order, tile_start, tile_patches = (positions.new_empty(size, dtype=torch.int64) for size in sizes)
    return order, tile_start, tile_patches


torch.library.register_fake("ptycho::plan_tiles", _fake_plan_tiles)
