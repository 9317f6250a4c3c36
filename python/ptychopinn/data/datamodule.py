# SPDX-License-Identifier: BSD-3-Clause
"""The groups of a scan as Lightning's training and validation batches.

Every pattern leads one group. A seeded share of the leaders is held out to measure the loss on; from the others each
epoch draws as many groups as show every pattern about once, and their members anew where the pool is larger than the
group. Everything drawn depends on the seed and the epoch alone.
"""

from __future__ import annotations

import math

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ptychopinn.config import Config
from ptychopinn.data.dataset import GroupDataset
from ptychopinn.data.grouping import group_nearest
from ptychopinn.data.scan import Scan

_FEWEST_BATCHES = 8


class ScanDataModule(L.LightningDataModule):
    """Batches of groups of one scan.

    Args:
        scan: the scan.
        config: sections ``data``, ``training`` and ``execution`` are used.
        canvas_multiple: of the generator.
    """

    def __init__(self, scan: Scan, config: Config, canvas_multiple: int = 1) -> None:
        super().__init__()
        self.scan = scan
        self.config = config
        self.canvas_multiple = canvas_multiple
        size, seed = config.data.group_size, config.training.seed
        held_out = min(math.ceil(config.data.validation_fraction * scan.n / size), scan.n - 1)
        leaders = np.random.default_rng(seed).permutation(scan.n)
        self.validation_leaders = np.sort(leaders[:held_out])
        self.training_leaders = np.sort(leaders[held_out:])
        # Small scans would otherwise have epochs of a step or two.
        wanted = max(math.ceil(scan.n / size), _FEWEST_BATCHES * config.training.batch_size)
        self.groups_per_epoch = min(wanted, len(self.training_leaders))

    def _loader(self, leaders: NDArray[np.int64], draw: int) -> DataLoader[int]:
        data, seed = self.config.data, self.config.training.seed
        groups = group_nearest(self.scan.positions, data.group_size, data.pool, seed=(seed, draw))
        dataset = GroupDataset(self.scan, groups[leaders], self.canvas_multiple)
        return DataLoader(
            dataset,
            batch_size=self.config.training.batch_size,
            collate_fn=dataset.collate,
            num_workers=self.config.execution.workers,
        )

    def train_dataloader(self) -> DataLoader[int]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        rng = np.random.default_rng((self.config.training.seed, epoch))
        return self._loader(rng.choice(self.training_leaders, self.groups_per_epoch, replace=False), epoch)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        if not len(self.validation_leaders):
            return []
        return self._loader(self.validation_leaders, 0)
