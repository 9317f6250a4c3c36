# SPDX-License-Identifier: BSD-3-Clause
"""overlap_project: equality with reassembly and extraction, groups, idempotence, and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CANVAS, DTYPES, PATCH, POSITIONS, TOLERANCE, data, weights

from ptycho_ext import extract_patches, overlap_project, reassemble_patches


@pytest.mark.parametrize("kind", ["none", "shared", "each"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reassembly_and_extraction(dtype: torch.dtype, kind: str) -> None:
    patches = data((2, 5, *PATCH), dtype)
    weight = {"none": None, "shared": weights(PATCH, dtype), "each": weights((2, 5, *PATCH), dtype)}[kind]
    image, _ = reassemble_patches(patches, POSITIONS, CANVAS, weight)
    want = extract_patches(image, POSITIONS, PATCH)
    got = overlap_project(patches, POSITIONS, CANVAS, weight)
    torch.testing.assert_close(got, want, rtol=0, atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["shared", "each"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_equal_those_of_the_composition(dtype: torch.dtype, kind: str) -> None:
    results = []
    for fused in (True, False):
        patches = data((2, 5, *PATCH), dtype).requires_grad_()
        weight = weights(PATCH if kind == "shared" else (2, 5, *PATCH), dtype).requires_grad_()
        positions = (POSITIONS + 0.01).requires_grad_()
        if fused:
            output = overlap_project(patches, positions, CANVAS, weight)
        else:
            output = extract_patches(reassemble_patches(patches, positions, CANVAS, weight)[0], positions, PATCH)
        results.append(torch.autograd.grad(output, (patches, weight, positions), data((2, 5, *PATCH), dtype, 3)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["shared", "each"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_operator_equals_the_differentiable_backward(dtype: torch.dtype, kind: str) -> None:
    leaves = [data((2, 5, *PATCH), dtype), weights(PATCH if kind == "shared" else (2, 5, *PATCH), dtype)]
    leaves[1][..., :2, :] = 1e-3  # below the threshold where no other patch contributes
    leaves = [leaf.requires_grad_() for leaf in leaves]
    grad = data((2, 5, *PATCH), dtype, 3)
    output = overlap_project(leaves[0], POSITIONS, CANVAS, leaves[1], eps=0.05)
    composed = torch.autograd.grad(output, leaves, grad, create_graph=True)
    assert all(part.requires_grad for part in composed)
    got = torch.autograd.grad(output, leaves, grad)
    for one, other in zip(got, composed, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=60 * TOLERANCE[dtype])
    alone = torch.autograd.grad(
        overlap_project(leaves[0], POSITIONS, CANVAS, leaves[1].detach(), 0.05), leaves[0], grad
    )
    assert torch.equal(alone[0], got[0])


def test_second_derivative_of_the_backward_operator_is_an_error() -> None:
    patches, weight = data((2, 5, *PATCH), torch.float32), weights(PATCH, torch.float32)
    op = torch.ops.ptycho.overlap_project_backward
    with pytest.raises(RuntimeError, match=r"^overlap_project_backward: grad must be float32, got float64$"):
        op(patches.double(), patches, POSITIONS, weight, CANVAS, 1e-6, True)
    with pytest.raises(RuntimeError, match=r"^overlap_project_backward: grad must have shape \(2, 5, 5, 4\), got"):
        op(patches[:1], patches, POSITIONS, weight, CANVAS, 1e-6, True)


def test_one_patch_at_an_integer_position_is_kept_and_two_are_averaged_by_weight() -> None:
    patches = torch.tensor([[[1.0, 1.0, 1.0]], [[3.0, 3.0, 3.0]]])
    positions = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert overlap_project(patches, positions, (1, 5)).tolist() == [[[1, 1, 2]], [[2, 3, 3]]]
    weight = torch.tensor([[[1.0, 1.0, 1.0]], [[3.0, 1.0, 1.0]]])
    assert overlap_project(patches, positions, (1, 5), weight).tolist() == [[[1, 1, 2.5]], [[2.5, 3, 3]]]


def test_uncovered_pixels_and_patches_outside_are_exactly_zero() -> None:
    patches, weight = torch.ones(2, 2, 2), torch.tensor([[1.0, 1e-9], [1.0, 1.0]])
    got = overlap_project(patches, torch.tensor([[0.0, 0.0], [90.0, 0.0]]), (4, 4), weight)
    assert got.tolist() == [[[1, 0], [1, 1]], [[0, 0], [0, 0]]]
    assert not overlap_project(patches, torch.full((2, 2), -90.0), (4, 4)).any()
    assert not overlap_project(patches, torch.zeros(2, 2), (4, 4), torch.zeros(2, 2)).any()


@given(points=st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 15)), min_size=1, max_size=5))
def test_is_idempotent_at_integer_positions(points: list[tuple[int, int]]) -> None:
    patches, weight = data((len(points), *PATCH), torch.complex128), weights(PATCH, torch.float64)
    positions = torch.tensor(points, dtype=torch.float64)
    once = overlap_project(patches, positions, CANVAS, weight)
    torch.testing.assert_close(overlap_project(once, positions, CANVAS, weight), once, rtol=1e-12, atol=1e-12)


def test_groups_are_independent_and_keep_their_leading_dimensions() -> None:
    patches = data((2, 3, 5, *PATCH), torch.complex64)
    positions = POSITIONS[:, None] + torch.arange(3.0)[:, None, None]
    got = overlap_project(patches, positions, CANVAS)
    assert torch.equal(got[1, 2], overlap_project(patches[1, 2], positions[1, 2], CANVAS))


def test_weight_of_another_precision_is_converted() -> None:
    patches, single = data((5, *PATCH), torch.complex64), weights(PATCH, torch.complex64)
    got = overlap_project(patches, POSITIONS[0], CANVAS, single.double())
    assert torch.equal(got, overlap_project(patches, POSITIONS[0], CANVAS, single))


def test_gradient_of_uncovered_pixels_is_finite() -> None:
    patches, weight = torch.ones(1, 2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    overlap_project(patches, torch.tensor([[1.5, 2.25]]), (5, 6), weight).sum().backward()
    assert patches.grad is not None and not patches.grad.any()
    assert weight.grad is not None and not weight.grad.any()
