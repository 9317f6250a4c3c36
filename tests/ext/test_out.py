# SPDX-License-Identifier: BSD-3-Clause
"""out=: results, autograd, and errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from op_cases import CANVAS, CASES, DTYPES, PATCH, POSITIONS, Case, data
from torch import Tensor

import ptycho_ext as px


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def empty_like(case: Case, x: Tensor) -> Any:
    """Uninitialised tensors for the results of a case."""
    parts = tuple(torch.empty_like(part) for part in as_tuple(case.results(x, case.coordinates())))
    return parts if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_out_is_written_and_returned(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x = case.data(dtype)
    want = case.results(x, case.coordinates())
    out = tuple(torch.full_like(w, torch.nan) for w in want) if isinstance(want, tuple) else torch.full_like(want, 7)
    got = case.results(x, case.coordinates(), out=out)
    assert got is out
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_out_of_another_shape_or_with_a_gradient_is_an_error(name: str) -> None:
    case = CASES[name]
    op, x = case.function.__name__, case.data(torch.float32)
    want = case.results(x, case.coordinates())
    pair = isinstance(want, tuple)
    with pytest.raises(RuntimeError, match=rf"^{op}: out(\[1\])? must have shape .*, got "):
        case.results(x, case.coordinates(), out=(want[0], want[1][1:]) if pair else want[..., 1:].contiguous())
    with pytest.raises(RuntimeError, match=rf"^{op}: out(\[1\])? must be float32, got float64"):
        case.results(x, case.coordinates(), out=(want[0], want[1].double()) if pair else want.double())
    with pytest.raises(RuntimeError, match=rf"^{op}: out must be None where a gradient is required"):
        case.results(x.requires_grad_(), case.coordinates(), out=want)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        (torch.empty(2, 5, 5, 4), "out must be complex64, got float32"),
        (torch.empty(2, 5, 4, 5, dtype=torch.complex64), "out must have shape (2, 5, 5, 4), got (2, 5, 4, 5)"),
        (torch.empty(2, 5, 4, 5, dtype=torch.complex64).mT, "out must be contiguous, got other strides"),
    ],
)
def test_out_must_fit(out: Tensor, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=f"^extract_patches: {re.escape(sentence)}$"):
        px.extract_patches(data((2, *CANVAS), torch.complex64), POSITIONS, PATCH, out=out)


def test_out_is_an_error_where_a_gradient_is_required() -> None:
    canvas, out = data((2, *CANVAS), torch.float32).requires_grad_(), torch.empty(2, 5, *PATCH)
    with pytest.raises(RuntimeError, match=r"^extract_patches: out must be None where a gradient is required"):
        px.extract_patches(canvas, POSITIONS, PATCH, out=out)
    with torch.no_grad():
        px.extract_patches(canvas, POSITIONS, PATCH, out=out)


@pytest.mark.parametrize("name", CASES)
def test_writing_to_out_is_registered_in_autograd(name: str) -> None:
    """Overwriting a tensor that backward needs is an error, as in torch's functions."""
    case = CASES[name]
    x = case.data(torch.float32)
    out = empty_like(case, x)
    for buffer in as_tuple(out):
        version = buffer._version
        weight = torch.ones_like(buffer, requires_grad=True)
        loss = (weight * buffer.zero_()).sum()
        with torch.no_grad():
            case.results(x, case.coordinates(), out=out)
        assert buffer._version > version + 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("name", CASES)
def test_out_of_inference_mode(name: str) -> None:
    case = CASES[name]
    x = case.data(torch.float32)
    want = as_tuple(case.results(x, case.coordinates()))
    with torch.inference_mode():
        out = empty_like(case, x)
        got = case.results(x, case.coordinates(), out=out)
    for one, other in zip(as_tuple(got), want, strict=True):
        assert torch.equal(one, other)
    if "fourier" not in name:  # its last step is torch's copy_, which does not allow this
        with torch.no_grad():
            case.results(x, case.coordinates(), out=out)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_16_bit_out_is_an_error_under_autocast(name: str, short: torch.dtype) -> None:
    """The result is float32, and out is never converted."""
    case = CASES[name]
    x, op = case.data(torch.float32).to(short), case.function.__name__
    outs = as_tuple(empty_like(case, x.float()))
    with torch.autocast("cpu", dtype=short):
        got = case.results(x, case.coordinates(), out=outs if len(outs) > 1 else outs[0])
        assert all(one is other for one, other in zip(as_tuple(got), outs, strict=True))
        out = tuple(part.to(short) for part in outs)
        kind = str(short).removeprefix("torch.")
        with pytest.raises(RuntimeError, match=rf"^{op}: out(\[0\])? must be float32, got {kind}$"):
            case.results(x, case.coordinates(), out=out if len(out) > 1 else out[0])


@pytest.mark.parametrize("name", CASES)
def test_out_must_not_be_a_lazy_view(name: str) -> None:
    case = CASES[name]
    x, op = case.data(torch.complex64), case.function.__name__
    out = as_tuple(empty_like(case, x))
    lazy = (out[0].conj(), *out[1:])
    with pytest.raises(RuntimeError, match=rf"^{op}: out must be a tensor of its own, got the conjugate or negative"):
        case.results(x, case.coordinates(), out=lazy if len(lazy) > 1 else lazy[0])


@pytest.mark.parametrize("name", CASES)
def test_out_is_an_error_under_transforms(name: str) -> None:
    case = CASES[name]
    x = case.data(torch.float32)
    out = empty_like(case, x)
    with pytest.raises(RuntimeError, match=r"out(\[\d\])? must|vmap"):
        torch.vmap(lambda x: case.results(x[None], case.coordinates()[:1], out=out))(x)


@pytest.mark.parametrize("name", CASES)
def test_out_must_have_memory_of_its_own(name: str) -> None:
    """It must not overlap the data, the coordinates, the weights or the other result."""
    case = CASES[name]
    x, at, op = case.data(torch.float64), case.coordinates().clone(), case.function.__name__
    shapes = [part.shape for part in as_tuple(case.results(x, at))]
    memory = torch.zeros(4000, dtype=torch.float64)

    def refused(x: Tensor, at: Tensor, *outs: Tensor) -> None:
        with pytest.raises(
            RuntimeError, match=rf"^{op}: out(\[\d\])? must have memory of its own, got that of an input"
        ):
            case.results(x, at, out=outs if len(outs) > 1 else outs[0])

    def view(offset: int, shape: torch.Size) -> Tensor:
        return memory[offset : offset + shape.numel()].view(shape)

    if "fourier" in name:  # it reads all inputs before it writes
        want = case.results(x, at)
        assert torch.equal(case.results(x, at, out=x), want)
        return
    data_, rest = view(0, x.shape).copy_(x), [torch.empty(shape, dtype=x.dtype) for shape in shapes[1:]]
    refused(data_, at, view(0, shapes[0]), *rest)
    refused(data_, at, view(x.numel() - 1, shapes[0]), *rest)
    refused(x, view(0, at.shape).copy_(at), view(at.numel() - 1, shapes[0]), *rest)
    if rest:
        refused(x, at, view(0, shapes[0]), view(shapes[0].numel() - 1, shapes[1]))
    data_.copy_(x)
    beside = [view(x.numel(), shapes[0]), *rest]
    want = as_tuple(case.results(x, at))
    got = as_tuple(case.results(data_, at, out=tuple(beside) if rest else beside[0]))
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def test_out_may_be_the_memory_of_an_input_that_is_copied_first() -> None:
    canvas = data((2, *CANVAS), torch.float32).mT.contiguous().mT
    want = px.translate_images(canvas, POSITIONS[:, 0])
    out = canvas.mT.flatten()[: canvas.numel()].view(2, *CANVAS)
    assert torch.equal(px.translate_images(canvas, POSITIONS[:, 0], out=out), want)


def test_weights_and_second_results_are_kept_apart() -> None:
    patches, weight = data((2, 5, *PATCH), torch.float32), torch.ones(2, 5, *PATCH)
    image = torch.empty(2, *CANVAS)
    for op, outs in (("overlap_project", weight), ("reassemble_patches", (image, image))):
        with pytest.raises(RuntimeError, match=rf"^{op}: out(\[1\])? must have memory of its own"):
            getattr(px, op)(patches, POSITIONS, CANVAS, weight, out=outs)
