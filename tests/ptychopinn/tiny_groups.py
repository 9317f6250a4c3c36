# SPDX-License-Identifier: BSD-3-Clause
"""A small scan and batches of its groups, for the tests of generators."""

from __future__ import annotations

from torch import Tensor

from ptychopinn.batches.dataset import GroupBatch, GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.models import Generator
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan


def scan_of_groups() -> Scan:
    return simulate("dead_leaves", patterns=16, size=32, step=(5, 4), photons=1e5, seed=1)


def batch_of(scan: Scan, size: int, groups: int = 2, multiple: int = 4) -> GroupBatch:
    return GroupDataset(scan, group_patterns(scan.positions, size), multiple).collate([5, 10, 3][:groups])


def run(generator: Generator, batch: GroupBatch, probe: Tensor) -> Tensor:
    return generator(batch.counts, batch.positions, batch.canvas_size, probe)
