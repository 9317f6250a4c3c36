# SPDX-License-Identifier: BSD-3-Clause
"""A U-Net over single patches: a baseline for other generators.

The input of the network are the initial estimate of a patch (physics/initial_estimate.py), the logarithm of the counts,
the probe's intensity and the mean transmission. The predicted patches are merged on the group's canvas, which imposes
the overlap constraint. All patterns share the weights, so groups of any size are supported.

Source: O. Ronneberger, P. Fischer and T. Brox, MICCAI 2015.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychopinn.models.registry import ON_CPU, Generator, register_generator, with_new_inputs
from ptychopinn.physics.initial_estimate import initial_patches, level_feature, transmission_level
from ptychopinn.physics.overlap import illumination_weight, merge_patches

#: Channels of the input: initial estimate (2), pattern, illumination, mean transmission.
_INPUTS = 5


def _from_earlier_weights(module: UNetGenerator, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Read the weights of earlier versions, without the mean transmission, as the same function."""
    name = f"{prefix}down.0.0.weight"
    if name in state_dict:
        state_dict[name] = with_new_inputs(state_dict[name], _INPUTS, _INPUTS)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    groups = 4 if outputs % 4 == 0 else 1
    layers = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, **ON_CPU),
            nn.GroupNorm(groups, outputs, **ON_CPU),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


@register_generator("unet")
class UNetGenerator(Generator):
    """U-Net with four levels, from every pattern to a patch.

    Args:
        width: channels of the finest level; doubled at every coarser one.
    """

    levels = 4

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(self.levels + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([_INPUTS, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairwise(widths))
        self.leave = nn.Conv2d(width, 2, 3, padding=1, **ON_CPU)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        self.register_load_state_dict_pre_hook(_from_earlier_weights)  # type: ignore[no-untyped-call]

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        groups, members = counts.shape[:2]
        weight = illumination_weight(probe)
        level = transmission_level(counts, weight)[:, None]
        initial = initial_patches(counts, probe) / level
        spectrum = torch.fft.fftshift(torch.log1p(counts), dim=(-2, -1))
        features = torch.stack(
            [
                initial.real,
                initial.imag,
                spectrum / spectrum.amax((-3, -2, -1), keepdim=True).clamp_min(1.0),
                (weight / weight.max()).expand_as(spectrum),
                level_feature(level).expand_as(spectrum),
            ],
            2,
        ).flatten(0, 1)
        correction = self._network(features).to(counts.dtype).unflatten(0, (groups, members))
        patches = level * (initial + torch.complex(*correction.unbind(2)))
        canvas, _ = merge_patches(patches, positions, canvas_size, weight)
        return canvas

    def _network(self, features: Tensor) -> Tensor:
        skips = []
        for index, block in enumerate(self.down):
            features = block(features if index == 0 else F.max_pool2d(features, 2))
            skips.append(features)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            features = block(torch.cat([skip, F.interpolate(features, scale_factor=2.0, mode="nearest")], 1))
        correction: Tensor = self.leave(features)
        return correction
