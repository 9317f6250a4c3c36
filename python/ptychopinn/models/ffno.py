# SPDX-License-Identifier: BSD-3-Clause
"""Factorised Fourier neural operator over single patches.

Every layer is a spectral convolution along each axis and a pointwise feed-forward network, with a residual connection
around both. The filters are as long as the patch, so information crosses it in one layer, as it does on a detector.
Inputs and outputs are those of patches.py.

Source: A. Tran, A. Mathews, L. Xie and C. S. Ong, Factorized Fourier Neural Operators, ICLR 2023.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ptychopinn.errors import InputError
from ptychopinn.models.patches import FeedForward, PatchGenerator, blocks_to_channels, channels_to_blocks
from ptychopinn.models.registry import ON_CPU, register_generator, require_positive, zeroed
from ptychopinn.models.spectral import SpectralConvolution


@register_generator("ffno")
class FFNOGenerator(PatchGenerator):
    """Factorised Fourier neural operator, from every pattern to a patch.

    Args:
        patch_size: N, pixels; set by the scan.
        width: channels of the features.
        layers: spectral layers.
        modes: frequencies along each axis; at most half of the features' side.
        block: side of the blocks of pixels that are the channels of one pixel of the features; 1: full resolution.
        local: True: layers have a 3 x 3 convolution of every channel, too, for the frequencies that are not kept.
        estimate: see :class:`~ptychopinn.models.patches.PatchGenerator`.
        output: "complex" or "polar", as there.

    Raises:
        InputError: an option is out of its range.
    """

    def __init__(
        self,
        patch_size: int,
        width: int = 32,
        layers: int = 4,
        modes: int = 16,
        block: int = 2,
        local: bool = True,
        estimate: bool = True,
        output: str = "complex",
    ) -> None:
        super().__init__(estimate, output)
        require_positive(width=width, layers=layers, modes=modes)
        if block not in (1, 2, 4):
            raise InputError(f"model.options: block must be 1, 2 or 4, got {block}")
        self.block = block
        self.enter = nn.Conv2d(self.inputs * block**2, width, 3, padding=1, **ON_CPU)
        self.layers = nn.ModuleList(_Layer(width, patch_size // block, modes, local) for _ in range(layers))
        self.leave = zeroed(nn.Conv2d(width, 2 * block**2, 3, padding=1, **ON_CPU))

    def network(self, features: Tensor) -> Tensor:
        features = _convolved(self.enter, blocks_to_channels(features, self.block))
        for layer in self.layers:
            features = layer(features)
        return channels_to_blocks(_convolved(self.leave, F.relu(features)), self.block)


class _Layer(nn.Module):
    """``x + feed_forward(spectral(x) + local(x))``, channels last."""

    def __init__(self, width: int, size: int, modes: int, local: bool) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, size, modes)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width, **ON_CPU) if local else None
        self.mix = FeedForward(width, 2 * width)

    def forward(self, features: Tensor) -> Tensor:
        mixed = self.spectral(features)
        if self.local is not None:
            mixed = mixed + _convolved(self.local, features)
        added: Tensor = features + self.mix(mixed)
        return added


def _convolved(convolution: nn.Module, features: Tensor) -> Tensor:
    """A convolution of features with channels last."""
    result: Tensor = convolution(features.permute(0, 3, 1, 2))
    return result.permute(0, 2, 3, 1)
