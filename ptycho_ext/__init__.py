# SPDX-License-Identifier: BSD-3-Clause
"""Ptychography's inner loop as PyTorch operators: extract patches, translate images, reassemble overlapping patches.

The public names are here; ``torch.ops.ptycho`` holds the raw operators. Positions are (y, x) in pixels, float64, of a
patch's first sample; samples outside are zero; results are bitwise the same for any number of threads.
"""

from __future__ import annotations

from ptycho_ext._load import load_operators

load_operators()

from ptycho_ext._C import build_info, simd_level  # noqa: E402
from ptycho_ext.canvas import CanvasGeometry  # noqa: E402
from ptycho_ext.ops import (  # noqa: E402
    correct_fields,
    exit_waves,
    exit_waves_adjoint,
    exit_waves_adjoint_probe,
    extract_patches,
    extract_patches_adjoint,
    overlap_project,
    reassemble_patches,
    translate_images,
)
from ptycho_ext.plan import ScanPlan  # noqa: E402

__version__: str = build_info()["version"]

__all__ = [
    "CanvasGeometry",
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
    "reassemble_patches",
    "simd_level",
    "translate_images",
]
