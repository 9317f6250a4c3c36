# SPDX-License-Identifier: BSD-3-Clause
"""Scans in memory and on disk, and how patterns are grouped.

Everything a reconstruction needs is one :class:`~ptychopinn.data.scan.Scan`; the readers convert every file convention
(centres or corners, amplitudes or counts, axis orders) into it, and nothing else in the package converts any.
"""

from ptychopinn.data.scan import Scan

__all__ = ["Scan"]
