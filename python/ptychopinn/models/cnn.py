# SPDX-License-Identifier: BSD-3-Clause
"""PtychoPINN's convolutional network, implemented from its description: the baseline of the default generator.

An encoder with convolutional block attention, two decoders (amplitude and phase) and, for probes that extend beyond the
central half of a patch, an outer rim at half the resolution. Layers and parameters are those of PtychoPINN, with three
differences: patches are merged with the same weight in numerator and denominator, the rim of the phase has the
activation of a phase, and the rim's channels have no ReLU (a single one had no gradient in half of all trainings). The
inputs are amplitudes, so the network must learn the Fourier inversion.

Sources: Hoidn et al., Sci. Rep. 13, 22789 (2023); Woo et al., ECCV 2018 (the attention block).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychopinn.errors import InputError
from ptychopinn.models.registry import ON_CPU, Generator, register_generator
from ptychopinn.physics.initial_estimate import transmission_level
from ptychopinn.physics.overlap import illumination_weight, merge_patches


@register_generator("cnn")
class CNNGenerator(Generator):
    """Convolutional encoder and two decoders, from every pattern to a patch.

    Args:
        patch_size: N, pixels; set by the scan.
        group_size: C, patterns of a group; set by the configuration.
        width: factor of all channel counts; that of PtychoPINN is 2, with 2.34 million parameters at N = 64.
        object_big: True: the patterns of a group are the channels of one input, which fixes the group size. False: each
            pattern is an input of its own. In both cases the patches are merged on the group's canvas.
        probe_big: True: predict the outer quarter of every patch, too, at half the resolution. False: it is zero.

    Raises:
        InputError: width is below 1, or too small for the group size.
    """

    def __init__(
        self, patch_size: int, group_size: int, width: int = 2, object_big: bool = True, probe_big: bool = True
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"model.options: width must be at least 1, got {width}")
        if object_big:
            self.group_size = group_size
        members = group_size if object_big else 1
        levels = int(math.log2(patch_size // 8))
        widths = [128 * width // 2**level for level in reversed(range(levels))]
        self.encoder = nn.Sequential(*(_Down(a, b) for a, b in pairwise([members, *widths])))
        self.amplitude = _Decoder(widths[-1], width, levels - 1, members, probe_big, nn.SiLU())
        self.phase = _Decoder(widths[-1], width, levels - 1, members, probe_big, _PiTanh())

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        groups, members, size = counts.shape[:3]
        weight = illumination_weight(probe)
        amplitude = torch.fft.fftshift(torch.sqrt(counts), dim=(-2, -1))
        # A mean square of one (Parseval) for each group, so that no statistics of a training set are stored.
        amplitude = amplitude * (size / torch.sqrt(counts.sum((-2, -1)).mean(1).clamp_min(1.0)))[:, None, None, None]
        features = self.encoder(amplitude if self.group_size else amplitude.flatten(0, 1).unsqueeze(1))
        modulus, angle = (
            head(features).to(counts.dtype).reshape(groups, members, size, size)
            for head in (self.amplitude, self.phase)
        )
        level = transmission_level(counts, weight)[:, None]
        # torch.polar has a wrong derivative where the modulus is negative, as the output of SiLU may be.
        patches = level * torch.complex(modulus * torch.cos(angle), modulus * torch.sin(angle))
        canvas, _ = merge_patches(patches, positions, canvas_size, weight)
        return canvas


class _Down(nn.Sequential):
    """Two convolutions, attention, and pooling to half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_convolutions(inputs, outputs), _Attention(outputs), nn.MaxPool2d(2))


class _Decoder(nn.Module):
    """From the encoder's features to ``members`` images of N x N pixels, with an outer region at half resolution."""

    def __init__(self, inputs: int, width: int, ups: int, members: int, probe_big: bool, activation: nn.Module) -> None:
        super().__init__()
        widths = [32 * width * 2**level for level in reversed(range(ups))]
        if widths[-1] <= members:
            raise InputError(f"model.options: width must be above {members // 32} for groups of {members}, got {width}")
        blocks = [_up(a, b, b) for a, b in pairwise([inputs, *widths])]
        blocks[-1][-2] = nn.Identity()  # forward() applies the ReLU, except to the rim's channels
        self.rise = nn.Sequential(*blocks)
        self.inner = widths[-1] - members
        self.centre = nn.Conv2d(self.inner, members, 3, padding=1, **ON_CPU)
        self.rim = (
            nn.Sequential(_up(members, 32 * width, 32 * width), nn.Conv2d(32 * width, members, 3, padding=1, **ON_CPU))
            if probe_big
            else None
        )
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        features = self.rise(features)
        border = features.shape[-1] // 2
        image: Tensor = F.pad(self.activation(self.centre(F.relu(features[:, : self.inner]))), (border,) * 4)
        if self.rim is not None:
            rim = self.activation(self.rim(features[:, self.inner :]))
            image = image + rim - F.pad(rim[..., border:-border, border:-border], (border,) * 4)
        return image


class _Attention(nn.Module):
    """Convolutional block attention: weights of the channels, then of the pixels, from averages and maxima."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, **ON_CPU), nn.ReLU(), nn.Conv2d(hidden, channels, 1, **ON_CPU)
        )
        self.pixels = nn.Conv2d(2, 1, 7, padding=3, **ON_CPU)

    def forward(self, features: Tensor) -> Tensor:
        pooled = self.channels(features.mean((-2, -1), keepdim=True)) + self.channels(
            features.amax((-2, -1), keepdim=True)
        )
        features = features * torch.sigmoid(pooled)
        pooled = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        return features * torch.sigmoid(self.pixels(pooled))


class _PiTanh(nn.Module):
    """``pi tanh(x)``, the activation of a phase."""

    def forward(self, values: Tensor) -> Tensor:
        return math.pi * torch.tanh(values)


def _convolutions(inputs: int, hidden: int, outputs: int | None = None) -> list[nn.Module]:
    outputs = hidden if outputs is None else outputs
    return [
        nn.Conv2d(inputs, hidden, 3, padding=1, **ON_CPU),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 3, padding=1, **ON_CPU),
        nn.ReLU(inplace=True),
    ]


def _up(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolutions(inputs, hidden, outputs), nn.Upsample(scale_factor=2.0, mode="nearest"))
