# SPDX-License-Identifier: BSD-3-Clause
"""CUDA: results bitwise equal to those of the CPU and over runs, streams, graphs, devices and processes.

No synchronisation with the device, and NaN where the CPU raises. Needs a GPU; test_blocks.py needs none.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from block_cases import STEP_CASES, close, step_inputs
from op_cases import CANVAS, CASES, COUNT_TYPES, DTYPES, PATCH, POSITIONS, data, on_cpu, raw, raw_inputs, scene, weights
from torch import Tensor

import ptycho_ext as px

pytestmark = pytest.mark.gpu

WIDE = (torch.float64, torch.complex128)
SIZE, WINDOW, COUNT = (410, 530), (64, 50), 700


def on_gpu(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.cuda() if isinstance(a, Tensor) else a for a in arguments)


def scan(count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 2, dtype=torch.float64, generator=generator) * torch.tensor([420.0, 560.0]) - 40


def scan_inputs(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Arguments of every raw operator for a scan of many tiles, patches and cells."""
    canvas, patches, positions = data(SIZE, dtype), data((COUNT, *WINDOW), dtype, 1), scan()
    weight, grouped = weights(WINDOW, dtype), patches.view(-1, 4, *WINDOW)
    waves, probe = patches.view(-1, 2, *WINDOW), patches[:2]
    return {
        "extract_patches": (canvas, positions, list(WINDOW)),
        "extract_patches_adjoint": (patches, positions, list(SIZE)),
        "extract_patches_grad_positions": (patches, canvas, positions),
        "translate_images": (patches, positions / 9, "bilinear"),
        "translate_images_adjoint": (patches, positions / 9, "nearest"),
        "reassemble_patches": (patches, positions, weight, list(SIZE), 0.3),
        "reassemble_patches_adjoint": (canvas, positions, weight),
        "reassemble_patches_backward": (canvas, positions, weight, weights(SIZE, dtype), 0.3),
        "reassemble_patches_mean_backward": (canvas, weights(SIZE, dtype), 0.3, data(SIZE, dtype, 2)),
        "exit_waves": (canvas, positions, probe),
        "exit_waves_adjoint": (waves, positions[: COUNT // 2], probe, list(SIZE)),
        "exit_waves_adjoint_probe": (waves, canvas, positions[: COUNT // 2], True),
        "exit_waves_grad_positions": (waves, canvas, positions[: COUNT // 2], probe),
        "overlap_project": (grouped, positions.view(-1, 4, 2), weight, list(SIZE), 0.1),
        "overlap_project_backward": (
            *(grouped.flip(-1), grouped, positions.view(-1, 4, 2), weight, list(SIZE), 0.1, True),
        ),
    }


def tensors(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("inputs", [raw_inputs, scan_inputs])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", list(raw_inputs(torch.float32)))
def test_cuda_is_bitwise_equal_to_the_cpu(op: str, dtype: torch.dtype, inputs: Any) -> None:
    args = inputs(dtype)[op]
    got, want = tensors(raw(op)(*on_gpu(args))), tensors(raw(op)(*args))
    for one, other in zip(got, want, strict=True):
        assert one.is_cuda
        if op.endswith(("grad_positions", "adjoint_probe")):  # summed in another order
            scale = float(other.norm(dim=-1).max())
            assert float((one.cpu() - other).abs().max()) <= scale * (1e-13 if dtype in WIDE else 1e-6)
        else:
            assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("size", [(1, 3), (64, 64), (90, 101)])
@pytest.mark.parametrize("counts_type", COUNT_TYPES)
def test_corrected_fields_are_bitwise_equal_to_those_of_the_cpu(
    counts_type: torch.dtype, size: tuple[int, int], loss: str
) -> None:
    for dtype in DTYPES:
        inputs = (*scene(dtype, counts_type, 3, (40,), size).values(), loss, 0.1)
        grads = (data(inputs[0].shape, dtype, 4), *data((2, 40), torch.float64, 5))
        want = raw("correct_fields")(*inputs), raw("correct_fields_backward")(*grads, *inputs)
        for _ in range(3):
            got = raw("correct_fields")(*on_gpu(inputs)), raw("correct_fields_backward")(*on_gpu((*grads, *inputs)))
            for one, other in zip((*got[0], *got[1]), (*want[0], *want[1]), strict=True):
                assert one.is_cuda and torch.equal(one.cpu(), other)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 80), (128, 128), (240, 256)])
@pytest.mark.parametrize(("modes", "shared", "shifts"), STEP_CASES)
def test_patterns_take_a_step_as_on_the_cpu(size: tuple[int, int], modes: int, shared: bool, shifts: bool) -> None:
    """The same in every run; on an H200 the bits of the values are those of the CPU too."""
    for dtype, n in itertools.product(DTYPES[2:], (3, 600)):
        inputs = step_inputs(size, n if size[0] < 200 else min(n, 40), dtype, modes, shared, shifts)
        want = raw("pattern_step")(*inputs, "poisson", 0.1)
        results = [raw("pattern_step")(*on_gpu(inputs), "poisson", 0.1) for _ in range(3)]
        for result in results:
            for one, other, again in zip(result, want, results[0], strict=True):
                assert one.is_cuda and torch.equal(one, again)
                close(one.cpu(), other, 1e-5 if dtype is torch.complex64 else 1e-12)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_the_same_over_ten_runs(dtype: torch.dtype, planned: bool) -> None:
    canvas, positions, weight = on_gpu((data(SIZE, dtype), scan(), weights(WINDOW, dtype)))
    plan = px.ScanPlan(positions, WINDOW, SIZE) if planned else None
    results = []
    for _ in range(10):
        leaves = [t.clone().requires_grad_() for t in (canvas, positions, weight)]
        patches = px.extract_patches(leaves[0], leaves[1], WINDOW, plan=plan)
        image, total = px.reassemble_patches(patches, leaves[1], SIZE, leaves[2], eps=0.05, plan=plan)
        moved = px.translate_images(patches, leaves[1] / 9)
        loss = image.abs().sum() + moved.abs().square().sum()
        results.append([image, total, moved, *torch.autograd.grad(loss, leaves)])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("side", "count"), [(50, 4), (78, 9), (110, 4), (160, 4), (78, 70)])
def test_groups_in_shared_memory_and_on_canvases(side: int, count: int, dtype: torch.dtype) -> None:
    """Canvases that fit into shared memory, larger ones, and groups of too many patches."""
    generator = torch.Generator().manual_seed(side)
    positions = torch.rand(300, count, 2, dtype=torch.float64, generator=generator) * (side - 20) - 9
    patches, grad = data((300, count, 32, 27), dtype), data((300, count, 32, 27), dtype, 1)
    for weight in (weights((32, 27), dtype), weights(tuple(patches.shape), dtype)):
        args = (patches, positions, weight, [side, side + 3], 0.3)
        for op, inputs in {"overlap_project": args, "overlap_project_backward": (grad, *args, True)}.items():
            for got, want in zip(tensors(raw(op)(*on_gpu(inputs))), tensors(raw(op)(*inputs)), strict=True):
                assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [768, 900, 1000])
def test_sums_onto_canvases_of_about_one_wave(side: int, dtype: torch.dtype) -> None:
    """576, 841 and 1,024 tiles: on 132 multiprocessors each type takes, for one of them, the version for one wave."""
    generator = torch.Generator().manual_seed(side)
    positions = torch.rand(2000, 2, dtype=torch.float64, generator=generator) * (side + 20) - 40
    patches, weight = data((2000, 33, 40), dtype), weights((33, 40), dtype)
    sums, means = (patches, positions, [side, side]), (patches, positions, weight, [side, side], 0.1)
    for op, args in {"extract_patches_adjoint": sums, "reassemble_patches": means}.items():
        for got, want in zip(tensors(raw(op)(*on_gpu(args))), tensors(raw(op)(*args)), strict=True):
            assert torch.equal(got.cpu(), want)


def test_plan_does_not_change_results_and_a_wrong_plan_gives_nan() -> None:
    canvas, positions, patches = on_gpu((data(SIZE, torch.float32), scan(), data((COUNT, *WINDOW), torch.float32)))
    plan = px.ScanPlan(positions, WINDOW, SIZE)
    assert plan.order.is_cuda and plan.order.sort().values.equal(torch.arange(COUNT, device="cuda"))
    assert torch.equal(
        px.extract_patches(canvas, positions, WINDOW, plan=plan), px.extract_patches(canvas, positions, WINDOW)
    )
    want = px.extract_patches_adjoint(patches, positions, SIZE)
    assert torch.equal(px.extract_patches_adjoint(patches, positions, SIZE, plan=plan), want)
    few = px.extract_patches_adjoint(patches[:30], positions[:30], SIZE)
    made = px.ScanPlan(positions[:30], WINDOW, SIZE)
    assert torch.equal(px.extract_patches_adjoint(patches[:30], positions[:30], SIZE, plan=made), few)
    moved = positions.clone()
    moved[5] += 40
    assert px.extract_patches_adjoint(patches, moved, SIZE, plan=plan).isnan().all()


def test_plan_moves_with_its_module_and_is_computed_again() -> None:
    owner = torch.nn.ModuleDict({"plan": px.ScanPlan(scan(), WINDOW, SIZE)})
    plan = owner.cuda()["plan"]
    made = px.ScanPlan(scan().cuda(), WINDOW, SIZE)
    assert plan.positions.dtype == torch.float64
    for name in ("order", "tile_start"):  # tile_patches has unused elements after the last pair
        assert torch.equal(getattr(plan, name), getattr(made, name))
    assert torch.equal(owner.cpu()["plan"].tile_patches, px.ScanPlan(scan(), WINDOW, SIZE).tile_patches)


def test_errors_that_need_no_synchronisation() -> None:
    canvas, positions = on_gpu((data(SIZE, torch.float32), scan()))
    with pytest.raises(RuntimeError, match=r"^extract_patches: positions must be on device cuda, got cpu$"):
        px.extract_patches(canvas, positions.cpu(), WINDOW)
    with pytest.raises(RuntimeError, match=r"^extract_patches: positions must be on device cpu, got cuda$"):
        px.extract_patches(canvas.cpu(), positions, WINDOW)
    plan = px.ScanPlan(positions.cpu(), WINDOW, SIZE)
    with pytest.raises(RuntimeError, match=r"^extract_patches: plan must be on device cuda, got cpu$"):
        px.extract_patches(canvas, positions, WINDOW, plan=plan)
    positions[3, 1] = torch.inf
    with pytest.raises(RuntimeError, match=r"^plan_tiles: positions must be finite, got inf$"):
        px.ScanPlan(positions, WINDOW, SIZE)


def test_position_that_is_not_finite_gives_nan() -> None:
    positions = POSITIONS.cuda()
    positions[1, 0, 1] = torch.nan
    patches = data((2, 5, *PATCH), torch.complex64).cuda()
    got = px.extract_patches(data((2, *CANVAS), torch.complex64).cuda(), positions, PATCH)
    assert got[1, 0].isnan().all() and got.isnan().sum() == PATCH[0] * PATCH[1]
    image, total = px.reassemble_patches(patches, positions, CANVAS)
    assert image[1].isnan().all() and total[1].isnan().all() and not image[0].isnan().any()


@pytest.mark.parametrize("planned", [False, True])
def test_calls_do_not_wait_for_the_device(planned: bool) -> None:
    canvas, positions, weight = on_gpu((data(SIZE, torch.complex64), scan(), weights(WINDOW, torch.complex64)))
    plan = px.ScanPlan(positions, WINDOW, SIZE) if planned else None
    torch.cuda.set_sync_debug_mode("error")
    try:
        leaves = [t.clone().requires_grad_() for t in (canvas, positions, weight)]
        patches = px.extract_patches(leaves[0], leaves[1], WINDOW, plan=plan)
        image, _ = px.reassemble_patches(patches, leaves[1], SIZE, leaves[2], plan=plan)
        groups = (patches.view(-1, 4, *WINDOW), leaves[1].view(-1, 4, 2), SIZE, leaves[2])
        moved = px.translate_images(px.overlap_project(*groups), leaves[1].view(-1, 4, 2) / 9)
        (image.abs().sum() + moved.abs().sum()).backward()
        torch.ops.ptycho.plan_tiles(positions, WINDOW, SIZE)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_on_another_stream() -> None:
    canvas, positions = on_gpu((data(SIZE, torch.complex64), scan()))
    want = px.extract_patches_adjoint(px.extract_patches(canvas, positions, WINDOW), positions, SIZE)
    slow = torch.zeros_like(canvas)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(20_000_000)  # the call must wait for this stream
        slow.copy_(canvas)
        got = px.extract_patches_adjoint(px.extract_patches(slow, positions, WINDOW), positions, SIZE)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(got, want)


def physics(canvas: Tensor, positions: Tensor, probe: Tensor, counts: Tensor, plan: px.ScanPlan | None) -> Tensor:
    """Forward model of a training step: merge, extract, illuminate, propagate, and compare with counts."""
    patches = px.extract_patches(canvas, positions, WINDOW, plan=plan)
    image, _ = px.reassemble_patches(patches, positions, SIZE, plan=plan)
    exit_waves = px.extract_patches(image, positions, WINDOW, plan=plan) * probe
    intensity = torch.fft.fft2(exit_waves, norm="ortho").abs().square() + 1e-3
    return (intensity - counts * intensity.log()).mean()


@pytest.mark.parametrize("planned", [False, True])
def test_a_training_step_is_captured_into_a_graph(planned: bool) -> None:
    canvas, positions, probe = on_gpu((data(SIZE, torch.complex64), scan(), data(WINDOW, torch.complex64, 2)))
    counts = torch.rand(COUNT, *WINDOW, device="cuda")
    plan = px.ScanPlan(positions, WINDOW, SIZE) if planned else None
    leaves = [canvas.requires_grad_(), positions.requires_grad_()]

    def step() -> list[Tensor]:
        loss = physics(*leaves, probe, counts, plan)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        canvas.mul_(1.5)
        if not planned:
            positions.add_(0.37)
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in CASES if "fourier" not in name])
def test_autocast_computes_in_float32(name: str, short: torch.dtype) -> None:
    case = CASES[name]
    x, at = case.data(torch.float32).cuda().to(short), case.coordinates().cuda()
    arguments = on_gpu(case._arguments(x.float()))
    with torch.autocast("cuda", dtype=short):
        got = tensors(case.function(x, at, *arguments))[0]
    assert got.dtype == torch.float32
    assert torch.equal(got, tensors(case.function(x.float(), at, *arguments))[0])


def test_compiles_to_one_graph() -> None:
    args = [*on_gpu((data(SIZE, torch.complex64), scan(), data(WINDOW, torch.complex64, 2))), None, None]
    args[3] = torch.rand(COUNT, *WINDOW, device="cuda")
    compiled = torch.compile(physics, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), physics(*args))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_on_a_device_that_is_not_current() -> None:
    for op, args in scan_inputs(torch.complex64).items():
        there = tuple(a.to("cuda:1") if isinstance(a, Tensor) else a for a in args)
        for one, other in zip(tensors(raw(op)(*there)), tensors(raw(op)(*on_gpu(args))), strict=True):
            assert one.device.index == 1 and torch.equal(one.cpu(), other.cpu())
    assert torch.cuda.current_device() == 0


class Object(torch.nn.Module):
    """Module for DDP; the object is a parameter of real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.canvas = torch.nn.Parameter(torch.view_as_real(data(SIZE, torch.complex64)))

    def forward(self, positions: Tensor) -> Tensor:
        patches = px.extract_patches(torch.view_as_complex(self.canvas), positions, WINDOW)
        return px.reassemble_patches(patches, positions, SIZE)[0].abs().square().sum()


def train_part(rank: int, store: str, results: Any) -> None:
    """One of two processes on the same device, with half of the scan."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(Object().cuda(), device_ids=[0])
    model(scan()[rank::2].cuda()).backward()
    results[rank] = model.module.canvas.grad.cpu()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_on_one_device(tmp_path: Any) -> None:
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(train_part, (str(tmp_path / "store"), results), nprocs=2)
        parts = []
        for rank in range(2):
            model = Object().cuda()
            model(scan()[rank::2].cuda()).backward()
            parts.append(model.canvas.grad.cpu())
        for rank in range(2):
            assert torch.equal(results[rank], results[1 - rank])
            torch.testing.assert_close(results[rank], (parts[0] + parts[1]) / 2)


@pytest.mark.slow
def test_a_large_scan() -> None:
    """100,000 patches of 128 pixels on a canvas of 16,384: ones, so the mean is one at covered pixels."""
    needed = 100_000 * 128**2 * 4 + 3 * 16384**2 * 4
    if torch.cuda.mem_get_info()[0] < 1.2 * needed:
        pytest.skip("needs 12 GB of free device memory")
    size, count = (16384, 16384), 100_000
    positions = torch.rand(count, 2, dtype=torch.float64, device="cuda") * (16384 - 129)
    patches = torch.ones(count, 128, 128, device="cuda")
    plan = px.ScanPlan(positions, 128, size)
    image, total = px.reassemble_patches(patches, positions, size, plan=plan)
    assert float(total.double().sum()) == pytest.approx(count * 128**2, rel=1e-6)
    seen = total > 1e-6 * total.max()
    assert torch.equal(image == 0, ~seen) and float((image[seen] - 1).abs().max()) < 1e-5
    far = positions[:, 0].argmax()
    picked = px.extract_patches(image, positions[far : far + 1], 128)
    torch.testing.assert_close(picked, torch.ones_like(picked), rtol=0, atol=1e-5)


def test_a_short_run_of_everything() -> None:
    """Every operator and kernel once, with small inputs, for compute-sanitizer."""
    for dtype in DTYPES:
        for inputs in (raw_inputs(dtype), *([scan_inputs(dtype)] if dtype == torch.complex64 else [])):
            for op, args in inputs.items():
                assert all(torch.isfinite(t).all() for t in tensors(raw(op)(*on_gpu(args))))
    for modes, shared, shifts in STEP_CASES:
        step = raw("pattern_step")(*on_gpu(step_inputs((16, 20), 9, torch.complex64, modes, shared, shifts)))
        assert all(t.isfinite().all() for t in step)
    positions = scan()[:60].cuda()
    order, start, listed = torch.ops.ptycho.plan_tiles(positions, WINDOW, SIZE)
    patches = data((60, *WINDOW), torch.float32).cuda()
    planned = torch.ops.ptycho.extract_patches_adjoint(patches, positions, SIZE, start, listed)
    assert torch.equal(planned, torch.ops.ptycho.extract_patches_adjoint(patches, positions, SIZE))
    large = data((300, 260), torch.float32).cuda()
    at = torch.tensor([[0.25, 3.5]], dtype=torch.float64, device="cuda")
    grads = data((1, 280, 250), torch.float32).cuda()
    assert torch.ops.ptycho.extract_patches_grad_positions(grads, large, at).isfinite().all()
    assert torch.ops.ptycho.extract_patches(large, at, (280, 250)).isfinite().all()
    assert order.sort().values.tolist() == list(range(60))
    nearest = torch.ops.ptycho.translate_images(patches, positions / 9, "nearest")
    assert on_cpu((nearest,))[0].isfinite().all()
    assert re.fullmatch(r"\d+\.\d+\.\d+", px.build_info()["cuda"])
