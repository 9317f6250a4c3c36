# SPDX-License-Identifier: BSD-3-Clause
"""update_canvas: reference, derivatives, layouts, errors, and transforms of torch.

It is not linear in the canvas, so it is not in the tables of test_contracts.py. Instruction sets and threads:
test_determinism.py; the CUDA sources on the CPU: test_blocks.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import CANVAS, DTYPES, assert_close, data, raw, update_scene
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.library import opcheck

import ptycho_ext as px
from ptycho_ext import reference

pytestmark = pytest.mark.usefixtures("device")

COMPLEX = DTYPES[2:]
OPTIONAL = ("velocity", "momentum")


def first_step(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same without a velocity."""
    return {name: value for name, value in inputs.items() if name not in OPTIONAL}


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("size", [CANVAS, (1, 1), (37, 41)])
def test_matches_the_reference(size: tuple[int, int], lead: tuple[int, ...], dtype: torch.dtype) -> None:
    for inputs in (update_scene(dtype, lead, size), first_step(update_scene(dtype, lead, size))):
        want = reference.update_canvas(**{name: value.cpu().numpy() for name, value in inputs.items()})
        got = px.update_canvas(**inputs)
        for one, other in zip(got, want, strict=True):
            assert one.dtype == dtype
            assert_close(one, other, dtype)
        without = px.update_canvas(**inputs, keep_direction=False)
        assert torch.equal(without[0], got[0]) and torch.equal(without[1], got[1]) and without[2].shape == (0,)


def test_factors_of_one_add_the_velocity() -> None:
    inputs = update_scene(torch.complex128)
    inputs["canvas"] = inputs["canvas"] + 2
    inputs |= {"floor": torch.zeros_like(inputs["floor"]), "factors": torch.ones_like(inputs["factors"])}
    canvas, velocity, _ = px.update_canvas(**inputs)
    torch.testing.assert_close(canvas, inputs["canvas"] + velocity)


def test_a_factor_of_zero_keeps_the_modulus_or_the_phase() -> None:
    inputs = update_scene(torch.complex128)
    inputs["canvas"] = inputs["canvas"] + 9
    for factors in ((1e-4, 0.0), (0.0, 1e-4)):
        inputs["factors"] = torch.tensor(factors, dtype=torch.float64, device=inputs["canvas"].device)
        ratio = px.update_canvas(**inputs)[0] / inputs["canvas"]
        changes = {"modulus": (ratio.abs() - 1).abs().max(), "phase": ratio.angle().abs().max()}
        kept, changed = ("phase", "modulus") if factors[0] else ("modulus", "phase")
        assert changes[kept] < 1e-8 and changes[changed] > 1e-5


@pytest.mark.parametrize("dtype", COMPLEX)
def test_opcheck(dtype: torch.dtype) -> None:
    inputs = update_scene(dtype)
    grads = [data(inputs["canvas"].shape, dtype, seed) for seed in (5, 6, 7)]
    everything, fewer = tuple(inputs.values()), tuple(first_step(inputs).values())
    opcheck(raw("update_canvas"), everything)
    opcheck(raw("update_canvas"), (*fewer, None, None, False))
    opcheck(raw("update_canvas"), tuple(value.clone().requires_grad_() for value in everything))
    opcheck(raw("update_canvas_backward"), (*grads, *everything))
    opcheck(raw("update_canvas_backward"), (grads[0], None, None, *fewer))


@pytest.mark.parametrize("moving", [True, False])
def test_derivatives(moving: bool) -> None:
    """Of each output and of all together, by every argument."""
    inputs = update_scene(torch.complex128, (2,), (3, 4))
    inputs["canvas"] = inputs["canvas"] + 0.05  # away from 0, where a finite difference is too coarse
    leaves = [value.requires_grad_() for value in (inputs if moving else first_step(inputs)).values()]
    for chosen in (slice(0, 1), slice(0, 3)):
        assert gradcheck(lambda *args: px.update_canvas(*args)[chosen], leaves)  # noqa: B023
    assert gradcheck(lambda *args: px.update_canvas(*args, keep_direction=False)[0], leaves)
    velocity, direction = (px.update_canvas(*leaves)[i].abs().square().sum() for i in (1, 2))
    for number, output in enumerate((velocity, direction)):
        by_canvas, by_numerator = torch.autograd.grad(output, leaves[:2])
        assert not by_canvas.any() and by_numerator.any(), number


def test_derivatives_in_float32_are_those_in_float64() -> None:
    """Sums over many parts included."""
    results = []
    for dtype in COMPLEX:
        leaves = [value.to(dtype if value.is_complex() else torch.empty(0, dtype=dtype).real.dtype).requires_grad_()
                  for value in update_scene(torch.complex64, (2,), (90, 101)).values()]  # fmt: skip
        outputs = px.update_canvas(*leaves)
        loss = sum((output.abs().square() * (k + 1)).sum() for k, output in enumerate(outputs))
        results.append(torch.autograd.grad(loss, leaves))
    for one, other in zip(*results, strict=True):
        assert_close(one, other.cpu().numpy() if other.ndim else np.asarray(other.cpu()), torch.complex64)


def test_only_what_needs_a_gradient_gets_one() -> None:
    inputs = update_scene()
    inputs["factors"].requires_grad_()
    px.update_canvas(**inputs)[0].abs().sum().backward()
    assert inputs["factors"].grad is not None and inputs["canvas"].grad is None


def test_a_second_derivative_is_an_error() -> None:
    inputs = update_scene(torch.complex128)
    canvas = inputs.pop("canvas").requires_grad_()
    (first,) = torch.autograd.grad(px.update_canvas(canvas, **inputs)[0].abs().sum(), canvas, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"^update_canvas: its outputs must be differentiated once only"):
        first.abs().sum().backward()


def test_result_does_not_depend_on_strides_and_lazy_views() -> None:
    inputs = update_scene()
    want = px.update_canvas(**inputs)

    def views(x: Tensor) -> list[Tensor]:
        strided = x.repeat_interleave(2, -1)[..., ::2] if x.ndim else x
        turned = x.mT.contiguous().mT if x.ndim > 1 else x
        return [strided, turned, x.conj().resolve_conj().conj() if x.is_complex() else x]

    for number in range(3):
        got = px.update_canvas(**{name: views(value)[number] for name, value in inputs.items()})
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (2, 0, 1, 4)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    leaves = [value.requires_grad_() for value in update_scene(torch.complex64, shape[:-2], shape[-2:]).values()]
    outputs = px.update_canvas(*leaves)
    assert all(output.shape == shape for output in outputs)
    grads = torch.autograd.grad(sum(output.abs().sum() for output in outputs), leaves)
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves] and not grads[4].any()


SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"canvas": torch.zeros(2, *CANVAS)}, "canvas must be complex64 or complex128, got float32"),
    ({"canvas": torch.zeros(4).to(torch.complex64)}, "canvas must have shape (..., H, W), got (4,)"),
    ({"numerator": torch.zeros(2, *CANVAS)}, "numerator must be complex64, got float32"),
    ({"numerator": torch.zeros(3, *CANVAS) + 0j}, "numerator must have shape (2, 13, 18), got (3, 13, 18)"),
    ({"inverse_illumination": torch.zeros(2, *CANVAS).double()}, "inverse_illumination must be float32, got float64"),
    ({"inverse_illumination": torch.zeros(CANVAS)}, "inverse_illumination must have shape (2, 13, 18), got (13, 18)"),
    ({"floor": torch.zeros(2, 1)}, "floor must have shape (2,), got (2, 1)"),
    ({"factors": torch.zeros(3)}, "factors must have shape (2,), got (3,)"),
    ({"velocity": torch.zeros(2, 13, 17) + 0j}, "velocity must have shape (2, 13, 18), got (2, 13, 17)"),
    ({"momentum": torch.zeros(1)}, "momentum must have shape (), got (1,)"),
    ({"momentum": None}, "momentum must be given with a velocity, and only then, got None"),
    ({"velocity": None}, "momentum must be given with a velocity, and only then, got a tensor"),
]


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES)
def test_wrong_arguments(changes: dict[str, Any], sentence: str) -> None:
    inputs = update_scene()
    device = inputs["canvas"].device
    changes = {name: None if value is None else value.to(device) for name, value in changes.items()}
    with pytest.raises(RuntimeError, match=f"^{re.escape(f'update_canvas: {sentence}')}$"):
        raw("update_canvas")(*(inputs | changes).values())


def test_wrong_gradients() -> None:
    inputs = tuple(update_scene().values())
    wrong = data((2, *CANVAS), torch.complex128)
    for place, name in enumerate(("grad_canvas", "grad_velocity", "grad_direction")):
        grads = [wrong if number == place else None for number in range(3)]
        with pytest.raises(RuntimeError, match=f"^update_canvas_backward: {name} must be complex64, got complex128$"):
            raw("update_canvas_backward")(*grads, *inputs)


def test_devices_must_agree() -> None:
    inputs = update_scene()
    for name in list(inputs)[1:]:
        with pytest.raises(RuntimeError, match=r"^update_canvas: [a-z_]+ must be on device"):
            px.update_canvas(**{**inputs, name: inputs[name].to("meta")})


def test_fake_tensors_of_cuda() -> None:
    inputs = update_scene()
    want = raw("update_canvas_backward")(inputs["canvas"], None, None, *inputs.values())
    with torch.no_grad(), FakeTensorMode():
        moved = [torch.empty(value.shape, dtype=value.dtype, device="cuda") for value in inputs.values()]
        got = raw("update_canvas_backward")(moved[0], None, None, *moved)
        assert [(g.device.type, g.shape, g.dtype) for g in got] == [("cuda", w.shape, w.dtype) for w in want]
        assert [g.shape for g in raw("update_canvas")(*moved)] == [moved[0].shape] * 3


class Update(torch.nn.Module):
    """All outputs and derivatives."""

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs = px.update_canvas(*inputs)
        first = px.update_canvas(*inputs[:5], keep_direction=False)[0]
        return sum(output.abs().square().sum() for output in (*outputs, first))  # type: ignore[return-value]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic: bool) -> None:
    update, results = Update(), []
    for function in (update, torch.compile(update, fullgraph=True, dynamic=dynamic, backend="aot_eager")):
        leaves = [value.requires_grad_() for value in update_scene(torch.complex128).values()]
        loss = function(*leaves)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_exports() -> None:
    args = tuple(update_scene().values())
    torch.testing.assert_close(torch.export.export(Update(), args).module()(*args), Update()(*args))


def test_vmap_equals_a_loop() -> None:
    inputs = list(update_scene(torch.complex128, (4, 2)).values())
    in_dims = (0, 0, 0, 0, None, 0, None)

    def call(*args: Tensor) -> tuple[Tensor, ...]:
        return px.update_canvas(*args)

    def loss(*args: Tensor) -> Tensor:
        return call(*args)[0].abs().square().sum()

    for function in (call, torch.func.grad(loss, (0, 4))):
        got = torch.vmap(function, in_dims)(*inputs)
        one_each = [[x if d is None else x[i] for x, d in zip(inputs, in_dims, strict=True)] for i in range(4)]
        looped = [function(*args) for args in one_each]
        for one, *others in zip(got, *looped, strict=True):
            torch.testing.assert_close(one, torch.stack(others))


def test_forward_mode_is_an_error() -> None:
    inputs = update_scene(torch.complex128)
    canvas = inputs.pop("canvas")
    with pytest.raises(Exception, match=r"jvp|forward"):
        torch.func.jvp(lambda x: px.update_canvas(x, **inputs)[0], (canvas,), (canvas,))
