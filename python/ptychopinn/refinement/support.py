# SPDX-License-Identifier: BSD-3-Clause
"""Support of the probe: the pixels outside which all of its modes and variations stay 0.

It is a disc that the user knows, and what is left after small values of the refined probe are set to 0 (the shrink-wrap
method: S. Marchesini et al., Phys. Rev. B 68, 140101 (2003)). In the variables of both engines, pixels outside have no
scale, so that no step changes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.errors import InputError
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.state import State
from ptychopinn.runtime.processes import broadcast

#: Least fraction of the initial probe's power that is within its support.
_WITHIN = 0.1


def disc(size: int, diameter: float, device: torch.device) -> Tensor:
    """Float32, (N, N): 1 in the disc of a diameter, pixels, about sample (N // 2, N // 2), 0 elsewhere."""
    axis = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    return (axis[:, None].square() + axis.square() <= diameter**2 / 4).float()


def confined(state: State, support: Tensor | None, name: str) -> State:
    """A state with probe and variations within a support (N, N), if there is one; the power of the probe stays.

    Raises:
        InputError: of the scan of this name, nearly all of the probe is outside of the support.
    """
    if support is None:
        return state
    probe = state.probe * support
    before, within = (float(squared_modulus(part).sum()) for part in (state.probe, probe))
    if within < _WITHIN * before:
        raise InputError(
            f"{name}: expected an initial probe within refine.probe_support, found {within / before:.1%} of its power "
            "there; state a larger diameter, or none"
        )
    factor = (before / within) ** 0.5
    parts = state.to_dict() | {"probe": probe * factor, "variations": state.variations * support * factor}
    return State(**parts)


def shrunk(state: State, support: Tensor | None, threshold: float) -> Tensor:
    """Pixels of a support (N, N) where the probe's modulus is at least a fraction of its largest.

    The modulus is that of all modes and variations, blurred by a pixel, so that its zeros within the probe stay inside.

    Args:
        state: probe and variations.
        support: as of :func:`disc`; None: all pixels.
        threshold: the fraction.

    Returns:
        the pixels, or ``support`` itself if these are all of its pixels.
    """
    intensity = squared_modulus(state.probe).sum(0)
    if len(state.variations):
        weights = state.coefficients.square().mean(0).to(intensity.dtype)
        intensity = intensity + (weights[:, None, None] * squared_modulus(state.variations)).sum(0)
    for axis in (0, 1):
        intensity = (2 * intensity + intensity.roll(1, axis) + intensity.roll(-1, axis)) / 4
    kept = (intensity >= threshold**2 * intensity.max()).float()
    if support is not None:
        kept *= support
    broadcast(kept)
    return kept if support is None or (kept != support).any() else support
