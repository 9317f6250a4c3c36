# SPDX-License-Identifier: BSD-3-Clause
"""The operators, one module each: documented function, fake kernel, autograd and vmap around ``torch.ops.ptycho``.

The public functions are the ones named here: they follow the rule for mixed precision on top.
"""

from __future__ import annotations

from ptycho_ext.ops import extract, overlap, reassemble, translate
from ptycho_ext.ops._autocast import autocast_to_float32

extract_patches = autocast_to_float32(extract.extract_patches)
extract_patches_adjoint = autocast_to_float32(extract.extract_patches_adjoint)
translate_images = autocast_to_float32(translate.translate_images)
reassemble_patches = autocast_to_float32(reassemble.reassemble_patches)
overlap_project = autocast_to_float32(overlap.overlap_project)

__all__ = [
    "extract_patches",
    "extract_patches_adjoint",
    "overlap_project",
    "reassemble_patches",
    "translate_images",
]
