# SPDX-License-Identifier: BSD-3-Clause
"""Settings of all tests: one thread by default, reproducible examples, `gpu` tests skipped without a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ptychopinn", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("ptychopinn")


@pytest.fixture(autouse=True)
def global_settings() -> Iterator[None]:
    """Reset threads and determinism of torch, and levels of loggers, which a test or a benchmark may change."""
    torch.set_num_threads(1)
    loggers = [logging.getLogger(name) for name in ("ptychopinn", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
