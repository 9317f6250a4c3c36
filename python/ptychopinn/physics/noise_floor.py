# SPDX-License-Identifier: BSD-3-Clause
"""Expected loss of the true intensities: what the photon statistics alone leave of a loss.

For a pixel of intensity x it is `f(x) = E[term(x, k)]` over `k ~ Poisson(x)`, with the term of the loss in
physics/likelihood.py and its background on both sides. At high counts f tends to 1/2 nat (Poisson) or 1/4 (amplitude);
below one count it is proportional to x. It is summed exactly once, in float64, on a grid of log x, and interpolated.
The table holds `f(x) (1 + x) / x`, which is finite and smooth from 0 to infinity. Of a pixel that saturates at so many
counts, the root of a count is taken as normal with a standard deviation of 1/2. Equations: docs/maths.md.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from ptychopinn.physics.likelihood import BACKGROUND

#: Intensities of the first and last node; the tabulated function is constant beyond them, to 5e-5 of its value.
_FIRST, _LAST = 1e-5, 1e4

_NODES = 2048


def poisson_terms(intensity: Tensor, counts: Tensor, saturation: float | None = None) -> Tensor:
    """Poisson loss of every pixel, nats, as :func:`expected_terms` expects it.

    Args:
        intensity: real, expected counts, >= 0.
        counts: real, measured counts of the same shape.
        saturation: counts from which a pixel states only that there were so many; its loss is ``-log P(n >= counts)``.
    """
    measured = counts + BACKGROUND
    excess = (intensity - counts) / measured
    terms = measured * (excess - torch.log1p(excess))
    if saturation is None:
        return terms
    return torch.where(counts >= saturation, -torch.special.log_ndtr(_score(intensity, saturation)), terms)


def up_to_saturation(intensity: Tensor, counts: Tensor, saturation: float | None) -> Tensor:
    """Expected counts to compare with measured ones of the same shape: those of a saturated pixel are its limit."""
    if saturation is None:
        return intensity
    return torch.where((counts >= saturation) & (intensity > counts), counts, intensity)


def expected_terms(intensity: Tensor, loss: str, saturation: float | None = None) -> Tensor:
    """Expected term of the loss for every pixel, over the photon statistics of that intensity.

    The first call for a loss and a device copies a table there; later calls read nothing back and can be captured.

    Args:
        intensity: real, any shape, expected counts, >= 0.
        loss: "poisson" (nats) or "amplitude" (counts).
        saturation: counts from which a pixel states only that there were so many; None: no limit.

    Returns:
        of the shape and type of ``intensity``, >= 0.

    Raises:
        ValueError: the loss is unknown.
    """
    table = _table_on(loss, intensity.device)
    step = (math.log(_LAST) - math.log(_FIRST)) / (_NODES - 1)
    place = (torch.log(intensity.clamp(_FIRST, _LAST)) - math.log(_FIRST)) / step
    left = place.to(torch.int64).clamp(0, _NODES - 2)
    values = torch.lerp(table[left], table[left + 1], (place - left).to(table.dtype))
    terms = values.to(intensity.dtype) * (intensity / (1 + intensity))
    if saturation is None:
        return terms
    score = _score(intensity, saturation)
    saturated = torch.special.ndtr(score)
    density = torch.exp(-0.5 * score.square()) / math.sqrt(2 * math.pi)
    # Of a normal variable r, r^2 where r < -score, and -log P(r >= -score) elsewhere.
    below = terms * (1 - saturated + score * density).clamp_min(0.0)
    log_tail = torch.special.log_ndtr(score).clamp_min(-1e4)
    censored = saturated * log_tail * (1.0 if loss == "poisson" else 0.5)
    result: Tensor = below - censored
    return result


def _score(intensity: Tensor, saturation: float) -> Tensor:
    """How far an intensity is above the saturation, in standard deviations of the root of a count."""
    return 2 * (torch.sqrt(intensity + BACKGROUND) - math.sqrt(saturation + BACKGROUND))


def noise_floor(intensity: Tensor, loss: str, good: Tensor | None = None, saturation: float | None = None) -> Tensor:
    """Expected loss of the true intensities, per photon.

    A fit whose loss is 1.3 times this value explains the data to within 1.3 times shot noise. With parameters fitted to
    the same counts the ratio of a perfect model is below 1, by the fraction of parameters to pixels with photons.

    Args:
        intensity: real, (..., N, N), expected counts, >= 0: the truth, or the prediction of a good fit.
        loss: a key of :data:`ptychopinn.physics.likelihood.LOSSES`.
        good: bool, (N, N), False at pixels to ignore; None: all are good.
        saturation: see :func:`expected_terms`; photons beyond it are not counted.

    Returns:
        scalar, >= 0, in the unit of the loss: nats per photon (Poisson), or squared amplitude per photon.

    Raises:
        ValueError: the loss is unknown.

    Example:
        >>> round(float(noise_floor(torch.full((8, 8), 1000.0), "poisson")) * 1000, 3)
        0.5
    """
    terms = expected_terms(intensity, loss, saturation)
    if saturation is not None:
        intensity = intensity.clamp_max(saturation)
    if good is not None:
        terms, intensity = terms * good, intensity * good
    return terms.sum() / intensity.sum().clamp_min(1.0)


_TABLES: dict[tuple[str, torch.device], Tensor] = {}


def _table_on(loss: str, device: torch.device) -> Tensor:
    if (loss, device) not in _TABLES:
        _TABLES[loss, device] = torch.from_numpy(_table(loss).astype(np.float32)).to(device)
    return _TABLES[loss, device]


@cache
def _table(loss: str) -> NDArray[np.float64]:
    """`f(x) (1 + x) / x` at the nodes, summed over all counts within 12 standard deviations and 30 counts."""
    nodes = np.geomspace(_FIRST, _LAST, _NODES)
    return np.array([_expected(x, loss) * (1 + x) / x for x in nodes])


def _expected(x: float, loss: str) -> float:
    width = 12 * math.sqrt(x) + 30
    k = np.arange(max(0, math.floor(x - width)), math.ceil(x + width) + 1, dtype=np.float64)
    probability = np.exp(k * math.log(x) - x - gammaln(k + 1))
    if loss == "poisson":
        excess = (x - k) / (k + BACKGROUND)
        terms = (k + BACKGROUND) * (excess - np.log1p(excess))
    elif loss == "amplitude":
        terms = np.square(np.sqrt(x + BACKGROUND) - np.sqrt(k + BACKGROUND))
    else:
        raise ValueError(f"noise_floor: loss must be poisson or amplitude, got {loss!r}")
    return float((probability * terms).sum())
