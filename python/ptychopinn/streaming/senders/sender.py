# SPDX-License-Identifier: BSD-3-Clause
"""What every sender of a recorded scan does; see :mod:`ptychopinn.streaming.replay` for the order and the faults."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychopinn.streaming.frames import Series


class Sender(Protocol):
    """A detector to practise with.

    Attributes:
        address: what a live run is given to receive from it.
    """

    address: str

    def begin(self, series: Series, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Begin a series of frames of this shape (h, w) and type; a second call begins another one."""

    def send(self, index: int, counts: NDArray[Any], position: tuple[float, float] | None) -> None:
        """Send a frame (h, w), with its position (y, x) if it is known, in the unit of the series."""

    def send_damaged(self, index: int) -> None:
        """Send what a receiver cannot read in place of a frame."""

    def end(self) -> None:
        """End the series."""

    def close(self) -> None:
        """Release files and connections; a second call has no effect."""
