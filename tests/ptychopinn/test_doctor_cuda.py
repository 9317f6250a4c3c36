# SPDX-License-Identifier: BSD-3-Clause
"""What `ptychopinn doctor` says of a GPU, for builds and machines that are not this one."""

from __future__ import annotations

import pytest
import torch

import ptycho_ext
from ptychopinn import doctor


@pytest.mark.parametrize(
    ("of_operators", "of_torch", "problem"),
    [
        ("13.0.88", "13.0", None),
        ("", "13.0", "the operators were built without CUDA"),
        ("13.0.88", "12.8", "the operators were built with CUDA 13.0.88 and torch with 12.8"),
    ],
)
def test_a_gpu_that_the_operators_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, of_operators: str, of_torch: str, problem: str | None
) -> None:
    monkeypatch.setattr(ptycho_ext, "build_info", lambda: {"cuda": of_operators})
    monkeypatch.setattr(torch.version, "cuda", of_torch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    facts, problems = doctor._cuda()
    assert facts == [("cuda", f"torch built for CUDA {of_torch}: H100")]
    assert [p.startswith(str(problem)) for p in problems] == ([] if problem is None else [True])
