# SPDX-License-Identifier: BSD-3-Clause
"""The refined variables as one vector of four parts, with the arithmetic that the engines need.

A gradient has the same parts and is half the real gradient: ``dJ / d conj(z)`` of a complex part, half of ``dJ / dx``
of a real one, so that ``J(x + d) = J(x) + 2 <g, d> + ...`` with one inner product for all parts.
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
        intensities: float64, (n,), logarithm of the factor on the probe's power for every pattern.
    """

    object: Tensor
    probe: Tensor
    positions: Tensor
    intensities: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))

    def map(self, function: Callable[..., Tensor], *others: State) -> State:
        """Apply ``function`` to every part, with the same parts of other states as further arguments."""
        return State(*(function(*parts) for parts in zip(self, *others, strict=True)))

    def dot(self, other: State) -> float:
        """Real inner product over all parts."""
        return sum(float(_real(a).dot(_real(b))) for a, b in zip(self, other, strict=True))

    def to(self, device: torch.device) -> State:
        """The state on a device."""
        return self.map(lambda part: part.to(device))

    def copy(self) -> State:
        """A copy that shares no memory with this state."""
        return self.map(torch.clone)

    def plus(self, factor: float, step: State) -> State:
        """A new state, ``self + factor * step``."""
        return self.map(lambda part, move: part.add(move, alpha=factor), step)

    def add_(self, factor: float, step: State) -> State:
        """Add ``factor * step`` in place."""
        for part, move in zip(self, step, strict=True):
            part.add_(move, alpha=factor)
        return self

    def scale_(self, factor: float) -> State:
        """Multiply all parts by ``factor`` in place."""
        for part in self:
            part.mul_(factor)
        return self

    def finite(self) -> bool:
        """Whether no part has NaN or infinite values."""
        return all(bool(torch.isfinite(_real(part)).all()) for part in self)

    def to_dict(self) -> dict[str, Tensor]:
        """The parts by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _real(part: Tensor) -> Tensor:
    return (torch.view_as_real(part) if part.is_complex() else part).reshape(-1)
