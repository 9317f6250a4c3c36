# SPDX-License-Identifier: BSD-3-Clause
"""Scans and results of a program that holds its arrays in memory: in from its object's pixels, and back onto them.

What a file's reader decides (what the patterns are, how strong the probe is) is decided here in the same way;
complaints name the program's arrays as they name the keys of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, truth_of
from ptychopinn.io.fields import Source
from ptychopinn.io.indexes import unique_indexes, unless_in_order
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan


class _Memory(Source):
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
    """A scan from arrays of another program.

    Args:
        patterns: (n, N, N) counts or amplitudes, zero frequency at pixel (N//2, N//2). Integers are counts; what others
            are is decided as for a file, and logged.
        centres: (n, 2), (y, x) of the probe's middle in pixels of the program's object, whose pixel (0, 0) becomes the
            scan's.
        probe: (M, N, N) or (N, N) complex, scaled to the mean counts of a pattern; none: a guess.
        bad_pixels: (N, N), true where a pixel is to be ignored.
        image: (H, W) complex, the object as the program has it; a truth, unless it is constant.
        energy: eV.
        pixel_size: metres per object pixel.
        acquisition: distance and detector pixels; its origin is the world coordinate of the object's pixel (0, 0).
        frame_indexes: (n,) integers, the program's indexes of the patterns, none twice.
        measurement: "auto", "counts" or "amplitude".
        name: of the scan, and of the arrays in complaints.
        metadata: to keep, JSON types.

    Raises:
        InputError: the arrays do not fit each other, or are no patterns.

    Example:
        >>> scan = scan_from_arrays(np.ones((2, 8, 8), np.int32), [[3.5, 3.5], [3.5, 5.5]], np.ones((8, 8), complex))
        >>> scan.positions.tolist(), scan.counts.dtype, scan.probe.shape
        ([[0.0, 0.0], [0.0, 2.0]], dtype('uint8'), (1, 8, 8))
    """
    source = _Memory(name)
    counts = source.check("patterns", np.asarray(patterns), "iuf", ndim=3, finite=False)
    if counts.shape[1] != counts.shape[2] or not counts.size:
        source.fail("patterns", "square patterns, (n, N, N)", f"shape {counts.shape}")
    size = counts.shape[-1]
    places = source.check("centres", np.asarray(centres), "iuf", ndim=2)
    if places.shape[1] != 2:
        source.fail("centres", "(y, x) for each pattern, (n, 2)", f"shape {places.shape}")
    beam = None if probe is None else stacked(source, "probe", source.check("probe", np.asarray(probe), "iufc"), size)
    bad = None if bad_pixels is None else bad_pixels_of(source, "bad_pixels", size, np.asarray(bad_pixels))
    indexes = None
    if frame_indexes is not None:
        stated = source.check("frame_indexes", np.asarray(frame_indexes), "iu", ndim=1)
        indexes = unless_in_order(unique_indexes(source, "frame_indexes", stated, len(places)))
    contents = Contents(
        source=source,
        key="patterns",
        patterns=counts,
        pixels=places.astype(np.float64),
        energy=energy,
        pixel_size=pixel_size,
        acquisition=acquisition or Acquisition(),
        probe=beam,
        bad_pixels=bad,
        truth=None if image is None else truth_of(source, "object", np.asarray(image)),
        name=name,
        frame_indexes=indexes,
        record=ScanRecord(metadata=dict(metadata or {})),
    )
    return assemble(contents, ReadOptions(measurement, memory="load"))


def on_canvas(result: Reconstruction, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """The object of a result on a canvas (H, W) whose pixel (0, 0) is the scan's: cut to it, zero where nothing is.

    Example:
        >>> result = Reconstruction(np.ones((4, 6), np.complex64), np.ones((4, 6), np.float32), origin=(-2, 3))
        >>> np.abs(on_canvas(result, (3, 5))).tolist()
        [[0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    canvas = np.zeros(shape, np.complex64)
    source, target = zip(*map(_overlap, result.origin, result.shape, shape), strict=True)
    canvas[target] = result.object[source]
    return canvas


def _overlap(origin: float, side: int, room: int) -> tuple[slice, slice]:
    """Of a line of ``side`` samples from ``origin`` on, those within ``room`` samples from 0; and where they go."""
    first = round(origin)
    begin, end = max(0, -first), max(0, -first, min(side, room - first))
    return slice(begin, end), slice(first + begin, first + end)
