# SPDX-License-Identifier: BSD-3-Clause
"""Alignment of reconstructions and their scores against a truth; :func:`evaluate` computes all scores."""

from typing import TYPE_CHECKING

from ptychopinn._submodules import submodules
from ptychopinn.metrics.align import Aligned, align
from ptychopinn.metrics.evaluate import align_to_scan, evaluate, write_metrics

__all__ = [
    "Aligned",
    "align",
    "align_to_scan",
    "evaluate",
    "write_metrics",
]

if not TYPE_CHECKING:  # which would then find every name
    __getattr__ = submodules(__name__)
