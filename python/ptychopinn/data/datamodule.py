# SPDX-License-Identifier: BSD-3-Clause
"""The groups of a scan as Lightning's training and validation batches.

Every pattern leads one group. A seeded share of the groups is held out to measure the loss on; the others are trained
on, with their members drawn anew each epoch where the pool is larger than the group. Grouping and shuffling depend on
the seed and the epoch alone.
"""

from __future__ import annotations

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from ptychopinn.config import Config
from ptychopinn.data.dataset import GroupDataset
from ptychopinn.data.grouping import group_nearest
from ptychopinn.data.scan import Scan


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
        held_out = int(round(config.data.validation_fraction * scan.n))
        leaders = np.random.default_rng(config.training.seed).permutation(scan.n)
        self.validation_leaders = np.sort(leaders[:held_out])
        self.training_leaders = np.sort(leaders[held_out:])

    def _dataset(self, leaders: np.ndarray, draw: int) -> GroupDataset:
        groups = group_nearest(
            self.scan.positions, self.config.data.group_size, self.config.data.pool, seed=self.config.training.seed + draw
        )
        return GroupDataset(self.scan, groups[leaders], self.canvas_multiple)

    def _loader(self, dataset: GroupDataset, shuffle_seed: int | None) -> DataLoader[int]:
        generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        return DataLoader(
            dataset,
            batch_size=self.config.training.batch_size,
            shuffle=generator is not None,
            generator=generator,
            collate_fn=dataset.collate,
            num_workers=self.config.execution.workers,
        )

    def train_dataloader(self) -> DataLoader[int]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self._loader(self._dataset(self.training_leaders, epoch), self.config.training.seed + epoch)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        if not len(self.validation_leaders):
            return []
        return self._loader(self._dataset(self.validation_leaders, 0), None)
