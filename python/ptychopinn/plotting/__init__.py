# SPDX-License-Identifier: BSD-3-Clause
"""Every figure of scans, reconstructions and trainings. Start with :func:`plot_reconstruction`."""

from ptychopinn.plotting.reconstructions import plot_comparison, plot_reconstruction, plot_scan_overview, plot_training

__all__ = ["plot_comparison", "plot_reconstruction", "plot_scan_overview", "plot_training"]
