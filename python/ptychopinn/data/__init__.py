# SPDX-License-Identifier: BSD-3-Clause
"""Former place of :class:`ptychopinn.scan.Scan`, and of what :mod:`ptychopinn.io` and its neighbours hold now."""

from ptychopinn._former import handed_on

__getattr__ = handed_on("ptychopinn.data", "ptychopinn.scan", "subset")
