# SPDX-License-Identifier: BSD-3-Clause
"""Two treatments of sub-pixel positions: shift the probe, or interpolate the object.

"fourier": patches are cut at integer pixels, and the probe is shifted by the sub-pixel offset with phase ramps in its
Fourier transform. Exact for a well-sampled probe; the object is never interpolated. Two more Fourier transforms per
pattern, which also give the derivative by the position.

"bilinear": patches are interpolated from the object, as in training. Faster; attenuates the highest spatial frequencies
of the object.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ptycho_ext import exit_waves_adjoint_probe
from ptychopinn.refinement.regions import BatchRegion


class SubpixelShift(Protocol):
    """How positions enter the exit waves ``psi_k = P_k o_k``.

    The probe is held in a representation, its Fourier transform for "fourier" and itself for "bilinear". Waves,
    corrections and probes of a batch are complex64, (b, M, N, N); some are lazy complex conjugates, which saves a copy.
    """

    #: Pixels that interpolation reads beyond the last sample of a patch.
    taps: int
    #: Whether patches are cut at integer pixels, and the probe is shifted by the offset of the position; if not, they
    #: are cut at the positions themselves.
    shifts_probe: bool

    def represent(self, probe: Tensor) -> Tensor:
        """The representation of a probe (M, N, N)."""

    def restore(self, correction: Tensor) -> Tensor:
        """The correction of the probe from that of its representation: the adjoint of :meth:`represent`."""

    def shifted_probes(self, representation: Tensor, offsets: Tensor) -> tuple[Tensor, Any]:
        """The probes of a batch, (b, M, N, N) or (M, N, N), and what :meth:`backward` needs.

        Args:
            representation: of the probe.
            offsets: (b, 2), positions minus anchors, pixels.
        """

    def backward(
        self, waves: Tensor, saved: Any, region: BatchRegion, with_positions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Corrections of the probe's representation and of the positions (b, 2) from those of the exit waves.

        Args:
            waves: corrections of the exit waves.
            saved: second result of :meth:`shifted_probes`.
            region: of the batch, cropped from the canvas of the same pass.
            with_positions: whether positions are refined; otherwise the second result is None.
        """


class FourierShift:
    """Shift the probe with phase ramps in its Fourier transform."""

    taps = 0
    shifts_probe = True

    def __init__(self, size: int, device: torch.device) -> None:
        self.frequencies = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64, device=device)
        self.frequencies_float32 = self.frequencies.float()
        self.one = torch.ones((), dtype=torch.float32, device=device)

    # The factor 1 / N^2 of the inverse transform is with the one representation, because a GPU needs a pass over
    # all patterns for it.
    def represent(self, probe: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.fft2(probe, norm="forward")
        return spectrum

    def restore(self, correction: Tensor) -> Tensor:
        probe: Tensor = torch.fft.ifft2(correction)
        return probe

    def ramp(self, offsets: Tensor) -> Tensor:
        """Phase ramps ``exp(-i k . offset)``: (b, 2) to (b, 1, N, N)."""
        phases = -(offsets[:, :, None] * self.frequencies).float()
        rows, columns = torch.polar(self.one.expand_as(phases), phases).unbind(1)
        return (rows[:, :, None] * columns[:, None, :]).unsqueeze(1)

    def shifted_probes(self, representation: Tensor, offsets: Tensor) -> tuple[Tensor, Any]:
        ramp = self.ramp(offsets)
        shifted = representation * ramp
        return torch.fft.ifft2(shifted, norm="forward"), (ramp, shifted)

    def backward(
        self, waves: Tensor, saved: Any, region: BatchRegion, with_positions: bool
    ) -> tuple[Tensor, Tensor | None]:
        ramp, shifted = saved
        assert region.canvas is not None
        products = exit_waves_adjoint_probe(waves, region.canvas, region.positions, plan=region.plan, shared=False)
        spectra = torch.fft.fft2(products).conj_physical_()
        by_position = None
        if with_positions:
            # Re sum conj(G) d(P_hat ramp), and the derivative of the ramp is -i k times the ramp.
            overlap = (spectra * shifted).imag.sum(1)
            by_position = torch.stack(
                [overlap.sum(2) @ self.frequencies_float32, overlap.sum(1) @ self.frequencies_float32], 1
            ).double()
        return spectra.mul_(ramp).sum(0).conj_physical_(), by_position


class BilinearShift:
    """Interpolate patches from the object."""

    taps = 1
    shifts_probe = False

    def represent(self, probe: Tensor) -> Tensor:
        return probe

    def restore(self, correction: Tensor) -> Tensor:
        return correction

    def shifted_probes(self, representation: Tensor, offsets: Tensor) -> tuple[Tensor, Any]:
        return representation, representation

    def backward(
        self, waves: Tensor, saved: Any, region: BatchRegion, with_positions: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert region.canvas is not None and region.plan is not None
        by_position = None
        if with_positions:
            by_position = torch.ops.ptycho.exit_waves_grad_positions(
                waves, region.canvas, region.positions, saved, region.plan.order
            )
        return exit_waves_adjoint_probe(waves, region.canvas, region.positions, plan=region.plan), by_position


def make_shift(name: str, size: int, device: torch.device) -> SubpixelShift:
    """Make the treatment of that name, "fourier" or "bilinear", for patches of ``size`` pixels."""
    return FourierShift(size, device) if name == "fourier" else BilinearShift()
