# SPDX-License-Identifier: BSD-3-Clause
"""Stitching in bounded memory: the canvases of the groups and the image itself lie in scratch files.

The phases that synchronise the groups follow from overlaps of all of them, so canvases cannot be added up as they come:
they are written to a file, their overlaps are taken from there, and a second pass adds them to the image, which goes
from top to bottom. Groups are predicted band by band, so that both passes find neighbours near each other. The links
and their eigenvectors are those of :func:`ptychopinn.stitching.phases.stitch`, and so is the image, to rounding.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry, extract_patches_adjoint, reassemble_patches
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.errors import InputError
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.stitching.phases import Stitched, agreeing_phases, overlap_products, overlapping_pairs

#: Canvases, weights and origins of groups, batch by batch, in the order that is asked for.
Batches = Callable[[Sequence[int]], Iterator[tuple[Tensor, Tensor, Tensor]]]

_CACHED = 256 << 20  # bytes of weighted canvases kept while overlaps are taken
_CHUNK = 64 << 20  # bytes of canvases added to the image at a time
_ROWS = 64 << 20  # bytes of the image handled at a time
_SEEN = 1e-6  # relative weight at or below which a pixel was not illuminated; reassemble_patches' own
#: Bytes of stitching in memory for a pixel of the groups' canvases: they, their weights, and what is made of them.
_IN_MEMORY = 28


class Rows:
    """An array in a file without a name, read and written by parts of its first axis.

    Args:
        folder: where the file lies; it vanishes with this object or the process.
        shape: of the array, which is zero at first.
        dtype: of the array.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._bytes = math.prod(shape[1:]) * self.dtype.itemsize
        free = shutil.disk_usage(folder).free
        if self._bytes * shape[0] > free:
            raise InputError(
                f"{folder}: expected {self._bytes * shape[0] / 1e9:.1f} GB of free space for a scratch file, found "
                f"{free / 1e9:.1f} GB; free some, or set TMPDIR to another folder"
            )
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._file.truncate(self._bytes * shape[0])

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from `start` to before `stop`, as a new array."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        rest = memoryview(out.reshape(-1).view(np.uint8).data)
        self._file.seek(start * self._bytes)
        while len(rest):
            rest = rest[self._file.readinto(rest) :]
        return out

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """Put rows in their place from `start` on."""
        rest = memoryview(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
        self._file.seek(start * self._bytes)
        while len(rest):
            rest = rest[self._file.write(rest) :]


@dataclass(frozen=True)
class Streamed:
    """An image on disk; its parts are as in :class:`~ptychopinn.stitching.phases.Stitched`.

    Args:
        image, weights, square: (H, W).
        geometry: of the canvas.
        predicting, stitching: seconds.
    """

    image: Rows
    weights: Rows
    square: Rows
    geometry: CanvasGeometry
    predicting: float
    stitching: float

    def part(self, start: int, stop: int) -> Stitched:
        """Some rows of the image, in memory."""
        image, weights, square = (
            torch.from_numpy(rows.read(start, stop)) for rows in (self.image, self.weights, self.square)
        )
        return Stitched(image, weights, self.geometry, square)

    def loaded(self) -> Stitched:
        """The whole image in memory."""
        return self.part(0, len(self.image))


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
        weight: real, (N, N), the probe's intensity.
        folder: for scratch files, of 8 bytes for a pixel of the groups' canvases and 16 for one of the image.
        synchronise: as in :func:`~ptychopinn.stitching.phases.stitch`; if not, canvases are added as they come.

    Raises:
        InputError: the folder's disk has too little space.
    """
    (height, width), began = dataset.canvas_size, time.perf_counter()
    geometry = CanvasGeometry.from_positions(torch.from_numpy(dataset.origins), (height, width))
    places = dataset.origins - np.array(geometry.origin)
    bands = places[:, 0] // height
    order = np.lexsort((places[:, 1], bands))
    sums = _Image(folder, geometry.shape, height)
    adding = 0.0

    def add(start: int, canvases: Tensor, light: Tensor | None = None) -> None:
        """Add the canvases of groups from this one of the order on, whose bands never go back."""
        nonlocal adding
        added = time.perf_counter()
        chosen = order[start : start + len(canvases)]
        for band in np.unique(bands[chosen]):
            while sums.top < band * height:
                sums.next_band()
            low, high = np.searchsorted(bands[chosen], [band, band + 1])
            groups = chosen[low:high]
            fallen = _fallen(dataset, groups, weight) if light is None else light[low:high]
            sums.add(canvases[low:high], places[groups], fallen)
        adding += time.perf_counter() - added

    stored = Rows(folder, (len(dataset) if synchronise else 0, height, width), np.complex64)
    done = 0
    for canvases, light, _ in batches(order.tolist()):
        if synchronise:
            stored.write(done, canvases.numpy())
        else:
            add(done, canvases, light)
        done += len(canvases)
    predicting = time.perf_counter() - began - adding

    if synchronise:
        phases = _phases(dataset, stored, weight, order)
        step = max(1, _CHUNK // (8 * height * width))
        for start in range(0, len(dataset), step):
            canvases = torch.from_numpy(stored.read(start, min(start + step, len(dataset))))
            add(start, canvases * torch.from_numpy(phases[order[start : start + step]])[:, None, None])
    sums.normalise()
    stitching = time.perf_counter() - began - predicting
    return Streamed(sums.image, sums.weights, sums.square, geometry, predicting, stitching)


def _phases(
    dataset: GroupDataset, stored: Rows, weight: Tensor, order: NDArray[np.int64]
) -> NDArray[np.complexfloating[Any, Any]]:
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    weighted = _Weighted(dataset, stored, weight, rank)
    pairs = overlapping_pairs(dataset.origins, dataset.canvas_size)
    pairs = pairs[np.argsort(rank[pairs].min(1), kind="stable")]  # as they lie in the file
    products = overlap_products(weighted.part, dataset.origins, dataset.canvas_size, pairs)
    return agreeing_phases(len(dataset), pairs, products).astype(np.complex64)


def _fallen(dataset: GroupDataset, groups: NDArray[np.int64], weight: Tensor) -> Tensor:
    """The light on the canvases of some groups, (g, H, W), as it was when they were predicted."""
    positions = dataset.scan.positions[dataset.groups[groups]] - dataset.origins[groups][:, None]
    light = weight.expand(*positions.shape[:2], *weight.shape).contiguous()
    return extract_patches_adjoint(light, torch.from_numpy(positions), dataset.canvas_size)


class _Weighted:
    """Canvases times their light, read when needed; the last ones asked for are kept."""

    def __init__(self, dataset: GroupDataset, stored: Rows, weight: Tensor, rank: NDArray[np.int64]) -> None:
        self.dataset, self.stored, self.weight, self.rank = dataset, stored, weight, rank
        self.kept: OrderedDict[int, NDArray[np.complex64]] = OrderedDict()
        self.most = max(2, _CACHED // (8 * math.prod(dataset.canvas_size)))

    def part(self, group: int, part: tuple[slice, slice]) -> NDArray[np.complexfloating]:
        if group in self.kept:
            self.kept.move_to_end(group)
        else:
            place = int(self.rank[group])
            light = _fallen(self.dataset, np.array([group]), self.weight).numpy()
            self.kept[group] = (self.stored.read(place, place + 1) * light)[0]
            if len(self.kept) > self.most:
                self.kept.popitem(last=False)
        return self.kept[group][part]


class _Image:
    """Sums of an image on disk, of which two bands of rows are in memory: no canvas is taller than a band."""

    def __init__(self, folder: Path, shape: tuple[int, int], band: int) -> None:
        self.shape, self.band, self.top = shape, band, 0
        self.image, self.weights, self.square = (Rows(folder, shape, kind) for kind in ("c8", "f4", "f4"))
        self.near = tuple(np.zeros((2 * band, shape[1]), rows.dtype) for rows in self._rows)
        self.largest = 0.0

    @property
    def _rows(self) -> tuple[Rows, Rows, Rows]:
        return self.image, self.weights, self.square

    def add(self, canvases: Tensor, places: NDArray[np.int64], light: Tensor) -> None:
        """Add canvases (g, h, w) with their corners (g, 2) in the upper band."""
        left, right = int(places[:, 1].min()), int(places[:, 1].max()) + canvases.shape[-1]
        window = (2 * self.band, right - left)
        corners = torch.from_numpy((places - [self.top, left]).astype(np.float64))
        image, weights = reassemble_patches(canvases, corners, window, weights=light, normalize=False)
        square, _ = reassemble_patches(squared_modulus(canvases), corners, window, weights=light, normalize=False)
        for near, sums in zip(self.near, (image, weights, square), strict=True):
            near[:, left:right] += sums.numpy()

    def next_band(self) -> None:
        """The upper band is complete."""
        valid = min(self.band, self.shape[0] - self.top)
        self.largest = max(self.largest, float(self.near[1][:valid].max()))
        for rows, near in zip(self._rows, self.near, strict=True):
            rows.write(self.top, near[:valid])
            near[: self.band] = near[self.band :]
            near[self.band :] = 0
        self.top += self.band

    def normalise(self) -> None:
        """Write the last band, and divide by the weights where there are any."""
        while self.top < self.shape[0]:
            self.next_band()
        self.near = ()
        for start, stop in row_bands(self.shape):
            weights = self.weights.read(start, stop)
            seen = weights > np.float32(_SEEN) * np.float32(self.largest)
            divisor = np.where(seen, weights, 1)
            for rows in (self.image, self.square):
                rows.write(start, np.where(seen, rows.read(start, stop) / divisor, 0))


def row_bands(shape: tuple[int, int], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows that are handled at a time, a multiple of so many."""
    rows = max(multiple, _ROWS // (16 * shape[1]) // multiple * multiple)
    return ((start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))
