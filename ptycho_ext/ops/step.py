# SPDX-License-Identifier: BSD-3-Clause
"""pattern_step: from an object and a probe to predicted patterns, their comparison with counts, and back, in one go.

The operator takes a pattern through the whole step while its waves are in a core's cache, or in a block's shared
memory. Where it does not run (sizes with other prime factors than 2, 3 and 5, or too large for a block), and where its
outputs are to be differentiated, the same is composed of the other operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ptycho_ext.ops._checks import Check
from ptycho_ext.ops._precision import coordinates_of, in_type_of, real_type, widened
from ptycho_ext.ops._registration import composed, differentiable
from ptycho_ext.ops._vmap import loop
from ptycho_ext.ops.correct import correct_fields
from ptycho_ext.ops.waves import exit_waves, exit_waves_adjoint, exit_waves_adjoint_probe

#: Longest side in a block, pixels, and bytes of its sums.
_LONGEST, _SUM_BYTES = 144, 5 << 10


class PatternStep(NamedTuple):
    """Result of :func:`pattern_step`; a correction that is not asked for is None.

    Args:
        values: (..., n) float64, J of every pattern, in nats.
        scale_slopes: (..., n) float64, its derivative by log(scale).
        canvas: (..., H, W), correction of the canvas.
        probe: as the probe, its correction.
        positions: (..., n, 2) float64, correction of the shifts if there are any, or else of the positions.
    """

    values: Tensor
    scale_slopes: Tensor
    canvas: Tensor | None
    probe: Tensor | None
    positions: Tensor | None


def pattern_step(
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    counts: Tensor,
    *,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    weights: Tensor | None = None,
    shifts: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    to_canvas: bool = True,
    to_probe: bool = True,
    to_positions: bool = True,
) -> PatternStep:
    r"""Predict the patterns of a scan, compare them with counts, and correct object, probe and positions.

    .. math:: F_{km} = \mathcal F\,[S_k P_m\; A_k O], \qquad J_k = J(F_k, c_k), \qquad
              \Delta x = -\tfrac12\, \partial \sum_k g_k J_k / \partial x

    with A_k the extraction at position k, S_k the translation of the probe by a shift, F the orthonormal discrete
    Fourier transform and J the likelihood of :func:`ptycho_ext.correct_fields`: the composition of
    :func:`ptycho_ext.exit_waves`, a Fourier transform, ``correct_fields``, the inverse transform and the adjoints. A
    pattern is taken through all of it at once, so that no stack of waves is made: memory does not grow with n, beside
    the outputs.

    Differentiable as the operators that it is composed of: values and corrections with respect to canvas, probe and
    scale once, values to positions and shifts. Deterministic: bitwise the same for any number of threads.

    Args:
        canvas: (..., H, W) object, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0].
        probe: (M, h, w) modes in sqrt(counts), the same for all patterns, or (..., n, M, h, w).
        counts: (..., n, h, w) measured counts, of any type that ``correct_fields`` takes, with the zero frequency at
            [0, 0].
        mask: bool, (h, w) or (..., n, h, w), True where a pixel is good; None: all are.
        scale: (..., n) real, >= 0, of every pattern's intensity; None: ones.
        weights: (..., n) real g, of every pattern in the corrections; None: ones.
        shifts: (..., n, 2) pixels (y, x) by which the probe is translated for every pattern, periodically, by phase
            ramps; None: none. With positions at integers, so that patches are not interpolated.
        loss: "poisson" or "amplitude".
        background: counts added to prediction and measurement, >= 0.
        to_canvas: correct the canvas.
        to_probe: correct the probe.
        to_positions: correct the shifts, or without shifts the positions.

    Returns:
        Values, derivatives by log(scale), and corrections: minus half the gradient of J.

    Raises:
        RuntimeError: a type, shape, device or size does not fit, the canvas is smaller than a patch, positions or
            shifts are not finite, or loss or background is invalid.
        NotImplementedError: a second derivative.

    Source:
        P. Thibault and M. Guizar-Sicairos, New J. Phys. 14, 063004 (2012), for likelihood and gradients; modes:
        P. Thibault and A. Menzel, Nature 494, 68 (2013).

    Example:
        >>> canvas = torch.ones(6, 6, dtype=torch.complex64)
        >>> probe = torch.ones(1, 4, 4, dtype=torch.complex64)
        >>> counts = torch.zeros(1, 4, 4)
        >>> counts[0, 0, 0] = 16  # of a flat wave of one count in each pixel
        >>> step = pattern_step(canvas, torch.tensor([[1.0, 1.0]]), probe, counts)
        >>> round(step.values.item(), 6), step.canvas.abs().max().item()
        (0.0, 0.0)
    """
    canvas = widened(canvas)
    positions, probe = coordinates_of(positions, canvas.shape[:-2]), in_type_of(canvas, widened(probe))
    real = real_type(canvas.dtype)
    scale, weights = (
        factors if factors is None or factors.is_complex() else factors.to(real) for factors in (scale, weights)
    )
    if shifts is not None:
        shifts = coordinates_of(shifts, canvas.shape[:-2])
    inputs = (canvas, positions, probe, counts, mask, scale, weights, shifts, loss, background)
    wanted = (to_canvas, to_probe, to_positions)
    step = _step if _is_one_operator(canvas, probe, shifts) else _composed
    if step is _step and wanted[1:] == (False, False) and _has_own_backward(*inputs[:8]):
        values, slopes, by_canvas = _StepWithBackward.apply(*inputs, to_canvas)  # type: ignore[no-untyped-call]
        return PatternStep(values, slopes, by_canvas if to_canvas else None, None, None)
    values, slopes, *corrections = step(*inputs, *wanted)
    by_canvas, by_probe, by_positions = (
        correction if asked else None for correction, asked in zip(corrections, wanted, strict=True)
    )
    return PatternStep(values, slopes, by_canvas, by_probe, by_positions)


def runs_in_cache(device: torch.device, size: Sequence[int]) -> bool:
    """Whether :func:`pattern_step` takes patterns (h, w) through the cache of a CPU, on this device."""
    return device.type == "cpu" and all(_has_stages(side) for side in size)


def _is_one_operator(canvas: Tensor, probe: Tensor, shifts: Tensor | None) -> bool:
    """Whether the operator runs with these inputs."""
    size, device = probe.shape[-2:], canvas.device
    if device.type != "cuda":
        return runs_in_cache(device, size)
    return not (shifts is not None and probe.ndim > 3) and all(_has_stages(side) and side <= _LONGEST for side in size)


def _has_own_backward(
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    counts: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    weights: Tensor | None,
    shifts: Tensor | None,
) -> bool:
    """Whether gradients are wanted that the backward operator has: by canvas and probe, on a CPU, in plain autograd."""
    if not torch.is_grad_enabled() or shifts is not None or canvas.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    others = (positions, counts, scale, weights)
    wanted = canvas.requires_grad or probe.requires_grad
    return wanted and not any(other is not None and other.requires_grad for other in others)


class _StepWithBackward(torch.autograd.Function):
    """The operator with the correction of the canvas alone; its backward makes the fields again, and keeps no waves."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, loss, background, to_canvas = args
        values, slopes, correction, *_ = _below_autograd(*tensors, loss, background, to_canvas, False, False)
        ctx.save_for_backward(*tensors[:7])
        ctx.loss, ctx.background, ctx.to_canvas = loss, background, to_canvas
        ctx.set_materialize_grads(False)
        return values, slopes, correction

    @staticmethod
    def backward(
        ctx: Any, grad_values: Tensor | None, grad_slopes: Tensor | None, grad_correction: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        grads = (grad_correction if ctx.to_canvas else None, grad_values, grad_slopes)
        by_canvas, by_probe = _step_backward(*grads, *ctx.saved_tensors, ctx.loss, ctx.background, *wanted)
        found = (by_canvas if wanted[0] else None, None, by_probe if wanted[1] else None)
        return *found, *[None] * 8


class _StepBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_correction: Tensor | None,
        grad_values: Tensor | None,
        grad_scale_slopes: Tensor | None,
        canvas: Tensor,
        positions: Tensor,
        probe: Tensor,
        counts: Tensor,
        mask: Tensor | None = None,
        scale: Tensor | None = None,
        weights: Tensor | None = None,
        loss: str = "poisson",
        background: float = 0.0,
        to_canvas: bool = True,
        to_probe: bool = True,
    ) -> tuple[Tensor, Tensor]:
        grads = (grad_correction, grad_values, grad_scale_slopes)
        inputs = (canvas, positions, probe, counts, mask, scale, weights, loss, background, to_canvas, to_probe)
        result: tuple[Tensor, Tensor] = torch.ops.ptycho.pattern_step_backward(*grads, *inputs)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            "pattern_step: its outputs must be differentiated once only, got a second derivative "
            "(detach canvas and probe, or their gradients)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return loop(torch.ops.ptycho.pattern_step_backward, info.batch_size, args, in_dims)


def _below_autograd(*args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.ptycho.pattern_step.default._op(*args)


def _has_stages(side: int) -> bool:
    """Whether a side has no prime factors other than 2, 3 and 5."""
    for factor in (2, 3, 5):
        while side > 0 and side % factor == 0:
            side //= factor
    return side == 1


def _composed(
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    weights: Tensor | None = None,
    shifts: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    to_canvas: bool = True,
    to_probe: bool = True,
    to_positions: bool = True,
) -> tuple[Tensor, ...]:
    """The same of separate operators, which keep the stack of waves; differentiable."""
    h, w = probe.shape[-2:]
    probes, ramps, spectra = probe, None, None
    if shifts is not None:
        ramps = _ramps(shifts, (h, w), canvas.dtype)
        spectra = torch.fft.fft2(probe, norm="forward") * ramps
        probes = torch.fft.ifft2(spectra, norm="forward")
    # Fields that are not normalised; the factor is with the scale, which the correction has, too.
    factors = torch.full(positions.shape[:-1], 1 / (h * w), dtype=real_type(canvas.dtype), device=canvas.device)
    if scale is not None:
        factors = factors * scale
    fields = torch.fft.fft2(exit_waves(canvas, positions, probes))
    correct = to_canvas or to_probe or to_positions
    correction, values, slopes = correct_fields(
        fields, counts, mask=mask, scale=factors, loss=loss, background=background, correct=correct
    )
    none = canvas.new_zeros(0)
    if not correct:
        return values, slopes, none, none, positions.new_zeros(0)
    if weights is not None:
        correction = correction * weights[..., None, None, None]
    waves = torch.fft.ifft2(correction, norm="forward")
    by_canvas = exit_waves_adjoint(waves, positions, probes, canvas.shape[-2:]) if to_canvas else none
    by_probe, by_positions = none, positions.new_zeros(0)
    if shifts is None:
        if to_probe:
            by_probe = exit_waves_adjoint_probe(waves, canvas, positions, shared=probe.ndim == 3)
        if to_positions:
            by_positions = torch.ops.ptycho.exit_waves_grad_positions(waves, canvas, positions, probes)
        return values, slopes, by_canvas, by_probe, by_positions
    assert ramps is not None and spectra is not None
    by_spectra = torch.fft.fft2(exit_waves_adjoint_probe(waves, canvas, positions, shared=False))
    if to_probe:
        unshifted = by_spectra * ramps.conj()
        by_probe = torch.fft.ifft2(unshifted.flatten(0, -4).sum(0) if probe.ndim == 3 else unshifted)
    if to_positions:
        overlap = (by_spectra.conj() * spectra).imag.sum(-3).double()
        along = [overlap.sum(-1) @ _frequencies(h, shifts), overlap.sum(-2) @ _frequencies(w, shifts)]
        by_positions = torch.stack(along, -1)
    return values, slopes, by_canvas, by_probe, by_positions


def _ramps(shifts: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Phase ramps (..., n, 1, h, w) that translate by shifts (..., n, 2)."""
    rows, columns = (
        torch.polar(torch.ones_like(phases), phases).to(dtype)
        for phases in (-shifts[..., axis, None] * _frequencies(side, shifts) for axis, side in enumerate(size))
    )
    ramps: Tensor = (rows[..., :, None] * columns[..., None, :]).unsqueeze(-3)
    return ramps


def _frequencies(side: int, like: Tensor) -> Tensor:
    """Angular frequencies of a side, float64, in the order of a Fourier transform."""
    frequencies: Tensor = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64, device=like.device)
    return frequencies


def _fake_pattern_step(
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    weights: Tensor | None = None,
    shifts: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    to_canvas: bool = True,
    to_probe: bool = True,
    to_positions: bool = True,
) -> tuple[Tensor, ...]:
    Check("pattern_step").same_device(
        canvas, positions=positions, probe=probe, counts=counts, mask=mask, scale=scale, weights=weights, shifts=shifts
    )
    values, slopes = (canvas.new_empty(positions.shape[:-1], dtype=torch.float64) for _ in range(2))
    models = ((canvas, to_canvas), (probe, to_probe), (positions, to_positions))
    return values, slopes, *(model.new_empty(model.shape if asked else (0,)) for model, asked in models)


def _fake_pattern_step_backward(
    grad_correction: Tensor | None,
    grad_values: Tensor | None,
    grad_scale_slopes: Tensor | None,
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    weights: Tensor | None = None,
    loss: str = "poisson",
    background: float = 0.0,
    to_canvas: bool = True,
    to_probe: bool = True,
) -> tuple[Tensor, Tensor]:
    Check("pattern_step_backward").same_device(canvas, positions=positions, probe=probe, counts=counts)
    by_canvas = canvas.new_empty(canvas.shape if to_canvas else (0,))
    return by_canvas, probe.new_empty(probe.shape if to_probe else (0,))


torch.library.register_fake("ptycho::pattern_step", _fake_pattern_step)
torch.library.register_fake("ptycho::pattern_step_backward", _fake_pattern_step_backward)
_step = composed("pattern_step", _composed)
_step_backward = differentiable("pattern_step_backward", _StepBackward)
