# SPDX-License-Identifier: BSD-3-Clause
"""pattern_step: reference, the separate operators, scans of several rounds, derivatives, threads, and wrong arguments.

It is not linear in its data, so it is not in the tables of test_contracts.py.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import CANVAS, COUNT_TYPES, POSITIONS, REAL, TOLERANCE, data, here, raw, uniform
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

import ptycho_ext as px
from ptycho_ext import reference
from ptycho_ext.ops import step as module

pytestmark = pytest.mark.usefixtures("device")

LOSSES = ["poisson", "amplitude"]
SIZE = (5, 6)
CORRECTIONS = ("canvas", "probe", "positions")


def scene(
    dtype: torch.dtype = torch.complex64,
    modes: int = 2,
    shared: bool = True,
    shifted: bool = False,
    counts_type: torch.dtype = torch.uint16,
) -> dict[str, Any]:
    """Patterns inside, across every border and outside of the canvas, with everything that is optional."""
    positions = here(POSITIONS[0])
    n = len(positions)
    return {
        "canvas": data(CANVAS, dtype),
        "positions": positions.floor() if shifted else positions,
        "probe": 4 * data((modes, *SIZE) if shared else (n, modes, *SIZE), dtype, 1),
        "counts": (40 * uniform((n, *SIZE), 2)).round().to(counts_type),
        "mask": uniform(SIZE, 3) > 0.3,
        "scale": (0.5 + uniform((n,), 4)).to(REAL[dtype]),
        "weights": (0.2 + uniform((n,), 5)).to(REAL[dtype]),
        "shifts": positions - positions.floor() + 0.2 if shifted else None,
        "background": 0.1,
    }


def large(n: int = 300, size: int = 16, modes: int = 2, step: float = 2.3) -> dict[str, Any]:
    """A scan of so many patterns that they are taken in several rounds."""
    side = int(np.ceil(n**0.5))
    grid = torch.stack(torch.meshgrid(*[torch.arange(side, dtype=torch.float64, device="cpu")] * 2, indexing="ij"), -1)
    positions = step * grid.reshape(-1, 2)[torch.randperm(side**2, generator=torch.Generator().manual_seed(1))[:n]]
    extent = int(positions.max()) + size + 3
    return {
        "canvas": data((extent, extent + 5), torch.complex64),
        "positions": here(positions) + 0.3 * uniform((n, 2), 1),
        "probe": 3 * data((modes, size, size), torch.complex64, 1),
        "counts": (30 * uniform((n, size, size), 2)).round().to(torch.uint16),
        "background": 0.1,
    }


def expected(inputs: dict[str, Any], loss: str) -> tuple[Any, ...]:
    arrays = {name: v.detach().cpu().numpy() if isinstance(v, Tensor) else v for name, v in inputs.items()}
    return reference.pattern_step(**arrays, loss=loss)


def composed(inputs: dict[str, Any], loss: str = "poisson") -> tuple[Tensor, ...]:
    names = ("canvas", "positions", "probe", "counts", "mask", "scale", "weights", "shifts")
    return module._composed(*(inputs.get(name) for name in names), loss, inputs["background"])


def close(got: Any, want: Any, tolerance: float) -> None:
    for one, other in zip(got, want, strict=True):
        other = np.asarray(other.detach().cpu() if isinstance(other, Tensor) else other)
        assert one.shape == other.shape
        error = np.abs(one.detach().cpu().numpy() - other).max(initial=0)
        assert error <= tolerance * max(1.0, np.abs(other).max(initial=0)), error


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_matches_the_reference(shared: bool, shifted: bool, dtype: torch.dtype, loss: str) -> None:
    for modes, optional in itertools.product((1, 3), (True, False)):
        inputs = scene(dtype, modes, shared, shifted)
        if not optional:
            inputs |= {"mask": None, "scale": None, "weights": None}
        got = px.pattern_step(**inputs, loss=loss)
        assert got.canvas.dtype == got.probe.dtype == dtype and got.positions.dtype == torch.float64
        want = expected(inputs, loss)
        close(got, want, 10 * TOLERANCE[dtype])
        close(composed(inputs, loss), want, 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("counts_type", COUNT_TYPES)
def test_counts_of_any_type_and_mask_of_every_pattern(counts_type: torch.dtype) -> None:
    inputs = scene(torch.complex128, counts_type=counts_type)
    inputs["mask"] = uniform(tuple(inputs["counts"].shape), 8) > 0.4
    close(px.pattern_step(**inputs), expected(inputs, "poisson"), 1e-13)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("n", [1, 17, 300, 1100])
def test_a_scan_of_several_rounds_is_that_of_the_separate_operators(n: int, shifted: bool) -> None:
    inputs = large(n)
    if shifted:
        inputs |= {"positions": inputs["positions"].floor(), "shifts": inputs["positions"] - 0.4}
        inputs["shifts"] = inputs["shifts"] - inputs["positions"]
    close(px.pattern_step(**inputs), composed(inputs), 1e-5)


def test_large_patterns_are_compared_in_parts() -> None:
    inputs = large(3, size=110, modes=1, step=40.0)
    close(px.pattern_step(**inputs), composed(inputs), 1e-5)


def test_several_canvases() -> None:
    one, two = scene(torch.complex128), scene(torch.complex128)
    two |= {"canvas": data(CANVAS, torch.complex128, 9), "positions": here(POSITIONS[1])}
    names = ("canvas", "positions", "counts", "scale", "weights")
    both = {**one, **{name: torch.stack([one[name], two[name]]) for name in names}}
    got = px.pattern_step(**both)
    single = [px.pattern_step(**inputs) for inputs in (one, two)]
    for name in ("values", "scale_slopes", "canvas", "positions"):
        close(getattr(got, name), [getattr(step, name) for step in single], 1e-13)
    torch.testing.assert_close(got.probe, single[0].probe + single[1].probe)


def test_what_is_not_asked_for_is_none_and_the_rest_is_the_same() -> None:
    for shifted in (False, True):
        inputs = scene(shifted=shifted)
        full = px.pattern_step(**inputs)
        for wanted in itertools.product((True, False), repeat=3):
            flags = {f"to_{name}": asked for name, asked in zip(CORRECTIONS, wanted, strict=True)}
            got = px.pattern_step(**inputs, **flags)
            assert torch.equal(got.values, full.values) and torch.equal(got.scale_slopes, full.scale_slopes)
            for name, asked in zip(CORRECTIONS, wanted, strict=True):
                one, other = getattr(got, name), getattr(full, name)
                assert one is None if not asked else torch.equal(one, other)


def test_bitwise_the_same_over_threads_and_runs() -> None:
    for inputs in (large(300), scene(shifted=True), scene(shared=False)):
        results = []
        for threads in (1, 2, 5, 5):
            torch.set_num_threads(threads)
            results.append(px.pattern_step(**inputs))
        for result in results[1:]:
            assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_result_does_not_depend_on_strides_and_lazy_views() -> None:
    inputs = scene(shifted=True)
    want = px.pattern_step(**inputs)
    strided = {
        name: value.repeat_interleave(2, -1)[..., ::2] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    strided["probe"] = inputs["probe"].conj().resolve_conj().conj()
    assert all(torch.equal(one, other) for one, other in zip(px.pattern_step(**strided), want, strict=True))


def test_empty_scans_and_patterns_outside() -> None:
    inputs = scene()
    none = {name: inputs[name][:0] for name in ("positions", "counts", "scale", "weights")}
    step = px.pattern_step(**{**inputs, **none})
    assert step.values.shape == (0,) and step.positions.shape == (0, 2)
    assert step.canvas.shape == CANVAS and not step.canvas.any() and not step.probe.any()
    outside = px.pattern_step(**{**inputs, "positions": inputs["positions"] - 1e9})
    assert not outside.canvas.any() and not outside.probe.any() and outside.values.isfinite().all()


def test_bad_pixels_hold_any_count() -> None:
    inputs = scene(counts_type=torch.float32)
    want = px.pattern_step(**inputs)
    inputs["counts"] = torch.where(inputs["mask"], inputs["counts"], torch.nan)
    assert all(torch.equal(one, other) for one, other in zip(px.pattern_step(**inputs), want, strict=True))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_corrections_are_minus_half_the_gradient(loss: str, shifted: bool) -> None:
    inputs = scene(torch.complex128, shifted=shifted)
    moved = "shifts" if shifted else "positions"
    leaves = [inputs[name].requires_grad_() for name in ("canvas", "probe", moved)]
    scale = inputs["scale"].requires_grad_()
    step = px.pattern_step(**inputs, loss=loss)
    total = (step.values * inputs["weights"]).sum()
    *grads, by_scale = torch.autograd.grad(total, (*leaves, scale), retain_graph=True)
    for grad, correction in zip(grads, (step.canvas, step.probe, step.positions), strict=True):
        torch.testing.assert_close(-grad / 2, correction.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(by_scale * scale / inputs["weights"], step.scale_slopes.detach())


def backward_of(inputs: dict[str, Any], loss: str, own: bool) -> tuple[Tensor, ...]:
    """Values, slopes and correction of the canvas, and the gradients of random sums of them by canvas and probe."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in ("canvas", "probe")}
    if own:
        step = px.pattern_step(**{**inputs, **leaves}, loss=loss, to_probe=False, to_positions=False)
        outputs = (step.values, step.scale_slopes, step.canvas)
    else:
        outputs = composed({**inputs, **leaves}, loss)[:3]
    grads = [data(tuple(output.shape), output.dtype, 20 + k) for k, output in enumerate(outputs)]
    return *(output.detach() for output in outputs), *torch.autograd.grad(outputs, tuple(leaves.values()), grads)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shared", [True, False])
def test_the_backward_is_that_of_the_separate_operators(shared: bool, dtype: torch.dtype, loss: str) -> None:
    for modes in (1, 3):
        inputs = scene(dtype, modes, shared)
        close(backward_of(inputs, loss, True), backward_of(inputs, loss, False), 20 * TOLERANCE[dtype])
        inputs |= {"mask": None, "scale": None, "weights": None}
        close(backward_of(inputs, loss, True), backward_of(inputs, loss, False), 20 * TOLERANCE[dtype])


def test_the_backward_of_values_or_of_the_correction_alone() -> None:
    inputs = scene(torch.complex128)
    canvas, probe = (inputs.pop(name).requires_grad_() for name in ("canvas", "probe"))
    options = {"to_probe": False, "to_positions": False}

    def outputs(canvas: Tensor, probe: Tensor, **more: bool) -> px.PatternStep:
        return px.pattern_step(canvas=canvas, probe=probe, **inputs, **options, **more)

    assert gradcheck(lambda c, p: outputs(c, p).canvas, (canvas, probe), fast_mode=True)
    assert gradcheck(lambda c, p: outputs(c, p, to_canvas=False).values, (canvas, probe), fast_mode=True)
    assert gradcheck(lambda c: outputs(c, probe.detach()).canvas, (canvas,), fast_mode=True)
    (by_canvas,) = torch.autograd.grad(outputs(canvas, probe).values.sum(), canvas, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"^pattern_step: its outputs must be differentiated once only"):
        torch.autograd.grad(by_canvas.abs().sum(), canvas)


def test_the_backward_is_bitwise_the_same_over_threads() -> None:
    inputs = large(300)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(backward_of(inputs, "poisson", True))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_wrong_gradients_are_errors() -> None:
    inputs = scene()
    for name in ("shifts", "background"):
        inputs.pop(name)
    for grads, sentence in [
        ((data(CANVAS, torch.complex128), None, None), "grad_correction must be complex64, got complex128"),
        ((None, data((4,), torch.float64), None), "grad_values must have shape (5,), got (4,)"),
        ((None, None, data((5,), torch.float32)), "grad_scale_slopes must be float64, got float32"),
    ]:
        with pytest.raises(RuntimeError, match=f"^{re.escape(f'pattern_step_backward: {sentence}')}$"):
            raw("pattern_step_backward")(*grads, *inputs.values())


def test_corrections_are_differentiable_once() -> None:
    inputs = scene(torch.complex128)
    canvas, probe = (inputs.pop(name).requires_grad_() for name in ("canvas", "probe"))

    def corrections(canvas: Tensor, probe: Tensor) -> tuple[Tensor, ...]:
        step = px.pattern_step(canvas=canvas, probe=probe, **inputs)
        return step.canvas, step.probe, step.values

    assert gradcheck(corrections, (canvas, probe), fast_mode=True)


def test_opcheck() -> None:
    for shifted in (False, True):
        inputs = scene(shifted=shifted)
        background = inputs.pop("background")
        opcheck(raw("pattern_step"), (*inputs.values(), "poisson", background))
        opcheck(raw("pattern_step"), (*inputs.values(), "amplitude", background, False, False, True))
        inputs["canvas"].requires_grad_()
        differentiated = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        options = ("poisson", background, True, True, False)
        opcheck(raw("pattern_step"), (*inputs.values(), *options), test_utils=differentiated)
        inputs.pop("shifts")
        grads = (data(CANVAS, torch.complex64, 7), None, data((5,), torch.float64, 8))
        inputs["canvas"].requires_grad_(False)
        opcheck(raw("pattern_step_backward"), (*grads, *inputs.values(), "amplitude", background))


def test_sizes_with_other_prime_factors_are_composed_of_the_separate_operators() -> None:
    inputs = large(5, size=14)
    assert module.runs_in_cache(torch.device("cpu"), (60, 64)) and not module.runs_in_cache(torch.device("cpu"), (7, 8))
    assert not module.runs_in_cache(torch.device("cuda"), (64, 64))
    step = px.pattern_step(**inputs, to_probe=False)
    close((step.values, step.canvas), [expected(inputs, "poisson")[k] for k in (0, 2)], 1e-5)
    assert step.probe is None
    sentence = "^pattern_step: probe's size must have no prime factors other than 2, 3 and 5(, and be small)?, got 14$"
    background = inputs.pop("background")
    with pytest.raises(RuntimeError, match=sentence):
        raw("pattern_step")(*inputs.values(), background=background)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (9, 8), (10, 16), (27, 24), (32, 20), (48, 25), (64, 81)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_fourier_transforms_of_all_kinds_of_sizes(size: tuple[int, int], dtype: torch.dtype) -> None:
    """On a canvas of ones the far fields are those of the probe, and its correction their transform back."""
    probe = data((1, *size), dtype)
    canvas = torch.ones((size[0] + 1, size[1] + 1), dtype=dtype)
    counts = uniform((1, *size), 1)
    step = px.pattern_step(canvas, torch.zeros(1, 2), probe, counts, loss="amplitude", background=0.1)
    fields = torch.fft.fft2(probe, norm="ortho")[None]
    correction, values, _ = px.correct_fields(fields, counts, loss="amplitude", background=0.1)
    tolerance = 10 * TOLERANCE[dtype]
    close((step.probe, step.values), (torch.fft.ifft2(correction, norm="ortho")[0], values), tolerance)


def test_transforms_of_torch() -> None:
    inputs = scene()
    want = px.pattern_step(**inputs)

    def values(canvas: Tensor) -> Tensor:
        return px.pattern_step(**{**inputs, "canvas": canvas}).values

    compiled = torch.compile(lambda canvas: px.pattern_step(**{**inputs, "canvas": canvas}), fullgraph=True)
    assert all(torch.equal(one, other) for one, other in zip(compiled(inputs["canvas"]), want, strict=True))
    both = torch.stack([inputs["canvas"], 2 * inputs["canvas"]])
    torch.testing.assert_close(
        torch.vmap(values)(both), torch.stack([values(canvas) for canvas in both]), rtol=1e-5, atol=0
    )
    grad = torch.func.grad(lambda canvas: (values(canvas) * inputs["weights"]).sum())(inputs["canvas"])
    torch.testing.assert_close(-grad / 2, want.canvas, rtol=1e-4, atol=1e-4)


def test_inputs_of_other_precision_are_converted() -> None:
    inputs = scene()
    want = px.pattern_step(**inputs)
    wider = {name: inputs[name].to(torch.complex128) for name in ("probe",)}
    wider |= {name: inputs[name].double() for name in ("scale", "weights")}
    assert all(torch.equal(one, other) for one, other in zip(px.pattern_step(**{**inputs, **wider}), want, strict=True))


SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"canvas": torch.zeros(CANVAS)}, "canvas must be complex64 or complex128, got float32"),
    ({"canvas": torch.zeros(13, dtype=torch.complex64)}, "canvas must have shape (..., H, W), got (13,)"),
    ({"positions": torch.zeros(5, 3)}, "positions must have shape (5, 2), got (5, 3)"),
    ({"positions": torch.full((5, 2), torch.nan)}, "positions must be finite, got nan"),
    (
        {"probe": torch.zeros(4, 2, *SIZE, dtype=torch.complex64)},
        "probe must have shape (5, 2, 5, 6), got (4, 2, 5, 6)",
    ),
    (
        {"probe": torch.zeros(2, 20, 20, dtype=torch.complex64)},
        "canvas must be at least a patch's (20, 20), got (13, 18)",
    ),
    ({"counts": torch.zeros(4, *SIZE)}, "counts must have shape (5, 5, 6), got (4, 5, 6)"),
    ({"mask": torch.zeros(6, 5).bool()}, "mask must have shape (5, 6), got (6, 5)"),
    ({"scale": torch.zeros(4)}, "scale must have shape (5,), got (4,)"),
    ({"weights": torch.zeros(4)}, "weights must have shape (5,), got (4,)"),
    ({"weights": torch.zeros(5, dtype=torch.complex64)}, "weights must be float32, got complex64"),
    ({"shifts": torch.zeros(4, 2)}, "shifts must have shape (5, 2), got (4, 2)"),
    ({"shifts": torch.full((5, 2), torch.inf)}, "shifts must be finite, got inf"),
    ({"loss": "gaussian"}, "loss must be 'poisson' or 'amplitude', got 'gaussian'"),
    ({"background": -1.0}, "background must be finite and not negative, got -1"),
]


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES)
def test_wrong_arguments_are_errors(device: torch.device, changes: dict[str, Any], sentence: str) -> None:
    if device.type == "cuda" and "finite, got" in sentence:
        pytest.skip("the host does not wait for a device to look at coordinates")
    changes = {name: here(v) if isinstance(v, Tensor) else v for name, v in changes.items()}
    with pytest.raises(RuntimeError, match=f"^{re.escape(f'pattern_step: {sentence}')}"):
        px.pattern_step(**{**scene(), **changes})


def test_devices_must_agree() -> None:
    inputs = scene(shifted=True)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and name != "canvas":
            with pytest.raises(RuntimeError, match=r"^pattern_step: [a-z]+ must be on device"):
                px.pattern_step(**{**inputs, name: value.to("meta")})
