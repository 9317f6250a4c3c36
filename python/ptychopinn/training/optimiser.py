# SPDX-License-Identifier: BSD-3-Clause
"""One optimiser to Lightning, a method of its own for each kind of parameter.

Weights of a network have no scale, and Adam finds one. The probe has one, since its curvature is known (see
:class:`~ptychopinn.physics.illumination.Illumination`): a step along the gradient itself, with momentum, moves what the
data determine and leaves dark pixels alone, where Adam would amplify their noise to the size of the signal. Positions
of patterns that a batch does not contain stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from ptychopinn.batches.neighbourhoods import neighbourhood_size
from ptychopinn.batches.sizes import rate_factor
from ptychopinn.batches.steps import StepShape
from ptychopinn.config import Config
from ptychopinn.models import PtychoModel
from ptychopinn.physics.likelihood import CURVATURES

#: Power of the noise that a full step may add to a probe of power 1.
_NOISE = 3e-4
#: Peak learning rate of the network, if none is stated.
LEARNING_RATE = 2e-3


class RowAdam(Optimizer):
    """Adam for the rows of a parameter (n, d) that a batch contains; the others do not move, nor does their momentum.

    torch's SparseAdam reads values back to the host and counts the steps of all rows as one. Here a step costs nothing
    that grows with n, and the first step of a row is its first, whenever it comes.

    Args:
        group: with one parameter (n, d) in "params".
        rate: learning rate.
        betas: decay of the averages of gradient and squared gradient.
        eps: added to the root of the latter.

    Source:
        D. P. Kingma and J. Ba, ICLR 2015, algorithm 1.
    """

    def __init__(
        self, group: dict[str, Any], rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__([group], {"lr": rate, "betas": betas, "eps": eps})
        self._rows: list[tuple[Tensor, Tensor]] = []

    def add_gradient(self, rows: Tensor, gradient: Tensor) -> None:
        """Add a gradient (..., d) of rows (...,), some of which may be equal; the next step takes their sum."""
        self._rows.append((rows.flatten(), gradient.reshape(-1, gradient.shape[-1])))

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Rows (m,) and gradients (m, d) that were added, which the next step does not see."""
        rows, gradients = zip(*self._rows, strict=True)
        self._rows = []
        return torch.cat(rows), torch.cat(gradients)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        if not self._rows:
            return loss
        rows, gradients = self.take_gradients()
        # Rows that are equal have one sum, and write one value: the result does not depend on their order.
        equal = (rows[:, None] == rows[None, :]).double()
        (group,) = self.param_groups
        (parameter,) = group["params"]
        gradient = (equal @ gradients.double()).to(parameter.dtype)
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(len(parameter), 1, dtype=parameter.dtype, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        count = state["step"][rows] + 1
        mean = torch.lerp(state["exp_avg"][rows], gradient, 1 - first)
        square = torch.lerp(state["exp_avg_sq"][rows], gradient * gradient, 1 - second)
        for name, value in (("step", count), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name].index_copy_(0, rows, value)
        length = torch.sqrt(square / (1 - second**count)) + group["eps"]
        parameter.index_copy_(0, rows, parameter[rows] - group["lr"] * (mean / (1 - first**count)) / length)
        return loss


class CompositeOptimizer(Optimizer):
    """Several optimisers that step at once and share one list of parameter groups.

    On CUDA the rates are tensors that stay where they are, so that a captured step reads those of its time.

    Args:
        parts: optimisers of disjoint parameters.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        device = self.param_groups[0]["params"][0].device
        self.rates: Tensor | None = None
        if device.type == "cuda":
            rates = [float(group["lr"]) for group in self.param_groups]
            self.rates = torch.tensor(rates, dtype=torch.float32, device=device)
            self._attach_rates()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of every group."""
        if self.rates is not None:
            self.rates.copy_(torch.tensor(rates, dtype=torch.float32, device="cpu"))
            return
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            # How a step is computed follows from the device of this training, not from that of the saved one.
            options = [{name: group.get(name) for name in ("capturable", "fused")} for group in part.param_groups]
            part.load_state_dict(state)
            for group, kept in zip(part.param_groups, options, strict=True):
                group.update({name: value for name, value in kept.items() if name in group})
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        if self.rates is not None:
            self._attach_rates()

    def _attach_rates(self) -> None:
        assert self.rates is not None
        for group, rate in zip(self.param_groups, self.rates.unbind(), strict=True):
            group["lr"] = rate


def make_optimiser(model: PtychoModel, config: Config, shape: StepShape) -> CompositeOptimizer:
    """The optimiser of a model: for its network, and for probe and positions where these are learned.

    Args:
        model: on the device of the training. On CUDA every part can be captured.
        config: of the training.
        shape: of its steps.
    """
    training, device = config.training, model.good.device
    on_cuda = device.type == "cuda"
    network = {"params": list(model.generator.parameters()), "name": "network"}
    rate = (training.learning_rate or LEARNING_RATE) * rate_factor(config, shape.groups)
    parts: list[Optimizer] = [Adam([network], rate, capturable=on_cuda, fused=on_cuda or None)]
    physics = [parameter for parameter in model.illumination.parameters() if parameter.requires_grad]
    if physics:
        newton = training.probe_step * _trust(model, config, shape) / CURVATURES[training.loss]
        probe = {"params": physics, "name": "probe"}
        parts.append(SGD([probe], newton, momentum=0.9, fused=on_cuda or None))
    if model.positions is not None:
        positions = {"params": list(model.positions.parameters()), "name": "positions"}
        parts.append(RowAdam(positions, training.position_step))
    return CompositeOptimizer(parts)


def _trust(model: PtychoModel, config: Config, shape: StepShape) -> float:
    """Share of the probe's step that the photons of one step can bear.

    A detector pixel's amplitude has a variance of 1/4, whatever its counts, so a full step from K patterns of n photons
    moves a probe of power 1 by a noise of power ``N^2 / (4 n K)``.
    """
    photons = neighbourhood_size(config) * shape.groups_per_step * float(model.illumination.unit) ** 2
    return min(1.0, _NOISE * 4 * photons / model.patch_size**2)
