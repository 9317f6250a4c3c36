# SPDX-License-Identifier: BSD-3-Clause
"""The operators, one module each: public function, fake kernel, autograd and vmap of ``torch.ops.ptycho``."""

from __future__ import annotations

from ptycho_ext.ops.correct import correct_fields
from ptycho_ext.ops.extract import extract_patches, extract_patches_adjoint
from ptycho_ext.ops.overlap import overlap_project
from ptycho_ext.ops.reassemble import reassemble_patches
from ptycho_ext.ops.step import PatternStep, pattern_step, runs_in_cache
from ptycho_ext.ops.translate import translate_images
from ptycho_ext.ops.update import update_canvas
from ptycho_ext.ops.waves import exit_waves, exit_waves_adjoint, exit_waves_adjoint_probe

__all__ = [
    "PatternStep",
    "correct_fields",
    "exit_waves",
    "exit_waves_adjoint",
    "exit_waves_adjoint_probe",
    "extract_patches",
    "extract_patches_adjoint",
    "overlap_project",
    "pattern_step",
    "reassemble_patches",
    "runs_in_cache",
    "translate_images",
    "update_canvas",
]
