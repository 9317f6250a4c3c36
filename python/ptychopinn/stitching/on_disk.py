# SPDX-License-Identifier: BSD-3-Clause
"""Stitching in bounded memory: the canvases of the groups and the image itself lie in scratch files.

The phases that synchronise the groups follow from overlaps of all of them, so canvases cannot be added up as they come:
they are written to a file, their overlaps are taken from there, and a second pass adds them to the image, which goes
from top to bottom. Groups are predicted band by band, so that both passes find neighbours near each other. The links
and their eigenvectors are those of :func:`ptychopinn.stitching.phases.stitch`, and so is the image, to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.physics.overlap import canvas_illumination
from ptychopinn.stitching.accumulator import Accumulator
from ptychopinn.stitching.overlaps import overlap_products, overlapping_pairs, weighted_patches
from ptychopinn.stitching.phases import agreeing_phases
from ptychopinn.stitching.scratch import ScratchArray
from ptychopinn.stitching.stores import DiskStore

#: Canvases, weights and origins of groups, batch by batch, in the order that is asked for.
Batches = Callable[[Sequence[int]], Iterator[tuple[Tensor, Tensor, Tensor]]]

_CHUNK = 64 << 20  # bytes of canvases added to the image at a time
#: Bytes of stitching in memory for a pixel of the groups' canvases: they, their weights, and what is made of them.
_IN_MEMORY = 28


@dataclass(frozen=True)
class Streamed:
    """An average of groups whose sums are on disk, and what it took.

    Args:
        average: gives the image by parts (:meth:`~ptychopinn.stitching.accumulator.Accumulator.mean`).
        predicting, stitching: seconds.
    """

    average: Accumulator
    predicting: float
    stitching: float


def bytes_to_stitch(dataset: GroupDataset) -> int:
    """Memory that predicting all groups and stitching them at once takes."""
    return _IN_MEMORY * len(dataset) * math.prod(dataset.canvas_size)


def stitch_streamed(
    dataset: GroupDataset, batches: Batches, weight: Tensor, folder: Path, *, synchronise: bool = True
) -> Streamed:
    """Predict the groups and average their canvases, in memory that does not grow with their number.

    Args:
        dataset: the groups.
        batches: predicts them.
        weight: real, (N, N), the probe's intensity in counts.
        folder: for scratch files, of 8 bytes for a pixel of the groups' canvases and 16 for one of the image.
        synchronise: as in :func:`~ptychopinn.stitching.phases.stitch`; if not, canvases are added as they come.

    Returns:
        The average on the smallest canvas that holds all groups.

    Raises:
        InputError: the folder's disk has too little space.
    """
    (height, width), began = dataset.canvas_size, time.perf_counter()
    geometry = CanvasGeometry.from_positions(torch.from_numpy(dataset.origins), (height, width))
    average = Accumulator(geometry, DiskStore(folder, geometry.shape, height))
    bands = (dataset.origins[:, 0] - geometry.origin[0]) // height
    order = np.lexsort((dataset.origins[:, 1], bands))
    adding = 0.0

    def add(start: int, canvases: Tensor, illumination: Tensor | None = None) -> None:
        """Add the canvases of groups from this one of the order on, band by band: a box of all may be large."""
        nonlocal adding
        added = time.perf_counter()
        chosen = order[start : start + len(canvases)]
        for band in np.unique(bands[chosen]):
            low, high = np.searchsorted(bands[chosen], [band, band + 1])
            groups = chosen[low:high]
            weights = _illumination(dataset, groups, weight) if illumination is None else illumination[low:high]
            average.add(canvases[low:high], torch.from_numpy(dataset.origins[groups]), weights)
        adding += time.perf_counter() - added

    stored = ScratchArray(folder, (len(dataset) if synchronise else 0, height, width), np.complex64)
    done = 0
    for canvases, illumination, _ in batches(order.tolist()):
        if synchronise:
            stored.write(done, canvases.numpy())
        else:
            add(done, canvases, illumination)
        done += len(canvases)
    predicting = time.perf_counter() - began - adding

    if synchronise:
        phases = _phases(dataset, stored, weight, order)
        step = max(1, _CHUNK // (8 * height * width))
        for start in range(0, len(dataset), step):
            canvases = torch.from_numpy(stored.read(start, min(start + step, len(dataset))))
            add(start, canvases * torch.from_numpy(phases[order[start : start + step]])[:, None, None])
    return Streamed(average, predicting, time.perf_counter() - began - predicting)


def _phases(
    dataset: GroupDataset, stored: ScratchArray, weight: Tensor, order: NDArray[np.int64]
) -> NDArray[np.complexfloating[Any, Any]]:
    """Phase factors of all groups, complex64 (G,), whose canvases are stored in this order."""
    row = np.empty_like(order)
    row[order] = np.arange(len(order))

    def read(group: int) -> tuple[NDArray[np.complexfloating], NDArray[np.floating]]:
        (canvas,) = stored.read(row[group], row[group] + 1)
        return canvas, _illumination(dataset, np.array([group]), weight)[0].numpy()

    canvases = weighted_patches(read, dataset.canvas_size)
    pairs = overlapping_pairs(dataset.origins, dataset.canvas_size)
    pairs = pairs[np.argsort(row[pairs].min(1), kind="stable")]  # as they lie in the file
    products = overlap_products(canvases, dataset.origins, dataset.canvas_size, pairs)
    return agreeing_phases(len(dataset), pairs, products).astype(np.complex64)


def _illumination(dataset: GroupDataset, groups: NDArray[np.int64], weight: Tensor) -> Tensor:
    """Illumination of the canvases of some groups, (g, H, W), as it was when they were predicted."""
    positions = dataset.scan.positions[dataset.groups[groups]] - dataset.origins[groups][:, None]
    return canvas_illumination(weight, torch.from_numpy(positions), dataset.canvas_size)
