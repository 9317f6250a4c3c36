# SPDX-License-Identifier: BSD-3-Clause
"""Contract of every operator: functions x data types x devices.

Agreement with the reference, opcheck, gradients of first and second order, the dot test, strides and lazy views, empty
inputs, distant coordinates, bitwise equality. Errors are tested in test_sentences.py, transforms of torch (compile,
export, functorch, autocast) in test_transforms.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import (
    CANVAS,
    CASES,
    DTYPES,
    PATCH,
    POSITIONS,
    SUMS,
    Case,
    assert_close,
    data,
    here,
    on_cpu,
    raw,
    raw_inputs,
    weights,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import ptycho_ext as px
from ptycho_ext import reference

pytestmark = pytest.mark.usefixtures("device")

OPS = list(raw_inputs(torch.float32))

#: Inside, across borders and outside, all away from integers, where derivatives by the position jump.
SMOOTH = torch.tensor([[1.3, 2.6], [-1.4, 7.7], [9.55, 15.2], [1.6, 3.1], [-30.5, 0.3]], dtype=torch.float64)


def test_every_public_function_is_in_the_table() -> None:
    verbs = ("extract", "translate", "reassemble", "overlap", "exit", "correct", "update", "pattern")
    functions = {name for name in px.__all__ if name.split("_")[0] in verbs}
    # Not linear in their data, see test_correct_fields.py, test_update_canvas.py and test_pattern_step.py.
    not_linear = {"correct_fields", "update_canvas", "pattern_step"}
    assert {case.function.__name__ for case in CASES.values()} == functions - not_linear
    schemas = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ptycho::")}
    # See test_plan.py as well, and test_out.py for the variants with out.
    elsewhere = {"plan_tiles", *not_linear, *(f"{name}_backward" for name in not_linear)}
    elsewhere |= {f"{name}_out" for name in functions - {"update_canvas", "pattern_step"}}
    assert schemas == {f"ptycho::{op}" for op in {*OPS, *elsewhere}}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_matches_the_reference(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x = case.data(dtype)
    got = case.run(x, case.coordinates())
    assert got.dtype == dtype
    assert_close(got, case.reference(x, case.coordinates()), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, dtype: torch.dtype) -> None:
    opcheck(raw(op), raw_inputs(dtype)[op])


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_data(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    x = case.data(dtype).requires_grad_()
    # Fast mode: one random direction each, of every input and output.
    assert gradcheck(lambda x: case.run(x, case.coordinates()), (x,), fast_mode=True)
    assert gradgradcheck(lambda x: case.run(x, case.coordinates()), (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("name", CASES)
def test_dot(name: str, dtype: torch.dtype) -> None:
    """<A x, y> = <x, A* y>, A* being the backward."""
    case = CASES[name]
    x = case.data(dtype).requires_grad_()
    output = case.run(x, case.coordinates())
    y = data(tuple(output.shape), dtype, 7)
    (back,) = torch.autograd.grad(output, x, y)
    left, right = torch.vdot(y.flatten(), output.flatten()), torch.vdot(back.flatten(), x.flatten())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("name", [name for name in CASES if name != "translate-nearest"])
def test_gradients_of_the_coordinates(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    positions = case.coordinates(SMOOTH[None]).clone().requires_grad_()
    x = case.data(dtype, 1).requires_grad_()
    assert gradcheck(case.run, (x, positions), fast_mode=True)
    if "fourier" in name:
        assert gradgradcheck(case.run, (x, positions), fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES[1::2])
@pytest.mark.parametrize("shape", [PATCH, (5, *PATCH)])
def test_gradients_of_the_weights(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    patches, weight = data((5, *PATCH), dtype).requires_grad_(), weights(shape, dtype).requires_grad_()
    at = here(SMOOTH)
    positions = at.clone().requires_grad_()
    for normalize in (True, False):
        assert gradcheck(
            lambda x, w, p: px.reassemble_patches(x, p, CANVAS, w, normalize),  # noqa: B023
            (patches, weight, positions),
            fast_mode=True,
        )
        assert gradgradcheck(
            lambda x, w: px.reassemble_patches(x, at, CANVAS, w, normalize),  # noqa: B023
            (patches, weight),
            fast_mode=True,
        )
    assert gradcheck(lambda x, w, p: px.overlap_project(x, p, CANVAS, w), (patches, weight, positions), fast_mode=True)
    assert gradgradcheck(lambda x, w: px.overlap_project(x, at, CANVAS, w), (patches, weight), fast_mode=True)


def layouts(x: Tensor) -> list[Tensor]:
    """The same values in other layouts: transposed, with a stride of two, and as a conjugate or negative view."""
    views = [x.mT.contiguous().mT, x.repeat_interleave(2, -1)[..., ::2]]
    if x.is_complex():
        views.append(x.conj().resolve_conj().conj())
        assert views[-1].is_conj()
    else:
        views.append(torch.complex(x, -x).conj().imag)
        assert views[-1].is_neg()
    assert not any(view.is_contiguous() for view in views[:2])
    return views


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_result_does_not_depend_on_strides_and_lazy_views(op: str, dtype: torch.dtype) -> None:
    args = raw_inputs(dtype)[op]
    want = raw(op)(*args)
    variants = [layouts(a) if isinstance(a, Tensor) else [a] * 3 for a in args]
    for variant in zip(*variants, strict=True):
        torch.testing.assert_close(raw(op)(*variant), want, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_public_functions_do_not_depend_on_strides_and_lazy_views(name: str) -> None:
    case = CASES[name]
    x = case.data(torch.complex64)
    want = case.run(x, case.coordinates())
    for view in layouts(x):
        torch.testing.assert_close(case.run(view, case.coordinates()), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[::3])
@pytest.mark.parametrize("name", [name for name in CASES if name not in SUMS])
def test_no_groups(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    some, x = case.run(case.data(dtype), case.coordinates()), case.data(dtype, 0).requires_grad_()
    got = case.run(x, case.coordinates(POSITIONS[:0]))
    assert got.shape == (0, *some.shape[1:]) and got.dtype == dtype
    (back,) = torch.autograd.grad(got.abs().sum(), x)
    assert back.shape == x.shape


@pytest.mark.parametrize("groups", [0, 3])
def test_no_patches(groups: int) -> None:
    none, positions = torch.zeros(groups, 0, 2, 3), torch.zeros(groups, 0, 2)
    assert px.extract_patches(torch.zeros(groups, 4, 6), positions, (2, 3)).shape == (groups, 0, 2, 3)
    canvas = px.extract_patches_adjoint(none, positions, (4, 6))
    assert canvas.shape == (groups, 4, 6) and not canvas.any()
    for weight in (None, torch.ones(2, 3), none):
        image, total = px.reassemble_patches(none, positions, (4, 6), weight)
        assert image.shape == total.shape == (groups, 4, 6) and not image.any() and not total.any()
        assert px.overlap_project(none, positions, (4, 6), weight).shape == (groups, 0, 2, 3)


@pytest.mark.parametrize("far", [-1e300, -(2.0**63), -1e13, 2.0**31, 2.0**53, 1e300])
@pytest.mark.parametrize("name", CASES)
def test_distant_coordinates(name: str, far: float) -> None:
    """One coordinate or both, alone or beside a patch inside: as in the reference, and zero unless periodic."""
    case = CASES[name]
    positions = POSITIONS[:1].clone()
    positions[0, 0, 0], positions[0, 1, 1], positions[0, 2] = far, far, far
    x = case.data(torch.complex128, 1)
    got = case.run(x, case.coordinates(positions))
    if "fourier" not in name:
        assert_close(got, case.reference(x, case.coordinates(positions)), torch.complex128)
    everywhere = case.run(x, torch.full_like(case.coordinates(positions), far))
    assert everywhere.isfinite().all()
    if "fourier" in name:
        assert_close(everywhere, case.reference(x, torch.full_like(case.coordinates(positions), far)), x.dtype)
    else:
        assert not everywhere.any()


@pytest.mark.parametrize("op", OPS)
def test_bitwise_the_same_over_threads_and_runs(op: str) -> None:
    generator = torch.Generator("cpu").manual_seed(2)
    positions = here(torch.rand(3, 60, 2, dtype=torch.float64, generator=generator, device="cpu") * 150 - 8)
    canvas, patches = data((3, 150, 161), torch.complex64), data((3, 60, 24, 21), torch.complex64, 1)
    waves, probe = data((3, 60, 2, 24, 21), torch.complex64, 2), data((2, 24, 21), torch.complex64, 3)
    args = {
        "extract_patches": (canvas, positions, [24, 21]),
        "extract_patches_adjoint": (patches, positions, [150, 161]),
        "extract_patches_grad_positions": (patches, canvas, positions),
        "translate_images": (canvas, positions[:, 0], "bilinear"),
        "translate_images_adjoint": (canvas, positions[:, 0], "nearest"),
        "reassemble_patches": (patches, positions, weights((24, 21), torch.float32), [150, 161]),
        "reassemble_patches_adjoint": (canvas, positions, weights((24, 21), torch.float32)),
        "reassemble_patches_backward": (
            *(canvas, positions, weights((24, 21), torch.float32), weights((3, 150, 161), torch.float32), 0.2),
        ),
        "reassemble_patches_mean_backward": (canvas, weights((3, 150, 161), torch.float32), 0.2, canvas),
        "overlap_project": (patches, positions, weights((24, 21), torch.float32), [150, 161], 1e-6),
        "exit_waves": (canvas, positions, probe),
        "exit_waves_adjoint": (waves, positions, probe, [150, 161]),
        "exit_waves_adjoint_probe": (waves, canvas, positions, True),
        "exit_waves_grad_positions": (waves, canvas, positions, probe),
        "overlap_project_backward": (
            *(patches.flip(-1), patches, positions, weights((24, 21), torch.float32), [150, 161], 1e-6, True),
        ),
    }[op]
    results = []
    for threads in (1, 2, 4, 4):
        torch.set_num_threads(threads)
        results.append(raw(op)(*args))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


POINT = st.one_of(st.floats(-12, 12), st.integers(-24, 24).map(lambda v: v / 2))


@given(
    sizes=st.tuples(*[st.integers(1, 9), st.integers(0, 9)] * 2),
    points=st.lists(st.tuples(POINT, POINT), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    name=st.sampled_from(list(CASES)),
)
def test_any_geometry_matches_the_reference(
    sizes: tuple[int, int, int, int], points: list[tuple[float, float]], dtype: torch.dtype, name: str
) -> None:
    """Patches up to the size of their canvas, sizes of one, positions anywhere, equal ones included."""
    patch, case = sizes[::2], CASES[name]
    canvas = (patch[0] + sizes[1], patch[1] + sizes[3])
    positions = torch.tensor(points, dtype=torch.float64)
    x = data(canvas if case.shape[:-2] == () else (len(points), *case.shape[1:-2], *patch), dtype)
    size = {PATCH: patch, CANVAS: canvas}.get(case.options[0], case.options[0])
    weight = {"": (), "none": (None,), "shared": (weights(patch, dtype),), "each": (weights(tuple(x.shape), dtype),)}
    # A relative threshold of 0.1% excludes quotients of two very small weights from the comparison.
    eps = (1e-3,) if case.weights and case.options[1:] != (False,) else ()
    args = (case.coordinates(positions), size, *weight[case.weights], *case.options[1:], *eps)
    got, want = case.function(x, *args), case.oracle(*on_cpu((x, *args)))
    for one, other in zip(*[r if isinstance(r, tuple) else (r,) for r in (got, want)], strict=True):
        error = np.abs(one.cpu().numpy() - other).max(initial=0)
        precision = 1e-12 if dtype in (torch.float64, torch.complex128) else 2e-5
        assert error <= precision * max(1.0, np.abs(other).max(initial=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [op for op in OPS if op.endswith("grad_positions")])
def test_derivative_by_positions_matches_the_reference(op: str, dtype: torch.dtype) -> None:
    args = raw_inputs(dtype)[op]
    gradient, want = raw(op)(*args), getattr(reference, op)(*on_cpu(args))
    assert gradient.dtype == torch.float64
    assert np.abs(gradient.cpu().numpy() - want).max() < (1e-12 if dtype in (torch.float64, torch.complex128) else 1e-4)


def test_reference_of_another_function_is_detected() -> None:
    """The comparison itself fails with the reference of another function."""
    case = CASES["extract"]
    wrong = Case(case.function, lambda x, p, s: 1.001 * reference.extract_patches(x, p, s), case.shape, case.options)
    x = wrong.data(torch.float32)
    with pytest.raises(AssertionError):
        assert_close(wrong.run(x, here(POSITIONS)), wrong.reference(x, POSITIONS), torch.float32)
