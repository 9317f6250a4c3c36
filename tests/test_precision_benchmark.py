# SPDX-License-Identifier: BSD-3-Clause
"""The emulation of TF32 in benchmarks/precision.py: rounding, and convolutions with their derivatives."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def precision() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import precision

    return precision


def test_values_are_rounded_to_ten_bits(precision: ModuleType) -> None:
    values = np.random.default_rng(0).normal(size=1000) * np.logspace(-20, 20, 1000)
    got = precision.rounded(torch.from_numpy(values.astype(np.float32))).numpy()
    mantissa, exponent = np.frexp(values.astype(np.float32).astype(np.float64))
    away = np.sign(mantissa) * np.floor(np.abs(mantissa) * 2**11 + 0.5)
    np.testing.assert_array_equal(got, np.ldexp(away / 2**11, exponent).astype(np.float32))


def test_convolutions_have_rounded_operands_in_both_directions(precision: ModuleType) -> None:
    torch.manual_seed(0)
    layer, values = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 6, 6, requires_grad=True)
    gradient = torch.randn(1, 3, 6, 6)
    with precision.tf32_convolutions():
        result = layer(values)
        got = torch.autograd.grad(result, [values, layer.weight, layer.bias], gradient)
    assert layer.bias is not None
    operands = [precision.rounded(value.detach()).requires_grad_() for value in (values, layer.weight)]
    plain = F.conv2d(*operands, padding=1)
    want = torch.autograd.grad(plain, operands, precision.rounded(gradient))
    assert torch.equal(result, plain + layer.bias[:, None, None])
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    torch.testing.assert_close(got[2], gradient.sum((0, 2, 3)))
    assert not torch.equal(layer(values), result)


def test_rows_have_scores(precision: ModuleType) -> None:
    rows = [precision.measure(name, 0, 1, 36, 1) for name in precision.PRECISIONS]
    assert [row["precision"] for row in rows] == ["32", "tf32", "bf16"]
    assert len({row["train_loss"] for row in rows}) == 3
    assert all(0 < row["frc_mean"] <= 1 for row in rows)
