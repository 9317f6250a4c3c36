# SPDX-License-Identifier: BSD-3-Clause
"""The groups of one or several scans as Lightning's training and validation batches.

Every pattern leads one group. A seeded share of the leaders is held out to measure the loss on; from the others each
epoch draws as many groups as show every pattern about once, and their members anew where the pool is larger than the
group. Everything drawn depends on the seed and the epoch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ptychopinn.config import Config
from ptychopinn.data.dataset import (
    Gathered,
    GroupBatch,
    GroupDataset,
    JoinedGroups,
    finished,
    gathering,
    good_pixels,
)
from ptychopinn.data.grouping import group_nearest
from ptychopinn.data.scan import Scan
from ptychopinn.errors import InputError

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
        patterns, size, seed = int(self.first[-1]), config.data.group_size, config.training.seed
        held_out = min(math.ceil(config.data.validation_fraction * patterns / size), patterns - 1)
        leaders = np.random.default_rng(seed).permutation(patterns)
        self.validation_leaders = np.sort(leaders[:held_out])
        self.training_leaders = np.sort(leaders[held_out:])
        # Small scans would otherwise have epochs of a step or two.
        self.batch_size = batch_groups(config)
        wanted = max(math.ceil(patterns / size), _FEWEST_BATCHES * self.batch_size)
        self.groups_per_epoch = min(wanted, len(self.training_leaders))

    def _loader(self, leaders: NDArray[np.int64], draw: int) -> DataLoader[int]:
        data, seed = self.config.data, self.config.training.seed
        parts, places = [], []
        for scan, first in zip(self.scans, self.first[:-1], strict=True):
            groups = group_nearest(scan.positions, data.group_size, data.pool, seed=(seed, draw))
            chosen = np.flatnonzero((leaders >= first) & (leaders < first + scan.n))
            if not len(chosen):
                continue
            # Objects are relative to the one probe of the model, which is the first scan's.
            scale = float(np.linalg.norm(scan.probe) / np.linalg.norm(self.scans[0].probe))
            parts.append(
                GroupDataset(
                    scan,
                    groups[leaders[chosen] - first],
                    self.canvas_multiple,
                    margin=self.margin,
                    truth_scale=scale if self.config.training.supervised else None,
                    first=int(first),
                )
            )
            places.append(chosen)
        dataset = JoinedGroups(parts, np.argsort(np.concatenate(places)))  # the leaders' own order, over all scans
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            collate_fn=gathering(dataset),
            num_workers=self.config.execution.workers,
        )

    def on_after_batch_transfer(self, batch: Gathered | InputError, dataloader_idx: int) -> GroupBatch:
        """Patterns travel in the file's type and are cast on the device."""
        return finished(batch)

    def train_dataloader(self) -> DataLoader[int]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        rng = np.random.default_rng((self.config.training.seed, epoch))
        return self._loader(rng.choice(self.training_leaders, self.groups_per_epoch, replace=False), epoch)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        if not len(self.validation_leaders):
            return []
        return self._loader(self.validation_leaders, 0)


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
