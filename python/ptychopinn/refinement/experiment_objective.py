# SPDX-License-Identifier: BSD-3-Clause
"""The objective of experiments that are not plain: their forward model, with gradients by autograd, batch by batch.

It has the interface of :class:`Objective`, and takes the parts of a state that only such experiments have, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import extract_patches_adjoint
from ptychopinn.acquisition import wavelength_of
from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.likelihood import BACKGROUND
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.corrections import BatchCorrection, Probe
from ptychopinn.refinement.objective import PER_PATTERN, Objective
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.regions import BatchRegion, upload
from ptychopinn.refinement.state import State, refined_parts
from ptychopinn.runtime.processes import reduce_sums
from ptychopinn.scan import Scan


class ExperimentObjective(Objective):
    """Counts of a scan and the forward model of its experiment.

    Args:
        counts: as for :class:`Objective`.
        good: as for :class:`Objective`.
        canvas_size: (H, W).
        config: as for :class:`Objective`; interpolation is by Fourier shifts.
        model: of the experiment.
        device: of the computation.
        modes: of the probe, for the batch size.
    """

    def __init__(
        self,
        counts: Tensor,
        good: Tensor | None,
        canvas_size: tuple[int, int],
        config: RefineConfig,
        model: ForwardModel,
        device: torch.device | None = None,
        modes: int = 1,
    ) -> None:
        self.model = model
        points = model.points.cpu().numpy()
        low, high = np.floor(points.min((0, 1))).astype(int), np.ceil(points.max((0, 1))).astype(int)
        self.reach = ((max(0, -low[0]), max(0, -low[1])), (max(0, high[0]), max(0, high[1])))
        super().__init__(counts, good, canvas_size, config, device, modes * points.shape[1])
        self.in_cache = False
        special = ("variations", "coefficients", "background", "distances")
        self.learned = tuple(name for name, wanted in refined_parts(config).items() if wanted and name in special)
        self._last_anchor = torch.tensor(self._highest(), dtype=torch.float64, device=self.device)

    @property
    def fixed_regions(self) -> bool:
        """See :class:`Objective`; autograd is not captured."""
        return False

    def set_anchors(self, positions: Tensor | NDArray[np.float64]) -> None:
        """See :class:`Objective`; kept with their fractions, as every point of an exposure is rounded by itself."""
        super().set_anchors(positions)
        exact = read_back(positions) if isinstance(positions, Tensor) else positions
        self.anchors = np.clip(exact, 0, self._highest())
        self._centres = upload(self.anchors, self.device)

    def of_patterns(self, members: Tensor, canvas_size: tuple[int, int], config: RefineConfig) -> ExperimentObjective:
        """See :class:`Objective`."""
        model = self.model.of_patterns(members)
        return ExperimentObjective(self.patterns.select(members), self.good, canvas_size, config, model)

    def represent(self, state: State, factors: Tensor | None = None) -> Probe:
        """See :class:`Objective`; the probe represents itself."""
        return Probe(state.probe, torch.exp(state.intensities).float() if factors is None else factors)

    def restore(self, by_probe: Tensor) -> Tensor:
        """See :class:`Objective`."""
        return by_probe

    def batch_correction(self, region: BatchRegion, counts: Tensor, state: State, probe: Probe) -> BatchCorrection:
        """See :class:`Objective`."""
        parts = self._parts(state, region.members) | {"object": region.crop(state.object)}
        parts["probe"] = probe.representation
        wanted = ["object", "probe", *(name for name in self.learned if parts[name].numel())]
        wanted += [name for name in ("positions", "intensities") if getattr(self, f"learn_{name}")]
        with torch.enable_grad():
            leaves = {name: part.detach().requires_grad_(name in wanted) for name, part in parts.items()}
            probes = self._probes(leaves)
            values = self._values(leaves, probes, self._centres[region.members], region.members, counts, region.corner)
            gradients = torch.autograd.grad(values.sum(), [leaves[name] for name in wanted])
        corrections = {name: part.div(-2) for name, part in zip(wanted, gradients, strict=True)}
        values = values.detach()
        return BatchCorrection(
            value=values.sum(),
            object=corrections.pop("object"),
            probe=corrections.pop("probe"),
            positions=corrections.pop("positions", None),
            intensities=corrections.pop("intensities", None),
            residuals=values * (4 * len(self.counts) / self.pixels),
            others=corrections,
        )

    def pattern_objectives(self, state: State, members: Tensor, positions: Tensor) -> Tensor:
        """See :class:`Objective`."""
        parts = self._parts(state, members) | {"positions": positions}
        counts = self.patterns.select(members)
        return self._values(parts, self._probes(parts), positions, members, counts)

    def region_objectives(self, region: BatchRegion, counts: Tensor, state: State) -> Tensor:
        """J of the patterns of a region, (b,), with their anchors."""
        parts = self._parts(state, region.members) | {"object": region.crop(state.object)}
        return self._values(
            parts, self._probes(parts), self._centres[region.members], region.members, counts, region.corner
        )

    def predict(self, state: State, members: Tensor) -> Tensor:
        """See :class:`Objective`."""
        parts = self._parts(state, members)
        fields = self._fields(parts, self._probes(parts), parts["positions"], members)
        return self.model.expected(fields, torch.exp(parts["intensities"]), _squared(parts["background"]), members)

    def pattern_gradients(self, region: BatchRegion, counts: Tensor, state: State) -> Tensor:
        """Correction of the first mode of the probe by every pattern of a region alone, complex, (b, N, N)."""
        parts = self._parts(state, region.members)
        with torch.enable_grad():
            probes = self._probes(parts).expand(len(region.members), -1, -1, -1).contiguous().requires_grad_()
            values = self._values(parts, probes, self._centres[region.members], region.members, counts)
            (gradient,) = torch.autograd.grad(values.sum(), [probes])
        return gradient[:, 0] / -2

    def coefficient_curvatures(self, state: State) -> Tensor:
        """See :class:`Objective`."""
        found = torch.zeros_like(state.coefficients)
        for region, counts in zip(self.regions, self.batch_counts(range(len(self.regions))), strict=True):
            if len(region.rows):
                curvatures, _ = self.variation_terms(region, counts, state, state.variations)
                found.index_copy_(0, region.members, curvatures.diagonal(dim1=1, dim2=2))
        reduce_sums(found)
        return found

    def variation_terms(
        self, region: BatchRegion, counts: Tensor, state: State, shapes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """J of patterns to second order (Gauss-Newton) in real coefficients of shapes added to the probe's first mode.

        The point spread of the detector is neglected.

        Args:
            region: of the patterns.
            counts: (b, N, N).
            state: where to expand.
            shapes: complex, (C, N, N).

        Returns:
            curvatures (b, C, C), half the second derivative, and descents (b, C), minus half the first, float64.
        """
        members, points = region.members, self.model.points.shape[1]
        parts = self._parts(state, members)
        probes = self._probes(parts)
        modes = probes.shape[1]
        probes = torch.cat([probes, shapes.expand(len(probes), -1, -1, -1)], 1)
        fields = self._fields(parts, probes, self._centres[members], members)
        fields = fields.view(len(members), points, -1, self.size, self.size)
        factors = torch.exp(parts["intensities"]).float()
        background = _squared(parts["background"])
        expected = self.model.expected(fields[:, :, :modes].flatten(1, 2), factors, background, members)
        weight = 1 / (expected + BACKGROUND)
        if self.good is not None:
            weight = weight * self.good
        if self.model.saturation is not None:
            weight = weight * (counts < self.model.saturation)
        by_shape = 2 * (fields[:, :, :1].conj() * fields[:, :, modes:]).real.sum(1) * factors[:, None, None, None]
        weighted = (by_shape * weight[:, None]).flatten(2)
        curvatures = weighted @ by_shape.flatten(2).mT / 4
        descents = weighted @ (counts - expected).flatten(1)[..., None] / 4
        return curvatures.double(), descents[..., 0].double()

    def _parts(self, state: State, members: Tensor) -> dict[str, Tensor]:
        """Parts of a state by name, with the rows of some patterns."""
        return {
            name: part.index_select(0, members) if name in PER_PATTERN else part
            for name, part in state.to_dict().items()
        }

    def _probes(self, parts: dict[str, Tensor]) -> Tensor:
        return self.model.probes_of(parts["probe"], parts["variations"], parts["coefficients"])

    def _fields(
        self, parts: dict[str, Tensor], probes: Tensor, centres: Tensor, members: Tensor, corner: Tensor | None = None
    ) -> Tensor:
        """Waves at the detector of patterns (k,), whose patches are cut about centres (k, 2) of the canvas.

        The object of ``parts`` is the part of the canvas that begins at ``corner`` (2,); None: it is all of it.
        """
        points = self.model.points_of(members)
        cuts = torch.floor(centres[:, None] + points + 0.5)
        cuts = torch.minimum(cuts.clamp_min(0.0), self._last_anchor)
        offsets = parts["positions"][:, None] + points - cuts
        relative = cuts if corner is None else cuts - corner
        return self.model.fields(parts["object"], probes, relative, offsets, parts["distances"])

    def _values(
        self,
        parts: dict[str, Tensor],
        probes: Tensor,
        centres: Tensor,
        members: Tensor,
        counts: Tensor,
        corner: Tensor | None = None,
    ) -> Tensor:
        """J of patterns (k,); arguments as for :meth:`_fields`."""
        fields = self._fields(parts, probes, centres, members, corner)
        factors, background = torch.exp(parts["intensities"]), _squared(parts["background"])
        return self.model.objectives(fields, counts, self.good, self.loss, factors, background, members)

    def illumination(self, probe: Tensor, photons: Tensor | None = None) -> Tensor:
        """See :class:`Objective`; of all points of the exposures."""
        if self.model.points.shape[1] == 1:
            return super().illumination(probe, photons)
        illumination = torch.zeros(self.canvas_size, dtype=torch.float32, device=self.device)
        weight = squared_modulus(probe).sum(0)
        for region in self.regions:
            points = self.model.points_of(region.members)
            for index, factor in enumerate(self.model.weights.tolist()):
                cuts = region.positions + torch.floor(points[:, index] + 0.5)
                weights = (weight * factor).expand(len(region.rows), *weight.shape).contiguous()
                if photons is not None:
                    weights *= photons[region.members].to(weight.dtype)[:, None, None]
                illumination[region.slices].add_(extract_patches_adjoint(weights, cuts, region.shape))
        reduce_sums(illumination)
        return illumination

    def curvatures(self, state: State) -> tuple[Tensor, Tensor]:
        """See :class:`Objective`; of the product of all slices."""
        if state.object.dim() == 2:
            return super().curvatures(state)
        return super().curvatures(replace(state, object=state.object.prod(0)))


def _squared(root: Tensor) -> Tensor | None:
    return root.square() if root.numel() else None


def make_objective(
    scan: Scan,
    experiment: Experiment,
    counts: Tensor,
    good: Tensor | None,
    canvas_size: tuple[int, int],
    config: RefineConfig,
    device: torch.device,
    modes: int,
    plain: bool,
    kinds: tuple[type[Objective], type[ExperimentObjective]] = (Objective, ExperimentObjective),
    **options: Any,
) -> Objective:
    """Make the objective of a scan, the fast one where the forward model is plain.

    Args:
        scan: its pixel size and energy are used.
        experiment: that of the refinement.
        counts: as for :class:`Objective`.
        good: as for :class:`Objective`.
        canvas_size: (H, W).
        config: of the refinement.
        device: of the computation.
        modes: of the probe.
        plain: whether the experiment is, and the state has no parts beside those of a plain one.
        kinds: of objectives, for a plain and any other experiment.
        options: of the objective, beside those above.
    """
    if plain:
        return kinds[0](counts, good, canvas_size, config, device, modes, **options)
    wavelength = None if scan.energy is None else wavelength_of(scan.energy, experiment.radiation)
    model = ForwardModel(experiment, scan.patch_size, scan.pixel_size, wavelength, device)
    return kinds[1](counts, good, canvas_size, config, model, device, modes, **options)
