# SPDX-License-Identifier: BSD-3-Clause
"""What is refined, as one vector of four parts that the engines do arithmetic with.

A gradient has the same parts. It is half the real gradient: of a complex part ``dJ / d conj(z)``, of a real part half
of ``dJ / dx``, so that ``J(x + d) = J(x) + 2 <g, d> + ...`` with one inner product for all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class State:
    """Object, probe, positions and intensities, or a step or gradient of them.

    Args:
        object: complex64, (H, W), transmission on the canvas.
        probe: complex64, (M, N, N), incoherent modes in sqrt(counts).
        positions: float64, (n, 2), canvas coordinates (y, x) in pixels of the patches' first samples.
        intensities: float64, (n,), logarithm of every pattern's share of the probe's power.
    """

    object: Tensor
    probe: Tensor
    positions: Tensor
    intensities: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, entry.name) for entry in fields(self))

    def map(self, function: Callable[..., Tensor], *others: State) -> State:
        """A state of ``function`` applied to every part, with the same parts of others."""
        return State(*(function(*parts) for parts in zip(self, *others, strict=True)))

    def dot(self, other: State) -> float:
        """Real inner product over all parts."""
        return sum(float(_real(a).dot(_real(b))) for a, b in zip(self, other, strict=True))

    def to(self, device: torch.device) -> State:
        return self.map(lambda part: part.to(device))

    def copy(self) -> State:
        return self.map(torch.clone)

    def plus(self, factor: float, step: State) -> State:
        return self.map(lambda part, move: part.add(move, alpha=factor), step)

    def add_(self, factor: float, step: State) -> State:
        for part, move in zip(self, step, strict=True):
            part.add_(move, alpha=factor)
        return self

    def scale_(self, factor: float) -> State:
        for part in self:
            part.mul_(factor)
        return self

    def finite(self) -> bool:
        return all(bool(torch.isfinite(_real(part)).all()) for part in self)

    def to_dict(self) -> dict[str, Tensor]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def _real(part: Tensor) -> Tensor:
    return (torch.view_as_real(part) if part.is_complex() else part).reshape(-1)
