# SPDX-License-Identifier: BSD-3-Clause
"""Groups of a scan as batches of tensors, for training, validation and inference alike.

A batch is gathered when it is asked for, in the file's integer type, and travels so; it becomes float32, with the DC
moved to [0, 0], by :meth:`Gathered.finish` on the device that computes. Each group gets the smallest integer window of
the scan as its canvas; all groups of a data set share one canvas size, so that batches are rectangular and compiled
code sees one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_ext import extract_patches
from ptychopinn.errors import InputError
from ptychopinn.scan import Scan

#: Side of the largest canvas of a group, unless one is given, in sides of a pattern.
_LARGEST_CANVAS = 8


class GroupBatch(NamedTuple):
    """B groups of C patterns.

    Attributes:
        counts: float32, (B, C, N, N), FFT order (DC at [0, 0]); bad pixels hold an estimate, not what was measured.
        positions: float64, (B, C, 2), (y, x) on the group's canvas.
        origins: int64, (B, 2), scan coordinate of each canvas's [0, 0].
        canvas_size: (H, W).
        members: int64, (B, C), which patterns these are, counted over all scans.
        truth: complex64, (B, H, W), true canvases where they were asked for, zero outside the known object.
        whole: groups of the whole batch, where this is one process's shard of it.
        stands_in: the shard is empty, and these groups do not count (see :mod:`ptychopinn.batches.distributed`).
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    canvas_size: tuple[int, int]
    members: Tensor
    truth: Tensor | None = None
    whole: int | None = None
    stands_in: bool = False


class Gathered(NamedTuple):
    """B groups of C patterns as they lie in the scan; see :class:`GroupBatch`.

    Attributes:
        counts: (B, C, N, N), the scan's type and order.
        fill: float32, (B, C, K), what to put in the place of the bad pixels.
        bad: int64, (K,), the bad pixels in FFT order, flattened.
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    canvas_size: tuple[int, int]
    members: Tensor
    truth: Tensor | None = None
    fill: Tensor | None = None
    bad: Tensor | None = None
    whole: int | None = None
    stands_in: bool = False

    def finish(self) -> GroupBatch:
        """The batch in float32 and FFT order, on the device that this one is on."""
        counts = torch.empty(self.counts.shape, dtype=torch.float32, device=self.counts.device)
        # Cast and shift in one pass: the quadrants change places.
        halves = [(slice(0, side // 2), slice(side // 2, side)) for side in counts.shape[-2:]]
        for rows, from_rows in (halves[0], halves[0][::-1]):
            for columns, from_columns in (halves[1], halves[1][::-1]):
                counts[..., rows, columns] = self.counts[..., from_rows, from_columns]
        if self.fill is not None and self.bad is not None:
            counts.flatten(-2).index_copy_(-1, self.bad, self.fill)
        return GroupBatch(counts, *self[1:6], self.whole, self.stands_in)


class GroupDataset(Dataset[int]):
    """The groups of one scan; items are indices of groups, :meth:`gather` turns some of them into a batch.

    Args:
        scan: the scan.
        groups: int64, (G, C), pattern indices.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
        margin: pixels around the patches of a group on its canvas, for positions that move.
        truth_scale: cut the true canvases out of the scan's truth, too, times this; none: do not.
        first: number of the scan's first pattern among those of several scans.
        largest: side of a canvas at most, pixels; none: 8 N.

    Raises:
        InputError: the truth is asked for and the scan has none, or a group does not fit the largest canvas.
    """

    def __init__(
        self,
        scan: Scan,
        groups: NDArray[np.int64],
        canvas_multiple: int = 1,
        *,
        margin: int = 0,
        truth_scale: float | None = None,
        first: int = 0,
        largest: int | None = None,
    ) -> None:
        if truth_scale is not None and scan.truth is None:
            raise InputError(f"{scan.name}: supervised training needs a truth (key 'objectGuess'), and it has none")
        self.scan = scan
        self.groups = groups
        self.truth_scale = truth_scale
        self.first = first
        positions = scan.positions[groups]
        self.origins = np.floor(positions.min(1)).astype(np.int64) - margin
        extent = np.ceil((positions - self.origins[:, None]).max((0, 1))).astype(int) + scan.patch_size + margin
        _check_extent(scan, groups, positions, largest or _LARGEST_CANVAS * scan.patch_size)
        height, width = (int(-(-side // canvas_multiple) * canvas_multiple) for side in extent)
        self.canvas_size = (height, width)
        self._good = good_pixels(scan)
        # Counts behind an object of transmission 1.
        self._empty = (np.abs(np.fft.fft2(scan.probe, norm="ortho")) ** 2).sum(0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self.groups):
            raise IndexError(index)
        return index

    def gather(self, indices: Sequence[int]) -> Gathered:
        """The groups ``indices``, to be finished where they are used."""
        chosen = np.asarray(indices)
        members = self.groups[chosen]
        counts = np.ascontiguousarray(self.scan.counts[members])
        fill = bad = None
        if self._good is not None:
            # A generator knows no mask and must not see what a dead or hot pixel says, nor a hole: the probe's own
            # pattern, as bright as the rest of this one, stands in. The loss ignores these pixels.
            good = self._good.numpy()
            shifted = np.fft.ifftshift(counts, axes=(-2, -1)).astype(np.float32, copy=False)
            brightness = shifted[..., good].sum(-1, keepdims=True) / max(self._empty[good].sum(), 1e-30)
            fill = torch.from_numpy(brightness * self._empty[~good])
            bad = torch.from_numpy(np.flatnonzero(~good))
        positions = self.scan.positions[members] - self.origins[chosen][:, None]
        return Gathered(
            torch.from_numpy(counts),
            torch.from_numpy(positions),
            torch.from_numpy(self.origins[chosen]),
            self.canvas_size,
            torch.from_numpy(members + self.first),
            None if self.truth_scale is None else self.truth_scale * self._true_canvases(self.origins[chosen]),
            fill,
            bad,
        )

    def collate(self, indices: Sequence[int]) -> GroupBatch:
        """The groups ``indices`` as one finished batch."""
        return self.gather(indices).finish()

    def _true_canvases(self, origins: NDArray[np.int64]) -> Tensor:
        assert self.scan.truth is not None
        truth = torch.from_numpy(self.scan.truth).expand(len(origins), -1, -1).contiguous()
        return extract_patches(truth, torch.from_numpy(origins[:, None].astype(np.float64)), self.canvas_size)[:, 0]


def _check_extent(scan: Scan, groups: NDArray[np.int64], positions: NDArray[np.float64], largest: int) -> None:
    sides = np.ceil(np.ptp(positions, axis=1).max(1)).astype(int) + scan.patch_size
    wide = sides > largest
    if wide.any():
        worst = int(np.argmax(sides))
        raise InputError(
            f"{scan.name}: {int(wide.sum())} groups do not fit a canvas of {largest} px; that of pattern "
            f"{int(groups[worst, 0])} needs {int(sides[worst])} px: lower data.group_size, set data.max_distance, or "
            "raise data.largest_canvas"
        )


class JoinedGroups(Dataset[int]):
    """The groups of several data sets as one, on canvases of the largest's size.

    Args:
        parts: data sets with groups of one size and patterns of one size.
        order: of all their groups, counted through the parts; none: one part after the other.
    """

    def __init__(self, parts: Sequence[GroupDataset], order: NDArray[np.integer] | None = None) -> None:
        self.parts = parts
        self.order = np.arange(sum(len(part) for part in parts)) if order is None else order
        self.ends = np.cumsum([len(part) for part in parts])
        height, width = np.max([part.canvas_size for part in parts], axis=0)
        for part in parts:
            part.canvas_size = (int(height), int(width))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index

    def gather(self, indices: Sequence[int]) -> Gathered:
        """The groups ``indices``, those of one part beside each other, to be finished where they are used."""
        chosen = self.order[np.asarray(indices)]
        owner = np.searchsorted(self.ends, chosen, side="right")
        batches = [
            part.gather((chosen[owner == k] - (self.ends[k] - len(part))).tolist())
            for k, part in enumerate(self.parts)
            if (owner == k).any()
        ]
        first = batches[0]
        if len(batches) == 1:
            return first
        counts = [batch.counts for batch in batches]
        if len({part.dtype for part in counts}) > 1:
            counts = [part.to(torch.float32) for part in counts]
        return Gathered(
            torch.cat(counts),
            torch.cat([batch.positions for batch in batches]),
            torch.cat([batch.origins for batch in batches]),
            canvas_size=first.canvas_size,
            members=torch.cat([batch.members for batch in batches]),
            truth=None if first.truth is None else torch.cat([b.truth for b in batches if b.truth is not None]),
            fill=None if first.fill is None else torch.cat([b.fill for b in batches if b.fill is not None]),
            bad=first.bad,  # scans that are trained on together have one mask
        )

    def collate(self, indices: Sequence[int]) -> GroupBatch:
        """The groups ``indices`` as one finished batch."""
        return self.gather(indices).finish()


def gathering(dataset: GroupDataset | JoinedGroups) -> Callable[[Sequence[int]], Gathered | InputError]:
    """What a loader collates batches with; :func:`finished` is what becomes of them on the device.

    An InputError about patterns that are read in a worker is handed over, not raised: the loader would make the
    worker's traceback the sentence.
    """
    return partial(_gather_or_refuse, dataset)


def finished(batch: Gathered | InputError, device: str | torch.device | None = None) -> GroupBatch:
    """The batch, finished on a device (none: where it is); raises what was wrong with it."""
    if isinstance(batch, InputError):
        raise batch
    if device is not None:
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in batch._asdict().items() if isinstance(value, Tensor)
        }
        batch = batch._replace(**moved)
    return batch.finish()


def _gather_or_refuse(dataset: GroupDataset | JoinedGroups, indices: Sequence[int]) -> Gathered | InputError:
    try:
        return dataset.gather(indices)
    except InputError as error:
        return error


def good_pixels(scan: Scan) -> Tensor | None:
    """Mask (N, N) of the pixels to use, in FFT order like the batches; None if all are good."""
    if scan.bad_pixels is None or not scan.bad_pixels.any():
        return None
    return torch.from_numpy(np.fft.ifftshift(~scan.bad_pixels).copy())
