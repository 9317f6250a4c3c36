# SPDX-License-Identifier: BSD-3-Clause
"""Interface of generators and registry of those that a configuration can select.

A generator reconstructs one object canvas from a group of C patterns. To add one, subclass :class:`Generator`, decorate
it with ``@register_generator("name")`` and import its module; ``--model.generator name`` then selects it. The keyword
arguments of its constructor are the keys of ``--model.options``, except ``patch_size`` and ``group_size``, which are
set to N and C. Shapes: B groups, C patterns of a group, N detector side, M probe modes, (H, W) canvas of a group.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ptychopinn.errors import InputError
from ptychopinn.runtime.process_settings import own_defaults


class Generator(nn.Module, ABC):
    """Network from the patterns of B groups to one complex object canvas per group.

    Attributes:
        size_multiple: N must be a multiple of this.
        canvas_multiple: canvas sides must be multiples of this.
        group_size: the only supported group size C; None: any.
    """

    size_multiple: int = 16
    canvas_multiple: int = 1
    group_size: int | None = None

    @abstractmethod
    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        """Reconstruct the groups' canvases.

        Args:
            counts: real, (B, C, N, N), measured counts in FFT order.
            positions: float64, (B, C, 2), (y, x) of each patch's first sample on its group's canvas.
            canvas_size: (H, W) pixels, the same for all groups of the batch.
            probe: complex, (M, N, N), in sqrt(counts).

        Returns:
            complex, (B, H, W).
        """


#: Arguments of layers and parameters: generators are made on the CPU, whatever torch's defaults, and moved as a whole.
ON_CPU: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}


def require_positive(**options: int) -> None:
    """Check options of a generator that count something.

    Raises:
        InputError: one is below 1; it names the option.
    """
    for name, value in options.items():
        if value < 1:
            raise InputError(f"model.options: {name} must be at least 1, got {value}")


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer whose output is initially zero: the last one of what corrects an estimate."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


GENERATORS: dict[str, type[Generator]] = {}
G = TypeVar("G", bound=type[Generator])


def register_generator(name: str) -> Callable[[G], G]:
    """Class decorator that adds a generator to :data:`GENERATORS` under ``name``.

    Raises:
        ValueError: the name is taken.
    """

    def register(generator: G) -> G:
        if name in GENERATORS:
            raise ValueError(f"register_generator: {name!r} is taken by {GENERATORS[name].__qualname__}")
        GENERATORS[name] = generator
        return generator

    return register


def build_generator(
    name: str, patch_size: int, options: Mapping[str, Any] | None = None, group_size: int = 1
) -> Generator:
    """Build the generator ``name``.

    Args:
        name: key of :data:`GENERATORS`.
        patch_size: N, pixels, 32 to 256.
        options: keyword arguments of the generator's constructor.
        group_size: C, patterns of a group.

    Raises:
        InputError: unknown name or option, or a patch size that the generator does not support.
    """
    if name not in GENERATORS:
        raise InputError(f"model.generator: must be one of {', '.join(sorted(GENERATORS))}, got {name!r}")
    generator = GENERATORS[name]
    sizes = {"patch_size": patch_size, "group_size": group_size}
    arguments = inspect.signature(generator).parameters
    known = [key for key in arguments if key not in sizes]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise InputError(f"model.options: {name!r} takes {', '.join(known)}, got {', '.join(unknown)}")
    multiple = generator.size_multiple
    if patch_size % multiple or not 32 <= patch_size <= 256:
        raise InputError(
            f"model.generator: {name!r} takes patterns of 32 to 256 pixels in multiples of {multiple}, got {patch_size}"
        )
    with own_defaults():  # for the layers of other distributions' generators
        return generator(**{key: value for key, value in sizes.items() if key in arguments}, **(options or {}))


def with_new_inputs(weight: Tensor, inputs: int, end: int) -> Tensor:
    """The weight of a convolution that had fewer inputs: the same function, whatever the new ones are.

    Args:
        weight: (outputs, inputs or fewer, kernel, kernel).
        inputs: wanted number.
        end: the new inputs are the last ones before this.

    Returns:
        (outputs, inputs, kernel, kernel), zero for new inputs; a weight that has as many or more, as it is.
    """
    missing = inputs - weight.shape[1]
    if missing <= 0:
        return weight
    kept = end - missing
    zeros = weight.new_zeros(weight.shape[0], missing, *weight.shape[2:])
    return torch.cat([weight[:, :kept], zeros, weight[:, kept:]], 1)
