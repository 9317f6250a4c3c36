# SPDX-License-Identifier: BSD-3-Clause
"""Settings of all tests: one thread by default, reproducible examples, `gpu` tests skipped without a device."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ptychopinn", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("ptychopinn")


@pytest.fixture(autouse=True)
def global_settings() -> Iterator[None]:
    """Reset the number of threads and the determinism of torch, which a test may change."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
