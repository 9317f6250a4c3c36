# SPDX-License-Identifier: BSD-3-Clause
"""A first refinement at low resolution: of the middle of the detector, with larger pixels of the object.

The middle N/c x N/c pixels of a far field are those of a detector with a field of view of the same size in real space
and c times as large pixels. Errors of positions are smaller there, in pixels, and a pass takes 1/c^2 of the time.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.run import Refinement
from ptychopinn.scan import Scan
from ptychopinn.storage.frames import fit_frames, fit_mask, fit_probe

#: Pixels along one side of the smallest pattern.
_SMALLEST = 16

_log = logging.getLogger(__name__)


def coarse_scan(scan: Scan, factor: int) -> Scan:
    """The scan with the middle N/factor pixels of its detector, and as many times as large pixels of the object.

    Raises:
        InputError: the experiment is not plain, or patterns would be smaller than 16 px.
    """
    size = scan.patch_size // factor
    if not scan.experiment.plain:
        raise InputError(
            f"{scan.name}: expected a plain experiment for refine.coarse, found {scan.experiment.effects()[0]}; "
            "--refine.coarse 1 begins with all pixels"
        )
    if size < _SMALLEST or size % 2:
        raise InputError(
            f"{scan.name}: expected patterns whose size divided by refine.coarse is an even number of {_SMALLEST} or "
            f"more, found {scan.patch_size} / {factor}; --refine.coarse 1 begins with all pixels"
        )
    bad = None if scan.bad_pixels is None else fit_mask(scan.bad_pixels, scan.bad_pixels.shape, size)
    return dataclasses.replace(
        scan,
        counts=np.ascontiguousarray(fit_frames(scan.counts[:], size)),
        positions=scan.positions / factor,
        probe=fit_probe(scan.probe, size),
        truth=None,
        bad_pixels=bad,
        pixel_size=None if scan.pixel_size is None else scan.pixel_size * factor,
    )


def coarse_start(scan: Scan, config: RefineConfig, device: torch.device, joint: Joint | None = None) -> Reconstruction:
    """Refine a scan at low resolution; the result at the pixels of the scan is a start for all of the detector.

    Args:
        scan: the scan.
        config: that of the whole refinement; its `coarse` is the factor.
        device: where to compute.
        joint: if the scan is several.

    Raises:
        InputError: see :func:`coarse_scan`; or the sample has several slices.
    """
    if config.slices > 1:
        raise InputError(
            f"{scan.name}: expected one slice for refine.coarse, found refine.slices {config.slices}; "
            "--refine.coarse 1 begins with all pixels"
        )
    small = coarse_scan(scan, config.coarse)
    search = -(-config.search // config.coarse)
    support = None if config.probe_support is None else config.probe_support / config.coarse
    settings = dataclasses.replace(config, search=search, probe_support=support)
    run = Refinement(small, None, settings, device, None, 1, f"refine 1/{config.coarse}", joint)
    with torch.no_grad():
        run.iterate()
    return finer(run.result(), scan, config.coarse)


def finer(result: Reconstruction, scan: Scan, factor: int) -> Reconstruction:
    """A result of :func:`coarse_scan` at the pixels of the scan."""
    assert result.probe is not None and result.positions is not None
    probe = fit_probe(result.probe, scan.patch_size)
    if len(probe) == len(scan.probe):
        # Beyond the middle of the detector the far field is as known before.
        small = scan.patch_size // factor
        probe = probe + (scan.probe - fit_probe(fit_probe(scan.probe, small), scan.patch_size))
    return Reconstruction(
        object=resampled(result.object, factor),
        weights=np.repeat(np.repeat(result.weights, factor, 0), factor, 1) / factor**2,
        origin=(result.origin[0] * factor, result.origin[1] * factor),
        probe=probe,
        positions=result.positions * factor,
    )


def resampled(image: NDArray[np.complex64], factor: int) -> NDArray[np.complex64]:
    """An image (H, W) at ``factor`` times as many points along y and x, by padding its spectrum with zeros.

    Sample ``factor * i`` of the result is sample i of the image. The image is mirrored at its borders, where its
    periodic continuation would have edges.
    """
    height, width = image.shape
    mirrored = np.pad(image, ((0, height), (0, width)), mode="symmetric").astype(np.complex128)
    for axis in (0, 1):
        length = mirrored.shape[axis]
        spectrum = np.fft.fft(mirrored, axis=axis)
        low, high = np.split(spectrum, [(length + 1) // 2], axis=axis)
        gap = [(0, 0), (0, 0)]
        gap[axis] = (0, (factor - 1) * length)
        mirrored = np.fft.ifft(np.concatenate([np.pad(low, gap), high], axis), axis=axis) * factor
    return mirrored[: factor * height, : factor * width].astype(np.complex64)
