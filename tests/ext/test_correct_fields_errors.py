# SPDX-License-Identifier: BSD-3-Clause
"""correct_fields: errors for wrong arguments and gradients, other devices, and forward mode."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from op_cases import data, here, raw, scene
from torch import Tensor

import ptycho_ext as px

pytestmark = pytest.mark.usefixtures("device")

SENTENCES: list[tuple[dict[str, Any], str]] = [
    (
        {"fields": torch.zeros(3, 2, 5, 7).half()},
        "fields must be float32, float64, complex64 or complex128, got float16",
    ),
    ({"fields": torch.zeros(5, 7)}, "fields must have shape (..., M, h, w), got (5, 7)"),
    (
        {"counts": torch.zeros(3, 5, 7, dtype=torch.uint64)},
        "counts must be uint8, int16, uint16, int32, uint32, int64, float32 or float64, got uint64",
    ),
    ({"counts": torch.zeros(3, 5, 6)}, "counts must have shape (3, 5, 7), got (3, 5, 6)"),
    ({"mask": torch.zeros(5, 7)}, "mask must be bool, got float32"),
    ({"mask": torch.zeros(7, 5).bool()}, "mask must have shape (5, 7), got (7, 5)"),
    ({"mask": torch.zeros(2, 5, 7).bool()}, "mask must have shape (3, 5, 7), got (2, 5, 7)"),
    ({"scale": torch.zeros(3).to(torch.complex64)}, "scale must be float32, got complex64"),
    ({"scale": torch.zeros(2)}, "scale must have shape (3,), got (2,)"),
    ({"loss": "gaussian"}, "loss must be 'poisson' or 'amplitude', got 'gaussian'"),
    ({"background": -0.5}, "background must be finite and not negative, got -0.5"),
    ({"background": torch.nan}, "background must be finite and not negative, got nan"),
    ({"out": torch.zeros(3, 2, 5, 7)}, "out must be complex64, got float32"),
    ({"out": torch.zeros(3, 2, 7, 5).to(torch.complex64).mT}, "out must be contiguous, got other strides"),
    (
        {"out": torch.zeros(3, 2, 5, 7).to(torch.complex64), "correct": False},
        "out must be None without a correction, got a tensor",
    ),
    (
        {"counts": torch.zeros(3, 5, 7, requires_grad=True)},
        "counts must require no gradient, got a tensor that does (detach() gives one that does not)",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES)
def test_wrong_arguments_are_errors(changes: dict[str, Any], sentence: str) -> None:
    changes = {name: here(v) if isinstance(v, Tensor) else v for name, v in changes.items()}
    with pytest.raises(RuntimeError, match=f"^{re.escape(f'correct_fields: {sentence}')}$"):
        px.correct_fields(**{**scene(), **changes})


def test_wrong_gradients_are_errors() -> None:
    fields, counts, mask, scale = scene().values()
    op, rest = raw("correct_fields_backward"), (fields, counts, mask, scale)
    for grads, sentence in [
        ((data(fields.shape, torch.complex128), None, None), "grad_correction must be complex64, got complex128"),
        ((fields[:2], None, None), "grad_correction must have shape (3, 2, 5, 7), got (2, 2, 5, 7)"),
        ((None, torch.zeros(3), None), "grad_values must be float64, got float32"),
        ((None, None, torch.zeros(2).double()), "grad_scale_slopes must have shape (3,), got (2,)"),
    ]:
        with pytest.raises(RuntimeError, match=f"^{re.escape(f'correct_fields_backward: {sentence}')}$"):
            op(*grads, *rest)


def test_devices_must_agree() -> None:
    inputs = scene()
    for name in inputs:
        with pytest.raises(RuntimeError, match=r"^correct_fields: [a-z]+ must be on device"):
            px.correct_fields(**{**inputs, name: inputs[name].to("meta")})


def test_forward_mode_is_an_error() -> None:
    inputs = scene(torch.float64)
    fields = inputs.pop("fields")
    with pytest.raises(Exception, match=r"jvp|forward"):
        torch.func.jvp(lambda x: px.correct_fields(x, **inputs)[1], (fields,), (fields,))
