# SPDX-License-Identifier: BSD-3-Clause
"""The loss that photon noise leaves: its expectation for the true intensity."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from ptychopinn.physics.likelihood import BACKGROUND

#: Intensities between which the expectation is tabulated; above, it is that of the largest.
_LOW, _HIGH, _POINTS = 1e-6, 300.0, 300


def noise_floor(intensity: Tensor, loss: str = "poisson", good: Tensor | None = None) -> Tensor:
    """Expected loss of counts ``k ~ Poisson(I)`` against their own intensity I, per photon.

    Args:
        intensity: real, (..., N, N), expected counts, >= 0.
        loss: "poisson" or "amplitude", see :mod:`ptychopinn.physics.likelihood`.
        good: bool, (N, N), False at pixels to ignore; None: all are good.

    Returns:
        scalar, in the unit of the loss.
    """
    grid, values = _table(loss)
    logarithm = np.log(np.clip(intensity.detach().cpu().numpy().astype(np.float64), _LOW, _HIGH))
    expected = torch.from_numpy(np.interp(logarithm, grid, values)).to(intensity)
    if good is not None:
        expected, intensity = expected * good, intensity * good
    return expected.sum() / intensity.sum().clamp_min(1.0)


@lru_cache(2)
def _table(loss: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of intensities, and the expected loss of a pixel in counts."""
    intensity = np.geomspace(_LOW, _HIGH, _POINTS)[:, None]
    counts = np.arange(0, _HIGH + 12 * np.sqrt(_HIGH))
    chance = np.exp(counts * np.log(intensity) - intensity - gammaln(counts + 1))
    one, other = intensity + BACKGROUND, counts + BACKGROUND
    deviance, square = one - other - other * np.log(one / other), np.square(np.sqrt(one) - np.sqrt(other))
    term = deviance if loss == "poisson" else square
    return np.log(intensity[:, 0]), (chance * term).sum(1)
