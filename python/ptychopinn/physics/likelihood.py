# SPDX-License-Identifier: BSD-3-Clause
"""Losses between predicted and measured counts; both arguments are intensities in counts.

The losses are divided by the number of measured photons: they are dimensionless, comparable between doses, and need no
photon number as a setting. They are zero, with zero gradient, where prediction and measurement agree, and have finite
gradients at zero intensity. Equations and units: docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_ext import correct_fields

#: Counts added to both sides, so that dark pixels (predicted or measured 0) have finite logarithms and gradients.
BACKGROUND = 0.1


def poisson_loss(intensity: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """Poisson negative log-likelihood above its minimum, in nats per measured photon.

    ``L = sum(I - k - k log(I / k)) / sum(k)`` with :data:`BACKGROUND` added to I and k: half the Poisson deviance.
    Subtracting the value at I = k changes no gradient and keeps float32 sums accurate at 1e9 photons.

    Args:
        intensity: real, (..., N, N), predicted counts, >= 0.
        counts: real, same shape, measured counts, >= 0.
        good: bool, (N, N), False at pixels to ignore; None: all are good.

    Returns:
        scalar, >= 0.

    Source:
        P. Thibault and M. Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
    """
    measured = counts + BACKGROUND
    ratio = (intensity + BACKGROUND) / measured
    # x - 1 - log(x) cancels for x near 1, where log1p is accurate; far from 1 (and down to 0) log is.
    excess = ratio - 1
    log_ratio = torch.where(excess.abs() < 0.5, torch.log1p(excess.clamp(-0.5, 0.5)), torch.log(ratio))
    return _per_photon(measured * (excess - log_ratio), counts, good)


def amplitude_loss(intensity: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """Squared error of amplitudes per measured photon: ``L = sum((sqrt(I) - sqrt(k))^2) / sum(k)``.

    The Gaussian approximation of the likelihood after the variance-stabilising square root, with :data:`BACKGROUND`
    added to I and k. Arguments and result as for :func:`poisson_loss`. The square root of the result is the R factor of
    crystallography.
    """
    error = torch.sqrt(intensity + BACKGROUND) - torch.sqrt(counts + BACKGROUND)
    return _per_photon(error * error, counts, good)


def loss_of_fields(loss: str, fields: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """The loss of predicted far fields, to rounding that of their intensity, in one pass over the fields.

    Differentiable once, by the fields.

    Args:
        loss: a key of :data:`LOSSES`.
        fields: complex, (..., M, N, N), in sqrt(counts).
        counts: real, (..., N, N), measured counts, >= 0.
        good: bool, (N, N), False at pixels to ignore; None: all are good.

    Returns:
        scalar, >= 0, of the counts' type.
    """
    values = correct_fields(fields, counts, mask=good, loss=loss, background=BACKGROUND, correct=False)[1]
    return per_photon(loss, values, counts, good)


def per_photon(loss: str, values: Tensor, counts: Tensor, good: Tensor | None = None) -> Tensor:
    """The loss of patterns whose value by :func:`ptycho_ext.correct_fields` is known.

    Args:
        loss: a key of :data:`LOSSES`.
        values: real, (...), of the patterns.
        counts: real, (..., N, N), measured counts, >= 0.
        good: bool, (N, N), False at pixels to ignore; None: all are good.

    Returns:
        scalar, >= 0, of the counts' type.
    """
    result: Tensor = values.sum() * _PER_VALUE[loss] / _photons(counts, good)
    return result.to(counts.dtype)


def _per_photon(terms: Tensor, counts: Tensor, good: Tensor | None) -> Tensor:
    if good is not None:
        terms = terms * good
    return terms.sum() / _photons(counts, good)


def _photons(counts: Tensor, good: Tensor | None) -> Tensor:
    if good is not None:
        counts = counts * good
    return counts.sum().clamp_min(1.0)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "poisson": poisson_loss,
    "amplitude": amplitude_loss,
}

#: Each loss as a multiple of the value that :func:`ptycho_ext.correct_fields` computes.
_PER_VALUE = {"poisson": 2.0, "amplitude": 1.0}

#: Largest second derivative per photon with respect to a real or imaginary part of a probe of power 1; see
#: Illumination.
CURVATURES = {"poisson": 4.0, "amplitude": 2.0}
