# SPDX-License-Identifier: BSD-3-Clause
"""Methods in plain torch for the operators: the tuned code that replaces ptycho_ext.

Each operator is a gather and a spread of steps.py, or torch's autograd through them. run.py checks every method against
ptycho_ext before it times it. F.fold is not included, because it needs positions on a regular grid of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import MAX_SHIFT, WAVE_OPS, Problem
from steps import (
    GATHERS,
    PADDED,
    PAIRS,
    SPREADS,
    Gather,
    Grid,
    Spread,
    gather_grid_sample,
    interpolate,
    lanes,
    lanes_per_sample,
    sample,
    spread_padded_canvases,
    tall,
)
from torch import Tensor

import ptycho_ext

PADDED_PIXELS = 1 << 24  # pixels of the padded canvases on which PtychoPINN's method is timed
EPS = 1e-6  # as in ptycho_ext.reassemble_patches


@dataclass(frozen=True)
class Way:
    """A method in plain torch for one operator: ``prepare(problem)`` makes the call that is timed.

    ``items``: number of groups or patches that it is run on, where all of them would take too long.
    """

    prepare: Callable[[Problem], Callable[[], Tensor]]
    items: Callable[[Problem], int] | None = None


def grid_of(problem: Problem, step: int) -> Grid:
    return Grid.of(problem.positions, problem.case.patch, problem.case.canvas, step)


def as_data(result: Tensor, like: Tensor) -> Tensor:
    """Convert real and imaginary parts to the shape and type of ``like``."""
    if like.is_complex():
        return torch.view_as_complex(result.reshape(*like.shape, 2))
    return result.reshape(like.shape)


def stack_of(problem: Problem) -> Tensor:
    """Patches (n, h, w) of all groups, as real and imaginary parts."""
    return lanes(problem.patches).flatten(0, -3)


def extract(gather: Gather) -> Way:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        canvas, grid = tall(problem.canvas), grid_of(problem, lanes_per_sample(problem.canvas))
        return lambda: as_data(gather(canvas, grid), problem.patches)

    return Way(prepare)


def adjoint(spread: Spread) -> Way:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        patches, grid = stack_of(problem), grid_of(problem, lanes_per_sample(problem.canvas))
        return lambda: as_data(spread(patches, grid), problem.canvas)

    return Way(prepare)


def mean(patches: Tensor, weights: Tensor, grid: Grid, spread: Spread) -> tuple[Tensor, Tensor]:
    """Weighted mean and reciprocal weights (zero at uncovered pixels), with a threshold per group."""
    one = Grid(grid.y, grid.x // grid.step, grid.fy, grid.fx, grid.h, grid.w // grid.step, grid.height,
               grid.width // grid.step, 1, grid.groups)  # fmt: skip
    total = spread(weights.expand(len(grid), -1, -1), one)
    largest = total.view(grid.groups, -1).amax(-1).view(-1, 1, 1)
    seen = total.view(grid.groups, -1, total.shape[-1]) > EPS * largest
    inverse = torch.where(seen.flatten(0, 1), total.reciprocal(), 0).repeat_interleave(grid.step, -1)
    return spread(patches * weights.repeat_interleave(grid.step, -1), grid) * inverse, inverse


def reassemble(spread: Spread) -> Way:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        patches, grid = stack_of(problem), grid_of(problem, lanes_per_sample(problem.canvas))
        return lambda: as_data(mean(patches, problem.weights, grid, spread)[0], problem.canvas)

    return Way(prepare)


def roundtrip(gather: Gather, spread: Spread) -> Way:
    """Forward and an explicit backward from the same two steps; autograd would index a copy of the unfold view."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        canvas, grid = tall(problem.canvas), grid_of(problem, lanes_per_sample(problem.canvas))
        grad_canvas, weights = tall(problem.grad_canvas), problem.weights.repeat_interleave(grid.step, -1)

        def run() -> Tensor:
            _, inverse = mean(gather(canvas, grid), problem.weights, grid, spread)
            return as_data(spread(gather(grad_canvas * inverse, grid) * weights, grid), problem.canvas)

        return run

    return Way(prepare)


def overlap(gather: Gather, spread: Spread) -> Way:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        patches, grid = stack_of(problem), grid_of(problem, lanes_per_sample(problem.canvas))
        return lambda: as_data(gather(mean(patches, problem.weights, grid, spread)[0], grid), problem.patches)

    return Way(prepare)


def grad_positions(window: Callable[[Tensor, Grid, slice], Tensor]) -> Way:
    """Explicit position gradient: interpolate along one axis, take differences along the other, and sum."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        canvas, grid = tall(problem.canvas), grid_of(problem, lanes_per_sample(problem.canvas))
        grads, step = stack_of(problem), grid.step

        def run() -> Tensor:
            result = grads.new_empty(len(grid), 2, dtype=torch.float64)
            for part in grid.chunks():
                samples, grad = window(canvas, grid, part), grads[part].flatten(1)
                along_x = torch.lerp(samples[..., :-step], samples[..., step:], grid.fx[part])
                along_y = torch.lerp(samples[:, :-1], samples[:, 1:], grid.fy[part])
                by_y, by_x = along_x.diff(dim=1), along_y[..., step:] - along_y[..., :-step]
                result[part, 0] = torch.linalg.vecdot(grad, by_y.flatten(1)).double()
                result[part, 1] = torch.linalg.vecdot(grad, by_x.flatten(1)).double()
            return result.view(problem.positions.shape)

        return run

    return Way(prepare)


def grad_positions_autograd(window: Callable[[Tensor, Grid, slice], Tensor]) -> Way:
    """Position gradient by autograd through the interpolation, chunk by chunk."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        canvas, grid = tall(problem.canvas), grid_of(problem, lanes_per_sample(problem.canvas))
        grads = stack_of(problem)

        def run() -> Tensor:
            result = grads.new_empty(len(grid), 2, dtype=torch.float64)
            for part in grid.chunks():
                fractions = torch.stack([grid.fy[part], grid.fx[part]], 1).requires_grad_()
                patches = interpolate(window(canvas, grid, part), grid, fractions[:, 0], fractions[:, 1])
                result[part] = torch.autograd.grad(patches, fractions, grads[part])[0].flatten(1)
            return result.view(problem.positions.shape)

        return run

    return Way(prepare)


def window_of_view(canvas: Tensor, grid: Grid, part: slice) -> Tensor:
    return grid.unfold_view(canvas, grid.h + 1, grid.w + grid.step)[grid.y[part], grid.x[part] // grid.step]


def window_of_index(canvas: Tensor, grid: Grid, part: slice) -> Tensor:
    return canvas.flatten()[grid.flat_index(part)]


def translate(gather: Gather) -> Way:
    """Gather at -shift from every image, padded with zeros; the images are stacked into one canvas."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        step, margin = lanes_per_sample(problem.patches), int(MAX_SHIFT) + 1
        side = problem.case.patch + 2 * margin
        grid = Grid.of((margin - problem.shifts)[:, None], problem.case.patch, side, step)
        images, pad = lanes(problem.patches), (step * margin, step * margin, margin, margin)
        return lambda: as_data(gather(F.pad(images, pad).flatten(0, 1), grid), problem.patches)

    return Way(prepare)


def translate_grid_sample() -> Way:
    def prepare(problem: Problem) -> Callable[[], Tensor]:
        n, side, step = problem.case.count, problem.case.patch, lanes_per_sample(problem.patches)
        images, pixels = lanes(problem.patches).view(n, side, side, step), torch.arange(side)
        shifts = problem.shifts[:, :, None, None, None]

        def run() -> Tensor:
            out = sample(images, pixels[:, None] - shifts[:, 0], pixels - shifts[:, 1])
            return as_data(out, problem.patches)

        return run

    return Way(prepare)


def separate(op: str) -> Way:
    """Extraction or its adjoint of ptycho_ext, with products and sums of torch over a stack, to allocated memory."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        p, side, size = problem, problem.case.canvas, problem.case.patch
        plan = ptycho_ext.ScanPlan(p.positions, size, (side, side))
        patches, canvas, probe = (torch.empty_like(t) for t in (p.patches, p.canvas, p.probe))
        products = torch.empty_like(p.waves)
        modes = patches.unsqueeze(-3)

        def waves() -> Tensor:
            ptycho_ext.extract_patches(p.canvas, p.positions, size, plan=plan, out=patches)
            return torch.mul(modes, p.probe, out=products)

        def adjoint() -> Tensor:
            torch.mul(p.waves, p.probe.conj().resolve_conj(), out=products)
            sums = products.squeeze(-3) if p.case.modes == 1 else torch.sum(products, -3, out=patches)
            return ptycho_ext.extract_patches_adjoint(sums, p.positions, (side, side), plan=plan, out=canvas)

        def adjoint_probe() -> Tensor:
            ptycho_ext.extract_patches(p.canvas, p.positions, size, plan=plan, out=patches)
            torch.mul(p.waves, modes.conj(), out=products)
            return torch.sum(products.flatten(0, -4), 0, out=probe)

        return {"exit_waves": waves, "exit_waves_adjoint": adjoint, "exit_waves_adjoint_probe": adjoint_probe}[op]

    return Way(prepare)


def padded(make: Callable[[Spread], Way]) -> Way:
    way = make(spread_padded_canvases)

    def items(problem: Problem) -> int:
        return max(1, PADDED_PIXELS // (problem.canvas.numel() * problem.case.count // problem.items))

    return Way(way.prepare, items)


WAYS: dict[str, dict[str, Way]] = {
    "extract": {name: extract(gather) for name, gather in GATHERS.items()},
    "adjoint": {name: adjoint(spread) for name, spread in SPREADS.items()} | {PADDED: padded(adjoint)},
    "reassemble": {name: reassemble(spread) for name, spread in SPREADS.items()} | {PADDED: padded(reassemble)},
    "grad_positions": {
        "by hand, unfold view": grad_positions(window_of_view),
        "by hand, flat index": grad_positions(window_of_index),
        "autograd, unfold view": grad_positions_autograd(window_of_view),
        "autograd, flat index": grad_positions_autograd(window_of_index),
    },
    "overlap": {name: overlap(*pair) for name, pair in PAIRS.items()},
    "roundtrip": {name: roundtrip(*pair) for name, pair in PAIRS.items()},
    "translate": {name: translate(gather) for name, gather in GATHERS.items() if gather is not gather_grid_sample}
    | {"grid_sample": translate_grid_sample()},
    **{op: {"separate operators": separate(op)} for op in WAVE_OPS},
}
