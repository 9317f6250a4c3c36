# SPDX-License-Identifier: BSD-3-Clause
"""File formats of scans; each module registers its formats when it is imported."""

from ptychopinn.io.formats import arrays, cxi, emd, nexus, npz, ptychodus, ptyd, rosettasciio, tiff

__all__ = ["arrays", "cxi", "emd", "nexus", "npz", "ptychodus", "ptyd", "rosettasciio", "tiff"]
