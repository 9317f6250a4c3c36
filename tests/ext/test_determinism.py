# SPDX-License-Identifier: BSD-3-Clause
"""Results are bitwise the same for any number of threads, over runs, with and without a plan, on every instruction set.

As a script, this file prints a digest of every result for the instruction set in PTYCHO_SIMD, in memory full of NaN.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ptycho_ext as px

LEVELS = ["sse2", "avx2", "avx512"]
SIZES = (201, 1061), (71, 37)  # of the canvas, of a patch; neither fills vectors or tiles


def digests(threads: int, planned: bool, prepare: Callable[[], None] = lambda: None) -> dict[str, str]:
    """A digest per operator and type; sizes that fill no vector and no tile; positions inside, across and outside.

    prepare: is called before every operator.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(6)
    (size, patch), count = SIZES, 90
    positions = torch.rand(count, 2, dtype=torch.float64, generator=generator) * torch.tensor([250.0, 1100.0]) - 30
    positions[::7] = positions[::7].round()
    plan = px.ScanPlan(positions, patch, size) if planned else None
    results: dict[str, str] = {}
    for dtype in (torch.float32, torch.complex64, torch.complex128):
        results |= digests_of_type(dtype, generator, positions, plan, prepare)
    return results


def digests_of_type(
    dtype: torch.dtype,
    generator: torch.Generator,
    positions: torch.Tensor,
    plan: px.ScanPlan | None,
    prepare: Callable[[], None],
) -> dict[str, str]:
    """The digests of one type."""
    (size, patch), count = SIZES, len(positions)
    order = None if plan is None else plan.order
    results = {}
    canvas = torch.randn(size, dtype=dtype, generator=generator)
    patches = torch.randn(count, *patch, dtype=dtype, generator=generator)
    weight = torch.rand(count, *patch, generator=generator).to(px.ops._precision.real_type(dtype))
    weight[:, :9] = 0
    groups = (patches.view(9, 10, *patch), positions.view(9, 10, 2), size, weight[0].clone().requires_grad_())
    counts = torch.randint(0, 9000, patch, generator=generator, dtype=torch.int32).to(torch.uint16)
    modes = (patches.view(30, 3, *patch), counts.expand(30, *patch))
    mask, scale = weight[0] > 0.3, weight[:30, 10, 10]
    for loss in ("poisson", "amplitude"):
        options = (mask, scale, loss, 0.1)
        prepare()
        found = torch.ops.ptycho.correct_fields(*modes, *options)
        grads = (patches.flip(0).view(30, 3, *patch), *found[1:])
        back = torch.ops.ptycho.correct_fields_backward(*grads, *modes, *options)
        for number, output in enumerate((*found, *back)):
            results[f"{loss} {number} {dtype}"] = digest(output)
    if dtype.is_complex:
        results |= digests_of_update(dtype, generator, prepare)
    waves, probe = patches.view(30, 3, *patch), patches[:3]
    at = positions[:30]
    if dtype.is_complex:
        part = (..., slice(64), slice(36))  # sizes of which the operator has Fourier transforms
        results |= digests_of_step((canvas, at, probe[part], modes[1][part], mask[part], scale), prepare)
    waves_plan = None if plan is None else px.ScanPlan(at, patch, size)
    calls = {
        "waves": lambda: px.exit_waves(canvas, at, probe, plan=waves_plan),
        "waves' adjoint": lambda: px.exit_waves_adjoint(waves, at, probe, size, plan=waves_plan),
        "waves' probe": lambda: px.exit_waves_adjoint_probe(waves, canvas, at, plan=waves_plan),
        "waves' probes": lambda: px.exit_waves_adjoint_probe(waves, canvas, at, plan=waves_plan, shared=False),
        "waves' position gradient": lambda: torch.ops.ptycho.exit_waves_grad_positions(
            waves, canvas, at, probe, None if waves_plan is None else waves_plan.order
        ),
        "by": lambda: gradients(canvas, positions, weight, plan),
        "overlap by weights": lambda: torch.autograd.grad(px.overlap_project(*groups), groups[3], groups[0])[0],
        "overlap": lambda: px.overlap_project(*groups).detach(),
        "nearest": lambda: px.translate_images(patches, positions / 20, "nearest"),
        "extract": lambda: px.extract_patches(canvas, positions, patch, plan=plan),
        "adjoint": lambda: px.extract_patches_adjoint(patches, positions, size, plan=plan),
        "position gradient": lambda: torch.ops.ptycho.extract_patches_grad_positions(patches, canvas, positions, order),
        "translate": lambda: px.translate_images(patches, positions / 20),
        "reassemble": lambda: px.reassemble_patches(patches, positions, size, weight, eps=0.05, plan=plan),
    }
    for name, call in calls.items():
        prepare()
        outputs = call()
        for number, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
            results[f"{name} {number} {dtype}"] = digest(output)
    return results


def digests_of_step(inputs: tuple[torch.Tensor, ...], prepare: Callable[[], None]) -> dict[str, str]:
    """Those of pattern_step, without and with shifts."""
    results = {}
    for name, shifts in {"step": None, "shifted step": inputs[1] / 50}.items():
        prepare()
        outputs = torch.ops.ptycho.pattern_step(*inputs, inputs[-1], shifts, "poisson", 0.1)
        results |= {f"{name} {number} {inputs[0].dtype}": digest(output) for number, output in enumerate(outputs)}
    return results


def digests_of_update(dtype: torch.dtype, generator: torch.Generator, prepare: Callable[[], None]) -> dict[str, str]:
    """Those of update_canvas and its backward."""
    real = px.ops._precision.real_type(dtype)
    canvas, numerator, velocity, *grads = torch.randn(6, 3, *SIZES[1], dtype=dtype, generator=generator)
    scalars = torch.rand(3, *SIZES[1], dtype=real, generator=generator)
    inputs = (canvas, numerator, scalars, scalars[:, 0, 0], scalars[0, 1, :2], velocity, scalars[0, 2, 2])
    prepare()
    outputs = torch.ops.ptycho.update_canvas(*inputs)
    back = torch.ops.ptycho.update_canvas_backward(*grads, *inputs)
    return {f"update {number} {dtype}": digest(output) for number, output in enumerate((*outputs, *back))}


def fill_free_memory() -> None:
    """Fill free memory with NaN (all bits set), so that a result that depends on memory nobody has written differs.

    The next allocations of the calling thread come from this memory: glibc's allocator is told to keep it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.mallopt(trim_threshold, 1 << 30)
    library.mallopt(mmap_threshold, 1 << 25)
    sizes = [*range(16, 1040, 16), *(1 << 14,) * 64, *(1 << 18,) * 16, 1 << 24]
    blocks = [(library.malloc(size), size) for size in sizes]
    for block, size in blocks:
        ctypes.memset(block, 0xFF, size)
    for block, _ in blocks:
        library.free(block)


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
    for name, value in digests(1, False, fill_free_memory).items():
        print(f"{name}: {value}")
