# SPDX-License-Identifier: BSD-3-Clause
"""What a training reads from the host at a time: the groups of several steps, of all or of one process's shard.

The batches do not depend on the number of processes, so that a training makes the same steps with any number.
torch's DistributedSampler would make other batches, and omit or repeat groups in the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Sampler

from ptychopinn.batches.dataset import Gathered, JoinedGroups
from ptychopinn.errors import InputError


class StepShape(NamedTuple):
    """How groups make up steps.

    Attributes:
        steps: K that are read at once; the last ones of an epoch may be fewer.
        batches: A of a step, whose gradients are added up.
        groups: B of a batch, of all processes together.
    """

    steps: int
    batches: int
    groups: int

    @property
    def groups_per_step(self) -> int:
        """A B, of all processes together."""
        return self.batches * self.groups


class Steps(NamedTuple):
    """The groups of K steps of A batches of B groups of C patterns: those of this process.

    Attributes:
        patterns: the patterns of the groups in succession, with their positions and canvases; without counts where
            these are on the device already.
        shape: (K, A, B).
        groups: of a batch of all processes.
        stands_in: True: this process has no group of a batch, and the one it computes is not counted.
    """

    patterns: Gathered
    shape: tuple[int, int, int]
    groups: int
    stands_in: bool = False

    @property
    def size(self) -> int:
        """Groups of all processes in these steps."""
        return self.shape[0] * self.shape[1] * self.groups

    def in_steps(self, values: Tensor) -> Tensor:
        """Values of the groups in succession, (K A B, ...), as (K, A, B, ...)."""
        return values.view(*self.shape, *values.shape[1:])


class StepSampler(Sampler[list[int]]):
    """Indices of the groups of one process in K steps at a time.

    A process has every so-manieth group of each batch. Where a batch has fewer groups than there are processes, the
    other processes load its first group, which is not counted: collective operations need every process.

    Args:
        groups: number of groups of all batches, in order: a multiple of those of a step.
        shape: of the steps.
        rank_and_size: (rank of this process, number of processes).

    Example:
        >>> list(StepSampler(6, StepShape(2, 1, 2), rank_and_size=(1, 2)))
        [[1, 3], [5]]
    """

    def __init__(self, groups: int, shape: StepShape, rank_and_size: tuple[int, int] = (0, 1)) -> None:
        assert groups % shape.groups_per_step == 0, f"{groups} groups in steps of {shape.groups_per_step}"
        self.groups, self.shape = groups, shape
        self.rank, self.size = rank_and_size

    def __len__(self) -> int:
        return math.ceil(self.groups / (self.shape.steps * self.shape.groups_per_step))

    def __iter__(self) -> Iterator[list[int]]:
        at_once = self.shape.steps * self.shape.groups_per_step
        for first in range(0, self.groups, at_once):
            last = min(first + at_once, self.groups)
            yield [group for batch in range(first, last, self.shape.groups) for group in self._shard(batch)]

    def _shard(self, first: int) -> list[int]:
        """This process's groups of the batch that begins with this one."""
        return list(range(first + self.rank, first + self.shape.groups, self.size)) or [first]

    def collate(self, dataset: JoinedGroups, read: bool, indices: Sequence[int]) -> Steps | InputError:
        """Read the groups of some steps; an InputError is returned (see :func:`~.dataset.gathering`)."""
        own = len(self._shard(0))
        steps = len(indices) // (own * self.shape.batches)
        try:
            gathered = dataset.gather(indices, read=read)
        except InputError as error:
            return error
        return Steps(gathered, (steps, self.shape.batches, own), self.shape.groups, self.rank >= self.shape.groups)


def checked(steps: Steps | InputError) -> Steps:
    """The steps that a loader has read.

    Raises:
        InputError: the patterns could not be read.
    """
    if isinstance(steps, InputError):
        raise steps
    return steps
