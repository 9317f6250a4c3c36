# SPDX-License-Identifier: BSD-3-Clause
"""How figures are made and written: the Agg canvas only, no global state, no display; files are replaced atomically."""

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
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
    return path


def colour_bar(shown: Any, axes: Axes, label: str) -> None:
    """A colour bar of the height of its image."""
    place = make_axes_locatable(axes).append_axes("right", size=0.14, pad=0.08)
    axes.figure.colorbar(shown, cax=place, label=label)
