# SPDX-License-Identifier: BSD-3-Clause
"""Images in figures: aspect, coordinates, colour bar and scale bar; pixels without data are grey."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ptychopinn.plotting.style import colour_bar, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AMPLITUDE_MAP, PHASE_MAP, CYCLIC_MAP, COUNTS_MAP = "magma", "viridis", "twilight", "inferno"
NO_DATA = "0.8"  # grey of pixels without data
_IMAGE_SIDE = 5.0  # inches of an image's longer side


def draw_image(
    axes: Axes,
    image: np.ndarray,
    *,
    label: str,
    limits: tuple[float | None, float | None],
    colour_map: str,
    origin: tuple[float, float],
    pixel_size: float | None,
    coordinates: str = "scan px",
    scale_bar: bool = True,
) -> None:
    """Draw one image with a colour bar.

    Args:
        axes: where to draw.
        image: (H, W), NaN without data.
        label: of the colour bar.
        limits: of the colours; None: the minimum or maximum of the image.
        colour_map: name in matplotlib.
        origin: (y, x), coordinates of the centre of pixel [0, 0].
        pixel_size: m, for the scale bar; None: the bar is in pixels.
        coordinates: name of the coordinates, for the axis labels.
        scale_bar: whether to draw one.
    """
    height, width = image.shape
    y, x = origin
    extent = (x - 0.5, x + width - 0.5, y + height - 0.5, y - 0.5)
    shown = axes.imshow(image, extent=extent, vmin=limits[0], vmax=limits[1], cmap=colour_map, interpolation="nearest")
    axes.set(facecolor=NO_DATA, xlabel=f"x ({coordinates})", ylabel=f"y ({coordinates})")
    colour_bar(shown, axes, label)
    if scale_bar:
        from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # see style.py

        length, text = _scale_bar(width, pixel_size)
        bar = AnchoredSizeBar(
            axes.transData, length, text, "lower left", pad=0.4, sep=4, color="white", size_vertical=height / 100
        )
        bar.patch.set(facecolor="black", alpha=0.55, linewidth=0)
        axes.add_artist(bar)


def _scale_bar(width: int, pixel_size: float | None) -> tuple[float, str]:
    """Length in pixels and label of a bar of round length, at most a quarter of the width of the image."""
    unit = pixel_size * 1e6 if pixel_size is not None else 1.0
    longest = 0.25 * width * unit
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    return length / unit, f"{length:g} {'px' if pixel_size is None else 'µm'}"


def image_figure(shape: tuple[int, ...], columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels of the aspect of an image of shape (H, W), with space for labels and colour bars."""
    height, width = shape
    side = _IMAGE_SIDE if columns == 1 else 0.64 * _IMAGE_SIDE
    scale = side / max(height, width)
    panel_height, panel_width = max(height * scale, 0.3 * side), max(width * scale, 0.3 * side)
    figure = new_figure(columns * (panel_width + 1.1), rows * (panel_height + 0.3) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.3, "hspace": 0.08})
    return figure, list(grid.ravel())


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of values; for constant values, limits 1 apart around them."""
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)
