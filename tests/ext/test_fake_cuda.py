# SPDX-License-Identifier: BSD-3-Clause
"""The operators on fake tensors of device "cuda", on any build of torch.

No kernel reads a value or makes a tensor on another device, and mixed devices are errors. Derivatives are raw operators
too; autograd itself needs a real device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import CASES, DTYPES, raw, raw_inputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def on_cuda(value: Any) -> Any:
    """A fake tensor of the same shape and type."""
    return torch.empty(value.shape, dtype=value.dtype, device="cuda") if isinstance(value, Tensor) else value


def parts(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(raw_inputs(torch.float32)))
def test_raw_operators(name: str, dtype: torch.dtype) -> None:
    args = raw_inputs(dtype)[name]
    want = parts(raw(name)(*args))
    with torch.no_grad(), FakeTensorMode():
        moved = [on_cuda(a) for a in args]
        got = parts(raw(name)(*moved))
        assert [(g.device.type, g.shape, g.dtype) for g in got] == [("cuda", w.shape, w.dtype) for w in want]
        with pytest.raises(RuntimeError, match=rf"^{name}: [a-z_]+ must be on device (cuda, got cpu|cpu, got cuda)$"):
            raw(name)(
                moved[0], *[torch.empty(a.shape, dtype=a.dtype) if isinstance(a, Tensor) else a for a in args[1:]]
            )


@pytest.mark.parametrize(
    "name", [name for name in CASES if not name.startswith("waves")]
)  # these make a probe on the CPU
def test_public_functions(name: str) -> None:
    case = CASES[name]
    x, coordinates = case.data(torch.complex64), case.coordinates()
    want = parts(case.results(x, coordinates))
    with torch.no_grad(), FakeTensorMode():
        given = [on_cuda(a) for a in case._arguments(x)]
        got = parts(case.function(on_cuda(x), on_cuda(coordinates), *given))
        assert [(g.device.type, g.shape, g.dtype) for g in got] == [("cuda", w.shape, w.dtype) for w in want]
