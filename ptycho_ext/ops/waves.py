# SPDX-License-Identifier: BSD-3-Clause
"""exit_waves and its adjoints: the waves behind an object, the canvas and the probe that they are sums onto.

Three functions of two out of canvas, probe and waves, each linear in one and linear or conjugate-linear in the other.
Their derivatives are each other, so derivatives of any order need nothing else. The derivative with respect to the
positions, an operator of its own, is shared by all three: <waves, exit_waves(canvas, positions, probe)> is the same
number seen from every side. None of them makes a stack of patches, or one of products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_pair
from ptycho_ext.ops._plan import plan_tensors
from ptycho_ext.ops._precision import coordinates_of, in_type_of, widened
from ptycho_ext.ops._registration import differentiable, writes_to
from ptycho_ext.ops._vmap import fold, lead, loop, unfold

if TYPE_CHECKING:
    from ptycho_ext.plan import ScanPlan


def exit_waves(
    canvas: Tensor,
    positions: Tensor,
    probe: Tensor,
    *,
    plan: ScanPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""The waves behind an object that a probe illuminates at every scan position.

    .. math:: \psi_{km} = P_m\, A_k O

    with A_k the extraction at position k (:func:`ptycho_ext.extract_patches`): the projection approximation of a thin
    object. In one pass, without a stack of patches. Linear in canvas and probe. Differentiable with respect to both
    (any order) and positions (once; at integer positions the right-hand difference). Deterministic: bitwise the same
    for any number of threads.

    Args:
        canvas: (..., H, W) object, float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; the leading
            dimensions are those of canvas. Computed with in float64; may lie anywhere.
        probe: (M, h, w) modes, the same for all patches, or (..., n, M, h, w); converted to the canvas's type.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: (..., n, M, h, w) contiguous tensor to write to, overlapping nothing; only where no gradient is required.

    Returns:
        (..., n, M, h, w) waves of the canvas's type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the probe is complex and the canvas is not, the
            canvas is smaller than a patch, a position is not finite, or a gradient is required with out.

    Source:
        Rodenburg & Maiden, Handbook of Microscopy (Springer, 2019), ch. 17; modes: Thibault & Menzel, Nature 494, 68
        (2013).

    Example:
        >>> canvas = torch.arange(12.0).reshape(3, 4)
        >>> probe = torch.tensor([[[1.0, 2.0]], [[0.0, -1.0]]])
        >>> exit_waves(canvas, torch.tensor([[1.0, 0.5]]), probe)
        tensor([[[[ 4.5000, 11.0000]],
        <BLANKLINE>
                 [[ 0.0000, -5.5000]]]])
    """
    canvas = widened(canvas)
    positions, probe = coordinates_of(positions, canvas.shape[:-2]), in_type_of(canvas, widened(probe))
    tensors = plan_tensors("exit_waves", plan, positions, probe.shape[-2:], canvas.shape[-2:])
    if out is None:
        waves: Tensor = _exit_waves(canvas, positions, probe, *tensors)
        return waves
    torch.ops.ptycho.exit_waves_out(canvas, positions, probe, tensors[0], out)
    return out


def exit_waves_adjoint(
    waves: Tensor,
    positions: Tensor,
    probe: Tensor,
    canvas_size: int | Sequence[int],
    *,
    plan: ScanPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""The sum of waves times the conjugate probe onto a canvas: the adjoint of :func:`exit_waves` in the canvas.

    .. math:: O = \sum_k A_k^T \sum_m \overline{P_m}\, \psi_{km}

    In one pass, without a stack of products. What falls outside the canvas is dropped. Linear in waves,
    conjugate-linear in the probe. Differentiable with respect to both (any order) and positions (once). Deterministic:
    every pixel is summed in the order of the patches, and in each in that of the modes.

    Args:
        waves: (..., n, M, h, w) float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        probe: (M, h, w) modes, the same for all patches, or (..., n, M, h, w); converted to the waves' type.
        canvas_size: (H, W), or one integer for both.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        out: (..., H, W) contiguous tensor to write to, overlapping nothing; only where no gradient is required.

    Returns:
        (..., H, W) canvas of the waves' type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the probe is complex and the waves are not, the
            canvas is smaller than a patch, a position is not finite, or a gradient is required with out.

    Source:
        The back-projection of exit waves of Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009), eq. 5.

    Example:
        >>> waves = torch.tensor([[[[1j, 1j]]]])
        >>> exit_waves_adjoint(waves, torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0, 2j]]]), (1, 4))
        tensor([[0.+0.j, 0.+1.j, 2.+0.j, 0.+0.j]])
    """
    waves, canvas_size = widened(waves), as_pair(canvas_size)
    positions, probe = coordinates_of(positions, waves.shape[:-4]), in_type_of(waves, widened(probe))
    tensors = plan_tensors("exit_waves_adjoint", plan, positions, waves.shape[-2:], canvas_size)
    if out is None:
        canvas: Tensor = _adjoint(waves, positions, probe, canvas_size, tensors[1], tensors[2], tensors[0])
        return canvas
    check = Check("exit_waves_adjoint")
    check.size("canvas_size", canvas_size)
    check.shape("out", out, (*waves.shape[:-4], *canvas_size))
    torch.ops.ptycho.exit_waves_adjoint_out(waves, positions, probe, tensors[1], tensors[2], out)
    return out


def exit_waves_adjoint_probe(
    waves: Tensor,
    canvas: Tensor,
    positions: Tensor,
    *,
    plan: ScanPlan | None = None,
    shared: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    r"""The sum over patches of waves times the conjugate object: the adjoint of :func:`exit_waves` in the probe.

    .. math:: P_m = \sum_k \overline{A_k O}\; \psi_{km}

    In one pass, without a stack of patches or products. Linear in waves, conjugate-linear in the canvas. Differentiable
    with respect to both (any order) and positions (once). Deterministic: the order of the sum depends on sizes only.

    Args:
        waves: (..., n, M, h, w) float32, float64, complex64 or complex128.
        canvas: (..., H, W) object; converted to the waves' type.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        plan: made for these positions and sizes; saves working it out at every call, here and in the derivatives.
        shared: True: one probe for all patches of all canvases, the sum. False: one per patch, the terms.
        out: contiguous tensor of the result's shape to write to, overlapping nothing; only where no gradient is
            required.

    Returns:
        (M, h, w) modes of the waves' type, (..., n, M, h, w) if not shared; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is complex and the waves are not or
            it is smaller than a patch, a position is not finite, or a gradient is required with out.

    Source:
        The update of the probe of Thibault et al., Ultramicroscopy 109, 338 (2009), its numerator; Maiden & Rodenburg,
        Ultramicroscopy 109, 1256 (2009), eq. 6.

    Example:
        >>> waves, positions = torch.ones(2, 1, 1, 2), torch.tensor([[0.0, 0.0], [0.0, 1.5]])
        >>> exit_waves_adjoint_probe(waves, torch.tensor([[1.0, 2.0, 4.0, 8.0]]), positions)
        tensor([[[4., 8.]]])
    """
    waves = widened(waves)
    positions, canvas = coordinates_of(positions, waves.shape[:-4]), in_type_of(waves, widened(canvas))
    tensors = plan_tensors("exit_waves_adjoint_probe", plan, positions, waves.shape[-2:], canvas.shape[-2:])
    if out is None:
        probe: Tensor = _adjoint_probe(waves, canvas, positions, shared, *tensors)
        return probe
    torch.ops.ptycho.exit_waves_adjoint_probe_out(waves, canvas, positions, shared, tensors[0], out)
    return out


def _fake_exit_waves(canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None) -> Tensor:
    Check("exit_waves").same_device(canvas, positions=positions, probe=probe, plan=order)
    return canvas.new_empty((*positions.shape[:-1], *probe.shape[-3:]))


def _fake_exit_waves_out(canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None, out: Tensor) -> None:
    Check("exit_waves").same_device(canvas, positions=positions, probe=probe, plan=order, out=out)


def _fake_exit_waves_adjoint(
    waves: Tensor,
    positions: Tensor,
    probe: Tensor,
    canvas_size: Sequence[int],
    tile_start: Tensor | None = None,
    tile_patches: Tensor | None = None,
) -> Tensor:
    Check("exit_waves_adjoint").same_device(waves, positions=positions, probe=probe, plan=tile_start)
    return waves.new_empty((*waves.shape[:-4], *canvas_size))


def _fake_exit_waves_adjoint_out(
    waves: Tensor,
    positions: Tensor,
    probe: Tensor,
    tile_start: Tensor | None,
    tile_patches: Tensor | None,
    out: Tensor,
) -> None:
    Check("exit_waves_adjoint").same_device(waves, positions=positions, probe=probe, plan=tile_start, out=out)


def _fake_exit_waves_adjoint_probe(
    waves: Tensor, canvas: Tensor, positions: Tensor, shared: bool, order: Tensor | None = None
) -> Tensor:
    Check("exit_waves_adjoint_probe").same_device(waves, positions=positions, canvas=canvas, plan=order)
    return waves.new_empty(waves.shape[-3:] if shared else waves.shape)


def _fake_exit_waves_adjoint_probe_out(
    waves: Tensor, canvas: Tensor, positions: Tensor, shared: bool, order: Tensor | None, out: Tensor
) -> None:
    Check("exit_waves_adjoint_probe").same_device(waves, positions=positions, canvas=canvas, plan=order, out=out)


def _fake_exit_waves_grad_positions(
    grad_waves: Tensor, canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None
) -> Tensor:
    check = Check("exit_waves_grad_positions")
    check.same_device(canvas, positions=positions, grad_waves=grad_waves, probe=probe, plan=order)
    return positions.new_empty(positions.shape)


torch.library.register_fake("ptycho::exit_waves", _fake_exit_waves)
torch.library.register_fake("ptycho::exit_waves_out", _fake_exit_waves_out)
torch.library.register_fake("ptycho::exit_waves_adjoint", _fake_exit_waves_adjoint)
torch.library.register_fake("ptycho::exit_waves_adjoint_out", _fake_exit_waves_adjoint_out)
torch.library.register_fake("ptycho::exit_waves_adjoint_probe", _fake_exit_waves_adjoint_probe)
torch.library.register_fake("ptycho::exit_waves_adjoint_probe_out", _fake_exit_waves_adjoint_probe_out)
torch.library.register_fake("ptycho::exit_waves_grad_positions", _fake_exit_waves_grad_positions)

Gradients = tuple[Tensor | None, ...]


class _ExitWaves(torch.autograd.Function):
    """The waves; the tile lists are those of a plan, for the backward."""

    @staticmethod
    def forward(
        canvas: Tensor,
        positions: Tensor,
        probe: Tensor,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.exit_waves(canvas, positions, probe, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        canvas, positions, probe, *plan = inputs
        for_canvas, for_positions, for_probe = ctx.needs_input_grad[:3]
        canvas_ = canvas if for_positions or for_probe else None
        ctx.save_for_backward(canvas_, positions, probe if for_canvas or for_positions else None, *plan)
        ctx.canvas_size, ctx.shared = list(canvas.shape[-2:]), probe.ndim == 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        canvas, positions, probe, order, *lists = ctx.saved_tensors
        by_canvas = by_positions = by_probe = None
        if ctx.needs_input_grad[0]:
            by_canvas = _adjoint(grad, positions, probe, ctx.canvas_size, *lists, order)
        if ctx.needs_input_grad[1]:
            by_positions = _grad_positions(grad, canvas, positions, probe, order)
        if ctx.needs_input_grad[2]:
            by_probe = _adjoint_probe(grad, canvas, positions, ctx.shared, order, *lists)
        return by_canvas, by_positions, by_probe, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        canvas, positions, probe = args[:3]  # a plan fits none of these ways
        of_canvas, of_positions, of_probe = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves, info.batch_size
        if not _has_mapped(probe, of_probe):
            if of_canvas is None and of_positions is None:
                return unfold(size, op(canvas, positions, _modes(size, probe, of_probe)), inner=2)
        elif of_canvas is None:
            if of_probe is not None:
                probe = fold(size, probe, of_probe, inner=3)
            return unfold(size, op(canvas, fold(size, positions, of_positions, inner=1), probe), inner=3)
        elif of_canvas is not None:
            probe = probe if of_probe is None else probe.movedim(of_probe, 0)
            return op(lead(size, canvas, of_canvas), lead(size, positions, of_positions), probe), 0
        looped: tuple[Tensor, int] = loop(op, size, args[:3], in_dims[:3])
        return looped


class _Adjoint(torch.autograd.Function):
    """The sum onto a canvas; the order is that of a plan, for the backward."""

    @staticmethod
    def forward(
        waves: Tensor,
        positions: Tensor,
        probe: Tensor,
        canvas_size: list[int],
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        op = torch.ops.ptycho.exit_waves_adjoint
        result: Tensor = op(waves, positions, probe, canvas_size, tile_start, tile_patches)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        waves, positions, probe, _, tile_start, tile_patches, order = inputs
        for_waves, for_positions, for_probe = ctx.needs_input_grad[:3]
        waves_ = waves if for_positions or for_probe else None
        probe_ = probe if for_waves or for_positions else None
        ctx.save_for_backward(waves_, positions, probe_, order, tile_start, tile_patches)
        ctx.shared = probe.ndim == 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        waves, positions, probe, *plan = ctx.saved_tensors
        by_waves = by_positions = by_probe = None
        if ctx.needs_input_grad[0]:
            by_waves = _exit_waves(grad, positions, probe, *plan)
        if ctx.needs_input_grad[1]:
            by_positions = _grad_positions(waves, grad, positions, probe, plan[0])
        if ctx.needs_input_grad[2]:
            by_probe = _adjoint_probe(waves, grad, positions, ctx.shared, *plan)
        return by_waves, by_positions, by_probe, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        waves, positions, probe, canvas_size = args[:4]
        of_waves, of_positions, of_probe = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves_adjoint, info.batch_size
        if of_waves is None or not _has_mapped(probe, of_probe):
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        probe = probe if of_probe is None else probe.movedim(of_probe, 0)
        return op(lead(size, waves, of_waves), lead(size, positions, of_positions), probe, canvas_size), 0


class _AdjointProbe(torch.autograd.Function):
    """The sum over patches, or its terms; the tile lists are those of a plan, for the backward."""

    @staticmethod
    def forward(
        waves: Tensor,
        canvas: Tensor,
        positions: Tensor,
        shared: bool,
        order: Tensor | None = None,
        tile_start: Tensor | None = None,
        tile_patches: Tensor | None = None,
    ) -> Tensor:
        result: Tensor = torch.ops.ptycho.exit_waves_adjoint_probe(waves, canvas, positions, shared, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        waves, canvas, positions, _, *plan = inputs
        for_waves, for_canvas, for_positions = ctx.needs_input_grad[:3]
        waves_ = waves if for_canvas or for_positions else None
        ctx.save_for_backward(waves_, canvas if for_waves or for_positions else None, positions, *plan)
        ctx.canvas_size = list(canvas.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        waves, canvas, positions, order, *lists = ctx.saved_tensors
        by_waves = by_canvas = by_positions = None
        if ctx.needs_input_grad[0]:
            by_waves = _exit_waves(canvas, positions, grad, order, *lists)
        if ctx.needs_input_grad[1]:
            by_canvas = _adjoint(waves, positions, grad, ctx.canvas_size, *lists, order)
        if ctx.needs_input_grad[2]:
            by_positions = _grad_positions(waves, canvas, positions, grad, order)
        return by_waves, by_canvas, by_positions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        waves, canvas, positions, shared = args[:4]
        of_waves, of_canvas, of_positions = in_dims[:3]
        op, size = torch.ops.ptycho.exit_waves_adjoint_probe, info.batch_size
        if of_waves is not None and of_canvas is None and of_positions is None:
            return unfold(size, op(_modes(size, waves, of_waves), canvas, positions, shared), inner=2)
        if of_waves is None or shared:
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        if of_canvas is None:
            waves, positions = fold(size, waves, of_waves, inner=3), fold(size, positions, of_positions, inner=1)
            return unfold(size, op(waves, canvas, positions, shared), inner=3)
        return op(*(lead(size, a, d) for a, d in zip(args[:3], in_dims[:3], strict=True)), shared), 0


class _GradPositions(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_waves: Tensor, canvas: Tensor, positions: Tensor, probe: Tensor, order: Tensor | None = None
    ) -> Tensor:
        op = torch.ops.ptycho.exit_waves_grad_positions
        result: Tensor = op(grad_waves, canvas, positions, probe, order)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, None]:
        raise NotImplementedError(
            "exit_waves: positions must be differentiated once only, got a second derivative "
            "(detach the positions, or their gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        grads, canvas, positions, probe = args[:4]
        of_grads, of_canvas, of_positions, of_probe = in_dims[:4]
        op, size = torch.ops.ptycho.exit_waves_grad_positions, info.batch_size
        if of_grads is None or not _has_mapped(probe, of_probe):
            looped: tuple[Tensor, int] = loop(op, size, args[:4], in_dims[:4])
            return looped
        if of_canvas is None:
            grads, positions = fold(size, grads, of_grads, inner=3), fold(size, positions, of_positions, inner=1)
            if of_probe is not None:
                probe = fold(size, probe, of_probe, inner=3)
            return unfold(size, op(grads, canvas, positions, probe), inner=1)
        probe = probe if of_probe is None else probe.movedim(of_probe, 0)
        return op(
            lead(size, grads, of_grads), lead(size, canvas, of_canvas), lead(size, positions, of_positions), probe
        ), 0


def _has_mapped(probe: Tensor, dim: int | None) -> bool:
    """Whether mapped patches can have this probe without its repetition: one for all of them, or one for each."""
    return probe.ndim == 3 if dim is None else probe.ndim > 4


def _modes(batch_size: int, images: Tensor, dim: int | None) -> Tensor:
    """A probe, or waves, (..., M, h, w) with the mapped dimension joined to the modes: (..., batch_size * M, h, w)."""
    return fold(batch_size, images, dim, inner=2)


_exit_waves = differentiable("exit_waves", _ExitWaves)
_adjoint = differentiable("exit_waves_adjoint", _Adjoint)
_adjoint_probe = differentiable("exit_waves_adjoint_probe", _AdjointProbe)
_grad_positions = differentiable("exit_waves_grad_positions", _GradPositions)
writes_to("exit_waves_out", 4)
writes_to("exit_waves_adjoint_out", 5)
writes_to("exit_waves_adjoint_probe_out", 5)
