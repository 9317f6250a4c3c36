# SPDX-License-Identifier: BSD-3-Clause
"""The figure of an inspection: positions, mean pattern, counts of every pattern, probe, orientations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Circle

from ptychopinn.inspection.result import Inspection
from ptychopinn.plotting.style import colour_bar, new_figure, save_figure
from ptychopinn.scan import Scan

_NO_DATA = "0.8"  # grey
_MIN_DOT_AREA, _MAX_DOT_AREA = 2.0, 40.0


def plot_inspection(scan: Scan, inspection: Inspection, path: str | Path) -> list[Path]:
    """Draw an inspection as one figure.

    Args:
        scan: the scan that was inspected.
        inspection: the result of :func:`inspect_scan` for it.
        path: the PNG file.

    Returns:
        The path written, in a list.
    """
    figure = new_figure(15.5, 8.4)
    (positions, pattern, totals), (amplitude, phase, scores) = figure.subplots(
        2, 3, gridspec_kw={"wspace": 0.62, "hspace": 0.36}
    )
    _draw_positions(positions, scan, inspection)
    _draw_pattern(pattern, inspection)
    _draw_totals(totals, inspection)
    _draw_probe(amplitude, phase, scan, inspection)
    _draw_scores(scores, inspection)
    lines = [f"{finding.severity}: {finding.sentence}" for finding in inspection.findings] or ["no findings"]
    figure.text(0.5, 0.94, scan.name, ha="center", va="bottom", fontsize="x-large", parse_math=False)
    figure.text(0.1, 0.045, "\n".join(lines), va="top", fontsize="medium", wrap=False)
    return [save_figure(figure, Path(path))]


def _draw_positions(axes: Axes, scan: Scan, inspection: Inspection) -> None:
    centres = scan.positions + scan.patch_size // 2
    axes.plot(centres[:, 1], centres[:, 0], color="0.75", linewidth=0.5, zorder=1)
    area = float(np.clip(4000 / scan.n, _MIN_DOT_AREA, _MAX_DOT_AREA))
    dots = axes.scatter(centres[:, 1], centres[:, 0], c=np.arange(scan.n), s=area, cmap="viridis", zorder=2)
    first = centres[0] + np.array(inspection.geometry.probe_offset)
    axes.add_patch(Circle((first[1], first[0]), inspection.geometry.diameter / 2, fill=False, edgecolor="C3", zorder=3))
    axes.set(aspect="equal", xlabel="x (px)", ylabel="y (px)", title="patch centres, and the probe at the first")
    axes.invert_yaxis()
    colour_bar(dots, axes, "pattern number")


def _draw_pattern(axes: Axes, inspection: Inspection) -> None:
    patterns = inspection.patterns
    mean = np.where(patterns.masked, np.nan, patterns.mean)
    positive = mean[(mean > 0) & ~patterns.suspects]
    ceiling = float(positive.max()) if positive.size else 1.0
    floor = float(min(np.percentile(positive, 1), ceiling / 10)) if positive.size else 0.1
    shown = axes.imshow(mean, norm=LogNorm(floor, ceiling, clip=True), cmap="inferno", interpolation="nearest")
    y, x = (patterns.size // 2 + shift for shift in patterns.offset)
    if patterns.far:
        axes.plot(x, y, "+", color="cyan", markersize=11)
    suspects = np.argwhere(patterns.suspects)
    axes.plot(suspects[:, 1], suspects[:, 0], "s", color="lime", markerfacecolor="none", markersize=6)
    axes.set(facecolor=_NO_DATA, xlabel="column (px)", ylabel="row (px)", title="mean pattern, + zero frequency")
    colour_bar(shown, axes, "counts per pattern")


def _draw_totals(axes: Axes, inspection: Inspection) -> None:
    totals = inspection.patterns.totals
    axes.plot(np.arange(len(totals)), totals, ".", markersize=3)
    saturated = inspection.patterns.saturated
    axes.plot(saturated, totals[saturated], "x", color="C3", markersize=5)
    axes.set(xlabel="pattern number", ylabel="counts", title="photons in each pattern", ylim=(0, None))
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))
    axes.grid(alpha=0.3, linewidth=0.5)


def _draw_probe(amplitude: Axes, phase: Axes, scan: Scan, inspection: Inspection) -> None:
    mode = scan.probe[int(np.argmax(np.square(np.abs(scan.probe)).sum((1, 2))))]
    modulus = np.abs(mode)
    shown = amplitude.imshow(modulus, cmap="magma", interpolation="nearest")
    y, x = (scan.patch_size // 2 + shift for shift in inspection.geometry.probe_offset)
    amplitude.add_patch(Circle((x, y), inspection.geometry.diameter / 2, fill=False, edgecolor="white", linestyle="--"))
    name = "probe" if scan.modes == 1 else f"strongest of {scan.modes} probe modes"
    amplitude.set(xlabel="x (px)", ylabel="y (px)", title=f"{name}, circle with 90 % of the intensity")
    colour_bar(shown, amplitude, "amplitude (sqrt counts)")
    bright = np.where(modulus > 0.1 * modulus.max(), np.angle(mode), np.nan)
    shown = phase.imshow(bright, cmap="twilight", vmin=-np.pi, vmax=np.pi, interpolation="nearest")
    phase.set(facecolor=_NO_DATA, xlabel="x (px)", ylabel="y (px)", title="phase (above 10 % of the maximum)")
    colour_bar(shown, phase, "phase (rad)")


def _draw_scores(axes: Axes, inspection: Inspection) -> None:
    report = inspection.orientation
    axes.set_title("deviance of each orientation")
    if report is None:
        axes.text(0.5, 0.5, "not checked", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    names = list(report.scores)
    pair = (report.best, report.twin)
    colours = ["C2" if name in pair else "0.6" for name in names]
    axes.barh(names, list(report.scores.values()), color=colours)
    axes.invert_yaxis()
    axes.set(xlabel="deviance per detector pixel")
    axes.grid(alpha=0.3, linewidth=0.5, axis="x")
