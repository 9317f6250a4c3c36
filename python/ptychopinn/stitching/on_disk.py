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

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.stitching.accumulator import Accumulator
from ptychopinn.stitching.canvases import CanvasesOnDisk
from ptychopinn.stitching.overlaps import overlap_products, overlapping_pairs, scan_order, weighted_patches
from ptychopinn.stitching.phases import agreeing_phases
from ptychopinn.stitching.stores import DiskStore

#: Canvases and weights of groups, batch by batch, in the order that is asked for.
Batches = Callable[[Sequence[int]], Iterator[tuple[Tensor, Tensor]]]

#: Bytes of stitching in memory for a pixel of the groups' canvases: they, their weights, and parts of both.
_IN_MEMORY = 16


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


def bytes_to_stitch(canvas_size: tuple[int, int], count: int) -> int:
    """Memory that predicting so many groups and stitching them at once takes."""
    return _IN_MEMORY * count * math.prod(canvas_size)


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
    order = scan_order(dataset.origins, (height, width))
    bands = (dataset.origins[:, 0] - geometry.origin[0]) // height
    adding = 0.0

    def add(start: int, canvases: Tensor, illumination: Tensor) -> None:
        """Add the canvases of groups from this one of the order on, band by band: a box of all may be large."""
        nonlocal adding
        added = time.perf_counter()
        chosen = order[start : start + len(canvases)]
        for band in np.unique(bands[chosen]):
            low, high = np.searchsorted(bands[chosen], [band, band + 1])
            average.add(canvases[low:high], torch.from_numpy(dataset.origins[chosen[low:high]]), illumination[low:high])
        adding += time.perf_counter() - added

    stored = CanvasesOnDisk(folder, dataset, order if synchronise else order[:0], weight)
    done = 0
    for canvases, illumination in batches(order.tolist()):
        if synchronise:
            stored.write(done, canvases)
        else:
            add(done, canvases.cpu(), illumination.cpu())
        done += len(canvases)
    predicting = time.perf_counter() - began - adding

    if synchronise:
        origins = dataset.origins[order]
        pairs = overlapping_pairs(origins, dataset.canvas_size)
        products = overlap_products(weighted_patches(stored.one, stored.size), origins, stored.size, pairs)
        phases = torch.from_numpy(agreeing_phases(len(order), pairs, products)).to(torch.complex64)
        for start, canvases, illumination in stored.parts():
            add(start, canvases * phases[start : start + len(canvases), None, None], illumination)
    return Streamed(average, predicting, time.perf_counter() - began - predicting)
