# SPDX-License-Identifier: BSD-3-Clause
"""The choice of the device, for all combinations of what torch and the operators support."""

from __future__ import annotations

import pytest
import torch

import ptycho_ext
from ptychopinn.errors import InputError
from ptychopinn.runtime import devices


@pytest.mark.parametrize(("of_torch", "of_operators"), [(True, True), (True, False), (False, True), (False, False)])
def test_auto_takes_a_gpu_only_if_torch_and_operators_support_it(
    monkeypatch: pytest.MonkeyPatch, of_torch: bool, of_operators: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: of_torch)
    monkeypatch.setattr(ptycho_ext, "build_info", lambda: {"cuda": of_operators})
    both = of_torch and of_operators
    assert devices.gpu_usable() is both
    assert devices.resolve_device("auto").type == ("cuda" if both else "cpu")
    assert devices.resolve_accelerator("auto") == ("gpu" if both else "cpu")


def test_requested_gpu_that_is_not_usable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptycho_ext, "build_info", lambda: {"cuda": False})
    with pytest.raises(InputError, match="'gpu' cannot be used: the operators were built without CUDA"):
        devices.resolve_accelerator("gpu")
    with pytest.raises(InputError, match="'meta' cannot be used: the operators run on CPU and CUDA"):
        devices.resolve_device("meta")
    with pytest.raises(InputError, match="expected one that torch can use here, got 'nonsense'"):
        devices.resolve_device("nonsense")
    assert devices.resolve_device("cpu") == torch.device("cpu")
