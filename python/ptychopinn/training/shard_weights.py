# SPDX-License-Identifier: BSD-3-Clause
"""What one process's shard of a batch weighs in the loss of the whole batch.

Losses are divided by the photons of the batch, or by its groups, and the shards of several processes differ in both:
the mean over processes of their own losses would be another loss. With these weights the losses of all processes add up
to that of the whole batch, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ptychopinn.batches.steps import Steps
from ptychopinn.runtime.processes import reduce_sums


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
