# SPDX-License-Identifier: BSD-3-Clause
"""What is trained, saved and applied: a generator together with its illumination. Plain torch, no Lightning.

The physics-informed network is closed here: the generator turns patterns into an object canvas, the illumination turns
the canvas back into predicted patterns, and the loss between those and the measured ones needs no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptycho_ext import extract_patches
from ptychopinn.models.registry import build_generator
from ptychopinn.physics.illumination import Illumination
from ptychopinn.physics.positions import PositionOffsets


class PtychoModel(nn.Module):
    """A generator and the illumination it was trained with.

    Args:
        generator: name in the registry.
        options: the generator's own arguments.
        patch_size: detector side N in pixels.
        modes: probe modes M.
        learn_probe: refine the probe during training.
        learn_scale: refine the global intensity scale during training.
        group_size: patterns C of a group, for generators that are built for one number of them.
        patterns: number of scan positions that are refined during training; 0: none.

    The probe is all ones until ``illumination.set_probe``, or until a state dict is loaded.
    """

    good: Tensor

    def __init__(
        self,
        generator: str,
        options: Mapping[str, Any] | None,
        patch_size: int,
        modes: int = 1,
        *,
        learn_probe: bool = False,
        learn_scale: bool = False,
        group_size: int = 1,
        patterns: int = 0,
    ) -> None:
        super().__init__()
        self.generator = build_generator(generator, patch_size, options, group_size)
        probe = torch.ones(modes, patch_size, patch_size, dtype=torch.complex64)
        self.illumination = Illumination(probe, learn_probe=learn_probe, learn_scale=learn_scale)
        self.positions = PositionOffsets(patterns) if patterns else None
        self.register_buffer("good", torch.ones(patch_size, patch_size, dtype=torch.bool))

    @property
    def patch_size(self) -> int:
        """Detector side N in pixels."""
        return self.illumination.lanes.shape[-2]

    @property
    def modes(self) -> int:
        """Probe modes M."""
        return self.illumination.lanes.shape[0]

    @property
    def patterns(self) -> int:
        """Scan positions that are refined; 0 if none."""
        return 0 if self.positions is None else len(self.positions.free)

    def forward(
        self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor | None = None
    ) -> Tensor:
        """Object canvases (B, H, W), complex, of groups of patterns; see :meth:`Generator.forward`.

        Args:
            probe: complex (M, N, N), to use instead of the model's own.
        """
        return self.generator(counts, positions, canvas_size, self.illumination.unscaled if probe is None else probe)

    def refine(self, positions: Tensor, members: Tensor) -> Tensor:
        """Positions (B, C, 2) of patterns ``members`` (B, C) with the learned offsets, if there are any."""
        return positions if self.positions is None else self.positions(positions, members)

    def predict_counts(self, canvases: Tensor, positions: Tensor) -> Tensor:
        """Predicted patterns (B, C, N, N), in counts and FFT order, of canvases (B, H, W) at positions (B, C, 2)."""
        return self.illumination(extract_patches(canvases, positions, self.patch_size))
