# SPDX-License-Identifier: BSD-3-Clause
"""The loss of scans whose experiment is not plain: their forward model on the canvases of groups.

Canvases are predicted by a network from the inputs of :class:`~ptychopinn.physics.plain_inputs.PlainInputs`; the
patterns of these canvases, and their loss, are those of the exact model. Equations: docs/maths.md, "Experiments".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.likelihood import per_photon
from ptychopinn.physics.noise_floor import noise_floor
from ptychopinn.scan import Scan

#: Fields that scans trained on together may have each for itself; the radiation makes no difference.
_OWN = ("exposure", "variation_coefficients", "background_factors", "radiation")


def joined_experiment(scans: Sequence[Scan]) -> Experiment:
    """The experiment of the patterns of all scans in succession.

    Raises:
        InputError: the scans differ in more than what belongs to single patterns.
    """
    first = scans[0]
    if len(scans) == 1:
        return first.experiment
    for scan in scans[1:]:
        different = _differences(first.experiment, scan.experiment)
        if different:
            raise InputError(
                f"{scan.name}: expected one experiment in all scans trained on together, found another "
                f"{' and '.join(different)} than in {first.name}; train on each by itself"
            )
    experiments = [scan.experiment for scan in scans]
    joined: dict[str, Any] = {}
    if first.experiment.exposure is not None:
        joined["exposure"] = np.concatenate(
            [
                np.broadcast_to(path, (scan.n, *path.shape[-2:]))
                for scan in scans
                if (path := scan.experiment.exposure) is not None
            ]
        )
    if first.experiment.probe_variations is not None:
        coefficients = [one.variation_coefficients for one in experiments]
        joined["variation_coefficients"] = np.concatenate([each for each in coefficients if each is not None])
    if any(one.background_factors is not None for one in experiments):
        joined["background_factors"] = np.concatenate(
            [
                np.ones(scan.n) if one.background_factors is None else one.background_factors
                for one, scan in zip(experiments, scans, strict=True)
            ]
        )
    return replace(first.experiment, **joined)


def _differences(one: Experiment, other: Experiment) -> list[str]:
    """Names of what two scans that are trained on together must share, and do not."""
    different = [
        field.name
        for field in fields(Experiment)
        if field.name not in _OWN and not np.array_equal(getattr(one, field.name), getattr(other, field.name))
    ]
    # The points of exposures are one axis of a batch.
    lengths = [None if path is None else path.shape[-2] for path in (one.exposure, other.exposure)]
    return different if lengths[0] == lengths[1] else [*different, "exposure"]


def points_of(experiment: Experiment) -> int:
    """Points at which an exposure is computed, by which its patterns take more memory."""
    return len(exposure_points(experiment)[1])


class ExperimentLoss:
    """The loss of groups of patterns under the forward model of their experiment.

    Args:
        experiment: of the patterns of all scans; thin samples and the far field alone.
        size: N.
        loss: "poisson" or "amplitude".
        good: bool, (N, N), False at pixels to ignore, FFT order.
        device: of the computation.
    """

    def __init__(self, experiment: Experiment, size: int, loss: str, good: Tensor, device: torch.device) -> None:
        self.model = ForwardModel(experiment, size, None, None, device)
        self.size, self.loss, self.good = size, loss, good
        self._variations = torch.zeros(0, size, size, dtype=torch.complex64, device=device)
        self._coefficients = torch.zeros(1, 0, dtype=torch.float64, device=device)
        if experiment.probe_variations is not None:
            assert experiment.variation_coefficients is not None
            self._variations = torch.from_numpy(experiment.probe_variations).to(device)
            self._coefficients = torch.from_numpy(experiment.variation_coefficients).to(device)
        self._background: Tensor | None = None
        if experiment.background is not None:
            self._background = torch.from_numpy(np.fft.ifftshift(experiment.background)).to(device)

    def fields(self, canvases: Tensor, positions: Tensor, members: Tensor, probe: Tensor) -> Tensor:
        """Waves at the detector.

        Args:
            canvases: complex, (B, H, W), of groups.
            positions: float64, (B, C, 2), on the group's canvas.
            members: int64, (B, C), indices of the patterns over all scans.
            probe: complex, (M, N, N), the mean one.

        Returns:
            complex, (B C, K M, N, N), in sqrt(counts) and FFT order, the modes of all points of an exposure.
        """
        groups, height, width = canvases.shape
        chosen = members.flatten()
        points = positions.view(-1, 1, 2) + self.model.points_of(chosen)
        nearest = torch.floor(points.detach() + 0.5)
        # Canvases lie below each other on one; anchors are on the group's own canvas.
        rows = nearest[..., 0].clamp(0, height - self.size)
        columns = nearest[..., 1].clamp(0, width - self.size)
        offsets = points - torch.stack([rows, columns], -1)
        first = torch.arange(groups, dtype=torch.float64, device=canvases.device) * height
        first = first.repeat_interleave(members.shape[1])[:, None]
        varied = self._coefficients[chosen] if len(self._variations) else self._coefficients
        probes = self.model.probes_of(probe, self._variations, varied)
        anchors = torch.stack([rows + first, columns], -1)
        return self.model.fields(canvases.reshape(groups * height, width), probes, anchors, offsets)

    def __call__(self, canvases: Tensor, positions: Tensor, members: Tensor, probe: Tensor, counts: Tensor) -> Tensor:
        """The loss per photon of counts (B, C, N, N), a scalar; other arguments as for :meth:`fields`."""
        return self._of_fields(self.fields(canvases, positions, members, probe), members, counts)

    def with_floor(
        self, canvases: Tensor, positions: Tensor, members: Tensor, probe: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss, and its noise floor, scalars; arguments as for a call."""
        waves, chosen = self.fields(canvases, positions, members, probe), members.flatten()
        expected = self.model.expected(waves, self._factors(chosen), self._background, chosen)
        floor = noise_floor(expected, self.loss, self.good, self.model.saturation)
        return self._of_fields(waves, members, counts), floor

    def _of_fields(self, waves: Tensor, members: Tensor, counts: Tensor) -> Tensor:
        flat, chosen = counts.flatten(0, 1), members.flatten()
        values = self.model.objectives(
            waves, flat, self.good, self.loss, self._factors(chosen), self._background, chosen
        )
        return per_photon(self.loss, values, flat, self.good)

    def _factors(self, members: Tensor) -> Tensor:
        return torch.ones(len(members), dtype=torch.float32, device=members.device)
