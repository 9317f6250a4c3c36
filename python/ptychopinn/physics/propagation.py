# SPDX-License-Identifier: BSD-3-Clause
"""Far-field propagation of exit waves with incoherent probe modes.

Patterns are in FFT order (zero frequency at [0, 0]) from the data set to the loss, so that no step shifts an array: the
data set applies one ifftshift to the counts. The FFT is orthonormal: a probe with ``sum |P|^2 = photons`` gives
patterns with that many counts behind an object of transmission 1.
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
        ValueError: the probe is not (M, N, N) with the patches' N.
    """
    # A probe of another rank would broadcast silently.
    if probe.dim() != 3 or probe.shape[-2:] != patches.shape[-2:]:
        raise ValueError(
            f"exit_waves: probe must be (M, {patches.shape[-2]}, {patches.shape[-1]}), got {tuple(probe.shape)}"
        )
    return patches.unsqueeze(-3) * probe


def far_field(waves: Tensor) -> Tensor:
    """Propagate waves (..., N, N) to the far field: orthonormal 2-D FFT, zero frequency at [0, 0].

    The power is conserved: ``sum |far_field(w)|^2 == sum |w|^2``.
    """
    fields: Tensor = torch.fft.fft2(waves, norm="ortho")
    return fields


def inverse_far_field(waves: Tensor) -> Tensor:
    """Propagate far fields (..., N, N) back to the sample: the inverse, and adjoint, of :func:`far_field`."""
    back: Tensor = torch.fft.ifft2(waves, norm="ortho")
    return back


class _SquaredModulus(torch.autograd.Function):
    """Two passes over memory forward and one backward, where autograd through views needs eight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return torch.addcmul(values.real.square(), values.imag, values.imag)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values: Tensor = ctx.saved_tensors[0]
        return values * (2 * grad)


def squared_modulus(values: Tensor) -> Tensor:
    """Squared modulus ``|z|^2`` of a complex tensor, with a finite gradient at 0."""
    recorded = torch.is_grad_enabled() and values.requires_grad
    if recorded or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _SquaredModulus.apply(values)  # type: ignore[no-any-return, no-untyped-call]
    return _SquaredModulus.forward(values)  # applying a Function takes as long as a small tensor


def sum_modes(values: Tensor) -> Tensor:
    """Sum over the axis of the modes, (..., M, N, N) to (..., N, N); for a single mode, a view of it."""
    return values.squeeze(-3) if values.shape[-3] == 1 else values.sum(-3)


def mode_intensity(far_fields: Tensor) -> Tensor:
    """Incoherent sum over modes, ``I = sum_m |Psi_m|^2``: complex (..., M, N, N) to real (..., N, N), in counts."""
    return sum_modes(squared_modulus(far_fields))


def diffract(patches: Tensor, probe: Tensor) -> Tensor:
    """Predict the counts of patterns, ``I = sum_m |F(P_m o)|^2``, in FFT order.

    Args:
        patches: complex, (..., N, N).
        probe: complex, (M, N, N), in sqrt(counts).

    Returns:
        real, (..., N, N), expected counts.

    Raises:
        ValueError: see :func:`exit_waves`.
    """
    return mode_intensity(far_field(exit_waves(patches, probe)))
