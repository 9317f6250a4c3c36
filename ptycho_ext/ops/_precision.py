# SPDX-License-Identifier: BSD-3-Clause
"""Types that the operators compute in.

Data keep their type. Under ``torch.autocast`` 16-bit data are converted to float32 (complex64) and the result is
float32, as positions and sums of many patches require. Outside autocast 16-bit data are an error. Coordinates are
float64. A tensor to write to is never converted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}

_REAL = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def widened(data: Tensor) -> Tensor:
    """Convert 16-bit data to float32 or complex64 under autocast; other data are unchanged."""
    wider = _WIDER.get(data.dtype)
    if wider is None or not torch.is_autocast_enabled(data.device.type):
        return data
    return data.to(wider)


def as_float64(coordinates: Tensor) -> Tensor:
    """Convert real coordinates to float64; complex ones are unchanged, and an error in the operator."""
    if coordinates.dtype == torch.float64 or coordinates.is_complex():
        return coordinates
    return coordinates.to(torch.float64)


def coordinates_of(positions: Tensor, leading: Sequence[int]) -> Tensor:
    """Convert positions to float64, and expand one set (n, 2) to the leading dimensions."""
    positions = as_float64(positions)
    return positions.expand(*leading, *positions.shape) if leading and positions.ndim == 2 else positions


def real_type(dtype: torch.dtype) -> torch.dtype:
    """Real type of a data type: float32 for complex64, float64 for complex128; any other type is unchanged."""
    return _REAL.get(dtype, dtype)


def weights_like(patches: Tensor, weights: Tensor | None) -> Tensor:
    """Convert weights to the patches' real type, None to ones; complex weights are unchanged."""
    if weights is None:
        return torch.ones(patches.shape[-2:], dtype=real_type(patches.dtype), device=patches.device)
    wanted = real_type(patches.dtype)
    return weights if weights.dtype == wanted or weights.is_complex() else weights.to(wanted)


def in_type_of(data: Tensor, other: Tensor) -> Tensor:
    """Convert a probe or canvas to the type of the data; a complex one is unchanged if the data are real."""
    if other.dtype == data.dtype or data.dtype not in _REAL or (other.is_complex() and not data.is_complex()):
        return other
    return other.to(data.dtype)
