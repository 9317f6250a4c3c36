# SPDX-License-Identifier: BSD-3-Clause
"""Separable spectral convolution: every frequency of a row, and of a column, has its own matrix between channels.

Each axis alone is transformed, its lowest frequencies are multiplied by learned complex matrices, and the sum of both
axes is returned: filters as long as the image, with far fewer weights than one matrix for each pair of frequencies.
Only a few frequencies are kept, so the transforms are products with small matrices of cosines and sines: of any size,
real throughout (hence safe in bfloat16), and captured without plans of an FFT. Shared by ffno.py and sru_net.py.

Source: A. Tran et al., Factorized Fourier Neural Operators, ICLR 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ptychopinn.models.registry import ON_CPU


class SpectralConvolution(nn.Module):
    """Sum of one spectral convolution along y and one along x, for features with channels last.

    Args:
        width: channels of input and output.
        size: side of the features, pixels.
        modes: frequencies that are kept, from zero on; at most size / 2.
    """

    forth: Tensor
    back: Tensor

    def __init__(self, width: int, size: int, modes: int) -> None:
        super().__init__()
        modes = min(modes, size // 2)
        self.axes = nn.ModuleList(_ModeMatrices(modes, width) for _ in range(2))
        angle = 2 * math.pi / size * torch.outer(torch.arange(modes, device="cpu"), torch.arange(size, device="cpu"))
        transform = torch.stack([torch.cos(angle), -torch.sin(angle)], 1).float() / math.sqrt(size)
        twice = torch.full((modes, 1, 1), 2.0, **ON_CPU)  # the negative frequencies of a real signal
        twice[0] = 1.0
        # They follow from the size, and so are not saved: weights of one size serve another.
        self.register_buffer("forth", transform, persistent=False)
        self.register_buffer("back", twice * transform, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features (n, size, size, width) along both axes."""
        rows: Tensor = self._along_rows(features, self.axes[1])
        columns = self._along_rows(features.transpose(1, 2), self.axes[0]).transpose(1, 2)
        return rows + columns

    def _along_rows(self, features: Tensor, matrices: nn.Module) -> Tensor:
        count, height, size, width = features.shape
        modes = len(self.forth)
        rows = features.reshape(count * height, size, width)
        spectrum = torch.matmul(self.forth.view(2 * modes, size), rows).view(-1, modes, 2 * width).transpose(0, 1)
        mixed = torch.bmm(spectrum, matrices().to(spectrum.dtype)).transpose(0, 1).reshape(-1, 2 * modes, width)
        return torch.matmul(self.back.view(2 * modes, size).t(), mixed).view(count, height, size, width)


class _ModeMatrices(nn.Module):
    """Complex matrices (modes, width, width) between channels, as real ones (modes, 2 width, 2 width)."""

    def __init__(self, modes: int, width: int) -> None:
        super().__init__()
        self.real = nn.Parameter(torch.randn(modes, width, width, **ON_CPU) * (2 * width) ** -0.5)
        self.imaginary = nn.Parameter(torch.randn(modes, width, width, **ON_CPU) * (2 * width) ** -0.5)

    def forward(self) -> Tensor:
        upper = torch.cat([self.real, self.imaginary], -1)
        lower = torch.cat([-self.imaginary, self.real], -1)
        return torch.cat([upper, lower], -2)
