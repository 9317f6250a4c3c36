# SPDX-License-Identifier: BSD-3-Clause
"""What an objective computes of a batch, and what all batches need of the probe."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class BatchCorrection:
    """Objective of one batch and the corrections of a state: minus half the gradient.

    Attributes:
        value: J, half the negative logarithm of the likelihood above its minimum, in nats.
        object: complex, of the batch's region of the canvas.
        probe: of the probe's representation (see :meth:`Objective.represent`).
        positions: (b, 2), or None unless they are refined.
        intensities: (b,), or None unless they are refined.
        residuals: (b,), deviance of every pattern per detector pixel.
        others: of other parts of the state by name, those of patterns with b rows; for experiments that have them.
    """

    value: Tensor
    object: Tensor
    probe: Tensor
    positions: Tensor | None
    intensities: Tensor | None
    residuals: Tensor
    others: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A state's probe and intensities as batches need them.

    Attributes:
        representation: of the probe: itself where patterns are taken through a step in a cache, or else that of
            :class:`SubpixelShift`.
        factors: float32, (n,), of the intensity of every pattern; there for orthonormal far fields, and elsewhere for
            those that are not normalised.
    """

    representation: Tensor
    factors: Tensor
