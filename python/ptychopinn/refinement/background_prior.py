# SPDX-License-Identifier: BSD-3-Clause
"""Prior of a refined background: the total variation of its root, in units of the photon noise.

In a pixel that is bright in all patterns the counts hardly tell a background from the sample, and as long as object and
probe are wrong, a free background there explains what they lack. Neighbouring pixels, which are dark in some patterns,
tell it. The total variation (L. Rudin, S. Osher and E. Fatemi, Physica D 60, 259 (1992)) leaves edges and hot pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class BackgroundPrior:
    """``sum (sqrt(1 + d^2 / s^2) - 1) / 2`` over the differences d of neighbouring detector pixels.

    The root of a count has the standard deviation 1/2, and the mean of n of them ``s / 2`` with ``s = 1 / sqrt(n)``:
    the noise of a background that nothing else confuses.

    Args:
        patterns: n.
    """

    def __init__(self, patterns: int) -> None:
        self.deviation = 1 / math.sqrt(patterns)

    def __call__(self, background: Tensor, gradient: Tensor) -> Tensor:
        """Add half the gradient at the root of a background, (N, N) in FFT order, to ``gradient``; returns J, ()."""
        image = torch.fft.fftshift(background)
        total: Tensor = image.new_zeros(())
        half = torch.zeros_like(image)
        for axis in (0, 1):
            steps = image.diff(dim=axis) / self.deviation
            lengths = torch.sqrt(1 + steps.square())
            total = total + ((lengths - 1) / 2).sum()
            slopes = steps / (4 * self.deviation * lengths)
            size = image.shape[axis] - 1
            half.narrow(axis, 1, size).add_(slopes)
            half.narrow(axis, 0, size).sub_(slopes)
        gradient.add_(torch.fft.ifftshift(half))
        return total
