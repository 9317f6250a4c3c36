# SPDX-License-Identifier: BSD-3-Clause
"""CanvasGeometry: the smallest canvas that contains every tap, and conversions of coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_ext import CanvasGeometry, extract_patches_adjoint

# 64ths of a pixel: a coordinate like -1e-35 has taps that no float64 canvas coordinate can tell apart.
POINTS = st.lists(st.tuples(*[st.integers(-3000, 3000).map(lambda v: v / 64)] * 2), min_size=1, max_size=6)


@given(points=POINTS, size=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_canvas_is_the_smallest_with_every_tap(points: list[tuple[float, float]], size: tuple[int, int]) -> None:
    geometry = CanvasGeometry.from_positions(points, size)
    on_canvas = geometry.to_canvas(points)
    patches = torch.ones(len(points), *size, dtype=torch.float64)
    canvas = extract_patches_adjoint(patches, on_canvas, geometry.shape)
    assert canvas.sum().item() == pytest.approx(patches.sum().item())
    assert canvas[0].any() and canvas[:, 0].any()
    high = torch.tensor(points, dtype=torch.float64).amax(0).ceil() + torch.tensor(size) - 1
    last = torch.tensor(geometry.origin) + torch.tensor(geometry.shape) - 1
    assert torch.equal(last.double(), high)


def test_axes_origin_and_margin() -> None:
    positions = np.array([[10.5, -3.0], [14.0, 2.25]])
    assert CanvasGeometry.from_positions(positions, (8, 4)) == CanvasGeometry((10, -3), (12, 10))
    assert CanvasGeometry.from_positions(positions, (8, 4), margin=2) == CanvasGeometry((8, -5), (16, 14))


def test_conversions_are_inverse() -> None:
    geometry = CanvasGeometry((7, -4), (20, 30))
    positions = torch.tensor([[8.5, 2.25], [9.0, -4.0]], dtype=torch.float64)
    assert geometry.to_canvas(positions).tolist() == [[1.5, 6.25], [2.0, 0.0]]
    assert torch.equal(geometry.to_scan(geometry.to_canvas(positions)), positions)


def test_plain_lists_keep_float64() -> None:
    assert CanvasGeometry((100000, 0), (4, 4)).to_canvas([[100000.001, 0.0]])[0, 0].item() == pytest.approx(
        1e-3, rel=1e-6
    )


@pytest.mark.parametrize(
    ("positions", "margin", "message"),
    [
        (np.zeros((0, 2)), 0, r"positions must have shape \(\.\.\., 2\), got \(0, 2\)"),
        (np.zeros((4, 3)), 0, r"positions must have shape \(\.\.\., 2\), got \(4, 3\)"),
        ([[np.nan, 0.0]], 0, "positions must be finite"),
        ([[0.0, 0.0]], -1, "margin must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_errors(positions: object, margin: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CanvasGeometry.from_positions(positions, 4, margin)  # type: ignore[arg-type]
