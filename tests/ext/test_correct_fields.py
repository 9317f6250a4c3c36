# SPDX-License-Identifier: BSD-3-Clause
"""correct_fields: reference, all types of data and counts, extreme values, derivatives, and transforms of torch.

It is not linear in the fields, so it is not in the tables of test_contracts.py. Errors: test_correct_fields_errors.py.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import COUNT_TYPES, DTYPES, PATTERN, TOLERANCE, data, here, on_cpu, raw, scene, uniform
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

import ptycho_ext as px
from ptycho_ext import reference

pytestmark = pytest.mark.usefixtures("device")

LOSSES = ["poisson", "amplitude"]
BACKGROUND = 0.1


def expected(inputs: dict[str, Any], loss: str, background: float = BACKGROUND) -> tuple[Any, Any, Any]:
    """The reference, for one or two leading dimensions."""
    names = [name for name in ("fields", "counts", "mask", "scale") if inputs.get(name) is not None]
    arrays = {name: np.asarray(on_cpu((inputs[name].detach(),))[0]) for name in names}
    lead = arrays["fields"].shape[:-3]
    for name, inner in (("fields", 3), ("counts", 2), ("scale", 0), ("mask", 2)):
        if name in arrays and arrays[name].ndim > inner:
            arrays[name] = arrays[name].reshape(-1, *arrays[name].shape[arrays[name].ndim - inner :])
    correction, values, slopes = reference.correct_fields(**arrays, loss=loss, background=background)
    shape = inputs["fields"].shape
    return correction.reshape(shape), values.reshape(lead), slopes.reshape(lead)


def check(got: tuple[Tensor, ...], want: tuple[Any, ...], tolerance: float) -> None:
    for one, other in zip(got, want, strict=True):
        assert tuple(one.shape) == other.shape
        error = np.abs(on_cpu((one.detach().resolve_conj(),))[0].numpy() - other).max(initial=0)
        assert error <= tolerance * max(1.0, np.abs(other).max(initial=0))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts_type", COUNT_TYPES)
def test_matches_the_reference(counts_type: torch.dtype, dtype: torch.dtype, loss: str) -> None:
    for modes, masked, scaled in itertools.product((1, 2, 3), (False, True), (False, True)):
        inputs = scene(dtype, counts_type, modes)
        inputs["mask"] = inputs["mask"] if masked else None
        inputs["scale"] = inputs["scale"] if scaled else None
        got = px.correct_fields(**inputs, loss=loss, background=BACKGROUND)
        assert got[0].dtype == dtype and got[1].dtype == got[2].dtype == torch.float64
        check(got, expected(inputs, loss), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (90, 101)])
def test_sizes_of_one_chunk_and_of_many_parts(size: tuple[int, int], loss: str) -> None:
    for dtype in (torch.complex64, torch.float64):
        inputs = scene(dtype, size=size, lead=(2, 2))
        inputs["mask"] = uniform((2, 2, *size), 9) > 0.5
        check(px.correct_fields(**inputs, loss=loss, background=BACKGROUND), expected(inputs, loss), TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("counts_type", [torch.float32, torch.int64])
def test_every_pixel_is_accurate(counts_type: torch.dtype, loss: str) -> None:
    """Patterns of one pixel in float32, with counts from 0 to 1e12 and relative differences down to 1e-7.

    The value is within 24 units in the last place, the correction within 3.
    """
    levels = np.array([0, *np.logspace(-3, 12, 61)])
    near = 10 ** np.linspace(-7, -0.01, 60)
    near, close = np.concatenate([near, -near]), np.array([[1.0], [30.0], [1e4], [1e6]])
    grid = np.meshgrid(levels, levels, indexing="ij")
    predicted = np.concatenate([grid[0].ravel(), (close * (1 + near)).ravel()])
    measured = np.concatenate([grid[1].ravel(), np.repeat(close, len(near))])
    fields = here(torch.from_numpy(predicted).sqrt().float().view(-1, 1, 1, 1))
    counts = here(torch.from_numpy(measured).to(counts_type).view(-1, 1, 1))
    got = px.correct_fields(fields, counts, loss=loss, background=BACKGROUND)
    # The operator's part begins with intensity, count and background in float32.
    intensity, count = (on_cpu((t.float().flatten(),))[0].numpy().astype(np.float64) for t in (fields.square(), counts))
    background = float(np.float32(BACKGROUND))
    difference, p, m = count - intensity, intensity + background, count + background
    x = difference / p
    if loss == "poisson":
        step = x / 2
        series = p * x**2 * (1 / 2 - x / 6 + x**2 / 12 - x**3 / 20 + x**4 / 30)
        value = np.where(np.abs(x) < 1e-3, series, m * np.log1p(x) - difference) / 2
    else:
        step = x / (1 + np.sqrt(m / p))
        value = step**2 * p
    root = on_cpu((fields,))[0].numpy().ravel().astype(np.float64)
    unit = np.finfo(np.float32).eps
    for one, other, units in zip(got, (step * root, value, -step * intensity), (3, 24, 3), strict=True):
        error = np.abs(on_cpu((one,))[0].numpy().ravel() - other)
        assert (error <= units * unit * np.abs(other)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_are_finite_without_background(loss: str, dtype: torch.dtype) -> None:
    fields = torch.tensor([0.0, 0.0, 3.0, 1e-18, 1e-30]).view(-1, 1, 1, 1).to(dtype)
    counts = torch.tensor([0, 2**32 - 1, 0, 7, 2**31], dtype=torch.int64).view(-1, 1, 1)
    correction, values, slopes = px.correct_fields(fields, counts, loss=loss)
    assert correction.isfinite().all() and values.isfinite().all() and slopes.isfinite().all()
    assert not correction[:2].any() and values[0] == slopes[0] == slopes[1] == 0  # the phase is undefined
    assert float(values[2]) == pytest.approx(9 / 2 if loss == "poisson" else 9)
    if loss == "amplitude":
        assert float(values[1]) == pytest.approx(2**32, rel=1e-6)
    fields = fields.requires_grad_()
    correction, values, slopes = px.correct_fields(fields, counts, loss=loss)
    (grad,) = torch.autograd.grad(correction.abs().sum() + values.sum() + slopes.sum(), fields)
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("counts_type", "worst"),
    [
        (torch.float32, [torch.nan, torch.inf, -torch.inf, -1]),
        (torch.float64, [torch.nan, torch.inf, -1, 1e300]),
        (torch.int16, [-1, -(2**15)]),
        (torch.uint32, [2**32 - 1]),
        (torch.int64, [-1, 2**62]),
    ],
)
def test_values_of_bad_pixels_are_ignored(counts_type: torch.dtype, worst: list[float], loss: str) -> None:
    for dtype, shared in itertools.product((torch.complex64, torch.float64), (True, False)):
        inputs = scene(dtype, counts_type)
        if not shared:
            inputs["mask"] = uniform((3, *PATTERN), 8) > 0.3
        fields = inputs.pop("fields").requires_grad_()
        results = []
        for value in (0, *worst):
            counts = torch.where(inputs["mask"], inputs["counts"].double(), value).to(counts_type)
            outputs = px.correct_fields(fields, **{**inputs, "counts": counts}, loss=loss, background=BACKGROUND)
            assert not outputs[0].movedim(-3, 0)[:, ~inputs["mask"].expand(3, *PATTERN)].any()
            total = outputs[0].abs().sum() + (outputs[1] * outputs[2]).sum()
            results.append([*outputs, *torch.autograd.grad(total, fields)])
        for result in results[1:]:
            assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_negative_count_of_a_good_pixel_makes_the_value_nan() -> None:
    fields, counts = torch.ones(2, 1, 1, 2), torch.tensor([[[-1, 4]], [[1, 4]]])
    for loss in LOSSES:
        values = px.correct_fields(fields, counts, loss=loss)[1]
        assert values[0].isnan() and values[1].isfinite()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, loss: str) -> None:
    fields, counts, mask, scale = scene(dtype, torch.int32).values()
    grads = (data(fields.shape, dtype, 4), uniform((3,), 5), uniform((3,), 6))
    opcheck(raw("correct_fields"), (fields, counts, mask, scale, loss, BACKGROUND))
    opcheck(raw("correct_fields"), (fields, counts, None, None, loss, BACKGROUND, False))
    opcheck(raw("correct_fields"), (fields.requires_grad_(), counts, mask, scale, loss, BACKGROUND))
    opcheck(raw("correct_fields_backward"), (*grads, fields.detach(), counts, mask, scale, loss, BACKGROUND))
    opcheck(raw("correct_fields_backward"), (None, None, None, fields.detach(), counts, None, None, loss, BACKGROUND))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("masked", [False, True])
def test_derivatives(masked: bool, dtype: torch.dtype, loss: str) -> None:
    """Of each output and of all together, by fields and scale."""
    inputs = scene(dtype, lead=(2,))
    mask = inputs["mask"] if masked else None
    leaves = (inputs["fields"].requires_grad_(), inputs["scale"].requires_grad_())
    for chosen in (slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 3)):

        def outputs(fields: Tensor, scale: Tensor, chosen: slice = chosen) -> tuple[Tensor, ...]:
            counts = inputs["counts"]
            results = px.correct_fields(fields, counts, mask=mask, scale=scale, loss=loss, background=BACKGROUND)
            return results[chosen]

        assert gradcheck(outputs, leaves)
    assert gradcheck(
        lambda fields: px.correct_fields(fields, inputs["counts"], loss=loss, background=BACKGROUND, correct=False)[1:],
        leaves[:1],
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_the_derivatives_of_the_value(dtype: torch.dtype, loss: str) -> None:
    inputs = scene(dtype)
    fields, scale = inputs["fields"].requires_grad_(), inputs["scale"].requires_grad_()
    correction, values, slopes = px.correct_fields(**inputs, loss=loss, background=BACKGROUND)
    by_fields, by_scale = torch.autograd.grad(values.sum(), (fields, scale))
    torch.testing.assert_close(by_fields, -2 * correction, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_scale.double(), slopes / scale.double(), rtol=1e-5, atol=1e-5)


def test_a_second_derivative_is_an_error() -> None:
    inputs = scene(torch.complex128)
    fields = inputs["fields"].requires_grad_()
    correction, values, _ = px.correct_fields(**inputs, background=BACKGROUND)
    for output in (correction.abs().sum(), values.sum()):
        (first,) = torch.autograd.grad(output, fields, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"^correct_fields: its outputs must be differentiated once only"):
            first.abs().sum().backward()


def variants(x: Tensor) -> list[Tensor]:
    """The same values in other memory layouts: transposed, with a stride of two, and as a lazy view."""
    views = [x.mT.contiguous().mT, x.repeat_interleave(2, -1)[..., ::2]]
    return [*views, x.conj().resolve_conj().conj() if x.is_complex() else views[0]]


@pytest.mark.parametrize("counts_type", [torch.uint8, torch.int16, torch.int32, torch.float64])
def test_result_does_not_depend_on_strides_and_lazy_views(counts_type: torch.dtype) -> None:
    for dtype in (torch.complex64, torch.float64):
        inputs = scene(dtype, counts_type)
        fields, counts, mask, scale = inputs.values()
        grad = data(fields.shape, dtype, 4)
        want = raw("correct_fields")(fields, counts, mask, scale, "poisson", BACKGROUND)
        back = raw("correct_fields_backward")(grad, None, None, fields, counts, mask, scale, "poisson", BACKGROUND)
        strided = scale.repeat_interleave(3)[::3]
        for f, c, m, g in zip(*map(variants, (fields, counts, mask, grad)), strict=True):
            got = raw("correct_fields")(f, c, m, strided, "poisson", BACKGROUND)
            assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
            got = raw("correct_fields_backward")(g, None, None, f, c, m, strided, "poisson", BACKGROUND)
            assert all(torch.equal(one, other) for one, other in zip(got, back, strict=True))


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (2, 0, 1, 4, 5)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    fields = torch.zeros(shape, dtype=torch.complex64, requires_grad=True)
    counts = torch.ones((*shape[:-3], *shape[-2:]), dtype=torch.int32)
    correction, values, slopes = px.correct_fields(fields, counts, background=1.0)
    assert correction.shape == shape and values.shape == slopes.shape == shape[:-3] and not slopes.any()
    assert torch.autograd.grad(correction.abs().sum() + values.sum(), fields)[0].shape == shape


def test_bitwise_the_same_over_threads_and_runs() -> None:
    for loss in LOSSES:
        fields, counts, mask, scale = scene(size=(130, 111), lead=(9,)).values()
        grads = (data(fields.shape, fields.dtype, 4), uniform((9,), 5), uniform((9,), 6))
        inputs = (fields, counts, mask, scale, loss, BACKGROUND)
        results = []
        for threads in (1, 2, 4, 4):
            torch.set_num_threads(threads)
            results.append((*raw("correct_fields")(*inputs), *raw("correct_fields_backward")(*grads, *inputs)))
        for result in results[1:]:
            assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_out_and_in_place(masked: bool) -> None:
    inputs = scene(modes=3, size=(20, 33))
    inputs["mask"] = inputs["mask"] if masked else None
    if masked:
        inputs["mask"] = uniform((20, 33), 2) > 0.4
    want = px.correct_fields(**inputs)
    out = torch.full_like(want[0], 7)
    for target in (out, inputs["fields"]):
        got = px.correct_fields(**inputs, out=target)
        assert got[0] is target
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
        inputs["fields"] = inputs["fields"].clone() if target is out else target
    with torch.inference_mode():
        px.correct_fields(**scene(), out=scene()["fields"])


def test_writing_to_out_is_registered_in_autograd() -> None:
    inputs = scene()
    buffer = torch.zeros_like(inputs["fields"])
    loss = (torch.ones_like(buffer, requires_grad=True) * buffer).abs().sum()
    with torch.no_grad():
        px.correct_fields(**inputs, out=buffer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_correction() -> None:
    inputs = scene(lead=(2, 3))
    inputs["mask"] = None
    correction, values, slopes = px.correct_fields(**inputs, background=BACKGROUND, correct=False)
    full = px.correct_fields(**inputs, background=BACKGROUND)
    assert correction.shape == (2, 3, 0, *PATTERN) and correction.dtype == torch.complex64
    assert torch.equal(values, full[1]) and torch.equal(slopes, full[2])


class Step(torch.nn.Module):
    """All outputs and derivatives."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, fields: Tensor, counts: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        # A literal, because dynamo makes a global float an input for dynamic shapes, and fails at its second use.
        correction, values, slopes = px.correct_fields(
            fields, counts, mask=mask, scale=scale, loss=self.loss, background=0.1
        )
        alone = px.correct_fields(fields, counts, loss=self.loss, background=0.1, correct=False)[1]
        return correction.abs().square().sum() + (values * slopes).sum() + alone.sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic: bool, loss: str) -> None:
    step, results = Step(loss), []
    for function in (step, torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")):
        inputs = scene(torch.complex128)
        leaves = [inputs["fields"].requires_grad_(), inputs["scale"].requires_grad_()]
        loss_value = function(*inputs.values())
        results.append([loss_value, *torch.autograd.grad(loss_value, leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_exports() -> None:
    args = tuple(scene().values())
    torch.testing.assert_close(torch.export.export(Step("poisson"), args).module()(*args), Step("poisson")(*args))


@pytest.mark.parametrize("mask_dim", [None, 0])
def test_vmap_equals_a_loop(mask_dim: int | None) -> None:
    fields, counts, mask, scale = scene(torch.complex128, torch.int32, lead=(4, 3)).values()
    if mask_dim is not None:
        mask = uniform((4, *PATTERN), 8) > 0.4

    def call(f: Tensor, c: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        return px.correct_fields(f, c, mask=m, scale=s, background=BACKGROUND)

    def loss(f: Tensor, c: Tensor, m: Tensor, s: Tensor) -> Tensor:
        correction, values, slopes = call(f, c, m, s)
        return correction.abs().square().sum() + (values * slopes).sum()

    masks = [mask if mask_dim is None else mask[i] for i in range(4)]
    in_dims = (0, 0, mask_dim, 0)
    for function in (call, torch.func.grad(loss, (0, 3)), torch.func.grad(lambda *args: call(*args)[1].sum())):
        got = torch.vmap(function, in_dims)(fields, counts, mask, scale)
        looped = [function(fields[i], counts[i], masks[i], scale[i]) for i in range(4)]
        for one, *others in zip(*([x] if isinstance(x, Tensor) else x for x in (got, *looped)), strict=True):
            torch.testing.assert_close(one, torch.stack(others))
    shared = torch.vmap(call, (0, None, None, None))(fields, counts[0], masks[0], scale[0])
    torch.testing.assert_close(shared[0][2], call(fields[2], counts[0], masks[0], scale[0])[0])


def test_autocast_computes_in_float32() -> None:
    inputs = scene(torch.float32)
    short = inputs["fields"].to(torch.bfloat16)
    with torch.autocast(short.device.type, dtype=torch.bfloat16):
        got = px.correct_fields(**{**inputs, "fields": short})
    assert got[0].dtype == torch.float32
    assert torch.equal(got[0], px.correct_fields(**{**inputs, "fields": short.float()})[0])
