# SPDX-License-Identifier: BSD-3-Clause
"""The physics-informed model that is trained, saved and applied: a generator and its illumination.

The generator reconstructs an object canvas from patterns, the illumination predicts the patterns of that canvas, and
the loss between predicted and measured patterns needs no labels. Plain torch, no Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptycho_ext import exit_waves, extract_patches
from ptychopinn.models.registry import build_generator
from ptychopinn.physics.illumination import Illumination
from ptychopinn.physics.positions import PositionOffsets
from ptychopinn.physics.propagation import far_field


class PtychoModel(nn.Module):
    """A generator, the illumination it is trained with, and optionally learned positions.

    Args:
        generator: name in the registry.
        options: options of the generator (see :func:`build_generator`).
        patch_size: detector side N in pixels.
        modes: probe modes M.
        learn_probe: refine the probe during training.
        learn_scale: refine the global intensity scale during training.
        group_size: patterns C of a group, for generators that support one group size only.
        patterns: number of scan positions that are refined during training; 0: none.

    Raises:
        InputError: see :func:`build_generator`.

    Parameters are float32 on the CPU, whatever the default device and type of torch.
    The probe is all ones until ``illumination.set_probe`` is called or a state dict is loaded.
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
        probe = torch.ones(modes, patch_size, patch_size, dtype=torch.complex64, device="cpu")
        self.illumination = Illumination(probe, learn_probe=learn_probe, learn_scale=learn_scale)
        self.positions = PositionOffsets(patterns) if patterns else None
        #: Whether paths and sources of an experiment are for the network more modes of the probe, see PlainInputs.
        self.exposure_modes = False
        self.register_buffer("good", torch.ones(patch_size, patch_size, dtype=torch.bool, device="cpu"))

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
        """Reconstruct object canvases (B, H, W), complex, of groups of patterns; see :meth:`Generator.forward`.

        Args:
            counts: real, (B, C, N, N), FFT order.
            positions: float64, (B, C, 2), (y, x) on the group's canvas.
            canvas_size: (H, W) pixels.
            probe: complex, (M, N, N), in sqrt(counts); None: the model's.
        """
        probe = self.illumination.unscaled if probe is None else probe
        canvases: Tensor = self.generator(counts, positions, canvas_size, probe)
        return canvases

    def refine(self, positions: Tensor, members: Tensor, free: Tensor | None = None) -> Tensor:
        """Add the learned offsets, if any, of patterns ``members`` (B, C) to their positions (B, C, 2).

        See :meth:`PositionOffsets.forward`.
        """
        if self.positions is None:
            return positions
        refined: Tensor = self.positions(positions, members, free)
        return refined

    def predict_counts(self, canvases: Tensor, positions: Tensor) -> Tensor:
        """Predict patterns (B, C, N, N), in counts and FFT order, of canvases (B, H, W) at positions (B, C, 2)."""
        counts: Tensor = self.illumination(extract_patches(canvases, positions, self.patch_size))
        return counts

    def predict_fields(self, canvases: Tensor, positions: Tensor) -> Tensor:
        """Predict the far fields (B, C, M, N, N), in sqrt(counts) and FFT order, whose intensity are the patterns.

        Arguments as for :meth:`predict_counts`.
        """
        return far_field(exit_waves(canvases, positions, self.illumination.probe))
