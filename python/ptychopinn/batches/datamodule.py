# SPDX-License-Identifier: BSD-3-Clause
"""The groups of one or several scans as Lightning's training and validation batches.

Every pattern leads one group, or several different ones. A seeded share of the leaders, scattered or a region of the
sample, is held out to measure the loss on; from the others each epoch draws as many groups as show every pattern about
once, and their members anew where the pool is larger than the group. All that is drawn depends on the seed and the
epoch alone. Of several processes each takes its shard of every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ptychopinn.batches.dataset import Gathered, GroupBatch, GroupDataset, JoinedGroups, finished, good_pixels
from ptychopinn.batches.distributed import ShardSampler
from ptychopinn.batches.grouping import compact_region, group_patterns, within_bounds
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.scan import Scan

_FEWEST_BATCHES = 8
#: Of a batch whose size is not given: many small steps beat few large ones (docs/quality.md).
_PATTERNS_IN_BATCH = 16


#: Largest difference of two scans' probes, up to their scale, relative to the probe.
_SAME_PROBE = 1e-3


class ScanDataModule(L.LightningDataModule):
    """Batches of groups of one or several scans.

    Args:
        scans: the scans, alike in what :func:`check_alike` looks at.
        config: sections ``data``, ``model``, ``training`` and ``execution`` are used.
        canvas_multiple: of the generator.
        margin: pixels around the patches on a group's canvas, for positions that move.
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
        #: Groups are numbered: `oversampling` of them for every leader.
        each = config.data.oversampling
        self.training_groups = (self.training_leaders[:, np.newaxis] * each + np.arange(each)).ravel()
        # Small scans would otherwise have epochs of a step or two.
        self.batch_size = batch_groups(config)
        wanted = max(math.ceil(each * patterns / size), _FEWEST_BATCHES * self.batch_size)
        self.groups_per_epoch = min(wanted, len(self.training_groups))

    def _held_out(self) -> NDArray[np.bool_]:
        """Which patterns lead the groups for validation, counted over all scans."""
        data, seed = self.config.data, self.config.training.seed
        patterns = int(self.first[-1])
        held = np.zeros(patterns, np.bool_)
        if data.validation == "scattered":
            count = min(math.ceil(data.validation_fraction * patterns / data.group_size), patterns - 1)
            held[np.random.default_rng(seed).permutation(patterns)[:count]] = True
        elif data.validation_fraction:
            for index, (scan, first) in enumerate(zip(self.scans, self.first[:-1], strict=True)):
                fewest = max(data.group_size, (data.pool or 0) + 1)  # on either side, or there are no groups
                count = max(math.ceil(data.validation_fraction * scan.n), fewest)
                if scan.n - count < fewest:
                    raise InputError(
                        f"{scan.name}: data.validation 'region' keeps {count} of {scan.n} patterns out, which leaves "
                        f"fewer than the {fewest} that a group and its pool take; lower data.validation_fraction, "
                        "data.group_size or data.pool"
                    )
                held[first + compact_region(scan.positions, count, (seed, index))] = True
        return held

    def _groups(self, index: int, among: NDArray[np.intp], each: int, draw: int) -> NDArray[np.int64]:
        """(each n, C): the groups that each pattern of a scan leads, of patterns `among` n of its patterns."""
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
        """Batches of the groups `chosen`, of which every pattern leads `each`, counted over all scans."""
        apart = self.config.data.validation == "region"
        parts, places = [], []
        for index, scan in enumerate(self.scans):
            first = int(self.first[index])
            place = np.flatnonzero((chosen // each >= first) & (chosen // each < first + scan.n))
            if not len(place):
                continue
            among = np.arange(scan.n)
            if apart:
                among = among[self.held_out[first : first + scan.n] == validation]
            groups = self._groups(index, among, each, draw)
            # Objects are relative to the one probe of the model, which is the first scan's.
            scale = float(np.linalg.norm(scan.probe) / np.linalg.norm(self.scans[0].probe))
            parts.append(
                GroupDataset(
                    scan,
                    groups[chosen[place] - first * each],
                    self.canvas_multiple,
                    margin=self.margin,
                    truth_scale=scale if self.config.training.supervised else None,
                    first=first,
                    largest=self.config.data.largest_canvas,
                )
            )
            places.append(place)
        dataset = JoinedGroups(parts, np.argsort(np.concatenate(places)))  # the groups' own order, over all scans
        shards = ShardSampler(len(dataset), self.batch_size, rank_and_size())
        return DataLoader(
            dataset,
            batch_sampler=shards,
            collate_fn=partial(shards.collate, dataset),
            num_workers=self.config.execution.workers,
        )

    def on_after_batch_transfer(self, batch: Gathered | InputError, dataloader_idx: int) -> GroupBatch:
        """Patterns travel in the file's type and are cast on the device."""
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
    """Groups in a batch: ``training.batch_size``, or as many as show 16 patterns."""
    return config.training.batch_size or math.ceil(_PATTERNS_IN_BATCH / config.data.group_size)


def check_alike(scans: Sequence[Scan]) -> None:
    """Whether the scans can be trained on together.

    Raises:
        InputError: there is none, or they differ in what one model can have only one of: probe and bad pixels.
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
        if (good is None) != (other is None) or (good is not None and not bool((good == other).all())):
            raise InputError(f"{scan.name}: scans trained on together must have one mask of bad pixels")
