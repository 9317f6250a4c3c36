# SPDX-License-Identifier: BSD-3-Clause
"""Inputs, tolerances and comparisons shared by the operator tests.

The geometry is asymmetric on purpose: non-square canvases and patches, another offset on each axis, positions inside,
across every border and outside. Symmetric examples hide sign and axis errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]

#: Largest error against the float64 reference, as a part of the largest value.
TOLERANCE = {torch.float32: 1e-6, torch.complex64: 1e-6, torch.float64: 1e-14, torch.complex128: 1e-14}

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}

CANVAS = (13, 18)
PATCH = (5, 4)

#: (2 groups, 5 patches, 2): inside, integer, across the upper left and lower right corners, outside.
POSITIONS = torch.tensor(
    [
        [[3.25, 6.75], [2.0, 9.0], [-1.6, -2.3], [10.4, 15.9], [40.0, 3.5]],
        [[0.0, 13.5], [7.999, 0.001], [12.0, 17.0], [-4.5, 6.0], [5.5, -60.0]],
    ],
    dtype=torch.float64,
)


def data(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def weights(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 5) -> Tensor:
    """Positive weights of the data type's real type."""
    return 0.1 + torch.rand(shape, dtype=REAL.get(dtype, dtype), generator=torch.Generator().manual_seed(seed))


def assert_close(got: Tensor, want: Any, dtype: torch.dtype) -> None:
    want = np.asarray(want)
    got_array = got.detach().numpy()
    assert got_array.shape == want.shape
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    assert float(np.abs(got_array - want).max(initial=0.0)) <= TOLERANCE[dtype] * scale


def raw_inputs(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Arguments of every raw operator, in the order of its schema."""
    canvas, patches = data((2, *CANVAS), dtype), data((2, 5, *PATCH), dtype, 1)
    shifts = torch.tensor([[1.25, -2.5], [-0.75, 3.0]], dtype=torch.float64)
    return {
        "extract_patches": (canvas, POSITIONS, list(PATCH)),
        "extract_patches_adjoint": (patches, POSITIONS, list(CANVAS)),
        "extract_patches_grad_positions": (patches, canvas, POSITIONS),
        "translate_images": (canvas, shifts, "bilinear"),
        "translate_images_adjoint": (canvas, shifts, "nearest"),
        "reassemble_patches": (patches, POSITIONS, weights(PATCH, dtype), list(CANVAS)),
    }
