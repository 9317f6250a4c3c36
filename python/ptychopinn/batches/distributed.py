# SPDX-License-Identifier: BSD-3-Clause
"""Batches that several processes work on together: each takes its shard of every batch.

The batches are those of one process, whatever the number of processes, so that a training makes the same steps. (A
sampler that deals the scan out to processes would make other batches, and drop or repeat groups to fill the last one.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from ptychopinn.batches.dataset import Gathered, JoinedGroups, gathering
from ptychopinn.errors import InputError


class ShardSampler(Sampler[list[int]]):
    """Indices of one process's groups in every batch.

    Where a batch has fewer groups than there are processes, the others get its first one, which does not count: all
    must do the same, or some would wait forever.

    Args:
        groups: of all batches, taken in order.
        batch_size: groups in a whole batch; the last one may have fewer.
        rank_and_size: (number of this process, number of all).

    Example:
        >>> list(ShardSampler(5, 4, rank_and_size=(1, 2)))
        [[1, 3], [4]]
    """

    def __init__(self, groups: int, batch_size: int, rank_and_size: tuple[int, int] = (0, 1)) -> None:
        self.groups, self.batch_size = groups, batch_size
        self.rank, self.size = rank_and_size

    def __len__(self) -> int:
        return math.ceil(self.groups / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.groups, self.batch_size):
            batch = range(start, min(start + self.batch_size, self.groups))
            yield list(batch[self.rank :: self.size]) or [start]

    def collate(self, dataset: JoinedGroups, indices: Sequence[int]) -> Gathered | InputError:
        """Gather the groups of a shard as ``dataset.gathering`` does, and note of what batch it is one."""
        start = indices[0] - indices[0] % self.batch_size
        whole = min(self.batch_size, self.groups - start)
        gathered = gathering(dataset)(indices)
        if isinstance(gathered, InputError):
            return gathered
        return gathered._replace(whole=whole, stands_in=self.rank >= whole)
