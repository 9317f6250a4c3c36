# SPDX-License-Identifier: BSD-3-Clause
"""Lightning data module: training and validation batches of the groups of one or several scans.

Every pattern leads one or several groups. A part of the leaders, scattered or in one region of the sample, is held out
for validation. From the others each epoch draws as many groups as contain every pattern about once; where the pool is
larger than the group, the members are drawn again in every epoch. All random draws depend only on the seed and the
epoch. With several processes each loads its shard of every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ptychopinn.batches.dataset import Gathered, GroupBatch, GroupDataset, JoinedGroups, finished, good_pixels
from ptychopinn.batches.distributed import ShardSampler
from ptychopinn.batches.grouping import compact_region, group_patterns, within_bounds
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.scan import Scan

#: Smallest number of batches in an epoch, if the scan has as many groups.
_FEWEST_BATCHES = 8
#: Patterns in a batch of the default size: many small steps train faster than few large ones (docs/quality.md).
_PATTERNS_IN_BATCH = 16
#: Largest difference between equal probes, up to their scale, relative to the probe.
_SAME_PROBE = 1e-3


class ScanDataModule(L.LightningDataModule):
    """Batches of the groups of one or several scans.

    Args:
        scans: scans that :func:`check_alike` accepts.
        config: sections ``data``, ``model``, ``training`` and ``execution`` are used.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
        margin: pixels around the patches on a group's canvas, for learned positions.

    Raises:
        InputError: no pattern is left for training, or a validation region leaves too few patterns.
    """

    def __init__(self, scans: Sequence[Scan], config: Config, canvas_multiple: int = 1, margin: int = 0) -> None:
        super().__init__()
        self.scans = scans
        self.config = config
        self.canvas_multiple = canvas_multiple
        self.margin = margin
        self.first = np.cumsum([0, *(scan.n for scan in scans)])
        patterns, size = int(self.first[-1]), config.data.group_size
        self.held_out = self._held_out()
        inside = np.concatenate(
            [within_bounds(scan.positions, config.data.y_bounds, config.data.x_bounds) for scan in scans]
        )
        self.validation_leaders = np.flatnonzero(self.held_out & inside)
        self.training_leaders = np.flatnonzero(~self.held_out & inside)
        if not len(self.training_leaders):
            raise InputError("data.y_bounds, data.x_bounds: no pattern is left to train on; widen them")
        # Index of a group: leader * oversampling + 0, 1, ..., oversampling - 1.
        each = config.data.oversampling
        self.training_groups = (self.training_leaders[:, np.newaxis] * each + np.arange(each)).ravel()
        # Without a minimum small scans would have epochs of one or two steps.
        self.batch_size = batch_groups(config)
        wanted = max(math.ceil(each * patterns / size), _FEWEST_BATCHES * self.batch_size)
        self.groups_per_epoch = min(wanted, len(self.training_groups))

    def _held_out(self) -> NDArray[np.bool_]:
        """Mask (n,) of the patterns of all scans that lead the validation groups."""
        data, seed = self.config.data, self.config.training.seed
        patterns = int(self.first[-1])
        held = np.zeros(patterns, np.bool_)
        if data.validation == "scattered":
            count = min(math.ceil(data.validation_fraction * patterns / data.group_size), patterns - 1)
            held[np.random.default_rng(seed).permutation(patterns)[:count]] = True
        elif data.validation_fraction:
            for index, (scan, first) in enumerate(zip(self.scans, self.first[:-1], strict=True)):
                fewest = max(data.group_size, (data.pool or 0) + 1)  # needed for groups in either part
                count = max(math.ceil(data.validation_fraction * scan.n), fewest)
                if scan.n - count < fewest:
                    raise InputError(
                        f"{scan.name}: data.validation 'region' holds out {count} of {scan.n} patterns, which leaves "
                        f"fewer than the {fewest} that a group and its pool need; lower data.validation_fraction, "
                        "data.group_size or data.pool"
                    )
                held[first + compact_region(scan.positions, count, (seed, index))] = True
        return held

    def _groups(self, index: int, among: NDArray[np.intp], each: int, draw: int) -> NDArray[np.int64]:
        """Groups (each n, C) that each pattern of a scan leads, of members `among` only; -1 for other leaders."""
        data = self.config.data
        found = group_patterns(
            self.scans[index].positions[among],
            data.group_size,
            data.pool,
            each,
            seed=(self.config.training.seed, draw),
            rule=data.neighbours,
            min_distance=data.min_distance,
            max_distance=data.max_distance,
        )
        groups = np.full((self.scans[index].n * each, data.group_size), -1, np.int64)
        groups[(among[:, np.newaxis] * each + np.arange(each)).ravel()] = among[found]
        return groups

    def _loader(self, chosen: NDArray[np.intp], each: int, draw: int, validation: bool) -> DataLoader[int]:
        """Batches of the groups `chosen`, indices over all scans, with `each` groups per leader."""
        by_region = self.config.data.validation == "region"
        parts, positions = [], []
        for index, scan in enumerate(self.scans):
            first = int(self.first[index])
            position = np.flatnonzero((chosen // each >= first) & (chosen // each < first + scan.n))
            if not len(position):
                continue
            among = np.arange(scan.n)
            if by_region:
                among = among[self.held_out[first : first + scan.n] == validation]
            groups = self._groups(index, among, each, draw)
            # The model has one probe, that of the first scan; the truths are scaled to it.
            scale = float(np.linalg.norm(scan.probe) / np.linalg.norm(self.scans[0].probe))
            parts.append(
                GroupDataset(
                    scan,
                    groups[chosen[position] - first * each],
                    self.canvas_multiple,
                    margin=self.margin,
                    truth_scale=scale if self.config.training.supervised else None,
                    first=first,
                    largest=self.config.data.largest_canvas,
                )
            )
            positions.append(position)
        dataset = JoinedGroups(parts, np.argsort(np.concatenate(positions)))  # in the order of `chosen`
        shards = ShardSampler(len(dataset), self.batch_size, rank_and_size())
        return DataLoader(
            dataset,
            batch_sampler=shards,
            collate_fn=partial(shards.collate, dataset),
            num_workers=self.config.execution.workers,
        )

    def on_after_batch_transfer(self, batch: Gathered | InputError, dataloader_idx: int) -> GroupBatch:
        """Convert the patterns from the file's type to float32, on the device."""
        return finished(batch)

    def train_dataloader(self) -> DataLoader[int]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        rng = np.random.default_rng((self.config.training.seed, epoch))
        chosen = rng.choice(self.training_groups, self.groups_per_epoch, replace=False)
        return self._loader(chosen, self.config.data.oversampling, epoch, validation=False)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        if not len(self.validation_leaders):
            return []
        return self._loader(self.validation_leaders, 1, 0, validation=True)


def batch_groups(config: Config) -> int:
    """Number of groups in a batch: ``training.batch_size``, or as many as contain 16 patterns."""
    return config.training.batch_size or math.ceil(_PATTERNS_IN_BATCH / config.data.group_size)


def check_alike(scans: Sequence[Scan]) -> None:
    """Check that one model can be trained on all scans.

    Raises:
        InputError: there is no scan, or the scans differ in their probe (up to its scale) or in their bad pixels.
    """
    if not scans:
        raise InputError("training needs at least one scan, got none")
    first = scans[0]
    good = good_pixels(first)
    for scan in scans[1:]:
        if scan.probe.shape != first.probe.shape:
            raise InputError(
                f"{scan.name}: scans trained on together must have probes of one shape, "
                f"got {scan.probe.shape} and, in {first.name}, {first.probe.shape}"
            )
        scale = np.vdot(first.probe, scan.probe) / np.vdot(first.probe, first.probe)
        difference = np.linalg.norm(scan.probe - scale * first.probe) / np.linalg.norm(scan.probe)
        if difference > _SAME_PROBE:
            raise InputError(
                f"{scan.name}: scans trained on together must have one probe (up to its scale), "
                f"this one's differs by {difference:.2g} from that of {first.name}"
            )
        other = good_pixels(scan)
        same = good is other is None or (good is not None and other is not None and torch.equal(good, other))
        if not same:
            raise InputError(f"{scan.name}: scans trained on together must have one mask of bad pixels")
