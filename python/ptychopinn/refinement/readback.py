# SPDX-License-Identifier: BSD-3-Clause
"""The one place where the passes of a refinement read values of the device on the host, and wait for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def read_back(values: Tensor) -> NDArray[np.float64]:
    """A copy of a float64 tensor on the host."""
    array: NDArray[np.float64] = values.detach().to("cpu", copy=True).numpy()
    return array
