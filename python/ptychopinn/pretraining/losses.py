# SPDX-License-Identifier: BSD-3-Clause
"""Losses of a training on random scans, by name.

The doses of the batches differ by five orders of magnitude, and so do their losses: all of these take logarithms, with
which the size of a batch's gradient does not depend on its dose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ptycho_ext import exit_waves
from ptychopinn.physics.likelihood import loss_of_fields
from ptychopinn.physics.noise_floor import noise_floor
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.priors import supervised_loss
from ptychopinn.physics.propagation import far_field, mode_intensity
from ptychopinn.pretraining.scans import RandomBatch

_TINY = 1e-12
#: Side of the blocks, of N, over which the low frequencies are averaged.
_BLOCK = 16


def supervised_and_poisson(canvases: Tensor, batch: RandomBatch) -> Tensor:
    """``log(supervised) + log(Poisson) / 2``."""
    error = supervised_loss(canvases, batch.truth, _illumination(batch))
    return torch.log(error.clamp_min(_TINY)) + 0.5 * torch.log(_poisson(canvases, batch)[0].clamp_min(_TINY))


def poisson(canvases: Tensor, batch: RandomBatch) -> Tensor:
    """``log(Poisson)``: the loss of a training on a scan, but for the logarithm."""
    return torch.log(_poisson(canvases, batch)[0].clamp_min(_TINY))


def above_floor(canvases: Tensor, batch: RandomBatch) -> Tensor:
    """``log(1 + Poisson / floor) + log(supervised, of low frequencies) / 2``; the floor is that of photon noise.

    A batch that is explained to its noise no longer contributes, and patterns alone decide on fine detail.
    """
    value, fields = _poisson(canvases, batch)
    floor = noise_floor(mode_intensity(fields.detach()), "poisson")
    block = max(2, batch.counts.shape[-1] // _BLOCK)
    weight = _illumination(batch)
    low, truth = (_averaged(image * weight, block) for image in (canvases, batch.truth))
    error = supervised_loss(low, truth, torch.ones_like(low.real))
    return torch.log1p(value / floor.clamp_min(_TINY)) + 0.5 * torch.log(error.clamp_min(_TINY))


def above_floor_and_supervised(canvases: Tensor, batch: RandomBatch) -> Tensor:
    """``log(1 + Poisson / floor) + log(supervised) / 2``; the floor is that of photon noise.

    At low dose, where most images explain the patterns to their noise, the second term decides.
    """
    value, fields = _poisson(canvases, batch)
    floor = noise_floor(mode_intensity(fields.detach()), "poisson")
    error = supervised_loss(canvases, batch.truth, _illumination(batch))
    return torch.log1p(value / floor.clamp_min(_TINY)) + 0.5 * torch.log(error.clamp_min(_TINY))


#: What is computed of canvases (B, H, W) and their batch, a scalar.
LOSSES: dict[str, Callable[[Tensor, RandomBatch], Tensor]] = {
    "supervised": supervised_and_poisson,
    "poisson": poisson,
    "floor": above_floor,
    "floor and supervised": above_floor_and_supervised,
}


def _poisson(canvases: Tensor, batch: RandomBatch) -> tuple[Tensor, Tensor]:
    """Nats per photon, and the predicted far fields: by the true probe, since a network cannot correct the other."""
    fields = far_field(exit_waves(canvases, batch.positions, batch.true_probe))
    return loss_of_fields("poisson", fields, batch.counts), fields


def _illumination(batch: RandomBatch) -> Tensor:
    return canvas_illumination(illumination_weight(batch.true_probe), batch.positions, batch.canvas_size)


def _averaged(image: Tensor, block: int) -> Tensor:
    """Means of a complex image (B, H, W) over blocks."""
    parts = torch.view_as_real(image).permute(0, 3, 1, 2)
    return torch.view_as_complex(F.avg_pool2d(parts, block, ceil_mode=True).permute(0, 2, 3, 1).contiguous())
