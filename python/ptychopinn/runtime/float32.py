# SPDX-License-Identifier: BSD-3-Clause
"""Precision of float32 convolutions and matrix products: TF32 off unless it is asked for.

On GPUs since Ampere, torch computes float32 convolutions in TF32 by default: operands are rounded to 10 bits of
mantissa. torch has two interfaces to this setting, ``fp32_precision`` and the older ``allow_tf32`` with
``set_float32_matmul_precision``, and raises an error where the older one is read while the two differ, as Lightning
does. Both are set here, so that either can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from ptychopinn.runtime.shared_setting import SharedSetting
from ptychopinn.runtime.warning_filters import ignored_warnings

#: What torch 2.10 may warn of where the older interface is used.
_OLDER = "Please use the new API settings"
#: Number of the operations below that are of the GPU.
_GPU = 3


class _State(NamedTuple):
    """Both interfaces: of each operation, of convolutions (whether in TF32), and of matrix products."""

    precisions: list[str]
    convolutions: bool
    products: str


def _operations() -> list[Any]:
    """Objects with an attribute ``fp32_precision``: those of the GPU, and those of the CPU."""
    backends: Any = torch.backends
    gpu = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    return [*gpu, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]


def _save() -> _State:
    operations = _operations()
    precisions = [operation.fp32_precision for operation in operations]
    for operation in operations:  # with which the older interface can be read, or differs in one way only
        operation.fp32_precision = "ieee"
    with ignored_warnings(_OLDER):
        try:
            convolutions = bool(torch.backends.cudnn.allow_tf32)
        except RuntimeError:
            convolutions = True
        return _State(precisions, convolutions, torch.get_float32_matmul_precision())


def _apply(state: _State) -> None:
    with ignored_warnings(_OLDER):
        torch.backends.cudnn.allow_tf32 = state.convolutions
        torch.set_float32_matmul_precision(state.products)
    for operation, precision in zip(_operations(), state.precisions, strict=True):
        operation.fp32_precision = "none"
        if operation.fp32_precision != precision:  # otherwise it inherits the value
            operation.fp32_precision = precision


def _set(kind: Literal["32", "tf32"]) -> None:
    tf32 = kind == "tf32"
    precisions = ["tf32" if tf32 else "ieee"] * _GPU + ["ieee"] * (len(_operations()) - _GPU)
    _apply(_State(precisions, tf32, "high" if tf32 else "highest"))


_precision: SharedSetting[Literal["32", "tf32"], _State] = SharedSetting(_save, _set, _apply)


@contextmanager
def float32_precision(kind: Literal["32", "tf32"]) -> Iterator[None]:
    """Context manager with this precision of float32 convolutions and matrix products, restored afterwards.

    It applies to the whole process: with two calls at once, the later one decides. Fourier transforms, sums and the
    operators are float32 in any case.

    Args:
        kind: "32": float32, on every device. "tf32": TF32 on GPUs that have it, and float32 on the CPU.

    A setting that torch had by inheritance may be an explicit one of the same value afterwards.

    Example:
        >>> with float32_precision("32"):
        ...     torch.backends.cudnn.conv.fp32_precision
        'ieee'
    """
    with _precision.hold(kind):
        yield


def tf32_allowed() -> dict[str, bool]:
    """Whether torch may use TF32 for float32 "convolutions" and "matrix products" on a GPU, as it is set now."""
    products, convolutions = (operation.fp32_precision == "tf32" for operation in _operations()[:2])
    return {"convolutions": convolutions, "matrix products": products}
