# SPDX-License-Identifier: BSD-3-Clause
"""translate_images: sign, borders, both modes, adjoint, shift gradients, and the original's golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import DTYPES, assert_close, data

from ptycho_ext import reference, translate_images

RAMP = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
SHIFTS = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.5, 1.5], [-0.25, 7.75], [30.0, -1e13]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("shift", "want"),
    [
        (0.0, [1, 2, 4, 8, 16]),
        (1.0, [0, 1, 2, 4, 8]),
        (0.5, [0.5, 1.5, 3, 6, 12]),
        (-0.25, [1.25, 2.5, 5, 10, 12]),
    ],
)
def test_positive_shift_moves_content_to_larger_indices(shift: float, want: list[float]) -> None:
    assert translate_images(RAMP, torch.tensor([0.0, shift])).flatten().tolist() == want
    assert translate_images(RAMP.T.contiguous(), torch.tensor([shift, 0.0])).flatten().tolist() == want


def test_nearest_rounds_ties_to_even_and_tests_the_border_before_rounding() -> None:
    assert translate_images(RAMP, torch.tensor([0.0, 0.5]), "nearest").flatten().tolist() == [0, 1, 4, 4, 16]
    assert translate_images(RAMP, torch.tensor([0.0, -0.25]), "nearest").flatten().tolist() == [1, 2, 4, 8, 0]


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_reference(dtype: torch.dtype, mode: str) -> None:
    images = data((5, 6, 9), dtype)
    assert_close(translate_images(images, SHIFTS, mode), reference.translate_images(images, SHIFTS, mode), dtype)


@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    shift=st.tuples(*[st.one_of(st.floats(-9, 9), st.integers(-18, 18).map(lambda v: v / 2))] * 2),
    mode=st.sampled_from(["bilinear", "nearest"]),
)
def test_any_shift_matches_the_reference_and_its_adjoint(
    size: tuple[int, int], shift: tuple[float, float], mode: str
) -> None:
    images, others = data(size, torch.complex128), data(size, torch.complex128, 1)
    shifts = torch.tensor(shift, dtype=torch.float64)
    got = translate_images(images, shifts, mode)
    assert_close(got, reference.translate_images(images, shifts, mode), torch.complex128)
    back = torch.ops.ptycho.translate_images_adjoint(others, shifts, mode)
    left, right = torch.vdot(others.flatten(), got.flatten()), torch.vdot(back.flatten(), images.flatten())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_one_shift_serves_all_images() -> None:
    images, shift = data((2, 3, 4, 5), torch.float32), torch.tensor([0.5, -1.25])
    assert torch.equal(translate_images(images, shift), translate_images(images, shift.expand(2, 3, 2)))


def test_nearest_refuses_a_gradient_by_the_shifts() -> None:
    shifts = torch.zeros(2, requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"^translate_images: shifts must not require a gradient with mode 'nearest'"
    ):
        translate_images(RAMP, shifts, "nearest")


@pytest.mark.parametrize(
    "name",
    [
        "translate_bilinear_complex64_11x17_B7_T7_sub_s6",
        "translate_bilinear_float32_12x12_B7_T7_oob_s7",
        "translate_bilinear_float32_9x9_B7_T7_half_s3",
        "translate_nearest_complex64_11x17_B7_T7_sub_s6",
        "translate_nearest_float32_8x8_B7_T7_int_s2",
    ],
)
def test_golden_translate(golden: Path, name: str) -> None:
    """The original's XLA path: shifts (x, y), coordinates rounded to float32 before the fraction is taken."""
    with np.load(golden / f"{name}.npz") as file:
        images, shifts, want = file["in_images"][..., 0], file["in_translations"], file["out_xla"][..., 0]
    shifts = torch.from_numpy(shifts[:, ::-1].astype(np.float64))
    got = translate_images(torch.from_numpy(images), shifts, name.split("_")[1])
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_golden_gradients(golden: Path) -> None:
    with np.load(golden / "translate_grad_9x11_B4_sub_s302.npz") as file:
        arrays = {key: file[key] for key in file.files if file[key].ndim}
    images = torch.from_numpy(arrays["in_images"][..., 0]).requires_grad_()
    shifts = torch.from_numpy(arrays["in_translations"][:, ::-1].astype(np.float64)).requires_grad_()
    translate_images(images, shifts).backward(torch.from_numpy(arrays["in_grad_output"][..., 0]))
    assert images.grad is not None and shifts.grad is not None
    np.testing.assert_allclose(images.grad, arrays["out_grad_images"][..., 0], atol=2e-5)
    np.testing.assert_allclose(shifts.grad, arrays["out_grad_translations"][:, ::-1], atol=1e-4)
