# SPDX-License-Identifier: BSD-3-Clause
"""Initial estimate of object patches from single patterns, without fitted parameters.

The measured amplitude with the phase of the probe's own far field, propagated back, is an exit wave that is correct to
first order for a weak object; dividing by the probe gives the patch. Networks with local filters start from it, because
they cannot learn a Fourier transform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.physics.propagation import far_field, inverse_far_field, squared_modulus

#: Amplitude of the probe's far field, relative to its maximum, below which the phase is suppressed.
_DARK = 1e-3
#: Largest logarithm of the mean transmission, up and down, that a network sees: probes may have any power.
_LOG_LEVEL = 3.0


def initial_waves(counts: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Exit waves with the measured amplitude and the phase of the strongest probe mode.

    Args:
        counts: real, (..., N, N), FFT order.
        probe: complex, (M, N, N), in sqrt(counts).

    Returns:
        complex waves (..., N, N), and the strongest mode, complex (N, N). Gradients do not pass through the phase.
    """
    if len(probe) == 1:
        strongest = probe.squeeze(0)
    else:  # index_select, because indexing with a tensor would wait for the device
        strongest = probe.index_select(0, squared_modulus(probe).sum((-2, -1)).argmax().reshape(1))[0]
    # In the dark part of the probe's far field the phase is rounding noise, and its derivative is unbounded: the
    # amplitude is suppressed there, and the derivative is not taken.
    spectrum = far_field(strongest.detach())
    modulus = spectrum.abs()
    phase = spectrum / (modulus + _DARK * modulus.max())
    return inverse_far_field(torch.sqrt(counts) * phase), strongest


def initial_patches(counts: Tensor, probe: Tensor, regularisation: float = 0.05) -> Tensor:
    """Initial estimate of object patches, ``psi conj(P) / (|P|^2 + eps max|P|^2)``.

    Args:
        counts: real, (..., N, N), FFT order.
        probe: complex, (M, N, N), in sqrt(counts).
        regularisation: eps, relative to the largest intensity of the strongest mode P.

    Returns:
        complex, (..., N, N).
    """
    waves, mode = initial_waves(counts, probe)
    power = squared_modulus(mode)
    return waves * mode.conj() / (power + regularisation * power.max())


def level_feature(level: Tensor) -> Tensor:
    """The mean transmission as an input of a network that sees the object relative to it.

    How phase and amplitude of a sample are related depends on its thickness as a rule, and so on the transmission.

    Args:
        level: real, (...), > 0, see :func:`transmission_level`.

    Returns:
        real, (...), the natural logarithm, limited to -3 to 3.
    """
    return torch.log(level).clamp(-_LOG_LEVEL, _LOG_LEVEL)


def transmission_level(counts: Tensor, weight: Tensor) -> Tensor:
    """Mean transmission of every group, which sets the scale of its object.

    At least one photon per pattern is assumed, so that groups of empty patterns have a finite level.

    Args:
        counts: real, (B, C, N, N).
        weight: real, (N, N), probe intensity in counts per pixel.

    Returns:
        real, (B, 1, 1).
    """
    return torch.sqrt(counts.sum((-2, -1)).mean(1).clamp_min(1.0) / weight.sum())[:, None, None]
