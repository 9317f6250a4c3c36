# SPDX-License-Identifier: BSD-3-Clause
"""How badly a state explains the counts, and which way is down: one pass over a batch of patterns.

Per pattern, with one mode and Fourier shifts: four Fourier transforms and some twenty passes over N^2 complex numbers,
no loop over patterns, nothing recorded by autograd. Batches are compact, so that their waves stay in the cache and
their part of the canvas is a small window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import extract_patches, extract_patches_adjoint
from ptychopinn.config import RefineConfig
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.propagation import far_field, mode_intensity, near_field, squared_modulus, sum_modes
from ptychopinn.refinement.shifts import Place, make_shift
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import rank_and_size, reduce_sums

_LEAST_EXCESS = -1 + 2.0**-24


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
        counts: (n, N, N) in FFT order, any real type, on the device to compute on.
        good: bool, (N, N) in FFT order, or None.
        canvas_size: (H, W).
        config: loss, interpolation, and what is refined.

    With torch.distributed initialised, every process takes its share of each batch, and sums are reduced.
    """

    def __init__(self, counts: Tensor, good: Tensor | None, canvas_size: tuple[int, int], config: RefineConfig) -> None:
        # What a bad pixel holds can be anything, infinity included.
        if good is not None or (counts.is_cuda and not counts.is_floating_point()):
            counts = counts.to(torch.float32)  # CUDA knows little to do with unsigned integers
        self.counts = counts if good is None else torch.where(good, counts, 0)
        self.good = None if good is None else good.to(torch.float32)
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
        patches = extract_patches(place.cut(state.object), place.positions, self.size, plan=place.plan)
        rest = state.positions[members] - self.anchors[members]
        lit, kept = self.shift.lit(representation, rest)
        factors = torch.exp(state.intensities[members]).float()[:, None, None]
        fields, intensity, terms, step = self._compare(patches, lit, factors, members)
        by_intensity = None
        if self.learn_intensities:
            by_intensity = (step * intensity).sum((1, 2)).double() / 2
        waves = near_field(fields.mul_(step.mul_(factors).unsqueeze(1))).conj_physical_()
        to_object = sum_modes(waves * lit)
        window = extract_patches_adjoint(to_object, place.positions, place.shape, plan=place.plan).conj_physical_()
        to_probe, to_positions = self.shift.back(waves, patches, kept, place, self.learn_positions)
        per_pattern = terms.sum((1, 2)).double()
        return Downhill(
            value=per_pattern.sum(),
            object=window,
            probe=to_probe,
            positions=torch.zeros_like(rest) if to_positions is None else to_positions,
            intensities=torch.zeros_like(per_pattern) if by_intensity is None else by_intensity,
            residuals=per_pattern * (4 * len(self.counts) / self.pixels),
        )

    def _compare(
        self, patches: Tensor, lit: Tensor, factors: Tensor, members: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Far fields, intensities, J of every detector pixel, and the relative correction of the far fields."""
        fields = far_field(patches.unsqueeze(1) * lit)
        intensity = mode_intensity(fields).mul_(factors)
        measured = self.counts.index_select(0, members).to(torch.float32).add_(BACKGROUND)
        terms, step = self._terms(intensity, measured)
        if self.good is not None:
            terms, step = terms.mul_(self.good), step.mul_(self.good)
        return fields, intensity, terms, step

    def values(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """J of single patterns ``members`` (k,) if they were at ``positions`` (k, 2): (k,)."""
        anchors = self._anchors_of(positions)
        patches = extract_patches(state.object, anchors, self.size)
        lit, _ = self.shift.lit(self.shift.represent(state.probe), positions - anchors)
        factors = torch.exp(state.intensities[members]).float()[:, None, None]
        _, _, terms, _ = self._compare(patches, lit, factors, members)
        return terms.sum((1, 2)).double()

    def _terms(self, intensity: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """J of every detector pixel, and ``-dJ / d conj(F)`` of its far field F, relative to F."""
        predicted = intensity + BACKGROUND
        if self.loss == "amplitude":
            root = predicted.rsqrt()
            ratio = measured.sqrt_().mul_(root)
            step = ratio - 1
            return step.square().mul_(predicted), step
        excess = predicted / measured - 1
        # Where a count is 1e8 times the prediction, excess is rounded to -1: the logarithm must stay finite.
        terms = measured * (excess - torch.log1p(excess.clamp_min(_LEAST_EXCESS)))
        return terms.mul_(0.5), (measured / predicted).sub_(1).mul_(0.5)

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
