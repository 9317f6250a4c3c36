# SPDX-License-Identifier: BSD-3-Clause
"""How many groups, or neighbourhoods of groups, a batch has by default, and the learning rates that go with it."""

from __future__ import annotations

import math

import torch

from ptychopinn.batches.neighbourhoods import merged_groups
from ptychopinn.config import Config

#: Patterns in a batch of the default size: many small steps train faster than few large ones (docs/quality.md).
_PATTERNS_IN_BATCH = 16
#: Detector pixels of the patterns in a batch of the default size on CUDA: 64 patterns of 64 x 64.
_PIXELS_ON_CUDA = 64**3


def batch_groups(config: Config, size: int, device: torch.device, processes: int = 1) -> int:
    """Number of groups in a batch: ``training.batch_size``, or as many as are fastest.

    Small steps train in fewer epochs than large ones. A GPU takes hardly longer for a few groups than for one.

    Args:
        config: the configuration.
        size: of the patterns, N.
        device: of the training.
        processes: that share a batch.
    """
    if config.training.batch_size is not None:
        return config.training.batch_size
    patterns = _PATTERNS_IN_BATCH
    if device.type == "cuda":
        patterns = max(patterns, _PIXELS_ON_CUDA // size**2)
    return _neighbourhoods_with(patterns, config) * processes


def rate_factor(config: Config, groups: int) -> float:
    """Factor on learning rates for steps of so many groups: the root of what they exceed the smallest default batch by.

    So a training takes as many epochs on a GPU, or in several processes, as on one CPU (docs/quality.md). Where
    ``training.batch_size`` is given, so are the rates.
    """
    if config.training.batch_size is not None:
        return 1.0
    return math.sqrt(groups / _neighbourhoods_with(_PATTERNS_IN_BATCH, config))


def _neighbourhoods_with(patterns: int, config: Config) -> int:
    """Groups, or neighbourhoods where groups are merged, that have so many patterns."""
    merged = merged_groups(config)
    return max(merged, math.ceil(patterns / config.data.group_size)) // merged
