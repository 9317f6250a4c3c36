# SPDX-License-Identifier: BSD-3-Clause
"""Illumination module: probe modes and one global intensity scale, both optionally learned.

The scale multiplies the predicted counts. Its initial value is 1, because a Scan's probe is already in sqrt(counts).
The probe is stored as real and imaginary parts, which optimisers, DDP and safetensors all accept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ptychopinn.physics.propagation import diffract, squared_modulus


class Illumination(nn.Module):
    """Probe modes (M, N, N) in sqrt(counts) and the patterns that they predict.

    The parameter ``lanes`` (M, N, N, 2) holds the real and imaginary parts of the probe divided by the square root of
    its power. In these units the gradient of a loss per photon is a Newton-like step at any dose: for a transmission of
    modulus near 1, the second derivative with respect to every element is 2 for the amplitude loss and 4 for the
    Poisson loss.

    Args:
        probe: complex, (M, N, N), in sqrt(counts).
        learn_probe: refine the probe during training.
        learn_scale: refine the global intensity scale during training.

    Raises:
        ValueError: the probe is not complex or not (M, N, N).
    """

    unit: Tensor

    def __init__(self, probe: Tensor, *, learn_probe: bool = False, learn_scale: bool = False) -> None:
        super().__init__()
        if probe.dim() != 3 or not probe.is_complex():
            raise ValueError(f"Illumination: probe must be complex (M, N, N), got {probe.dtype} {tuple(probe.shape)}")
        place: dict[str, Any] = {"dtype": torch.float32, "device": probe.device}
        self.lanes = nn.Parameter(torch.zeros(*probe.shape, 2, **place), requires_grad=learn_probe)
        self.log_scale = nn.Parameter(torch.zeros((), **place), requires_grad=learn_scale)
        self.register_buffer("unit", torch.ones((), **place))
        self.set_probe(probe)

    @torch.no_grad()
    def set_probe(self, probe: Tensor) -> None:
        """Set the probe, complex (M, N, N) in sqrt(counts), and reset the intensity scale to 1.

        Raises:
            ValueError: the shape differs from that of the present probe.
        """
        if probe.shape != self.lanes.shape[:-1]:
            raise ValueError(f"Illumination: probe must be {tuple(self.lanes.shape[:-1])}, got {tuple(probe.shape)}")
        unit = torch.sqrt(squared_modulus(probe).sum())
        self.unit.copy_(unit)
        self.lanes.copy_(torch.view_as_real((probe / unit).resolve_conj()))
        self.log_scale.zero_()

    @property
    def unscaled(self) -> Tensor:
        """Probe modes without the intensity scale, complex (M, N, N): the input of a generator.

        With the scaled probe as its input a generator would compensate the scale in the object.
        """
        return torch.view_as_complex(self.lanes) * self.unit

    @property
    def probe(self) -> Tensor:
        """Probe modes with the intensity scale applied, complex (M, N, N), in sqrt(counts)."""
        return self.unscaled * torch.exp(0.5 * self.log_scale)

    def forward(self, patches: Tensor) -> Tensor:
        """Predict counts (..., N, N) in FFT order from complex object patches (..., N, N)."""
        return diffract(patches, self.probe)
