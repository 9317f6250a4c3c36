# SPDX-License-Identifier: BSD-3-Clause
"""U-Net of residual units over single patches, with spectral units at its coarsest level.

Two levels of convolutions lead to a quarter of the resolution, where a unit of a spectral and a local convolution is
applied several times with the same weights, each time with a gain of its own (a recurrent residual network); two levels
lead back, to which the features on the way down are added. Spectral filters see all of the patch, the convolutions its
detail. Inputs and outputs are those of patches.py.

Written from the description of "SRU-Net" in PtychoPINN's studies of neural operators, of which blocks, modes, shared
weights and gains are known; layer counts and widths are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychopinn.models.patches import PatchGenerator
from ptychopinn.models.registry import ON_CPU, register_generator, require_positive, zeroed
from ptychopinn.models.spectral import SpectralConvolution

#: Initial gain of a spectral unit.
_GAIN = 0.1


@register_generator("sru_net")
class SRUNetGenerator(PatchGenerator):
    """Residual U-Net with spectral units, from every pattern to a patch.

    Args:
        patch_size: N, pixels; set by the scan.
        width: channels at full resolution; doubled at half and at a quarter of it.
        units: spectral units at a quarter of the resolution.
        modes: frequencies of these along each axis; at most N / 8.
        shared: True: all spectral units have the same weights.
        estimate: see :class:`~ptychopinn.models.patches.PatchGenerator`.
        output: "complex" or "polar", as there.

    Raises:
        InputError: an option is out of its range.
    """

    def __init__(
        self,
        patch_size: int,
        width: int = 16,
        units: int = 6,
        modes: int = 12,
        shared: bool = True,
        estimate: bool = True,
        output: str = "complex",
    ) -> None:
        super().__init__(estimate, output)
        require_positive(width=width, units=units, modes=modes)
        fine, middle, coarse = width, 2 * width, 4 * width
        self.enter = _convolution(self.inputs, fine)
        self.down = nn.ModuleList([_convolution(fine, middle, stride=2), _convolution(middle, coarse, stride=2)])
        self.before = nn.ModuleList([_Unit(fine), _Unit(middle)])
        self.units = nn.ModuleList(_SpectralUnit(coarse, patch_size // 4, modes) for _ in range(1 if shared else units))
        self.gains = nn.Parameter(torch.full((units,), _GAIN, **ON_CPU))
        self.up = nn.ModuleList([_convolution(middle, fine), _convolution(coarse, middle)])
        self.after = nn.ModuleList([_Unit(fine), _Unit(middle)])
        self.leave = zeroed(_convolution(fine, 2))

    def network(self, features: Tensor) -> Tensor:
        image = F.relu(self.enter(features.permute(0, 3, 1, 2)))
        skips = []
        for unit, down in zip(self.before, self.down, strict=True):
            image = unit(image)
            skips.append(image)
            image = F.relu(down(image))
        for index, gain in enumerate(self.gains.unbind()):
            image = image + gain * self.units[index % len(self.units)](image)
        for unit, up, skip in zip(reversed(self.after), reversed(self.up), reversed(skips), strict=True):
            image = unit(skip + F.interpolate(up(image), scale_factor=2.0, mode="nearest"))
        result: Tensor = self.leave(F.relu(image)).permute(0, 2, 3, 1)
        return result


class _Unit(nn.Module):
    """``x + convolution(relu(convolution(relu(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, image: Tensor) -> Tensor:
        added: Tensor = image + self.second(F.relu(self.first(F.relu(image))))
        return added


class _SpectralUnit(nn.Module):
    """``relu(spectral(x) + convolution(x))``."""

    def __init__(self, width: int, size: int, modes: int) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, size, modes)
        self.local = _convolution(width, width)

    def forward(self, image: Tensor) -> Tensor:
        spectral = self.spectral(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.relu(spectral + self.local(image))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, **ON_CPU)
