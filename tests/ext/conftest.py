# SPDX-License-Identifier: BSD-3-Clause
"""The devices of the operator tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Set torch's default device during a test; op_cases.here() copies other tensors to it."""
    if request.param != "cpu":
        torch.set_default_device(request.param)
    yield torch.device(request.param)
    torch.set_default_device(None)
