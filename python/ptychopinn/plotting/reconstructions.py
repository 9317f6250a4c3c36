# SPDX-License-Identifier: BSD-3-Clause
"""Figures of scans, reconstructions, comparisons and training, as PNG files.

Drawn with matplotlib's object-oriented interface and the Agg canvas only: no global state, no display, safe in worker
threads. Images keep their aspect, carry scan coordinates, a colour bar and a scale bar, and show never-illuminated
pixels in grey. Shared by the command line and the workflows; files are replaced atomically.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.metrics import scores
from ptychopinn.metrics.align import Aligned, fit_ramp, phasor
from ptychopinn.plotting.style import colour_bar, new_figure, save_figure
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

_AMPLITUDE_MAP, _PHASE_MAP, _CYCLIC_MAP, _COUNTS_MAP = "magma", "viridis", "twilight", "inferno"
_UNSEEN = "0.8"  # grey of pixels without data
_AVERAGED = 1024  # patterns at most that a mean is made of if they are on disk
_IMAGE_SIDE = 5.0  # inches of an image's longer side


def plot_reconstruction(
    reconstruction: Reconstruction, folder: str | Path, *, aligned: Aligned | None = None
) -> list[Path]:
    """Draw ``amplitude.png`` and ``phase.png``, with a known truth ``comparison.png`` and ``frc.png``, and the
    ``uncertainty.png`` and ``error_map.png`` of a reconstruction that has them.

    The phase is centred on its median over the covered pixels, and a ramp of more than half a turn across the canvas
    is removed first (neither can be observed; the title says so). It is drawn with a cyclic colour map where it still
    spans nearly a turn. Colours span the 0.5 to 99.5 percentiles of the covered pixels.

    Args:
        reconstruction: what to draw.
        folder: destination of the files; created if missing.
        aligned: the result of ``align_to_scan``, where the scan has a truth.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    illuminated, covered = reconstruction.weights > 0, reconstruction.covered()
    seen = covered if covered.any() else np.ones_like(covered)
    amplitude = reconstruction.amplitude
    phase, note = _centred_phase(reconstruction.object, seen)
    limits, colours = _phase_style(phase[seen])
    written = []
    images = [
        ("amplitude", amplitude, "amplitude", _percentiles(amplitude[seen]), _AMPLITUDE_MAP, ""),
        ("phase", phase, "phase (rad)", limits, colours, note),
    ]
    spread = reconstruction.uncertainty
    if spread is not None:
        images.append(("uncertainty", spread, "standard deviation", _percentiles(spread[seen]), _COUNTS_MAP, ""))
    error = reconstruction.error_map
    if error is not None:
        images.append(("error_map", error, "deviance per detector pixel", _percentiles(error[seen]), _COUNTS_MAP, ""))
    for name, image, label, span, colour_map, title in images:
        figure, (axes,) = _image_figure(reconstruction.shape, 1)
        _draw_image(
            axes,
            np.where(illuminated, image, np.nan),
            label=label,
            limits=span,
            colour_map=colour_map,
            origin=reconstruction.origin,
            pixel_size=reconstruction.pixel_size,
        )
        axes.set_title(title, fontsize="medium")
        written.append(save_figure(figure, folder / f"{name}.png"))
    if aligned is not None:
        written += plot_comparison(aligned, folder, pixel_size=reconstruction.pixel_size)
    return written


def plot_comparison(aligned: Aligned, folder: str | Path, *, pixel_size: float | None = None) -> list[Path]:
    """Draw an aligned reconstruction beside its truth and their error (``comparison.png``), and ``frc.png``.

    Args:
        aligned: the result of ``align`` or ``align_to_scan``.
        folder: destination of the files; created if missing.
        pixel_size: metres per pixel, for the scale bar.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    image_phase, truth_phase = scores.matched_phases(aligned.image, aligned.truth)
    figure, grid = _image_figure(aligned.truth.shape, 3, rows=2)
    for row, (name, image, truth, colour_map) in enumerate(
        (
            ("amplitude", np.abs(aligned.image), np.abs(aligned.truth), _AMPLITUDE_MAP),
            ("phase (rad)", image_phase, truth_phase, _PHASE_MAP),
        )
    ):
        limits = _percentiles(truth)
        error = image - truth
        reach = max(float(np.percentile(np.abs(error), 99)), 1e-6)
        for column, (title, panel, span, colours) in enumerate(
            (
                ("reconstruction", image, limits, colour_map),
                ("truth", truth, limits, colour_map),
                ("reconstruction - truth", error, (-reach, reach), "RdBu_r"),
            )
        ):
            axes = grid[3 * row + column]
            _draw_image(
                axes,
                panel,
                label=name,
                limits=span,
                colour_map=colours,
                origin=(aligned.region[0].start, aligned.region[1].start),
                pixel_size=pixel_size,
                coordinates="canvas px",
                scale_bar=column == 0,
            )
            axes.set_title(title if row == 0 else "")
            axes.label_outer()
    levelled = aligned.levelled()
    frequency, correlation = scores.frc(*levelled)
    label = f"mean {scores.mean_frc(*levelled):.3f}"
    return [
        save_figure(figure, folder / "comparison.png"),
        plot_frc(frequency, correlation, folder / "frc.png", label, pixel_size),
    ]


def plot_scan_overview(scan: Scan, path: str | Path) -> list[Path]:
    """Draw a scan's positions, first probe mode and mean diffraction pattern in one figure.

    Args:
        scan: what to draw.
        path: the PNG file.

    Returns:
        The path written, in a list.
    """
    figure = new_figure(9.5, 8.0)
    (positions, amplitude), (phase, pattern) = figure.subplots(2, 2)
    centres = scan.positions + scan.patch_size // 2
    dots = positions.scatter(centres[:, 1], centres[:, 0], c=np.arange(scan.n), s=_dot_area(scan.n), cmap=_PHASE_MAP)
    positions.set(aspect="equal", xlabel="x (px)", ylabel="y (px)", title=f"{scan.n} scan positions (patch centres)")
    positions.set_anchor("C")
    positions.invert_yaxis()
    colour_bar(dots, positions, "pattern number")

    mode = scan.probe[0]
    share = _power(mode) / _power(scan.probe)
    title = "probe" if scan.modes == 1 else f"probe mode 1 of {scan.modes} ({share:.0%} of power)"
    modulus = np.abs(mode)
    bright = modulus > 0.1 * modulus.max()
    common: dict[str, Any] = {"origin": (0, 0), "pixel_size": scan.pixel_size, "coordinates": "px"}
    _draw_image(
        amplitude, modulus, label="amplitude (sqrt counts)", limits=(0, None), colour_map=_AMPLITUDE_MAP, **common
    )
    amplitude.set_title(title)
    direction = np.where(bright, np.angle(mode), np.nan)
    _draw_image(phase, direction, label="phase (rad)", limits=(-math.pi, math.pi), colour_map=_CYCLIC_MAP, **common)
    phase.set_title("probe phase (above 10% of peak)")

    mean, averaged = _mean_pattern(scan)
    if scan.bad_pixels is not None:
        mean = np.where(scan.bad_pixels, np.nan, mean)
    positive = mean[mean > 0]
    ceiling = float(positive.max()) if positive.size else 1.0
    floor = float(min(np.percentile(positive, 1), ceiling / 10)) if positive.size else 0.1
    shown = pattern.imshow(mean, norm=LogNorm(floor, ceiling, clip=True), cmap=_COUNTS_MAP, interpolation="nearest")
    pattern.set(facecolor=_UNSEEN, xlabel="column (px)", ylabel="row (px)", title=f"mean {averaged}diffraction pattern")
    colour_bar(shown, pattern, "counts per pattern")
    figure.suptitle(scan.name)
    figure.tight_layout()
    return [save_figure(figure, Path(path))]


def _mean_pattern(scan: Scan) -> tuple[NDArray[np.float64], str]:
    """The mean pattern, and of how many if not of all: a picture is not worth reading a large file through."""
    chosen = np.arange(scan.n)
    if not isinstance(scan.counts, np.ndarray) and scan.n > _AVERAGED:
        chosen = np.unique(np.linspace(0, scan.n - 1, _AVERAGED).astype(np.int64))
    parts = [chosen[part] for part in pattern_blocks((len(chosen), *scan.counts.shape[1:]))]
    total = sum((scan.counts[part].sum(axis=0, dtype=np.float64) for part in parts), start=np.float64(0))
    return np.asarray(total) / len(chosen), f"of {len(chosen)} " if len(chosen) < scan.n else ""


def plot_training(history: str | Path | Mapping[str, Sequence[float]], path: str | Path) -> list[Path]:
    """Draw every loss of a training run.

    Args:
        history: Lightning's ``metrics.csv``, or columns by name. Columns with "loss" in their name are drawn, against
            "epoch", or against "step" where a loss was logged more than once an epoch; blanks (nan) are skipped.
        path: the PNG file.

    Returns:
        The path written, in a list.

    Raises:
        InputError: the file is missing or holds no finite loss.
    """
    source = "history" if isinstance(history, Mapping) else str(history)
    columns = dict(history) if isinstance(history, Mapping) else _read_csv(Path(history))
    table = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    losses = {name: v for name, v in table.items() if "loss" in name.lower() and np.isfinite(v).any()}
    if not losses:
        raise InputError(f"{source}: no column with 'loss' in its name holds a number, found columns {sorted(table)}")
    unit = _abscissa(table, losses)
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    for name, values in losses.items():
        x = table[unit] if unit in table else np.arange(len(values))
        present = np.isfinite(values)
        marker = "o" if present.sum() <= 30 else ""
        axes.plot(x[present], values[present], label=name, linewidth=1.4, marker=marker, markersize=3.5)
    if all((v[np.isfinite(v)] > 0).all() for v in losses.values()):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=unit, ylabel="loss")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(frameon=False)
    return [save_figure(figure, Path(path))]


def plot_frc(frequency: np.ndarray, correlation: np.ndarray, path: Path, label: str, pixel_size: float | None) -> Path:
    """Draw a Fourier ring correlation with where it falls below 0.5 and 1/7.

    Args:
        frequency, correlation: as from :func:`scores.frc`; the first ring is not drawn.
        path: the file.
        label: of the curve.
        pixel_size: metres per pixel, for half periods.
    """
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.plot(frequency[1:], correlation[1:], color="C0", linewidth=1.6, label=label)
    for level, name, colour in ((0.5, "0.5", "C1"), (1 / 7, "1/7", "C3")):
        at = scores.crossing(frequency, correlation, level)
        place = "not reached" if at >= 1 else f"at {at:.2f}"
        if at < 1 and pixel_size is not None:
            place += f" ({1e9 * pixel_size / at:.3g} nm half period)"
        axes.axhline(level, color=colour, linestyle="--", linewidth=1, label=f"{name} {place}")
        if at < 1:
            axes.plot(at, level, "o", color=colour, markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="spatial frequency / Nyquist", ylabel="Fourier ring correlation")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small")
    return save_figure(figure, path)


def _draw_image(
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
    """One image with pixel centres at ``origin + index``, nan in grey, a colour bar and, if asked, a scale bar."""
    height, width = image.shape
    y, x = origin
    extent = (x - 0.5, x + width - 0.5, y + height - 0.5, y - 0.5)
    shown = axes.imshow(image, extent=extent, vmin=limits[0], vmax=limits[1], cmap=colour_map, interpolation="nearest")
    axes.set(facecolor=_UNSEEN, xlabel=f"x ({coordinates})", ylabel=f"y ({coordinates})")
    colour_bar(shown, axes, label)
    if scale_bar:
        length, text = _scale_bar(width, pixel_size)
        bar = AnchoredSizeBar(
            axes.transData, length, text, "lower left", pad=0.4, sep=4, color="white", size_vertical=height / 100
        )
        bar.patch.set(facecolor="black", alpha=0.55, linewidth=0)
        axes.add_artist(bar)


def _scale_bar(width: int, pixel_size: float | None) -> tuple[float, str]:
    """Length in pixels and text of a bar of round length, at most a quarter of the image."""
    unit = pixel_size * 1e6 if pixel_size is not None else 1.0
    reach = 0.25 * width * unit
    decade = 10.0 ** math.floor(math.log10(reach))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= reach)
    return length / unit, f"{length:g} {'px' if pixel_size is None else 'µm'}"


def _image_figure(shape: tuple[int, ...], columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure whose panels have the image's aspect, with room for labels and colour bars."""
    height, width = shape
    side = _IMAGE_SIDE if columns == 1 else 0.64 * _IMAGE_SIDE
    scale = side / max(height, width)
    panel_height, panel_width = max(height * scale, 0.3 * side), max(width * scale, 0.3 * side)
    figure = new_figure(columns * (panel_width + 1.1), rows * (panel_height + 0.3) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.3, "hspace": 0.08})
    return figure, list(grid.ravel())


def _centred_phase(image: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, str]:
    """Phase about its median over the seen pixels, without a steep ramp, and the note that says so."""
    note = ""
    ramp = fit_ramp(seen.astype(np.float64), np.where(seen, image, 0))
    if np.abs(ramp * image.shape).max() > np.pi:
        image = image * phasor(image.shape, -ramp)
        note = f"ramp (y, x) = ({ramp[0]:.2g}, {ramp[1]:.2g}) rad/px removed"
    phase = np.angle(image * np.exp(-1j * np.angle(image[seen].sum(dtype=np.complex128))))
    return np.angle(np.exp(1j * (phase - np.median(phase[seen])))), note


def _phase_style(phase: np.ndarray) -> tuple[tuple[float, float], str]:
    low, high = _percentiles(phase)
    return ((-math.pi, math.pi), _CYCLIC_MAP) if high - low > 1.8 * math.pi else ((low, high), _PHASE_MAP)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)


def _dot_area(count: int) -> float:
    return float(np.clip(4000 / count, 2, 40))


def _power(modes: np.ndarray) -> float:
    return float((np.abs(modes) ** 2).sum(dtype=np.float64))


def _read_csv(path: Path) -> dict[str, list[float]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ()) if name is not None}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _abscissa(table: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]) -> str:
    if "epoch" in table:
        logged = [table["epoch"][np.isfinite(values)] for values in losses.values()]
        if "step" not in table or all(len(np.unique(epochs)) == len(epochs) for epochs in logged):
            return "epoch"
    return "step"
