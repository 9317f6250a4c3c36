# SPDX-License-Identifier: BSD-3-Clause
"""What a network is given of patterns of an experiment: the inputs of the plain model that is nearest to it.

The unrolled steps of a generator, and its initial estimate, know the plain forward model. Exposures are for them at the
middle of their paths, and a background is subtracted from the counts. What is left of the difference is for the loss of
a training, which has the exact model. For a network that was trained on plain scans alone, an exposure along a path, or
by a source of finite size, is one by more incoherent modes of the probe.
Equations: docs/maths.md, "Inputs of networks".
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.exposure import exposure_points
from ptychopinn.scan import Scan

#: Part of the power of all points of an exposure that the modes of a network have.
_KEPT = 0.99
#: Largest distance of a position from the middle of its exposure, pixels, that is rounding.
_CENTRED = 1e-9


def require_thin_and_far(scan: Scan) -> None:
    """Check that networks can be used for a scan: their first estimate is of a thin sample and the far field.

    Raises:
        InputError: it is of a thick sample, or the detector is in the near field.
    """
    if not is_thin_and_far(scan.experiment):
        found = " and ".join(name for name in scan.experiment.effects() if name in ("the near field", "a thick sample"))
        raise InputError(
            f"{scan.name}: expected a thin sample and a detector in the far field, for which networks are made, "
            f"found {found}; `ptychopinn refine SCAN --out OUT.h5` reconstructs it without a network"
        )


def is_thin_and_far(experiment: Experiment) -> bool:
    """Whether a sample is thin and the detector in the far field."""
    return experiment.fresnel_number is None and not experiment.slice_distances


def centred(scan: Scan) -> Scan:
    """The same scan with positions in the middle of their exposures; the scan itself if they are.

    Networks know a pattern's position only. Positions and paths of the result describe the same exposures.
    """
    path = scan.experiment.exposure
    if path is None:
        return scan
    middle = path.mean(-2, keepdims=True)
    if np.abs(middle).max() < _CENTRED:
        return scan
    experiment = replace(scan.experiment, exposure=path - middle)
    return replace(scan, positions=scan.positions + middle[..., 0, :], experiment=experiment)


def exposure_reach(experiment: Experiment) -> int:
    """Pixels by which exposures extend beyond positions, for the margins of canvases."""
    return math.ceil(float(np.abs(exposure_points(experiment)[0]).max()))


class PlainInputs:
    """Counts and probe as a network is given them.

    Args:
        experiment: of patterns whose positions are in the middle of their exposures, see :func:`centred`.
        probe: complex, (M, N, N), by which modes are chosen: that of the scan, so that they are always the same ones.
        device: of the computation.
        modes: whether paths and sources are modes of the probe.
    """

    def __init__(
        self, experiment: Experiment, probe: NDArray[np.complex64], device: torch.device, modes: bool = False
    ) -> None:
        self._transfers: Tensor | None = None
        if modes and (experiment.exposure is not None or experiment.source_size is not None):
            transfers = _transfers(*_one_path(experiment), probe)
            self._transfers = torch.from_numpy(transfers).to(device)
        self._background: Tensor | None = None
        self._factors: Tensor | None = None
        if experiment.background is not None:
            self._background = torch.from_numpy(np.fft.ifftshift(experiment.background)).to(device)
            if experiment.background_factors is not None:
                self._factors = torch.from_numpy(experiment.background_factors).float().to(device)

    @classmethod
    def of(
        cls, experiment: Experiment, probe: NDArray[np.complex64], device: torch.device, modes: bool = False
    ) -> PlainInputs | None:
        """Those of an experiment; None if they are its counts and probe. Arguments as for the class."""
        made = cls(experiment, probe, device, modes)
        return None if made._transfers is None and made._background is None else made

    def counts(self, counts: Tensor, members: Tensor) -> Tensor:
        """Counts (..., N, N), in FFT order, of patterns with indices ``members`` (...,) without the background."""
        if self._background is None:
            return counts
        background = self._background
        if self._factors is not None:
            background = background * self._factors[members][..., None, None]
        return (counts - background).clamp_min(0.0)

    def probe(self, probe: Tensor) -> Tensor:
        """The modes (L M, N, N) of all points of an exposure with the probe (M, N, N)."""
        if self._transfers is None:
            return probe
        modes: Tensor = torch.fft.ifft2(torch.fft.fft2(probe) * self._transfers[:, None]).flatten(0, 1)
        return modes


def _one_path(experiment: Experiment) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (K, 2) and weights (K,) that represent the exposures of all patterns: their mean path.

    A path and its reverse are the same exposure: paths are averaged in one direction.
    """
    points, weights = exposure_points(experiment)
    ends = points[:, -1] - points[:, 0]
    along = np.linalg.eigh(ends.T @ ends)[1][:, -1]
    reverse = ends @ along < 0
    # Points of a source are symmetric, and so are those of a path and a source in the reverse order.
    points = np.where(reverse[:, np.newaxis, np.newaxis], points[:, ::-1], points)
    return points.mean(0), weights


def _transfers(
    points: NDArray[np.float64], weights: NDArray[np.float64], probe: NDArray[np.complex64]
) -> NDArray[np.complex64]:
    """Factors (L, N, N) of a probe's spectrum that give the modes of an exposure, the strongest first.

    The probes at all points are incoherent modes: their orthogonal combinations predict the same patterns, and the
    weakest are omitted.
    """
    frequencies = np.fft.fftfreq(probe.shape[-1])
    angles = points[:, :1, np.newaxis] * frequencies[:, np.newaxis] + points[:, 1:, np.newaxis] * frequencies
    moves = np.sqrt(weights)[:, np.newaxis, np.newaxis] * np.exp(-2j * np.pi * angles)
    power = (np.abs(np.fft.fft2(probe, norm="ortho")) ** 2).sum(0)
    rows = (moves * np.sqrt(power)).reshape(len(moves), -1)
    powers, vectors = np.linalg.eigh(rows.conj() @ rows.T)
    powers, vectors = powers[::-1], vectors[:, ::-1]
    parts = np.cumsum(powers) / powers.sum()
    count = int(np.searchsorted(parts, _KEPT)) + 1
    combined = np.einsum("jl,jyx->lyx", vectors[:, :count], moves) / np.sqrt(parts[count - 1])
    return np.asarray(combined, np.complex64)
