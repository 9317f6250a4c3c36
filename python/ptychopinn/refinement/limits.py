# SPDX-License-Identifier: BSD-3-Clause
"""Limits of the amplitude and the phase of the object, as penalties that begin to grow, quadratically, beyond them.

A projection after every step (hard limits) would leave a quasi-Newton method without an objective; see docs/maths.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.refinement.state import State


class Limits:
    """Penalties of an object beyond its limits; there is nothing to compute where the configuration has none.

    Args:
        config: the limits and their weight.
        pixels: good detector pixels of all patterns.

    Attributes:
        power: of the initial probe, in counts, (); to it amplitude 1 refers, where the power of the probe is kept.
    """

    def __init__(self, config: RefineConfig, pixels: int) -> None:
        self.amplitude, self.phase = config.amplitude_limit, config.phase_limits
        self.scale = 0.5 * pixels * config.limit_weight
        self.free_power = config.keep_power and config.learn_probe
        self.power: Tensor | None = None

    def __bool__(self) -> bool:
        return self.scale > 0 and (self.amplitude is not None or self.phase is not None)

    def set_power(self, initial_probe: Tensor) -> None:
        """Set the power that the result's probe has, that of an initial probe (M, N, N)."""
        if self:
            self.power = squared_modulus(initial_probe).sum()

    def __call__(self, state: State, weight: Tensor, gradient: State) -> Tensor:
        """Value, float64, (); adds half the gradient by object and probe.

        Args:
            state: where to evaluate; of a thick sample the limits are those of every slice.
            weight: (H, W), of sum 1.
            gradient: to add to.
        """
        total = torch.zeros((), dtype=torch.float64, device=weight.device)
        slices = state.object.dim() == 3
        pairs = list(zip(state.object, gradient.object, strict=True)) if slices else [(state.object, gradient.object)]
        if self.amplitude is not None:
            # The result has the power of the initial probe: the object is multiplied by what the probe is divided by.
            factor, power, level = 1 / len(pairs), squared_modulus(state.probe).sum(), weight.new_ones(())
            if self.free_power:
                assert self.power is not None
                level = (power / self.power) ** (factor / 2)
            for image, target in pairs:
                value, by_object, by_level = amplitude_excess(image, weight, level, self.amplitude)
                total += self.scale * value
                target.add_(by_object, alpha=self.scale)
                if self.free_power:
                    gradient.probe.add_(state.probe * (by_level * (self.scale * factor / power)))
        if self.phase is not None:
            for image, target in pairs:
                value, by_object = phase_excess(image, weight, *self.phase)
                total += self.scale * value
                target.add_(by_object, alpha=self.scale)
        return total

    def stiffness(self, image: Tensor, illumination: Tensor) -> Tensor:
        """Curvature of the penalties beyond the limits, relative to that of the counts, which no pixel exceeds: ().

        Args:
            image: complex, (H, W) or (S, H, W).
            illumination: (H, W), in counts.
        """
        total = illumination.sum().clamp_min(torch.finfo(illumination.dtype).tiny)
        level = (illumination * squared_modulus(image)).sum() / total / (image.numel() / illumination.numel())
        return self.scale / (total * level.clamp(1e-6, 1.0))


def amplitude_excess(image: Tensor, weight: Tensor, level: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean square of the amplitude above a limit, ``sum_r w max(0, c |O| - a)^2``.

    Args:
        image: complex, (H, W), O.
        weight: (H, W), w, of sum 1.
        level: (), c, that the amplitude is multiplied by.
        limit: a.

    Returns:
        value; half its gradient by the object, (H, W); half its derivative by log c.
    """
    modulus = torch.sqrt(squared_modulus(image).clamp_min(torch.finfo(weight.dtype).tiny))
    excess = (level * modulus - limit).clamp_min(0.0)
    along = weight * excess * level
    return (weight * excess.square()).sum(), image * (along / modulus), (along * modulus).sum()


def phase_excess(image: Tensor, weight: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Mean square of the phase beyond limits, ``sum_r w |O|^2 e^2 / sum_r w |O|^2`` with e in rad.

    The phase is that within pi of the middle of the limits. Dark pixels, whose phase is noise, count little.

    Args:
        image: complex, (H, W), O.
        weight: (H, W), w, of sum 1.
        low: lower limit of the phase, rad.
        high: upper limit.

    Returns:
        value, and half its gradient, (H, W).
    """
    middle = torch.tensor((low + high) / 2, dtype=weight.dtype, device=weight.device)
    phase = torch.angle(image * torch.polar(torch.ones_like(middle), -middle))
    excess = (phase.abs() - (high - low) / 2).clamp_min(0.0)
    squares = weight * squared_modulus(image)
    level = squares.sum().clamp_min(1e-24)
    value = (squares * excess.square()).sum() / level
    around = torch.complex(excess.square() - value, excess * phase.sign())
    return value, image * around * (weight / level)
