# SPDX-License-Identifier: BSD-3-Clause
"""A small scan out of a large one, spread over the whole scanned area, with a record of where it came from.

For fixtures of tests, first looks and bug reports. The first patterns of a file are a corner or a row of the sample;
patterns drawn at random leave holes. So the area is cut into cells, every cell gives as many as the others, and the
outermost patterns always belong: a subset covers the extent of its scan, whatever the path of the scan.
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
from ptychopinn.io.scans import format_to_write
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import atomic_path

#: The outermost patterns, one at each end of each axis, must fit.
FEWEST = 4

#: From one grid to the next finer one.
_FINER = 1.2


def stratified(positions: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Single patterns spread evenly over the scanned area.

    Cells of a grid over the extent, as fine as leaves no more than ``n`` of them occupied, give one pattern after the
    other in turn, drawn at random; the patterns at both ends of both axes come first. The subset therefore has the
    extent of the scan. Patterns of a subset hardly overlap: see :func:`clustered`.

    Args:
        positions: (p, 2) scan positions, pixels; any path, lines and repeats included.
        n: patterns to choose, 4 to p.
        seed: of the choice.

    Returns:
        (n,) int64, ascending, each index once. The same for the same arguments.

    Raises:
        InputError: ``n`` is out of its range, or positions are not finite or of another shape.

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
    # Each pattern's turn within its cell; the ends of the axes come before all others.
    order = np.lexsort((lottery, cell))
    _, first, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(points), np.int64)
    turn[order] = np.arange(len(points)) - np.repeat(first, sizes)
    turn[_ends(points, lottery)] = -1
    return np.sort(np.lexsort((lottery, turn))[:n])


def clustered(positions: ArrayLike, n: int, clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """Compact clusters of patterns that overlap as in the scan, spread evenly over the scanned area.

    Around each of ``clusters`` patterns of :func:`stratified`, its nearest ones that no other cluster has taken.

    Args:
        positions: (p, 2) scan positions, pixels.
        n: patterns to choose, 4 to p.
        clusters: 4 to n; n / clusters patterns make one, some one more.
        seed: of the choice.

    Returns:
        (n,) int64, ascending, each index once.

    Raises:
        InputError: as for :func:`stratified`, or ``clusters`` is out of its range.
    """
    points = _checked(positions, n)
    if not FEWEST <= clusters <= n:
        raise InputError(f"subset: clusters must be from {FEWEST} to the {n} patterns of the subset, got {clusters}")
    centres = stratified(points, clusters, seed)
    taken = np.zeros(len(points), np.bool_)
    taken[centres] = True
    # All others hold n - 1 patterns at most, so among the nearest n there are always enough.
    _, nearest = cKDTree(points).query(points[centres], k=[*range(1, n + 1)])
    for number, candidates in enumerate(nearest):
        wanted = n // clusters + (number < n % clusters) - 1
        taken[candidates[~taken[candidates]][:wanted]] = True
    return np.flatnonzero(taken)


def coverage(positions: ArrayLike, indices: ArrayLike) -> tuple[float, float]:
    """Extent of the chosen positions along (y, x), relative to that of all; 1 along an axis without extent."""
    points = np.asarray(positions, np.float64)
    whole, part = np.ptp(points, axis=0), np.ptp(points[np.asarray(indices)], axis=0)
    y, x = np.where(whole > 0, part / np.where(whole > 0, whole, 1), 1.0)
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
    """Write a subset of a scan file, and beside it, under the suffix .json, where it came from.

    The record names the source with its SHA-256, the chosen indices, what was asked for, the coverage of both axes and
    the versions; and the SHA-256 of the subset, so that one that was changed since is known. Everything but patterns
    and positions (probe, truth, bad pixels) is that of the scan.

    Args:
        source: the scan.
        out: the file to write; its suffix chooses the writer.
        n: patterns to choose, at least 4.
        clusters: choose so many clusters of overlapping patterns; none: single patterns.
        seed: of the choice.
        overwrite: replace earlier files.
        stated: of the source, as for :meth:`Scan.load`.

    Returns:
        The paths of the subset and of its record.

    Raises:
        InputError: a file exists already, the source cannot be read or the subset not be written, or the scan has too
            few patterns. Nothing is written then.
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
    if clusters is None:
        indices = stratified(scan.positions, n, seed)
    else:
        indices = clustered(scan.positions, n, clusters, seed)
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
        beside.write_text(json.dumps(record, indent=2) + "\n")
    return out, record_path


def _checked(positions: ArrayLike, n: int) -> NDArray[np.float64]:
    points = np.asarray(positions, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"subset: positions must be finite and of shape (p, 2), got shape {points.shape}")
    if not FEWEST <= n <= len(points):
        raise InputError(f"subset: n must be from {FEWEST} to the {len(points)} patterns of the scan, got {n}")
    return points


def _cells(points: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """(p,) number of every pattern's cell, of the finest grid of which at most ``n`` cells are occupied.

    Cells are about square. A raster fills a grid of n cells; a line, a ring or a diagonal only some of a finer one.
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
    """A pattern at each end of each axis."""
    return [int(np.lexsort((lottery, sign * points[:, axis]))[0]) for axis in (0, 1) for sign in (1, -1)]


def _command(source: Path, out: Path, options: dict[str, Any]) -> str:
    """What to type to make the same subset."""
    words = ["ptychopinn", "subset", str(source), str(out)]
    for name, value in options.items():
        if isinstance(value, bool):
            words += [f"--{name}"] * value
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _origin(source: Path, partner: Any) -> dict[str, Any]:
    """Names and checksums of the file, or of all files of a scan that lies in several."""
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
