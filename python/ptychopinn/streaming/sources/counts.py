# SPDX-License-Identifier: BSD-3-Clause
"""Counts of a frame as :class:`~ptychopinn.streaming.frames.Frame` has them, from arrays of any real type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError

#: Bytes of a frame, at most.
LARGEST_FRAME = 1 << 28


def frame_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of a frame (h, w), before memory is taken for it.

    Raises:
        InputError: it is no frame, or larger than any.
    """
    size = math.prod(shape) * dtype.itemsize
    if len(shape) != 2 or not 0 < size <= LARGEST_FRAME or dtype.kind not in "biuf":
        raise InputError(
            f"expected frames (h, w) of real numbers, of at most {LARGEST_FRAME >> 20} MiB, found {dtype} of shape "
            f"{tuple(int(side) for side in shape)}; send single frames of the detector"
        )
    return size


def as_counts(frame: NDArray[Any], bad: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Counts (h, w) in native byte order, of an unsigned type or float32.

    Args:
        frame: (h, w), real.
        bad: bool, (h, w), pixels to ignore; markers below zero become 0 there.

    Raises:
        InputError: no frame, or negative integers at other pixels.
    """
    frame_bytes(frame.shape, frame.dtype)
    if frame.dtype.kind == "b":
        return frame.astype(np.uint8)
    if frame.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return frame.astype(np.float32, copy=False)
    if frame.dtype.kind == "i":
        negative = frame < 0
        if bad is not None and bad.shape == frame.shape:
            frame = np.where(negative & bad, 0, frame)
            negative &= ~bad
        if negative.any():
            raise InputError(
                f"expected counts, found {int(negative.sum())} negative values of {frame.dtype}; state the pixels to "
                "ignore in the detector's mask"
            )
        frame = frame.astype(f"u{frame.dtype.itemsize}")
    return frame.astype(frame.dtype.newbyteorder("="), copy=False)
