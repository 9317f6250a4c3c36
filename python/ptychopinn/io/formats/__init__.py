# SPDX-License-Identifier: BSD-3-Clause
"""The file formats of scans, a module each, which registers what it reads and writes when it is imported."""

from ptychopinn.io.formats import arrays, cxi, nexus, npz, ptychodus, ptyd

__all__ = ["arrays", "cxi", "nexus", "npz", "ptychodus", "ptyd"]
