# SPDX-License-Identifier: BSD-3-Clause
"""Scans from arrays of another program, and results on the canvas of its object.

Measurement and probe scale are decided as for files; errors name the arrays as they name the keys of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, truth_of
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.indexes import unique_indexes, unless_in_order
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan


class _Memory(OpenFile):
    """Arrays of another program: checks and errors of an open file, without a file."""

    def __init__(self, name: str) -> None:
        self.path, self.kind = Path(name), "arrays in memory"

    def has(self, key: str) -> bool:
        return False

    def array(self, key: str) -> NDArray[Any]:
        raise KeyError(key)


def scan_from_arrays(
    patterns: ArrayLike,
    centres: ArrayLike,
    probe: ArrayLike | None = None,
    *,
    bad_pixels: ArrayLike | None = None,
    image: ArrayLike | None = None,
    energy: float | None = None,
    pixel_size: float | None = None,
    acquisition: Acquisition | None = None,
    frame_indexes: ArrayLike | None = None,
    measurement: str = "auto",
    name: str = "arrays",
    metadata: Mapping[str, Any] | None = None,
) -> Scan:
    """Make a scan from arrays of another program.

    Args:
        patterns: (n, N, N) counts or amplitudes, zero frequency at pixel (N//2, N//2). Integers are counts; for other
            types see :func:`ptychopinn.io.counts.counts_of`.
        centres: (n, 2) probe centre (y, x) in pixels of the program's object, whose pixel (0, 0) becomes the scan's.
        probe: (M, N, N) or (N, N) complex, is scaled to the mean count of a pattern; None: estimated from the patterns.
        bad_pixels: (N, N), True at pixels to ignore.
        image: (H, W) complex, the object of the program; it becomes the truth unless it is constant.
        energy: photon energy in eV.
        pixel_size: metres per object pixel.
        acquisition: distance and detector pixels; `world_origin` is the world coordinate of the object's pixel (0, 0).
        frame_indexes: (n,) integers, the program's indexes of the patterns, without repetition.
        measurement: "auto", "counts" or "amplitude".
        name: of the scan, also in errors.
        metadata: JSON types.

    Returns:
        The scan.

    Raises:
        InputError: shapes, types or values of the arrays are not as above.

    Example:
        >>> scan = scan_from_arrays(np.ones((2, 8, 8), np.int32), [[3.5, 3.5], [3.5, 5.5]], np.ones((8, 8), complex))
        >>> scan.positions.tolist(), scan.counts.dtype, scan.probe.shape
        ([[0.0, 0.0], [0.0, 2.0]], dtype('uint8'), (1, 8, 8))
    """
    file = _Memory(name)
    counts = file.check("patterns", np.asarray(patterns), "iuf", ndim=3, finite=False)
    if counts.shape[1] != counts.shape[2] or not counts.size:
        file.fail("patterns", "square patterns, (n, N, N)", f"shape {counts.shape}")
    positions = file.check("centres", np.asarray(centres), "iuf", ndim=2)
    if positions.shape[1] != 2:
        file.fail("centres", "(y, x) for each pattern, (n, 2)", f"shape {positions.shape}")
    beam = None if probe is None else stacked(file, "probe", file.check("probe", np.asarray(probe), "iufc"))
    bad = None if bad_pixels is None else bad_pixels_of(file, "bad_pixels", np.asarray(bad_pixels))
    indexes = None
    if frame_indexes is not None:
        stated = file.check("frame_indexes", np.asarray(frame_indexes), "iu", ndim=1)
        indexes = unless_in_order(unique_indexes(file, "frame_indexes", stated, len(positions)))
    contents = Contents(
        file=file,
        key="patterns",
        patterns=counts,
        pixels=positions.astype(np.float64),
        energy=energy,
        pixel_size=pixel_size,
        acquisition=acquisition or Acquisition(),
        probe=beam,
        bad_pixels=bad,
        truth=None if image is None else truth_of(file, "object", np.asarray(image)),
        name=name,
        frame_indexes=indexes,
        record=ScanRecord(metadata=dict(metadata or {})),
    )
    return assemble(contents, ReadOptions(measurement, memory="load"))


def on_canvas(result: Reconstruction, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Crop or pad the object of a result to a canvas (H, W) whose pixel (0, 0) is the scan's; new pixels are 0.

    Example:
        >>> result = Reconstruction(np.ones((4, 6), np.complex64), np.ones((4, 6), np.float32), origin=(-2, 3))
        >>> np.abs(on_canvas(result, (3, 5))).tolist()
        [[0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    canvas = np.zeros(shape, np.complex64)
    file, target = zip(*map(_overlap, result.origin, result.shape, shape), strict=True)
    canvas[target] = result.object[file]
    return canvas


def _overlap(origin: float, side: int, length: int) -> tuple[slice, slice]:
    """Overlap of ``side`` samples starting at ``origin`` with ``length`` samples starting at 0, as slices of both."""
    first = round(origin)
    begin, end = max(0, -first), max(0, -first, min(side, length - first))
    return slice(begin, end), slice(first + begin, first + end)
