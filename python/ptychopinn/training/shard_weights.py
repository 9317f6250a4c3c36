# SPDX-License-Identifier: BSD-3-Clause
"""What one process's shard of a batch weighs in the loss of the whole batch.

Losses are divided by the photons of the batch, or by its groups, and the shards of several processes differ in both:
the mean over processes of their own losses would be another loss. With these weights the losses of all processes add up
to that of the whole batch, and so do their gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ptychopinn.batches.dataset import GroupBatch
from ptychopinn.runtime.processes import distributed, reduce_sums


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


def weights_of(batch: GroupBatch, good: Tensor) -> Weights:
    """The weights of this process's shard of a batch; all processes must call it for the same one.

    Args:
        batch: the shard.
        good: bool, (N, N), False where a pixel is ignored.
    """
    if not distributed():
        return Weights(1.0, 1.0, 1.0)
    groups = batch.counts.new_tensor(float(len(batch.counts)))
    own = torch.stack([(batch.counts * good).sum(), batch.counts.sum(), groups]).double()
    own = own * (not batch.stands_in)
    total = own.clone()
    reduce_sums(total)
    # A loss is divided by at least one photon, and so is that of a shard.
    weights = own.clamp_min(1.0) / total.clamp_min(1.0) * (not batch.stands_in)
    return Weights(*weights.to(batch.counts.dtype).unbind())
