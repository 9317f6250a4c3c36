# SPDX-License-Identifier: BSD-3-Clause
"""Inputs, tolerances, comparisons and the table of public functions, of the operator tests.

The geometry is asymmetric: non-square canvases and patches, different offsets on the two axes, positions inside, across
every border and outside. Symmetric examples hide errors of sign and axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ptycho_ext as px
from ptycho_ext import reference

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]

#: Largest error against the float64 reference, as a part of the largest value.
TOLERANCE = {torch.float32: 1e-6, torch.complex64: 1e-6, torch.float64: 1e-14, torch.complex128: 1e-14}

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}

#: Of counts, as files hold them.
COUNT_TYPES = [
    torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.float32, torch.float64,
]  # fmt: skip

CANVAS = (13, 18)
PATCH = (5, 4)
PATTERN = (5, 7)

#: (2 groups, 5 patches, 2): inside, integer, across the upper left and lower right corners, outside.
POSITIONS = torch.tensor(
    [
        [[3.25, 6.75], [2.0, 9.0], [-1.6, -2.3], [10.4, 15.9], [40.0, 3.5]],
        [[0.0, 13.5], [7.999, 0.001], [12.0, 17.0], [-4.5, 6.0], [5.5, -60.0]],
    ],
    dtype=torch.float64,
)


def here(tensor: Tensor) -> Tensor:
    """Copy to the device of the current test (see conftest.py)."""
    return tensor.to(torch.get_default_device())


def data(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return here(torch.randn(shape, dtype=dtype, generator=generator, device="cpu"))


def weights(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 5) -> Tensor:
    """Positive weights in the real type of a data type."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return here(0.1 + torch.rand(shape, dtype=REAL.get(dtype, dtype), generator=generator, device="cpu"))


def uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return here(torch.rand(shape, dtype=torch.float64, generator=generator, device="cpu"))


def scene(
    dtype: torch.dtype = torch.complex64,
    counts_type: torch.dtype = torch.uint16,
    modes: int = 2,
    lead: tuple[int, ...] = (3,),
    size: tuple[int, int] = PATTERN,
) -> dict[str, Any]:
    """Fields, counts (near the prediction, far from it, and zero), a mask of half the pixels, and scales."""
    fields = 5 * data((*lead, modes, *size), dtype)
    counts = (fields.abs().double().square().sum(-3) * 2 * uniform((*lead, *size), 1)).round().clamp_max(250)
    counts[..., 0, :2] = 0
    return {
        "fields": fields,
        "counts": counts.to(counts_type),
        "mask": uniform(size, 2) > 0.4,
        "scale": (0.5 + uniform(lead, 3)).to(REAL.get(dtype, dtype)),
    }


def update_scene(
    dtype: torch.dtype = torch.complex64, lead: tuple[int, ...] = (2,), size: tuple[int, int] = CANVAS
) -> dict[str, Any]:
    """Arguments of update_canvas: a canvas with pixels below the floor, and everything that is optional."""
    real, shape = REAL[dtype], (*lead, *size)
    canvas = data(shape, dtype)
    canvas[..., ::3] *= 0.01
    canvas[..., :1] = 0
    return {
        "canvas": canvas,
        "numerator": data(shape, dtype, 1),
        "inverse_illumination": uniform(shape, 2).to(real),
        "floor": (0.01 + 0.1 * uniform(lead, 3)).to(real),
        "factors": torch.tensor([0.8, 1.3], dtype=real, device=canvas.device),
        "velocity": data(shape, dtype, 4),
        "momentum": torch.tensor(0.6, dtype=real, device=canvas.device),
    }


def assert_close(got: Tensor, want: Any, dtype: torch.dtype) -> None:
    want = np.asarray(want)
    got_array = got.detach().cpu().numpy()
    assert got_array.shape == want.shape
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    assert float(np.abs(got_array - want).max(initial=0.0)) <= TOLERANCE[dtype] * scale


@dataclass(frozen=True)
class Case:
    """A public function that is linear in its data, its reference, and the shape of the data.

    ``shape`` is of one group. ``per_group``: coordinates are (..., 2), one pair per group, instead of (..., n, 2).
    """

    function: Callable[..., Any]
    oracle: Callable[..., Any]
    shape: tuple[int, ...]
    options: tuple[Any, ...] = ()
    weights: str = ""
    per_group: bool = False

    def weight(self, like: Tensor) -> tuple[Tensor | None, ...]:
        """Weights for the data, as a tuple of arguments; without random numbers, which vmap does not allow."""
        if not self.weights:
            return ()
        if self.weights == "none":
            return (None,)
        shape = PATCH if self.weights == "shared" else tuple(like.shape)
        values = 0.6 + 0.5 * torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64))
        wide = like.dtype in (torch.float64, torch.complex128)
        return (values.reshape(shape).to(torch.float64 if wide else torch.float32),)

    def run(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """Call the function and return its first result."""
        return _first(self.results(x, coordinates))

    def results(self, x: Tensor, coordinates: Tensor, **options: Any) -> Any:
        """Call the function and return all results."""
        return self.function(x, coordinates, *self._arguments(x), **options)

    def reference(self, x: Tensor, coordinates: Tensor) -> Any:
        plain = x.detach().resolve_conj().resolve_neg()
        arguments = on_cpu((plain, coordinates.detach(), *self._arguments(x)))
        return _first(self.oracle(*arguments))

    def coordinates(self, positions: Tensor = POSITIONS) -> Tensor:
        return here(positions[..., 0, :] if self.per_group else positions)

    def data(self, dtype: torch.dtype, groups: int = 2) -> Tensor:
        return data((groups, *self.shape), dtype)

    def _arguments(self, x: Tensor) -> tuple[Any, ...]:
        size, rest = self.options[:1], self.options[1:]
        return (*size, *self.weight(x), *rest)


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _case(name: str, *args: Any, **kwargs: Any) -> Case:
    return Case(getattr(px, name), getattr(reference, name), *args, **kwargs)


def _smooth(shape: tuple[int, ...], like: Any) -> Tensor:
    """A probe or canvas for the data; without random numbers, which vmap does not allow."""
    like = torch.as_tensor(like)
    phase = 1.3 * torch.arange(math.prod(shape), dtype=torch.float64)
    values = torch.complex(0.7 + 0.5 * phase.sin(), phase.cos()) if like.is_complex() else 0.7 + 0.5 * phase.sin()
    wide = like.dtype in (torch.float64, torch.complex128)
    single = torch.complex64 if like.is_complex() else torch.float32
    return values.reshape(shape).to(values.dtype if wide else single)


def _waves_case(name: str, shape: tuple[int, ...], *options: Any) -> Case:
    """A case of exit_waves or an adjoint, with its probe or canvas: (data, coordinates, size, *options)."""

    def made_of(module: Any) -> Callable[..., Any]:
        function = getattr(module, name)

        def of_probe(x: Any, at: Any, size: tuple[int, int], modes: int, kind: str, **more: Any) -> Any:
            shape = (modes, *(size if name == "exit_waves" else x.shape[-2:]))
            probe = _smooth(shape if kind == "shared" else (*at.shape[:-1], *shape), x)
            return function(x, at, probe, *([] if name == "exit_waves" else [size]), **more)

        def of_canvas(x: Any, at: Any, size: tuple[int, int], shared: bool, **more: Any) -> Any:
            canvas = _smooth((*at.shape[:-2], *size), x)
            return function(x, canvas, at, shared=shared, **more)

        return functools.wraps(function)(of_canvas if name == "exit_waves_adjoint_probe" else of_probe)

    return Case(made_of(px), made_of(reference), shape, options)


CASES: dict[str, Case] = {
    "extract": _case("extract_patches", CANVAS, (PATCH,)),
    "adjoint": _case("extract_patches_adjoint", (5, *PATCH), (CANVAS,)),
    **{
        f"translate-{mode}": _case("translate_images", size, (mode,), per_group=True)
        for mode, size in [("bilinear", CANVAS), ("nearest", CANVAS), ("fourier", CANVAS)]
    },
    "translate-fourier-even-rows": _case("translate_images", (6, 9), ("fourier",), per_group=True),
    **{
        f"reassemble-{kind}-{'mean' if normalize else 'sum'}": _case(
            "reassemble_patches", (5, *PATCH), (CANVAS, normalize), weights=kind
        )
        for kind in ("none", "shared", "each")
        for normalize in (True, False)
    },
    **{
        f"overlap-{kind}": _case("overlap_project", (5, *PATCH), (CANVAS,), weights=kind)
        for kind in ("none", "shared", "each")
    },
    **{
        f"waves-{kind}-{modes}": _waves_case("exit_waves", CANVAS, PATCH, modes, kind)
        for kind, modes in [("shared", 1), ("shared", 3), ("each", 2)]
    },
    **{
        f"waves-adjoint-{kind}-{modes}": _waves_case("exit_waves_adjoint", (5, modes, *PATCH), CANVAS, modes, kind)
        for kind, modes in [("shared", 1), ("shared", 3), ("each", 2)]
    },
    "waves-probe-sum": _waves_case("exit_waves_adjoint_probe", (5, 3, *PATCH), CANVAS, True),
    "waves-probe-each": _waves_case("exit_waves_adjoint_probe", (5, 2, *PATCH), CANVAS, False),
}

#: Cases whose result has no groups: a sum over them.
SUMS = ["waves-probe-sum"]


def on_cpu(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.cpu() if isinstance(a, Tensor) else a for a in arguments)


def raw(op: str) -> Any:
    return getattr(torch.ops.ptycho, op).default


def raw_inputs(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Arguments of every raw operator, in the order of its schema."""
    canvas, patches = data((2, *CANVAS), dtype), data((2, 5, *PATCH), dtype, 1)
    shifts = torch.tensor([[1.25, -2.5], [-0.75, 3.0]], dtype=torch.float64)
    at = here(POSITIONS)
    waves, probe = data((2, 5, 3, *PATCH), dtype, 2), data((3, *PATCH), dtype, 3)
    return {
        "extract_patches": (canvas, at, list(PATCH)),
        "extract_patches_adjoint": (patches, at, list(CANVAS)),
        "extract_patches_grad_positions": (patches, canvas, at),
        "translate_images": (canvas, shifts, "bilinear"),
        "translate_images_adjoint": (canvas, shifts, "nearest"),
        "reassemble_patches": (patches, at, weights(PATCH, dtype), list(CANVAS)),
        "reassemble_patches_adjoint": (canvas, at, weights(PATCH, dtype)),
        "reassemble_patches_backward": (canvas, at, weights(PATCH, dtype), weights((2, *CANVAS), dtype) - 0.3, 0.2),
        "reassemble_patches_mean_backward": (
            canvas,
            weights((2, *CANVAS), dtype) - 0.3,
            0.2,
            data(canvas.shape, dtype, 2),
        ),
        "overlap_project": (patches, at, weights(PATCH, dtype), list(CANVAS), 1e-6),
        "exit_waves": (canvas, at, probe),
        "exit_waves_adjoint": (waves, at, probe, list(CANVAS)),
        "exit_waves_adjoint_probe": (waves, canvas, at, True),
        "exit_waves_grad_positions": (waves, canvas, at, probe),
        "overlap_project_backward": (
            data((2, 5, *PATCH), dtype, 2),
            patches,
            at,
            weights(PATCH, dtype),
            list(CANVAS),
            1e-6,
            True,
        ),
    }


def coordinates_index(op: str) -> int | None:
    """Index of the positions or shifts among the arguments of a raw operator; None where it has none."""
    if op.endswith("mean_backward"):
        return None
    return 2 if op.endswith(("grad_positions", "adjoint_probe", "project_backward")) else 1
