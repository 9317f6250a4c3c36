# SPDX-License-Identifier: BSD-3-Clause
"""exit_waves and its adjoints: equality with extraction and products, all forms of the probe, and memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import CANVAS, DTYPES, PATCH, POSITIONS, assert_close, data
from test_transforms import allocated
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import ptycho_ext as px
from ptycho_ext import exit_waves, exit_waves_adjoint, exit_waves_adjoint_probe, reference


def probe_of(dtype: torch.dtype, modes: int, each: bool) -> Tensor:
    return data((2, 5, modes, *PATCH) if each else (modes, *PATCH), dtype, 3)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_reference(dtype: torch.dtype, modes: int, each: bool) -> None:
    canvas, waves, probe = (
        data((2, *CANVAS), dtype),
        data((2, 5, modes, *PATCH), dtype, 1),
        probe_of(dtype, modes, each),
    )
    assert_close(exit_waves(canvas, POSITIONS, probe), reference.exit_waves(canvas, POSITIONS, probe), dtype)
    got = exit_waves_adjoint(waves, POSITIONS, probe, CANVAS)
    assert_close(got, reference.exit_waves_adjoint(waves, POSITIONS, probe, CANVAS), dtype)
    got = exit_waves_adjoint_probe(waves, canvas, POSITIONS, shared=not each)
    assert_close(got, reference.exit_waves_adjoint_probe(waves, canvas, POSITIONS, not each), dtype)
    gradient = torch.ops.ptycho.exit_waves_grad_positions(waves, canvas, POSITIONS, probe)
    want = reference.exit_waves_grad_positions(waves, canvas, POSITIONS, probe)
    assert np.abs(gradient.numpy() - want).max() < (1e-4 if dtype.itemsize // (1 + dtype.is_complex) == 4 else 1e-12)


def test_wave_is_the_slice_times_the_mode() -> None:
    canvas, probe = data(CANVAS, torch.complex64), data((2, *PATCH), torch.complex64, 1)
    waves = exit_waves(canvas, torch.tensor([[2.0, 7.0], [8.0, 0.0]]), probe)
    torch.testing.assert_close(waves[0, 1], canvas[2:7, 7:11] * probe[1])
    torch.testing.assert_close(waves[1, 0], canvas[8:13, 0:4] * probe[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_large_patches_are_computed_in_parts(dtype: torch.dtype) -> None:
    """Blocks of rows that do not divide the patch, patches across tiles, and more patches than parts of the sum."""
    size, patch, modes = (300, 1100), (201, 70), 2
    generator = torch.Generator().manual_seed(4)
    at = torch.rand(150, 2, dtype=torch.float64, generator=generator) * torch.tensor([150.0, 1100.0]) - 40
    canvas, waves, probe = data(size, dtype), data((150, modes, *patch), dtype, 1), data((modes, *patch), dtype, 2)
    patches = px.extract_patches(canvas, at, patch)
    torch.testing.assert_close(exit_waves(canvas, at, probe), patches[:, None] * probe)
    products = (probe.conj() * waves).sum(1)
    want = px.extract_patches_adjoint(products, at, size)
    torch.testing.assert_close(exit_waves_adjoint(waves, at, probe, size), want, rtol=1e-5, atol=1e-4)
    want = (patches.conj()[:, None] * waves).sum(0)
    torch.testing.assert_close(exit_waves_adjoint_probe(waves, canvas, at), want, rtol=1e-5, atol=1e-4)


def test_one_real_mode_is_bitwise_equal_to_the_other_operators() -> None:
    """A product with a real number is one multiplication, so there is no difference of rounding."""
    canvas, waves, probe = (
        data(CANVAS, torch.float32),
        data((5, 1, *PATCH), torch.float32, 1),
        data((1, *PATCH), torch.float32),
    )
    at = POSITIONS[0]
    assert torch.equal(exit_waves(canvas, at, probe)[:, 0], px.extract_patches(canvas, at, PATCH) * probe)
    assert torch.equal(
        exit_waves_adjoint(waves, at, probe, CANVAS), px.extract_patches_adjoint((waves * probe)[:, 0], at, CANVAS)
    )
    gradient = torch.ops.ptycho.exit_waves_grad_positions(waves, canvas, at, probe)
    assert torch.equal(gradient, torch.ops.ptycho.extract_patches_grad_positions((waves * probe)[:, 0], canvas, at))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_by_all_inputs(dtype: torch.dtype, each: bool) -> None:
    at = POSITIONS[:, :3] + 0.013
    canvas, waves = data((2, *CANVAS), dtype), data((2, 3, 2, *PATCH), dtype, 1)
    probe = data((2, 3, 2, *PATCH) if each else (2, *PATCH), dtype, 2)

    def forward(c: Tensor, p: Tensor, r: Tensor) -> Tensor:
        return exit_waves(c, r, p)

    def adjoint(w: Tensor, p: Tensor, r: Tensor) -> Tensor:
        return exit_waves_adjoint(w, r, p, CANVAS)

    def adjoint_probe(w: Tensor, c: Tensor, r: Tensor) -> Tensor:
        return exit_waves_adjoint_probe(w, c, r, shared=not each)

    for function, pair in ((forward, (canvas, probe)), (adjoint, (waves, probe)), (adjoint_probe, (waves, canvas))):
        leaves = [t.clone().requires_grad_() for t in (*pair, at)]
        assert gradcheck(function, leaves, fast_mode=True)
        assert gradgradcheck(lambda a, b: function(a, b, at), leaves[:2], fast_mode=True)  # noqa: B023


@pytest.mark.parametrize("shared", [True, False])
def test_dot_products_of_the_adjoints_agree(shared: bool) -> None:
    canvas, waves = data((2, *CANVAS), torch.complex128), data((2, 5, 3, *PATCH), torch.complex128, 1)
    probe = probe_of(torch.complex128, 3, not shared)
    sides = [
        torch.vdot(waves.flatten(), exit_waves(canvas, POSITIONS, probe).flatten()),
        torch.vdot(exit_waves_adjoint(waves, POSITIONS, probe, CANVAS).flatten(), canvas.flatten()),
        torch.vdot(exit_waves_adjoint_probe(waves, canvas, POSITIONS, shared=shared).flatten(), probe.flatten()),
    ]
    torch.testing.assert_close(sides[1:], sides[:1] * 2, rtol=1e-12, atol=1e-12)


def test_probe_is_converted_to_the_type_of_the_canvas() -> None:
    canvas, probe = data(CANVAS, torch.complex64), data((1, *PATCH), torch.float64)
    got = exit_waves(canvas, POSITIONS[0], probe)
    assert got.dtype == torch.complex64
    assert torch.equal(got, exit_waves(canvas, POSITIONS[0], probe.to(torch.complex64)))
    with pytest.raises(RuntimeError, match=r"^exit_waves: probe must be float32, got complex64$"):
        exit_waves(canvas.real, POSITIONS[0], probe.to(torch.complex64))
    with pytest.raises(RuntimeError, match=r"^exit_waves_adjoint_probe: canvas must be float32, got complex64$"):
        exit_waves_adjoint_probe(torch.zeros(5, 1, *PATCH), canvas, POSITIONS[0])


@pytest.mark.parametrize("groups", [0, 3])
def test_no_patches_and_no_modes(groups: int) -> None:
    positions, canvas = torch.zeros(groups, 0, 2), torch.ones(groups, 4, 6)
    probe, none = torch.ones(2, 2, 3), torch.zeros(groups, 0, 2, 2, 3)
    assert exit_waves(canvas, positions, probe).shape == (groups, 0, 2, 2, 3)
    assert exit_waves(canvas, positions, none).shape == (groups, 0, 2, 2, 3)
    back = exit_waves_adjoint(none, positions, probe, (4, 6))
    assert back.shape == (groups, 4, 6) and not back.any()
    assert exit_waves_adjoint_probe(none, canvas, positions).tolist() == torch.zeros(2, 2, 3).tolist()
    assert exit_waves_adjoint_probe(none, canvas, positions, shared=False).shape == (groups, 0, 2, 2, 3)
    positions, none = torch.zeros(groups, 2, 2), torch.zeros(groups, 2, 0, 2, 3)
    assert exit_waves(canvas, positions, probe[:0]).shape == none.shape
    assert not exit_waves_adjoint(none, positions, probe[:0], (4, 6)).any()
    assert exit_waves_adjoint_probe(none, canvas, positions).shape == (0, 2, 3)
    assert not torch.ops.ptycho.exit_waves_grad_positions(none, canvas, positions.double(), probe[:0]).any()


@pytest.mark.parametrize("mapped", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (None, 0, 0)])
@pytest.mark.parametrize("each", [False, True])
def test_vmap_over_any_argument(mapped: tuple[int | None, ...], each: bool) -> None:
    dtype = torch.complex128
    canvas, waves, probe = data(CANVAS, dtype), data((5, 2, *PATCH), dtype, 1), probe_of(dtype, 2, each)
    probe, at, shared = (probe[0] if each else probe), POSITIONS[0], not each
    functions: list[tuple[Any, tuple[Tensor, ...]]] = [
        (exit_waves, (canvas, at, probe)),
        (lambda w, r, p: exit_waves_adjoint(w, r, p, CANVAS), (waves, at, probe)),
        (lambda w, r, c: exit_waves_adjoint_probe(w, c, r, shared=shared), (waves, at, canvas)),
        (lambda w, r, p: torch.ops.ptycho.exit_waves_grad_positions(w, canvas, r, p), (waves, at, probe)),
    ]
    for function, args in functions:
        stacked = [a if m is None else torch.stack([a, a * 1.5, a - 0.3]) for a, m in zip(args, mapped, strict=True)]
        got = torch.vmap(function, in_dims=mapped)(*stacked)
        calls = [[a if m is None else a[i] for a, m in zip(stacked, mapped, strict=True)] for i in range(3)]
        torch.testing.assert_close(got, torch.stack([function(*call) for call in calls]))


def test_temporary_memory_is_smaller_than_the_waves() -> None:
    canvas, at, probe = data((300, 310), torch.complex64), torch.rand(400, 2) * 230, data((2, 32, 40), torch.complex64)
    at = at.double()
    waves = exit_waves(canvas, at, probe)
    out, stack = torch.empty_like(waves), waves.nbytes
    back, modes = torch.empty_like(canvas), torch.empty_like(probe)
    for call in (
        lambda: exit_waves(canvas, at, probe, out=out),
        lambda: exit_waves_adjoint(waves, at, probe, canvas.shape, out=back),
        lambda: exit_waves_adjoint_probe(waves, canvas, at, out=modes),
        lambda: torch.ops.ptycho.exit_waves_grad_positions(waves, canvas, at, probe),
    ):
        assert allocated(call) < stack / 100
    leaves = [t.clone().requires_grad_() for t in (canvas, at, probe)]
    forward = exit_waves(*leaves)
    assert allocated(lambda: torch.autograd.grad(forward, leaves, waves)) <= canvas.nbytes < stack / 10


POINT = st.one_of(st.floats(-12, 80), st.integers(-24, 160).map(lambda v: v / 2))


@given(
    sizes=st.tuples(*[st.integers(1, 40), st.integers(0, 30)] * 2),
    points=st.lists(st.tuples(POINT, POINT), min_size=1, max_size=20),
    modes=st.integers(1, 4),
    each=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_any_geometry(
    sizes: tuple[int, int, int, int], points: list[tuple[float, float]], modes: int, each: bool, dtype: torch.dtype
) -> None:
    patch = sizes[::2]
    size, at = (patch[0] + sizes[1], patch[1] + sizes[3]), torch.tensor(points, dtype=torch.float64)
    canvas, waves = data(size, dtype), data((len(points), modes, *patch), dtype, 1)
    probe = data((len(points), modes, *patch) if each else (modes, *patch), dtype, 2)
    plan = px.ScanPlan(at, patch, size)
    results = []
    for by in (None, plan):
        results.append(
            (
                exit_waves(canvas, at, probe, plan=by),
                exit_waves_adjoint(waves, at, probe, size, plan=by),
                exit_waves_adjoint_probe(waves, canvas, at, plan=by, shared=not each),
            )
        )
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    wanted = (
        reference.exit_waves(canvas, at, probe),
        reference.exit_waves_adjoint(waves, at, probe, size),
        reference.exit_waves_adjoint_probe(waves, canvas, at, not each),
    )
    for got, want in zip(results[0], wanted, strict=True):
        precision = 1e-12 if dtype in (torch.float64, torch.complex128) else 2e-5
        assert np.abs(got.numpy() - want).max(initial=0) <= precision * max(1.0, np.abs(want).max(initial=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_one_wave_for_all_patches(dtype: torch.dtype) -> None:
    """Waves (M, h, w) give the result of their expansion, without its memory."""
    waves, probe, canvas = data((2, *PATCH), dtype, 4), data((2, *PATCH), dtype, 5), data(CANVAS, dtype, 6)
    at = POSITIONS[0] + 0.013
    many = waves.expand(5, -1, -1, -1)
    calls = [
        lambda w, p: px.exit_waves_adjoint(w, p, probe, CANVAS),
        lambda w, p: px.exit_waves_adjoint(w, p, probe.expand(5, -1, -1, -1), CANVAS),
        lambda w, p: px.exit_waves_adjoint_probe(w, canvas, p),
        lambda w, p: px.exit_waves_adjoint_probe(w, canvas, p, shared=False),
        lambda w, p: torch.ops.ptycho.exit_waves_grad_positions(w, canvas, p, probe),
    ]
    for call in calls:
        assert torch.equal(call(waves, at), call(many, at))
    for call in calls[:4]:
        leaves = [waves.clone().requires_grad_(), at.clone().requires_grad_()]
        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda w: call(w, at), leaves[:1], fast_mode=True)  # noqa: B023
    mapped = torch.vmap(calls[0], in_dims=(0, None))(torch.stack([waves, 2 * waves]), at)
    torch.testing.assert_close(mapped, torch.stack([calls[0](waves, at), calls[0](2 * waves, at)]))
