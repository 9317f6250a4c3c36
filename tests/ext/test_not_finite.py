# SPDX-License-Identifier: BSD-3-Clause
"""NaN and infinity propagate in the operators and their derivatives as in the reference.

Every tap inside is used, also with a weight of zero. A NaN weight makes the pixels that it contributes to NaN, and no
others.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from op_cases import CANVAS, CASES, DTYPES, PATCH, POSITIONS, data, here, weights
from torch import Tensor

import ptycho_ext as px
from ptycho_ext import reference

pytestmark = pytest.mark.usefixtures("device")

LINEAR = [name for name in CASES if "fourier" not in name and "mean" not in name and "overlap" not in name]


def same_nan(got: Tensor, want: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isnan(got.detach().cpu().numpy()), np.isnan(want))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LINEAR)
def test_data_that_are_not_finite(name: str, dtype: torch.dtype, value: float) -> None:
    """One value in every patch or canvas; positions at integers and between."""
    case = CASES[name]
    x = case.data(dtype)
    if x.is_complex() and value == math.inf:
        pytest.skip("NumPy's complex products make NaN of infinities")
    x[..., 2, 3] = value
    if "nearest" in name:  # its reference multiplies by zero, the operator selects
        assert case.run(x, case.coordinates()).isfinite().logical_not().any()
        return
    same_nan(case.run(x, case.coordinates()), case.reference(x, case.coordinates()))


def test_tap_of_weight_zero_propagates_nan() -> None:
    canvas = torch.ones(4, 4)
    canvas[0, 2] = math.nan
    patch = px.extract_patches(here(canvas), here(torch.zeros(1, 2)), 2)[0]
    assert patch.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_a_number(dtype: torch.dtype, shared: bool) -> None:
    patches = data((2, 5, *PATCH), dtype)
    weight = weights(PATCH if shared else (2, 5, *PATCH), dtype)
    weight[..., 1, 2] = math.nan
    cpu = patches.cpu(), POSITIONS, CANVAS, weight.cpu()
    for normalize in (True, False):
        image, total = px.reassemble_patches(patches, here(POSITIONS), CANVAS, weight, normalize, eps=0.3)
        wanted, of_weights = reference.reassemble_patches(*cpu, normalize, eps=0.3)
        same_nan(image, wanted)
        same_nan(total, of_weights)
        assert total.isnan().any() and (~total.isnan() & (total > 0)).any()
        seen = ~np.isnan(wanted)
        tolerance = {"rtol": 1e-5, "atol": 1e-5}
        np.testing.assert_allclose(image.cpu().numpy()[seen], wanted[seen], **tolerance)
    same_nan(px.overlap_project(patches, here(POSITIONS), CANVAS, weight, 0.3), reference.overlap_project(*cpu, 0.3))


@pytest.mark.parametrize("op", ["reassemble", "overlap"])
def test_gradients_have_the_same_threshold_as_the_mean(op: str) -> None:
    """The gradient of pixels without the NaN is unchanged; that of the others is NaN, not zero."""
    patches, at = data((5, *PATCH), torch.float64), here(POSITIONS[0])
    weight = weights((5, *PATCH), torch.float64)
    broken = weight.clone()
    broken[0] = math.nan

    def gradient(weight: Tensor) -> Tensor:
        leaf = patches.clone().requires_grad_()
        call = {
            "reassemble": lambda: px.reassemble_patches(leaf, at, CANVAS, weight, eps=1e-3)[0],
            "overlap": lambda: px.overlap_project(leaf, at, CANVAS, weight, 1e-3),
        }[op]
        (grad,) = torch.autograd.grad(call().nan_to_num().square().sum(), leaf)
        return grad

    got, want = gradient(broken), gradient(weight)
    assert got[0].isnan().any()
    apart = [k for k in range(1, 5) if not got[k].isnan().any()]
    assert apart and any(want[k].any() for k in apart)
    for k in apart:
        torch.testing.assert_close(got[k], want[k])


@pytest.mark.parametrize("eps", [-1.0, -1e-300, math.nan])
def test_negative_thresholds_are_errors(eps: float) -> None:
    patches = data((5, *PATCH), torch.float32)
    value = {-1.0: "-1", -1e-300: "-1e-300"}.get(eps, "nan")
    for op in ("reassemble_patches", "overlap_project"):
        with pytest.raises(RuntimeError, match=rf"^{op}: eps must be at least 0, got {value}$"):
            getattr(px, op)(patches, here(POSITIONS[0]), CANVAS, eps=eps)
    px.reassemble_patches(patches, here(POSITIONS[0]), CANVAS, normalize=False, eps=eps)  # it has no threshold
