# SPDX-License-Identifier: BSD-3-Clause
"""translate_images: images moved by sub-pixel shifts.

The bilinear translation by t is the window of the image at position -t, so its derivative with respect to the shift is
that of an extraction; its adjoint is the translation by -t. The nearest mode has an adjoint and no such derivative.
The Fourier mode is a product of spectra in torch's own operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_float64, real_type
from ptycho_ext.ops._vmap import lead
from ptycho_ext.ops.extract import grad_positions


def translate_images(images: Tensor, shifts: Tensor, mode: str = "bilinear", *, out: Tensor | None = None) -> Tensor:
    r"""Images moved by sub-pixel shifts; a positive shift moves the content to larger indices.

    .. math:: \mathrm{out}[i, j] = \mathrm{in}(i - t_y,\; j - t_x)

    "bilinear": each tap outside the image is zero, so the border falls off over one pixel. "nearest": the sample at
    rint(i - t), ties to even, zero unless 0 <= i - t <= n - 1. "fourier": periodic and exact for band-limited images;
    every frequency f is multiplied by exp(-2 pi i f t), but the highest one of an even size, which stands for both of
    its signs, by cos(pi t), so real images stay real (and lose it at half-integer shifts).

    Linear in the images. Differentiable with respect to images (any order) and shifts: "bilinear" once, at integer
    shifts the right-hand difference of the sampling coordinate i - t; "fourier" any order, forward mode too; "nearest"
    not at all. Deterministic: bitwise the same for any number of threads ("fourier": as torch.fft is).

    Args:
        images: (..., H, W) float32, float64, complex64 or complex128.
        shifts: (..., 2) shifts (y, x) in pixels; the leading dimensions are those of images. (2,): one shift for
            all of them.
        mode: "bilinear", "nearest" or "fourier".
        out: (..., H, W) contiguous tensor to write to, not overlapping images; only where no gradient is required.

    Returns:
        (..., H, W) images of the same type; out, if given.

    Raises:
        RuntimeError: a type, shape, device or the mode does not fit, a shift is not finite ("fourier": the image is
            nan instead), shifts require a gradient under "nearest", or a gradient is required with out.

    Example:
        >>> translate_images(torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]]), torch.tensor([0.0, 0.5]))
        tensor([[ 0.5000,  1.5000,  3.0000,  6.0000, 12.0000]])
    """
    shifts = as_float64(shifts)
    if shifts.ndim == 1:
        shifts = shifts.expand(*images.shape[:-2], -1)
    check = Check("translate_images")
    check.require(mode in _MODES, "mode", "be 'bilinear', 'nearest' or 'fourier'", f"'{mode}'")
    if out is not None:
        check.no_gradient(images, shifts, out)
    if mode == "fourier":
        _check_images(check, images, shifts)
        moved = _fourier(images, shifts)
        if out is None:
            return moved
        check.out(out, images, images.shape)
        return out.copy_(moved)
    if out is None:
        return _translate(images, shifts, mode, False)
    torch.ops.ptycho.translate_images_out(images, shifts, mode, out)
    return out


_MODES = ("bilinear", "nearest", "fourier")


def _fourier(images: Tensor, shifts: Tensor) -> Tensor:
    if images.numel() == 0:
        return images.clone()
    (h, w), is_complex, dtype = images.shape[-2:], images.is_complex(), real_type(images.dtype)
    y, x = shifts.unsqueeze(-1).unbind(-2)  # (..., 1) each
    # A real image has the spectrum of its columns' non-negative frequencies only.
    across = torch.fft.fftfreq if is_complex else torch.fft.rfftfreq
    rows = _phases(y, torch.fft.fftfreq(h, dtype=y.dtype, device=y.device), h, dtype)
    cols = _phases(x, across(w, dtype=x.dtype, device=x.device), w, dtype)
    phases = rows.unsqueeze(-1) * cols.unsqueeze(-2)
    if is_complex:
        moved: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * phases)
    else:
        moved = torch.fft.irfft2(torch.fft.rfft2(images) * phases, s=(h, w))
    return moved


def _phases(shift: Tensor, frequencies: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """exp(-2 pi i f t) of frequencies in cycles per sample and a shift (..., 1), its real part only at |f| = 1/2."""
    angles = 2 * math.pi * frequencies * shift.remainder(n)
    sines = torch.where(frequencies.abs() == 0.5, 0, torch.sin(angles))
    return torch.complex(torch.cos(angles).to(dtype), -sines.to(dtype))


def _check_images(check: Check, images: Tensor, shifts: Tensor) -> None:
    check.data("images", images)
    check.dims("images", images, 2, "(..., H, W)")
    check.type("shifts", shifts, torch.float64)
    check.shape("shifts", shifts, (*images.shape[:-2], 2))
    check.device("shifts", shifts, images)


def _fake(op: str, images: Tensor, shifts: Tensor, mode: str) -> Tensor:
    check = Check(op)
    _check_images(check, images, shifts)
    check.require(mode in ("bilinear", "nearest"), "mode", "be 'bilinear' or 'nearest'", f"'{mode}'")
    return images.new_empty(images.shape)


def _fake_translate_images(images: Tensor, shifts: Tensor, mode: str) -> Tensor:
    return _fake("translate_images", images, shifts, mode)


def _fake_translate_images_out(images: Tensor, shifts: Tensor, interpolation: str, out: Tensor) -> None:
    _fake("translate_images", images, shifts, interpolation)
    Check("translate_images").out(out, images, images.shape)


def _fake_translate_images_adjoint(images: Tensor, shifts: Tensor, mode: str) -> Tensor:
    return _fake("translate_images_adjoint", images, shifts, mode)


class _Translate(torch.autograd.Function):
    """The translation, or with ``adjoint`` its transpose; each is the other's backward."""

    @staticmethod
    def forward(images: Tensor, shifts: Tensor, mode: str, adjoint: bool) -> Tensor:
        op = torch.ops.ptycho.translate_images_adjoint if adjoint else torch.ops.ptycho.translate_images
        result: Tensor = op(images, shifts, mode)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str, bool], output: Tensor) -> None:
        images, shifts, ctx.mode, ctx.adjoint = inputs
        if ctx.mode == "nearest" and ctx.needs_input_grad[1]:
            raise RuntimeError(
                "translate_images: shifts must not require a gradient with mode 'nearest', got requires_grad=True"
            )
        ctx.save_for_backward(shifts, images if ctx.needs_input_grad[1] else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        shifts, images = ctx.saved_tensors
        grad_images = _translate(grad, shifts, ctx.mode, not ctx.adjoint) if ctx.needs_input_grad[0] else None
        grad_shifts = None
        if images is not None:
            window, whole = (images, grad) if ctx.adjoint else (grad, images)
            positions = -shifts.unsqueeze(-2)
            grad_shifts = -grad_positions(window.unsqueeze(-3), whole, positions).squeeze(-2)
        return grad_images, grad_shifts, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        images, shifts, mode, adjoint = args
        images, shifts = lead(info.batch_size, images, in_dims[0]), lead(info.batch_size, shifts, in_dims[1])
        return _translate(images, shifts, mode, adjoint), 0


_translate: Callable[..., Tensor] = _Translate.apply

torch.library.register_fake("ptycho::translate_images", _fake_translate_images)
torch.library.register_fake("ptycho::translate_images_out", _fake_translate_images_out)
torch.library.register_fake("ptycho::translate_images_adjoint", _fake_translate_images_adjoint)
