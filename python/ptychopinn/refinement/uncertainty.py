# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of a refined object: replicas of the whole refinement, see :mod:`ptychopinn.metrics.deviations`.

A replica has the positions, probe, start and options of the refinement itself, so that its errors have the same causes.
Fisher information and an ensemble of perturbed solutions know the noise only, at the price of as many passes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.metrics.deviations import Image, Loss, make_replicas, with_deviations
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.run import Refinement
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

_log = logging.getLogger(__name__)

_BLOCK = 32  # patterns that are predicted at once


def with_uncertainty(
    scan: Scan, start: Reconstruction | None, result: Reconstruction, config: RefineConfig, device: torch.device
) -> Reconstruction:
    """A result with the standard deviations of its object, of its amplitude and of its phase.

    Args:
        scan: the scan.
        start: what the refinement began with, or None.
        result: of the refinement.
        config: of the refinement, with the number of ``replicas``; each takes two refinements.
        device: where to compute.

    Returns:
        The result with ``uncertainty``, ``amplitude_uncertainty`` and ``phase_uncertainty``; all else is unchanged.
    """
    assert result.refinement is not None and result.error_map is not None
    settings = dataclasses.replace(config, uncertainty="none", split_half=False, minutes=None)
    if config.minutes is not None:
        settings = dataclasses.replace(settings, iterations=result.refinement.passes)
    rng = np.random.default_rng([config.seed, 3])
    # Of a thick sample the errors of the slices are not known from that of their product.
    pairs = result.slices is None
    total = config.replicas * (1 + pairs)
    labels = iter(f"replica {number} of {total}" for number in range(1, total + 1))

    def refined(known: Image) -> tuple[Image, Loss]:
        counts = simulated_counts(scan, dataclasses.replace(result, object=known), settings, device, rng)
        run = Refinement(dataclasses.replace(scan, counts=counts), start, settings, device, None, 1, next(labels))
        with torch.no_grad():
            run.iterate()
        replica = run.result()
        # Probes may be centred differently, by whole pixels.
        moved = np.round(np.array(replica.origin) - result.origin).astype(int)
        assert replica.error_map is not None
        image, fit = (
            np.roll(part, (int(moved[0]), int(moved[1])), (0, 1)) for part in (replica.object, replica.error_map)
        )
        return image.astype(np.complex128), fit

    _log.info("%d replicas of the scan are refined, for the uncertainty (refine.uncertainty)", total)
    return with_deviations(result, make_replicas(result, config.replicas, refined, pairs), result.error_map)


def simulated_counts(
    scan: Scan, result: Reconstruction, config: RefineConfig, device: torch.device, rng: np.random.Generator
) -> NDArray[Any]:
    """Counts (n, N, N) that a result predicts, with photon noise, and clipped where the detector saturates.

    Args:
        scan: the scan; bad pixels get counts as others do, which are ignored as those of the scan are.
        result: object, probe, positions and intensities.
        config: of the refinement, for its forward model.
        device: where to compute.
        rng: of the noise.
    """
    run = Refinement(scan, result, dataclasses.replace(config, modes=None, find_defocus=False), device, None, 1)
    if result.intensities is not None:
        factors = np.log(np.maximum(result.intensities, 1e-6)).astype(np.float64)
        run.state.intensities = torch.from_numpy(factors).to(device)
    blocks = []
    with torch.no_grad():
        for members in torch.arange(scan.n, device=device).split(_BLOCK):
            expected = run.objective.predict(run.state, members).double().cpu().numpy()
            blocks.append(compact_counts(rng.poisson(np.fft.fftshift(expected, axes=(-2, -1)))))
    counts = np.concatenate(blocks)
    limit = scan.experiment.saturation
    return counts if limit is None else np.minimum(counts, math.ceil(limit)).astype(counts.dtype)
