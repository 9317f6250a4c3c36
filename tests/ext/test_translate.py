# SPDX-License-Identifier: BSD-3-Clause
"""translate_images: sign, borders, both modes, adjoint and reference."""

from __future__ import annotations

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
