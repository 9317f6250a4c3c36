# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of a refined object: replicas of the whole refinement, see :mod:`ptychopinn.metrics.deviations`.

A replica has the positions, probe, start and options of the refinement itself, so that its errors have the same causes.
Fisher information and an ensemble of perturbed solutions know the noise only, at the price of as many passes. Counts
hardly determine in which slice of a thick sample its slow parts are: these stay where the start has them, and so every
replica begins with others.
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
from scipy import ndimage

from ptychopinn.config import RefineConfig
from ptychopinn.metrics.deviations import Image, Loss, make_replicas, with_deviations
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.run import Refinement
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

_log = logging.getLogger(__name__)

_BLOCK = 32  # patterns that are predicted at once
#: Standard deviation, pixels, of the Gaussian that makes the slow part of an object, and its least modulus there.
_SLOW, _LEAST = 2.0, 0.1


def with_uncertainty(
    scan: Scan,
    start: Reconstruction | None,
    result: Reconstruction,
    config: RefineConfig,
    device: torch.device,
    remake: Callable[[Scan], Reconstruction] | None = None,
) -> Reconstruction:
    """A result with the standard deviations of its object, of its amplitude and of its phase.

    Args:
        scan: the scan.
        start: what the refinement began with, or None.
        result: of the refinement.
        config: of the refinement, with the number of ``replicas``; each takes two refinements.
        device: where to compute.
        remake: makes the start of a replica, of its counts; None: all have the same one.

    Returns:
        The result with ``uncertainty``, ``amplitude_uncertainty`` and ``phase_uncertainty``; all else is unchanged.
    """

    def refined(
        counts: NDArray[Any], settings: RefineConfig, label: str, factors: NDArray[np.complex128] | None
    ) -> Reconstruction:
        replica = dataclasses.replace(scan, counts=counts)
        begun = start if remake is None else remake(replica)
        run = Refinement(replica, begun, settings, device, None, 1, label)
        multiply_slices(run, factors)
        with torch.no_grad():
            run.iterate()
        return run.result()

    return with_replicas(scan, result, config, device, refined, scratch=start is None or remake is not None)


def with_replicas(
    scan: Scan,
    result: Reconstruction,
    config: RefineConfig,
    device: torch.device,
    refined: Callable[[NDArray[Any], RefineConfig, str, NDArray[np.complex128] | None], Reconstruction],
    joint: Joint | None = None,
    parts: Sequence[tuple[slice, slice]] = (np.s_[:, :],),
    scratch: bool = True,
) -> Reconstruction:
    """:func:`with_uncertainty` of any refinement.

    Args:
        scan: the scan, with the experiment that the result has.
        result: of the refinement.
        config: of the refinement.
        device: where to compute.
        refined: the refinement of simulated counts (n, N, N), by a configuration, with a label for its progress, and
            factors (S, H, W) or None of the slices that it begins with.
        joint: if the scan is several.
        parts: of the canvas of the result, which have ambiguities of their own.
        scratch: whether the result began with nothing.
    """
    assert result.refinement is not None and result.error_map is not None
    settings = dataclasses.replace(config, uncertainty="none", split_half=False, minutes=None)
    if config.minutes is not None:
        settings = dataclasses.replace(settings, iterations=result.refinement.passes)
    rng = np.random.default_rng([config.seed, 3])
    total = 2 * config.replicas
    labels = iter(f"replica {number} of {total}" for number in range(1, total + 1))

    def reconstructed(known: Image) -> tuple[Image, Loss]:
        thin = result.slices is None
        objects = {"object": known} if thin else {"object": known.prod(0), "slices": known}
        counts = simulated_counts(scan, dataclasses.replace(result, **objects), settings, device, rng, joint)
        factors = None if thin or not scratch else exchanged(result, rng)
        replica = refined(counts, settings, next(labels), factors)
        # Probes may be centred differently, by whole pixels.
        moved = np.round(np.array(replica.origin) - result.origin).astype(int)
        assert replica.error_map is not None
        found = replica.object if replica.slices is None else replica.slices
        image, fit = (_placed(part, moved, result.shape) for part in (found, replica.error_map))
        return image.astype(np.complex128), fit

    _log.info("%d replicas of the scan are refined, for the uncertainty (refine.uncertainty)", total)
    replicas = make_replicas(result, config.replicas, reconstructed, parts=parts)
    return with_deviations(result, replicas, result.error_map)


def exchanged(result: Reconstruction, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Random slow factors (S, H, W) of the slices, whose product is 1: what may as well be in another slice.

    They are like what independent slices have of the slow part of their product: its logarithm over sqrt(S), from
    elsewhere on the canvas, minus the mean over slices.

    Args:
        result: of a thick sample.
        rng: of the shifts.
    """
    assert result.slices is not None
    measured = result.covered()
    weight = np.where(measured, result.weights, 0).astype(np.float64)
    image = result.object.astype(np.complex128)
    image = np.where(measured, image / (np.sum(weight * image) / np.sum(weight)), 1)
    slow = ndimage.gaussian_filter(image.real, _SLOW) + 1j * ndimage.gaussian_filter(image.imag, _SLOW)
    logarithm = np.log(np.maximum(np.abs(slow), _LEAST)) + 1j * np.angle(slow)
    moves = [rng.integers(0, result.shape, 2) for _ in result.slices]
    moved = np.stack([np.roll(logarithm, (int(y), int(x)), (0, 1)) for y, x in moves]) / math.sqrt(len(moves))
    return np.asarray(np.exp(moved - moved.mean(0)))


def multiply_slices(run: Refinement, factors: NDArray[np.complex128] | None) -> None:
    """Multiply the slices that a refinement begins with by factors (S, H, W), unless these are None."""
    if factors is not None:
        run.state.object = run.state.object * torch.from_numpy(factors).to(run.state.object)


def _placed(image: NDArray[Any], moved: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[Any]:
    """An image (..., h, w) on a canvas (H, W), whose first pixel is ``moved`` (2,) pixels before its own."""
    margins = [(0, max(0, n - side)) for n, side in zip(shape, image.shape[-2:], strict=True)]
    larger = np.pad(image, [(0, 0)] * (image.ndim - 2) + margins)
    return np.roll(larger, (int(moved[0]), int(moved[1])), (-2, -1))[..., : shape[0], : shape[1]]


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
