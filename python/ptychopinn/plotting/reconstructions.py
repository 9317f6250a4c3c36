# SPDX-License-Identifier: BSD-3-Clause
"""Figures of a reconstruction and of its comparison with the truth.

Images have scan coordinates, a colour bar and a scale bar. Pixels that were not measured, hardly illuminated or not at
all, are grey; the frame and the colours are those of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ptychopinn.metrics import scores
from ptychopinn.metrics.align import Aligned, fit_ramp, phasor
from ptychopinn.metrics.evaluate import align_to_scan
from ptychopinn.plotting.images import (
    AMPLITUDE_MAP,
    COUNTS_MAP,
    CYCLIC_MAP,
    PHASE_MAP,
    draw_image,
    image_figure,
    percentiles,
)
from ptychopinn.plotting.style import new_figure, save_figure
from ptychopinn.reconstruction import SLICE_MAPS, Reconstruction
from ptychopinn.scan import Scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Illumination from which a pixel is shown, as a fraction of the typical one: below, the object is noise.
_MEASURED = 0.02
_MOST_SLICES, _SLICES_IN_A_ROW = 12, 3
_MARGIN = 0.02  # grey around the measured pixels, as a fraction of their longer side


def plot_reconstruction(
    reconstruction: Reconstruction, folder: str | Path, *, aligned: Aligned | None = None
) -> list[Path]:
    """Draw the amplitude and phase of a reconstruction, and whatever else it has, as PNG files.

    Always ``amplitude.png`` and ``phase.png``; ``error_map.png`` and ``uncertainty.png``, or of amplitude and phase
    ``amplitude_uncertainty.png`` and ``phase_uncertainty.png``, if the reconstruction has them; ``slices.png`` with the
    phases of the slices of a thick sample, of at most twelve, and their standard deviations
    ``slices_amplitude_uncertainty.png`` and ``slices_phase_uncertainty.png``, if it has them; ``comparison.png`` and
    ``frc.png`` with ``aligned``.

    The phase is shown relative to its median over the measured pixels. A ramp of more than pi across the canvas, which
    the patterns do not determine, is removed first and stated in the title. The colour map is cyclic if the phase spans
    nearly 2 pi. Colours span the 0.5 to 99.5 percentiles of the measured pixels, which have at least a fiftieth of the
    typical illumination; the others are grey, and the images end a little outside of the measured ones.

    Args:
        reconstruction: what to draw.
        folder: destination of the files; created if missing.
        aligned: the result of ``align_to_scan``, for a scan with a truth.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    images, frame, origin = shown_images(reconstruction)
    written = []
    for image in images:
        figure, (axes,) = image_figure(image.values[frame].shape, 1)
        _draw(axes, image, frame, origin, reconstruction.pixel_size)
        written.append(save_figure(figure, folder / f"{image.name}.png"))
    if reconstruction.slices is not None:
        written.append(save_figure(slices_figure(reconstruction), folder / "slices.png"))
        for name, label in zip(SLICE_MAPS, ("of the amplitude", "of the phase (rad)"), strict=True):
            if getattr(reconstruction, name) is not None:
                figure = slice_maps_figure(reconstruction, name, f"standard deviation {label}")
                written.append(save_figure(figure, folder / f"{name}.png"))
    if aligned is not None:
        written += plot_comparison(aligned, folder, pixel_size=reconstruction.pixel_size)
    return written


def reconstruction_figure(reconstruction: Reconstruction) -> Figure:
    """Draw amplitude and phase side by side, as :func:`plot_reconstruction` draws them.

    Args:
        reconstruction: what to draw.

    Returns:
        The figure, which a notebook shows; ``figure.savefig(path)`` writes it.
    """
    (amplitude, phase, *_), frame, origin = shown_images(reconstruction)
    figure, panels = image_figure(amplitude.values[frame].shape, 2)
    for axes, image in zip(panels, (amplitude, phase), strict=True):
        _draw(axes, image, frame, origin, reconstruction.pixel_size)
    return figure


def slices_figure(reconstruction: Reconstruction) -> Figure:
    """Draw the phase of every slice of a thick sample, of at most twelve, with its depth.

    Args:
        reconstruction: with slices.

    Returns:
        The figure; phases are shown as :func:`plot_reconstruction` shows that of the object, in common colours.
    """
    assert reconstruction.slices is not None
    shown = _shown(reconstruction)
    chosen = _chosen_slices(reconstruction)
    phases, notes = zip(*(_centred_phase(reconstruction.slices[number], shown) for number in chosen), strict=True)
    limits, colours = _phase_style(np.stack(phases)[:, shown])
    return _draw_slices(reconstruction, phases, notes, "phase (rad)", limits, colours)


def slice_maps_figure(reconstruction: Reconstruction, name: str, label: str) -> Figure:
    """Draw a map of every slice of a thick sample, as :func:`slices_figure` draws their phases.

    Args:
        reconstruction: with slices.
        name: one of ``SLICE_MAPS`` that the reconstruction has.
        label: of the colours.
    """
    values = getattr(reconstruction, name)[_chosen_slices(reconstruction)]
    limits = percentiles(values[:, _shown(reconstruction)])
    return _draw_slices(reconstruction, values, [""] * len(values), label, limits, COUNTS_MAP)


def _shown(reconstruction: Reconstruction) -> np.ndarray:
    """Mask of the measured pixels, of all if none was."""
    measured = reconstruction.covered(_MEASURED)
    return measured if measured.any() else np.ones_like(measured)


def _chosen_slices(reconstruction: Reconstruction) -> np.ndarray:
    """Indices of the slices that are drawn."""
    assert reconstruction.slices is not None
    count = len(reconstruction.slices)
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_SLICES)).round().astype(int))


def _draw_slices(
    reconstruction: Reconstruction,
    images: Sequence[np.ndarray],
    notes: Sequence[str],
    label: str,
    limits: tuple[float, float],
    colours: str,
) -> Figure:
    """Draw images (H, W) of the chosen slices in common colours."""
    assert reconstruction.slices is not None
    measured = reconstruction.covered(_MEASURED)
    frame, origin = _frame(_shown(reconstruction), reconstruction.origin)
    chosen, count = _chosen_slices(reconstruction), len(reconstruction.slices)
    depths = np.cumsum([0.0, *reconstruction.experiment.slice_distances])
    columns = min(len(chosen), _SLICES_IN_A_ROW)
    figure, panels = image_figure(images[0][frame].shape, columns, math.ceil(len(chosen) / columns))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.4 * (len(panels) // columns - 1))
    for panel, (axes, number, values, note) in enumerate(zip(panels, chosen, images, notes, strict=False)):
        title = f"slice {number + 1} of {count}, {depths[number] * 1e6:.4g} µm{note and f'; {note}'}"
        values = np.where(measured, values, np.nan)
        last = (panel + 1) % columns == 0 or panel == len(chosen) - 1
        image = ShownImage("slice", values, label if last else "", limits, colours, title)
        _draw(axes, image, frame, origin, reconstruction.pixel_size)
        if panel % columns:
            axes.set_ylabel("")
        if panel + columns < len(chosen):
            axes.set_xlabel("")
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    figure.subplots_adjust(hspace=0.25)
    return figure


class ShownImage(NamedTuple):
    """An image of a reconstruction (H, W), NaN where it was not measured, and how to draw it."""

    name: str
    values: np.ndarray
    label: str
    limits: tuple[float, float]
    colour_map: str
    title: str


def shown_images(
    reconstruction: Reconstruction,
) -> tuple[list[ShownImage], tuple[slice, slice], tuple[float, float]]:
    """The images of a reconstruction, amplitude and phase first; the part to draw and its origin."""
    measured = reconstruction.covered(_MEASURED)
    shown = measured if measured.any() else np.ones_like(measured)
    frame, origin = _frame(shown, reconstruction.origin)
    amplitude = reconstruction.amplitude
    phase, note = _centred_phase(reconstruction.object, shown)
    limits, colours = _phase_style(phase[shown])
    images = [
        ShownImage("amplitude", amplitude, "amplitude", percentiles(amplitude[shown]), AMPLITUDE_MAP, ""),
        ShownImage("phase", phase, "phase (rad)", limits, colours, note),
    ]
    others = (
        *_uncertainties(reconstruction),
        ("error_map", reconstruction.error_map, "deviance per detector pixel"),
    )
    for name, values, label in others:
        if values is not None:
            images.append(ShownImage(name, values, label, percentiles(values[shown]), COUNTS_MAP, ""))
    return [image._replace(values=np.where(measured, image.values, np.nan)) for image in images], frame, origin


def _uncertainties(reconstruction: Reconstruction) -> list[tuple[str, np.ndarray | None, str]]:
    """Standard deviations to draw: of amplitude and phase, or else of the complex object."""
    if reconstruction.amplitude_uncertainty is None:
        return [("uncertainty", reconstruction.uncertainty, "standard deviation")]
    return [
        ("amplitude_uncertainty", reconstruction.amplitude_uncertainty, "standard deviation of the amplitude"),
        ("phase_uncertainty", reconstruction.phase_uncertainty, "standard deviation of the phase (rad)"),
    ]


def _draw(
    axes: Axes, image: ShownImage, frame: tuple[slice, slice], origin: tuple[float, float], pixel_size: float | None
) -> None:
    draw_image(
        axes,
        image.values[frame],
        label=image.label,
        limits=image.limits,
        colour_map=image.colour_map,
        origin=origin,
        pixel_size=pixel_size,
    )
    axes.set_title(image.title, fontsize="medium")


def plot_comparison(aligned: Aligned, folder: str | Path, *, pixel_size: float | None = None) -> list[Path]:
    """Draw an aligned reconstruction, its truth and their difference (``comparison.png``), and ``frc.png``.

    Args:
        aligned: the result of ``align`` or ``align_to_scan``.
        folder: destination of the files; created if missing.
        pixel_size: m, for the scale bar; None: the bar is in pixels.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    levelled = aligned.levelled()
    frequency, correlation = scores.frc(*levelled)
    label = f"mean {scores.mean_frc(*levelled):.3f}"
    return [
        save_figure(comparison_figure(aligned, pixel_size=pixel_size), folder / "comparison.png"),
        plot_frc(frequency, correlation, folder / "frc.png", label, pixel_size),
    ]


def figure_beside_truth(reconstruction: Reconstruction, scan: Scan) -> Figure:
    """Align a reconstruction to the truth of its scan, and draw :func:`comparison_figure`.

    Args:
        reconstruction: what to draw.
        scan: its scan, with a truth.

    Raises:
        InputError: the scan has no truth, or it does not overlap the reconstruction.
    """
    return comparison_figure(align_to_scan(reconstruction, scan), pixel_size=reconstruction.pixel_size)


def comparison_figure(aligned: Aligned, *, pixel_size: float | None = None) -> Figure:
    """Draw an aligned reconstruction, its truth and their difference, amplitude above phase.

    Args:
        aligned: the result of ``align`` or ``align_to_scan``.
        pixel_size: m, for the scale bar; None: the bar is in pixels.

    Returns:
        The figure, which a notebook shows; ``figure.savefig(path)`` writes it.
    """
    image_phase, truth_phase = scores.matched_phases(aligned.image, aligned.truth)
    figure, grid = image_figure(aligned.truth.shape, 3, rows=2)
    for row, (name, image, truth, colour_map) in enumerate(
        (
            ("amplitude", np.abs(aligned.image), np.abs(aligned.truth), AMPLITUDE_MAP),
            ("phase (rad)", image_phase, truth_phase, PHASE_MAP),
        )
    ):
        limits = percentiles(truth)
        error = image - truth
        limit = max(float(np.percentile(np.abs(error), 99)), 1e-6)
        for column, (title, panel, span, colours) in enumerate(
            (
                ("reconstruction", image, limits, colour_map),
                ("truth", truth, limits, colour_map),
                ("reconstruction - truth", error, (-limit, limit), "RdBu_r"),
            )
        ):
            axes = grid[3 * row + column]
            draw_image(
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
    return figure


def plot_frc(frequency: np.ndarray, correlation: np.ndarray, path: Path, label: str, pixel_size: float | None) -> Path:
    """Draw a Fourier ring correlation and its crossings of 0.5 and 1/7.

    Args:
        frequency: (r,) in units of Nyquist, from :func:`scores.frc`; the first ring is not drawn.
        correlation: (r,) in [0, 1], from :func:`scores.frc`.
        path: the PNG file.
        label: of the curve.
        pixel_size: m, for half periods; None: crossings are in units of Nyquist only.

    Returns:
        The path written.
    """
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.plot(frequency[1:], correlation[1:], color="C0", linewidth=1.6, label=label)
    for level, name, colour in ((0.5, "0.5", "C1"), (1 / 7, "1/7", "C3")):
        at = scores.crossing(frequency, correlation, level)
        crossing = "at Nyquist or beyond" if at >= 1 else f"at {at:.2f}"
        if at < 1 and pixel_size is not None:
            crossing += f" ({1e9 * pixel_size / at:.3g} nm half period)"
        axes.axhline(level, color=colour, linestyle="--", linewidth=1, label=f"{name} {crossing}")
        if at < 1:
            axes.plot(at, level, "o", color=colour, markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="spatial frequency / Nyquist", ylabel="Fourier ring correlation")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small")
    return save_figure(figure, path)


def _frame(shown: np.ndarray, origin: tuple[float, float]) -> tuple[tuple[slice, slice], tuple[float, float]]:
    """Rows and columns of a mask (H, W) with its True pixels and a margin, and the coordinate (y, x) of the first."""
    ends = [np.flatnonzero(shown.any(axis))[[0, -1]] for axis in (1, 0)]
    margin = max(1, round(_MARGIN * max(int(last - first) + 1 for first, last in ends)))
    rows, columns = (
        slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, side))
        for (first, last), side in zip(ends, shown.shape, strict=True)
    )
    return (rows, columns), (origin[0] + rows.start, origin[1] + columns.start)


def _centred_phase(image: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, str]:
    """Phase relative to its median over the shown pixels, without a steep ramp, and a title that states the ramp."""
    note = ""
    ramp = fit_ramp(shown.astype(np.float64), np.where(shown, image, 0))
    if np.abs(ramp * image.shape).max() > np.pi:
        image = image * phasor(image.shape, -ramp)
        note = f"ramp (y, x) = ({ramp[0]:.2g}, {ramp[1]:.2g}) rad/px removed"
    phase = np.angle(image * np.exp(-1j * np.angle(image[shown].sum(dtype=np.complex128))))
    return np.angle(np.exp(1j * (phase - np.median(phase[shown])))), note


def _phase_style(phase: np.ndarray) -> tuple[tuple[float, float], str]:
    low, high = percentiles(phase)
    return ((-math.pi, math.pi), CYCLIC_MAP) if high - low > 1.8 * math.pi else ((low, high), PHASE_MAP)
