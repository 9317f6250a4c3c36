# SPDX-License-Identifier: BSD-3-Clause
"""Two engines with one interface: a step after every batch, or a quasi-Newton step after every pass."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ptychopinn.refinement.lbfgs import LbfgsEngine
from ptychopinn.refinement.pie import PieEngine
from ptychopinn.refinement.state import State

__all__ = ["ENGINES", "Engine", "LbfgsEngine", "PieEngine"]


class Engine(Protocol):
    """Minimises J pass by pass.

    A pass reads one small vector back from the device, at its end; "lbfgs" one more for every step that its line search
    rejects.

    Attributes:
        state: the current state, always finite.
        data_term: J of the state without regularisers.
        residuals: (n,), deviance of every pattern per detector pixel. Of "pie", data term and residuals are those met
            during the last pass.
    """

    state: State
    data_term: float
    residuals: Tensor

    def advance(self) -> float:
        """Do one pass; returns J."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the engine as tensors and plain values, for a checkpoint."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


ENGINES: dict[str, type[PieEngine] | type[LbfgsEngine]] = {"pie": PieEngine, "lbfgs": LbfgsEngine}
