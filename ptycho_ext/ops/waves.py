# SPDX-License-Identifier: BSD-3-Clause
"""exit_waves and its adjoints with respect to the canvas and to the probe.

Each of the three functions has two of canvas, probe and waves as arguments, and is linear or conjugate-linear in both.
Their derivatives are each other, to any order. The position gradient is a separate operator, which all three share: it
is the derivative of Re <waves, exit_waves(canvas, positions, probe)>. None of them stores a stack of patches or of
products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptycho_ext.ops._checks import Check, as_pair
from ptycho_ext.ops._plan import plan_tensors
from ptycho_ext.ops._precision import coordinates_of, in_type_of, widened
from ptycho_ext.ops._waves import apply_adjoint, apply_adjoint_probe, apply_exit_waves

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
    r"""Exit waves of an object that a probe illuminates at every scan position.

    .. math:: \psi_{km} = P_m\, A_k O

    with A_k the extraction at position k (:func:`ptycho_ext.extract_patches`): the projection approximation of a thin
    object. One pass, without a stack of patches. Linear in canvas and probe. Differentiable with respect to both
    (any order) and positions (once; at integer positions the right-hand difference). Deterministic: bitwise the same
    for any number of threads.

    Args:
        canvas: (..., H, W) object, float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; the leading
            dimensions are those of canvas. Computed with in float64; may lie anywhere.
        probe: (M, h, w) modes, the same for all patches, or (..., n, M, h, w); converted to the canvas's type.
        plan: plan of these positions and sizes, so that it is not computed in every call, here and in the derivatives.
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
        waves: Tensor = apply_exit_waves(canvas, positions, probe, *tensors)
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
    r"""Sum waves times the conjugate probe onto a canvas: the adjoint of :func:`exit_waves` in the canvas.

    .. math:: O = \sum_k A_k^T \sum_m \overline{P_m}\, \psi_{km}

    One pass, without a stack of products. Samples outside of the canvas are ignored. Linear in waves, conjugate-linear
    in the probe. Differentiable with respect to both (any order) and positions (once). Deterministic: every pixel is
    summed in the order of the patches, and in each patch in the order of the modes.

    Args:
        waves: (..., n, M, h, w), or (M, h, w), the same for all patches; float32, float64, complex64 or complex128.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        probe: (M, h, w) modes, the same for all patches, or (..., n, M, h, w); converted to the waves' type.
        canvas_size: (H, W), or one integer for both.
        plan: plan of these positions and sizes, so that it is not computed in every call, here and in the derivatives.
        out: (..., H, W) contiguous tensor to write to, overlapping nothing; only where no gradient is required.

    Returns:
        (..., H, W) canvas of the waves' type; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the probe is complex and the waves are not, the
            canvas is smaller than a patch, a position is not finite, or a gradient is required with out.

    Source:
        The numerator of the object update of Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009).

    Example:
        >>> waves = torch.tensor([[[[1j, 1j]]]])
        >>> exit_waves_adjoint(waves, torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0, 2j]]]), (1, 4))
        tensor([[0.+0.j, 0.+1.j, 2.+0.j, 0.+0.j]])
    """
    waves, canvas_size = widened(waves), as_pair(canvas_size)
    positions, probe = coordinates_of(positions, waves.shape[:-4]), in_type_of(waves, widened(probe))
    tensors = plan_tensors("exit_waves_adjoint", plan, positions, waves.shape[-2:], canvas_size)
    if out is None:
        canvas: Tensor = apply_adjoint(waves, positions, probe, canvas_size, tensors[1], tensors[2], tensors[0])
        return canvas
    check = Check("exit_waves_adjoint")
    check.size("canvas_size", canvas_size)
    check.shape("out", out, (*positions.shape[:-2], *canvas_size))
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
    r"""Sum waves times the conjugate object over the patches: the adjoint of :func:`exit_waves` in the probe.

    .. math:: P_m = \sum_k \overline{A_k O}\; \psi_{km}

    One pass, without a stack of patches or products. Linear in waves, conjugate-linear in the canvas. Differentiable
    with respect to both (any order) and positions (once). Deterministic: the order of the sum depends on sizes only.

    Args:
        waves: (..., n, M, h, w), or (M, h, w), the same for all patches; float32, float64, complex64 or complex128.
        canvas: (..., H, W) object; converted to the waves' type.
        positions: (..., n, 2) canvas coordinates (y, x), in pixels, of the patches' samples [0, 0]; (n, 2): one
            set for all leading dimensions, and a plan may be of that set.
        plan: plan of these positions and sizes, so that it is not computed in every call, here and in the derivatives.
        shared: True: the sum over all patches of all canvases. False: its terms, one per patch.
        out: contiguous tensor of the result's shape to write to, overlapping nothing; only where no gradient is
            required.

    Returns:
        (M, h, w) modes of the waves' type, (..., n, M, h, w) if not shared; out, if given.

    Raises:
        RuntimeError: a type, shape, device, size or plan does not fit, the canvas is complex and the waves are not or
            it is smaller than a patch, a position is not finite, or a gradient is required with out.

    Source:
        The numerator of the probe update of Thibault et al., Ultramicroscopy 109, 338 (2009), and of Maiden &
        Rodenburg, Ultramicroscopy 109, 1256 (2009).

    Example:
        >>> waves, positions = torch.ones(2, 1, 1, 2), torch.tensor([[0.0, 0.0], [0.0, 1.5]])
        >>> exit_waves_adjoint_probe(waves, torch.tensor([[1.0, 2.0, 4.0, 8.0]]), positions)
        tensor([[[4., 8.]]])
    """
    waves = widened(waves)
    positions, canvas = coordinates_of(positions, waves.shape[:-4]), in_type_of(waves, widened(canvas))
    tensors = plan_tensors("exit_waves_adjoint_probe", plan, positions, waves.shape[-2:], canvas.shape[-2:])
    if out is None:
        probe: Tensor = apply_adjoint_probe(waves, canvas, positions, shared, *tensors)
        return probe
    torch.ops.ptycho.exit_waves_adjoint_probe_out(waves, canvas, positions, shared, tensors[0], out)
    return out
