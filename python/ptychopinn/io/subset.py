# SPDX-License-Identifier: BSD-3-Clause
"""Subsets of a scan that cover the scanned area, written with a record of their origin.

For tests, quick checks and bug reports. The first patterns of a file cover a corner or a row of the sample, and
randomly selected patterns leave gaps. Therefore the area is divided into cells that contribute equal numbers of
patterns, and the outermost patterns are always selected, so that a subset has the extent of its scan for any scan path.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptychopinn.errors import InputError
from ptychopinn.io.options import option_words
from ptychopinn.io.scans import format_to_write
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import atomic_path

#: The outermost patterns, one at each end of each axis, must fit.
FEWEST = 4

#: Ratio of the cells along an axis between successive grids.
_FINER = 1.2


def stratified(positions: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Select patterns that are distributed evenly over the scanned area.

    The extent is divided into the finest grid of which at most ``n`` cells are occupied. Cells contribute randomly
    selected patterns in turn, after the patterns at both ends of both axes, which give the subset the extent of the
    scan. Patterns of a subset hardly overlap: see :func:`clustered`.

    Args:
        positions: (p, 2) scan positions in pixels, in any order; may repeat or lie on a line.
        n: number of patterns to select, 4 to p.
        seed: of the random selection.

    Returns:
        (n,) int64 indexes, ascending and unique; equal for equal arguments.

    Raises:
        InputError: ``n`` is out of range, or positions are not finite or not (p, 2).

    Example:
        >>> line = [[0, x] for x in range(100)]
        >>> chosen = stratified(line, 10)
        >>> len(chosen), int(chosen[0]), int(chosen[-1]), bool(np.diff(chosen).max() < 25)
        (10, 0, 99, True)
    """
    points = _checked(positions, n)
    rng = np.random.default_rng(seed)
    lottery = rng.random(len(points))
    cell = _cells(points, n)
    # Rank of each pattern within its cell; patterns at the ends of the axes have the lowest.
    order = np.lexsort((lottery, cell))
    _, first, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(points), np.int64)
    turn[order] = np.arange(len(points)) - np.repeat(first, sizes)
    turn[_ends(points, lottery)] = -1
    return np.sort(np.lexsort((lottery, turn))[:n])


def clustered(positions: ArrayLike, n: int, clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """Select compact clusters of patterns, which overlap as in the scan, evenly over the scanned area.

    A cluster is one of ``clusters`` patterns of :func:`stratified` with its nearest patterns outside other clusters.

    Args:
        positions: (p, 2) scan positions in pixels.
        n: number of patterns to select, 4 to p.
        clusters: number of clusters, 4 to n, of n / clusters patterns each, rounded up or down.
        seed: of the random selection.

    Returns:
        (n,) int64 indexes, ascending and unique.

    Raises:
        InputError: as for :func:`stratified`, or ``clusters`` is out of range.
    """
    points = _checked(positions, n)
    if not FEWEST <= clusters <= n:
        raise InputError(f"subset: clusters must be from {FEWEST} to the {n} patterns of the subset, got {clusters}")
    centres = stratified(points, clusters, seed)
    taken = np.zeros(len(points), np.bool_)
    taken[centres] = True
    # Other clusters have at most n - 1 patterns, so the nearest n include enough free ones.
    _, nearest = cKDTree(points).query(points[centres], k=[*range(1, n + 1)])
    for number, candidates in enumerate(nearest):
        wanted = n // clusters + (number < n % clusters) - 1
        taken[candidates[~taken[candidates]][:wanted]] = True
    return np.flatnonzero(taken)


def coverage(positions: ArrayLike, indices: ArrayLike) -> tuple[float, float]:
    """Extent along (y, x) of the selected positions relative to that of all; 1 along an axis without extent."""
    points = np.asarray(positions, np.float64)
    extent, part = np.ptp(points, axis=0), np.ptp(points[np.asarray(indices)], axis=0)
    y, x = np.where(extent > 0, part / np.where(extent > 0, extent, 1), 1.0)
    return float(y), float(x)


def write_subset(
    source: str | Path,
    out: str | Path,
    n: int = 64,
    *,
    clusters: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **stated: Any,
) -> tuple[Path, Path]:
    """Write a subset of a scan file, and a JSON record of its origin next to it.

    The record has name and SHA-256 of the source, the selected indices, the arguments, the coverage of both axes, the
    versions, and the SHA-256 of the subset. Probe, truth and bad pixels are those of the scan.

    Args:
        source: the scan file.
        out: the file to write; its suffix selects the format.
        n: number of patterns, at least 4.
        clusters: number of clusters of overlapping patterns; None: single patterns.
        seed: of the random selection.
        overwrite: replace existing files.
        **stated: options for the source, see :meth:`Scan.load`.

    Returns:
        The paths of the subset and of its record.

    Raises:
        InputError: a file exists, the source cannot be read, the subset cannot be written, or the scan has too few
            patterns. No file is written then.
    """
    source, out = Path(source), Path(out)
    record_path = out.with_suffix(".json")
    format_to_write(out)
    for path in (out, record_path):
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{out}: expected another name than the scan's own")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: expected a new file, found an earlier one; name another, or --overwrite")
    scan = Scan.load(source, **stated)
    if n > scan.n:
        raise InputError(f"{source}: expected at least the {n} patterns of the subset, found {scan.n}; lower --n")
    indices = stratified(scan.positions, n, seed) if clusters is None else clustered(scan.positions, n, clusters, seed)
    options = {"n": n, "seed": seed, "clusters": clusters, "overwrite": overwrite, **stated}
    covered = coverage(scan.positions, indices)
    record: dict[str, Any] = {
        "source": {**_origin(source, stated.get("partner")), "patterns": scan.n},
        "indices": indices.tolist(),
        "coverage": {"y": covered[0], "x": covered[1]},
        "seed": seed,
        "command": _command(source, out, options),
        "arguments": {"scan_file": str(source), "out": str(out), **options},
        "versions": {name: metadata.version(name) for name in ("ptychopinn", "numpy", "torch")},
    }
    with atomic_path(out) as subset, atomic_path(record_path) as beside:
        scan.subset(indices).save(subset)
        record["subset"] = {"file": out.name, "sha256": _checksum(subset)}
        beside.write_text(json.dumps(record, indent=2, default=repr) + "\n")  # arrays in their one line
    return out, record_path


def _checked(positions: ArrayLike, n: int) -> NDArray[np.float64]:
    points = np.asarray(positions, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"subset: positions must be finite and of shape (p, 2), got shape {points.shape}")
    if not FEWEST <= n <= len(points):
        raise InputError(f"subset: n must be from {FEWEST} to the {len(points)} patterns of the scan, got {n}")
    return points


def _cells(points: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Cell index (p,) of each pattern in the finest grid of which at most ``n`` cells are occupied.

    Cells are approximately square. A raster occupies all cells; a line, a ring or a diagonal occupies some of a finer
    grid.
    """
    lowest, extent = points.min(0), np.ptp(points, axis=0)
    longest = float(extent.max())
    cells = np.zeros(len(points), np.int64)
    if longest == 0:
        return cells
    place = (points - lowest) / np.where(extent > 0, extent, 1)
    for power in range(math.ceil(math.log(n**2, _FINER))):  # a diagonal needs n along each axis
        shape = np.maximum(np.rint(extent / longest * _FINER**power), 1).astype(np.int64)
        y, x = np.minimum((place * shape).astype(np.int64), shape - 1).T
        finer = y * shape[1] + x
        if len(np.unique(finer)) > n:
            break
        cells = finer
    return cells


def _ends(points: NDArray[np.float64], lottery: NDArray[np.float64]) -> list[int]:
    """Indexes of a pattern at each end of each axis."""
    return [int(np.lexsort((lottery, sign * points[:, axis]))[0]) for axis in (0, 1) for sign in (1, -1)]


def _command(source: Path, out: Path, options: dict[str, Any]) -> str:
    """The command that makes the same subset."""
    return shlex.join(["ptychopinn", "subset", str(source), str(out), *option_words(options)])


def _origin(source: Path, partner: Any) -> dict[str, Any]:
    """Names and checksums of the file, or of all files of a scan that has several."""
    if source.is_dir():
        return {"file": source.name, "files": {path.name: _checksum(path) for path in sorted(source.glob("*.h5"))}}
    others = [source.with_name(name) for name in ("diffraction.h5", "product.h5")]
    if partner is not None:
        others = [source, Path(partner)]
    origin: dict[str, Any] = {"file": source.name, "sha256": _checksum(source)}
    if source in others and all(path.is_file() for path in others):
        origin["files"] = {path.name: _checksum(path) for path in others}
    return origin


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
