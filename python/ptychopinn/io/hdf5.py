# SPDX-License-Identifier: BSD-3-Clause
"""Safe reading of HDF5 files, and functions to write them.

An HDF5 file can refer to other files (external links, virtual data sets, external storage), declare arrays that exceed
any memory, or be truncated. :class:`Hdf5` reads other files of its folder only (:mod:`ptychopinn.io.links`), and checks
type and size of an array before it is read. Errors name the HDF5 path of the format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.io.fields import OpenFile, complex_parts
from ptychopinn.io.lazy import h5py
from ptychopinn.io.links import DAMAGED, Links, damaged_words
from ptychopinn.io.stored_experiments import put_experiment
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of
from ptychopinn.storage.checksums import check_seal
from ptychopinn.storage.hdf5_files import open_to_read, reason_of
from ptychopinn.storage.new_hdf5 import check_written, put_array
from ptychopinn.storage.stored import StoredPatterns

_BLOCK_ELEMENTS = 1 << 22
#: Group of this package in files of other formats, for values that the format does not define.
PACKAGE_GROUP = "ptychopinn"


class Hdf5(OpenFile):
    """An open HDF5 file; keys are paths of groups and data sets.

    Args:
        path: the file.
        kind: the format with its article, for errors.

    Raises:
        InputError: the file does not exist, is not HDF5, or is damaged.
    """

    def __init__(self, path: Path, kind: str = "an HDF5 file") -> None:
        super().__init__(path, kind)
        self._file = open_hdf5(path, kind)
        self._links = Links(self, self._file)

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        self._links.close()

    @property
    def growing(self) -> bool:
        return bool(self._file.swmr_mode)

    def node(self, key: str) -> h5py.Group | h5py.Dataset | None:
        """The group or data set at a path, None if there is none; InputError for links out of the file's folder."""
        return self._links.find(key)

    def has(self, key: str) -> bool:
        return self.node(key) is not None

    def first(self, *keys: str) -> str | None:
        """The first of these paths that exists, None if none does."""
        return next((key for key in keys if self.has(key)), None)

    def need(self, *keys: str) -> str:
        """The first of these paths that exists; InputError if none does."""
        key = self.first(*keys)
        if key is None:
            names = ", ".join(sorted(self.members("/"))[:12]) or "an empty file"
            self.fail(keys[0], f"the key to be there{self._or(keys[1:])}", f"only {names}")
        return key

    def is_text(self, key: str) -> bool:
        """Whether a path is a data set of text."""
        return self.is_array(key) and h5py.check_string_dtype(self.dataset(key).dtype) is not None

    def is_group(self, key: str) -> bool:
        """Whether a path is a group; a link that leads nowhere is none."""
        try:
            return isinstance(self.node(key), h5py.Group)
        except InputError:
            return False

    def is_array(self, key: str) -> bool:
        """Whether a path is a data set."""
        return isinstance(self.node(key), h5py.Dataset)

    def members(self, key: str) -> list[str]:
        """Names of the members of a group, empty if there is no such group."""
        node = self.node(key)
        try:
            return list(node) if isinstance(node, h5py.Group) else []
        except DAMAGED as error:
            self.damaged(key, error)

    def dataset(self, key: str) -> h5py.Dataset:
        """The data set at a path; InputError if it is missing, damaged, or stored outside of the file's folder."""
        node = self.node(self.need(key))
        if not isinstance(node, h5py.Dataset):
            self.fail(key, "an array", "a group")
        try:
            self._links.check(node, key)
            _ = (node.shape, node.dtype, node.chunks)  # h5py evaluates these on access: errors must occur here
        except InputError:
            raise
        except DAMAGED as error:
            self.damaged(key, error)
        return node

    def at_rest(self, key: str) -> tuple[Path, str]:
        """The file that holds a data set, through all links, and its path there."""
        dataset = self.dataset(key)
        path = Path(dataset.file.filename)
        own = path == self.path.resolve() and not self.path.is_symlink()
        return self.path if own else path, str(dataset.name).lstrip("/")

    def array(self, key: str) -> NDArray[Any]:
        dataset = self.dataset(key)
        if dataset.shape is None:
            self.fail(key, "an array", "an empty data set")
        parts = complex_parts(dataset.dtype)
        if h5py.check_string_dtype(dataset.dtype) is None and parts is None and dataset.dtype.kind not in "biufcSU":
            self.fail(key, "an array of numbers or text", f"{dataset.dtype}")
        self.check_memory(key, dataset.shape, dataset.dtype)
        try:
            value = dataset[()]
        except DAMAGED as error:
            self.damaged(key, error)
        if parts is not None:
            value = value[parts[0]] + 1j * value[parts[1]]
        return np.asarray(value if not isinstance(value, bytes) else value.decode("utf-8", errors="replace"))

    def text(self, key: str) -> str | None:
        if not self.has(key):
            return None
        dataset = self.dataset(key)
        if h5py.check_string_dtype(dataset.dtype) is None or dataset.size != 1:
            self.fail(key, "one text", f"{dataset.dtype} of shape {dataset.shape}")
        value = np.asarray(self.array(key)).item()
        return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)

    def attribute(self, key: str, name: str, needed: bool = False) -> float | None:
        """The real number in an attribute, None if there is none; InputError if it is `needed`."""
        value = self._attribute(key, name)
        if value is None:
            if needed:
                self.fail(_at(key, name), "the attribute to be there", "none")
            return None
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "iuf":
            self.fail(_at(key, name), "one number", f"{array.dtype} of shape {array.shape}")
        if not np.isfinite(array).all():
            self.fail(_at(key, name), "a finite number", f"{array.item()}")
        return float(array.item())

    def text_attribute(self, key: str, name: str) -> str | None:
        """The text in an attribute, None if there is none."""
        value = self._attribute(key, name)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.item()
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        return str(value) if isinstance(value, str) else None

    def flag(self, key: str, name: str) -> bool | None:
        """The bool in an attribute, None if there is none."""
        value = self._attribute(key, name)
        return None if value is None or np.asarray(value).size != 1 else bool(np.asarray(value).item())

    def json(self, key: str) -> dict[str, Any]:
        """The JSON object at `key`, empty if there is none."""
        try:
            value = json.loads(self.text(key) or "{}")
        except ValueError as error:
            self.fail(key, "JSON text", f"text that is not JSON ({error})")
        if not isinstance(value, dict):
            self.fail(key, "a JSON object", type(value).__name__)
        return value

    def damaged(self, key: str, error: BaseException) -> NoReturn:
        """Raise the InputError about data that cannot be read."""
        self.fail(key, "an intact array", damaged_words(error))

    def _attribute(self, key: str, name: str) -> Any:
        node = self.node(key)
        try:
            return None if node is None else node.attrs.get(name)
        except DAMAGED as error:
            self.damaged(_at(key, name), error)

    @staticmethod
    def _or(keys: Sequence[str]) -> str:
        return f" (or {' or '.join(keys)})" if keys else ""


def _at(key: str, name: str) -> str:
    return name if key == "/" else f"{key}@{name}"


class Frames:
    """Patterns (n, h, w) in one or several data sets, read in blocks, in any order.

    Args:
        file: the file.
        keys: paths of data sets (n, N, N), or (ny, nx, N, N) for a raster, in the order of their frames.
        rows: (m,) indexes of the frames to use, in this order; None: all frames.
        any_kind: permit bools, for masks.

    Raises:
        InputError: data sets are missing, not numeric or not alike.
    """

    def __init__(
        self, file: Hdf5, keys: Sequence[str], rows: NDArray[np.int64] | None = None, any_kind: bool = False
    ) -> None:
        self._file, self._keys = file, list(keys)
        self._sets = [file.dataset(key) for key in keys]
        for key, dataset in zip(keys, self._sets, strict=True):
            file.check_kind(key, dataset.dtype, "biuf" if any_kind else "iuf")
            if dataset.shape is None or dataset.ndim not in (3, 4):
                file.fail(key, "patterns (n, N, N)", f"shape {dataset.shape}")
            if dataset.shape[-2:] != self._sets[0].shape[-2:] or dataset.dtype != self._sets[0].dtype:
                expected = f"patterns like those of {keys[0]}, {self._sets[0].dtype} {self._sets[0].shape[-2:]}"
                file.fail(key, expected, f"{dataset.dtype} {dataset.shape[-2:]}")
        counts = [int(np.prod(dataset.shape[:-2], dtype=object)) for dataset in self._sets]
        self._starts = np.cumsum([0, *counts])
        self._rows = rows
        self.total = int(self._starts[-1])
        if self.total == 0:
            file.fail(keys[0], "at least one pattern", f"shape {self._sets[0].shape}")

    def take(self, rows: NDArray[np.int64]) -> Frames:
        """The frames with these indexes, in this order."""
        return Frames(self._file, self._keys, rows)

    def on_disk(self) -> StoredPatterns | None:
        """The frames as patterns that stay on disk; None for a raster."""
        if any(dataset.ndim != 3 for dataset in self._sets):
            return None
        parts = [self._file.at_rest(key) for key in self._keys]
        stored = StoredPatterns.hdf5(*parts[0]) if len(parts) == 1 else StoredPatterns.hdf5_parts(parts)
        return stored if self._rows is None else stored.subset(self._rows)

    def first(self, n: int) -> Frames:
        """The first n of these frames."""
        return self.take(np.arange(n) if self._rows is None else self._rows[:n])

    @property
    def raster(self) -> tuple[int, int] | None:
        """Rows and columns of a raster in one data set; None for other layouts, or if frames were chosen."""
        if len(self._sets) != 1 or self._sets[0].ndim != 4 or self._rows is not None:
            return None
        return int(self._sets[0].shape[0]), int(self._sets[0].shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        n = self.total if self._rows is None else len(self._rows)
        return (n, *(int(i) for i in self._sets[0].shape[-2:]))

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._sets[0].dtype
        return dtype

    def __getitem__(self, part: slice) -> NDArray[Any]:
        rows = np.arange(self.total)[part] if self._rows is None else self._rows[part]
        block = np.empty((len(rows), *self.shape[1:]), self.dtype.newbyteorder("="))
        self._read(rows, block, _nothing)
        return block

    def read_into(self, out: NDArray[Any], advance: Callable[[int], object]) -> None:
        """Read all frames into an array (n, N, N), each chunk of the file once.

        Args:
            out: contiguous, of the type of the file in native byte order.
            advance: called with the number of frames after each block of them.
        """
        self._read(np.arange(self.total) if self._rows is None else self._rows, out, advance)

    def _read(self, rows: NDArray[np.int64], out: NDArray[Any], advance: Callable[[int], object]) -> None:
        order = None if (np.diff(rows) > 0).all() else np.argsort(rows, kind="stable")
        rows = rows if order is None else rows[order]
        for key, dataset, start, end in zip(self._keys, self._sets, self._starts, self._starts[1:], strict=False):
            first, last = (int(i) for i in np.searchsorted(rows, (start, end)))
            if first == last:
                continue
            targets = slice(first, last) if order is None else order[first:last]
            try:
                _read_frames(dataset, rows[first:last] - start, out, targets, advance)
            except DAMAGED as error:
                self._file.damaged(key, error)


def _nothing(count: int) -> None:
    pass


def _read_frames(
    dataset: h5py.Dataset,
    rows: NDArray[np.int64],
    out: NDArray[Any],
    targets: slice | NDArray[np.int64],
    advance: Callable[[int], object],
) -> None:
    """Read frames of one data set in blocks of whole chunks.

    Args:
        dataset: (n, N, N), or (ny, nx, N, N) for a raster.
        rows: (k,) ascending indexes of frames.
        out: receives frame ``rows[i]`` at ``targets[i]``.
        targets: of the frames in `out`; a slice is filled without a copy.
        advance: called with the number of frames after each block.
    """
    line = 1 if dataset.ndim == 3 else dataset.shape[1]  # frames for an index of the first axis
    begin = 0 if isinstance(targets, np.ndarray) else targets.start
    for low, high in _blocks_of_chunks(dataset):
        first, last = (int(i) for i in np.searchsorted(rows, (low * line, high * line)))
        if first == last:
            continue
        here = rows[first:last]
        top, bottom = int(here[0]) // line, int(here[-1]) // line + 1
        if isinstance(targets, slice) and len(here) == (bottom - top) * line:  # all frames there, each once, in order
            target = out[begin + first : begin + last]
            dataset.read_direct(target.reshape(bottom - top, *dataset.shape[1:]), np.s_[top:bottom])
        else:
            part = slice(begin + first, begin + last) if isinstance(targets, slice) else targets[first:last]
            if (bottom - top) * line < 2 * len(here) or dataset.ndim == 4:
                frames = dataset[top:bottom].reshape(-1, *out.shape[1:])
                out[part] = frames[here - top * line]
            else:
                unique, inverse = np.unique(here, return_inverse=True)
                out[part] = dataset[unique][inverse]
        advance(last - first)


def _blocks_of_chunks(dataset: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Blocks (first, last + 1) of the first axis that end where chunks do, each of about 2^22 elements."""
    chunk = 1 if dataset.chunks is None else dataset.chunks[0]
    rows = max(1, _BLOCK_ELEMENTS // max(1, math.prod(dataset.shape[1:])) // chunk) * chunk
    return ((start, min(start + rows, dataset.shape[0])) for start in range(0, dataset.shape[0], rows))


def open_hdf5(path: Path, kind: str = "an HDF5 file") -> h5py.File:
    """Open a file for reading.

    Args:
        path: the file.
        kind: the format with its article, for errors.

    Raises:
        InputError: the file is not HDF5, truncated, or not readable.
    """
    try:
        if not h5py.is_hdf5(path):
            raise InputError(f"{path}: expected {kind}, found no HDF5 file; name its format with --format")
        check_seal(path)
        return open_to_read(path.resolve())  # HDF5 looks for other files beside this name
    except OSError as error:
        raise InputError(f"{path}: expected {kind}, found {reason_of(error)}") from error


def put_counts(group: h5py.Group, name: str, counts: NDArray[Any] | StoredPatterns) -> h5py.Dataset:
    """Write patterns in compressed chunks of one frame with checksums, with the attribute `measurement` = "counts"."""
    layout = {"chunks": (1, *counts.shape[1:]), "compression": "gzip", "compression_opts": 1, "fletcher32": True}
    dataset = group.create_dataset(name, counts.shape, counts.dtype, **layout)
    with progress("write", len(counts)) as advance:
        for part, block in blocks_of(counts):
            dataset[part] = block
            check_written(group)
            advance(len(block))
    dataset.attrs["measurement"] = "counts"
    return dataset


def put_units(group: h5py.Group, name: str, value: Any, units: str) -> h5py.Dataset:
    """Write a quantity with the attribute `units`, as in NeXus."""
    dataset = put_array(group, name, value)
    dataset.attrs["units"] = units
    return dataset


def put_package_group(group: h5py.Group, scan: Scan, **arrays: NDArray[Any] | None) -> h5py.Group:
    """Write the scan's name, record and experiment, and these arrays, to the group of this package."""
    package = group.create_group(PACKAGE_GROUP)
    package["name"], package["metadata_json"] = scan.name, json.dumps(scan.record().to_json())
    for key, value in arrays.items():
        if value is not None:
            put_array(package, key, value)
    put_experiment(package, scan.experiment)
    return package
