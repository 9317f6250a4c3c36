# SPDX-License-Identifier: BSD-3-Clause
"""The figure of a diagnosis: residuals over the detector, over the scan and over time, and the trials."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from ptychopinn.diagnosis.result import Diagnosis
from ptychopinn.plotting.style import colour_bar, new_figure, save_figure

_NO_DATA = "0.8"  # grey
_MIN_DOT_AREA, _MAX_DOT_AREA = 2.0, 60.0
#: Residuals of single pixels up to so many standard deviations are shown as photon noise.
_NOISE = 5.0
_WIDTH = 150


def plot_diagnosis(found: Diagnosis, path: str | Path) -> list[Path]:
    """Draw a diagnosis as one figure.

    Args:
        found: the result of :func:`ptychopinn.diagnose`.
        path: the PNG file.

    Returns:
        The path written, in a list.
    """
    figure = new_figure(16.0, 8.6)
    grid = figure.add_gridspec(2, 3, wspace=0.5, hspace=0.36)
    detector, rings, scan, loss, intensity = (
        figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    )
    # Its labels take a part of its cell.
    trials = figure.add_subplot(grid[0, 2].subgridspec(1, 2, width_ratios=(0.5, 1), wspace=0)[1])
    _draw_detector(detector, found)
    _draw_rings(rings, found)
    _draw_trials(trials, found)
    _draw_scan(scan, found)
    _draw_time(loss, intensity, found)
    first = found.causes[0]
    title = f"{found.name}: {found.ratio:.2f} times shot noise. Most likely: {first.title}"
    figure.text(0.5, 0.94, title, ha="center", va="bottom", fontsize="x-large", parse_math=False)
    text = "\n".join(textwrap.wrap(f"Evidence: {first.evidence}.", _WIDTH))
    figure.text(0.1, 0.035, text, va="top", fontsize="medium", parse_math=False)
    return [save_figure(figure, Path(path))]


def _draw_detector(axes: Axes, found: Diagnosis) -> None:
    image = found.residuals.detector
    limit = max(_NOISE, float(np.nanquantile(np.abs(image), 0.995)))
    shown = axes.imshow(image, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
    axes.set(
        facecolor=_NO_DATA, xlabel="column (px)", ylabel="row (px)", title="measured - predicted, over the detector"
    )
    colour_bar(shown, axes, "sum over patterns (standard deviations)")


def _draw_rings(axes: Axes, found: Diagnosis) -> None:
    measured, predicted = found.residuals.radial()
    radius = np.arange(len(measured))
    lowest = max(1e-6, 0.3 * float(min(measured[measured > 0].min(initial=1), predicted[predicted > 0].min(initial=1))))
    axes.semilogy(radius, np.maximum(measured, lowest), label="measured")
    axes.semilogy(radius, np.maximum(predicted, lowest), "--", label="predicted")
    axes.set(xlabel="distance from the zero frequency (px)", ylabel="mean counts of a pixel", title="over rings")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(frameon=False)


def _draw_trials(axes: Axes, found: Diagnosis) -> None:
    trials = found.experiments
    rows: list[tuple[str, float]] = [
        ("the result", trials.result),
        ("probe of the scan, fixed", trials.given_probe),
        ("probe of the result, fixed", trials.probe.before),
        ("probe refined", trials.reference),
        ("and positions", trials.positions.after),
        ("and intensities", trials.intensities.after),
        ("and two modes more", trials.modes.after),
        (f"positions x {trials.scale:.3g}", trials.scaling.after),
        (f"probe defocused {trials.defocus_phase:+.2g} rad", trials.defocus.after),
        ("fixed, and background", trials.background.after),
    ]
    if trials.pixels is not None:
        rows.append(("without a mask", trials.pixels.before))
    names, values = [name for name, _ in rows], np.array([value for _, value in rows])
    lowest = float(values.min())
    colours = ["C1" if place == 0 else "C2" if value < 1.02 * lowest else "0.6" for place, value in enumerate(values)]
    axes.barh(names, values, color=colours)
    axes.axvline(1, color="0.2", linestyle=":", linewidth=1)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, 0.8 * lowest), 3 * float(values.max()))
    ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if 0.5 * lowest < tick < 1.5 * values.max()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    for place, value in enumerate(values):
        axes.text(value * 1.03, place, f"{value:.2f}", va="center", fontsize="small", clip_on=True)
    axes.set(xlabel="loss over noise floor", title=f"trials with {trials.patterns} patterns")


def _draw_scan(axes: Axes, found: Diagnosis) -> None:
    residuals = found.residuals
    ratios = residuals.ratios
    low, high = float(np.quantile(ratios, 0.01)), float(np.quantile(ratios, 0.99))
    area = float(np.clip(1.5e4 / len(ratios), _MIN_DOT_AREA, _MAX_DOT_AREA))
    norm = LogNorm(low, high, clip=True) if 0 < 3 * low < high else Normalize(low, max(high, low + 0.1), clip=True)
    y, x = residuals.positions.T
    dots = axes.scatter(x, y, c=ratios, s=area, cmap="inferno", norm=norm)
    axes.set(facecolor=_NO_DATA, aspect="equal", xlabel="x (scan px)", ylabel="y (scan px)", title="over the scan")
    axes.invert_yaxis()
    colour_bar(dots, axes, "loss over noise floor of each pattern")


def _draw_time(loss: Axes, intensity: Axes, found: Diagnosis) -> None:
    residuals = found.residuals
    loss.plot(residuals.members, residuals.ratios, ".", markersize=3)
    loss.axhline(1, color="0.2", linestyle=":", linewidth=1)
    if residuals.ratios.max() > 10 * residuals.ratios.min() > 0:
        loss.set_yscale("log")
    else:
        loss.set_ylim(0, None)
    loss.set(xlabel="pattern number", ylabel="loss over noise floor", title="over time")
    intensity.plot(residuals.members, residuals.intensities, ".", markersize=3)
    intensity.axhline(1, color="0.2", linestyle=":", linewidth=1)
    intensity.set(xlabel="pattern number", ylabel="measured / predicted counts", title="intensity over time")
    for axes in (loss, intensity):
        axes.grid(alpha=0.3, linewidth=0.5)
