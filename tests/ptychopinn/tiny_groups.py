# SPDX-License-Identifier: BSD-3-Clause
"""A small scan, batches of its groups, and comparisons, for the tests of generators."""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.batches.dataset import GroupBatch, GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.models import Generator
from ptychopinn.physics.overlap import illumination_weight, merge_patches
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan


def scan_of_groups() -> Scan:
    return simulate("dead_leaves", patterns=16, size=32, step=(5, 4), photons=1e5, seed=1)


def batch_of(scan: Scan, size: int, groups: int = 2, multiple: int = 4) -> GroupBatch:
    return GroupDataset(scan, group_patterns(scan.positions, size), multiple).collate([5, 10, 3][:groups])


def run(generator: Generator, batch: GroupBatch, probe: Tensor) -> Tensor:
    return generator(batch.counts, batch.positions, batch.canvas_size, probe)


def illuminated(batch: GroupBatch, probe: Tensor, threshold: float = 0.2) -> Tensor:
    """Return the mask (B, H, W) of the canvas pixels with an illumination above a fraction of its maximum."""
    weight = illumination_weight(probe)
    patches = torch.ones(*batch.counts.shape, dtype=torch.complex64)
    _, total = merge_patches(patches, batch.positions, batch.canvas_size, weight)
    return total > threshold * total.amax((-2, -1), keepdim=True)


def relative(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()
