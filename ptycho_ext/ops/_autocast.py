# SPDX-License-Identifier: BSD-3-Clause
"""The rule for mixed precision, stated once for every public operator.

Under ``torch.autocast`` data of 16 bits are widened to float32 (complex64) and the result is float32; positions and
sums of many patches need it. Outside autocast 16-bit data are refused, since nobody asked for a conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def autocast_to_float32(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, given float32 where autocast is on and an argument is a tensor of 16 bits per number."""

    @wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return function(*[_widen(a) for a in args], **{name: _widen(a) for name, a in kwargs.items()})

    return wrapper


def _widen(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.dtype in _WIDER and torch.is_autocast_enabled(argument.device.type):
        return argument.to(_WIDER[argument.dtype])
    return argument
