# SPDX-License-Identifier: BSD-3-Clause
"""What one process's shard of a batch, or a part of it, weighs in the loss of the whole batch.

Losses are divided by the photons of the batch, or by its groups, and the shards of several processes differ in both:
the mean over processes of their own losses would be another loss. With these weights the losses of all processes add up
to that of the whole batch, and so do their gradients. On the CPU a process works through its shard in parts, with the
weights of the parts: the tensors of a large batch would not fit the cache, and the system would fill their memory with
zeros again and again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.batches.steps import Steps
from ptychopinn.runtime.processes import reduce_sums

#: Pixels of patterns in a part of a batch on the CPU: 4 groups of 16 patterns of 128 px.
_PIXELS = 1 << 20


class Weights(NamedTuple):
    """This process's part of what the terms of a loss are divided by; each sums to 1 over all processes.

    Attributes:
        photons: of the counts on good pixels.
        counts: of all counts.
        groups: of the groups.
    """

    photons: Tensor | float
    counts: Tensor | float
    groups: Tensor | float


def weights_of(patterns: Callable[[int], Tensor], steps: Steps, good: Tensor) -> Tensor:
    """The weights of this process's shard of every batch; all processes must call it for the same steps.

    Args:
        patterns: the counts (A, B, C, N, N) of a step, by its number.
        steps: K steps of A batches.
        good: bool, (N, N), False where a pixel is ignored.

    Returns:
        float32, (K, A, 3), the fields of :class:`Weights`.
    """
    sums = []
    for step in range(steps.shape[0]):
        counts = patterns(step)
        groups = torch.full_like(counts[:, 0, 0, 0, 0], float(counts.shape[1]))
        sums.append(torch.stack([(counts * good).sum((1, 2, 3, 4)), counts.sum((1, 2, 3, 4)), groups], 1).double())
    own = torch.stack(sums) * (not steps.stands_in)
    total = own.clone()
    reduce_sums(total)
    # A loss is divided by at least one photon, and so is that of a shard.
    return (own.clamp_min(1.0) / total.clamp_min(1.0) * (not steps.stands_in)).float()


def parts_of(
    batch: GroupBatch, weights: Weights, good: Tensor, points: int = 1
) -> Iterator[tuple[GroupBatch, Weights]]:
    """The parts of a batch that are worked through one after the other, with the weights of their losses.

    Args:
        batch: of this process; on a GPU, and if it is small, it is the only part.
        weights: of the batch.
        good: bool, (N, N), False where a pixel is ignored.
        points: of an exposure, each of which takes the memory of a pattern.
    """
    groups, pixels = len(batch.counts), batch.counts[0].numel() * points
    number = math.ceil(groups / max(1, _PIXELS // pixels))
    if number <= 1 or batch.counts.device.type != "cpu":
        yield batch, weights
        return
    split = [list(field.chunk(number)) for field in (batch.counts, batch.positions, batch.origins, batch.members)]
    truths = [None] * len(split[0]) if batch.truth is None else list(batch.truth.chunk(number))
    own = torch.stack([torch.stack([(part * good).sum(), part.sum()]).double() for part in split[0]])
    fractions = (own.clamp_min(1.0) / own.sum(0).clamp_min(1.0)).float()
    for (photons, all_counts), counts, positions, origins, members, truth in zip(
        fractions, *split, truths, strict=True
    ):
        part = batch._replace(counts=counts, positions=positions, origins=origins, members=members, truth=truth)
        of_groups = len(counts) / groups
        yield part, Weights(weights.photons * photons, weights.counts * all_counts, weights.groups * of_groups)
