# SPDX-License-Identifier: BSD-3-Clause
"""Generators whose network predicts each patch from its own pattern: inputs, outputs and merging.

The inputs of the network are images of N x N pixels: the amplitudes of the pattern, the intensity of the probe and,
since local filters cannot learn a Fourier inversion, the initial estimate (physics/initial_estimate.py). Its outputs
correct that estimate. The patches are merged on the group's canvas with the illumination as weight. All patterns share
the weights, so groups of any size are supported. Shared by ffno.py and sru_net.py.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychopinn.errors import InputError
from ptychopinn.models.registry import Generator
from ptychopinn.physics.initial_estimate import initial_patches, level_feature, transmission_level
from ptychopinn.physics.overlap import illumination_weight, merge_patches

#: What the two output channels of a network are.
OUTPUTS = ("complex", "polar")

#: Largest modulus of a "polar" patch, relative to the mean transmission, and the smallest relative to that.
_LARGEST, _SMALLEST = 4.0, 1e-3


class PatchGenerator(Generator):
    """Base of generators with a network over single patterns.

    Args:
        estimate: True: the initial estimate is an input, and what the outputs correct. False: the inputs are the
            pattern, the probe and the mean transmission alone, and the outputs correct a uniform object.
        output: "complex": the outputs are added to real and imaginary part. "polar": they change the modulus, which
            is at most four times the mean transmission, and turn the phase by up to pi.

    Attributes:
        inputs: channels of the network's input.

    Raises:
        InputError: `output` is not one of the two.
    """

    def __init__(self, estimate: bool, output: str) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise InputError(f"model.options: output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        self.estimate, self.output = estimate, output
        self.inputs = 5 if estimate else 3

    @abstractmethod
    def network(self, features: Tensor) -> Tensor:
        """Compute two output channels (n, N, N, 2) of `inputs` channels (n, N, N, inputs)."""

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        groups, members, size = counts.shape[:3]
        weight = illumination_weight(probe)
        level = transmission_level(counts, weight)[:, None]
        amplitude = torch.fft.fftshift(torch.sqrt(counts), dim=(-2, -1))
        # A mean square of one for each group; the logarithm, since the central pixels are far above that.
        scale = size / torch.sqrt(counts.sum((-2, -1)).mean(1).clamp_min(1.0))
        amplitude = torch.log1p(amplitude * scale[:, None, None, None])
        inputs = [amplitude, (weight / weight.max()).expand_as(amplitude), level_feature(level).expand_as(amplitude)]
        features = [torch.stack(inputs, -1)]
        if self.estimate:
            initial = initial_patches(counts, probe) / level
            features.append(torch.view_as_real(initial))
        else:
            initial = torch.complex(torch.ones_like(amplitude), torch.zeros_like(amplitude))
        change = self.network(torch.cat(features, -1).flatten(0, 1)).to(counts.dtype).unflatten(0, (groups, members))
        canvas, _ = merge_patches(level * self._corrected(initial, change), positions, canvas_size, weight)
        return canvas

    def _corrected(self, initial: Tensor, change: Tensor) -> Tensor:
        """Patches, complex (B, C, N, N), of initial ones and the network's output, real (B, C, N, N, 2)."""
        if self.output == "complex":
            return initial + torch.view_as_complex(change.contiguous())
        modulus = initial.abs()
        start = torch.logit((modulus / _LARGEST).clamp(_SMALLEST, 1 - _SMALLEST))
        factor = _LARGEST * torch.sigmoid(start + change[..., 0]) / (modulus + _SMALLEST * _LARGEST)
        angle = math.pi * torch.tanh(change[..., 1])
        return initial * torch.complex(factor * torch.cos(angle), factor * torch.sin(angle))


class FeedForward(nn.Sequential):
    """Two pointwise layers with a ReLU between them, for features with channels last.

    Args:
        width: channels of input and output.
        hidden: channels between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(width, hidden, device="cpu", dtype=torch.float32),
            nn.ReLU(),
            nn.Linear(hidden, width, device="cpu", dtype=torch.float32),
        )


def blocks_to_channels(images: Tensor, side: int) -> Tensor:
    """Make the pixels of each block of `side` x `side` the channels of one pixel: (n, H, W, c), channels last."""
    return F.pixel_unshuffle(images.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)


def channels_to_blocks(features: Tensor, side: int) -> Tensor:
    """The inverse of :func:`blocks_to_channels`."""
    return F.pixel_shuffle(features.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
