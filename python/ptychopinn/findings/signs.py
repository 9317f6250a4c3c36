# SPDX-License-Identifier: BSD-3-Clause
"""Signs of what the plain forward model lacks, in the counts alone; the rules that judge them are in effect_rules.py.

Photons are independent and have a variance of their mean; radiation that a sample scatters changes from pattern to
pattern, as speckle, and a background does not. The pattern of a limited exit wave has a limited autocorrelation, beyond
which there is noise alone. What a model is needed for is tried in `ptychopinn.diagnosis`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ptychopinn._one_line import one_line
from ptychopinn.findings.centre import pattern_of_probe
from ptychopinn.findings.measure import PatternStatistics
from ptychopinn.scan import Scan

#: Largest number of counts that are read, and fewest patterns that tell anything.
_COUNTS, _PATTERNS = 1 << 20, 16
#: Total counts of a pattern that is used, relative to the median.
_USABLE = (0.1, 5.0)
#: Similarity of mean pattern and probe from which the detector is in the far field, and pixels that are not corners.
ALIKE, _CORNERS = 0.6, 0.95
#: Fraction of the pixels that are the darkest.
_DARKEST = 0.1
#: Rings of spatial frequency, cycles per pixel, where patterns have noise only: an exit wave is narrower than these.
_RINGS = ((0.5, 0.55), (0.55, 0.6), (0.6, 0.65), (0.65, 0.71))
#: Largest number of distinct values that are searched for a unit, and the largest one, in that unit.
_VALUES, _LARGEST = 4096, 1e5
#: Pairs of neighbours whose displacement is measured.
_PAIRS = 48


@dataclass(frozen=True)
class Signs:
    """Signs of effects in a sample of the patterns; NaN or 0 where there are too few patterns or counts.

    Attributes:
        dark_counts: mean of the darkest tenth of the pixels.
        dark_part: of all counts, if all pixels had as many.
        dark_contrast: squared contrast from pattern to pattern in single dark pixels, beyond photon noise and a common
            factor: about 1 for scattering, 0 for a background.
        dark_contrast_error: its standard error.
        dark_spread: relative standard deviation from pattern to pattern of the sum of dark pixels, beyond photon noise.
        dark_fano: variance of dark pixels over their mean, without a common factor.
        dark_predicted: what the probe predicts in dark pixels, relative to their mean.
        unit: of which all values are multiples; 0 without one.
        noise: (4,), power of rings of spatial frequency beyond the autocorrelation of an exit wave, relative to that of
            photons.
        moving: fraction of the displacements between neighbouring patterns that one linear map of the difference of
            their positions explains; it and the following where the probe's far field does not look like the patterns.
        motion: (2, 2), that map, from pixels of the object to pixels of the detector.
        corners: the mean pattern in the corners, relative to its median.
        image_similarity: correlation of the root of the mean pattern with the modulus of the probe itself.
    """

    dark_counts: float
    dark_part: float
    dark_contrast: float
    dark_contrast_error: float
    dark_spread: float
    dark_fano: float
    dark_predicted: float
    unit: float
    noise: tuple[float, ...]
    moving: float
    motion: NDArray[np.float64]
    corners: float
    image_similarity: float

    __repr__ = one_line


def measure_signs(scan: Scan, patterns: PatternStatistics) -> Signs:
    """Measure the signs of effects in a sample of the patterns of a scan.

    Args:
        scan: the scan.
        patterns: its statistics; faulty pixels and patterns are omitted.
    """
    median = float(np.median(patterns.intact))
    usable = np.flatnonzero((patterns.intact > _USABLE[0] * median) & (patterns.intact < _USABLE[1] * median))
    good = ~(patterns.masked | patterns.faulty)
    nothing = dict.fromkeys((field.name for field in fields(Signs)), 0.0) | {
        "dark_contrast": math.nan,
        "dark_contrast_error": math.nan,
        "dark_fano": math.nan,
        "dark_predicted": math.nan,
    }
    found: dict[str, Any] = nothing | {"noise": (math.nan,) * len(_RINGS), "motion": np.full((2, 2), np.nan)}
    if len(usable) < _PATTERNS or good.sum() < good.size / 4:
        return Signs(**found)
    most = max(_PATTERNS, _COUNTS // scan.patch_size**2)
    counts = scan.counts[usable[np.linspace(0, len(usable) - 1, min(len(usable), most)).astype(int)]]
    values = np.where(good, counts, 0).astype(np.float64)
    mean = values.mean(0)
    expected = np.roll(pattern_of_probe(scan), [round(shift) for shift in patterns.offset], (0, 1))
    found |= _of_darkest(values, mean, good, expected)
    found |= {"unit": _unit(counts[:, good]), "noise": _noise(values, mean)}
    if patterns.far and patterns.similarity < ALIKE:
        found |= _as_an_image(scan, mean, good)
    return Signs(**found)


def _of_darkest(
    values: NDArray[np.float64], mean: NDArray[np.float64], good: NDArray[np.bool_], expected: NDArray[np.float64]
) -> dict[str, float]:
    darkest = good & (mean <= np.quantile(mean[good], _DARKEST))
    counts = values[:, darkest]
    total, level = float(counts.sum()), float(counts.mean())
    if total <= 0:
        return {}
    by_pattern, by_pixel = counts.sum(1), counts.sum(0)
    common = np.outer(by_pattern, by_pixel) / total
    freedom = (np.count_nonzero(by_pattern) - 1) * (np.count_nonzero(by_pixel) - 1)
    there = common > 0
    fano = float((np.square(counts - common)[there] / common[there]).sum()) / max(freedom, 1)
    relative = by_pattern.var() / by_pattern.mean() ** 2 - max(fano, 0.0) / by_pattern.mean()
    return {
        "dark_counts": level,
        "dark_part": level * float(good.sum()) / float(mean[good].sum()),
        "dark_contrast": (fano - 1) / level,
        "dark_contrast_error": float(np.sqrt((2 + 1 / level) / counts.size)) / level,
        "dark_spread": float(np.sqrt(max(0.0, relative))),
        "dark_fano": fano,
        "dark_predicted": float(expected[darkest].mean()) * float(mean[good].sum() / expected[good].sum()) / level,
    }


def _unit(values: NDArray[np.generic]) -> float:
    """The largest unit of which all values are multiples, 1 for integers without a larger one, 0 without any."""
    if values.dtype.kind == "u":
        flat = values.reshape(-1)
        if np.gcd.reduce(flat[:_VALUES]) == 1:
            return 1.0
        distinct = np.unique(flat)
        return float(np.gcd.reduce(distinct)) if len(distinct) > 2 else 1.0
    distinct = np.unique(values).astype(np.float64)
    if not 2 < len(distinct) <= _VALUES:
        return 0.0
    steps = np.diff(distinct)
    unit = float(steps.min())
    if unit <= 0 or distinct[-1] / unit > _LARGEST:
        return 0.0
    for _ in range(3):  # the smallest difference has the rounding of both; a fit to all values has less
        multiples = np.rint(distinct / unit)
        unit = float((distinct * multiples).sum() / np.square(multiples).sum())
    error = np.abs(distinct / unit - np.rint(distinct / unit)).max()
    return unit if error < 0.02 else 0.0


def _noise(values: NDArray[np.float64], mean: NDArray[np.float64]) -> tuple[float, ...]:
    number, size = len(values), values.shape[-1]
    power = np.zeros((size, size // 2 + 1))
    for rows in np.array_split(np.arange(number), max(1, number * size**2 >> 18)):
        power += np.square(np.abs(np.fft.rfft2(values[rows] - mean))).sum(0)
    power /= (number - 1) * max(float(mean.sum()), 1e-300)
    radius = np.hypot(np.fft.fftfreq(size)[:, np.newaxis], np.fft.rfftfreq(size))
    return tuple(float(power[(radius >= low) & (radius < high)].mean()) for low, high in _RINGS)


def _as_an_image(scan: Scan, mean: NDArray[np.float64], good: NDArray[np.bool_]) -> dict[str, Any]:
    """What tells patterns that are images of the sample from those of the far field."""
    axis = np.arange(len(mean)) - (len(mean) - 1) / 2
    radius = np.hypot(axis[:, np.newaxis], axis)
    corner = good & (radius > np.quantile(radius, _CORNERS))
    median = float(np.median(mean[good]))
    corners = float(np.median(mean[corner])) / median if corner.any() and median > 0 else 0.0
    root, modulus = np.sqrt(mean), np.sqrt(np.square(np.abs(scan.probe.astype(np.complex128))).sum(0))
    norm = float(np.linalg.norm(root) * np.linalg.norm(modulus))
    image = float((root * modulus).sum()) / norm if norm > 0 else 0.0
    moving, motion = _motion(scan, mean, good)
    return {"corners": corners, "image_similarity": image, "moving": moving, "motion": motion}


def _motion(scan: Scan, mean: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """Part of the displacements between neighbouring patterns that a linear map explains, and that map (2, 2)."""
    first = np.unique(np.linspace(0, scan.n - 1, min(_PAIRS, scan.n)).astype(int))
    _, neighbours = KDTree(scan.positions).query(scan.positions[first], k=3)
    pairs = np.array([(k, j) for k, row in zip(first, neighbours, strict=True) for j in row if j != k])
    members, inverse = np.unique(pairs, return_inverse=True)
    size = len(mean)
    window = np.hanning(size + 2)[1:-1]
    inside = good & (mean > 0.05 * mean.max())
    weights = inside * np.outer(window, window)
    relative = np.where(inside, np.asarray(scan.counts[members], np.float64) / np.maximum(mean, 1e-9), 0.0)
    level = (relative * weights).sum((1, 2)) / max(float(weights.sum()), 1e-9)
    spectra = np.fft.rfft2((relative / np.maximum(level, 1e-9)[:, np.newaxis, np.newaxis] - 1) * weights)
    one, other = inverse.reshape(pairs.shape).T
    correlation = np.fft.irfft2(spectra[other] * spectra[one].conj(), s=(size, size))
    peaks = np.stack(np.unravel_index(correlation.reshape(len(pairs), -1).argmax(1), (size, size)), axis=1)
    shifts = (peaks + size / 2) % size - size / 2
    steps = scan.positions[pairs[:, 1]] - scan.positions[pairs[:, 0]]
    if not shifts.any() or np.linalg.matrix_rank(steps) < 2:
        return 0.0, np.full((2, 2), np.nan)
    # By the median, since a wrong peak is anywhere in the pattern.
    matrix = np.linalg.lstsq(steps, shifts, rcond=None)[0]
    for _ in range(3):
        near = np.hypot(*(shifts - steps @ matrix).T)
        kept = near <= max(1.0, float(np.median(near)))
        if np.linalg.matrix_rank(steps[kept]) < 2:
            break
        matrix = np.linalg.lstsq(steps[kept], shifts[kept], rcond=None)[0]
    explained = np.hypot(*(shifts - steps @ matrix).T) <= 1.5
    return float(explained.mean()), matrix.T
