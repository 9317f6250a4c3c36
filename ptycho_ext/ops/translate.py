# SPDX-License-Identifier: BSD-3-Clause
"""translate_images: translation of images by sub-pixel shifts.

The bilinear translation by t is the patch of the image at position -t, so its derivative with respect to the shift is
that of an extraction; its adjoint is the translation by -t. The nearest mode has an adjoint and no derivative with
respect to the shift. The Fourier mode multiplies spectra with torch's operations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check
from ptycho_ext.ops._precision import as_float64, real_type, widened
from ptycho_ext.ops._registration import differentiable, writes_to
from ptycho_ext.ops._vmap import lead, loop
from ptycho_ext.ops.extract import grad_positions


def translate_images(images: Tensor, shifts: Tensor, mode: str = "bilinear", *, out: Tensor | None = None) -> Tensor:
    r"""Translate images by sub-pixel shifts; a positive shift moves the content to larger indices.

    .. math:: \mathrm{out}[i, j] = \mathrm{in}(i - t_y,\; j - t_x)

    "bilinear": each tap outside of the image is zero, so the border decreases to zero over one pixel. "nearest": the
    sample at rint(i - t), ties to even, zero unless 0 <= i - t <= n - 1. "fourier": periodic and exact for band-limited
    images; every frequency f is multiplied by exp(-2 pi i f t), except the highest frequency of an even size, which
    represents both of its signs and is multiplied by cos(pi t). Real images stay real; at half-integer shifts this
    frequency is lost.

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
    images, shifts = widened(images), as_float64(shifts)
    if shifts.ndim == 1:
        shifts = shifts.expand(*images.shape[:-2], -1)
    check = Check("translate_images")
    check.require(mode in _MODES, "mode", "be 'bilinear', 'nearest' or 'fourier'", f"'{mode}'")
    if mode == "fourier":
        return _fourier_translation(check, images, shifts, out)
    if out is None:
        moved: Tensor = _translate(images, shifts, mode)
        return moved
    torch.ops.ptycho.translate_images_out(images, shifts, mode, out)
    return out


_MODES = ("bilinear", "nearest", "fourier")


def _fourier_translation(check: Check, images: Tensor, shifts: Tensor, out: Tensor | None) -> Tensor:
    """Translate in the Fourier mode, with the checks that the kernels make in the other modes."""
    check.require(real_type(images.dtype) in (torch.float32, torch.float64), "images", f"be {_DATA}", _name(images))
    check.require(images.ndim >= 2, "images", "have shape (..., H, W)", tuple(images.shape))
    check.require(shifts.dtype == torch.float64, "shifts", "be float64", _name(shifts))
    check.shape("shifts", shifts, (*images.shape[:-2], 2))
    check.device("shifts", shifts, images)
    if out is None:
        return _fourier(images, shifts)
    check.no_gradient(torch.is_grad_enabled() and any(t.requires_grad for t in (images, shifts, out)))
    check.out(out)
    check.require(out.dtype == images.dtype, "out", f"be {_name(images)}", _name(out))
    check.shape("out", out, images.shape)
    return out.copy_(_fourier(images, shifts))


_DATA = "float32, float64, complex64 or complex128"


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _fourier(images: Tensor, shifts: Tensor) -> Tensor:
    if images.numel() == 0:
        return images.clone()
    (h, w), is_complex, dtype = images.shape[-2:], images.is_complex(), real_type(images.dtype)
    y, x = shifts.unsqueeze(-1).unbind(-2)  # (..., 1) each
    # For real images the spectrum along x has non-negative frequencies only.
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
    """Factors exp(-2 pi i f t) for f in cycles per sample and a shift (..., 1), their real part at |f| = 1/2."""
    angles = 2 * math.pi * frequencies * shift.remainder(n)
    sines = torch.where(frequencies.abs() == 0.5, 0, torch.sin(angles))
    return torch.complex(torch.cos(angles).to(dtype), -sines.to(dtype))


def _fake_translate_images(images: Tensor, shifts: Tensor, mode: str) -> Tensor:
    Check("translate_images").same_device(images, shifts=shifts)
    return images.new_empty(images.shape)


def _fake_translate_images_out(images: Tensor, shifts: Tensor, interpolation: str, out: Tensor) -> None:
    Check("translate_images").same_device(images, shifts=shifts, out=out)


def _fake_translate_images_adjoint(images: Tensor, shifts: Tensor, mode: str) -> Tensor:
    Check("translate_images_adjoint").same_device(images, shifts=shifts)
    return images.new_empty(images.shape)


torch.library.register_fake("ptycho::translate_images", _fake_translate_images)
torch.library.register_fake("ptycho::translate_images_out", _fake_translate_images_out)
torch.library.register_fake("ptycho::translate_images_adjoint", _fake_translate_images_adjoint)


def _translation(adjoint: bool) -> type[torch.autograd.Function]:
    """Autograd of the translation or of its transpose; each is the backward of the other."""
    names = ("translate_images", "translate_images_adjoint")
    op = getattr(torch.ops.ptycho, names[adjoint])

    class Translation(torch.autograd.Function):
        @staticmethod
        def forward(images: Tensor, shifts: Tensor, mode: str) -> Tensor:
            moved: Tensor = op(images, shifts, mode)
            return moved

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
            images, shifts, ctx.mode = inputs
            if ctx.mode == "nearest" and ctx.needs_input_grad[1]:
                raise RuntimeError(
                    "translate_images: shifts must not require a gradient with mode 'nearest', got requires_grad=True"
                )
            ctx.save_for_backward(shifts, images if ctx.needs_input_grad[1] else None)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
            shifts, images = ctx.saved_tensors
            transpose = _translate if adjoint else _translate_back
            by_images = transpose(grad, shifts, ctx.mode) if ctx.needs_input_grad[0] else None
            by_shifts = None
            if images is not None:
                patches, canvas = (images, grad) if adjoint else (grad, images)
                by_shifts = -grad_positions(patches.unsqueeze(-3), canvas, -shifts.unsqueeze(-2)).squeeze(-2)
            return by_images, by_shifts, None

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
            if in_dims[0] is None:
                looped: tuple[Tensor, int] = loop(op, info.batch_size, args, in_dims)
                return looped
            images, shifts = (lead(info.batch_size, args[i], in_dims[i]) for i in (0, 1))
            return op(images, shifts, args[2]), 0

    return Translation


_translate = differentiable("translate_images", _translation(adjoint=False))
_translate_back = differentiable("translate_images_adjoint", _translation(adjoint=True))
writes_to("translate_images_out", 3)
