# SPDX-License-Identifier: BSD-3-Clause
"""ScanPlan: tile lists, equal results with and without a plan, errors, and moves between devices."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import CANVAS, PATCH, POSITIONS, data, weights
from torch import Tensor
from torch.library import opcheck

import ptycho_ext as px

SIZE = (150, 1100)


def scan(groups: int = 2, count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(groups, count, 2, dtype=torch.float64, generator=generator) * torch.tensor([170.0, 1130.0]) - 12


def test_order_and_tile_lists_contain_every_patch() -> None:
    plan = px.ScanPlan(scan(), (24, 21), SIZE)
    assert plan.order.sort().values.tolist() == list(range(80))
    assert plan.tile_start[0] == 0 and plan.tile_start[-1] == len(plan.tile_patches)
    lists = [plan.tile_patches[a:b].tolist() for a, b in zip(plan.tile_start[:-1], plan.tile_start[1:], strict=True)]
    assert all(patches == sorted(set(patches)) for patches in lists)
    bands = torch.div(plan.positions.reshape(-1, 2)[plan.order[:40], 0], 64, rounding_mode="floor")
    assert bool((bands.diff() >= 0).all())


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_values_and_gradients_are_bitwise_the_same_without_a_plan(dtype: torch.dtype, groups: int | None) -> None:
    positions = scan()[0] if groups is None else scan(groups)
    lead = positions.shape[:-2]
    plan = px.ScanPlan(positions, (24, 21), SIZE)
    canvas, patches = data((*lead, *SIZE), dtype), data((*positions.shape[:-1], 24, 21), dtype, 1)
    weight = weights((24, 21), dtype)
    results = []
    for given in (None, plan):
        inputs = [x.clone().requires_grad_() for x in (canvas, patches, positions, weight)]
        image, total = px.reassemble_patches(inputs[1], inputs[2], SIZE, inputs[3], plan=given)
        outputs = [
            px.extract_patches(inputs[0], inputs[2], (24, 21), plan=given),
            px.extract_patches_adjoint(inputs[1], inputs[2], SIZE, plan=given),
            image,
            total,
            px.overlap_project(inputs[1], inputs[2], SIZE, inputs[3], plan=given),
        ]
        loss = torch.stack([o.abs().square().sum() for o in outputs]).sum()
        results.append([*outputs, *torch.autograd.grad(loss, inputs)])
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


def test_other_sizes_counts_and_positions_are_errors() -> None:
    plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)
    canvas, patches = data((2, *CANVAS), torch.float32), data((2, 5, *PATCH), torch.float32)
    with pytest.raises(RuntimeError, match=re.escape("plan must be made for patches of (5, 5), got (5, 4)")):
        px.extract_patches(canvas, POSITIONS, 5, plan=plan)
    with pytest.raises(RuntimeError, match=re.escape("plan must be made for a canvas of (13, 19), got (13, 18)")):
        px.extract_patches_adjoint(patches, POSITIONS, (13, 19), plan=plan)
    with pytest.raises(RuntimeError, match=re.escape("plan must be made for positions of shape (4, 2), got (2, 5, 2)")):
        px.extract_patches(canvas[0], POSITIONS[0, :4], PATCH, plan=plan)
    elsewhere = POSITIONS.flip(1)
    for call in (px.extract_patches_adjoint, px.reassemble_patches, px.overlap_project):
        with pytest.raises(RuntimeError, match=rf"^{call.__name__}: plan must be made for these positions and sizes"):
            call(patches, elsewhere, CANVAS, plan=plan)


@pytest.mark.parametrize("change", ["patch out of range", "twice", "start out of range", "missing", "float"])
def test_corrupt_lists_cause_no_access_outside_of_a_tensor(change: str) -> None:
    """For any values in the lists of a plan."""
    plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)
    order, start, patches = plan.order.clone(), plan.tile_start.clone(), plan.tile_patches.clone()
    if change == "patch out of range":
        order[0], patches[0] = 1 << 40, -1
    elif change == "twice":
        order[0], patches[0] = order[1], patches[1]
    elif change == "start out of range":
        order[0], start[1:-1] = -1, 1 << 40
    elif change == "missing":
        order, start = order[1:], start[1:]
    else:
        order, start = order.double(), start.double()
    canvas, stack = data((2, *CANVAS), torch.float32), data((2, 5, *PATCH), torch.float32)
    with pytest.raises(RuntimeError, match="plan must be made for these positions"):
        torch.ops.ptycho.extract_patches(canvas, POSITIONS, PATCH, order)
    with pytest.raises(RuntimeError, match="plan must be made for these positions"):
        torch.ops.ptycho.extract_patches_adjoint(stack, POSITIONS, CANVAS, start, patches)


def test_other_device_is_an_error() -> None:
    plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)
    with pytest.raises(RuntimeError, match=r"^extract_patches: plan must be on device meta, got cpu$"):
        px.extract_patches(data((2, *CANVAS), torch.float32).to("meta"), POSITIONS.to("meta"), PATCH, plan=plan)


def test_needs_finite_positions_and_sizes() -> None:
    with pytest.raises(RuntimeError, match=r"^plan_tiles: positions must be finite, got nan$"):
        px.ScanPlan(torch.full((3, 2), torch.nan), 4, 9)
    with pytest.raises(RuntimeError, match=r"^plan_tiles: canvas_size must be two positive integers, got \(9, 0\)$"):
        px.ScanPlan(torch.zeros(3, 2), 4, (9, 0))
    with pytest.raises(
        RuntimeError, match=r"^plan_tiles: canvas_size must be at least a patch's \(4, 4\), got \(9, 3\)$"
    ):
        px.ScanPlan(torch.zeros(3, 2), 4, (9, 3))


def test_plan_of_scan_positions_has_the_smallest_canvas() -> None:
    positions = POSITIONS[0, :3] + 100.25
    plan, geometry = px.ScanPlan.from_scan_positions(positions, PATCH, margin=2)
    assert plan.canvas_size == geometry.shape and torch.equal(geometry.to_scan(plan.positions), positions)
    total = px.reassemble_patches(torch.ones(3, *PATCH), plan.positions, geometry.shape, plan=plan)[1]
    torch.testing.assert_close(total.sum(), torch.tensor(60.0))


def test_works_under_compile_export_and_vmap() -> None:
    plan = px.ScanPlan(POSITIONS[0], PATCH, CANVAS)
    canvas = data(CANVAS, torch.complex64)

    class Loop(torch.nn.Module):
        def forward(self, canvas: Tensor, positions: Tensor) -> Tensor:
            patches = px.extract_patches(canvas, positions, PATCH, plan=plan)
            return px.reassemble_patches(patches, positions, CANVAS, plan=plan)[0]

    want = Loop()(canvas, POSITIONS[0])
    compiled = torch.compile(Loop(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(canvas, POSITIONS[0]), want)
    exported = torch.export.export(Loop(), (canvas, POSITIONS[0])).module()
    assert torch.equal(exported(canvas, POSITIONS[0]), want)
    mapped = torch.vmap(lambda c: Loop()(c, POSITIONS[0]))(torch.stack([canvas, 2 * canvas]))
    assert torch.equal(mapped, torch.stack([want, 2 * want]))


def test_opcheck_of_the_plan_and_of_the_forms_that_take_it() -> None:
    plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)
    canvas, stack = data((2, *CANVAS), torch.complex64), data((2, 5, *PATCH), torch.complex64)
    lists = (plan.tile_start, plan.tile_patches)
    ops: Any = torch.ops.ptycho
    opcheck(
        ops.plan_tiles.default, (POSITIONS, list(PATCH), list(CANVAS)), test_utils=("test_schema", "test_faketensor")
    )
    opcheck(ops.extract_patches.default, (canvas, POSITIONS, list(PATCH), plan.order))
    opcheck(ops.extract_patches_adjoint.default, (stack, POSITIONS, list(CANVAS), *lists))
    weight = weights(PATCH, torch.complex64)
    opcheck(ops.reassemble_patches.default, (stack, POSITIONS, weight, list(CANVAS), 1e-6, *lists))
    opcheck(ops.extract_patches_out.default, (canvas, POSITIONS, None, torch.empty_like(stack)))
    opcheck(ops.extract_patches_adjoint_out.default, (stack, POSITIONS, *lists, torch.empty_like(canvas)))
    outs = (torch.empty_like(canvas), torch.empty(canvas.shape))
    opcheck(ops.reassemble_patches_out.default, (stack, POSITIONS, weight, None, *lists, *outs))
    opcheck(ops.overlap_project.default, (stack, POSITIONS, weight, list(CANVAS), 1e-6, plan.order, *lists))
    opcheck(
        ops.overlap_project_out.default,
        (stack, POSITIONS, weight, list(CANVAS), 1e-6, plan.order, *lists, torch.empty_like(stack)),
    )
    opcheck(ops.translate_images_out.default, (canvas, POSITIONS[:, 0], "bilinear", torch.empty_like(canvas)))


class Owner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)


def test_plan_moves_with_the_module_that_contains_it() -> None:
    owner = Owner()
    lists = owner.plan.order
    assert owner.to(torch.float16).plan.positions.dtype == torch.float64
    assert owner.double().cpu().plan.order is lists  # not computed again
    assert owner.state_dict() == {} and list(owner.parameters()) == []
    moved = owner.to("meta").plan
    assert {t.device.type for t in (moved.positions, moved.order, moved.tile_start, moved.tile_patches)} == {"meta"}


def test_copies_and_pickles() -> None:
    plan = px.ScanPlan(POSITIONS, PATCH, CANVAS)
    for copied in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert torch.equal(copied.order, plan.order) and copied.canvas_size == CANVAS
    assert repr(plan) == "ScanPlan(10 patches of (5, 4) on (13, 18), cpu)"


@pytest.mark.parametrize("size", [np.int64(4), np.array([4, 4]), torch.Size([4, 4]), (np.int32(4), 4), [4, 4], 4])
def test_sizes_of_any_integer_type(size: Any) -> None:
    canvas, positions = data((9, 9), torch.float32), torch.tensor([[1.5, 2.25]])
    patches = px.extract_patches(canvas, positions, size)
    assert torch.equal(patches, px.extract_patches(canvas, positions, (4, 4)))
    plan = px.ScanPlan(positions, size, np.int64(9))
    assert plan.patch_size == (4, 4) and all(type(side) is int for side in (*plan.patch_size, *plan.canvas_size))
    for call in (px.extract_patches_adjoint, px.overlap_project):
        call(patches, positions, np.array([9, 9]))
    px.reassemble_patches(patches, positions, np.int64(9), plan=plan)
    with pytest.raises(TypeError, match="integer"):
        px.extract_patches(canvas, positions, 4.0)


@pytest.mark.parametrize("planned", [False, True])
def test_one_set_of_positions_for_many_canvases(planned: bool) -> None:
    """With the plan of that set, and with gradients; those of the positions are summed over the canvases."""
    positions, patch, lead = scan()[0], (24, 21), (3, 2)
    canvas, weight = data((*lead, *SIZE), torch.complex64), weights(patch, torch.complex64)
    plan = px.ScanPlan(positions, patch, SIZE) if planned else None
    results = []
    for at, given in ((positions, plan), (positions.expand(*lead, -1, -1), None)):
        leaves = [canvas.clone().requires_grad_(), at.clone().requires_grad_()]
        patches = px.extract_patches(leaves[0], leaves[1], patch, plan=given)
        image, _ = px.reassemble_patches(patches, leaves[1], SIZE, weight, plan=given)
        summed = px.extract_patches_adjoint(patches, leaves[1], SIZE, plan=given)
        groups = px.overlap_project(patches, leaves[1], SIZE, weight)
        loss = image.abs().square().sum() + summed.abs().square().sum() + groups.abs().square().sum()
        by_canvas, by_positions = torch.autograd.grad(loss, leaves)
        results.append([patches, image, summed, groups, by_canvas, by_positions.sum_to_size(positions.shape)])
    for got, want in zip(*[r[:-1] for r in results], strict=True):
        assert torch.equal(got, want)
    torch.testing.assert_close(results[0][-1], results[1][-1])
    if plan is not None:
        assert plan.repeated(lead) is plan.repeated(lead) and list(plan.children()) == []
