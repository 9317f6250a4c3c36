# SPDX-License-Identifier: BSD-3-Clause
"""Measure reconstructions: alignment and scores against a truth. Start with :func:`evaluate`."""

from ptychopinn.metrics.align import Aligned, align
from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics

__all__ = [
    "Aligned",
    "align",
    "align_to_scan",
    "evaluate",
    "write_metrics",
]
