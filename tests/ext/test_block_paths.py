# SPDX-License-Identifier: BSD-3-Clause
"""The ways through the block programs that depend on sizes: pairs of columns, versions for the last wave."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import CPU, same, same_position_gradients, same_wave_sums, scan
from op_cases import DTYPES, data, weights


def test_what_launches_work_out_on_the_host(blocks: Any) -> None:
    """Quotients by multiplication, and which version of a program fills a device."""
    built = Path(next(path for path in torch.ops.loaded_libraries if "ptycho_blocks" in path)).parent
    done = subprocess.run([built / "check_launches"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [31, 33, 50, 64, 65, 96, 97, 130])
def test_two_columns_of_a_thread(blocks: Any, width: int, dtype: torch.dtype) -> None:
    """Strips with both columns, with the first alone, and with the second for some threads; inside and over an edge."""
    patch, size = (35, width), (61, 180)
    inside, over = [[3.25, 10.5], [20.0, 40.75], [24.5, 1.125]], [[-3.5, 47.5], [30.75, 120.25], [4.5, -7.25]]
    positions = torch.tensor([inside + over], dtype=torch.float64)
    canvas, patches, each = data((1, *size), dtype), data((1, 6, *patch), dtype, 1), weights((1, 6, *patch), dtype)
    waves, probe = data((1, 6, 3, *patch), dtype, 2), data((3, *patch), dtype, 3)
    for op, args in {
        "extract_patches": (canvas, positions, list(patch)),
        "reassemble_patches_adjoint": (canvas, positions, each),
        "exit_waves": (canvas, positions, probe),
    }.items():
        same(getattr(blocks, op)(*args), getattr(CPU, op)(*args))
    same(
        blocks.exit_waves_adjoint_probe(waves, canvas, positions, False),
        CPU.exit_waves_adjoint_probe(waves, canvas, positions, False),
    )
    same_position_gradients(blocks, patches, canvas, positions)
    same_wave_sums(blocks, "exit_waves_grad_positions", waves, canvas, positions, probe)
    same_wave_sums(blocks, "exit_waves_adjoint_probe", waves, canvas, positions, True)


def test_what_lies_beside_a_patch_is_not_in_its_sums(blocks: Any) -> None:
    """Threads whose second column is behind the patch read the canvas there all the same."""
    canvas, positions = data((40, 90), torch.complex64), torch.tensor([[2.5, 3.25]], dtype=torch.float64)
    patches, probe, waves = (data(shape, torch.complex64, 1) for shape in ((1, 32, 40), (2, 32, 40), (1, 2, 32, 40)))
    wanted = [
        blocks.extract_patches_grad_positions(patches, canvas, positions),
        blocks.exit_waves_grad_positions(waves, canvas, positions, probe),
        blocks.exit_waves_adjoint_probe(waves, canvas, positions, True),
    ]
    canvas[:, 45:] = torch.inf
    same(blocks.extract_patches_grad_positions(patches, canvas, positions), wanted[0])
    same(blocks.exit_waves_grad_positions(waves, canvas, positions, probe), wanted[1])
    same(blocks.exit_waves_adjoint_probe(waves, canvas, positions, True), wanted[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiles", [3, 4, 5, 6, 7, 8, 16])
def test_both_versions_of_the_sums(blocks: Any, tiles: int, dtype: torch.dtype) -> None:
    """From numbers of tiles that one version runs at once to those that the other does, some with empty lists."""
    size, patch = (32, 32 * tiles), (20, 45)
    positions = scan(600, (40, 32 * tiles - 50), 1)
    patches, weight = data((1, 600, *patch), dtype), weights(patch, dtype)
    for plan in ((), blocks.plan_tiles(positions, list(patch), list(size))[1:]):
        same(
            blocks.extract_patches_adjoint(patches, positions, list(size), *plan),
            CPU.extract_patches_adjoint(patches, positions, list(size)),
        )
        same(
            blocks.reassemble_patches(patches, positions, weight, list(size), 0.2, *plan),
            CPU.reassemble_patches(patches, positions, weight, list(size), 0.2),
        )
