# SPDX-License-Identifier: BSD-3-Clause
"""Former place of :mod:`ptychopinn.io.subset`."""

from ptychopinn._former import handed_on

__getattr__ = handed_on("ptychopinn.data.subset", "ptychopinn.io.subset")
