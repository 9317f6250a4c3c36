# SPDX-License-Identifier: BSD-3-Clause
"""How badly a state explains the counts, and which way is down: one pass over a batch of patterns.

Per pattern, with one mode and Fourier shifts: four Fourier transforms and some ten passes over N^2 complex numbers,
no loop over patterns, nothing recorded by autograd. The counts stay in the type of their file: they are widened where
they are compared. Batches are compact, so that their waves stay in the cache and their part of the canvas is a small
window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import correct_fields, exit_waves, exit_waves_adjoint, extract_patches, extract_patches_adjoint
from ptychopinn.config import RefineConfig
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.propagation import far_field, squared_modulus
from ptychopinn.physics.propagation import inverse_far_field as near_field
from ptychopinn.refinement.shifts import Place, make_shift
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import rank_and_size, reduce_sums

#: The types of counts that correct_fields reads, and signed ones of their width, for what CUDA can do with no others.
_COUNTS = {
    torch.uint8: torch.uint8,
    torch.int16: torch.int16,
    torch.uint16: torch.int16,
    torch.int32: torch.int32,
    torch.uint32: torch.int32,
    torch.int64: torch.int64,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@dataclass
class Downhill:
    """What one batch says.

    Attributes:
        value: J, half the negative logarithm of the likelihood above its minimum, in nats.
        object: complex, the correction's sum on the batch's window: minus half the gradient.
        probe: of the probe's representation (see :class:`Shift`).
        positions: (b, 2), zero unless they are refined.
        intensities: (b,), zero unless they are refined.
        residuals: (b,), deviance of every pattern per pixel.
    """

    value: Tensor
    object: Tensor
    probe: Tensor
    positions: Tensor
    intensities: Tensor
    residuals: Tensor


class Objective:
    """The counts of a scan and the model of them.

    Args:
        counts: (n, N, N) in FFT order, any real type, on the device to compute on; of bad pixels, anything.
        good: bool, (N, N) in FFT order, or None.
        canvas_size: (H, W).
        config: loss, interpolation, and what is refined.

    With torch.distributed initialised, every process takes its share of each batch, and sums are reduced.
    """

    def __init__(self, counts: Tensor, good: Tensor | None, canvas_size: tuple[int, int], config: RefineConfig) -> None:
        self.counts = counts if counts.dtype in _COUNTS else counts.to(torch.float32)
        self.good = good
        self.canvas_size = canvas_size
        self.loss = config.loss
        self.learn_positions, self.learn_intensities = config.learn_positions, config.learn_intensities
        self.size = counts.shape[-1]
        self.device = counts.device
        self.shift = make_shift(config.interpolation, self.size, counts.device)
        self.pixels = len(counts) * (self.size**2 if good is None else int(good.sum()))
        self.batches: list[Tensor] = []
        self.members: list[Tensor] = []  # of every batch, what this process works on
        self.places: list[Place] = []
        self.anchors = torch.zeros(len(counts), 2, dtype=torch.float64, device=counts.device)

    def arrange(self, batches: list[NDArray[np.int64]], positions: Tensor) -> None:
        """Make batches of these patterns, and anchor their patches at these positions."""
        self.batches = [torch.from_numpy(np.sort(batch)).to(self.device) for batch in batches]
        self.anchor(positions)

    def anchor(self, positions: Tensor) -> None:
        """Anchor the patches of all batches anew; they may lie anywhere on the canvas, but not beyond it."""
        self.anchors = self._anchors_of(positions)
        rank, size = rank_and_size()
        share = slice(rank, None, size)
        self.members = [batch[share] for batch in self.batches]
        self.places = [
            Place(self.anchors[batch], share, self.size, self.shift.taps, self.canvas_size) for batch in self.batches
        ]

    def _anchors_of(self, positions: Tensor) -> Tensor:
        """Where patches are cut for these positions, on the canvas."""
        highest = positions.new_tensor([side - self.size - self.shift.taps for side in self.canvas_size])
        return torch.minimum(self.shift.anchors(positions).clamp_min(0), highest)

    def downhill(self, index: int, state: State, representation: Tensor) -> Downhill:
        """This process's share of one batch at one state; zeros if it has none."""
        members, place = self.members[index], self.places[index]
        if not len(members):
            window, nothing = state.object.new_zeros(place.shape), state.intensities.new_zeros(0)
            return Downhill(
                nothing.sum(), window, torch.zeros_like(representation), nothing.new_zeros(0, 2), nothing, nothing
            )
        canvas = place.cut(state.object)
        rest = state.positions[members] - self.anchors[members]
        lit, kept = self.shift.lit(representation, rest)
        fields = far_field(exit_waves(canvas, place.positions, lit, plan=place.plan))
        in_place = fields if fields.is_contiguous() else None
        correction, values, by_intensity = self._compare(fields, state, members, out=in_place)
        waves = near_field(correction)
        window = exit_waves_adjoint(waves, place.positions, lit, place.shape, plan=place.plan)
        to_probe, to_positions = self.shift.back(waves, kept, place, self.learn_positions)
        return Downhill(
            value=values.sum(),
            object=window,
            probe=to_probe,
            positions=torch.zeros_like(rest) if to_positions is None else to_positions,
            intensities=by_intensity.div_(-2) if self.learn_intensities else torch.zeros_like(by_intensity),
            residuals=values * (4 * len(self.counts) / self.pixels),
        )

    def counts_of(self, members: Tensor) -> Tensor:
        """Counts of some patterns, (b, N, N), in their type."""
        kind = self.counts.dtype
        return self.counts.view(_COUNTS[kind]).index_select(0, members).view(kind)

    def _compare(self, fields: Tensor, state: State, members: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The correction of far fields (b, M, N, N), and J and its derivative by the intensity of every pattern."""
        factors = torch.exp(state.intensities[members]).float()
        return correct_fields(
            fields,
            self.counts_of(members),
            mask=self.good,
            scale=factors,
            loss=self.loss,
            background=BACKGROUND,
            **options,
        )

    def values(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """J of single patterns ``members`` (k,) if they were at ``positions`` (k, 2): (k,)."""
        anchors = self._anchors_of(positions)
        lit, _ = self.shift.lit(self.shift.represent(state.probe), positions - anchors)
        fields = far_field(exit_waves(state.object, anchors, lit))
        return self._compare(fields, state, members, correct=False)[1]

    def gradient(self, state: State) -> tuple[float, State, Tensor]:
        """J over all patterns, half its gradient, and the residuals (n,), deviance per pixel."""
        if self.learn_positions and not self.shift.keeps_rest:
            self.anchor(state.positions)
        gradient = state.map(torch.zeros_like)
        representation = self.shift.represent(state.probe)
        to_probe = torch.zeros_like(representation)
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, members in enumerate(self.members):
            found = self.downhill(index, state, representation)
            value += found.value
            gradient.object[self.places[index].window] -= found.object
            to_probe -= found.probe
            gradient.positions[members] = -found.positions
            gradient.intensities[members] = -found.intensities
            residuals[members] = found.residuals
        reduce_sums(value, to_probe, residuals, gradient.object, gradient.positions, gradient.intensities)
        gradient.probe = self.shift.probe_of(to_probe)
        return float(value), gradient, residuals

    def illumination(self, probe: Tensor) -> Tensor:
        """Probe intensity on every pixel of the canvas, (H, W), in counts."""
        light = torch.zeros(self.canvas_size, device=self.device)
        weight = squared_modulus(probe).sum(0)
        for members, place in zip(self.members, self.places, strict=True):
            if len(members):
                fallen = weight.expand(len(members), *weight.shape).contiguous()
                light[place.window] += extract_patches_adjoint(fallen, place.positions, place.shape, plan=place.plan)
        reduce_sums(light)
        return light

    def curvatures(self, state: State) -> tuple[Tensor, Tensor]:
        """Of the probe, (N, N), ``sum_k |o_k|^2``, and of the positions, (n, 2), ``sum |P|^2 |do / dy|^2``.

        The second is that of the object's motion under the probe: the intensities are the same as of the probe's motion
        over the object, but common motion of both, which changes nothing, does not count.
        """
        transmitted = torch.zeros(self.size, self.size, device=self.device)
        by_position = torch.zeros_like(state.positions)
        weight = squared_modulus(state.probe).sum(0)
        for members, place in zip(self.members, self.places, strict=True):
            if not len(members):
                continue
            patches = extract_patches(place.cut(state.object), place.positions, self.size, plan=place.plan)
            transmitted += squared_modulus(patches).sum(0)
            for axis in (0, 1):
                slope = (patches.roll(-1, 1 + axis) - patches.roll(1, 1 + axis)) / 2
                by_position[members, axis] = (weight * squared_modulus(slope)).sum((1, 2)).double()
        reduce_sums(transmitted, by_position)
        return transmitted, by_position


def compact_batches(positions: NDArray[np.float64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Split a scan into batches of neighbours of about ``size`` patterns, by cuts across the longer side.

    Cuts lie at random where there is a choice, so that batches drawn anew have other borders.

    Args:
        positions: (n, 2).
        size: patterns wished for in a batch, >= 1.
        rng: of the cuts.

    Returns:
        Index arrays, disjoint, together 0 to n - 1.
    """
    found: list[NDArray[np.int64]] = []
    stack = [np.arange(len(positions))]
    while stack:
        members = stack.pop()
        parts = round(len(members) / size)
        if parts < 2:
            found.append(members)
            continue
        extent = np.ptp(positions[members], axis=0) * rng.uniform(0.7, 1.4, 2)
        order = members[np.argsort(positions[members, int(np.argmax(extent))], kind="stable")]
        first = parts // 2 + (int(rng.integers(2)) if parts % 2 else 0)
        cut = round(first / parts * len(order))
        stack += [order[:cut], order[cut:]]
    return found


def laid_out(weight: Tensor, places: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The sum of weight (N, N) times one value (n,) for each place (n, 2), on a canvas (H, W)."""
    total = torch.zeros(shape, device=weight.device)
    for part, value in zip(places.split(256), values.float().split(256), strict=True):
        total += extract_patches_adjoint(value[:, None, None] * weight, part, shape)
    return total
