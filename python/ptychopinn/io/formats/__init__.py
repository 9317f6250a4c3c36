# SPDX-License-Identifier: BSD-3-Clause
"""File formats of scans; each module registers its formats when it is imported."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules
from ptychopinn.io.formats import arrays, cxi, eiger, emd, live, nexus, npz, ptychodus, ptyd, rosettasciio, tiff, velox

__all__ = [
    "arrays",
    "cxi",
    "eiger",
    "emd",
    "live",
    "nexus",
    "npz",
    "ptychodus",
    "ptyd",
    "rosettasciio",
    "tiff",
    "velox",
]

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
