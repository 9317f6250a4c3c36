# SPDX-License-Identifier: BSD-3-Clause
"""Pictures of the quality benchmark: reconstructions beside their truths, and what remains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from quality_bench import Picture

from ptychopinn.metrics.scores import matched_phases


def draw(pictures: list[Picture], path: Path) -> None:
    """Draw amplitude, phase and their truths, a row for each picture."""
    figure = Figure(figsize=(11, 2.9 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pictures), 4, squeeze=False)
    for row, (label, aligned) in zip(grid, pictures, strict=True):
        phases = matched_phases(aligned.image, aligned.truth)
        for axes, (image, truth, shown, colours, name) in zip(
            row,
            (
                (np.abs(aligned.image), np.abs(aligned.truth), 0, "gray", "amplitude"),
                (np.abs(aligned.image), np.abs(aligned.truth), 1, "gray", "its truth"),
                (*phases, 0, "viridis", "phase"),
                (*phases, 1, "viridis", "its truth"),
            ),
            strict=True,
        ):
            low, high = np.percentile(truth, (0.5, 99.5))
            axes.imshow((image, truth)[shown], cmap=colours, vmin=low, vmax=max(high, low + 1e-3))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(name, fontsize="small")
        row[0].set_ylabel(label, fontsize="small")
    figure.savefig(path, dpi=80)


def draw_residuals(picture: Picture, folder: Path) -> Path:
    """Draw amplitude and phase of one reconstruction, their truths and residuals, on scales with numbers.

    Returns:
        The PNG, whose name is the first line of the picture's label.
    """
    label, aligned = picture
    figure = Figure(figsize=(11, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(label, fontsize="small")
    parts = (
        ("amplitude", "gray", np.abs(aligned.image), np.abs(aligned.truth)),
        ("phase, rad", "viridis", *matched_phases(aligned.image, aligned.truth)),
    )
    for row, (name, colours, image, truth) in zip(figure.subplots(2, 3), parts, strict=True):
        low, high = np.percentile(truth, (0.5, 99.5))
        high = max(high, low + 1e-3)
        largest = max(float(np.percentile(np.abs(image - truth), 99.5)), 1e-6)
        for axes, (values, title, shown, limits) in zip(
            row,
            (
                (image, name, colours, (low, high)),
                (truth, "truth", colours, (low, high)),
                (image - truth, "residual", "coolwarm", (-largest, largest)),
            ),
            strict=True,
        ):
            drawn = axes.imshow(values, cmap=shown, vmin=limits[0], vmax=limits[1])
            figure.colorbar(drawn, ax=axes, shrink=0.8)
            axes.set_title(title, fontsize="small")
            axes.set_xticks([])
            axes.set_yticks([])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^a-z0-9.]+', '-', label.partition(chr(10))[0].lower()).strip('-')}.png"
    figure.savefig(path, dpi=80)
    return path
