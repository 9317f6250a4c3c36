# SPDX-License-Identifier: BSD-3-Clause
"""Data sets of the groups of a scan, for training, validation and inference.

A batch is read when it is needed and transferred to the device in the file's integer type; there
:meth:`Gathered.finish` converts it to float32 in FFT order. The canvas of a group begins at an integer pixel of the
scan. All canvases of a data set have one size, so that batches are rectangular and compiled code has one shape.
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

#: Default of the largest side of a group's canvas, in units of the side of a pattern.
_LARGEST_CANVAS = 8


class GroupBatch(NamedTuple):
    """B groups of C patterns.

    Attributes:
        counts: float32, (B, C, N, N), FFT order (zero frequency at [0, 0]); bad pixels hold an estimate.
        positions: float64, (B, C, 2), (y, x) on the group's canvas, in pixels.
        origins: int64, (B, 2), scan coordinate of each canvas's [0, 0].
        canvas_size: (H, W).
        members: int64, (B, C), indices of the patterns over all scans.
        truth: complex64, (B, H, W), true canvases for supervised training, zero outside the known object.
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    canvas_size: tuple[int, int]
    members: Tensor
    truth: Tensor | None = None


class Gathered(NamedTuple):
    """B groups of C patterns in the scan's type and order of pixels; see :class:`GroupBatch`.

    Attributes:
        counts: (B, C, N, N), the scan's type and order.
        fill: float32, (B, C, K), values for the bad pixels.
        bad: int64, (K,), flat indices of the bad pixels in FFT order.
    """

    counts: Tensor
    positions: Tensor
    origins: Tensor
    canvas_size: tuple[int, int]
    members: Tensor
    truth: Tensor | None = None
    fill: Tensor | None = None
    bad: Tensor | None = None

    def in_order(self, rows: NDArray[np.int64]) -> Gathered:
        """The groups `rows`, (B,), of this batch, which is on the CPU."""
        reordered: dict[str, Any] = {
            name: torch.from_numpy(value.numpy()[rows])  # torch cannot index every integer type
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and name != "bad" and len(value)
        }
        return self._replace(**reordered)

    def finish(self) -> GroupBatch:
        """Convert the batch to float32 and FFT order, on its device."""
        counts = torch.empty(self.counts.shape, dtype=torch.float32, device=self.counts.device)
        # Cast and shift in one pass, quadrant by quadrant.
        y_parts, x_parts = ((slice(0, side // 2), slice(side // 2, side)) for side in counts.shape[-2:])
        for rows, from_rows in (y_parts, y_parts[::-1]):
            for columns, from_columns in (x_parts, x_parts[::-1]):
                counts[..., rows, columns] = self.counts[..., from_rows, from_columns]
        if self.fill is not None and self.bad is not None:
            counts.flatten(-2).index_copy_(-1, self.bad, self.fill)
        return GroupBatch(counts, *self[1:6])


class GroupDataset(Dataset[int]):
    """Data set of the groups of one scan. Its items are indices; :meth:`gather` makes a batch of several.

    Args:
        scan: the scan.
        groups: int64, (G, C), pattern indices.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
        margin: pixels around the patches of a group on its canvas, for learned positions.
        truth_scale: factor of the true canvases, which are extracted from the scan's truth; None: no true canvases.
        first: index of the scan's first pattern among those of all scans.
        largest: largest side of a canvas, pixels; None: 8 N.

    Raises:
        InputError: a truth is required and the scan has none, or a group does not fit the largest canvas.
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
        _check_extent(scan, groups, positions, largest or _LARGEST_CANVAS * scan.patch_size)
        self.origins, extent = _origins_and_extent(positions, scan.patch_size, margin)
        self.canvas_size = round_up(extent, canvas_multiple)
        self._good = good_pixels(scan)
        # Expected counts behind an object of transmission 1.
        self._empty = (np.abs(np.fft.fft2(scan.probe, norm="ortho")) ** 2).sum(0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self.groups):
            raise IndexError(index)
        return index

    def gather(self, indices: Sequence[int], *, read: bool = True) -> Gathered:
        """Read the groups ``indices``, in the scan's type; :meth:`Gathered.finish` converts them.

        Args:
            indices: of the groups.
            read: False: without the counts, (0,), for patterns that are on the device already.
        """
        chosen = np.asarray(indices)
        members = self.groups[chosen]
        counts = np.ascontiguousarray(self.scan.counts[members]) if read else np.zeros(0, np.float32)
        fill = bad = None
        if read and self._good is not None:
            # Generators have no mask. Bad pixels are filled with the pattern of the probe behind an object of
            # transmission 1, scaled to the counts of the good pixels. The loss ignores them.
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
        """Read the groups ``indices`` as one batch in float32 and FFT order."""
        return self.gather(indices).finish()

    def _true_canvases(self, origins: NDArray[np.int64]) -> Tensor:
        assert self.scan.truth is not None
        truth = torch.from_numpy(self.scan.truth).expand(len(origins), -1, -1).contiguous()
        return extract_patches(truth, torch.from_numpy(origins[:, None].astype(np.float64)), self.canvas_size)[:, 0]


def _origins_and_extent(
    positions: NDArray[np.float64], size: int, margin: int
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Origins (G, 2) of the canvases of groups at positions (G, C, 2), and the smallest size that all fit."""
    origins = np.floor(positions.min(1)).astype(np.int64) - margin
    height, width = np.ceil((positions - origins[:, None]).max((0, 1))).astype(int) + size + margin
    return origins, (int(height), int(width))


def largest_extent(
    scan: Scan, groups: NDArray[np.int64], margin: int, pools: NDArray[np.int64] | None = None
) -> tuple[int, int]:
    """The smallest canvas (H, W) that all groups (G, C) of a scan fit, or neighbourhoods of rows (T, K) of groups."""
    positions = scan.positions[groups]
    if pools is not None:
        ends = np.stack([positions.min(1), positions.max(1)], axis=1)[pools]  # (T, K, 2, 2)
        positions = ends.reshape(len(ends), -1, 2)
    return _origins_and_extent(positions, scan.patch_size, margin)[1]


def round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The smallest multiples that are not below the sides of a canvas."""
    return (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)


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
    """Data set of the groups of several data sets, on canvases of one size, the largest of them.

    Args:
        parts: data sets with groups of one size and patterns of one size.
        order: order of all groups, as indices over the concatenated parts; None: the parts in succession.
    """

    def __init__(self, parts: Sequence[GroupDataset], order: NDArray[np.integer] | None = None) -> None:
        self.parts = parts
        self.order = np.arange(sum(len(part) for part in parts)) if order is None else order
        self.ends = np.cumsum([len(part) for part in parts])
        self.enlarge((0, 0))

    def enlarge(self, size: tuple[int, int]) -> None:
        """Make all canvases as large as the largest of them, and at least of this size."""
        height, width = np.max([size, *(part.canvas_size for part in self.parts)], axis=0)
        for part in self.parts:
            part.canvas_size = (int(height), int(width))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index

    def gather(self, indices: Sequence[int], *, read: bool = True) -> Gathered:
        """Read the groups ``indices`` in this order; arguments as for :meth:`GroupDataset.gather`."""
        chosen = self.order[np.asarray(indices)]
        owner = np.searchsorted(self.ends, chosen, side="right")
        batches = [
            part.gather((chosen[owner == k] - (self.ends[k] - len(part))).tolist(), read=read)
            for k, part in enumerate(self.parts)
            if (owner == k).any()
        ]
        first = batches[0]
        if len(batches) == 1:
            return first
        return self._joined(batches).in_order(np.argsort(np.argsort(owner, kind="stable")))

    def _joined(self, batches: list[Gathered]) -> Gathered:
        """Several batches of groups in succession."""
        first = batches[0]
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
            bad=first.bad,  # check_alike: the scans have one mask
        )

    def collate(self, indices: Sequence[int]) -> GroupBatch:
        """Read the groups ``indices`` as one batch in float32 and FFT order."""
        return self.gather(indices).finish()


def gathering(dataset: GroupDataset | JoinedGroups) -> Callable[[Sequence[int]], Gathered | InputError]:
    """Collate function of a data loader; :func:`finished` converts its batches on the device.

    An InputError is returned, not raised: a loader would replace the message of a worker's exception by its traceback.
    """
    return partial(_gather_or_error, dataset)


def finished(batch: Gathered | InputError, device: str | torch.device | None = None) -> GroupBatch:
    """Convert a batch of a loader to float32 and FFT order on a device (None: its own).

    Raises:
        InputError: the patterns could not be read.
    """
    if isinstance(batch, InputError):
        raise batch
    if device is not None:
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in batch._asdict().items() if isinstance(value, Tensor)
        }
        batch = batch._replace(**moved)
    return batch.finish()


def _gather_or_error(dataset: GroupDataset | JoinedGroups, indices: Sequence[int]) -> Gathered | InputError:
    try:
        return dataset.gather(indices)
    except InputError as error:
        return error


def good_pixels(scan: Scan) -> Tensor | None:
    """Mask (N, N), True at good pixels, in FFT order like the batches; None if all are good."""
    if scan.bad_pixels is None or not scan.bad_pixels.any():
        return None
    return torch.from_numpy(np.fft.ifftshift(~scan.bad_pixels).copy())
