# SPDX-License-Identifier: BSD-3-Clause
"""Far-field propagation and the illumination of an object by a probe with incoherent modes.

Patterns are kept in FFT order (DC at [0, 0]) from the dataset to the loss, so that no shift is done per step: the data
loader applies one ifftshift to the counts, and nothing else here shifts. The FFT is orthonormal: a probe with
``sum |P|^2 = photons`` gives patterns with that many counts behind an object of transmission 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def exit_waves(patches: Tensor, probe: Tensor) -> Tensor:
    """Multiply object patches by every probe mode: ``psi[..., m] = P[m] * o[...]``.

    Args:
        patches: complex, (..., N, N), object patches.
        probe: complex, (M, N, N), incoherent modes in sqrt(counts).

    Returns:
        complex, (..., M, N, N), exit waves in sqrt(counts).

    Raises:
        ValueError: the probe is not (M, N, N) with the patches' N. A probe of another rank would broadcast silently.
    """
    if probe.dim() != 3 or probe.shape[-2:] != patches.shape[-2:]:
        raise ValueError(
            f"exit_waves: probe must be (M, {patches.shape[-2]}, {patches.shape[-1]}), got {tuple(probe.shape)}"
        )
    return patches.unsqueeze(-3) * probe


def far_field(waves: Tensor) -> Tensor:
    """Orthonormal 2-D FFT over the last two axes; DC at [0, 0]; ``sum |far_field(w)|^2 == sum |w|^2``."""
    return torch.fft.fft2(waves, norm="ortho")


def near_field(waves: Tensor) -> Tensor:
    """Inverse (and adjoint) of :func:`far_field`."""
    return torch.fft.ifft2(waves, norm="ortho")


class _SquaredModulus(torch.autograd.Function):
    """Two passes forward and one back, where autograd's own way through views makes eight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return torch.addcmul(values.real.square(), values.imag, values.imag)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return values * (2 * grad)


def squared_modulus(values: Tensor) -> Tensor:
    """``|z|^2`` of a complex tensor, without the square root of ``abs`` (whose gradient is not finite at 0)."""
    return _SquaredModulus.apply(values)  # type: ignore[no-any-return, no-untyped-call]


def sum_modes(values: Tensor) -> Tensor:
    """Sum over the axis of the modes: (..., M, N, N) to (..., N, N); of a single mode, that mode and no copy."""
    return values.squeeze(-3) if values.shape[-3] == 1 else values.sum(-3)


def mode_intensity(far_fields: Tensor) -> Tensor:
    """Incoherent sum over modes, ``I = sum_m |Psi_m|^2``: complex (..., M, N, N) to real (..., N, N), in counts."""
    return sum_modes(squared_modulus(far_fields))


def diffract(patches: Tensor, probe: Tensor) -> Tensor:
    """Predicted counts of patterns, ``I = sum_m |F(P_m o)|^2``, in FFT order.

    Args:
        patches: complex, (..., N, N).
        probe: complex, (M, N, N), in sqrt(counts).

    Returns:
        real, (..., N, N), expected counts.
    """
    return mode_intensity(far_field(exit_waves(patches, probe)))
