# SPDX-License-Identifier: BSD-3-Clause
"""Patterns on disk with the interface of an array: ``Scan.counts`` where a scan is larger than memory.

Patterns are read when they are indexed, in the file's order and type, and converted to counts by a rule that is fixed
when the object is made. An object keeps no patterns; only ``[:]`` loads all of them, and
:func:`~ptychopinn.storage.arrays.blocks_of` reads blocks ahead. Values are checked each time they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn.errors import InputError
from ptychopinn.runtime.memory import available_memory, fits_in_memory
from ptychopinn.runtime.progress import progress
from ptychopinn.storage.ahead import read_ahead
from ptychopinn.storage.blocks import FlatFile, Hdf5Dataset, Joined, PatternSource, Repeated
from ptychopinn.storage.frames import bin_frames, calibrate_frames, fit_frames, without_invalid
from ptychopinn.storage.new_npz import save_npz as save_npz

#: Values of a bad pixel from this one up are markers, and become zero; the square of a smaller one is still exact.
LARGEST_BAD = np.float64(2**26)

_BLOCK_ELEMENTS = 1 << 22
#: Patterns that look() reads.
_SAMPLED = 16

_log = logging.getLogger(__name__)


class StoredPatterns:
    """Array of n patterns of N x N pixels on disk, indexed along the first axis.

    An index is an integer, a slice, a bool mask of length n, or integers of any order and shape; the result is a new
    NumPy array. Objects can be pickled; every process opens the file itself.

    Args:
        source: where patterns are read from; :meth:`hdf5`, :meth:`npy`, :meth:`npz` and :meth:`virtual` make one.

    Raises:
        InputError: when patterns are read: the file is damaged, or values are no counts.

    Example:
        >>> stored = StoredPatterns.virtual(np.arange(2 * 64, dtype=np.uint16).reshape(2, 8, 8), [0, 1, 0, 1, 0])
        >>> stored.shape, stored[[4, 1]].shape, int(stored.subset([3, 2])[0][0, 0])
        ((5, 8, 8), (2, 8, 8), 64)
    """

    ndim = 3

    def __init__(self, source: PatternSource) -> None:
        self._source = source
        self._rows: NDArray[np.int64] | None = None  # of the source; None: all
        self._transpose = False
        self._calibration: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # gain, offset
        self._size: int | None = None
        self._replace: str | None = None
        self._bin: tuple[int, np.dtype[Any]] | None = None
        self._bad: NDArray[np.bool_] | None = None
        self._power = 1
        self._tolerance = 0.0
        self.shape: tuple[int, int, int] = source.shape
        self.dtype: np.dtype[Any] = source.dtype
        self._count_type = source.dtype  # before binning

    @classmethod
    def hdf5(cls, path: str | Path, key: str, axis: int = 0) -> StoredPatterns:
        """Patterns of a dataset (n, N, N) of an HDF5 file, or (N, N, n) with ``axis=2``.

        Raises:
            InputError: the file or dataset is not found, or is not an array of real numbers with three axes.
        """
        return cls(Hdf5Dataset(path, key, axis))

    @classmethod
    def hdf5_parts(cls, parts: Sequence[tuple[str | Path, str]]) -> StoredPatterns:
        """Patterns of several datasets (n, N, N) one after another, each named by its file and its key.

        Raises:
            InputError: a file or dataset is not found, or they differ in type or size of the patterns.
        """
        return cls(Joined([Hdf5Dataset(path, key) for path, key in parts]))

    @classmethod
    def npy(cls, path: str | Path) -> StoredPatterns:
        """Patterns of the array (n, N, N) of a .npy file.

        Raises:
            InputError: not found, not a .npy file, or not an array of three axes in C order.
        """
        return cls(FlatFile.npy(path))

    @classmethod
    def npz(cls, path: str | Path, key: str) -> StoredPatterns:
        """Patterns of an array (n, N, N) of an uncompressed .npz file; the first pass over all verifies its CRC.

        Raises:
            InputError: the file or the key is not found, the array is compressed, or not of three axes in C order.
        """
        return cls(FlatFile.npz(path, key))

    @classmethod
    def virtual(cls, patterns: NDArray[Any], which: ArrayLike) -> StoredPatterns:
        """Patterns ``patterns[which]``, gathered when they are indexed, for tests and benchmarks."""
        return cls(Repeated(patterns, np.asarray(which)))

    def converted(
        self,
        *,
        transpose: bool = False,
        size: int | None = None,
        replace: str | None = None,
        bad: NDArray[np.bool_] | None = None,
        power: int = 1,
        dtype: Any = None,
        tolerance: float = 1e-3,
    ) -> StoredPatterns:
        """Copy with a conversion that is applied to every pattern after it is read, in the order of the arguments.

        Args:
            transpose: exchange the axes of the detector.
            size: crop or pad (with 0) to size x size pixels; pixel N//2 becomes pixel size//2.
            replace: see :func:`~ptychopinn.storage.frames.without_invalid`; None: as before.
            bad: bool, (size, size); where True, values that are no counts, or at least 2^26, become zero. Elsewhere
                values that are no counts are an error. Unsigned integers that need no conversion are not changed.
            power: 2 for patterns that are amplitudes; they are squared in float64.
            dtype: of the result; values are rounded for an unsigned integer type. None: the file's.
            tolerance: largest relative difference between a value and the integer that it is rounded to.

        Raises:
            InputError: when patterns are read, values are no counts, no integers where `dtype` is an integer type, or
                too large for `dtype`.
        """
        made = self._copy()
        height, width = self.shape[1:]
        if transpose:
            made._transpose, (height, width) = not self._transpose, (width, height)
        if size is not None:
            height = width = made._size = size
        made.shape = (self.shape[0], height, width)
        made._replace = replace or self._replace
        made._bad, made._power, made._tolerance = bad, power, tolerance
        made.dtype = self.dtype if dtype is None else np.dtype(dtype)
        return made

    def calibrated(self, gain: NDArray[np.float64], offset: NDArray[np.float64]) -> StoredPatterns:
        """Copy with values of type float32 by :func:`~ptychopinn.storage.frames.calibrate_frames`.

        Args:
            gain: values per count, (h, w) or (1, 1).
            offset: value without counts, in the same way.
        """
        made = self._copy()
        made._calibration, made.dtype = (gain, offset), np.dtype(np.float32)
        return made

    def binned(self, factor: int, dtype: np.dtype[Any]) -> StoredPatterns:
        """Sum the counts over bins of factor x factor pixels, after the conversion; bad pixels count as 0.

        Args:
            factor: K, of which the size of the patterns is a multiple.
            dtype: of the sums, which it must hold.
        """
        made = self._copy()
        made._bin, made._count_type = (factor, dtype), self.dtype
        made.shape, made.dtype = (self.shape[0], self.shape[1] // factor, self.shape[2] // factor), dtype
        return made

    def subset(self, indices: ArrayLike) -> StoredPatterns:
        """Select patterns by integers, a mask or a slice, in that order; they stay on disk.

        Raises:
            IndexError: an index is out of range, or a mask has another length.
        """
        rows = self._resolve(indices)
        made = self._copy()
        made._rows = rows if self._rows is None else self._rows[rows]
        made.shape = (len(rows), *self.shape[1:])
        return made

    @property
    def nbytes(self) -> int:
        """Size of all patterns in memory, in bytes."""
        n, height, width = self.shape
        return n * height * width * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return self._source.name

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[k] for k in range(len(self)))

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{self}: patterns on disk are not loaded implicitly; use patterns[:] or a part of them")

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if isinstance(index, int | np.integer):
            pattern: NDArray[Any] = self._read(self._resolve([index]))[0]
            return pattern
        indices = self._resolve(index)
        return self._read(indices.ravel()).reshape(*indices.shape, *self.shape[1:])

    def look(self) -> None:
        """Read and check 16 patterns, spread evenly over the scan, and more until one has a count.

        Raises:
            InputError: values are no counts, or all patterns are zero.
        """
        sample = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64))
        rows = max(1, _BLOCK_ELEMENTS // (self.shape[1] * self.shape[2]))
        parts = [sample, *(slice(start, start + rows) for start in range(0, len(self), rows))]
        if not any(self[part].any() for part in parts):
            raise InputError(f"{self}: expected photons, found patterns that are all zero; --patterns names others")

    def _copy(self) -> StoredPatterns:
        made = StoredPatterns.__new__(StoredPatterns)
        vars(made).update(vars(self))
        return made

    def _resolve(self, index: Any) -> NDArray[np.int64]:
        """Integers from 0 to n - 1, in the shape of the index."""
        n = len(self)
        if isinstance(index, slice):
            return np.arange(*index.indices(n))
        if isinstance(index, tuple):
            raise IndexError("stored patterns are indexed along their first axis only: patterns[rows][..., part]")
        indices = np.asarray(index)
        if indices.dtype == np.bool_:
            if indices.shape != (n,):
                raise IndexError(f"a mask of {n} patterns must have shape ({n},), got {indices.shape}")
            return np.flatnonzero(indices)
        if indices.size == 0:
            return indices.astype(np.int64)
        if indices.dtype.kind not in "iu":
            raise IndexError(f"stored patterns are indexed by integers, a slice or a mask, got {indices.dtype}")
        rows = indices.astype(np.int64)
        if rows.min() < -n or rows.max() >= n:
            wrong = rows[(rows < -n) | (rows >= n)].flat[0]
            raise IndexError(f"index {wrong} is out of bounds for {n} patterns")
        return np.where(rows < 0, rows + n, rows)

    def _read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        rows = indices if self._rows is None else self._rows[indices]
        if len(rows) > 1 and (np.diff(rows) <= 0).any():
            unique, inverse = np.unique(rows, return_inverse=True)
            return self._convert_all(unique)[inverse]
        return self._convert_all(rows)

    def _convert_all(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read source rows, unique and ascending, as counts; in blocks, because conversion needs temporary memory."""
        height, width = self._source.shape[1:]
        step = max(1, _BLOCK_ELEMENTS // (height * width))
        if len(rows) <= step:
            return self._convert(self._source.read(rows), rows)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            out[start : start + step] = self._convert(self._source.read(part), part)
        return out

    def _convert(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._transpose:
            values = values.swapaxes(1, 2)
        if self._calibration is not None:
            values = calibrate_frames(values, *self._calibration)
        if self._size is not None:
            values = fit_frames(values, self._size)
        if self._replace is not None:
            values = without_invalid(values, self._replace)
        values = self._counts(values, rows)
        return values if self._bin is None else bin_frames(values, *self._bin, self._bad)

    def _counts(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Counts before they are binned."""
        dtype = self.dtype if self._bin is None else self._count_type
        if values.dtype.kind != "u" or self._power != 1 or values.dtype != dtype:
            values = self._valid(values, rows)
        if self._power == 1 and values.dtype == dtype:
            return np.ascontiguousarray(values)
        exact = values.astype(np.float64) ** self._power
        if dtype.kind != "u":
            return exact.astype(dtype)
        rounded = np.rint(exact)
        off = np.abs(exact - rounded) > self._tolerance * exact
        if self._bad is not None:
            off &= ~self._bad
        if off.any():
            square = "a square that is" if self._power == 2 else "a value that is"
            self._fail(values, rows, off, f"{square} a whole number, as in the patterns read before")
        if (over := rounded > np.iinfo(dtype).max).any():
            self._fail(values, rows, over, f"counts that fit {dtype}, as in the patterns read before")
        return rounded.astype(dtype)

    def _valid(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        ceiling = np.inf if self._bad is None else LARGEST_BAD
        if values.size == 0 or (values.min() >= 0 and values.max() < ceiling):  # both are False for a NaN
            return values
        wrong = ~(np.isfinite(values) & (values >= 0))
        outside = wrong if self._bad is None else wrong & ~self._bad
        if outside.any():
            way = "; mask_invalid= (--mask-invalid) masks such pixels"
            way += ", clip_negative= (--clip-negative) makes negative floats 0" if values.dtype.kind == "f" else ""
            self._fail(values, rows, outside, "finite values that are not negative", way)
        if self._bad is not None:
            wrong |= self._bad & (values >= LARGEST_BAD)
        values = values.copy()
        values[wrong] = 0
        return values

    def _fail(
        self, values: NDArray[Any], rows: NDArray[np.int64], wrong: NDArray[np.bool_], expected: str, way: str = ""
    ) -> NoReturn:
        pattern, y, x = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        raise InputError(
            f"{self}: pattern {rows[pattern]}: expected {expected}, found {values[pattern, y, x]} at pixel ({y}, {x}) "
            f"and {int(wrong.sum()) - 1} more among the patterns read with it{way}"
        )


def left_on_disk(open_it: Callable[[], StoredPatterns], path: Path, memory: str) -> StoredPatterns | None:
    """Open the patterns of a file that are to stay on disk.

    Args:
        open_it: opens the patterns.
        path: the file, for the log.
        memory: "auto", "load" or "stored", see :meth:`Scan.load`.

    Returns:
        The patterns; None where they are to be loaded.

    Raises:
        InputError: `memory` is "stored", and the patterns are compressed or in an order that cannot be read in part.
    """
    if memory == "load":
        return None
    try:
        patterns = open_it()
    except InputError:
        if memory == "stored":
            raise
        return None  # loading them raises the error
    if memory == "auto" and (fits_in_memory(patterns.nbytes) or patterns.shape[1] != patterns.shape[2]):
        return None
    _log.info("%s: the patterns, %.1f GB, stay on disk", path, patterns.nbytes / 1e9)
    return patterns


def load_counts(counts: NDArray[Any] | StoredPatterns, purpose: str) -> NDArray[Any]:
    """Load all counts, with the zero frequency at [0, 0].

    Args:
        counts: (n, N, N).
        purpose: the operation that needs all counts, for the message.

    Returns:
        (n, N, N) of the type of the counts.

    Raises:
        InputError: they are on disk and larger than half of the available memory.
    """
    if isinstance(counts, np.ndarray):
        return np.fft.ifftshift(counts, axes=(-2, -1))
    free = available_memory()
    if counts.nbytes > free / 2:
        raise InputError(
            f"{counts}: {purpose} needs all counts in memory, expected at most half of the {free / 1e9:.1f} GB "
            f"available, found {counts.nbytes / 1e9:.1f} GB; use a part of the scan (Scan.subset) or a larger machine"
        )
    loaded = np.empty(counts.shape, counts.dtype)
    rows = max(1, _BLOCK_ELEMENTS // (counts.shape[1] * counts.shape[2]))
    parts = [slice(start, start + rows) for start in range(0, len(counts), rows)]
    with progress("load", len(counts)) as advance:
        for part, block in zip(parts, read_ahead(counts.__getitem__, parts), strict=True):
            loaded[part] = np.fft.ifftshift(block, axes=(-2, -1))
            advance(len(block))
    return loaded
