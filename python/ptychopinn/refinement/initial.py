# SPDX-License-Identifier: BSD-3-Clause
"""Initial state of a refinement: a uniform object, or the object of an earlier reconstruction."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry, translate_images
from ptychopinn.errors import InputError
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import set_mode_count
from ptychopinn.refinement.state import State
from ptychopinn.runtime.memory import available_memory
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Fraction of the typical illumination from which the object of an earlier reconstruction is used.
_COVERED = 1e-4
#: Bytes that a refinement needs at least for a pixel of the canvas: object, gradient, step, illumination.
_BYTES = 32


def initial_state(
    scan: Scan,
    start: Reconstruction | None,
    geometry: CanvasGeometry,
    positions: NDArray[np.float64],
    modes: int | None,
) -> State:
    """Make the initial state of a refinement, on the CPU.

    Args:
        scan: its probe is used where ``start`` has none.
        start: an earlier reconstruction, whose object is used where it is illuminated; None: a uniform object of the
            mean transmission.
        geometry: of the canvas.
        positions: (n, 2), scan coordinates (y, x), pixels.
        modes: number of probe modes; None: as many as the probe has.

    Raises:
        InputError: the probe of ``start`` has another size than the patterns, its object is outside the scan, or the
            canvas exceeds the memory.
    """
    probe = torch.from_numpy(scan.probe)
    if start is not None and start.probe is not None:
        if start.probe.shape[-1] != scan.patch_size:
            raise InputError(
                f"{scan.name}: expected a start whose probe is {scan.patch_size} pixels wide like the patterns, "
                f"found {start.probe.shape[-1]}; --from-scratch begins without it"
            )
        probe = torch.from_numpy(start.probe)
    probe = set_mode_count(probe, modes or len(probe))
    good = slice(None) if scan.bad_pixels is None else ~scan.bad_pixels
    mean = sum(float(scan.counts[part][:, good].sum(dtype=np.float64)) for part in pattern_blocks(scan.counts.shape))
    mean /= scan.n
    level = math.sqrt(mean / float(squared_modulus(probe).sum()))
    _check_memory(scan.name, geometry.shape)
    image = torch.full(geometry.shape, level, dtype=torch.complex64, device="cpu")
    if start is not None:
        _insert_object(scan, start, geometry, image)
    intensities = torch.zeros(scan.n, dtype=torch.float64, device="cpu")
    return State(image, probe.clone(), geometry.to_canvas(positions), intensities)


def _check_memory(name: str, shape: tuple[int, int]) -> None:
    needed, available = _BYTES * shape[0] * shape[1], available_memory()
    if needed > available:
        raise InputError(
            f"{name}: expected a canvas that fits into {available / 2**30:,.0f} GiB of memory, found one of "
            f"{shape[0]} x {shape[1]} px, which needs {needed / 2**30:,.0f} GiB; check the unit of the positions and "
            "the pixel size, or omit outlying patterns (--drop-outliers)"
        )


def _insert_object(scan: Scan, start: Reconstruction, geometry: CanvasGeometry, image: Tensor) -> None:
    """Copy the object of ``start`` to the image (H, W) of the canvas, where it is illuminated."""
    covered = start.covered(_COVERED)
    source = torch.from_numpy(np.where(covered, start.object, 0))
    origin = np.array(start.origin) - geometry.origin
    corner = np.floor(origin + 0.5).astype(int)
    subpixel = origin - corner
    if np.abs(subpixel).max() > 1e-6:
        source = translate_images(source[None], torch.from_numpy(subpixel)[None])[0]
    low, high = np.maximum(corner, 0), np.minimum(corner + source.shape, image.shape)
    if (high <= low).any():
        raise InputError(
            f"{scan.name}: expected a start whose object overlaps the scan, found one at {start.origin} (y, x) "
            f"with shape {start.shape}; --from-scratch begins without it"
        )
    target = image[low[0] : high[0], low[1] : high[1]]
    part = np.s_[low[0] - corner[0] : high[0] - corner[0], low[1] - corner[1] : high[1] - corner[1]]
    target.copy_(torch.where(torch.from_numpy(covered[part]), source[part], target))
