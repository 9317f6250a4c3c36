# SPDX-License-Identifier: BSD-3-Clause
"""One optimiser to Lightning, a method of its own for each kind of parameter.

Weights of a network have no scale, and Adam finds one. The probe has one, since its curvature is known (see
:class:`~ptychopinn.physics.illumination.Illumination`): a step along the gradient itself, with momentum, moves what the
data determine and leaves dark pixels alone, where Adam would amplify their noise to the size of the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class CompositeOptimizer(Optimizer):
    """Several optimisers that step at once and share one list of parameter groups.

    Args:
        parts: optimisers of disjoint parameters.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
