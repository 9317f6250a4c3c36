# SPDX-License-Identifier: BSD-3-Clause
"""The objective J of a state and its gradient, summed over batches of patterns; equations: docs/maths.md, "Refinement".

Per pattern, with one mode and Fourier shifts: four Fourier transforms and about ten passes over N^2 complex values,
without a loop over patterns and without autograd. Counts stay in the type of their file and are converted per batch.
Batches are compact, so that their waves stay in the L2 cache and cover a small part of the canvas.
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
from ptychopinn.physics.propagation import far_field, inverse_far_field, squared_modulus
from ptychopinn.refinement.shifts import BatchRegion, make_shift
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import rank_and_size, reduce_sums

#: Types of counts that correct_fields reads -> types of the same width that index_select supports on CUDA.
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
class BatchCorrection:
    """Objective of one batch and the corrections of a state: minus half the gradient.

    Attributes:
        value: J, half the negative logarithm of the likelihood above its minimum, in nats.
        object: complex, of the batch's region of the canvas.
        probe: of the probe's representation (see :class:`SubpixelShift`).
        positions: (b, 2), zero unless they are refined.
        intensities: (b,), zero unless they are refined.
        residuals: (b,), deviance of every pattern per detector pixel.
    """

    value: Tensor
    object: Tensor
    probe: Tensor
    positions: Tensor
    intensities: Tensor
    residuals: Tensor


class Objective:
    """Counts of a scan and their forward model.

    With torch.distributed initialised, every process computes its shard of each batch, and sums are reduced.

    Args:
        counts: (n, N, N) in FFT order, any real type, on the device of the computation; bad pixels may hold any value.
        good: bool, (N, N) in FFT order, or None.
        canvas_size: (H, W).
        config: loss, interpolation, and which variables are refined.
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
        self.members: list[Tensor] = []  # this process's shard of every batch
        self.regions: list[BatchRegion] = []
        self.anchors = torch.zeros(len(counts), 2, dtype=torch.float64, device=counts.device)

    def set_batches(self, batches: list[NDArray[np.int64]], positions: Tensor) -> None:
        """Set the batches, as arrays of pattern indices, and the anchors for positions (n, 2)."""
        self.batches = [torch.from_numpy(np.sort(batch)).to(self.device) for batch in batches]
        self.set_anchors(positions)

    def set_anchors(self, positions: Tensor) -> None:
        """Cut the patches of all batches at the anchors of positions (n, 2), kept within the canvas."""
        self.anchors = self._clamped_anchors(positions)
        rank, size = rank_and_size()
        shard = slice(rank, None, size)
        self.members = [batch[shard] for batch in self.batches]
        self.regions = [
            BatchRegion(self.anchors[batch], shard, self.size, self.shift.taps, self.canvas_size)
            for batch in self.batches
        ]

    def _clamped_anchors(self, positions: Tensor) -> Tensor:
        highest = positions.new_tensor([side - self.size - self.shift.taps for side in self.canvas_size])
        return torch.minimum(self.shift.anchors(positions).clamp_min(0), highest)

    def batch_correction(self, index: int, state: State, representation: Tensor) -> BatchCorrection:
        """Correction of a state by this process's shard of a batch; zeros if the shard is empty.

        Args:
            index: of the batch.
            state: where to evaluate.
            representation: of the state's probe.
        """
        members, region = self.members[index], self.regions[index]
        if not len(members):
            by_object, empty = state.object.new_zeros(region.shape), state.intensities.new_zeros(0)
            return BatchCorrection(
                empty.sum(), by_object, torch.zeros_like(representation), empty.new_zeros(0, 2), empty, empty
            )
        canvas = region.crop(state.object)
        offsets = state.positions[members] - self.anchors[members]
        probes, saved = self.shift.shifted_probes(representation, offsets)
        fields = far_field(exit_waves(canvas, region.positions, probes, plan=region.plan))
        in_place = fields if fields.is_contiguous() else None
        correction, values, by_intensity = self._correct(fields, state, members, out=in_place)
        waves = inverse_far_field(correction)
        by_object = exit_waves_adjoint(waves, region.positions, probes, region.shape, plan=region.plan)
        by_probe, by_positions = self.shift.backward(waves, saved, region, self.learn_positions)
        return BatchCorrection(
            value=values.sum(),
            object=by_object,
            probe=by_probe,
            positions=torch.zeros_like(offsets) if by_positions is None else by_positions,
            intensities=by_intensity.div_(-2) if self.learn_intensities else torch.zeros_like(by_intensity),
            residuals=values * (4 * len(self.counts) / self.pixels),
        )

    def select_counts(self, members: Tensor) -> Tensor:
        """Counts (b, N, N), in their type, of the patterns with indices ``members`` (b,)."""
        kind = self.counts.dtype
        return self.counts.view(_COUNTS[kind]).index_select(0, members).view(kind)

    def _correct(self, fields: Tensor, state: State, members: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Correction of far fields (b, M, N, N); J and its derivative by the intensity, (b,) each, of every pattern."""
        factors = torch.exp(state.intensities[members]).float()
        return correct_fields(
            fields,
            self.select_counts(members),
            mask=self.good,
            scale=factors,
            loss=self.loss,
            background=BACKGROUND,
            **options,
        )

    def pattern_objectives(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """J of every pattern, (k,), for indices ``members`` (k,) and trial ``positions`` (k, 2)."""
        anchors = self._clamped_anchors(positions)
        probes, _ = self.shift.shifted_probes(self.shift.represent(state.probe), positions - anchors)
        fields = far_field(exit_waves(state.object, anchors, probes))
        return self._correct(fields, state, members, correct=False)[1]

    def gradient(self, state: State) -> tuple[float, State, Tensor]:
        """J of all patterns, half its gradient, and the deviance of every pattern per detector pixel, (n,)."""
        if self.learn_positions and not self.shift.shifts_probe:
            self.set_anchors(state.positions)
        gradient = state.map(torch.zeros_like)
        representation = self.shift.represent(state.probe)
        by_probe = torch.zeros_like(representation)
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, members in enumerate(self.members):
            batch = self.batch_correction(index, state, representation)
            value += batch.value
            gradient.object[self.regions[index].slices] -= batch.object
            by_probe -= batch.probe
            gradient.positions[members] = -batch.positions
            gradient.intensities[members] = -batch.intensities
            residuals[members] = batch.residuals
        reduce_sums(value, by_probe, residuals, gradient.object, gradient.positions, gradient.intensities)
        gradient.probe = self.shift.restore(by_probe)
        return float(value), gradient, residuals

    def illumination(self, probe: Tensor) -> Tensor:
        """Intensity of a probe (M, N, N), summed over modes and positions, on the canvas, (H, W), in counts."""
        illumination = torch.zeros(self.canvas_size, device=self.device)
        weight = squared_modulus(probe).sum(0)
        for members, region in zip(self.members, self.regions, strict=True):
            if len(members):
                weights = weight.expand(len(members), *weight.shape).contiguous()
                illumination[region.slices] += extract_patches_adjoint(
                    weights, region.positions, region.shape, plan=region.plan
                )
        reduce_sums(illumination)
        return illumination

    def curvatures(self, state: State) -> tuple[Tensor, Tensor]:
        """Diagonal curvatures of probe, ``sum_k |o_k|^2``, (N, N), and positions, ``sum |P|^2 |do / dy|^2``, (n, 2).

        Moving the object under the probe changes the intensities like moving the probe over the object; in this form,
        common motion of both has no curvature.
        """
        transmitted = torch.zeros(self.size, self.size, device=self.device)
        by_position = torch.zeros_like(state.positions)
        weight = squared_modulus(state.probe).sum(0)
        for members, region in zip(self.members, self.regions, strict=True):
            if not len(members):
                continue
            patches = extract_patches(region.crop(state.object), region.positions, self.size, plan=region.plan)
            transmitted += squared_modulus(patches).sum(0)
            for axis in (0, 1):
                derivative = (patches.roll(-1, 1 + axis) - patches.roll(1, 1 + axis)) / 2
                by_position[members, axis] = (weight * squared_modulus(derivative)).sum((1, 2)).double()
        reduce_sums(transmitted, by_position)
        return transmitted, by_position


def compact_batches(positions: NDArray[np.float64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Split a scan recursively, across its longer side, into batches of about ``size`` neighbouring patterns.

    The longer side is chosen with random weights, so that another draw gives batches with other borders.

    Args:
        positions: (n, 2).
        size: target number of patterns in a batch, >= 1.
        rng: random generator.

    Returns:
        Index arrays, a partition of 0 to n - 1.
    """
    batches: list[NDArray[np.int64]] = []
    stack = [np.arange(len(positions))]
    while stack:
        members = stack.pop()
        parts = round(len(members) / size)
        if parts < 2:
            batches.append(members)
            continue
        extent = np.ptp(positions[members], axis=0) * rng.uniform(0.7, 1.4, 2)
        order = members[np.argsort(positions[members, int(np.argmax(extent))], kind="stable")]
        first = parts // 2 + (int(rng.integers(2)) if parts % 2 else 0)
        cut = round(first / parts * len(order))
        stack += [order[:cut], order[cut:]]
    return batches


def accumulate_weight(weight: Tensor, positions: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum over positions (n, 2) of a weight (N, N) times a value (n,) each, on a canvas of shape (H, W)."""
    total = torch.zeros(shape, device=weight.device)
    for part, value in zip(positions.split(256), values.float().split(256), strict=True):
        total += extract_patches_adjoint(value[:, None, None] * weight, part, shape)
    return total
