# SPDX-License-Identifier: BSD-3-Clause
"""The two ways to meet an object between its pixels.

"fourier": patches are cut at whole pixels and the rest of the position moves the probe, by phase ramps in its Fourier
transform. Exact for a probe that its samples resolve; the object is never interpolated. It takes two more Fourier
transforms per pattern, and its derivative by the position comes from them for nothing.

"bilinear": patches are interpolated from the object, as in training. Faster; blurs the object's finest detail by up to
half a pixel, which the refined object makes up for as far as it can.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ptycho_ext import ScanPlan, exit_waves_adjoint_probe


class Shift(Protocol):
    """How positions enter the exit waves ``psi = P_k o_k``.

    ``lit`` gives the probes of a batch, ``(b, M, N, N)`` or ``(M, N, N)``, and what ``back`` needs to turn corrections
    of the waves into those of the probe's representation and of the positions. Both hand on complex conjugates where
    that saves torch a copy of the whole batch.
    """

    #: Pixels beyond its last sample that a patch reads.
    taps: int
    #: Whether the probe takes up what a position is away from its anchor; else patches must be anchored where they are.
    keeps_rest: bool

    def represent(self, probe: Tensor) -> Tensor: ...
    def probe_of(self, representation: Tensor) -> Tensor: ...
    def anchors(self, positions: Tensor) -> Tensor: ...
    def lit(self, representation: Tensor, rest: Tensor) -> tuple[Tensor, Any]: ...
    def back(self, waves: Tensor, kept: Any, place: Place, by_position: bool) -> tuple[Tensor, Tensor | None]: ...


class Place:
    """Where the patches of a batch are: a window of the canvas that holds all, and the places of this process's share.

    Args:
        anchors: float64, (b, 2), canvas coordinates of the whole batch.
        share: the part that this process works on.
        size: N.
        taps: see :class:`Shift`.
        canvas_size: (H, W).
    """

    def __init__(self, anchors: Tensor, share: slice, size: int, taps: int, canvas_size: tuple[int, int]) -> None:
        first = [math.floor(v) for v in anchors.amin(0).tolist()]
        last = [math.ceil(v) + size + taps for v in anchors.amax(0).tolist()]
        last = [min(v, side) for v, side in zip(last, canvas_size, strict=True)]
        self.window = (slice(first[0], last[0]), slice(first[1], last[1]))
        self.shape = (last[0] - first[0], last[1] - first[1])
        self.positions = anchors[share] - anchors.new_tensor(first)
        self.plan = ScanPlan(self.positions, size, self.shape) if len(self.positions) else None
        self.canvas: Tensor | None = None  # of the last extraction, for derivatives by position

    def cut(self, canvas: Tensor) -> Tensor:
        self.canvas = canvas[self.window].contiguous()
        return self.canvas


class FourierShift:
    """See the head of this file."""

    taps = 0
    keeps_rest = True

    def __init__(self, size: int, device: torch.device) -> None:
        self.frequencies = 2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64, device=device)
        self.slopes = self.frequencies.float()
        self.one = torch.ones((), device=device)

    def represent(self, probe: Tensor) -> Tensor:
        return torch.fft.fft2(probe)

    def probe_of(self, representation: Tensor) -> Tensor:
        return torch.fft.ifft2(representation)

    def anchors(self, positions: Tensor) -> Tensor:
        return torch.floor(positions + 0.5)

    def ramp(self, rest: Tensor) -> Tensor:
        """exp(-i k . rest): (b, 2) to (b, 1, N, N)."""
        phases = -(rest[:, :, None] * self.frequencies).float()
        rows, columns = torch.polar(self.one.expand_as(phases), phases).unbind(1)
        return (rows[:, :, None] * columns[:, None, :]).unsqueeze(1)

    def lit(self, representation: Tensor, rest: Tensor) -> tuple[Tensor, Any]:
        ramp = self.ramp(rest)
        moved = representation * ramp
        return torch.fft.ifft2(moved), (ramp, moved)

    def back(self, waves: Tensor, kept: Any, place: Place, by_position: bool) -> tuple[Tensor, Tensor | None]:
        ramp, moved = kept
        assert place.canvas is not None
        products = exit_waves_adjoint_probe(waves, place.canvas, place.positions, plan=place.plan, shared=False)
        spectra = torch.fft.fft2(products).conj_physical_()
        slope = None
        if by_position:
            # Re sum conj(G) d(P_hat ramp): the derivative brings down -i k.
            overlap = (spectra * moved).imag.sum(1) / moved[0, 0].numel()
            slope = torch.stack([overlap.sum(2) @ self.slopes, overlap.sum(1) @ self.slopes], 1).double()
        return spectra.mul_(ramp).sum(0).conj_physical_(), slope


class BilinearShift:
    """See the head of this file."""

    taps = 1
    keeps_rest = False

    def represent(self, probe: Tensor) -> Tensor:
        return probe

    def probe_of(self, representation: Tensor) -> Tensor:
        return representation

    def anchors(self, positions: Tensor) -> Tensor:
        return positions

    def lit(self, representation: Tensor, rest: Tensor) -> tuple[Tensor, Any]:
        return representation, representation

    def back(self, waves: Tensor, kept: Any, place: Place, by_position: bool) -> tuple[Tensor, Tensor | None]:
        assert place.canvas is not None and place.plan is not None
        slope = None
        if by_position:
            order = place.plan.order
            slope = torch.ops.ptycho.exit_waves_grad_positions(waves, place.canvas, place.positions, kept, order)
        return exit_waves_adjoint_probe(waves, place.canvas, place.positions, plan=place.plan), slope


def make_shift(name: str, size: int, device: torch.device) -> Shift:
    """The shift of a name, "fourier" or "bilinear"."""
    return FourierShift(size, device) if name == "fourier" else BilinearShift()
