# SPDX-License-Identifier: BSD-3-Clause
"""Batches of several processes: each process loads its shard of every batch.

The batches do not depend on the number of processes, so that a training makes the same steps with any number.
torch's DistributedSampler would make other batches, and omit or repeat groups in the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from ptychopinn.batches.dataset import Gathered, JoinedGroups, gathering
from ptychopinn.errors import InputError


class ShardSampler(Sampler[list[int]]):
    """Indices of the groups of one process's shard of every batch.

    Where a batch has fewer groups than there are processes, the other processes load its first group, which is not
    counted: collective operations need every process.

    Args:
        groups: number of groups of all batches, in order.
        batch_size: groups in a full batch; the last batch may have fewer.
        rank_and_size: (rank of this process, number of processes).

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
        """Collate the groups of a shard as :func:`gathering` does, and add the size of the full batch."""
        start = indices[0] - indices[0] % self.batch_size
        batch_size = min(self.batch_size, self.groups - start)
        gathered = gathering(dataset)(indices)
        if isinstance(gathered, InputError):
            return gathered
        return gathered._replace(batch_size=batch_size, stands_in=self.rank >= batch_size)
