# SPDX-License-Identifier: BSD-3-Clause
"""The real-space start: from a pattern to a first estimate of the object patch, without any fitted parameter.

A convolutional network that had to learn the Fourier inversion would waste its capacity on it. Giving the measured
amplitude the phase of the probe's own far field and propagating back yields an exit wave that is right to first order
for a weak object; dividing the probe out of it gives an image on which local filters make sense.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.physics.propagation import far_field, near_field, squared_modulus

#: Share of the brightest amplitude of the probe's far field below which its phase is not trusted.
_DARK = 1e-3


def start_waves(counts: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Exit waves with the measured amplitude and the phase of the probe's strongest mode.

    Args:
        counts: real, (..., N, N), FFT order.
        probe: complex, (M, N, N), in sqrt(counts).

    Returns:
        waves (..., N, N) complex, and that strongest mode (N, N) complex; gradients do not pass through the phase.
    """
    # index_select, because indexing with a tensor would wait for the device.
    strongest = probe.index_select(0, squared_modulus(probe).sum((-2, -1)).argmax().reshape(1))[0]
    # Where the probe sends no light its phase is rounding noise, and the derivative of that phase has no bound: the
    # first is faded out, the second not taken.
    spectrum = far_field(strongest.detach())
    modulus = spectrum.abs()
    phase = spectrum / (modulus + _DARK * modulus.max())
    return near_field(torch.sqrt(counts) * phase), strongest


def start_patches(counts: Tensor, probe: Tensor, regularisation: float = 0.05) -> Tensor:
    """First estimate of the object patches, ``psi conj(P) / (|P|^2 + eps max|P|^2)``: (..., N, N) complex."""
    waves, mode = start_waves(counts, probe)
    power = squared_modulus(mode)
    return waves * mode.conj() / (power + regularisation * power.max())


def transmission_level(counts: Tensor, weight: Tensor) -> Tensor:
    """Mean transmission of every group, the scale of its object: counts (B, C, N, N), probe intensity (N, N).

    At least one photon is assumed, or a group of empty patterns would divide zero by zero.

    Returns:
        real, (B, 1, 1).
    """
    return torch.sqrt(counts.sum((-2, -1)).mean(1).clamp_min(1.0) / weight.sum())[:, None, None]
