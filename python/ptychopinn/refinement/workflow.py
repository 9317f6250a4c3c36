# SPDX-License-Identifier: BSD-3-Clause
"""A refinement from beginning to end, and its resolution from two halves of the patterns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import accepted_keys, require_sound
from ptychopinn.metrics.split_half import split_half_frc
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.coarse import coarse_start
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.run import Progress, Refinement
from ptychopinn.refinement.uncertainty import multiply_slices, with_uncertainty
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.runtime.processes import distributed
from ptychopinn.scan import Scan

__all__ = ["Progress", "refine", "split_half"]

_log = logging.getLogger(__name__)


def refine(
    scan: Scan,
    start: Reconstruction | None = None,
    config: RefineConfig | None = None,
    device: str | torch.device = "auto",
    *,
    progress: Callable[[Progress], None] | None = None,
    every: int = 10,
    resume: str | Path | None = None,
    accept: str | Collection[str] = (),
    remake: Callable[[Scan], Reconstruction] | None = None,
) -> Reconstruction:
    """Refine object, probe, positions and intensities of a scan by maximum likelihood.

    Args:
        scan: the scan; its truth is not used.
        start: an earlier reconstruction, whose object, probe and positions are the initial ones; None: a uniform object
            and the scan's probe.
        config: the configuration; None: defaults.
        device: where to compute; "auto": on a GPU if torch and the operators can.
        progress: called after every ``every`` passes, and at the end.
        every: number of passes between two calls of ``progress``.
        resume: a checkpoint that :attr:`Progress.save` wrote. On the CPU, the result is that of an uninterrupted run,
            bit for bit.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.
        remake: makes of other counts of the scan what ``start`` was made of its own, so that an uncertainty by
            "bootstrap" has the errors of the start, too; None: all of its refinements have the same start.

    Returns:
        The reconstruction: object, probe modes, positions, the deviance of every pattern per detector pixel
        (``residuals``) and its map (``error_map``).

    Raises:
        InputError: the scan has a problem that is not accepted, ``start`` does not fit the scan, ``resume`` is of
            another scan, configuration or version, or the device cannot be used.
    """
    device = resolve_device(device)
    with process_settings():
        config = config or RefineConfig()
        fitted = {"dose_spread"} if config.learn_intensities else set()
        require_sound(scan, accepted_keys(accept) | fitted)
        return _refine(scan, start, config, device, progress, every, resume, remake)


def _refine(
    scan: Scan,
    start: Reconstruction | None,
    config: RefineConfig,
    device: torch.device,
    progress: Callable[[Progress], None] | None,
    every: int,
    resume: str | Path | None,
    remake: Callable[[Scan], Reconstruction] | None,
) -> Reconstruction:
    if config.coarse > 1 and start is None:
        start = coarse_start(scan, config, device)
        remake = partial(coarse_start, config=config, device=device)
    result, interrupted = run_passes(scan, start, config, device, progress, every, resume)
    if config.split_half and not interrupted:
        result, interrupted = with_resolution(scan, result, config, device)
    if config.uncertainty != "none" and not interrupted:
        result = unless_interrupted(result, lambda: with_uncertainty(scan, start, result, config, device, remake))
    return result


def unless_interrupted(result: Reconstruction, with_maps: Callable[[], Reconstruction]) -> Reconstruction:
    """A result with its uncertainty, or as it is if the user interrupts the refinement of replicas."""
    try:
        return with_maps()
    except KeyboardInterrupt:
        if distributed():
            raise
        _log.warning("interrupted during the refinement of replicas: no uncertainty")
        return result


def run_passes(
    scan: Scan,
    start: Reconstruction | None,
    config: RefineConfig,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
    every: int = 10,
    resume: str | Path | None = None,
    joint: Joint | None = None,
) -> tuple[Reconstruction, bool]:
    """Do all passes of a refinement of a scan, which is sound.

    Args:
        scan: see :func:`refine`, as the following.
        start: initial reconstruction.
        config: of the refinement.
        device: of the computation.
        progress: called every few passes.
        every: passes between two calls.
        resume: a checkpoint.
        joint: if the scan is several.

    Returns:
        The reconstruction, and whether the user interrupted it.
    """
    run = Refinement(scan, start, config, device, progress, every, joint=joint)
    if resume is not None:
        run.load(Path(resume))
    try:
        with torch.no_grad():
            run.iterate()
    except KeyboardInterrupt:
        if run.passes == 0 or distributed():
            raise
        _log.warning("interrupted after %d passes: the current state is the result", run.passes)
        run.interrupted = True
        run.report(last=True)
    return run.result(), run.interrupted


def with_resolution(
    scan: Scan, result: Reconstruction, config: RefineConfig, device: torch.device, joint: Joint | None = None
) -> tuple[Reconstruction, bool]:
    """A result with its split-half resolution, and whether the user interrupted that."""
    assert result.refinement is not None
    try:
        _log.info("two halves of the patterns are refined independently, for the resolution (refine.split_half)")
        agreement = split_half(scan, result, config, device, joint)
    except KeyboardInterrupt:
        if distributed():
            raise
        _log.warning("interrupted during the split-half refinement: no resolution")
        return result, True
    return dataclasses.replace(result, refinement=dataclasses.replace(result.refinement, split_half=agreement)), False


def split_half(
    scan: Scan,
    result: Reconstruction,
    config: RefineConfig,
    device: str | torch.device = "auto",
    joint: Joint | None = None,
) -> dict[str, Any] | None:
    """Estimate the resolution from two independent refinements of random halves of the patterns.

    Both start from a uniform object, and with the probe and positions of ``result``, which all patterns determined, and
    distances between slices where these are refined; positions are not refined further.

    Args:
        scan: the scan.
        result: its refinement.
        config: the configuration of the refinement.
        device: where to compute.
        joint: if the scan is several.

    Returns:
        Fourier ring correlation, see :func:`ptychopinn.metrics.split_half.split_half_frc`; None where the halves have
        too few pixels in common.
    """
    assert result.refinement is not None
    device = resolve_device(device)
    order = np.random.default_rng([config.seed, 1]).permutation(scan.n)
    half_config = dataclasses.replace(
        config, split_half=False, learn_positions=False, find_defocus=False, find_slice_distances=False, modes=None,
        minutes=None, coarse=1, iterations=max(1, result.refinement.passes),
    )  # fmt: skip
    assert result.probe is not None and result.positions is not None
    known = dataclasses.replace(scan, probe=result.probe, positions=result.positions)
    if config.learn_slice_distances:
        distances = result.experiment.slice_distances
        known = dataclasses.replace(known, experiment=dataclasses.replace(scan.experiment, slice_distances=distances))
    try:
        with process_settings():
            results = [
                all_passes(
                    known.subset(np.sort(part)),
                    None,
                    half_config,
                    device,
                    f"half {number} of 2",
                    joint and joint.subset(np.sort(part)),
                )
                for number, part in enumerate(np.array_split(order, 2), 1)
            ]
        figures = split_half_frc(*results)
    except InputError as error:
        _log.warning("no split-half resolution: %s", error)
        return None
    return figures


def all_passes(
    scan: Scan,
    start: Reconstruction | None,
    config: RefineConfig,
    device: torch.device,
    label: str,
    joint: Joint | None = None,
    factors: NDArray[np.complex128] | None = None,
) -> Reconstruction:
    """A refinement that is a part of another one; its memory is free again afterwards, and an interrupt ends both.

    Arguments as for :func:`run_passes`, and:

    Args:
        scan: the scan.
        start: initial reconstruction.
        config: of the refinement.
        device: of the computation.
        label: of its progress.
        joint: if the scan is several.
        factors: (S, H, W) of the slices that it begins with, or None.
    """
    run = Refinement(scan, start, config, device, None, 1, label, joint)
    multiply_slices(run, factors)
    with torch.no_grad():
        run.iterate()
    return run.result()
