# SPDX-License-Identifier: BSD-3-Clause
"""Former place of :mod:`ptychopinn.runtime.processes`."""

from ptychopinn._former import handed_on

__getattr__ = handed_on("ptychopinn.processes", "ptychopinn.runtime.processes")
