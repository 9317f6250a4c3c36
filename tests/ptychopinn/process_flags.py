# SPDX-License-Identifier: BSD-3-Clause
"""What a call must restore: the settings of the process, and a process that has some of its own."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from ptychopinn.runtime.float32 import _operations


def flags() -> dict[str, Any]:
    """Everything of the process that is to be restored."""

    def older(read: Callable[[], object]) -> object:
        try:
            return read()
        except RuntimeError:
            return "differs from the newer interface"

    return {
        "device": torch.get_default_device(),
        "type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "precisions": [operation.fp32_precision for operation in _operations()],
        "cudnn": older(lambda: torch.backends.cudnn.allow_tf32),
        "matmul": older(torch.get_float32_matmul_precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "gradients": torch.is_grad_enabled(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "python": random.getstate(),
        "numpy": [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.is_initialized(),
    }


@contextmanager
def caller() -> Iterator[None]:
    """A process with settings of its own."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), torch.no_grad():
        patch.setenv("PL_GLOBAL_SEED", "5")
        patch.delenv("PL_SEED_WORKERS", raising=False)
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        before = torch.get_default_dtype(), torch.get_num_threads()
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(11)
        try:
            yield
        finally:
            torch.set_default_dtype(before[0])
            torch.set_num_threads(before[1])
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = False
