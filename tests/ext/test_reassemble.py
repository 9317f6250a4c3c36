# SPDX-License-Identifier: BSD-3-Clause
"""reassemble_patches: reference, constants, uncovered pixels, weights and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CANVAS, DTYPES, PATCH, POSITIONS, REAL, assert_close, data, weights
from torch.autograd import gradcheck, gradgradcheck

from ptycho_ext import extract_patches, reassemble_patches, reference


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["ones", "shared", "each"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_reference(dtype: torch.dtype, kind: str, normalize: bool) -> None:
    patches = data((2, 5, *PATCH), dtype)
    weight = {"ones": None, "shared": weights(PATCH, dtype), "each": weights((2, 5, *PATCH), dtype)}[kind]
    image, total = reassemble_patches(patches, POSITIONS, CANVAS, weight, normalize)
    want_image, want_total = reference.reassemble_patches(patches, POSITIONS, CANVAS, weight, normalize)
    assert image.dtype == dtype and total.dtype == REAL.get(dtype, dtype)
    assert_close(image, want_image, dtype)
    assert_close(total, want_total, dtype)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("needed", [(0,), (2,), (0, 1, 2)])
def test_gradients_where_one_result_is_not_used(needed: tuple[int, ...], normalize: bool) -> None:
    """The result that was not used counts as one with a gradient of zeros, of patches alone and of all inputs."""
    values = [data((5, *PATCH), torch.complex128), POSITIONS[0], weights(PATCH, torch.float64)]
    inputs = [v.clone().requires_grad_(i in needed) for i, v in enumerate(values)]
    wanted = [inputs[i] for i in needed]
    patches, positions, weight = inputs
    image, total = reassemble_patches(patches, positions, CANVAS, weight, normalize)
    by_image, by_total = data(CANVAS, torch.complex128, 1), data(CANVAS, torch.float64, 2)
    both = [(by_image, by_total), (by_image, torch.zeros_like(by_total)), (torch.zeros_like(by_image), by_total)]
    of_both, of_image, of_total = (torch.autograd.grad((image, total), wanted, g, retain_graph=True) for g in both)
    alone = torch.autograd.grad(image, wanted, by_image, retain_graph=True)
    torch.testing.assert_close(alone, of_image, rtol=0, atol=0)
    alone = torch.autograd.grad(total, wanted, by_total)
    torch.testing.assert_close(alone, of_total, rtol=0, atol=0)
    for one, image_s, total_s in zip(of_both, of_image, of_total, strict=True):
        torch.testing.assert_close(one, image_s + total_s)


def test_the_backward_of_the_mean_has_the_bits_of_its_two_parts() -> None:
    grad, total = data((2, *CANVAS), torch.complex64), weights((2, *CANVAS), torch.float32) - 0.3
    at, weight, ops = POSITIONS, weights(PATCH, torch.float32), torch.ops.ptycho
    by_sum, nothing = ops.reassemble_patches_mean_backward(grad, total, 0.2)
    assert nothing.numel() == 0
    want = ops.reassemble_patches_adjoint(by_sum, at, weight)
    assert torch.equal(ops.reassemble_patches_backward(grad, at, weight, total, 0.2), want)
    leaf = grad.clone().requires_grad_()  # composed of both where it is differentiated
    assert torch.equal(ops.reassemble_patches_backward(leaf, at, weight, total, 0.2), want)


@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
    points=st.lists(st.tuples(*[st.floats(-3, 12)] * 2), min_size=1, max_size=6),
)
def test_constant_is_preserved_at_illuminated_pixels(
    seed: int, scale: float, points: list[tuple[float, float]]
) -> None:
    patches = torch.full((len(points), *PATCH), 2.5 - 1.5j, dtype=torch.complex128)
    weight = weights(PATCH, torch.float64, seed) * scale
    image, total = reassemble_patches(patches, torch.tensor(points, dtype=torch.float64), CANVAS, weight)
    seen = total > 1e-6 * total.max()
    torch.testing.assert_close(image[seen], torch.full_like(image[seen], 2.5 - 1.5j), rtol=1e-12, atol=0)
    assert not image[~seen].any()


def test_uncovered_pixels_are_exactly_zero() -> None:
    image, total = reassemble_patches(torch.ones(1, 2, 2), torch.tensor([[100.0, 0.0]]), (4, 5))
    assert image.shape == total.shape == (4, 5)
    assert not image.any() and not total.any()


def test_patches_at_integer_positions_are_reassembled_to_the_object() -> None:
    """A closed loop with a non-square object and different offsets on the two axes."""
    canvas = data(CANVAS, torch.complex128)
    rows, cols = torch.meshgrid(torch.arange(0, 9, 2), torch.arange(0, 15, 3), indexing="ij")
    positions = torch.stack([rows.flatten(), cols.flatten()], -1).double()
    patches = extract_patches(canvas, positions, (5, 6))
    image, total = reassemble_patches(patches, positions, CANVAS, weights((5, 6), torch.complex128))
    assert total.min() > 0
    torch.testing.assert_close(image, canvas, rtol=1e-12, atol=1e-12)


def test_weight_of_another_precision_is_converted() -> None:
    patches = data((5, *PATCH), torch.complex64)
    single = weights(PATCH, torch.complex64)
    got = reassemble_patches(patches, POSITIONS[0], CANVAS, single.double())
    assert torch.equal(got[0], reassemble_patches(patches, POSITIONS[0], CANVAS, single)[0])


def test_gradient_of_uncovered_pixels_is_finite() -> None:
    patches = torch.ones(1, 2, 2, requires_grad=True)
    weight = torch.ones(2, 2, requires_grad=True)
    image, total = reassemble_patches(patches, torch.tensor([[1.5, 2.25]]), (5, 6), weight)
    (image.sum() + total.sum()).backward()
    assert patches.grad is not None and weight.grad is not None
    assert patches.grad.isfinite().all() and weight.grad.isfinite().all()
    assert patches.grad.abs().sum() > 0


def test_vmap_over_weights() -> None:
    patches, weight = data((3, 5, *PATCH), torch.float64), weights((3, *PATCH), torch.float64)
    mapped = torch.vmap(lambda p, w: reassemble_patches(p, POSITIONS[0], CANVAS, w)[0])(patches, weight)
    looped = [reassemble_patches(p, POSITIONS[0], CANVAS, w)[0] for p, w in zip(patches, weight, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(looped), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [PATCH, (2, 5, *PATCH)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adjoint_is_the_extraction_times_the_weights(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image, weight = data((2, *CANVAS), dtype), weights(shape, dtype)
    got = torch.ops.ptycho.reassemble_patches_adjoint(image, POSITIONS, weight)
    assert got.dtype == dtype
    assert_close(got, reference.reassemble_patches_adjoint(image, POSITIONS, weight), dtype)


@pytest.mark.parametrize("shape", [PATCH, (5, *PATCH)])
def test_adjoint_is_differentiable_by_all_inputs(shape: tuple[int, ...]) -> None:
    image, weight = data(CANVAS, torch.complex128).requires_grad_(), weights(shape, torch.complex128).requires_grad_()
    positions = (POSITIONS[0] + 0.013).requires_grad_()

    def adjoint(image: torch.Tensor, positions: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.ptycho.reassemble_patches_adjoint(image, positions, weight)

    assert gradcheck(adjoint, (image, positions, weight), fast_mode=True)
    assert gradgradcheck(lambda i, w: adjoint(i, positions.detach(), w), (image, weight), fast_mode=True)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [PATCH, (2, 5, *PATCH)])
@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_complex_weights(dtype: torch.dtype, shape: tuple[int, ...], normalize: bool) -> None:
    """Equal to real weights where they are real; a constant is preserved; with gradients by all inputs."""
    patches, weight = data((2, 5, *PATCH), dtype), data(shape, dtype, 3)
    image, total = reassemble_patches(patches, POSITIONS, CANVAS, weight, normalize, 0.05)
    want_image, want_total = reference.reassemble_patches(patches, POSITIONS, CANVAS, weight, normalize, 0.05)
    assert image.dtype == total.dtype == dtype
    assert_close(total, want_total, dtype)
    error = abs(image.numpy() - want_image).max() / abs(want_image).max()
    assert error < (1e-12 if dtype == torch.complex128 else 2e-5)
    real = weights(shape, dtype)
    for got, want in zip(
        reassemble_patches(patches, POSITIONS, CANVAS, real + 0j, normalize),
        reassemble_patches(patches, POSITIONS, CANVAS, real, normalize),
        strict=True,
    ):
        torch.testing.assert_close(got, want.to(dtype), rtol=1e-5, atol=1e-6)
    out = torch.empty_like(image), torch.empty_like(total)
    assert reassemble_patches(patches, POSITIONS, CANVAS, weight, normalize, 0.05, out=out) is out
    assert torch.equal(out[0], image) and torch.equal(out[1], total)
    if normalize:
        constant = reassemble_patches(torch.full_like(patches, 2 - 3j), POSITIONS, CANVAS, weight, eps=0.05)[0]
        seen = constant != 0
        torch.testing.assert_close(constant[seen], torch.full_like(constant[seen], 2 - 3j), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [PATCH, (5, *PATCH)])
def test_gradients_with_complex_weights(shape: tuple[int, ...], normalize: bool) -> None:
    leaves = [data((5, *PATCH), torch.complex128), POSITIONS[0] + 0.013, data(shape, torch.complex128, 3)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def run(x: torch.Tensor, p: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return reassemble_patches(x, p, CANVAS, w, normalize, 0.05)

    assert gradcheck(run, leaves, fast_mode=True)
    assert gradgradcheck(lambda x, w: run(x, leaves[1].detach(), w), (leaves[0], leaves[2]), fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
def test_backward_of_shared_weights_makes_no_stack(dtype: torch.dtype) -> None:
    """400 patches with one image of weights: neither weights nor products are expanded."""
    patches, at = data((400, *PATCH), dtype).requires_grad_(), (torch.rand(400, 2).double() * 8).requires_grad_()
    weight = weights(PATCH, dtype).requires_grad_()
    image, total = reassemble_patches(patches, at, CANVAS, weight)
    loss = image.abs().square().sum() + total.square().sum()
    leaves = [weight, at]
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(loss, leaves)
    made = [e.cpu_memory_usage for e in profile.events() if e.name.startswith("aten::empty")]
    assert made and max(made) <= max(400 * 2 * 8, 13 * 18 * 16) < patches.numel() * patches.element_size() / 4
