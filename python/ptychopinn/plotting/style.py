# SPDX-License-Identifier: BSD-3-Clause
"""Figures on the Agg canvas, without global state or a display; files are replaced atomically.

Modules of this folder import matplotlib where they draw: a training or a refinement begins half a second sooner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychopinn.storage.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150

_log = logging.getLogger(__name__)


def drawn(draw: Callable[..., list[Path]], *arguments: Any, **options: Any) -> list[Path]:
    """Call a function that draws a result or its progress: an error becomes a warning, since the work is worth more.

    Args:
        draw: such as :func:`ptychopinn.plotting.plot_reconstruction`.
        *arguments: of it.
        **options: of it.

    Returns:
        The paths that it wrote; none after an error.
    """
    try:
        return draw(*arguments, **options)
    except Exception as error:  # of any kind: a figure must not cost the result its exit code
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("not drawn: %s; results are not affected, and `ptychopinn plot` draws one that is saved", reason)
        return []


class Drawings:
    """Figures that are drawn one after the other on a thread, while the work continues that they show.

    Errors are warnings, as with :func:`drawn`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "drawings")

    def add(self, draw: Callable[..., list[Path]], *arguments: Any) -> None:
        """Draw when the figures before are done; what is drawn must not change any more."""
        self._thread.submit(drawn, draw, *arguments)

    def __enter__(self) -> Drawings:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all figures are drawn; none can be added any more."""
        self._thread.shutdown()


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that a notebook shows; sizes in inches."""
    from ptychopinn.plotting.inline import InlineFigure

    return InlineFigure(width, height)


def arrange(figure: Figure) -> None:
    """Give the axes of a figure room for their labels."""
    from ptychopinn.plotting.inline import one_at_a_time

    with one_at_a_time:
        figure.tight_layout()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically; returns the path."""
    from ptychopinn.plotting.inline import encoded

    # Pillow does not report why a write failed, so the image is made in memory.
    write_bytes(path, encoded(figure, path.suffix.lstrip(".") or "png", _DPI), durable=False)
    return path


def colour_bar(shown: Any, axes: Axes, label: str) -> None:
    """Add a colour bar of the height of the image ``shown`` in ``axes``."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    bar = make_axes_locatable(axes).append_axes("right", size=0.14, pad=0.08)
    axes.figure.colorbar(shown, cax=bar, label=label)
