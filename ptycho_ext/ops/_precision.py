# SPDX-License-Identifier: BSD-3-Clause
"""The types that the operators compute in, stated once for every public function.

Data keep their type. Under ``torch.autocast`` data of 16 bits are widened to float32 (complex64) and the result is
float32; positions and sums of many patches need it. Outside autocast 16-bit data are refused, since nobody asked for a
conversion. Coordinates are float64. A tensor to write to is never converted.
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
    """Data in float32 or complex64 where autocast is on and they have 16 bits per scalar; else unchanged."""
    wider = _WIDER.get(data.dtype)
    if wider is None or not torch.is_autocast_enabled(data.device.type):
        return data
    return data.to(wider)


def as_float64(coordinates: Tensor) -> Tensor:
    """Real coordinates in float64; complex ones unchanged, for the operator to refuse."""
    if coordinates.dtype == torch.float64 or coordinates.is_complex():
        return coordinates
    return coordinates.to(torch.float64)


def coordinates_of(positions: Tensor, leading: Sequence[int]) -> Tensor:
    """Positions in float64, one set (n, 2) for all of the leading dimensions where these have some."""
    positions = as_float64(positions)
    return positions.expand(*leading, *positions.shape) if leading and positions.ndim == 2 else positions


def real_type(dtype: torch.dtype) -> torch.dtype:
    """float32 of float32 and complex64, float64 of float64 and complex128; anything else is returned unchanged."""
    return _REAL.get(dtype, dtype)


def weights_like(patches: Tensor, weights: Tensor | None) -> Tensor:
    """Weights in the patches' real type, ones where there are none; complex ones unchanged."""
    if weights is None:
        return torch.ones(patches.shape[-2:], dtype=real_type(patches.dtype), device=patches.device)
    wanted = real_type(patches.dtype)
    return weights if weights.dtype == wanted or weights.is_complex() else weights.to(wanted)


def in_type_of(data: Tensor, other: Tensor) -> Tensor:
    """A probe or canvas in the type of the data that it is multiplied with; complex ones beside real data unchanged."""
    if other.dtype == data.dtype or data.dtype not in _REAL or (other.is_complex() and not data.is_complex()):
        return other
    return other.to(data.dtype)
