# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch operators for ptychography: extraction, translation and reassembly of patches, exit waves, likelihoods.

This module has the public functions; ``torch.ops.ptycho`` has the raw operators. Positions are the canvas coordinates
(y, x), float64, in pixels, of a patch's first sample. Samples outside of the canvas are zero. Results are bitwise the
same for any number of threads.
"""

from __future__ import annotations

from ptycho_ext._load import load_operators

load_operators()

from ptycho_ext._C import build_info, simd_level  # noqa: E402
from ptycho_ext.canvas import CanvasGeometry  # noqa: E402
from ptycho_ext.ops import (  # noqa: E402
    PatternStep,
    correct_fields,
    exit_waves,
    exit_waves_adjoint,
    exit_waves_adjoint_probe,
    extract_patches,
    extract_patches_adjoint,
    overlap_project,
    pattern_step,
    reassemble_patches,
    runs_in_cache,
    translate_images,
    update_canvas,
)
from ptycho_ext.plan import ScanPlan  # noqa: E402

__version__: str = build_info()["version"]

__all__ = [
    "CanvasGeometry",
    "PatternStep",
    "ScanPlan",
    "__version__",
    "build_info",
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
    "simd_level",
    "translate_images",
    "update_canvas",
]
