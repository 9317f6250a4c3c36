# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of a refined object: replicas of the whole refinement, see :mod:`ptychopinn.metrics.deviations`.

A replica has the positions, probe, start and options of the refinement itself, so that its errors have the same causes.
Fisher information and an ensemble of perturbed solutions know the noise only, at the price of as many passes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.metrics.deviations import Image, Loss, make_replicas, with_deviations
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.joint import Joint
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

    def refined(counts: NDArray[Any], settings: RefineConfig, label: str) -> Reconstruction:
        run = Refinement(dataclasses.replace(scan, counts=counts), start, settings, device, None, 1, label)
        with torch.no_grad():
            run.iterate()
        return run.result()

    return with_replicas(scan, result, config, device, refined)


def with_replicas(
    scan: Scan,
    result: Reconstruction,
    config: RefineConfig,
    device: torch.device,
    refined: Callable[[NDArray[Any], RefineConfig, str], Reconstruction],
    joint: Joint | None = None,
    parts: Sequence[tuple[slice, slice]] = (np.s_[:, :],),
) -> Reconstruction:
    """:func:`with_uncertainty` of any refinement.

    Args:
        scan: the scan, with the experiment that the result has.
        result: of the refinement.
        config: of the refinement.
        device: where to compute.
        refined: the refinement of simulated counts (n, N, N), by a configuration, with a label for its progress.
        joint: if the scan is several.
        parts: of the canvas of the result, which have ambiguities of their own.
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

    def reconstructed(known: Image) -> tuple[Image, Loss]:
        counts = simulated_counts(scan, dataclasses.replace(result, object=known), settings, device, rng, joint)
        replica = refined(counts, settings, next(labels))
        # Probes may be centred differently, by whole pixels.
        moved = np.round(np.array(replica.origin) - result.origin).astype(int)
        assert replica.error_map is not None
        image, fit = (_placed(part, moved, result.shape) for part in (replica.object, replica.error_map))
        return image.astype(np.complex128), fit

    _log.info("%d replicas of the scan are refined, for the uncertainty (refine.uncertainty)", total)
    replicas = make_replicas(result, config.replicas, reconstructed, pairs, parts)
    return with_deviations(result, replicas, result.error_map)


def _placed(image: NDArray[Any], moved: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[Any]:
    """An image (h, w) on a canvas (H, W), whose first pixel is ``moved`` (2,) pixels before its own."""
    larger = np.pad(image, [(0, max(0, n - side)) for n, side in zip(shape, image.shape, strict=True)])
    return np.roll(larger, (int(moved[0]), int(moved[1])), (0, 1))[: shape[0], : shape[1]]


def simulated_counts(
    scan: Scan,
    result: Reconstruction,
    config: RefineConfig,
    device: torch.device,
    rng: np.random.Generator,
    joint: Joint | None = None,
) -> NDArray[Any]:
    """Counts (n, N, N) that a result predicts, with photon noise, and clipped where the detector saturates.

    Args:
        scan: the scan; bad pixels get counts as others do, which are ignored as those of the scan are.
        result: object, probe, positions and intensities.
        config: of the refinement, for its forward model.
        device: where to compute.
        rng: of the noise.
        joint: if the scan is several.
    """
    settings = dataclasses.replace(config, modes=None, find_defocus=False)
    run = Refinement(scan, result, settings, device, None, 1, joint=joint)
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
