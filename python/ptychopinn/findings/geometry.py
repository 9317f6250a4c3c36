# SPDX-License-Identifier: BSD-3-Clause
"""Statistics of the positions and the probe of a scan; the rules that judge them are in rules.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from ptychopinn._one_line import one_line
from ptychopinn.findings.measure import FormerNames, PatternStatistics
from ptychopinn.physics.overlap import accumulate_weight
from ptychopinn.scan import Scan

#: Fraction of the probe's intensity in the circle that defines its diameter.
ENCIRCLED = 0.9
#: Distance, pixels, within which two positions are duplicates.
SAME_POSITION = 1e-3
#: Intensity, relative to the maximum, from which object pixels are illuminated.
_ILLUMINATED = 0.1
#: Largest fraction of the patterns that may be apart from the others and are outliers; more are another field.
_APART = 0.05
#: Imaginary part of a probe, relative to its modulus, below which it is real, up to one phase for all pixels.
_REAL = 1e-3
#: Range of step / diameter of a usual scan, and what is typical.
_USUAL_STEP, TYPICAL_STEP = (0.02, 0.7), 0.2
#: Factors of positions in a wrong unit, and what they then are.
_UNITS = (
    (1e-3, "they are in a unit a thousand times smaller than was read, such as mm for m"),
    (1e-6, "they are in a unit a million times smaller than was read, such as µm for m"),
    (1e-9, "they are in a unit 1e9 times smaller than was read, such as nm for m"),
    (1e3, "they are in a unit a thousand times larger than was read"),
    (1e6, "they are in a unit a million times larger than was read, such as m for µm"),
    (1e9, "they are in a unit 1e9 times larger than was read, such as m for nm"),
)


@dataclass(frozen=True)
class ScanGeometry(FormerNames):
    """Statistics of positions and probe.

    Attributes:
        extent: of the positions, (y, x), pixels.
        canvas: size that contains all patches, (H, W), pixels.
        step: median distance to the nearest neighbour, pixels; 0 for a single pattern.
        duplicates: pairs of patterns at the same position: the first there, and a later one.
        modes: number of probe modes.
        diameter: of the circle about the probe's centre of mass with 90 % of its intensity, pixels.
        probe_offset: of the probe's centre of mass from sample (N//2, N//2), (y, x), on a periodic grid, pixels.
        edge_fraction: fraction of the probe's intensity on the border of its patch, one pixel wide.
        overlap: linear, ``1 - step / diameter``; may be negative.
        oversampling: linear, ``N / diameter``.
        illuminated: number of object pixels with at least a tenth of the maximum illumination.
        dose: total counts of the scan per illuminated pixel.
        transmission: mean counts of a pattern, of intact pixels, without empty patterns and without a background that
            the scan states, relative to the probe's power.
        outliers: indices of patterns far from all others: no path of overlapping patches leads to them.
        farthest: largest distance of an outlier from the other positions, pixels; 0 without outliers.
        dose_spread: standard deviation of the counts between neighbours, relative, beyond photon noise.
        real_probe: whether the probe is real, up to one phase for all pixels.
        scaling: factor by which positions of another unit would fit the probe, None if they fit or none would.
        unit: in words, the unit that this factor implies.
    """

    extent: tuple[float, float]
    canvas: tuple[int, int]
    step: float
    duplicates: list[tuple[int, int]]
    modes: int
    diameter: float
    probe_offset: tuple[float, float]
    edge_fraction: float
    overlap: float
    oversampling: float
    illuminated: int
    dose: float
    transmission: float
    outliers: list[int]
    farthest: float
    dose_spread: float
    real_probe: bool
    scaling: float | None
    unit: str

    __repr__ = one_line


def measure_geometry(scan: Scan, patterns: PatternStatistics) -> ScanGeometry:
    """Compute the statistics of positions and probe of a scan."""
    size = scan.patch_size
    low = scan.positions.min(0)
    extent = np.ptp(scan.positions, axis=0)
    canvas = (int(np.ceil(extent[0])) + size, int(np.ceil(extent[1])) + size)
    tree = KDTree(scan.positions)
    step = median_step(scan.positions)
    outliers, farthest = outlying_positions(scan.positions, size)
    intensity = np.square(np.abs(scan.probe.astype(np.complex128))).sum(0)
    offset = _periodic_centre(intensity)
    diameter = _encircled_diameter(intensity, offset)
    scaling, unit = _fitting_unit(step, diameter, scan.pixel_size)
    illuminated = _count_illuminated(scan, intensity, canvas, low)
    border = intensity.sum() - intensity[1:-1, 1:-1].sum()
    return ScanGeometry(
        extent=(float(extent[0]), float(extent[1])), canvas=canvas, step=step,
        duplicates=_duplicates(tree), modes=scan.modes, diameter=diameter, probe_offset=offset,
        edge_fraction=float(border / intensity.sum()),
        overlap=1 - step / diameter, oversampling=size / diameter,
        illuminated=illuminated, dose=float(patterns.totals.sum()) / illuminated,
        transmission=max(0.0, patterns.mean_intact - _background(scan, patterns)) / float(intensity.sum()),
        outliers=outliers, farthest=farthest,
        dose_spread=_dose_spread(patterns.intact, tree, diameter), real_probe=_is_real(scan.probe),
        scaling=scaling, unit=unit,
    )  # fmt: skip


def _background(scan: Scan, patterns: PatternStatistics) -> float:
    """Counts of a mean pattern, on intact pixels, that the scan states as background."""
    background, factors = scan.experiment.background, scan.experiment.background_factors
    if background is None:
        return 0.0
    intact = ~(patterns.masked | patterns.suspects)
    return float(background[intact].sum()) * (1.0 if factors is None else float(factors.mean()))


def probe_diameter(probe: NDArray[np.complex64]) -> float:
    """Diameter, pixels, of the circle about the centre of mass of a probe (M, N, N) with 90 % of its intensity."""
    intensity = np.square(np.abs(probe.astype(np.complex128))).sum(0)
    return _encircled_diameter(intensity, _periodic_centre(intensity))


def median_step(positions: NDArray[np.float64]) -> float:
    """Median distance to the nearest other position, pixels; 0 if all are the same."""
    for same in (SAME_POSITION, 0.0):  # the second for a unit that is far too large for pixels
        distinct = np.unique(np.round(positions / same) if same else positions, axis=0, return_index=True)[1]
        if len(distinct) > 1:
            others = positions[distinct]
            return float(np.median(KDTree(others).query(others, k=2)[0][:, 1]))
    return 0.0


def usual_step(step: float, diameter: float) -> bool:
    """Whether a median distance of neighbours is usual for a probe of this diameter, both in pixels."""
    low, high = _USUAL_STEP
    return low * diameter <= step <= high * diameter


def _fitting_unit(step: float, diameter: float, pixel_size: float | None) -> tuple[float | None, str]:
    """The factor of the positions with which neighbours are a usual distance apart, and the unit in words."""
    if step <= 0 or usual_step(step, diameter):
        return None, ""
    units = list(_UNITS)
    if pixel_size is not None:
        units.insert(0, (1 / pixel_size, "they are in metres where pixels are expected"))
        units.insert(0, (1e-6 / pixel_size, "they are in micrometres where pixels are expected"))
    fitting = [(factor, text) for factor, text in units if usual_step(factor * step, diameter)]
    if not fitting:
        return None, ""
    return min(fitting, key=lambda unit: abs(np.log(unit[0] * step / diameter / TYPICAL_STEP)))


def outlying_positions(positions: NDArray[np.float64], size: int) -> tuple[list[int], float]:
    """Patterns far from all others: no chain of neighbouring cells of N pixels leads to them.

    None is far if more than 5 % are: then the scan has several fields.

    Args:
        positions: (n, 2), pixels.
        size: N.

    Returns:
        Their indices, and the largest distance from the other positions.

    Example:
        >>> outlying_positions(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5e4, 0.0]]), 16)
        ([3], 49995.0)
    """
    cells, member = np.unique(np.floor(positions / size), axis=0, return_inverse=True)
    if len(cells) == 1:
        return [], 0.0
    pairs = KDTree(cells).query_pairs(1.5, output_type="ndarray")
    ones = np.ones(len(pairs))
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(cells), len(cells)))
    label = connected_components(graph, directed=False)[1][member.ravel()]
    sizes = np.bincount(label)
    apart = label != np.argmax(sizes)
    if not apart.any() or apart.sum() > max(1, _APART * len(positions)):
        return [], 0.0
    distances = KDTree(positions[~apart]).query(positions[apart])[0]
    return [int(index) for index in np.flatnonzero(apart)], float(distances.max())


def _dose_spread(totals: NDArray[np.float64], tree: KDTree, diameter: float) -> float:
    """Deviation of the total counts between nearest neighbours, relative, beyond photon noise; 0 if not known.

    Nearest neighbours see nearly the same part of the object. The median of the differences, as it is not changed by a
    few faulty patterns.
    """
    if len(totals) < 10:
        return 0.0
    distance, neighbour = tree.query(tree.data, k=2)
    pairs = (distance[:, 1] < diameter / 2) & (totals > 0) & (totals[neighbour[:, 1]] > 0)
    if pairs.sum() < 10:
        return 0.0
    one, other = totals[pairs], totals[neighbour[:, 1]][pairs]
    deviation = 1.4826 * float(np.median(np.abs(np.log(one / other)))) / np.sqrt(2)
    return float(np.sqrt(max(0.0, deviation**2 - float(np.median(1 / one)))))


def _is_real(probe: NDArray[np.complex64]) -> bool:
    for mode in probe:
        turned = mode * np.exp(-1j * np.angle(mode.flat[np.argmax(np.abs(mode))]))
        if np.abs(turned.imag).max() > _REAL * np.abs(mode).max():
            return False
    return True


def _duplicates(tree: KDTree) -> list[tuple[int, int]]:
    """Pairs of the first pattern at a position and every later one there."""
    first = np.array([min(members) for members in tree.query_ball_point(tree.data, SAME_POSITION)])
    return [(int(first[index]), int(index)) for index in np.flatnonzero(first < np.arange(len(first)))]


def _periodic_centre(intensity: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of mass (y, x) from sample (N//2, N//2), pixels, on a periodic grid."""
    size = len(intensity)
    turn = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)
    y, x = (float(np.angle(intensity.sum(1 - axis) @ turn)) * size / (2 * np.pi) for axis in (0, 1))
    return y, x


def _encircled_diameter(intensity: NDArray[np.float64], offset: tuple[float, float]) -> float:
    size = len(intensity)
    y, x = ((np.arange(size) - size // 2 - shift + size / 2) % size - size / 2 for shift in offset)
    radius = np.hypot(y[:, np.newaxis], x).ravel()
    order = np.argsort(radius)
    fraction = np.cumsum(intensity.ravel()[order]) / intensity.sum()
    return max(1.0, 2 * float(np.interp(ENCIRCLED, fraction, radius[order])))


def _count_illuminated(
    scan: Scan, intensity: NDArray[np.float64], canvas: tuple[int, int], low: NDArray[np.float64]
) -> int:
    # Positions in wrong units can need a canvas that exceeds memory: count the pixels of separate patches instead.
    if canvas[0] * canvas[1] > max(1 << 22, 4 * scan.n * intensity.size):
        return int((intensity > _ILLUMINATED * intensity.max()).sum()) * scan.n
    positions = torch.from_numpy(np.floor(scan.positions - low + 0.5))
    weight = torch.from_numpy(intensity.astype(np.float32))
    total = accumulate_weight(
        weight, positions, torch.ones(scan.n, dtype=torch.float32, device="cpu"), (canvas[0] + 1, canvas[1] + 1)
    )
    covered = total.numpy()
    return int((covered > _ILLUMINATED * covered.max()).sum())
