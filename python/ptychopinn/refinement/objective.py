# SPDX-License-Identifier: BSD-3-Clause
"""The objective J of a state and its gradient, summed over batches of patterns; equations: docs/maths.md, "Refinement".

Per pattern, with one mode and Fourier shifts: four Fourier transforms and about ten passes over N^2 complex values,
without autograd. On a CPU each pattern is taken through all of them in a cache (:func:`ptycho_ext.pattern_step`);
elsewhere the operators are called one after the other for batches, which are compact, so that their waves stay in the
L2 cache and cover a small part of the canvas. Counts stay in the type of their file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import (
    PatternStep,
    correct_fields,
    exit_waves,
    exit_waves_adjoint,
    extract_patches,
    extract_patches_adjoint,
    pattern_step,
    runs_in_cache,
)
from ptychopinn.config import RefineConfig
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.propagation import mode_intensity, squared_modulus
from ptychopinn.refinement.corrections import BatchCorrection, Probe
from ptychopinn.refinement.counts import Counts
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regions import BatchRegion, make_regions
from ptychopinn.refinement.shifts import make_shift
from ptychopinn.refinement.state import State
from ptychopinn.runtime.batching import BatchSize, fitting_batch
from ptychopinn.runtime.processes import rank_and_size, reduce_sums

#: Patterns of a batch on the CPU, whose waves stay in its cache.
_CPU_BATCH = 48
#: Pixels of all patterns of a batch on a GPU, beyond which larger ones are no faster.
_GPU_PIXELS = 1 << 24
#: Complex arrays (b, M, N, N) that are alive at once, and those (b, N, N) without modes.
_WAVES, _OTHERS = 8, 3
#: Parts of a state with a row for each pattern.
PER_PATTERN = ("positions", "intensities", "coefficients")
#: "pie" takes at least so many steps in a pass, as it converges by them.
_PIE_BATCHES = 16


class Objective:
    """Counts of a scan and their forward model: the plain one, see :class:`ExperimentObjective` for others.

    With torch.distributed initialised, every process computes its shard of each batch, and sums are reduced.

    Args:
        counts: (n, N, N) in FFT order, any real type; bad pixels may hold any value. On the device of the computation,
            or in pinned memory.
        good: bool, (N, N) in FFT order, or None.
        canvas_size: (H, W).
        config: loss, interpolation, batch size, and which variables are refined.
        device: of the computation; None: that of the counts.
        modes: of the probe, for the batch size.
    """

    #: Pixels by which the regions of batches extend before and behind the patches.
    reach: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    #: Refined parts of the state that only some experiments have.
    learned: tuple[str, ...] = ()

    def __init__(
        self,
        counts: Tensor,
        good: Tensor | None,
        canvas_size: tuple[int, int],
        config: RefineConfig,
        device: torch.device | None = None,
        modes: int = 1,
    ) -> None:
        self.device = counts.device if device is None else device
        self.patterns = Counts(counts, self.device)
        self.good = good
        self.canvas_size = canvas_size
        self.loss = config.loss
        self.learn_positions, self.learn_intensities = config.learn_positions, config.learn_intensities
        #: Photons of every pattern relative to the probe's power, for curvatures, where they are known to differ: (n,).
        self.photons: Tensor | None = None
        self.support: Tensor | None = None  # of the probe, (N, N), see ptychopinn.refinement.support
        self.size = counts.shape[-1]
        self.shift = make_shift(config.interpolation, self.size, self.device)
        self.in_cache = runs_in_cache(self.device, (self.size, self.size))
        self.pixels = len(counts) * (self.size**2 if good is None else int(good.sum()))
        self.stated_size = config.batch_size
        self.batch = BatchSize(config.batch_size or self._fitting_batch(modes), "refine.batch_size")
        self.batches: list[NDArray[np.int64]] = []
        self.regions: list[BatchRegion] = []
        self._mean_counts: Tensor | None = None
        self.anchors: NDArray[np.float64] = np.zeros((len(counts), 2))

    @property
    def counts(self) -> Tensor:
        """Counts of all patterns, (n, N, N), on the device or in pinned memory."""
        return self.patterns.counts

    @property
    def fixed_regions(self) -> bool:
        """Whether an evaluation has the regions of the one before, and counts that are on the device."""
        return self.patterns.resident and (self.shift.shifts_probe or not self.learn_positions)

    def _fitting_batch(self, modes: int) -> int:
        if self.device.type != "cuda":
            return _CPU_BATCH
        pixels = self.size**2
        nbytes = 8 * pixels * (_WAVES * modes + _OTHERS)
        return fitting_batch(self.device, nbytes, max(_CPU_BATCH, _GPU_PIXELS // pixels))

    def batch_size(self, steps: bool = False) -> int:
        """Target number of patterns in a batch; ``steps``: where a step follows every batch."""
        if steps and self.stated_size is None:
            return min(self.batch.value, max(_CPU_BATCH, len(self.counts) // _PIE_BATCHES))
        return self.batch.value

    def pattern_count(self, region: BatchRegion) -> int:
        """Number of patterns that have the probe of a region's."""
        return len(self.counts)

    def set_batches(self, batches: Sequence[NDArray[np.int64]], positions: Tensor | NDArray[np.float64]) -> None:
        """Set the batches, as arrays of pattern indices, and the anchors for positions (n, 2)."""
        self.batches = [np.sort(batch) for batch in batches]
        self.set_anchors(positions)

    def set_anchors(self, positions: Tensor | NDArray[np.float64]) -> None:
        """Cut the patches of all batches at the anchors of positions (n, 2), kept within the canvas.

        Of a tensor on the device the positions are read back.
        """
        if isinstance(positions, Tensor):
            positions = read_back(positions)
        anchors = np.floor(positions + 0.5) if self.shift.shifts_probe else positions
        self.anchors = np.clip(anchors, 0, self._highest())
        rank, size = rank_and_size()
        self.regions = make_regions(
            self.batches, self.anchors, slice(rank, None, size), self.size, self.shift.taps, self.canvas_size,
            self.device, self.reach,
        )  # fmt: skip

    def of_patterns(self, members: Tensor, canvas_size: tuple[int, int], config: RefineConfig) -> Objective:
        """The objective of some patterns (k,), whose canvas is (H, W), with another configuration."""
        return Objective(self.patterns.select(members), self.good, canvas_size, config)

    def _highest(self) -> list[int]:
        return [side - self.size - self.shift.taps for side in self.canvas_size]

    def batch_correction(self, region: BatchRegion, counts: Tensor, state: State, probe: Probe) -> BatchCorrection:
        """Correction of a state by this process's shard of a batch; zeros if the shard is empty.

        Args:
            region: of the batch.
            counts: of its patterns.
            state: where to evaluate.
            probe: the state's probe and factors of intensity, see :meth:`represent`.
        """
        if not len(region.rows):
            by_object, empty = state.object.new_zeros(region.shape), state.intensities.new_zeros(0)
            return BatchCorrection(
                empty.sum(), by_object, torch.zeros_like(probe.representation), empty.new_zeros(0, 2), empty, empty
            )
        canvas = region.crop(state.object)
        offsets = state.positions.index_select(0, region.members) - region.anchors
        if self.in_cache:
            step = self._step(
                canvas, region.positions, offsets, probe.representation, counts, probe.factors[region.members]
            )
            assert step.canvas is not None and step.probe is not None
            return BatchCorrection(
                value=step.values.sum(),
                object=step.canvas,
                probe=step.probe,
                positions=step.positions,
                intensities=step.scale_slopes / -2 if self.learn_intensities else None,
                residuals=step.values * (4 * len(self.counts) / self.pixels),
            )
        probes, saved = self.shift.shifted_probes(probe.representation, offsets)
        fields = torch.fft.fft2(exit_waves(canvas, region.positions, probes, plan=region.plan))
        in_place = fields if fields.is_contiguous() else None
        factors = probe.factors.index_select(0, region.members)
        correction, values, by_intensity = self._correct(fields, counts, factors, out=in_place)
        waves = torch.fft.ifft2(correction, norm="forward")
        by_object = exit_waves_adjoint(waves, region.positions, probes, region.shape, plan=region.plan)
        by_probe, by_positions = self.shift.backward(waves, saved, region, self.learn_positions)
        return BatchCorrection(
            value=values.sum(),
            object=by_object,
            probe=by_probe,
            positions=by_positions,
            intensities=by_intensity.div_(-2) if self.learn_intensities else None,
            residuals=values * (4 * len(self.counts) / self.pixels),
        )

    def represent(self, state: State, factors: Tensor | None = None) -> Probe:
        """What all batches need of a state's probe and intensities; ``factors``, if those of intensity are known.

        The Fourier transforms of a batch are not normalised, because a GPU needs a pass over all patterns for that: the
        factor 1 / N of far fields is in that of the intensity, which the correction has, too.
        """
        if factors is None:
            factors = torch.exp(state.intensities).float()
            if not self.in_cache:
                factors /= self.size**2
        return Probe(state.probe if self.in_cache else self.shift.represent(state.probe), factors)

    def restore(self, by_probe: Tensor) -> Tensor:
        """The correction of the probe (M, N, N) from that of its representation."""
        return by_probe if self.in_cache else self.shift.restore(by_probe)

    def _step(
        self,
        canvas: Tensor,
        anchors: Tensor,
        offsets: Tensor,
        probe: Tensor,
        counts: Tensor,
        factors: Tensor,
        correct: bool = True,
    ) -> PatternStep:
        """Take patterns through a step in a cache: patches at the anchors (k, 2), and the probe shifted by offsets."""
        shifts = offsets if self.shift.shifts_probe else None
        return pattern_step(
            canvas, anchors, probe, counts, mask=self.good, scale=factors, shifts=shifts, loss=self.loss,
            background=BACKGROUND, to_canvas=correct, to_probe=correct, to_positions=correct and self.learn_positions,
        )  # fmt: skip

    def batch_counts(self, order: Sequence[int]) -> Iterator[Tensor]:
        """Counts of the batches with these indices, one after the other."""
        regions = [self.regions[index] for index in order]
        return self.patterns.batches([region.members for region in regions], [region.rows for region in regions])

    def _correct(
        self, fields: Tensor, counts: Tensor, factors: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Correction of far fields (b, M, N, N); J and its derivative by the intensity, (b,) each, of every pattern."""
        return correct_fields(
            fields, counts, mask=self.good, scale=factors, loss=self.loss, background=BACKGROUND, **options
        )

    def _anchors_of(self, positions: Tensor) -> Tensor:
        """Where the patches of trial positions (k, 2) are cut."""
        anchors = torch.floor(positions + 0.5) if self.shift.shifts_probe else positions
        height, width = self._highest()
        return torch.stack([anchors[:, 0].clamp(0, height), anchors[:, 1].clamp(0, width)], 1)

    def pattern_objectives(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """J of every pattern, (k,), for indices ``members`` (k,) and trial ``positions`` (k, 2)."""
        anchors, probe = self._anchors_of(positions), self.represent(state)
        if self.in_cache:
            return self._step(
                state.object, anchors, positions - anchors, state.probe, self.patterns.select(members),
                probe.factors[members], correct=False,
            ).values  # fmt: skip
        probes, _ = self.shift.shifted_probes(probe.representation, positions - anchors)
        fields = torch.fft.fft2(exit_waves(state.object, anchors, probes))
        return self._correct(fields, self.patterns.select(members), probe.factors[members], correct=False)[1]

    def coefficient_curvatures(self, state: State) -> Tensor:
        """Half the second derivative of J by the coefficients of the probe's variations, (n, V)."""
        return torch.zeros_like(state.coefficients)

    def mean_counts(self) -> Tensor:
        """Mean pattern, float64, (N, N), FFT order."""
        if self._mean_counts is None:
            total = torch.zeros(self.size, self.size, dtype=torch.float64, device=self.device)
            for counts in self.batch_counts(range(len(self.regions))):
                total += counts.sum(0, dtype=torch.float64)
            reduce_sums(total)
            self._mean_counts = total / len(self.counts)
        return self._mean_counts

    def predict(self, state: State, members: Tensor) -> Tensor:
        """Expected counts (k, N, N), FFT order, of the patterns with indices ``members`` (k,)."""
        positions = state.positions[members]
        anchors = self._anchors_of(positions)
        probes, _ = self.shift.shifted_probes(self.shift.represent(state.probe), positions - anchors)
        fields = torch.fft.fft2(exit_waves(state.object, anchors, probes), norm="ortho")
        return mode_intensity(fields) * torch.exp(state.intensities[members]).float()[:, None, None]

    def gradient(self, state: State, out: State | None = None) -> tuple[Tensor, State, Tensor]:
        """J of all patterns, float64, (), half its gradient, and the deviance of every pattern per pixel, (n,).

        Args:
            state: where to evaluate.
            out: state to write the gradient to; parts that are not refined may be of any value.
        """
        gradient = state.map(torch.empty_like) if out is None else out
        if self.in_cache and rank_and_size()[1] == 1:
            return self._gradient_in_cache(state, gradient)
        if self.learn_positions and not self.shift.shifts_probe:
            self.set_anchors(state.positions)
        for part in gradient:
            part.zero_()
        probe = self.represent(state)
        by_probe = torch.zeros_like(probe.representation)
        residuals = torch.zeros_like(state.intensities)
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        for region, counts in zip(self.regions, self.batch_counts(range(len(self.regions))), strict=True):
            batch = self.batch_correction(region, counts, state, probe)
            value += batch.value
            gradient.object[region.slices].sub_(batch.object)
            by_probe -= batch.probe
            residuals.index_copy_(0, region.members, batch.residuals)
            if batch.positions is not None:
                gradient.positions.index_copy_(0, region.members, batch.positions.neg())
            if batch.intensities is not None:
                gradient.intensities.index_copy_(0, region.members, batch.intensities.neg())
            for name, part in batch.others.items():
                if name in PER_PATTERN:
                    getattr(gradient, name).index_copy_(0, region.members, part.neg())
                else:
                    getattr(gradient, name).sub_(part)
        others = [part for part in gradient if part is not gradient.probe and part.numel()]
        reduce_sums(value, by_probe, residuals, *others)
        gradient.probe.copy_(self.restore(by_probe))
        return value, gradient, residuals

    def _gradient_in_cache(self, state: State, gradient: State) -> tuple[Tensor, State, Tensor]:
        """The same of all patterns at once, which makes no stack of waves."""
        anchors = torch.from_numpy(self.anchors) if self.shift.shifts_probe else self._anchors_of(state.positions)
        step = self._step(
            state.object, anchors, state.positions - anchors, state.probe, self.counts, self.represent(state).factors
        )
        assert step.canvas is not None and step.probe is not None
        torch.neg(step.canvas, out=gradient.object)
        torch.neg(step.probe, out=gradient.probe)
        gradient.positions.zero_()
        if step.positions is not None:
            torch.neg(step.positions, out=gradient.positions)
        if self.learn_intensities:
            torch.div(step.scale_slopes, 2, out=gradient.intensities)
        else:
            gradient.intensities.zero_()
        return step.values.sum(), gradient, step.values * (4 * len(self.counts) / self.pixels)

    def illumination(self, probe: Tensor, photons: Tensor | None = None) -> Tensor:
        """Intensity of a probe (M, N, N), summed over modes and positions, on the canvas, (H, W), in counts.

        With ``photons``, (n,), that of every pattern has a factor.
        """
        illumination = torch.zeros(self.canvas_size, dtype=torch.float32, device=self.device)
        weight = squared_modulus(probe).sum(0)
        for region in self.regions:
            if len(region.rows):
                weights = weight.expand(len(region.rows), *weight.shape).contiguous()
                if photons is not None:
                    weights *= photons[region.members].to(weight.dtype)[:, None, None]
                covered = extract_patches_adjoint(weights, region.positions, region.shape, plan=region.plan)
                illumination[region.slices].add_(covered)  # `+=` would copy the part once more
        reduce_sums(illumination)
        return illumination

    def curvatures(self, state: State) -> tuple[Tensor, Tensor]:
        """Diagonal curvatures of probe, ``sum_k |o_k|^2``, (N, N), and positions, ``sum |P|^2 |do / dy|^2``, (n, 2).

        Moving the object under the probe changes the intensities like moving the probe over the object; in this form,
        common motion of both has no curvature. That of positions is zero unless they are refined.
        """
        transmitted = torch.zeros(self.size, self.size, dtype=torch.float32, device=self.device)
        by_position = torch.zeros_like(state.positions)
        weight = squared_modulus(state.probe).sum(0)
        # Patches at integer pixels can be squared on the canvas.
        intensity = squared_modulus(state.object) if self.shift.shifts_probe and not self.learn_positions else None
        for region in self.regions:
            if not len(region.rows):
                continue
            if intensity is not None:
                part = intensity[region.slices].contiguous()
                patches = extract_patches(part, region.positions, self.size, plan=region.plan)
                transmitted += self._with_photons(patches, region).sum(0)
                continue
            patches = extract_patches(region.crop(state.object), region.positions, self.size, plan=region.plan)
            transmitted += self._with_photons(squared_modulus(patches), region).sum(0)
            if not self.learn_positions:
                continue
            steps = []
            for axis in (1, 2):
                derivative = (patches.roll(-1, axis) - patches.roll(1, axis)) / 2
                steps.append((weight * squared_modulus(derivative)).sum((1, 2)).double())
            by_position.index_copy_(0, region.members, torch.stack(steps, 1))
        reduce_sums(transmitted, by_position)
        return transmitted, by_position

    def _with_photons(self, intensities: Tensor, region: BatchRegion) -> Tensor:
        """Intensities (b, N, N) of the patches of a region for the photons of their patterns."""
        if self.photons is None:
            return intensities
        return intensities * self.photons[region.members].to(intensities.dtype)[:, None, None]
