# SPDX-License-Identifier: BSD-3-Clause
"""extract_patches, its adjoint and the position gradient: conventions, reference, edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CANVAS, DTYPES, PATCH, POSITIONS, assert_close, data

from ptycho_ext import extract_patches, extract_patches_adjoint, reference


def test_patch_at_an_integer_position_is_a_slice() -> None:
    canvas = data(CANVAS, torch.complex64)
    patches = extract_patches(canvas, torch.tensor([[2.0, 7.0], [8.0, 0.0]]), PATCH)
    assert torch.equal(patches[0], canvas[2:7, 7:11])
    assert torch.equal(patches[1], canvas[8:13, 0:4])


def test_fraction_interpolates_along_its_axis() -> None:
    canvas = data(CANVAS, torch.float64)
    patch = extract_patches(canvas, torch.tensor([[3.25, 6.75]]), 1)[0, 0, 0]
    upper = 0.25 * canvas[3, 6] + 0.75 * canvas[3, 7]
    lower = 0.25 * canvas[4, 6] + 0.75 * canvas[4, 7]
    torch.testing.assert_close(patch, 0.75 * upper + 0.25 * lower)


def test_each_tap_outside_is_zero() -> None:
    ramp = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    patches = extract_patches(ramp, torch.tensor([[0.0, -1.5], [0.0, 1.5]]), (1, 5))
    assert patches.flatten(1).tolist() == [[0, 0.5, 1.5, 3, 6], [3, 6, 12, 8, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_reference(dtype: torch.dtype) -> None:
    canvas, patches = data((2, *CANVAS), dtype), data((2, 5, *PATCH), dtype, 1)
    assert_close(extract_patches(canvas, POSITIONS, PATCH), reference.extract_patches(canvas, POSITIONS, PATCH), dtype)
    got = extract_patches_adjoint(patches, POSITIONS, CANVAS)
    assert_close(got, reference.extract_patches_adjoint(patches, POSITIONS, CANVAS), dtype)
    gradient = torch.ops.ptycho.extract_patches_grad_positions(patches, canvas, POSITIONS)
    want = reference.extract_patches_grad_positions(patches, canvas, POSITIONS)
    assert gradient.dtype == torch.float64
    assert np.abs(gradient.numpy() - want).max() < (1e-4 if dtype.itemsize // (1 + dtype.is_complex) == 4 else 1e-12)


@given(
    size=st.tuples(*[st.integers(1, 9)] * 2),
    more=st.tuples(*[st.integers(0, 9)] * 2),
    points=st.lists(st.tuples(*[st.floats(-12, 12)] * 2), max_size=5),
    is_complex=st.booleans(),
)
def test_any_geometry_matches_the_reference(
    size: tuple[int, int], more: tuple[int, int], points: list[tuple[float, float]], is_complex: bool
) -> None:
    dtype = torch.complex128 if is_complex else torch.float64
    positions = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    canvas_size = (size[0] + more[0], size[1] + more[1])
    canvas, patches = data(canvas_size, dtype), data((len(points), *size), dtype, 1)
    got = extract_patches(canvas, positions, size)
    assert_close(got, reference.extract_patches(canvas, positions, size), dtype)
    back = extract_patches_adjoint(patches, positions, canvas_size)
    assert_close(back, reference.extract_patches_adjoint(patches, positions, canvas_size), dtype)
    left, right = torch.vdot(patches.flatten(), got.flatten()), torch.vdot(back.flatten(), canvas.flatten())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_leading_dimensions_are_independent_groups() -> None:
    canvas = data((2, 3, *CANVAS), torch.complex64)
    positions = POSITIONS[:, None].repeat(1, 3, 1, 1) + torch.arange(3.0)[:, None, None]
    patches = extract_patches(canvas, positions, PATCH)
    assert patches.shape == (2, 3, 5, *PATCH)
    assert torch.equal(patches[1, 2], extract_patches(canvas[1, 2], positions[1, 2], PATCH))
    back = extract_patches_adjoint(patches, positions, CANVAS)
    assert torch.equal(back[0, 1], extract_patches_adjoint(patches[0, 1], positions[0, 1], CANVAS))


@pytest.mark.parametrize("far", [-1e300, -1e12, -(2.0**63), 1e12, 2.0**63, 1e300])
def test_far_positions_give_zero(far: float) -> None:
    canvas = data(CANVAS, torch.float32)
    positions = torch.tensor([[far, 0.0], [0.0, far], [far, far]], dtype=torch.float64)
    assert not extract_patches(canvas, positions, PATCH).any()
    assert not extract_patches_adjoint(torch.ones(3, *PATCH), positions, CANVAS).any()


def test_patch_as_large_as_its_canvas() -> None:
    canvas, positions = data((9, 7), torch.float64), torch.tensor([[-2.5, -1.25], [0.0, 0.0]])
    got = extract_patches(canvas, positions, (9, 7))
    assert_close(got, reference.extract_patches(canvas, positions, (9, 7)), torch.float64)
    with pytest.raises(
        RuntimeError, match=r"^extract_patches: canvas must be at least a patch's \(9, 8\), got \(9, 7\)$"
    ):
        extract_patches(canvas, positions, (9, 8))


def test_canvas_of_many_tiles_matches_the_reference() -> None:
    size, generator = (70, 2100), torch.Generator().manual_seed(3)
    positions = torch.rand(40, 2, dtype=torch.float64, generator=generator) * torch.tensor([70.0, 2100.0]) - 5
    patches = data((40, 9, 300), torch.complex128)
    got = extract_patches_adjoint(patches, positions, size)
    assert_close(got, reference.extract_patches_adjoint(patches, positions, size), torch.complex128)


def test_fraction_is_accurate_for_float32_data_on_a_large_canvas() -> None:
    """The fraction is computed in float64: 1000.0001 would be 1000.00012 in float32."""
    canvas = torch.zeros(1, 2000)
    canvas[0, 1001] = 1.0
    patch = extract_patches(canvas, torch.tensor([[0.0, 1000.0001]], dtype=torch.float64), 1)
    assert patch.item() == pytest.approx(1e-4, rel=1e-6)


def test_position_gradient_at_an_integer_is_the_right_hand_difference() -> None:
    canvas = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    positions = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    extract_patches(canvas, positions, 1).sum().backward()
    assert positions.grad is not None
    assert positions.grad.tolist() == [[-2.0, 2.0]]
