# SPDX-License-Identifier: BSD-3-Clause
"""The figure of a scan: positions, probe and mean pattern."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.plotting.images import AMPLITUDE_MAP, COUNTS_MAP, CYCLIC_MAP, NO_DATA, PHASE_MAP, draw_image
from ptychopinn.plotting.style import arrange, colour_bar, new_figure, save_figure
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AVERAGED = 1024  # maximum number of patterns in the mean, if they are on disk


def plot_scan_overview(scan: Scan, path: str | Path) -> list[Path]:
    """Draw :func:`scan_figure` into a file.

    Args:
        scan: what to draw.
        path: the PNG file.

    Returns:
        The path written, in a list.
    """
    return [save_figure(scan_figure(scan), Path(path))]


def scan_figure(scan: Scan) -> Figure:
    """Draw a scan's positions, first probe mode and mean diffraction pattern.

    Args:
        scan: what to draw.

    Returns:
        The figure, which a notebook shows; ``figure.savefig(path)`` writes it.
    """
    from matplotlib.colors import LogNorm  # see style.py

    figure = new_figure(9.5, 8.0)
    (positions, amplitude), (phase, pattern) = figure.subplots(2, 2)
    centres = scan.positions + scan.patch_size // 2
    dots = positions.scatter(centres[:, 1], centres[:, 0], c=np.arange(scan.n), s=_dot_area(scan.n), cmap=PHASE_MAP)
    positions.set(aspect="equal", xlabel="x (px)", ylabel="y (px)", title=f"{scan.n} scan positions (patch centres)")
    positions.set_anchor("C")
    positions.invert_yaxis()
    colour_bar(dots, positions, "pattern number")

    mode = scan.probe[0]
    fraction = _power(mode) / _power(scan.probe)
    title = "probe" if scan.modes == 1 else f"probe mode 1 of {scan.modes} ({fraction:.0%} of power)"
    modulus = np.abs(mode)
    bright = modulus > 0.1 * modulus.max()
    common: dict[str, Any] = {"origin": (0, 0), "pixel_size": scan.pixel_size, "coordinates": "px"}
    draw_image(
        amplitude, modulus, label="amplitude (sqrt counts)", limits=(0, None), colour_map=AMPLITUDE_MAP, **common
    )
    amplitude.set_title(title)
    angle = np.where(bright, np.angle(mode), np.nan)
    draw_image(phase, angle, label="phase (rad)", limits=(-math.pi, math.pi), colour_map=CYCLIC_MAP, **common)
    phase.set_title("probe phase (above 10% of peak)")

    mean, averaged = mean_pattern(scan)
    if scan.bad_pixels is not None:
        mean = np.where(scan.bad_pixels, np.nan, mean)
    positive = mean[mean > 0]
    ceiling = float(positive.max()) if positive.size else 1.0
    floor = float(min(np.percentile(positive, 1), ceiling / 10)) if positive.size else 0.1
    shown = pattern.imshow(mean, norm=LogNorm(floor, ceiling, clip=True), cmap=COUNTS_MAP, interpolation="nearest")
    pattern.set(facecolor=NO_DATA, xlabel="column (px)", ylabel="row (px)", title=f"mean {averaged}diffraction pattern")
    colour_bar(shown, pattern, "counts per pattern")
    figure.suptitle(scan.name, parse_math=False)  # "$" of a name begins no formula
    arrange(figure)
    return figure


def mean_pattern(scan: Scan) -> tuple[NDArray[np.float64], str]:
    """The mean pattern, and text for the title if it is that of a sample; a sample saves reading a large file."""
    chosen = np.arange(scan.n)
    if not isinstance(scan.counts, np.ndarray) and scan.n > _AVERAGED:
        chosen = np.unique(np.linspace(0, scan.n - 1, _AVERAGED).astype(np.int64))
    parts = [chosen[part] for part in pattern_blocks((len(chosen), *scan.counts.shape[1:]))]
    total = sum((scan.counts[part].sum(axis=0, dtype=np.float64) for part in parts), start=np.float64(0))
    return np.asarray(total) / len(chosen), f"of {len(chosen)} " if len(chosen) < scan.n else ""


def _dot_area(count: int) -> float:
    return float(np.clip(4000 / count, 2, 40))


def _power(modes: np.ndarray) -> float:
    return float((np.abs(modes) ** 2).sum(dtype=np.float64))
