# SPDX-License-Identifier: BSD-3-Clause
"""Split-half resolution: the agreement of two reconstructions from independent halves of a scan.

The Fourier ring correlation of two independent halves estimates the signal in each ring. Each half has half the photons
and a larger step, so the result is the resolution of one half; that of the full scan is better.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.metrics import scores
from ptychopinn.metrics.align import align
from ptychopinn.reconstruction import Reconstruction


def split_half_frc(first: Reconstruction, second: Reconstruction, *, border: int = 12) -> dict[str, Any]:
    """Fourier ring correlation of two reconstructions, after alignment, on the pixels that both have illuminated.

    Args:
        first: reconstruction of one half of a scan.
        second: reconstruction of the other half, in the same scan coordinates.
        border: pixels trimmed from each side of the compared rectangle.

    Returns:
        See :func:`ptychopinn.metrics.scores.frc_figures`.

    Raises:
        InputError: the two do not overlap, or on too few pixels.

    Source:
        M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005).
    """
    origins = [np.round(half.origin).astype(int) for half in (first, second)]
    low = np.maximum(*origins)
    high = np.minimum(origins[0] + first.shape, origins[1] + second.shape)
    if (high <= low).any():
        raise InputError("split halves: the two reconstructions do not overlap")
    parts = [tuple(slice(a, b) for a, b in zip(low - origin, high - origin, strict=True)) for origin in origins]
    mask = first.covered()[parts[0]] & second.covered()[parts[1]]
    aligned = align(first.object[parts[0]], second.object[parts[1]], mask=mask, border=border)
    return scores.frc_figures(*aligned.levelled(), first.pixel_size)
