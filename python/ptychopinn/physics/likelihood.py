# SPDX-License-Identifier: BSD-3-Clause
"""Losses between predicted and measured counts. Both take *intensities in counts*; neither squares anything.

Both are divided by the number of measured photons, so that they are dimensionless, comparable between doses, and need
no photon number set by hand. Both are exactly zero, with zero gradient, where prediction and measurement agree, and
both have finite gradients at zero intensity. Equations and units: docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Counts added to both sides, so that dark pixels (predicted or measured 0) keep finite logarithms and slopes.
BACKGROUND = 0.1


def poisson_loss(intensity: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """Poisson negative log-likelihood above its minimum, in nats per measured photon.

    ``L = sum(I - k - k log(I / k)) / sum(k)`` with I and k raised by :data:`BACKGROUND`: half the Poisson deviance.
    Subtracting the value at I = k changes no gradient and keeps float32 sums exact enough at 1e9 photons.

    Args:
        intensity: real, (..., N, N), predicted counts, >= 0.
        counts: real, same shape, measured counts, >= 0.
        good: bool, (N, N), False where a pixel is to be ignored.

    Returns:
        scalar, >= 0.
    """
    measured = counts + BACKGROUND
    ratio = (intensity + BACKGROUND) / measured
    # x - 1 - log(x) cancels for x near 1, where log1p stays accurate; far from 1 (and down to 0) log itself is.
    excess = ratio - 1
    log_ratio = torch.where(excess.abs() < 0.5, torch.log1p(excess.clamp(-0.5, 0.5)), torch.log(ratio))
    return _per_photon(measured * (excess - log_ratio), counts, good)


def amplitude_loss(intensity: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """Squared error of amplitudes relative to the measured photons: ``L = sum((sqrt(I) - sqrt(k))^2) / sum(k)``.

    The Gaussian approximation of the likelihood after the variance-stabilising square root (I and k raised by
    :data:`BACKGROUND`). Arguments and result as for :func:`poisson_loss`; the square root of the result is the
    R factor of crystallography.
    """
    error = torch.sqrt(intensity + BACKGROUND) - torch.sqrt(counts + BACKGROUND)
    return _per_photon(error * error, counts, good)


def _per_photon(terms: Tensor, counts: Tensor, good: Tensor | None) -> Tensor:
    if good is not None:
        terms, counts = terms * good, counts * good
    return terms.sum() / counts.sum().clamp_min(1.0)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "poisson": poisson_loss,
    "amplitude": amplitude_loss,
}

#: Largest second derivative by a real lane of a probe of power 1, per photon; see Illumination.
CURVATURES = {"poisson": 4.0, "amplitude": 2.0}
