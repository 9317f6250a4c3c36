# SPDX-License-Identifier: BSD-3-Clause
"""What every operator promises, as one table: operators x data types.

opcheck, gradients of first and second order, the dot test, non-contiguous and empty inputs, the same sentence from the
kernel and from its fake, bitwise equality over runs and threads, one graph under torch.compile, functorch, export.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import CANVAS, DTYPES, PATCH, POSITIONS, data, raw_inputs, weights
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import ptycho_ext as px

OPS = list(raw_inputs(torch.float32))
Function = Callable[[Tensor], Tensor]


def raw(op: str) -> Any:
    return getattr(torch.ops.ptycho, op).default


#: Public functions, linear in their first argument: name -> (function of the data alone, shape of the data).
LINEAR: dict[str, tuple[Function, tuple[int, ...]]] = {
    "extract_patches": (lambda x: px.extract_patches(x, POSITIONS, PATCH), (2, *CANVAS)),
    "extract_patches_adjoint": (lambda x: px.extract_patches_adjoint(x, POSITIONS, CANVAS), (2, 5, *PATCH)),
    "translate_images": (lambda x: px.translate_images(x, POSITIONS[:, 0]), (2, *CANVAS)),
    "translate_images_nearest": (lambda x: px.translate_images(x, POSITIONS[:, 0], "nearest"), (2, *CANVAS)),
    "reassemble_patches": (
        lambda x: px.reassemble_patches(x, POSITIONS, CANVAS, weights(PATCH, torch.float64))[0],
        (2, 5, *PATCH),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, dtype: torch.dtype) -> None:
    opcheck(raw(op), raw_inputs(dtype)[op])


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("name", LINEAR)
def test_gradients_of_the_data(name: str, dtype: torch.dtype) -> None:
    function, shape = LINEAR[name]
    # Fast mode: one random direction each, of every input and output.
    x = data(shape, dtype).requires_grad_()
    assert gradcheck(function, (x,), fast_mode=True)
    assert gradgradcheck(function, (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("name", LINEAR)
def test_dot(name: str, dtype: torch.dtype) -> None:
    """<A x, y> = <x, A* y>, A* being the backward."""
    function, shape = LINEAR[name]
    x = data(shape, dtype).requires_grad_()
    output = function(x)
    y = data(tuple(output.shape), dtype, 7)
    (back,) = torch.autograd.grad(output, x, y)
    left, right = torch.vdot(y.flatten(), output.flatten()), torch.vdot(back.flatten(), x.flatten())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
def test_gradients_of_positions_and_weights(dtype: torch.dtype) -> None:
    # Away from integers, where the derivative by the position jumps.
    positions = torch.tensor([[1.3, 2.6], [-1.4, 7.7], [9.55, 15.2]], dtype=torch.float64, requires_grad=True)
    canvas, patches = data(CANVAS, dtype).requires_grad_(), data((3, *PATCH), dtype, 1).requires_grad_()
    shared, each = weights(PATCH, dtype).requires_grad_(), weights((3, *PATCH), dtype).requires_grad_()
    assert gradcheck(lambda c, p: px.extract_patches(c, p, PATCH), (canvas, positions))
    assert gradcheck(lambda x, p: px.extract_patches_adjoint(x, p, CANVAS), (patches, positions))
    images = data((3, 4, 5), dtype).requires_grad_()
    assert gradcheck(px.translate_images, (images, positions))
    for weight in (shared, each):
        inputs = (patches, positions, weight)
        assert gradcheck(lambda x, p, w: px.reassemble_patches(x, p, CANVAS, w, normalize=False), inputs)
    fixed = positions.detach()
    assert gradcheck(lambda x, w: px.reassemble_patches(x, fixed, CANVAS, w), (patches, shared))
    assert gradgradcheck(lambda x, w: px.reassemble_patches(x, fixed, CANVAS, w), (patches, shared), fast_mode=True)


def test_second_derivative_by_positions_is_an_error_not_a_zero() -> None:
    canvas, positions = data(CANVAS, torch.float64), POSITIONS[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(
        px.extract_patches(canvas, positions, 3).square().sum(), positions, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="positions must be differentiated once only"):
        first.sum().backward()


def test_forward_mode_is_an_error_not_a_zero() -> None:
    canvas = data(CANVAS, torch.float64)
    with pytest.raises(NotImplementedError):
        torch.func.jvp(lambda c: px.extract_patches(c, POSITIONS[0], PATCH), (canvas,), (canvas,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_strides_and_conjugation_do_not_matter(op: str, dtype: torch.dtype) -> None:
    args = raw_inputs(dtype)[op]
    want = raw(op)(*args)
    strided = [a.transpose(-1, -2).contiguous().transpose(-1, -2) if isinstance(a, Tensor) else a for a in args]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(raw(op)(*strided), want, rtol=0, atol=0)
    lazy = [a.conj().resolve_conj().conj() if isinstance(a, Tensor) and a.is_complex() else a for a in args]
    torch.testing.assert_close(raw(op)(*lazy), want, rtol=0, atol=0)


@pytest.mark.parametrize("groups", [0, 3])
def test_empty_inputs(groups: int) -> None:
    positions = torch.zeros(groups, 0, 2)
    assert px.extract_patches(torch.zeros(groups, 4, 6), positions, (2, 3)).shape == (groups, 0, 2, 3)
    canvas = px.extract_patches_adjoint(torch.zeros(groups, 0, 2, 3), positions, (4, 6))
    assert canvas.shape == (groups, 4, 6) and not canvas.any()
    image, total = px.reassemble_patches(torch.zeros(groups, 0, 2, 3), positions, (4, 6))
    assert image.shape == total.shape == (groups, 4, 6) and not image.any() and not total.any()
    assert px.translate_images(torch.zeros(0, 4, 6), torch.zeros(0, 2)).shape == (0, 4, 6)


@pytest.mark.parametrize("op", OPS)
def test_bitwise_the_same_over_threads_and_runs(op: str) -> None:
    generator = torch.Generator().manual_seed(2)
    positions = torch.rand(3, 60, 2, dtype=torch.float64, generator=generator) * 150 - 8
    canvas, patches = data((3, 150, 161), torch.complex64), data((3, 60, 24, 21), torch.complex64, 1)
    args = {
        "extract_patches": (canvas, positions, [24, 21]),
        "extract_patches_adjoint": (patches, positions, [150, 161]),
        "extract_patches_grad_positions": (patches, canvas, positions),
        "translate_images": (canvas, positions[:, 0], "bilinear"),
        "translate_images_adjoint": (canvas, positions[:, 0], "nearest"),
        "reassemble_patches": (patches, positions, weights((24, 21), torch.float32), [150, 161]),
    }[op]
    results = []
    for threads in (1, 2, 4, 4):
        torch.set_num_threads(threads)
        results.append(raw(op)(*args))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


DATA = "float32, float64, complex64 or complex128"

#: (operator, arguments to replace, what both the kernel and its fake must say)
SENTENCES: list[tuple[str, dict[int, Any], str]] = [
    ("extract_patches", {0: torch.zeros(2, 4, 4, dtype=torch.int64)}, f"canvas must be {DATA}, got int64"),
    ("extract_patches", {0: torch.zeros(4)}, "canvas must have shape (..., H, W), got (4,)"),
    ("extract_patches", {1: POSITIONS.float()}, "positions must be float64, got float32"),
    ("extract_patches", {1: POSITIONS[0]}, "positions must have shape (2, 5, 2), got (5, 2)"),
    ("extract_patches", {1: POSITIONS[..., :1]}, "positions must have shape (2, 5, 2), got (2, 5, 1)"),
    ("extract_patches", {2: [5, 0]}, "patch_size must be two positive integers, got (5, 0)"),
    ("extract_patches", {2: [-1, 3]}, "patch_size must be two positive integers, got (-1, 3)"),
    ("extract_patches_adjoint", {0: torch.zeros(4, 4)}, "patches must have shape (..., n, h, w), got (4, 4)"),
    ("extract_patches_adjoint", {0: torch.zeros(2, 4, 5, 4)}, "positions must have shape (2, 4, 2), got (2, 5, 2)"),
    ("extract_patches_adjoint", {2: [0, 9]}, "canvas_size must be two positive integers, got (0, 9)"),
    (
        "extract_patches_grad_positions",
        {0: torch.zeros(2, 5, 5, 4, dtype=torch.float64)},
        "grad_patches must be float32, got float64",
    ),
    (
        "extract_patches_grad_positions",
        {0: torch.zeros(2, 4, 5, 4)},
        "grad_patches must have shape (2, 5, 5, 4), got (2, 4, 5, 4)",
    ),
    ("translate_images", {0: torch.zeros(2, 4, 4, dtype=torch.bfloat16)}, f"images must be {DATA}, got bfloat16"),
    ("translate_images", {1: torch.zeros(3, 2, dtype=torch.float64)}, "shifts must have shape (2, 2), got (3, 2)"),
    ("translate_images", {2: "cubic"}, "mode must be 'bilinear' or 'nearest', got 'cubic'"),
    ("translate_images_adjoint", {2: ""}, "mode must be 'bilinear' or 'nearest', got ''"),
    ("reassemble_patches", {2: torch.ones(5, 4, dtype=torch.complex64)}, "weights must be float32, got complex64"),
    ("reassemble_patches", {2: torch.ones(4, 5)}, "weights must have shape (5, 4), got (4, 5)"),
    ("reassemble_patches", {2: torch.ones(5, 5, 4)}, "weights must have shape (2, 5, 5, 4), got (5, 5, 4)"),
    ("reassemble_patches", {3: [13, -18]}, "canvas_size must be two positive integers, got (13, -18)"),
]


@pytest.mark.parametrize(("op", "changes", "sentence"), SENTENCES)
def test_kernel_and_fake_say_the_same_sentence(op: str, changes: dict[int, Any], sentence: str) -> None:
    args = [changes.get(i, a) for i, a in enumerate(raw_inputs(torch.float32)[op])]
    fake = [a.to("meta") if isinstance(a, Tensor) else a for a in args]
    for inputs in (args, fake):
        with pytest.raises(RuntimeError, match=f"^{re.escape(f'{op}: {sentence}')}$"):
            raw(op)(*inputs)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("op", OPS)
def test_coordinates_must_be_finite(op: str, bad: str) -> None:
    args = list(raw_inputs(torch.float32)[op])
    place = 2 if op.endswith("grad_positions") else 1
    args[place] = args[place].clone()
    args[place][1, ..., 0] = float(bad)
    name = "shifts" if op.startswith("translate") else "positions"
    with pytest.raises(RuntimeError, match=f"^{op}: {name} must be finite, got {bad}$"):
        raw(op)(*args)


def test_public_functions_take_float32_positions_and_one_size() -> None:
    canvas, positions = data((9, 9), torch.float32), torch.tensor([[1.5, 2.25]])
    patches = px.extract_patches(canvas, positions, 4)
    assert torch.equal(patches, px.extract_patches(canvas, positions.double(), (4, 4)))
    with pytest.raises(RuntimeError, match=r"^extract_patches: positions must be float64, got complex64$"):
        px.extract_patches(canvas, positions.to(torch.complex64), 4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic: bool) -> None:
    def step(canvas: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
        patches = px.translate_images(px.extract_patches(canvas, positions, PATCH), positions / 9)
        image, total = px.reassemble_patches(patches, positions, canvas.shape[-2:], weight)
        return (image.abs().square() + total).sum()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")):
        inputs = [data(CANVAS, torch.complex128), POSITIONS[0] + 0.01, weights(PATCH, torch.float64)]
        loss = function(*[x.requires_grad_() for x in inputs])
        results.append([loss, *torch.autograd.grad(loss, inputs)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_functorch_maps_and_differentiates() -> None:
    canvas, positions = data((2, *CANVAS), torch.float64), POSITIONS + 0.01
    patches = torch.vmap(lambda c, p: px.extract_patches(c, p, PATCH))(canvas, positions)
    assert torch.equal(patches, px.extract_patches(canvas, positions, PATCH))
    one = torch.vmap(lambda p: px.extract_patches(canvas[0], p, PATCH))(positions)
    assert torch.equal(one[1], px.extract_patches(canvas[0], positions[1], PATCH))
    moved = torch.vmap(px.translate_images, in_dims=(2, 0), out_dims=2)(canvas.movedim(0, 2), positions[:, 0])
    assert torch.equal(moved.movedim(2, 0), px.translate_images(canvas, positions[:, 0]))
    per_canvas = torch.vmap(torch.func.grad(lambda p, c: px.extract_patches(c, p, 3).square().sum()))
    leaf = positions.clone().requires_grad_()
    px.extract_patches(canvas, leaf, 3).square().sum().backward()
    torch.testing.assert_close(per_canvas(positions, canvas), leaf.grad)


def test_exports() -> None:
    class Loop(torch.nn.Module):
        def forward(self, canvas: Tensor, positions: Tensor) -> Tensor:
            patches = px.extract_patches(canvas, positions, PATCH)
            return px.reassemble_patches(patches, positions, CANVAS)[0]

    inputs = (data(CANVAS, torch.complex64), POSITIONS[0])
    torch.testing.assert_close(torch.export.export(Loop(), inputs).module()(*inputs), Loop()(*inputs))
