# SPDX-License-Identifier: BSD-3-Clause
"""Tensors of more than 2^31 elements: a 32-bit index would overflow.

The inputs are sparse files of zeros, mapped into memory, of which an operator reads only the pages that a patch
overlaps, so this needs little memory. With PTYCHO_LARGE=1 results of that size are written as well, in 20 GB of memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ptycho_ext import extract_patches, extract_patches_adjoint, overlap_project, reassemble_patches, translate_images

LIMIT = 2**31

large = pytest.mark.skipif(os.environ.get("PTYCHO_LARGE") != "1", reason="needs 20 GB: set PTYCHO_LARGE=1")


def sparse(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of a shape in a sparse file."""
    kind = {torch.float32: np.float32, torch.complex64: np.complex64}[dtype]
    try:
        return torch.from_numpy(np.memmap(path, kind, "w+", shape=shape))
    except OSError as error:
        pytest.skip(f"no sparse files here: {error}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_extraction_at_the_end_of_a_canvas(tmp_path: Path, dtype: torch.dtype) -> None:
    canvas = sparse(tmp_path / "canvas", (46_400, 46_500), dtype)
    assert canvas.numel() > LIMIT
    end = torch.arange(30, dtype=torch.float32).reshape(5, 6).to(dtype)
    canvas[-5:, -6:] = end
    positions = torch.tensor([[46_395.0, 46_494.0], [46_396.5, 46_495.0], [0.0, 0.0]], requires_grad=True)
    patches = extract_patches(canvas, positions, (4, 6))
    assert torch.equal(patches[0], end[:4])
    assert torch.equal(patches[1, :3, :5], (end[1:4, 1:] + end[2:5, 1:]) / 2)
    assert not patches[2].any()
    patches[1, 0, 0].real.backward()
    assert positions.grad is not None
    assert positions.grad.tolist() == [[0, 0], [6, 1], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sum_of_the_last_of_many_patches(tmp_path: Path, dtype: torch.dtype) -> None:
    count = LIMIT // (96 * 128) + 2
    patches = sparse(tmp_path / "patches", (count, 96, 128), dtype)
    assert patches.numel() > LIMIT
    patches[-1] = torch.arange(96 * 128).reshape(96, 128).to(dtype)
    positions = torch.full((count, 2), -1e6, dtype=torch.float64)
    positions[-1] = torch.tensor([2.0, 3.0])
    want = torch.zeros(100, 140, dtype=dtype)
    want[2:98, 3:131] = patches[-1]
    assert torch.equal(extract_patches_adjoint(patches, positions, (100, 140)), want)
    image, total = reassemble_patches(patches, positions, (100, 140))
    assert torch.equal(image, want) and total.sum() == 96 * 128


@large
def test_large_results() -> None:
    canvas = torch.arange(512 * 512, dtype=torch.float32).reshape(512, 512)
    count = LIMIT // 512**2 + 2
    positions = torch.zeros(count, 2, dtype=torch.float64)
    positions[-1, 0] = 1.0
    patches = extract_patches(canvas, positions, 512)
    assert patches.numel() > LIMIT
    assert torch.equal(patches[-2], canvas) and torch.equal(patches[-1, :-1], canvas[1:])
    for mode in ("bilinear", "nearest"):
        moved = translate_images(patches, -positions, mode)
        assert torch.equal(moved[-2], canvas) and torch.equal(moved[-1, :-2], canvas[2:])
        del moved
    projected = overlap_project(patches[:, None], positions[:, None], (514, 512))
    assert torch.equal(projected[-2, 0], canvas) and torch.equal(projected[-1, 0, :-1], canvas[1:])


@large
def test_large_canvas() -> None:
    size, corner = (46_400, 46_500), torch.tensor([[46_396.0, 46_494.0]])
    patch = torch.arange(1.0, 25).reshape(1, 4, 6)
    canvas = extract_patches_adjoint(patch, corner, size)
    assert canvas.numel() > LIMIT
    assert torch.equal(canvas[-4:, -6:], patch[0]) and canvas.sum() == patch.sum()
