# SPDX-License-Identifier: BSD-3-Clause
"""What Python checks of an operator's arguments: "<op>: <argument> must <rule>, got <value>", as the kernels say it.

Types, shapes and sizes are the kernels' to check (csrc/ops). Here is what they do not see: sizes of any integer type,
plans, and devices, which a fake kernel compares too, so that a mixture is found without a device. RuntimeError, as
torch's own operators raise.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_pair(size: Any) -> list[Any]:
    """(h, w) of one integer or of several, of any integer type; the operator refuses all but two positive ones."""
    if type(size) is int:
        return [size, size]
    try:
        parts = list(size)
    except TypeError:
        parts = [size, size]
    # operator.index would make a constant of an integer of torch.compile.
    return [part if isinstance(part, int | torch.SymInt) else operator.index(part) for part in parts]


class Check:
    """The rules for the arguments of one operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def require(self, ok: bool, argument: str, rule: str, value: object) -> None:
        if not ok:
            raise RuntimeError(f"{self.op}: {argument} must {rule}, got {value}")

    def shape(self, argument: str, tensor: Tensor, wanted: Sequence[int]) -> None:
        got = tuple(tensor.shape)
        self.require(got == tuple(wanted), argument, f"have shape {tuple(wanted)}", got)

    def size(self, argument: str, sizes: Sequence[int]) -> None:
        ok = len(sizes) == 2 and sizes[0] > 0 and sizes[1] > 0
        self.require(ok, argument, "be two positive integers", tuple(sizes))

    def device(self, argument: str, tensor: Tensor, data: Tensor) -> None:
        if tensor.device != data.device:
            alike = tensor.device.type == data.device.type
            names = [str(t.device) if alike else t.device.type for t in (data, tensor)]
            self.require(False, argument, f"be on device {names[0]}", names[1])

    def same_device(self, data: Tensor, **others: Tensor | None) -> None:
        for argument, tensor in others.items():
            if tensor is not None:
                self.device(argument, tensor, data)

    def out(self, *tensors: Tensor) -> None:
        """Tensors to write to are not lazy views, whose memory holds something other than their values."""
        for tensor in tensors:
            if tensor.is_conj() or tensor.is_neg():
                view = "the conjugate or negative view of another (resolve_conj() or resolve_neg() makes one)"
                self.require(False, "out", "be a tensor of its own", view)

    def no_gradient(self, wanted: bool) -> None:
        self.require(not wanted, "out", "be None where a gradient is required", "a tensor (omit it, or use no_grad)")
