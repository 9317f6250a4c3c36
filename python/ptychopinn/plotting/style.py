# SPDX-License-Identifier: BSD-3-Clause
"""Figures on the Agg canvas, without global state or a display; files are replaced atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1 import make_axes_locatable

from ptychopinn.storage.atomic import atomic_path

_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically; returns the path."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
    return path


def colour_bar(shown: Any, axes: Axes, label: str) -> None:
    """Add a colour bar of the height of the image ``shown`` in ``axes``."""
    bar = make_axes_locatable(axes).append_axes("right", size=0.14, pad=0.08)
    axes.figure.colorbar(shown, cax=bar, label=label)
