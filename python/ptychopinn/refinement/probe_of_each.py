# SPDX-License-Identifier: BSD-3-Clause
"""The objective of several scans of one sample that have a probe each: all modes of a state's probe in one stack.

The modes of scan s are rows s M to (s + 1) M of the stack (S M, N, N). Batches have patterns of one scan, so that each
is computed as ever, with the modes of its scan: by the fast operators where the experiment is plain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.refinement.corrections import BatchCorrection, Probe
from ptychopinn.refinement.experiment_objective import ExperimentObjective
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.regions import BatchRegion
from ptychopinn.refinement.state import State


class ProbeOfEach(Objective):
    """An objective whose patterns have the modes of their scan.

    Args:
        arguments: of :class:`Objective`, or of the class that comes next.
        labels: int64, (n,), ascending: the number of the scan of every pattern.
        scans: number of scans; each has patterns.
        options: of the objective.
    """

    def __init__(self, *arguments: Any, labels: NDArray[np.int64], scans: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.labels, self.scans = labels, scans
        self._labels: dict[int, int] = {}  # of the regions of all batches, by their id
        ends: list[int] = np.searchsorted(labels, np.arange(scans + 1)).tolist()
        self.rows = [slice(first, end) for first, end in pairwise(ends)]

    def set_batches(self, batches: Sequence[NDArray[np.int64]], positions: Tensor | NDArray[np.float64]) -> None:
        """See :class:`Objective`; batches are divided by their scans."""
        parts = [batch[self.labels[batch] == number] for batch in batches for number in range(self.scans)]
        super().set_batches([part for part in parts if len(part)], positions)

    def set_anchors(self, positions: Tensor | NDArray[np.float64]) -> None:
        """See :class:`Objective`."""
        super().set_anchors(positions)
        pairs = zip(self.regions, self.batches, strict=True)
        self._labels = {id(region): int(self.labels[batch[0]]) for region, batch in pairs}

    def pattern_count(self, region: BatchRegion) -> int:
        """See :class:`Objective`."""
        return int(np.count_nonzero(self.labels == self._label(region)))

    def batch_correction(self, region: BatchRegion, counts: Tensor, state: State, probe: Probe) -> BatchCorrection:
        """See :class:`Objective`; the correction of the probe is that of all modes."""
        if not len(region.rows):
            return super().batch_correction(region, counts, state, probe)
        modes = self._modes(probe.representation, self._label(region))
        own = replace(probe, representation=probe.representation[modes])
        found = super().batch_correction(region, counts, replace(state, probe=state.probe[modes]), own)
        by_probe = torch.zeros_like(probe.representation)
        by_probe[modes] = found.probe
        found.probe = by_probe
        return found

    def pattern_objectives(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """See :class:`Objective`."""
        found = positions.new_zeros(len(members))
        for one, chosen in self._by_scan(state, members):
            values = super().pattern_objectives(one, members[chosen], positions[chosen])
            found[chosen] = values.to(found.dtype)
        return found

    def predict(self, state: State, members: Tensor) -> Tensor:
        """See :class:`Objective`."""
        found = torch.zeros(len(members), self.size, self.size, dtype=torch.float32, device=self.device)
        for one, chosen in self._by_scan(state, members):
            found[chosen] = super().predict(one, members[chosen]).float()
        return found

    def illumination(self, probe: Tensor, photons: Tensor | None = None) -> Tensor:
        """See :class:`Objective`."""
        total = torch.zeros(self.canvas_size, dtype=torch.float32, device=self.device)
        for number in range(self.scans):
            with self._regions_of(number):
                total += super().illumination(probe[self._modes(probe, number)], photons)
        return total

    def curvatures(self, state: State) -> tuple[Tensor, Tensor]:
        """See :class:`Objective`; that of the probe is of every mode, (S M, N, N)."""
        of_probe = torch.zeros_like(state.probe.real)
        of_positions = torch.zeros_like(state.positions)
        for number in range(self.scans):
            modes = self._modes(state.probe, number)
            with self._regions_of(number):
                of_modes, of_own = super().curvatures(replace(state, probe=state.probe[modes]))
            of_probe[modes] = of_modes
            of_positions += of_own
        return of_probe, of_positions

    def _gradient_in_cache(self, state: State, gradient: State) -> tuple[Tensor, State, Tensor]:
        """See :class:`Objective`; the patterns of every scan at once."""
        anchors = torch.from_numpy(self.anchors) if self.shift.shifts_probe else self._anchors_of(state.positions)
        offsets, factors = state.positions - anchors, self.represent(state).factors
        for part in gradient:
            part.zero_()
        values = torch.zeros_like(state.intensities)
        for number, rows in enumerate(self.rows):
            modes = self._modes(state.probe, number)
            step = self._step(
                state.object, anchors[rows], offsets[rows], state.probe[modes], self.counts[rows], factors[rows]
            )
            assert step.canvas is not None and step.probe is not None
            gradient.object.sub_(step.canvas)
            gradient.probe[modes] = -step.probe
            if step.positions is not None:
                gradient.positions[rows] = -step.positions
            if self.learn_intensities:
                gradient.intensities[rows] = step.scale_slopes / 2
            values[rows] = step.values
        return values.sum(), gradient, values * (4 * len(self.counts) / self.pixels)

    def _label(self, region: BatchRegion) -> int:
        return self._labels[id(region)]

    def _modes(self, probe: Tensor, number: int) -> slice:
        """The modes of a scan among those of all."""
        count = len(probe) // self.scans
        return slice(number * count, (number + 1) * count)

    def _by_scan(self, state: State, members: Tensor) -> Iterator[tuple[State, Tensor]]:
        """For every scan, the state with its modes, and which of some patterns (k,) are of it."""
        labels = torch.from_numpy(self.labels).to(members.device)[members]
        for number in range(self.scans):
            chosen = (labels == number).nonzero()[:, 0]
            if len(chosen):
                yield replace(state, probe=state.probe[self._modes(state.probe, number)]), chosen

    @contextmanager
    def _regions_of(self, number: int) -> Iterator[None]:
        """Within the context, the regions of one scan are all that there are."""
        every = self.regions
        self.regions = [region for region in every if self._label(region) == number]
        try:
            yield
        finally:
            self.regions = every

    def _labels_of(self, members: Tensor) -> dict[str, Any]:
        return {"labels": self.labels[members.cpu().numpy()], "scans": self.scans}


class PlainProbeOfEach(ProbeOfEach):
    """:class:`ProbeOfEach` of a plain experiment."""

    def of_patterns(self, members: Tensor, canvas_size: tuple[int, int], config: RefineConfig) -> Objective:
        """See :class:`Objective`."""
        counts = self.patterns.select(members)
        return PlainProbeOfEach(counts, self.good, canvas_size, config, **self._labels_of(members))


class ExperimentProbeOfEach(ProbeOfEach, ExperimentObjective):
    """:class:`ProbeOfEach` of an experiment that is not plain."""

    def of_patterns(self, members: Tensor, canvas_size: tuple[int, int], config: RefineConfig) -> ExperimentObjective:
        """See :class:`Objective`."""
        counts, model = self.patterns.select(members), self.model.of_patterns(members)
        return ExperimentProbeOfEach(counts, self.good, canvas_size, config, model, **self._labels_of(members))


def objective_options(joint: Joint | None) -> dict[str, Any]:
    """Options of :func:`make_objective` where patterns have a probe of their own; none where all have one."""
    if joint is None or joint.labels is None:
        return {}
    return {"kinds": (PlainProbeOfEach, ExperimentProbeOfEach), "labels": joint.labels, "scans": joint.probes}
