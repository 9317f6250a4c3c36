# SPDX-License-Identifier: BSD-3-Clause
"""translate_images: sign, borders, the three modes, adjoint and reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import DTYPES, assert_close, data
from torch import Tensor

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


def test_nearest_rounds_ties_to_even_and_checks_the_border_before_rounding() -> None:
    assert translate_images(RAMP, torch.tensor([0.0, 0.5]), "nearest").flatten().tolist() == [0, 1, 4, 4, 16]
    assert translate_images(RAMP, torch.tensor([0.0, -0.25]), "nearest").flatten().tolist() == [1, 2, 4, 8, 0]


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "fourier"])
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


def test_one_shift_for_all_images() -> None:
    images, shift = data((2, 3, 4, 5), torch.float32), torch.tensor([0.5, -1.25])
    assert torch.equal(translate_images(images, shift), translate_images(images, shift.expand(2, 3, 2)))


def waves(size: tuple[int, int], shift: tuple[float, float]) -> Tensor:
    """A real band-limited image without symmetry, evaluated at shifted coordinates."""
    (h, w), (y, x) = size, shift
    rows = (torch.arange(h, dtype=torch.float64) - y)[:, None] * (2 * math.pi / h)
    cols = (torch.arange(w, dtype=torch.float64) - x) * (2 * math.pi / w)
    return 1 + torch.sin(2 * rows + cols) + 0.5 * torch.cos(rows - 3 * cols + 0.3)


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (5, 7), (8, 10)])
def test_fourier_is_exact_for_band_limited_images_and_periodic(size: tuple[int, int]) -> None:
    shift = (1.375, -2.8)
    got = translate_images(waves(size, (0, 0)), torch.tensor(shift, dtype=torch.float64), "fourier")
    torch.testing.assert_close(got, waves(size, shift), rtol=0, atol=1e-13)
    turns = torch.tensor([shift[0] + 5 * size[0], shift[1] - 3 * size[1]], dtype=torch.float64)
    torch.testing.assert_close(translate_images(waves(size, (0, 0)), turns, "fourier"), got, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
def test_fourier_with_integer_shifts_is_a_roll(size: tuple[int, int]) -> None:
    for dtype in (torch.float64, torch.complex128):
        image = data(size, dtype)
        got = translate_images(image, torch.tensor([3.0, -2.0]), "fourier")
        torch.testing.assert_close(got, image.roll((3, -2), (0, 1)), rtol=0, atol=1e-13)


def test_fourier_does_not_mix_real_and_imaginary_parts() -> None:
    """The highest frequency of an even size is a cosine: a complex factor would make a real image complex."""
    image, shift = data((6, 8), torch.complex128), torch.tensor([0.5, 1.25], dtype=torch.float64)
    got = translate_images(image, shift, "fourier")
    torch.testing.assert_close(got.real, translate_images(image.real, shift, "fourier"), rtol=0, atol=1e-13)
    torch.testing.assert_close(got.imag, translate_images(image.imag, shift, "fourier"), rtol=0, atol=1e-13)
    checker = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    moved = translate_images(checker, torch.tensor([0.0, 0.25], dtype=torch.float64), "fourier")
    torch.testing.assert_close(moved, checker * math.cos(math.pi / 4))


def test_fourier_is_invertible_for_odd_sizes_and_preserves_the_mean() -> None:
    image, shift = data((5, 9), torch.float64), torch.tensor([0.3, -4.7], dtype=torch.float64)
    there = translate_images(image, shift, "fourier")
    torch.testing.assert_close(translate_images(there, -shift, "fourier"), image, rtol=0, atol=1e-13)
    torch.testing.assert_close(there.mean(), image.mean())
    torch.testing.assert_close(there.square().sum(), image.square().sum())


def test_fourier_derivative_by_the_shift_matches_differences() -> None:
    shift = torch.tensor([0.4, -1.1], dtype=torch.float64)

    def at(t: Tensor) -> Tensor:
        return translate_images(waves((6, 9), (0, 0)), t, "fourier")

    step = 1e-5
    for axis in range(2):
        by = torch.eye(2, dtype=torch.float64)[axis]
        _, derivative = torch.func.jvp(at, (shift,), (by,))
        y, x = (by * step).tolist()
        up, down = waves((6, 9), (0.4 + y, -1.1 + x)), waves((6, 9), (0.4 - y, -1.1 - x))
        torch.testing.assert_close(derivative, (up - down) / (2 * step), rtol=0, atol=1e-8)
        torch.testing.assert_close(torch.func.jacrev(at)(shift)[..., axis], derivative)
