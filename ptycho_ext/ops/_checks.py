# SPDX-License-Identifier: BSD-3-Clause
"""Checks of arguments in Python: RuntimeError with "<op>: <argument> must <rule>, got <value>", as in the kernels.

The kernels check types, shapes and sizes (csrc/ops). This module has the checks that they cannot make: of sizes of any
integer type, of plans, and of devices, which the fake kernels compare too, so that mixed devices are found without a
GPU.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_pair(size: Any) -> list[Any]:
    """Convert one integer, or a sequence of them, of any integer type to [h, w]; the operator checks the values."""
    if type(size) is int:
        return [size, size]
    try:
        parts = list(size)
    except TypeError:
        parts = [size, size]
    # operator.index would make a symbolic integer of torch.compile a constant.
    return [part if isinstance(part, int | torch.SymInt) else operator.index(part) for part in parts]


class Check:
    """Checks of the arguments of one operator."""

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
        """Check that tensors to write to are no conjugate or negative views, whose memory differs from their values."""
        for tensor in tensors:
            if tensor.is_conj() or tensor.is_neg():
                view = "the conjugate or negative view of another (resolve_conj() or resolve_neg() makes one)"
                self.require(False, "out", "be a tensor of its own", view)

    def no_gradient(self, wanted: bool) -> None:
        self.require(not wanted, "out", "be None where a gradient is required", "a tensor (omit it, or use no_grad)")
