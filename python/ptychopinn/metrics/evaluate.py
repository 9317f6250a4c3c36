# SPDX-License-Identifier: BSD-3-Clause
"""Scores of a reconstruction against the truth of its scan.

The truth is cropped to the reconstruction's canvas with the canvas origin, so that errors of the coordinates are found:
the remaining shift of the alignment is reported. The compared pixels and the peak are part of the result. Of a thick
sample the product of its slices is compared, which is the truth of a scan and the object of a result. Shared by the
command line and the benchmarks.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.metrics import scores
from ptychopinn.metrics.align import Aligned, align
from ptychopinn.probe_size import probe_diameter
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import atomic_path


def align_to_scan(
    reconstruction: Reconstruction, scan: Scan, *, threshold: float = 0.2, border: int = 12, max_shift: float = 16.0
) -> Aligned:
    """Align a reconstruction with the truth of its scan, on their common, well-illuminated pixels.

    Args:
        reconstruction: object (H, W) on a canvas whose first pixel is at ``origin``.
        scan: a scan with ``truth``, whose pixel [0, 0] is at scan coordinate (0, 0).
        threshold: coverage, see :meth:`Reconstruction.covered`.
        border: pixels trimmed from each side of the compared rectangle.
        max_shift: largest accepted shift per axis, in pixels.

    Returns:
        The aligned pair; ``region`` is in canvas pixels, and ``shift`` is the remaining shift in addition to
        ``origin``, in pixels.

    Raises:
        InputError: the scan has no truth, too few pixels are covered, or canvas and truth do not overlap.
    """
    if scan.truth is None:
        decision = scan.decisions.truth
        found = "the scan has none" if decision is None else f"that of the scan is omitted: {decision.reason}"
        raise InputError(
            f"{scan.name}: evaluation needs a truth (key 'objectGuess' of an NPZ file), and {found}; without one, "
            "ptychopinn refine reports a split-half resolution"
        )
    first = np.round(reconstruction.origin).astype(int)
    low = np.maximum(first, 0)
    high = np.minimum(first + reconstruction.shape, scan.truth.shape)
    if (high <= low).any():
        raise InputError(
            f"{scan.name}: the canvas (origin {reconstruction.origin}, shape {reconstruction.shape}) and the truth "
            f"(origin (0, 0), shape {scan.truth.shape}) do not overlap"
        )
    canvas = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    common = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    aligned = align(
        reconstruction.object[canvas],
        scan.truth[common],
        mask=reconstruction.covered(threshold)[canvas],
        border=border,
        max_shift=max_shift,
    )
    fraction = np.asarray(reconstruction.origin) - first
    shift = np.asarray(aligned.shift) - fraction
    rows, columns = (
        slice(outer.start + inner.start, outer.start + inner.stop)
        for outer, inner in zip(canvas, aligned.region, strict=True)
    )
    return dataclasses.replace(aligned, shift=(float(shift[0]), float(shift[1])), region=(rows, columns))


def evaluate(
    reconstruction: Reconstruction,
    scan: Scan,
    *,
    aligned: Aligned | None = None,
    threshold: float = 0.2,
    border: int = 12,
    max_shift: float = 16.0,
) -> dict[str, Any]:
    """Score a reconstruction against the truth of its scan, after alignment.

    Correlations and errors are given twice: of the images, and of the images after a high-pass whose sigma is the
    probe's radius, because the error of a good reconstruction is mostly a slow phase error. Full scale (``peak``) is
    the 0.5 to 99.5 percentile span of the truth. A plane in the phase is an ambiguity: phases are correlated and
    high-passed without their least-squares planes, so an image without features scores 0 also where the truth has a
    phase ramp. Where the amplitude or the phase of the truth itself is constant, as the phase of a sample that absorbs
    alone, its correlations, SSIM and PSNR are undefined, and the errors are not; where both are constant, the ring
    correlation is undefined too.

    Args:
        reconstruction: object to score.
        scan: its scan, with ``truth``; the scan's probe sets the high-pass.
        aligned: result of :func:`align_to_scan`, to use instead of aligning with the three following arguments.
        threshold: see :func:`align_to_scan`.
        border: see :func:`align_to_scan`.
        max_shift: see :func:`align_to_scan`.

    Returns:
        A dictionary for JSON (None where a score is undefined or infinite)::

            scan        name
            truth       constant_amplitude, constant_phase: of the compared pixels
            region      canvas_rows, canvas_columns: [first, stop) of the compared pixels
            alignment   shift_px (remaining), ramp_rad_per_px, scale_modulus, scale_phase_rad, registered
            high_pass   sigma_px, probe_diameter_px
            amplitude   pearson, rmse, pearson_high_pass, rmse_high_pass, psnr_db, ssim, peak
            phase       the same, in rad
            complex     nmse
            frc         mean, crossing_0.5, crossing_1_7 (units of Nyquist), frequency, correlation,
                        half_period_0.5_m (where the pixel size is known)

    Raises:
        InputError: see :func:`align_to_scan`.

    Example:
        >>> evaluate(reconstruction, scan)["phase"]["pearson"]  # doctest: +SKIP
        0.97
    """
    if aligned is None:
        aligned = align_to_scan(reconstruction, scan, threshold=threshold, border=border, max_shift=max_shift)
    image, truth = aligned.image, aligned.truth
    diameter = probe_diameter(scan.probe)
    sigma = diameter / 2
    levelled = aligned.levelled()
    amplitude, phase = scores.constant_parts(levelled[1])
    frc = scores.frc_figures(*levelled, reconstruction.pixel_size or scan.pixel_size)
    if amplitude and phase:
        frc = {key: [math.nan] * len(value) if key == "correlation" else math.nan for key, value in frc.items()} | {
            "frequency": frc["frequency"]
        }
    metrics: dict[str, Any] = {
        "scan": scan.name,
        "truth": {"constant_amplitude": amplitude, "constant_phase": phase},
        "region": {
            name: [part.start, part.stop]
            for name, part in zip(("canvas_rows", "canvas_columns"), aligned.region, strict=True)
        },
        "alignment": {
            "shift_px": list(aligned.shift),
            "ramp_rad_per_px": list(aligned.ramp),
            "scale_modulus": abs(aligned.scale),
            "scale_phase_rad": math.atan2(aligned.scale.imag, aligned.scale.real),
            "registered": aligned.registered,
        },
        "high_pass": {"sigma_px": sigma, "probe_diameter_px": diameter},
        "amplitude": _real_scores(np.abs(image), np.abs(truth), sigma, lambda amplitude: amplitude, amplitude),
        "phase": _real_scores(*scores.matched_phases(image, truth), sigma, scores.remove_plane, phase),
        "complex": {"nmse": scores.nmse(image, truth)},
        "frc": frc,
    }
    return {key: _jsonable(value) for key, value in metrics.items()}


def write_metrics(metrics: dict[str, Any], path: str | Path) -> Path:
    """Write metrics as JSON, atomically; values that JSON has no notation for (nan, inf) become null.

    Args:
        metrics: the result of :func:`evaluate`, or nested dictionaries, lists and numbers.
        path: destination; missing folders are created.

    Returns:
        The path written.

    Raises:
        InputError: the path is a folder or cannot be written to.
    """
    path = Path(path)
    text = json.dumps(_jsonable(metrics), indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def _real_scores(
    image: np.ndarray, truth: np.ndarray, sigma: float, level: Callable[[np.ndarray], np.ndarray], constant: bool
) -> dict[str, float]:
    """Scores of one part; NaN for what a constant truth leaves undefined."""
    peak = 0.0 if constant else scores.data_range(truth)
    level_image, level_truth = level(image), level(truth)
    fine_image, fine_truth = scores.high_pass(level_image, sigma), scores.high_pass(level_truth, sigma)
    return {
        "pearson": math.nan if constant else scores.pearson(level_image, level_truth),
        "rmse": scores.rmse(image, truth),
        "pearson_high_pass": math.nan if constant else scores.pearson(fine_image, fine_truth),
        "rmse_high_pass": scores.rmse(fine_image, fine_truth),
        "psnr_db": scores.psnr(image, truth, peak),
        "ssim": scores.ssim(image, truth, peak),
        "peak": peak,
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
