# SPDX-License-Identifier: BSD-3-Clause
"""Transforms of torch: compilation to one graph, export, torch.func and autocast, each compared with the plain call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import CANVAS, CASES, PATCH, POSITIONS, SUMS, coordinates_index, data, raw, raw_inputs, weights
from torch import Tensor
from torch.autograd import gradcheck

import ptycho_ext as px


class AllFunctions(torch.nn.Module):
    """Calls every public function, with gradients by all inputs that may have them."""

    def forward(self, canvas: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
        patches = px.translate_images(px.extract_patches(canvas, positions, PATCH), positions / 9)
        patches = px.translate_images(patches, positions / 7, "fourier")
        patches = px.translate_images(patches, positions.detach().round(), "nearest")
        patches = px.overlap_project(patches, positions, CANVAS, weight) + 0.1 * patches
        image, total = px.reassemble_patches(patches, positions, CANVAS, weight)
        spread = px.extract_patches_adjoint(patches, positions, CANVAS)
        waves = px.exit_waves(image, positions, weight.expand(2, -1, -1))
        waves = waves + 0.1 * px.exit_waves_adjoint_probe(waves, image, positions)
        spread = spread + px.exit_waves_adjoint(waves, positions, weight.expand(2, -1, -1), CANVAS)
        return (image.abs().square() + total + spread.abs()).sum()


def inputs(dtype: torch.dtype = torch.complex128) -> list[Tensor]:
    return [data(CANVAS, dtype), POSITIONS[0] + 0.01, weights(PATCH, dtype)]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic: bool) -> None:
    step, results = AllFunctions(), []
    for function in (step, torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")):
        args = [x.requires_grad_() for x in inputs()]
        loss = function(*args)
        results.append([loss, *torch.autograd.grad(loss, args)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_exports() -> None:
    args = tuple(inputs(torch.complex64))
    torch.testing.assert_close(torch.export.export(AllFunctions(), args).module()(*args), AllFunctions()(*args))


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_a_loop(name: str) -> None:
    case, positions = CASES[name], torch.stack([POSITIONS, POSITIONS + 0.3])
    x, at = data((2, 2, *case.shape), torch.complex64), case.coordinates(positions)
    looped = torch.stack([case.run(a, b) for a, b in zip(x, at, strict=True)])
    torch.testing.assert_close(torch.vmap(case.run)(x, at), looped, rtol=1e-6, atol=1e-6)
    moved = torch.vmap(case.run, in_dims=(2, None))(x.movedim(0, 2), at[0])
    torch.testing.assert_close(moved, torch.stack([case.run(a, at[0]) for a in x]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_functional_derivatives_equal_those_of_backward(name: str) -> None:
    case = CASES[name]
    x, at = case.data(torch.float64), case.coordinates() + 0.01
    by = 0 if "nearest" in name else 1

    def loss(x: Tensor, at: Tensor) -> Tensor:
        return case.run(x, at).square().sum()

    leaves = [x.clone().requires_grad_(), at.clone().requires_grad_(by == 1)]
    want = torch.autograd.grad(loss(*leaves), leaves[: by + 1])
    both = tuple(range(by + 1))
    for got in (torch.func.grad(loss, both)(x, at), torch.func.jacrev(loss, both)(x, at)):
        torch.testing.assert_close(got, want)

    def one_group(x: Tensor, at: Tensor) -> Tensor:
        return loss(x[None], at[None])

    if "each" not in name and name not in SUMS:  # otherwise its weights differ for one group
        torch.testing.assert_close(torch.vmap(torch.func.grad(one_group, both))(x, at), want)


@pytest.mark.parametrize(
    "name",
    ["extract", "translate-fourier", "reassemble-shared-mean", "overlap-shared", "waves-shared-3", "waves-probe-sum"],
)
def test_jacobian_is_the_linear_map(name: str) -> None:
    """jacrev maps the backward over the basis of outputs; the Jacobian is the operator itself."""
    case = CASES[name]
    x, at = case.data(torch.float64, 1), case.coordinates(POSITIONS[:1])
    jacobian = torch.func.jacrev(lambda x: case.run(x, at))(x)
    torch.testing.assert_close(torch.tensordot(jacobian, x, x.ndim), case.run(x, at))


def test_vmap_over_weights() -> None:
    patches, weight = data((3, 5, *PATCH), torch.float64), weights((3, *PATCH), torch.float64)
    mapped = torch.vmap(lambda p, w: px.overlap_project(p, POSITIONS[0], CANVAS, w))(patches, weight)
    looped = [px.overlap_project(p, POSITIONS[0], CANVAS, w) for p, w in zip(patches, weight, strict=True)]
    assert torch.equal(mapped, torch.stack(looped))


def test_vmap_of_gradients_over_weights_only() -> None:
    patches, weight = data((5, *PATCH), torch.float64), weights((*PATCH, 3), torch.float64)

    def loss(patches: Tensor, weight: Tensor) -> Tensor:
        return px.reassemble_patches(patches, POSITIONS[0], CANVAS, weight)[0].square().sum()

    for by in (0, 1):
        got = torch.vmap(torch.func.grad(loss, by), in_dims=(None, 2))(patches, weight)
        want = [torch.func.grad(loss, by)(patches, w) for w in weight.unbind(2)]
        torch.testing.assert_close(got, torch.stack(want))


def allocated(function: Any) -> int:
    """Largest allocation of one call of an operator, or of torch's empty, in bytes."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    names = ("ptycho::", "aten::empty")
    return max(event.cpu_memory_usage for event in profile.events() if event.name.startswith(names))


@pytest.mark.parametrize(
    "name", ["extract", "adjoint", "reassemble-shared-mean", "reassemble-each-sum", "waves-shared-3"]
)
def test_vmap_does_not_copy_operands_that_are_not_mapped(name: str) -> None:
    """1,000 sets of coordinates and one set of data: no allocation is larger than all coordinates or all results."""
    case, count, patches = CASES[name], 1000, 200
    x = data((1000, 1000) if case.shape == CANVAS else (patches, *PATCH), torch.float32)
    coordinates = POSITIONS[0, :1].expand(count, patches, 2).contiguous()
    result = case.run(x, coordinates[0])
    most = count * max(result.numel() * 4, patches * 2 * 8)
    assert allocated(lambda: torch.vmap(case.run, in_dims=(None, 0))(x, coordinates)) <= 2 * most


def test_jacobian_does_not_copy_the_canvas() -> None:
    canvas, positions = data((1000, 1000), torch.float32), POSITIONS[0, :2]
    jacobian = torch.func.jacrev(lambda at: px.extract_patches(canvas, at, 3))
    assert allocated(lambda: jacobian(positions)) < canvas.numel() * 4 / 2


@pytest.mark.parametrize("op", list(raw_inputs(torch.float32)))
def test_raw_operators_differentiate(op: str) -> None:
    """Also those that only backward calls, so that no gradient is missing without an error."""
    torch.compiler.reset()  # one function is compiled for every operator
    args = list(raw_inputs(torch.complex128)[op])
    indices = [i for i, a in enumerate(args) if isinstance(a, Tensor) and i != coordinates_index(op)]
    if op.endswith("grad_positions"):
        args[0] = args[0].clone().requires_grad_()
        with pytest.raises(NotImplementedError, match="positions must be differentiated once only"):
            raw(op)(*args).sum().backward()
        return
    leaves = [args[i].clone().requires_grad_() for i in indices]

    def run(*values: Tensor) -> Tensor:
        filled = list(args)
        for i, value in zip(indices, values, strict=True):
            filled[i] = value
        result = raw(op)(*filled)
        return result[0] if isinstance(result, tuple) else result

    assert gradcheck(run, leaves, fast_mode=True)
    weight = data(tuple(run(*leaves).shape), torch.complex128, 9)

    def loss(*values: Tensor) -> Tensor:
        return (run(*values) * weight).real.sum()

    plain = [leaf.detach() for leaf in leaves]
    want = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(torch.func.grad(loss, tuple(range(len(plain))))(*plain), want)
    pairs = [torch.stack([p, 2 * p]) for p in plain]
    torch.testing.assert_close(torch.vmap(run)(*pairs), torch.stack([run(*plain), run(*[2 * p for p in plain])]))
    torch._dynamo.reset()  # the same code for every operator: more compilations than it keeps
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*leaves), leaves[:1])
    torch.testing.assert_close(compiled, want[0])


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_autocast_computes_in_float32(name: str, short: torch.dtype) -> None:
    case = CASES[name]
    x, at = case.data(torch.float32).to(short), case.coordinates() + 0.01
    results: list[Any] = []
    for enabled, x_in in ((True, x), (False, x.float())):
        leaves = [x_in.clone().requires_grad_(), at.clone().requires_grad_("nearest" not in name)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = case.run(*leaves)
            assert output.dtype == torch.float32
            loss = output.square().sum()
        results.append([output, *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])])
    assert results[0][1].dtype == short
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want.to(got.dtype), rtol=0, atol=0)


def test_autocast_of_another_device_changes_nothing() -> None:
    with torch.autocast("cpu", enabled=False), pytest.raises(RuntimeError, match="got bfloat16"):
        px.extract_patches(torch.zeros(4, 4, dtype=torch.bfloat16), torch.zeros(1, 2), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        double = px.extract_patches(torch.ones(4, 4, dtype=torch.float64), torch.zeros(1, 2), 2)
    assert double.dtype == torch.float64


def test_autocast_compiles_to_one_graph() -> None:
    def step(x: Tensor) -> Tensor:
        return px.extract_patches(x @ x, POSITIONS[0], PATCH)

    x = data((13, 13), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.compile(step, fullgraph=True, backend="aot_eager")(x)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, step(x))


@pytest.mark.parametrize("call", [px.extract_patches, torch.ops.ptycho.extract_patches])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_tensor_that_outlived_its_transform_counts_as_what_it_wraps(call: Any, recorded: bool) -> None:
    kept: list[Tensor] = []

    def loss(x: Tensor) -> Tensor:
        kept.append(2 * x)
        return x.square().sum()

    canvas = data(CANVAS, torch.float64).requires_grad_(recorded)
    torch.func.grad(loss)(canvas)
    got, want = call(kept[0], POSITIONS[0], list(PATCH)), call(2 * canvas, POSITIONS[0], list(PATCH))
    assert torch.equal(got, want) and got.requires_grad == recorded
    if recorded:
        of_both = (torch.autograd.grad(y.sum(), canvas)[0] for y in (got, want))
        torch.testing.assert_close(*of_both, rtol=0, atol=0)
