# SPDX-License-Identifier: BSD-3-Clause
"""The two steps of every operator, gather (canvas to patches) and its transpose, spread, in plain torch.

Complex data are real rows of twice the length, and groups are stacked into one tall canvas; integer parts and fractions
of the positions are computed before the timing. A window is a patch with one more row and column: it is indexed once
and interpolated once per axis. peers.py makes the operators from these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # patches per chunk, whose windows fit into the cache


@dataclass(frozen=True)
class Grid:
    """Patches on the tall canvas: corners (n,), fractions (n, 1, 1), and ``step`` real values per pixel."""

    y: Tensor
    x: Tensor
    fy: Tensor
    fx: Tensor
    h: int
    w: int
    height: int
    width: int
    step: int
    groups: int

    @classmethod
    def of(cls, positions: Tensor, patch: int, canvas: int, step: int) -> Grid:
        """Make the grid of positions (n, 2) on one canvas, or (B, n, 2) on B canvases."""
        groups = positions.shape[0] if positions.ndim == 3 else 1
        points = positions.reshape(groups, -1, 2)
        floor = points.floor()
        fraction = (points - floor).to(torch.float32).reshape(-1, 2, 1, 1)
        corner = floor.to(torch.int64)
        corner[..., 0] += canvas * torch.arange(groups)[:, None]
        y, x = corner.reshape(-1, 2).unbind(-1)
        return cls(
            y.contiguous(),
            step * x,
            fraction[:, 0].contiguous(),
            fraction[:, 1].contiguous(),
            patch,
            step * patch,
            groups * canvas,
            step * canvas,
            step,
            groups,
        )

    def __len__(self) -> int:
        return len(self.y)

    def chunks(self) -> Iterator[slice]:
        return (slice(i, min(i + CHUNK, len(self))) for i in range(0, len(self), CHUNK))

    def corners(self) -> Iterator[tuple[int, int, float, float]]:
        """Iterate over (y, x, fy, fx) of the patches, as Python scalars."""
        return zip(
            self.y.tolist(), self.x.tolist(), self.fy.flatten().tolist(), self.fx.flatten().tolist(), strict=True
        )

    def unfold_view(self, canvas: Tensor, h: int, w: int) -> Tensor:
        """View of every (h, w) window of the canvas (height, width), without a copy or an index tensor."""
        shape = (self.height - h + 1, (self.width - w) // self.step + 1, h, w)
        return canvas.as_strided(shape, (self.width, self.step, self.width, 1))

    def flat_index(self, part: slice) -> Tensor:
        """Indices in the flattened canvas of all samples of the windows of some patches."""
        inside = torch.arange(self.h + 1)[:, None] * self.width + torch.arange(self.w + self.step)
        return (self.y[part] * self.width + self.x[part])[:, None, None] + inside


Gather = Callable[[Tensor, Grid], Tensor]  # canvas (height, width) -> patches (n, h, w)
Spread = Callable[[Tensor, Grid], Tensor]  # patches (n, h, w) -> canvas (height, width)


def lanes(data: Tensor) -> Tensor:
    """View complex (..., W) as real (..., 2 W); real data are unchanged."""
    return torch.view_as_real(data).flatten(-2) if data.is_complex() else data


def lanes_per_sample(data: Tensor) -> int:
    return 2 if data.is_complex() else 1


def tall(canvas: Tensor) -> Tensor:
    """Stack canvases (..., H, W) along the rows, as real data."""
    return lanes(canvas).flatten(0, -2)


# ---------------------------------------------------------------------------------------------------------- gather


def interpolate(window: Tensor, grid: Grid, fy: Tensor, fx: Tensor) -> Tensor:
    """Interpolate windows, with one more row and column, to patches."""
    rows = torch.lerp(window[:, :-1], window[:, 1:], fy)
    return torch.lerp(rows[..., : -grid.step], rows[..., grid.step :], fx)


def gather_four_slices(canvas: Tensor, grid: Grid) -> Tensor:
    h, w, step = grid.h, grid.w, grid.step
    patches = canvas.new_empty(len(grid), h, w)
    for patch, (y, x, fy, fx) in zip(patches, grid.corners(), strict=True):
        torch.mul(canvas[y : y + h, x : x + w], (1 - fy) * (1 - fx), out=patch)
        patch.add_(canvas[y : y + h, x + step : x + step + w], alpha=(1 - fy) * fx)
        patch.add_(canvas[y + 1 : y + 1 + h, x : x + w], alpha=fy * (1 - fx))
        patch.add_(canvas[y + 1 : y + 1 + h, x + step : x + step + w], alpha=fy * fx)
    return patches


def gather_two_lerps(canvas: Tensor, grid: Grid) -> Tensor:
    h, w, step = grid.h, grid.w, grid.step
    patches = canvas.new_empty(len(grid), h, w)
    for patch, (y, x, fy, fx) in zip(patches, grid.corners(), strict=True):
        window = canvas[y : y + h + 1, x : x + w + step]
        rows = torch.lerp(window[:-1], window[1:], fy)
        torch.lerp(rows[:, :-step], rows[:, step:], fx, out=patch)
    return patches


def gather_flat_index(canvas: Tensor, grid: Grid) -> Tensor:
    flat = canvas.flatten()
    patches = canvas.new_empty(len(grid), grid.h, grid.w)
    for part in grid.chunks():
        patches[part] = interpolate(flat[grid.flat_index(part)], grid, grid.fy[part], grid.fx[part])
    return patches


def gather_view_taps(canvas: Tensor, grid: Grid) -> Tensor:
    views = grid.unfold_view(canvas, grid.h, grid.w)
    patches = canvas.new_empty(len(grid), grid.h, grid.w)
    for part in grid.chunks():
        y, x, fy, fx = grid.y[part], grid.x[part] // grid.step, grid.fy[part], grid.fx[part]
        upper = views[y, x] * (1 - fx) + views[y, x + 1] * fx
        lower = views[y + 1, x] * (1 - fx) + views[y + 1, x + 1] * fx
        torch.lerp(upper, lower, fy, out=patches[part])
    return patches


def gather_view_window(canvas: Tensor, grid: Grid) -> Tensor:
    views = grid.unfold_view(canvas, grid.h + 1, grid.w + grid.step)
    patches = canvas.new_empty(len(grid), grid.h, grid.w)
    for part in grid.chunks():
        window = views[grid.y[part], grid.x[part] // grid.step]
        patches[part] = interpolate(window, grid, grid.fy[part], grid.fx[part])
    return patches


def sample(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Apply grid_sample to images (B, H, W, step) at rows y (B, r, h, 1) and columns x (B, r, 1, w).

    Returns (B, r, h, w * step). Coordinates are normalised to -1..1 in float32, with an error of 6e-8 of the side,
    which is inexact on a large canvas.
    """
    b, height, width, step = images.shape
    r, h, w = y.shape[1], y.shape[2], x.shape[3]
    scaled = [2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1]
    points = torch.stack([s.to(torch.float32).expand(b, r, h, w) for s in scaled], -1).reshape(b, r * h, w, 2)
    out = F.grid_sample(images.permute(0, 3, 1, 2), points, padding_mode="zeros", align_corners=True)
    return out.permute(0, 2, 3, 1).reshape(b, r, h, w * step)


def gather_grid_sample(canvas: Tensor, grid: Grid) -> Tensor:
    side = grid.height // grid.groups
    images = canvas.view(grid.groups, side, -1, grid.step)
    rows = (grid.y.view(grid.groups, -1) % side)[..., None, None] + grid.fy.view(grid.groups, -1, 1, 1).double()
    cols = (grid.x.view(grid.groups, -1) // grid.step)[..., None, None] + grid.fx.view(grid.groups, -1, 1, 1).double()
    rows, cols = rows + torch.arange(grid.h)[:, None], cols + torch.arange(grid.w // grid.step)
    patches = canvas.new_empty(*rows.shape[:2], grid.h, grid.w)
    if grid.groups > 1:
        size = max(1, CHUNK // rows.shape[1])
        parts = [(slice(i, i + size), slice(None)) for i in range(0, grid.groups, size)]
    else:
        parts = [(slice(None), part) for part in grid.chunks()]
    for group, part in parts:
        patches[group, part] = sample(images[group], rows[group, part], cols[group, part])
    return patches.flatten(0, 1)


# ---------------------------------------------------------------------------------------------------------- spread


def transpose_interpolation(patches: Tensor, grid: Grid, part: slice) -> Tensor:
    """Transpose of interpolate: patches to windows."""
    some, fy, fx = patches[part], grid.fy[part], grid.fx[part]
    rows = some.new_zeros(len(some), grid.h + 1, grid.w)
    low = some * fy
    torch.sub(some, low, out=rows[:, :-1])
    rows[:, 1:] += low
    window = some.new_zeros(len(some), grid.h + 1, grid.w + grid.step)
    right = rows * fx
    torch.sub(rows, right, out=window[..., : -grid.step])
    window[..., grid.step :] += right
    return window


def spread_four_slices(patches: Tensor, grid: Grid) -> Tensor:
    h, w, step = grid.h, grid.w, grid.step
    canvas = patches.new_zeros(grid.height, grid.width)
    for patch, (y, x, fy, fx) in zip(patches, grid.corners(), strict=True):
        canvas[y : y + h, x : x + w].add_(patch, alpha=(1 - fy) * (1 - fx))
        canvas[y : y + h, x + step : x + step + w].add_(patch, alpha=(1 - fy) * fx)
        canvas[y + 1 : y + 1 + h, x : x + w].add_(patch, alpha=fy * (1 - fx))
        canvas[y + 1 : y + 1 + h, x + step : x + step + w].add_(patch, alpha=fy * fx)
    return canvas


def spread_window_slices(patches: Tensor, grid: Grid) -> Tensor:
    canvas = patches.new_zeros(grid.height, grid.width)
    h, w, corners = grid.h + 1, grid.w + grid.step, list(grid.corners())
    for part in grid.chunks():
        for window, (y, x, _, _) in zip(transpose_interpolation(patches, grid, part), corners[part], strict=True):
            canvas[y : y + h, x : x + w] += window
    return canvas


def spread_index_add(patches: Tensor, grid: Grid) -> Tensor:
    flat = patches.new_zeros(grid.height * grid.width)
    for part in grid.chunks():
        flat.index_add_(0, grid.flat_index(part).flatten(), transpose_interpolation(patches, grid, part).flatten())
    return flat.view(grid.height, grid.width)


def spread_index_put(patches: Tensor, grid: Grid) -> Tensor:
    flat = patches.new_zeros(grid.height * grid.width)
    for part in grid.chunks():
        flat.index_put_((grid.flat_index(part),), transpose_interpolation(patches, grid, part), accumulate=True)
    return flat.view(grid.height, grid.width)


def spread_view_put(patches: Tensor, grid: Grid) -> Tensor:
    canvas = patches.new_zeros(grid.height, grid.width)
    views = grid.unfold_view(canvas, grid.h + 1, grid.w + grid.step)
    for part in grid.chunks():
        corner = (grid.y[part], grid.x[part] // grid.step)
        views.index_put_(corner, transpose_interpolation(patches, grid, part), accumulate=True)
    return canvas


def spread_padded_canvases(patches: Tensor, grid: Grid) -> Tensor:
    """PtychoPINN's method: pad every patch to the canvas, translate it (four taps), and sum."""
    side, per_group = grid.height // grid.groups, len(grid) // grid.groups
    canvas = patches.new_zeros(grid.groups, side, grid.width)
    padded = F.pad(patches, (0, grid.width - grid.w, 0, side - grid.h))
    for k, (image, (y, x, fy, fx)) in enumerate(zip(padded, grid.corners(), strict=True)):
        group = k // per_group
        rows, cols = torch.arange(side) - (y - group * side), torch.arange(grid.width) - x
        for row, row_weight in ((rows, 1 - fy), (rows - 1, fy)):
            for col, col_weight in ((cols, 1 - fx), (cols - grid.step, fx)):
                inside = ((row >= 0) & (row < side))[:, None] & ((col >= 0) & (col < grid.width))
                tap = image[row.clamp(0, side - 1)[:, None], col.clamp(0, grid.width - 1)]
                canvas[group] += torch.where(inside, tap * (row_weight * col_weight), 0)
    return canvas.flatten(0, 1)


GATHERS: dict[str, Gather] = {
    "loop of four slices": gather_four_slices,
    "loop of two lerps": gather_two_lerps,
    "flat index": gather_flat_index,
    "unfold view, four taps": gather_view_taps,
    "unfold view, one window": gather_view_window,
    "grid_sample": gather_grid_sample,
}
SPREADS: dict[str, Spread] = {
    "loop of four slices": spread_four_slices,
    "loop of window slices": spread_window_slices,
    "index_add_": spread_index_add,
    "index_put_": spread_index_put,
    "index_put_ on an unfold view": spread_view_put,
}
PADDED = "padded canvases, translated and summed"
PAIRS = {
    "loops of four slices": (gather_four_slices, spread_four_slices),
    "lerps and window slices": (gather_two_lerps, spread_window_slices),
    "unfold view and window slices": (gather_view_window, spread_window_slices),
    "unfold view and index_put_ on it": (gather_view_window, spread_view_put),
}
