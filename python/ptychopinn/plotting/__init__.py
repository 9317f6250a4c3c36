# SPDX-License-Identifier: BSD-3-Clause
"""Every figure of scans, reconstructions and trainings. Start with :func:`plot_reconstruction`.

Drawn with matplotlib's object-oriented interface and the Agg canvas only: no global state, no display, safe in worker
threads; files are replaced atomically.
"""

from ptychopinn.plotting.reconstructions import plot_comparison, plot_reconstruction
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.plotting.training import plot_training

__all__ = ["plot_comparison", "plot_reconstruction", "plot_scan_overview", "plot_training"]
