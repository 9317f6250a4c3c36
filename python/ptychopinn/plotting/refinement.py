# SPDX-License-Identifier: BSD-3-Clause
"""Figures of a refinement: probe modes, deviance, residuals and positions, split-half resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptychopinn.plotting.reconstructions import plot_frc
from ptychopinn.plotting.style import colour_bar, new_figure, save_figure
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

_SHOWN_MODES = 4


def plot_refinement(result: Reconstruction, scan: Scan, folder: str | Path) -> list[Path]:
    """Draw ``probe.png``, ``refinement.png`` and, with a split-half resolution, ``split_half.png``.

    Args:
        result: of :func:`ptychopinn.refine`.
        scan: the scan that was refined, for its positions.
        folder: destination of the files; created if missing.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    written = [_plot_probe(result, folder / "probe.png"), _plot_state(result, scan, folder / "refinement.png")]
    figures = None if result.refinement is None else result.refinement.split_half
    if figures:
        frequency, correlation = np.array(figures["frequency"]), np.array(figures["correlation"])
        label = f"split half, mean {figures['mean']:.3f}"
        written.append(plot_frc(frequency, correlation, folder / "split_half.png", label, result.pixel_size))
    return written


def _plot_probe(result: Reconstruction, path: Path) -> Path:
    assert result.probe is not None
    modes = result.probe[:_SHOWN_MODES]
    powers = np.square(np.abs(result.probe)).sum((1, 2))
    figure = new_figure(3.0 * len(modes) + 0.4, 5.8)
    grid = figure.subplots(2, len(modes), squeeze=False)
    for column, mode in enumerate(modes):
        modulus = np.abs(mode)
        shown = grid[0][column].imshow(modulus, cmap="inferno")
        colour_bar(shown, grid[0][column], "sqrt(counts)")
        grid[0][column].set_title(f"mode {column + 1}: {100 * powers[column] / powers.sum():.1f} %", fontsize="medium")
        phase = np.where(modulus > 0.02 * modulus.max(), np.angle(mode), np.nan)
        shown = grid[1][column].imshow(phase, cmap="twilight", vmin=-np.pi, vmax=np.pi)
        grid[1][column].set_facecolor("0.8")
        colour_bar(shown, grid[1][column], "phase (rad)")
    return save_figure(figure, path)


def _plot_state(result: Reconstruction, scan: Scan, path: Path) -> Path:
    """Draw the deviance of every pass, the residuals over the scan, and the moves of the positions."""
    assert result.positions is not None
    assert result.residuals is not None
    assert result.refinement is not None
    figure = new_figure(15.0, 4.2)
    course, residuals, moves = figure.subplots(1, 3, gridspec_kw={"wspace": 0.4})
    deviance = result.refinement.deviance
    course.semilogy(np.arange(1, len(deviance) + 1), deviance)
    course.set(xlabel="passes over the scan", ylabel="deviance per detector pixel")
    course.grid(alpha=0.3, which="both", linewidth=0.5)

    y, x = result.positions.T
    limits = np.percentile(result.residuals, (1, 99))
    size = float(np.clip(2e4 / len(x), 1, 60))
    shown = residuals.scatter(x, y, c=result.residuals, s=size, cmap="inferno", vmin=limits[0], vmax=limits[1])
    colour_bar(shown, residuals, "deviance per pixel of each pattern")

    step = result.positions - scan.positions
    step = step - step.mean(0)
    length = np.hypot(*step.T)
    if length.max() > 0:
        shown = moves.quiver(
            x, y, step[:, 1], step[:, 0], length, cmap="viridis", angles="xy", scale_units="xy", scale=1
        )
        colour_bar(shown, moves, "move (px)")
    else:
        moves.plot(x, y, ".", markersize=2)
        moves.set_title("positions unchanged", fontsize="medium")
    for axes in (residuals, moves):
        axes.set(xlabel="x (scan px)", ylabel="y (scan px)", aspect="equal")
        axes.invert_yaxis()
    return save_figure(figure, path)
