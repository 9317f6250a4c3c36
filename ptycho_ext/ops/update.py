# SPDX-License-Identifier: BSD-3-Clause
"""update_canvas: a step of an object along its data-consistency direction, with momentum.

Everything between the sum of the corrections on the canvas and the next exit waves, in one pass over the canvas. The
backward is a separate operator, also of one pass. The equations are in docs/maths.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check
from ptycho_ext.ops._precision import real_type, widened
from ptycho_ext.ops._registration import differentiable
from ptycho_ext.ops._vmap import loop


def update_canvas(
    canvas: Tensor,
    numerator: Tensor,
    inverse_illumination: Tensor,
    floor: Tensor,
    factors: Tensor,
    velocity: Tensor | None = None,
    momentum: Tensor | None = None,
    *,
    keep_direction: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Update an object by its velocity, with one factor for the amplitude and one for the phase.

    .. math:: D = w S, \quad V' = D + m V, \quad U = \frac{O}{\sqrt{|O|^2 + f^2}}, \quad t = V' \overline{U}, \quad
              O' = O + U\,(a\,\mathrm{Re}\,t + i\,b\,\mathrm{Im}\,t)

    O is the canvas, S the numerator, w the inverse illumination, V the velocity, m the momentum, f the floor and (a, b)
    the factors: a scales the component of V' parallel to O, which changes the modulus, and b the perpendicular one,
    which changes the phase. With a = b = 1 and f = 0 the update is O + V'.

    Differentiable once, with respect to all tensors. Deterministic: bitwise the same for any number of threads and on
    any processor; sums are in double, in an order that depends on sizes only.

    Args:
        canvas: (..., H, W) complex64 or complex128, the object.
        numerator: (..., H, W) sum of the corrections of all patterns, see :func:`ptycho_ext.exit_waves_adjoint`.
        inverse_illumination: (..., H, W) real, what divides the numerator.
        floor: (...,) real, > 0: modulus below which the phase of the canvas is undefined.
        factors: (2,) real, of the amplitude and of the phase.
        velocity: (..., H, W) complex, of the previous update; None: zero.
        momentum: () real, the part of the velocity that is kept; given with a velocity, and only then.
        keep_direction: False omits the direction: it has no elements, (0,).

    Returns:
        the updated canvas O', the velocity V' and the direction D, each (..., H, W) of the canvas's type.

    Raises:
        RuntimeError: a type, shape or device does not fit, or one of velocity and momentum is missing.
        NotImplementedError: a second derivative.

    Source:
        The object update of A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009); momentum: A. Maiden,
        D. Johnson and P. Li, Optica 4, 736 (2017).

    Example:
        >>> canvas, ones = torch.tensor([[2.0 + 0.0j, 2.0j]]), torch.ones(1, 2)
        >>> step = torch.tensor([[1.0 + 1.0j, 1.0 + 1.0j]])
        >>> update_canvas(canvas, step, ones, torch.tensor(1e-6), torch.tensor([1.0, 0.5]))[0]
        tensor([[3.0000+0.5000j, 0.5000+3.0000j]])
    """
    canvas = widened(canvas)
    wide = (t if t is None or t.is_complex() else t.to(real_type(canvas.dtype)) for t in (floor, factors, momentum))
    floor, factors, momentum = wide  # type: ignore[assignment]
    result: tuple[Tensor, Tensor, Tensor] = _update(
        canvas, widened(numerator), inverse_illumination, floor, factors, velocity, momentum, keep_direction
    )
    return result


def _fake_update_canvas(
    canvas: Tensor,
    numerator: Tensor,
    inverse_illumination: Tensor,
    floor: Tensor,
    factors: Tensor,
    velocity: Tensor | None = None,
    momentum: Tensor | None = None,
    keep_direction: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_devices(
        "update_canvas", canvas, numerator, inverse_illumination, floor, factors, velocity=velocity, momentum=momentum
    )
    shape = canvas.shape
    return canvas.new_empty(shape), canvas.new_empty(shape), canvas.new_empty(shape if keep_direction else (0,))


def _fake_update_canvas_backward(
    grad_canvas: Tensor | None,
    grad_velocity: Tensor | None,
    grad_direction: Tensor | None,
    canvas: Tensor,
    numerator: Tensor,
    inverse_illumination: Tensor,
    floor: Tensor,
    factors: Tensor,
    velocity: Tensor | None = None,
    momentum: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check_devices(
        "update_canvas_backward",
        canvas,
        numerator,
        inverse_illumination,
        floor,
        factors,
        velocity=velocity,
        momentum=momentum,
        grad_canvas=grad_canvas,
        grad_velocity=grad_velocity,
        grad_direction=grad_direction,
    )
    given = (canvas, numerator, inverse_illumination, floor, factors)
    optional = (canvas if velocity is None else velocity, factors if momentum is None else momentum)
    empty = (velocity is None, momentum is None)
    last = [t.new_empty((0,) if none else t.shape) for t, none in zip(optional, empty, strict=True)]
    return *(t.new_empty(t.shape) for t in given), *last


def _check_devices(
    op: str,
    canvas: Tensor,
    numerator: Tensor,
    inverse_illumination: Tensor,
    floor: Tensor,
    factors: Tensor,
    **others: Tensor | None,
) -> None:
    named = {"numerator": numerator, "inverse_illumination": inverse_illumination, "floor": floor, "factors": factors}
    Check(op).same_device(canvas, **named, **others)


torch.library.register_fake("ptycho::update_canvas", _fake_update_canvas)
torch.library.register_fake("ptycho::update_canvas_backward", _fake_update_canvas_backward)


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        canvas: Tensor,
        numerator: Tensor,
        inverse_illumination: Tensor,
        floor: Tensor,
        factors: Tensor,
        velocity: Tensor | None = None,
        momentum: Tensor | None = None,
        keep_direction: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        op = torch.ops.ptycho.update_canvas
        result: tuple[Tensor, Tensor, Tensor] = op(
            canvas, numerator, inverse_illumination, floor, factors, velocity, momentum, keep_direction
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.keep_direction = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, grad_canvas: Tensor | None, grad_velocity: Tensor | None, grad_direction: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if not ctx.keep_direction:
            grad_direction = None
        grads = _update_backward(grad_canvas, grad_velocity, grad_direction, *saved)
        wanted = ctx.needs_input_grad
        return *(grad if needed else None for grad, needed in zip(grads, wanted[:7], strict=True)), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return loop(torch.ops.ptycho.update_canvas, info.batch_size, args, in_dims)


class _UpdateBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_canvas: Tensor | None,
        grad_velocity: Tensor | None,
        grad_direction: Tensor | None,
        canvas: Tensor,
        numerator: Tensor,
        inverse_illumination: Tensor,
        floor: Tensor,
        factors: Tensor,
        velocity: Tensor | None = None,
        momentum: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        op = torch.ops.ptycho.update_canvas_backward
        inputs = (canvas, numerator, inverse_illumination, floor, factors, velocity, momentum)
        result: tuple[Tensor, ...] = op(grad_canvas, grad_velocity, grad_direction, *inputs)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            "update_canvas: its outputs must be differentiated once only, got a second derivative "
            "(detach the canvas, or its gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return loop(torch.ops.ptycho.update_canvas_backward, info.batch_size, args, in_dims)


_update = differentiable("update_canvas", _Update)
_update_backward = differentiable("update_canvas_backward", _UpdateBackward)
