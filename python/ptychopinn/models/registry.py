# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a generator and the table of those that can be named in a configuration.

A generator turns a group of C patterns into one object canvas on which the group's patches overlap. To add one:
subclass :class:`Generator`, decorate it with ``@register_generator("name")`` and import its module; ``--model.generator
name`` and ``--model.options`` then reach it, the keyword arguments of its constructor being the options. Of these,
``patch_size`` and ``group_size`` are not options: a constructor that names them is given N and C. Shapes in one
glossary: B groups, C patterns of a group, N detector side, M probe modes, (H, W) canvas of a group.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from ptychopinn.errors import InputError


class Generator(nn.Module, ABC):
    """Patterns of B groups in, one complex object canvas per group out.

    Every generator accepts any N divisible by :attr:`size_multiple`; canvas sides are multiples of
    :attr:`canvas_multiple`. A generator for groups of one size only says so in :attr:`group_size`; others take any.
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


GENERATORS: dict[str, type[Generator]] = {}
G = TypeVar("G", bound=type[Generator])


def register_generator(name: str) -> Callable[[G], G]:
    """Class decorator that enters a generator into :data:`GENERATORS` under ``name``."""

    def enter(generator: G) -> G:
        if name in GENERATORS:
            raise ValueError(f"register_generator: {name!r} is taken by {GENERATORS[name].__qualname__}")
        GENERATORS[name] = generator
        return generator

    return enter


def build_generator(
    name: str, patch_size: int, options: Mapping[str, Any] | None = None, group_size: int = 1
) -> Generator:
    """Build the generator ``name`` for patterns of ``patch_size`` pixels, in groups of ``group_size``.

    Raises:
        InputError: unknown name, unknown option, or a patch size that the generator does not take.
    """
    if name not in GENERATORS:
        raise InputError(f"model.generator: must be one of {', '.join(sorted(GENERATORS))}, got {name!r}")
    generator = GENERATORS[name]
    given = {"patch_size": patch_size, "group_size": group_size}
    arguments = inspect.signature(generator).parameters
    known = [key for key in arguments if key not in given]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise InputError(f"model.options: {name!r} takes {', '.join(known)}, got {', '.join(unknown)}")
    multiple = generator.size_multiple
    if patch_size % multiple or not 32 <= patch_size <= 256:
        raise InputError(
            f"model.generator: {name!r} takes patterns of 32 to 256 pixels in multiples of {multiple}, got {patch_size}"
        )
    return generator(**{key: value for key, value in given.items() if key in arguments}, **(options or {}))
