# SPDX-License-Identifier: BSD-3-Clause
"""What is known of objects before they are measured, and the comparison with a known one."""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.physics.propagation import squared_modulus

#: Steps between neighbouring pixels, relative to the object's mean modulus, below which the variation is quadratic.
_SMALL = 1e-3


def total_variation(canvases: Tensor, illumination: Tensor) -> Tensor:
    """Isotropic total variation of complex canvases where there is light, relative to their modulus there.

    ``sum_r w(r) sqrt(|O(y+1, x) - O|^2 + |O(y, x+1) - O|^2 + s^2) / (m sum_r w(r))``, less its value at a constant
    object, with the illumination w, m the root of the mean square of |O| under it, and s = m / 1000. Dimensionless;
    zero for a constant object.

    Args:
        canvases: complex, (B, H, W).
        illumination: real, (B, H, W), >= 0.

    Returns:
        scalar.
    """
    weight = illumination / illumination.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(illumination.dtype).tiny)
    # A root of the mean square: |O| itself has no derivative at zero.
    level = torch.sqrt((weight * squared_modulus(canvases)).sum((-2, -1), keepdim=True).clamp_min(1e-24))
    unit = canvases / level
    down = squared_modulus(unit[:, 1:, :-1] - unit[:, :-1, :-1])
    right = squared_modulus(unit[:, :-1, 1:] - unit[:, :-1, :-1])
    steps = torch.sqrt(down + right + _SMALL**2) - _SMALL
    return (weight[:, :-1, :-1] * steps).sum((-2, -1)).mean()


def roughness(canvases: Tensor, illumination: Tensor) -> Tensor:
    """Mean square step between neighbouring pixels where there is light, relative to the mean square modulus there.

    ``sum_r w(r) (|O(y+1, x) - O|^2 + |O(y, x+1) - O|^2) / sum_r w(r) |O|^2``; arguments as of :func:`total_variation`.

    Returns:
        scalar, dimensionless; zero for a constant object.
    """
    weight = illumination / illumination.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(illumination.dtype).tiny)
    level = (weight * squared_modulus(canvases)).sum((-2, -1)).clamp_min(1e-24)
    down = squared_modulus(canvases[:, 1:, :-1] - canvases[:, :-1, :-1])
    right = squared_modulus(canvases[:, :-1, 1:] - canvases[:, :-1, :-1])
    return ((weight[:, :-1, :-1] * (down + right)).sum((-2, -1)) / level).mean()


def supervised_loss(canvases: Tensor, truth: Tensor, illumination: Tensor) -> Tensor:
    """Squared distance of canvases from the true object, up to a phase factor for each, in units of the truth's square.

    ``min over |s| = 1 of sum_r w |O - s T|^2 / sum_r w |T|^2 = (sum w |O|^2 + sum w |T|^2 - 2 |sum w O T^*|) / sum w
    |T|^2``: patterns do not tell the constant phase, so a network cannot know it.

    Args:
        canvases: complex, (B, H, W).
        truth: complex, (B, H, W).
        illumination: real, (B, H, W), >= 0.

    Returns:
        scalar, the mean over the batch.
    """
    power, product = (
        (illumination * squared_modulus(truth)).sum((-2, -1)),
        (illumination * canvases * truth.conj()).sum((-2, -1)),
    )
    modulus = torch.sqrt(squared_modulus(product).clamp_min(1e-30))
    distance = (illumination * squared_modulus(canvases)).sum((-2, -1)) + power - 2 * modulus
    return (distance / power.clamp_min(1e-30)).mean()
