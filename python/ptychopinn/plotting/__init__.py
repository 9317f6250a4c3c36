# SPDX-License-Identifier: BSD-3-Clause
"""Figures of scans, reconstructions, refinements and training runs, as PNG files.

They use matplotlib's object-oriented interface and the Agg canvas: no global state, no display, safe in threads; files
are replaced atomically.
"""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules
from ptychopinn.plotting.reconstructions import plot_comparison, plot_reconstruction
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.plotting.training import plot_training

__all__ = ["plot_comparison", "plot_reconstruction", "plot_scan_overview", "plot_training"]

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
