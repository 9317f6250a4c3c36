# SPDX-License-Identifier: BSD-3-Clause
"""The rules of csrc/checks.cpp for the fake kernels, in the same words: "<op>: <argument> must <rule>, got <value>".

Only shapes, types and devices are looked at: a fake tensor has no data. RuntimeError, as torch's own operators raise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_REAL = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def real_type(dtype: torch.dtype) -> torch.dtype:
    """float32 of float32 and complex64, float64 of float64 and complex128; anything else is returned unchanged."""
    return _REAL.get(dtype, dtype)


def as_pair(size: int | Sequence[int]) -> list[int]:
    """(h, w) of one integer or of two; the operator rejects anything that is not two positive integers."""
    return list(size) if isinstance(size, Sequence) else [size, size]


def as_float64(coordinates: Tensor) -> Tensor:
    """Real coordinates in float64; complex ones unchanged, for the operator to reject."""
    return coordinates if coordinates.is_complex() else coordinates.to(torch.float64)


class Check:
    """The rules for the arguments of one operator."""

    def __init__(self, op: str) -> None:
        self.op = op

    def require(self, ok: bool, argument: str, rule: str, value: object) -> None:
        if not ok:
            raise RuntimeError(f"{self.op}: {argument} must {rule}, got {value}")

    def data(self, argument: str, tensor: Tensor) -> None:
        self.require(tensor.dtype in _REAL, argument, "be float32, float64, complex64 or complex128", _name(tensor))

    def type(self, argument: str, tensor: Tensor, wanted: torch.dtype) -> None:
        self.require(tensor.dtype == wanted, argument, f"be {str(wanted).removeprefix('torch.')}", _name(tensor))

    def dims(self, argument: str, tensor: Tensor, least: int, shape: str) -> None:
        self.require(tensor.ndim >= least, argument, f"have shape {shape}", tuple(tensor.shape))

    def shape(self, argument: str, tensor: Tensor, wanted: Sequence[int]) -> None:
        got = tuple(tensor.shape)
        self.require(got == tuple(wanted), argument, f"have shape {tuple(wanted)}", got)

    def device(self, argument: str, tensor: Tensor, data: Tensor) -> None:
        names = [str(t.device) if tensor.device.type == data.device.type else t.device.type for t in (data, tensor)]
        self.require(tensor.device == data.device, argument, f"be on device {names[0]}", names[1])

    def size(self, argument: str, sizes: Sequence[int]) -> None:
        ok = len(sizes) == 2 and sizes[0] > 0 and sizes[1] > 0
        self.require(ok, argument, "be two positive integers", tuple(sizes))

    def holds_patch(self, argument: str, canvas_size: Sequence[int], patch_size: Sequence[int]) -> None:
        ok = canvas_size[0] >= patch_size[0] and canvas_size[1] >= patch_size[1]
        self.require(ok, argument, f"be at least a patch's {tuple(patch_size)}", tuple(canvas_size))

    def positions_of_canvas(self, positions: Tensor, canvas: Tensor) -> None:
        self.type("positions", positions, torch.float64)
        self.dims("positions", positions, 2, "(..., n, 2)")
        self.shape("positions", positions, (*canvas.shape[:-2], positions.shape[-2], 2))
        self.device("positions", positions, canvas)

    def positions_of_patches(self, positions: Tensor, patches: Tensor) -> None:
        self.type("positions", positions, torch.float64)
        self.shape("positions", positions, (*patches.shape[:-2], 2))
        self.device("positions", positions, patches)

    def out(self, out: Tensor, model: Tensor, shape: Sequence[int], argument: str = "out") -> None:
        self.type(argument, out, model.dtype)
        self.shape(argument, out, shape)
        self.device(argument, out, model)
        self.require(out.is_contiguous(), argument, "be contiguous", "other strides")

    def no_gradient(self, *tensors: Tensor | None) -> None:
        wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        self.require(
            not wanted, "out", "be None where a gradient is required", "a tensor (leave it out, or use no_grad)"
        )

    def merge(self, patches: Tensor, positions: Tensor, weights: Tensor, canvas_size: Sequence[int]) -> None:
        """Weighted patches onto canvases."""
        self.data("patches", patches)
        self.dims("patches", patches, 3, "(..., n, h, w)")
        self.positions_of_patches(positions, patches)
        self.type("weights", weights, real_type(patches.dtype))
        self.shape("weights", weights, patches.shape[-2:] if weights.ndim == 2 else patches.shape)
        self.device("weights", weights, patches)
        self.size("canvas_size", canvas_size)
        self.holds_patch("canvas_size", canvas_size, patches.shape[-2:])


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
