# SPDX-License-Identifier: BSD-3-Clause
"""correct_fields: comparison of predicted far fields with measured counts, the step between two Fourier transforms.

Intensity, likelihood, correction of the fields and derivative by the scale are computed in one pass over the fields.
The backward is a separate operator, also of one pass. The equations are in docs/maths.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check
from ptycho_ext.ops._precision import real_type, widened
from ptycho_ext.ops._registration import differentiable, writes_to
from ptycho_ext.ops._vmap import lead


def correct_fields(
    fields: Tensor,
    counts: Tensor,
    *,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    correct: bool = True,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compare far fields with counts: correction, value of every pattern, and derivative of the value by log(scale).

    .. math:: I = s \sum_m |F_m|^2, \quad p = I + b, \quad m = c + b, \quad
              C_m = s\,r\,F_m, \quad J = \sum_\mathrm{good} j, \quad
              \frac{\partial J}{\partial \log s} = -\sum_\mathrm{good} r\,I

    ========= ========================== ===============
    loss      value j of a pixel         step r
    ========= ========================== ===============
    poisson   (p - m + m log(m / p)) / 2 (m / p - 1) / 2
    amplitude (sqrt(m) - sqrt(p))^2      sqrt(m / p) - 1
    ========= ========================== ===============

    J is half the negative log-likelihood above its minimum, in nats. The correction is minus the derivative of J by
    conj(F); ``-2 * correction`` is the gradient of autograd with respect to the fields. There is no cancellation where
    prediction and measurement agree, in float32 either. Outputs are finite for all inputs: quotients and logarithms use
    a prediction of at least 2^-40 counts (which matters for ``background=0`` only). Where the fields are zero the
    correction is zero.

    Differentiable once: all three outputs with respect to fields and scale. Deterministic: bitwise the same for any
    number of threads and on any processor; sums are in double, in an order that depends on the size of a pattern only.

    Args:
        fields: (..., M, h, w) far fields of M incoherent modes in sqrt(counts); float32, float64, complex64 or
            complex128.
        counts: (..., h, w) uint8, int16, uint16, int32, uint32, int64, float32 or float64; measured counts, in the
            order of the fields' pixels. They are read in their type and need no conversion.
        mask: bool, (h, w) or (..., h, w), True where a pixel is good. Counts of bad pixels are ignored; their
            correction and value are zero. None: all are good.
        scale: (...,) real, >= 0, of every pattern's intensity. None: ones.
        loss: "poisson" or "amplitude".
        background: counts added to prediction and measurement, >= 0, so that dark pixels have finite gradients.
        correct: False omits the correction, which saves its memory: (..., 0, h, w).
        out: (..., M, h, w) contiguous tensor to write the correction to; may be the fields themselves, if they are
            contiguous; only where no gradient is required.

    Returns:
        correction (..., M, h, w) of the fields' type (out, if given), values (...,) float64 and scale_slopes (...,)
        float64. A value is nan where a good pixel's count, with the background, is negative.

    Raises:
        RuntimeError: a type, shape or device does not fit, loss or background is invalid, the counts require a
            gradient, or a gradient is required with out.
        NotImplementedError: a second derivative.

    Source:
        P. Thibault and M. Guizar-Sicairos, New J. Phys. 14, 063004 (2012), for the gradients of both likelihoods.

    Example:
        >>> fields = torch.tensor([[[[1.0 + 1.0j, 2.0j]]]])
        >>> correction, values, slopes = correct_fields(fields, torch.tensor([[[8, 4]]]), loss="amplitude")
        >>> correction
        tensor([[[[1.+1.j, 0.+0.j]]]])
        >>> values, slopes
        (tensor([2.], dtype=torch.float64), tensor([-2.], dtype=torch.float64))
    """
    fields = widened(fields)
    if scale is not None and not scale.is_complex():
        scale = scale.to(real_type(fields.dtype))
    if out is None:
        result: tuple[Tensor, Tensor, Tensor] = _correct(fields, counts, mask, scale, loss, background, correct)
        return result
    Check("correct_fields").require(correct, "out", "be None without a correction", "a tensor")
    values, slopes = torch.ops.ptycho.correct_fields_out(fields, counts, mask, scale, loss, background, out)
    return out, values, slopes


def _fake_correct_fields(
    fields: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    correct: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    Check("correct_fields").same_device(fields, counts=counts, mask=mask, scale=scale)
    size = fields.shape if correct else (*fields.shape[:-3], 0, *fields.shape[-2:])
    values, slopes = (fields.new_empty(fields.shape[:-3], dtype=torch.float64) for _ in range(2))
    return fields.new_empty(size), values, slopes


def _fake_correct_fields_out(
    fields: Tensor,
    counts: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    loss: str,
    background: float,
    out: Tensor,
) -> tuple[Tensor, Tensor]:
    Check("correct_fields").same_device(fields, counts=counts, mask=mask, scale=scale, out=out)
    values, slopes = (fields.new_empty(fields.shape[:-3], dtype=torch.float64) for _ in range(2))
    return values, slopes


def _fake_correct_fields_backward(
    grad_correction: Tensor | None,
    grad_values: Tensor | None,
    grad_scale_slopes: Tensor | None,
    fields: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
) -> tuple[Tensor, Tensor]:
    grads = {
        "grad_correction": grad_correction,
        "grad_values": grad_values,
        "grad_scale_slopes": grad_scale_slopes,
    }
    Check("correct_fields_backward").same_device(fields, counts=counts, mask=mask, scale=scale, **grads)
    return fields.new_empty(fields.shape), fields.new_empty(fields.shape[:-3], dtype=torch.float64)


torch.library.register_fake("ptycho::correct_fields", _fake_correct_fields)
torch.library.register_fake("ptycho::correct_fields_out", _fake_correct_fields_out)
torch.library.register_fake("ptycho::correct_fields_backward", _fake_correct_fields_backward)


class _Correct(torch.autograd.Function):
    @staticmethod
    def forward(
        fields: Tensor,
        counts: Tensor,
        mask: Tensor | None = None,
        scale: Tensor | None = None,
        loss: str = "poisson",
        background: float = 0.0,
        correct: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        op = torch.ops.ptycho.correct_fields
        result: tuple[Tensor, Tensor, Tensor] = op(fields, counts, mask, scale, loss, background, correct)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        fields, counts, mask, scale, ctx.loss, ctx.background, ctx.correct = inputs
        found = "a tensor that does (detach() gives one that does not)"
        Check("correct_fields").require(not ctx.needs_input_grad[1], "counts", "require no gradient", found)
        ctx.save_for_backward(fields, counts, mask, scale)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, grad_correction: Tensor | None, grad_values: Tensor | None, grad_slopes: Tensor | None
    ) -> tuple[Tensor | None, None, None, Tensor | None, None, None, None]:
        fields, counts, mask, scale = ctx.saved_tensors
        if not ctx.correct:
            grad_correction = None
        by_fields, by_scale = _correct_backward(
            grad_correction, grad_values, grad_slopes, fields, counts, mask, scale, ctx.loss, ctx.background
        )
        wanted = scale is not None and ctx.needs_input_grad[3]
        return by_fields, None, None, by_scale.to(scale.dtype) if wanted else None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        outputs = torch.ops.ptycho.correct_fields(*_leading(info.batch_size, args[:4], in_dims), *args[4:])
        return outputs, (0, 0, 0)


class _CorrectBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_correction: Tensor | None,
        grad_values: Tensor | None,
        grad_scale_slopes: Tensor | None,
        fields: Tensor,
        counts: Tensor,
        mask: Tensor | None = None,
        scale: Tensor | None = None,
        loss: str = "poisson",
        background: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        op = torch.ops.ptycho.correct_fields_backward
        result: tuple[Tensor, Tensor] = op(
            grad_correction, grad_values, grad_scale_slopes, fields, counts, mask, scale, loss, background
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            "correct_fields: its outputs must be differentiated once only, got a second derivative "
            "(detach the fields, or their gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        grads = (None if a is None else lead(size, a, d) for a, d in zip(args[:3], in_dims[:3], strict=True))
        inputs = _leading(size, args[3:7], in_dims[3:])
        return torch.ops.ptycho.correct_fields_backward(*grads, *inputs, *args[7:]), (0, 0)


def _leading(
    size: int, inputs: tuple[Tensor | None, ...], in_dims: tuple[int | None, ...]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Move the mapped dimension of fields, counts, mask and scale to the front; a shared mask is not expanded."""
    fields, counts, mask, scale = inputs
    assert fields is not None and counts is not None
    fields, counts = lead(size, fields, in_dims[0]), lead(size, counts, in_dims[1])
    if mask is not None and not (in_dims[2] is None and mask.ndim == 2):
        mask = lead(size, mask, in_dims[2])
        if mask.ndim == 3:  # one per mapped call, the same for its patterns
            mask = mask.reshape(size, *[1] * (counts.ndim - 3), *mask.shape[1:]).expand(counts.shape)
    return fields, counts, mask, None if scale is None else lead(size, scale, in_dims[3])


_correct = differentiable("correct_fields", _Correct)
_correct_backward = differentiable("correct_fields_backward", _CorrectBackward)
writes_to("correct_fields_out", 6)
