# SPDX-License-Identifier: BSD-3-Clause
"""What a notebook shows of scans, results and reports: a small picture, a table, and what is wrong.

The HTML has no scripts and no style sheet, so that notebooks, their exports and documentation show it alike.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm

from ptychopinn.acquisition import energy_in_words
from ptychopinn.findings.finding import Finding
from ptychopinn.findings.geometry import measure_geometry
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.findings.rules import findings_of
from ptychopinn.findings.signs import measure_signs
from ptychopinn.plotting.images import AMPLITUDE_MAP, COUNTS_MAP, NO_DATA, PHASE_MAP
from ptychopinn.plotting.inline import InlineFigure, encoded
from ptychopinn.plotting.reconstructions import shown_images
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.process_settings import own_defaults
from ptychopinn.scan import Scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Counts of a scan up to which it is checked when it is shown, and patterns of the mean that is drawn.
_CHECKED, _AVERAGED = 1 << 27, 64
_DPI = 72
_COLOURS = {"problem": "#c62828", "warning": "#b26a00", "note": "#555"}

#: Rows of a table, a label and a text.
Rows = Iterable[tuple[str, str]]


def block(title: str, rows: Rows, findings: Sequence[Finding] = (), picture: bytes | None = None) -> str:
    """HTML of a title, a picture, a table and findings.

    Args:
        title: in bold.
        rows: of the table.
        findings: below the table, in the colours of their severity.
        picture: a PNG file, or none.
    """
    parts = [f"<div><b>{html.escape(title)}</b></div>"]
    if picture is not None:
        data = base64.b64encode(picture).decode()
        parts.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">')
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(label)}</th><td style="text-align:left">{html.escape(text)}</td>'
        "</tr>"
        for label, text in rows
    )
    parts.append(f"<table>{cells}</table>")
    for finding in findings:
        colour = _COLOURS[finding.severity]
        parts.append(f'<div style="color:{colour}"><b>{finding.severity}</b>: {_sentence(finding)}</div>')
    return f"<div>{''.join(parts)}</div>"


def _sentence(finding: Finding) -> str:
    return html.escape(f"{finding.sentence}: {finding.advice}")


def scan_html(scan: Scan) -> str:
    """HTML of a scan: positions, probe and mean pattern, shapes, units, and what a quick check finds.

    A scan on disk, or one with more than 134 million counts, is not checked; ``ptychopinn.inspect`` does that.

    Args:
        scan: what to show.
    """
    height, width = np.ptp(scan.positions, axis=0) + scan.patch_size
    stored = not isinstance(scan.counts, np.ndarray)
    checked = not stored and scan.n * scan.patch_size**2 <= _CHECKED
    rows = [
        ("patterns", f"{scan.n} of {scan.patch_size} x {scan.patch_size} px, {scan.counts.dtype}"),
        ("probe", f"{scan.modes} mode{'s' if scan.modes > 1 else ''}"),
        ("extent (y, x)", _size(height, width, scan.pixel_size)),
        ("object pixel", _nanometres(scan.pixel_size)),
        energy_in_words(scan.energy, scan.experiment.radiation),
        ("orientation", scan.orientation),
        ("bad pixels", str(0 if scan.bad_pixels is None else int(scan.bad_pixels.sum()))),
        ("known object", "no" if scan.truth is None else f"{scan.truth.shape[0]} x {scan.truth.shape[1]} px"),
        ("memory", f"{scan.counts.nbytes / 1e6:.4g} MB" if isinstance(scan.counts, np.ndarray) else "patterns on disk"),
        *([] if checked else [("check", "not done; ptychopinn.inspect(scan) does it")]),
    ]
    return block(scan.name, rows, _findings(scan) if checked else (), _scan_picture(scan))


def _findings(scan: Scan) -> Sequence[Finding]:
    with own_defaults():
        patterns = measure_patterns(scan)
        geometry, signs = measure_geometry(scan, patterns), measure_signs(scan, patterns)
    return findings_of(patterns, geometry, scan.decisions.measurement, signs, scan.experiment)


def _scan_picture(scan: Scan) -> bytes:
    figure = InlineFigure(7.2, 2.3)
    positions, probe, pattern = figure.subplots(1, 3)
    centres = scan.positions + scan.patch_size // 2
    positions.scatter(centres[:, 1], centres[:, 0], c=np.arange(scan.n), s=3, cmap=PHASE_MAP)
    positions.set(aspect="equal", xticks=[], yticks=[])
    positions.invert_yaxis()
    positions.set_title("positions", fontsize="small")
    _show(probe, np.abs(scan.probe[0]), "probe amplitude", AMPLITUDE_MAP)
    chosen = np.unique(np.linspace(0, scan.n - 1, _AVERAGED).astype(np.int64))
    _show_pattern(pattern, np.asarray(scan.counts[chosen], np.float64).mean(0))
    return encoded(figure, "png", _DPI)


def pattern_picture(mean: np.ndarray) -> bytes:
    """A small PNG file of a mean pattern.

    Args:
        mean: (N, N) counts, NaN without data.
    """
    figure = InlineFigure(2.6, 2.6)
    _show_pattern(figure.subplots(), mean)
    return encoded(figure, "png", _DPI)


def _show_pattern(axes: Axes, mean: np.ndarray) -> None:
    """Show a mean pattern, four decades of it."""
    ceiling = max(float(np.nanmax(mean)), 1e-6)
    axes.imshow(mean, norm=LogNorm(ceiling / 1e4, ceiling, clip=True), cmap=COUNTS_MAP, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor=NO_DATA)
    axes.set_title("mean pattern", fontsize="small")


def reconstruction_html(result: Reconstruction) -> str:
    """HTML of a reconstruction: amplitude and phase, shapes and units.

    Args:
        result: what to show.
    """
    (amplitude, phase, *_), frame, _ = shown_images(result)
    figure = InlineFigure(7.2, 3.2)
    for axes, image in zip(figure.subplots(1, 2), (amplitude, phase), strict=True):
        _show(axes, image.values[frame], image.name, image.colour_map, image.limits)
    modes = "none" if result.probe is None else f"{len(result.probe)} of {result.probe.shape[-1]} px"
    covered = result.covered()
    rows = [
        ("object", f"{_size(*result.shape, result.pixel_size)}, complex64"),
        ("well illuminated", f"{covered.mean():.0%} of the canvas"),
        ("origin (y, x)", f"({result.origin[0]:g}, {result.origin[1]:g}) px"),
        ("object pixel", _nanometres(result.pixel_size)),
        ("probe modes", modes),
        ("patterns", "unknown" if result.positions is None else str(len(result.positions))),
        ("orientation", result.orientation),
        ("refined", "no" if result.refinement is None else "yes"),
    ]
    return block("Reconstruction", rows, picture=encoded(figure, "png", _DPI))


def _show(
    axes: Axes, image: np.ndarray, title: str, colours: str, limits: tuple[float | None, float | None] = (None, None)
) -> None:
    axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor=NO_DATA)
    axes.set_title(title, fontsize="small")


def _size(height: float, width: float, pixel_size: float | None) -> str:
    text = f"{height:.0f} x {width:.0f} px"
    if pixel_size is None:
        return text
    return f"{text} = {1e6 * height * pixel_size:.3g} x {1e6 * width * pixel_size:.3g} µm"


def _nanometres(pixel_size: float | None) -> str:
    return "unknown" if pixel_size is None else f"{1e9 * pixel_size:.4g} nm"
