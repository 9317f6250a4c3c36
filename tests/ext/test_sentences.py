# SPDX-License-Identifier: BSD-3-Clause
"""Errors of the operators: "<op>: <argument> must <rule>, got <value>".

A derivative that does not exist is an error, never zero.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from op_cases import CANVAS, CASES, PATCH, POSITIONS, coordinates_index, data, raw, raw_inputs, weights
from torch import Tensor

import ptycho_ext as px

OPS = list(raw_inputs(torch.float32))
DATA = "float32, float64, complex64 or complex128"

#: (operator, arguments to replace, what the kernel must report)
SENTENCES: list[tuple[str, dict[int, Any], str]] = [
    ("extract_patches", {0: torch.zeros(2, 4, 4, dtype=torch.int64)}, f"canvas must be {DATA}, got int64"),
    ("extract_patches", {0: torch.zeros(4)}, "canvas must have shape (..., H, W), got (4,)"),
    ("extract_patches", {1: POSITIONS.float()}, "positions must be float64, got float32"),
    ("extract_patches", {1: POSITIONS[0]}, "positions must have shape (2, 5, 2), got (5, 2)"),
    ("extract_patches", {1: POSITIONS[..., :1]}, "positions must have shape (2, 5, 2), got (2, 5, 1)"),
    ("extract_patches", {1: POSITIONS[0, 0]}, "positions must have shape (..., n, 2), got (2,)"),
    ("extract_patches", {2: [5, 0]}, "patch_size must be two positive integers, got (5, 0)"),
    ("extract_patches", {2: [-1, 3]}, "patch_size must be two positive integers, got (-1, 3)"),
    ("extract_patches", {2: [14, 4]}, "canvas must be at least a patch's (14, 4), got (13, 18)"),
    ("extract_patches", {2: [5, 19]}, "canvas must be at least a patch's (5, 19), got (13, 18)"),
    ("extract_patches_adjoint", {2: [4, 18]}, "canvas_size must be at least a patch's (5, 4), got (4, 18)"),
    (
        "extract_patches_grad_positions",
        {1: torch.zeros(2, 13, 3)},
        "canvas must be at least a patch's (5, 4), got (13, 3)",
    ),
    ("reassemble_patches_adjoint", {0: torch.zeros(2, 13, 18, dtype=torch.int32)}, f"image must be {DATA}, got int32"),
    ("reassemble_patches_adjoint", {0: torch.zeros(4)}, "image must have shape (..., H, W), got (4,)"),
    ("reassemble_patches_adjoint", {1: POSITIONS[0]}, "positions must have shape (2, 5, 2), got (5, 2)"),
    ("reassemble_patches_adjoint", {2: torch.zeros(5, 4).double()}, "weights must be float32, got float64"),
    ("reassemble_patches_adjoint", {2: torch.zeros(4)}, "weights must have shape (..., h, w), got (4,)"),
    ("reassemble_patches_adjoint", {2: torch.zeros(5, 5, 4)}, "weights must have shape (2, 5, 5, 4), got (5, 5, 4)"),
    ("reassemble_patches_adjoint", {2: torch.zeros(5, 0)}, "weights' size must be two positive integers, got (5, 0)"),
    ("reassemble_patches_adjoint", {2: torch.zeros(14, 4)}, "image must be at least a patch's (14, 4), got (13, 18)"),
    ("extract_patches_adjoint", {0: torch.zeros(2, 5, 5, 4).half()}, f"patches must be {DATA}, got float16"),
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
    ("translate_images", {0: torch.zeros(4)}, "images must have shape (..., H, W), got (4,)"),
    ("translate_images", {1: torch.zeros(3, 2, dtype=torch.float64)}, "shifts must have shape (2, 2), got (3, 2)"),
    ("translate_images", {1: torch.zeros(2, 2)}, "shifts must be float64, got float32"),
    ("translate_images", {2: "cubic"}, "mode must be 'bilinear' or 'nearest', got 'cubic'"),
    ("translate_images_adjoint", {2: ""}, "mode must be 'bilinear' or 'nearest', got ''"),
]
WAVES = torch.zeros(2, 5, 3, 5, 4)
SENTENCES += [
    ("exit_waves", {0: torch.zeros(2, 13, 18).half()}, f"canvas must be {DATA}, got float16"),
    ("exit_waves", {0: torch.zeros(4)}, "canvas must have shape (..., H, W), got (4,)"),
    ("exit_waves", {1: POSITIONS[0]}, "positions must have shape (2, 5, 2), got (5, 2)"),
    ("exit_waves", {2: WAVES[0, 0] + 0j}, "probe must be float32, got complex64"),
    ("exit_waves", {2: torch.zeros(5, 4)}, "probe must have shape (..., M, h, w), got (5, 4)"),
    ("exit_waves", {2: WAVES[0]}, "probe must have shape (2, 5, 3, 5, 4), got (5, 3, 5, 4)"),
    ("exit_waves", {2: torch.zeros(1, 0, 4)}, "probe's size must be two positive integers, got (0, 4)"),
    ("exit_waves", {2: torch.zeros(1, 14, 4)}, "canvas must be at least a patch's (14, 4), got (13, 18)"),
    ("exit_waves_adjoint", {0: WAVES.long()}, f"waves must be {DATA}, got int64"),
    ("exit_waves_adjoint", {0: WAVES[0, 0, 0]}, "waves must have shape (..., n, M, h, w), got (5, 4)"),
    ("exit_waves_adjoint", {1: POSITIONS[:, 1:]}, "positions must have shape (2, 5, 2), got (2, 4, 2)"),
    ("exit_waves_adjoint", {2: WAVES[0, 0, :2]}, "probe must have shape (3, 5, 4), got (2, 5, 4)"),
    ("exit_waves_adjoint", {2: WAVES[0]}, "probe must have shape (2, 5, 3, 5, 4), got (5, 3, 5, 4)"),
    ("exit_waves_adjoint", {3: [0, 9]}, "canvas_size must be two positive integers, got (0, 9)"),
    ("exit_waves_adjoint", {3: [4, 18]}, "canvas_size must be at least a patch's (5, 4), got (4, 18)"),
    ("exit_waves_adjoint_probe", {0: WAVES.bool()}, f"waves must be {DATA}, got bool"),
    ("exit_waves_adjoint_probe", {1: torch.zeros(2, 13, 18).double()}, "canvas must be float32, got float64"),
    ("exit_waves_adjoint_probe", {1: torch.zeros(3, 13, 18)}, "canvas must have shape (2, 13, 18), got (3, 13, 18)"),
    ("exit_waves_adjoint_probe", {1: torch.zeros(2, 3, 18)}, "canvas must be at least a patch's (5, 4), got (3, 18)"),
    ("exit_waves_grad_positions", {0: WAVES.double()}, "grad_waves must be float32, got float64"),
    (
        "exit_waves_grad_positions",
        {0: WAVES[:, :4]},
        "grad_waves must have shape (2, 5, 3, 5, 4), got (2, 4, 3, 5, 4)",
    ),
    ("exit_waves_grad_positions", {3: WAVES[0, 0, 1:]}, "probe must have shape (3, 5, 4), got (2, 5, 4)"),
]
SENTENCES += [
    (op, changes, sentence)
    for op in ("reassemble_patches", "overlap_project")
    for changes, sentence in [
        ({0: torch.zeros(2, 5, 5, 4, dtype=torch.bool)}, f"patches must be {DATA}, got bool"),
        ({0: torch.zeros(5, 4)}, "patches must have shape (..., n, h, w), got (5, 4)"),
        ({1: POSITIONS[:, :4]}, "positions must have shape (2, 5, 2), got (2, 4, 2)"),
        ({1: POSITIONS.float()}, "positions must be float64, got float32"),
        ({2: torch.ones(5, 4, dtype=torch.complex64)}, "weights must be float32, got complex64"),
        ({2: torch.ones(4, 5)}, "weights must have shape (5, 4), got (4, 5)"),
        ({2: torch.ones(5, 5, 4)}, "weights must have shape (2, 5, 5, 4), got (5, 5, 4)"),
        ({3: [13, -18]}, "canvas_size must be two positive integers, got (13, -18)"),
        ({3: [13, 3]}, "canvas_size must be at least a patch's (5, 4), got (13, 3)"),
    ]
]


@pytest.mark.parametrize(("op", "changes", "sentence"), SENTENCES)
def test_wrong_arguments_are_errors_of_the_kernels(op: str, changes: dict[int, Any], sentence: str) -> None:
    args = [changes.get(i, a) for i, a in enumerate(raw_inputs(torch.float32)[op])]
    with pytest.raises(RuntimeError, match=f"^{re.escape(f'{op}: {sentence}')}$"):
        raw(op)(*args)


def test_compiled_call_raises_at_run_time() -> None:
    step = torch.compile(lambda x: px.extract_patches(x, POSITIONS[0], PATCH), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"extract_patches: canvas must be float32, .* got int64"):
        step(torch.zeros(CANVAS, dtype=torch.int64))


@pytest.mark.parametrize("op", OPS)
def test_devices_must_agree(op: str) -> None:
    args = raw_inputs(torch.float32)[op]
    tensors = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    for place in tensors:
        mixed = [a.to("meta") if i == place and isinstance(a, Tensor) else a for i, a in enumerate(args)]
        with pytest.raises(RuntimeError, match=f"^{op}: [a-z_]+ must be on device (cpu, got meta|meta, got cpu)$"):
            raw(op)(*mixed)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("op", [op for op in OPS if not op.endswith("mean_backward")])
def test_coordinates_must_be_finite(op: str, bad: str) -> None:
    args = list(raw_inputs(torch.float32)[op])
    index = coordinates_index(op)
    assert index is not None
    args[index] = args[index].clone()
    args[index][1, ..., 0] = float(bad)
    name = "shifts" if op.startswith("translate") else "positions"
    with pytest.raises(RuntimeError, match=f"^{op}: {name} must be finite, got {bad}$"):
        raw(op)(*args)


def test_public_functions_accept_float32_positions_and_one_size() -> None:
    canvas, positions = data((9, 9), torch.float32), torch.tensor([[1.5, 2.25]])
    patches = px.extract_patches(canvas, positions, 4)
    assert torch.equal(patches, px.extract_patches(canvas, positions.double(), (4, 4)))
    with pytest.raises(RuntimeError, match=r"^extract_patches: positions must be float64, got complex64$"):
        px.extract_patches(canvas, positions.to(torch.complex64), 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("name", CASES)
def test_16_bit_data_are_an_error_outside_autocast(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    op, kind = case.function.__name__, str(dtype).removeprefix("torch.")
    with pytest.raises(RuntimeError, match=f"^{op}: [a-z]+ must be {DATA}, got {kind}$"):
        case.run(case.data(torch.float32).to(dtype), case.coordinates())


def test_fourier_raises_the_errors_of_the_other_modes() -> None:
    images = data((2, 4, 5), torch.float32)
    for changes, sentence in [
        ((images[0, 0], torch.zeros(2)), "images must have shape (..., H, W), got (5,)"),
        ((images, torch.zeros(3, 2)), "shifts must have shape (2, 2), got (3, 2)"),
        ((images, torch.zeros(2, 2, device="meta")), "shifts must be on device cpu, got meta"),
        ((images, torch.zeros(2, 2, dtype=torch.complex64)), "shifts must be float64, got complex64"),
    ]:
        with pytest.raises(RuntimeError, match=f"^{re.escape(f'translate_images: {sentence}')}$"):
            px.translate_images(*changes, "fourier")
    with pytest.raises(RuntimeError, match=r"mode must be 'bilinear', 'nearest' or 'fourier', got 'cubic'$"):
        px.translate_images(images, torch.zeros(2), "cubic")
    assert px.translate_images(images, torch.tensor([torch.inf, 0.0]), "fourier").isnan().all()


NEAREST = r"^translate_images: shifts must not require a gradient with mode 'nearest', got requires_grad=True$"


def test_gradient_by_the_shifts_is_an_error_with_nearest() -> None:
    images, shifts = data((3, 4, 5), torch.float64), torch.zeros(3, 2, dtype=torch.float64)

    def loss(shifts: Tensor, images: Tensor) -> Tensor:
        return px.translate_images(images, shifts, "nearest").sum()

    attempts = [
        lambda: loss(shifts.clone().requires_grad_(), images),
        lambda: torch.func.grad(loss)(shifts, images),
        lambda: torch.vmap(torch.func.grad(loss))(shifts, images),
        lambda: torch.func.grad(lambda s: torch.vmap(loss)(s, images).sum())(shifts),
        lambda: torch.func.jacrev(loss)(shifts, images),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match=NEAREST):
            attempt()


@pytest.mark.parametrize("name", [name for name in CASES if "nearest" not in name and "fourier" not in name])
def test_second_derivative_by_positions_is_an_error(name: str) -> None:
    case = CASES[name]
    x, positions = case.data(torch.float64), (case.coordinates() + 0.01).requires_grad_()
    (first,) = torch.autograd.grad(case.run(x, positions).square().sum(), positions, create_graph=True)
    with pytest.raises(NotImplementedError, match="positions must be differentiated once only"):
        first.sum().backward()


@pytest.mark.parametrize("name", [name for name in CASES if "fourier" not in name])
def test_forward_mode_is_an_error(name: str) -> None:
    case = CASES[name]
    x, at = case.data(torch.float64), case.coordinates()
    with pytest.raises(NotImplementedError, match=r"[Ff]orward"):
        torch.func.jvp(lambda x: case.run(x, at), (x,), (x,))
    if "nearest" not in name:
        with pytest.raises(NotImplementedError, match=r"[Ff]orward"):
            torch.func.jvp(lambda r: case.run(x, r), (at,), (at,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises((NotImplementedError, RuntimeError)):
        case.run(torch.autograd.forward_ad.make_dual(x, x), at)


@pytest.mark.parametrize(("op", "dtype"), [("reassemble_patches", torch.float32), ("overlap_project", torch.complex64)])
def test_complex_weights_are_an_error(op: str, dtype: torch.dtype) -> None:
    """In the projection, and for real patches."""
    patches = data((2, 5, *PATCH), dtype)
    with pytest.raises(RuntimeError, match=f"^{op}: weights must be float32, got complex64$"):
        getattr(px, op)(patches, POSITIONS, CANVAS, weights(PATCH, torch.float32) + 0j)
