# SPDX-License-Identifier: BSD-3-Clause
"""The refined variables as one vector of parts, with the arithmetic that the engines need.

A gradient has the same parts and is half the real gradient: ``dJ / d conj(z)`` of a complex part, half of ``dJ / dx``
of a real one, so that ``J(x + d) = J(x) + 2 <g, d> + ...`` with one inner product for all parts.

A quasi-Newton method needs long vectors instead of parts: :class:`Layout` gives the parts that are refined their slices
of two vectors, float32 for object and probe, float64 for positions and intensities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ptychopinn.config import RefineConfig


@dataclass
class State:
    """Object, probe, positions and intensities, or a step or gradient of them.

    The last four parts belong to experiments with more than that, and are empty for others; None: empty.

    Args:
        object: complex64, (H, W), transmission on the canvas; (S, H, W) of the slices of a thick sample.
        probe: complex64, (M, N, N), incoherent modes in sqrt(counts).
        positions: float64, (n, 2), canvas coordinates (y, x) in pixels of the patches' first samples.
        intensities: float64, (n,), logarithm of the factor on the probe's power for every pattern.
        variations: complex64, (V, N, N), of the first mode of the probe, in sqrt(counts).
        coefficients: float64, (n, V), of the variations.
        background: float64, (N, N) in FFT order, square root of the counts of the background.
        distances: float64, (S - 1,), metres between slices.
    """

    object: Tensor
    probe: Tensor
    positions: Tensor
    intensities: Tensor
    variations: Tensor = None  # type: ignore[assignment]
    coefficients: Tensor = None  # type: ignore[assignment]
    background: Tensor = None  # type: ignore[assignment]
    distances: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.variations is None:
            self.variations = self.probe.new_zeros(0, *self.probe.shape[-2:])
        if self.coefficients is None:
            self.coefficients = self.positions.new_zeros(len(self.intensities), 0)
        if self.background is None:
            self.background = self.positions.new_zeros(0, 0)
        if self.distances is None:
            self.distances = self.positions.new_zeros(0)

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))

    def map(self, function: Callable[..., Tensor], *others: State) -> State:
        """Apply ``function`` to every part, with the same parts of other states as further arguments.

        Empty parts are those of this state: on a GPU they would cost as many operators as others.
        """
        return State(*(function(*parts) if parts[0].numel() else parts[0] for parts in zip(self, *others, strict=True)))

    def dot(self, other: State) -> Tensor:
        """Real inner product over all parts, float64, ()."""
        pairs = [(a, b) for a, b in zip(self, other, strict=True) if a.numel()]
        return torch.stack([_real(a).dot(_real(b)).double() for a, b in pairs]).sum()

    def to(self, device: torch.device) -> State:
        """The state on a device."""
        return State(*(part.to(device) for part in self))

    def copy(self) -> State:
        """A copy that shares no memory with this state."""
        return self.map(torch.clone)

    def plus(self, factor: float, step: State) -> State:
        """A new state, ``self + factor * step``."""
        return self.map(lambda part, move: part.add(move, alpha=factor), step)

    def finite(self) -> Tensor:
        """Whether no part has NaN or infinite values, bool, ()."""
        return torch.stack([largest(part) for part in self if part.numel()]).isfinite().all()

    def to_dict(self) -> dict[str, Tensor]:
        """The parts by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def refined_parts(config: RefineConfig) -> dict[str, bool]:
    """Names of the parts of a state, and whether they are refined, if the state has them."""
    return {
        "object": True,
        "probe": config.learn_probe,
        "positions": config.learn_positions,
        "intensities": config.learn_intensities,
        "variations": config.learn_probe,
        "coefficients": config.learn_variation_coefficients,
        "background": config.learn_background,
        "distances": config.learn_slice_distances,
    }


@dataclass(frozen=True, eq=False)
class Vector:
    """The refined parts of a state as two vectors, float32 and float64; or rows of such vectors."""

    single: Tensor
    double: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.single, self.double))

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(part.nbytes for part in self)

    def copy_(self, other: Vector) -> None:
        """Overwrite with another vector."""
        for part, source in zip(self, other, strict=True):
            part.copy_(source)

    def dot(self, other: Vector) -> Tensor:
        """Inner product, float64, ()."""
        return self.single.dot(other.single).double() + self.double.dot(other.double)

    def to_dict(self) -> dict[str, Tensor]:
        """The parts by name, not copied."""
        return {"single": self.single, "double": self.double}


class Layout:
    """Where the refined parts of a state are in a :class:`Vector`.

    Args:
        state: with parts of the sizes, on the device.
        config: which parts are refined; the object always is.
    """

    def __init__(self, state: State, config: RefineConfig) -> None:
        self.device = state.object.device
        refined = refined_parts(config)
        self.parts = [name for name, wanted in refined.items() if wanted and getattr(state, name).numel()]
        self.shapes = {name: tuple(getattr(state, name).shape) for name in self.parts}
        self.complex = {name: getattr(state, name).is_complex() for name in self.parts}
        self.slices: dict[str, slice] = {}
        ends = {torch.float32: 0, torch.float64: 0}
        for name in self.parts:
            part = getattr(state, name)
            kind = torch.float32 if part.is_complex() else torch.float64
            first, ends[kind] = ends[kind], ends[kind] + part.numel() * (2 if part.is_complex() else 1)
            self.slices[name] = slice(first, ends[kind])
        self.sizes = (ends[torch.float32], ends[torch.float64])

    def zeros(self, *rows: int) -> Vector:
        """A vector of zeros, or ``rows`` of them."""
        single, double = (
            torch.zeros(*rows, size, dtype=kind, device=self.device)
            for size, kind in zip(self.sizes, (torch.float32, torch.float64), strict=True)
        )
        return Vector(single, double)

    def state(self, vector: Vector, others: State) -> State:
        """A state whose refined parts are views of a vector, and whose other parts are those of another state."""
        views = others.to_dict()
        for name in self.parts:
            if self.complex[name]:
                flat = vector.single[self.slices[name]].view(*self.shapes[name], 2)
                views[name] = torch.view_as_complex(flat)
            else:
                views[name] = vector.double[self.slices[name]].view(self.shapes[name])
        return State(**views)


def largest(part: Tensor) -> Tensor:
    """Largest modulus of a real or imaginary part, float64, (); NaN if there is one, and 0 of nothing."""
    flat = _real(part)
    if not flat.numel():
        return flat.new_zeros((), dtype=torch.float64)
    norm: Tensor = torch.linalg.vector_norm(flat, torch.inf)
    return norm.double()


def _real(part: Tensor) -> Tensor:
    return (torch.view_as_real(part) if part.is_complex() else part).reshape(-1)
