# SPDX-License-Identifier: BSD-3-Clause
"""The state that a refinement begins with: an even object, or another reconstruction's on the canvas of the scan."""

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
from ptychopinn.refinement.ambiguities import with_modes
from ptychopinn.refinement.state import State
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Share of the typical light below which a start's object is not believed.
_LIT = 1e-4


def start_state(
    scan: Scan,
    start: Reconstruction | None,
    geometry: CanvasGeometry,
    positions: NDArray[np.float64],
    modes: int | None,
) -> State:
    """The state to begin with, on the CPU.

    Args:
        scan: gives the probe, where the start has none.
        start: its object is taken where light fell on it; none: an even object of the mean transmission.
        geometry: of the canvas.
        positions: (n, 2), scan coordinates.
        modes: of the probe; none: as many as it has.

    Raises:
        InputError: the start has patterns of another size, or lies elsewhere.
    """
    probe = torch.from_numpy(scan.probe)
    if start is not None and start.probe is not None:
        if start.probe.shape[-1] != scan.patch_size:
            raise InputError(
                f"{scan.name}: expected a start whose probe is {scan.patch_size} pixels wide like the patterns, "
                f"found {start.probe.shape[-1]}"
            )
        probe = torch.from_numpy(start.probe)
    probe = with_modes(probe, modes or len(probe))
    good = slice(None) if scan.bad_pixels is None else ~scan.bad_pixels
    mean = sum(float(scan.counts[part][:, good].sum(dtype=np.float64)) for part in pattern_blocks(scan.counts.shape))
    mean /= scan.n
    level = math.sqrt(mean / float(squared_modulus(probe).sum()))
    image = torch.full(geometry.shape, level, dtype=torch.complex64)
    if start is not None:
        _place(scan, start, geometry, image)
    return State(image, probe.clone(), geometry.to_canvas(positions), torch.zeros(scan.n, dtype=torch.float64))


def _place(scan: Scan, start: Reconstruction, geometry: CanvasGeometry, image: Tensor) -> None:
    """Write the start's object over the even one, where its light is not too weak."""
    lit = start.covered(_LIT)
    source = torch.from_numpy(np.where(lit, start.object, 0))
    first = np.array(start.origin) - geometry.origin
    whole = np.floor(first + 0.5).astype(int)
    rest = first - whole
    if np.abs(rest).max() > 1e-6:
        source = translate_images(source[None], torch.from_numpy(rest)[None])[0]
    low, high = np.maximum(whole, 0), np.minimum(whole + source.shape, image.shape)
    if (high <= low).any():
        raise InputError(
            f"{scan.name}: expected a start that lies on the scan, found its object at {start.origin} (y, x) with "
            f"shape {start.shape}"
        )
    target = image[low[0] : high[0], low[1] : high[1]]
    part = np.s_[low[0] - whole[0] : high[0] - whole[0], low[1] - whole[1] : high[1] - whole[1]]
    target.copy_(torch.where(torch.from_numpy(lit[part]), source[part], target))
