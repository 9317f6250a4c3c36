# SPDX-License-Identifier: BSD-3-Clause
"""Measure and show reconstructions: alignment, scores against a truth, figures.

Imports only ``data``; inference, training and the command line import this. Start with :func:`evaluate` for figures
in numbers and :func:`plot_reconstruction` for figures to look at.
"""

from ptychopinn.metrics.align import Aligned, align
from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics
from ptychopinn.metrics.plots import plot_comparison, plot_reconstruction, plot_scan_overview, plot_training

__all__ = [
    "Aligned",
    "align",
    "align_to_scan",
    "evaluate",
    "plot_comparison",
    "plot_reconstruction",
    "plot_scan_overview",
    "plot_training",
    "write_metrics",
]
