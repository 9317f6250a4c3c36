# SPDX-License-Identifier: BSD-3-Clause
"""Results are bitwise the same for any number of threads, over runs, with and without a plan, on every instruction set.

As a script, this file prints a digest of every result for the instruction set in PTYCHO_SIMD.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import ptycho_ext as px

LEVELS = ["sse2", "avx2", "avx512"]


def digests(threads: int, planned: bool) -> dict[str, str]:
    """A digest per operator and type; sizes that fill no vector and no tile; positions inside, across and outside."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(6)
    size, patch, count = (201, 1061), (71, 37), 90
    positions = torch.rand(count, 2, dtype=torch.float64, generator=generator) * torch.tensor([250.0, 1100.0]) - 30
    positions[::7] = positions[::7].round()
    plan = px.ScanPlan(positions, patch, size) if planned else None
    order = None if plan is None else plan.order
    results = {}
    for dtype in (torch.float32, torch.complex64, torch.complex128):
        canvas = torch.randn(size, dtype=dtype, generator=generator)
        patches = torch.randn(count, *patch, dtype=dtype, generator=generator)
        weight = torch.rand(count, *patch, generator=generator).to(px.ops._precision.real_type(dtype))
        weight[:, :9] = 0
        image, total = px.reassemble_patches(patches, positions, size, weight, eps=0.05, plan=plan)
        by_canvas, by_positions, by_weight = gradients(canvas, positions, weight, plan)
        groups = (patches.view(9, 10, *patch), positions.view(9, 10, 2), size, weight[0].clone().requires_grad_())
        overlap_by_weights = torch.autograd.grad(px.overlap_project(*groups), groups[3], groups[0])[0]
        counts = torch.randint(0, 9000, patch, generator=generator, dtype=torch.int32).to(torch.uint16)
        modes = (patches.view(30, 3, *patch), counts.expand(30, *patch))
        mask, scale = weight[0] > 0.3, weight[:30, 10, 10]
        for loss in ("poisson", "amplitude"):
            options = (mask, scale, loss, 0.1)
            found = torch.ops.ptycho.correct_fields(*modes, *options)
            grads = (patches.flip(0).view(30, 3, *patch), *found[1:])
            back = torch.ops.ptycho.correct_fields_backward(*grads, *modes, *options)
            for number, output in enumerate((*found, *back)):
                results[f"{loss} {number} {dtype}"] = digest(output)
        waves, probe = patches.view(30, 3, *patch), patches[:3]
        at = positions[:30]
        waves_plan = px.ScanPlan(at, patch, size) if planned else None
        outputs = {
            "waves": px.exit_waves(canvas, at, probe, plan=waves_plan),
            "waves' adjoint": px.exit_waves_adjoint(waves, at, probe, size, plan=waves_plan),
            "waves' probe": px.exit_waves_adjoint_probe(waves, canvas, at, plan=waves_plan),
            "waves' probes": px.exit_waves_adjoint_probe(waves, canvas, at, plan=waves_plan, shared=False),
            "waves' slope": torch.ops.ptycho.exit_waves_grad_positions(
                waves, canvas, at, probe, None if waves_plan is None else waves_plan.order
            ),
            "by canvas": by_canvas,
            "by positions": by_positions,
            "by weights": by_weight,
            "overlap by weights": overlap_by_weights,
            "overlap": px.overlap_project(*groups).detach(),
            "nearest": px.translate_images(patches, positions / 20, "nearest"),
            "extract": px.extract_patches(canvas, positions, patch, plan=plan),
            "adjoint": px.extract_patches_adjoint(patches, positions, size, plan=plan),
            "slope": torch.ops.ptycho.extract_patches_grad_positions(patches, canvas, positions, order),
            "translate": px.translate_images(patches, positions / 20),
            "image": image,
            "total": total,
        }
        for name, output in outputs.items():
            results[f"{name} {dtype}"] = digest(output)
    return results


def digest(output: torch.Tensor) -> str:
    return hashlib.sha256(output.numpy().tobytes()).hexdigest()


def gradients(
    canvas: torch.Tensor, positions: torch.Tensor, weight: torch.Tensor, plan: px.ScanPlan | None
) -> tuple[torch.Tensor, ...]:
    """Gradients of an extraction and a reassembly, by all inputs."""
    leaves = [t.detach().clone().requires_grad_() for t in (canvas, positions, weight)]
    patches = px.extract_patches(leaves[0], leaves[1], weight.shape[-2:], plan=plan)
    image, _ = px.reassemble_patches(patches, leaves[1], canvas.shape, leaves[2], eps=0.05, plan=plan)
    return torch.autograd.grad(image, leaves, canvas)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return digests(1, planned=False)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_runs_and_plans(expected: dict[str, str], threads: int, planned: bool) -> None:
    assert digests(threads, planned) == expected


@pytest.mark.skipif(px.simd_level()["operators"] not in LEVELS, reason="one instruction set on this architecture")
@pytest.mark.parametrize("level", LEVELS)
def test_instruction_sets(expected: dict[str, str], level: str) -> None:
    if LEVELS.index(level) > LEVELS.index(px.simd_level()["operators"]):
        pytest.skip(f"this processor has no {level}")
    environment = {**os.environ, "PTYCHO_SIMD": level}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [level, *(f"{name}: {value}" for name, value in expected.items())]


def test_outputs_larger_than_the_caches_equal_small_ones() -> None:
    canvas = torch.randn(200, 300, dtype=torch.complex64)
    positions = torch.rand(1100, 2, dtype=torch.float64) * 200
    stack = px.extract_patches(canvas, positions, 64)
    assert stack.numel() * stack.element_size() > 32 << 20
    for part in (slice(0, 9), slice(-9, None)):
        assert torch.equal(stack[part], px.extract_patches(canvas, positions[part], 64))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_reassembly_needs_little_temporary_memory() -> None:
    patches, positions = torch.ones(1500, 64, 64, dtype=torch.complex64), torch.rand(1500, 2) * 400
    resident, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            time.sleep(0.0005)

    px.reassemble_patches(patches[:2], positions[:2], 500)
    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.01)
    px.reassemble_patches(patches, positions, 500)
    done.set()
    watcher.join()
    extra = max(resident) - resident[0] - 500 * 500 * 12
    assert extra < 0.1 * patches.numel() * patches.element_size()


if __name__ == "__main__":
    print(px.simd_level()["operators"])
    for name, value in digests(1, planned=False).items():
        print(f"{name}: {value}")
