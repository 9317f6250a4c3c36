# SPDX-License-Identifier: BSD-3-Clause
"""The result of a reconstruction, in memory and on disk.

One type is written by inference and read by the metrics, the plots and the command line. It carries where its canvas
lies in scan coordinates and how strongly each pixel was illuminated, so that nobody has to guess either. Files are
plain arrays and JSON (HDF5 or NPZ, never pickle) and are replaced atomically.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, is_zipfile
from zlib import error as ZlibError

import h5py
import numpy as np

from ptychopinn.errors import InputError
from ptychopinn.io.products import EXPORTS, check_export
from ptychopinn.io.sniff import content_of
from ptychopinn.storage.atomic import atomic_path

if TYPE_CHECKING:
    from ptychopinn.scan import Scan

SCHEMA_VERSION = 1
_ARRAYS = ("object", "weights", "probe", "uncertainty", "positions", "residuals", "error_map", "intensities")
_SETTINGS = ("schema_version", "origin", "pixel_size")
_REQUIRED = ("schema_version", "object", "weights", "origin")
_HDF5_SUFFIXES = (".h5", ".hdf5")
_CHUNK_SIDE = 256


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A complex object on its canvas, with the illumination that each pixel received.

    Args:
        object: (H, W) complex64 transmission; finite.
        weights: (H, W) float32 >= 0, summed illumination weight; 0 marks a pixel that was never illuminated.
        origin: (y, x) scan coordinate of ``object[0, 0]``, in pixels.
        probe: (M, N, N) complex64 incoherent modes, in sqrt(counts), or None.
        uncertainty: (H, W) float32 >= 0, standard deviation of the object, or None.
        positions: (n, 2) float64 (y, x) scan positions that were used, in pixels, or None.
        residuals: (n,) float32 >= 0, how badly each pattern is explained: deviance per detector pixel, or None.
        error_map: (H, W) float32 >= 0, the residuals where their light fell, or None.
        intensities: (n,) float32 >= 0, each pattern's light in units of the probe's, or None.
        pixel_size: metres per pixel, or None.
        metadata: anything that JSON can hold.

    Raises:
        InputError: a field has the wrong shape or kind, or is not finite.

    Example:
        >>> r = Reconstruction(np.ones((4, 6), np.complex64), np.ones((4, 6), np.float32), origin=(-2.0, 3.0))
        >>> r.shape, int(r.covered().sum())
        ((4, 6), 24)
    """

    object: np.ndarray
    weights: np.ndarray
    origin: tuple[float, float]
    probe: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    positions: np.ndarray | None = None
    residuals: np.ndarray | None = None
    error_map: np.ndarray | None = None
    intensities: np.ndarray | None = None
    pixel_size: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        image = _array("object", self.object, 2, np.complex64)
        weights = _array("weights", self.weights, 2, np.float32)
        if weights.shape != image.shape:
            raise InputError(f"weights must have the shape of object, {image.shape}, got {weights.shape}")
        if weights.min() < 0:
            raise InputError(f"weights must be >= 0, got a minimum of {weights.min():g}")
        probe = None if self.probe is None else _array("probe", self.probe, 3, np.complex64)
        if probe is not None and probe.shape[1] != probe.shape[2]:
            raise InputError(f"probe must be (modes, N, N), got shape {probe.shape}")
        maps = {name: self._not_negative(name, image.shape) for name in ("uncertainty", "error_map")}
        positions = None if self.positions is None else _array("positions", self.positions, 2, np.float64)
        if positions is not None and positions.shape[1] != 2:
            raise InputError(f"positions must be (n, 2), got shape {positions.shape}")
        count = None if positions is None else (len(positions),)
        lists = {name: self._not_negative(name, count) for name in ("residuals", "intensities")}
        origin = np.asarray(self.origin)
        if origin.shape != (2,) or origin.dtype.kind not in "iuf" or not np.isfinite(origin).all():
            raise InputError(f"origin must be two finite numbers (y, x), got {self.origin!r}")
        pixel_size = None if self.pixel_size is None else float(self.pixel_size)
        if pixel_size is not None and not (math.isfinite(pixel_size) and pixel_size > 0):
            raise InputError(f"pixel_size must be positive metres, got {pixel_size:g}")
        _to_json(self.metadata)
        checked = {
            "object": image,
            "weights": weights,
            "origin": (float(origin[0]), float(origin[1])),
            "probe": probe,
            "positions": positions,
            **maps,
            **lists,
            "pixel_size": pixel_size,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _not_negative(self, name: str, shape: tuple[int, ...] | None) -> np.ndarray | None:
        """The real array of a field, of this shape (none: one-dimensional) and >= 0; None if there is none."""
        if getattr(self, name) is None:
            return None
        array = _array(name, getattr(self, name), 1 if shape is None else len(shape), np.float32)
        if (shape is not None and array.shape != shape) or array.min() < 0:
            where = (
                "hold one value for each position"
                if shape is None or len(shape) == 1
                else f"have the shape of object, {shape}"
            )
            raise InputError(
                f"{name} must be >= 0 and {where}, got shape {array.shape} with a minimum of {array.min():g}"
            )
        return array

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the canvas."""
        height, width = self.object.shape
        return height, width

    @property
    def amplitude(self) -> np.ndarray:
        """(H, W) float32 modulus of the object."""
        return np.abs(self.object)

    @property
    def phase(self) -> np.ndarray:
        """(H, W) float32 phase of the object, in (-pi, pi] rad."""
        return np.angle(self.object)

    def covered(self, threshold: float = 0.2) -> np.ndarray:
        """Mask of the well-illuminated pixels.

        A pixel is covered when its weight is above ``threshold`` times the typical weight: the weighted median, that
        is, the weight such that half of all illumination fell on pixels at least as bright. Unlike the maximum it
        ignores a few hot pixels, and unlike the plain median it ignores the wide, dim rim of a canvas. With the default
        the mask is close to the hull of the scan positions (at a straight edge of a scan the weight falls to one half
        and at a corner to one quarter).

        Args:
            threshold: fraction of the typical weight, >= 0; with 0 every pixel that was illuminated at all.

        Returns:
            (H, W) bool.

        Raises:
            InputError: threshold is negative or not finite.

        Example:
            >>> r = Reconstruction(np.ones((1, 4)), np.array([[0.0, 1.0, 8.0, 10.0]]), origin=(0, 0))
            >>> r.covered().tolist()
            [[False, False, True, True]]
        """
        if not (math.isfinite(threshold) and threshold >= 0):
            raise InputError(f"threshold must be a finite number >= 0, got {threshold}")
        ordered = np.sort(self.weights, axis=None).astype(np.float64)
        total = np.cumsum(ordered)
        typical = ordered[np.searchsorted(total, 0.5 * total[-1])]
        return self.weights > threshold * typical

    def cropped(self, threshold: float = 0.2) -> Reconstruction:
        """The rectangle around the pixels that :meth:`covered` marks, in its place in the scan's coordinates.

        Example:
            >>> r = Reconstruction(np.ones((1, 4)), np.array([[0.0, 1.0, 8.0, 10.0]]), origin=(0, 0))
            >>> r.cropped().shape, r.cropped().origin
            ((1, 2), (0.0, 2.0))
        """
        rows, columns = (np.flatnonzero(self.covered(threshold).any(axis)) for axis in (1, 0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        maps = {
            name: None if (value := getattr(self, name)) is None else value[part]
            for name in ("object", "weights", "uncertainty", "error_map")
        }
        return replace(self, **maps, origin=(self.origin[0] + int(rows[0]), self.origin[1] + int(columns[0])))

    def save(self, path: str | Path, format: str = "auto", scan: Scan | None = None) -> Path:
        """Write the reconstruction atomically; the suffix chooses the format, unless one of another program is named.

        HDF5 (``.h5``, ``.hdf5``)::

            /            attributes: schema_version = 1, origin (2,) float64 (y, x) px, pixel_size float64 m [optional]
            /object      (H, W) complex64, gzip
            /weights     (H, W) float32, gzip
            /probe       (M, N, N) complex64, gzip [optional]
            /uncertainty (H, W) float32, gzip [optional]
            /positions   (n, 2) float64, gzip [optional]
            /residuals   (n,) float32, gzip [optional]
            /error_map   (H, W) float32, gzip [optional]
            /intensities (n,) float32, gzip [optional]
            /metadata    JSON text (scalar string)

        NPZ (``.npz``, compressed): the same names as arrays, the settings 0-d or (2,), ``metadata`` a 0-d string.

        Args:
            path: destination; missing folders are created.
            format: "auto", or for other programs "ptychodus" (a product) or "nexus", which :meth:`load` does not read.
            scan: what was reconstructed, for the other programs: its world coordinates, energy and distance.

        Returns:
            The path written.

        Raises:
            InputError: the suffix is not one of the above, or something that the format needs is not known.
        """
        path = Path(path)
        suffix = reconstruction_suffix(path, format, scan)
        if format != "auto":
            EXPORTS[format](self, path, scan)
            return path
        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        settings: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "origin": np.asarray(self.origin)}
        if self.pixel_size is not None:
            settings["pixel_size"] = self.pixel_size
        metadata = _to_json(self.metadata)
        with atomic_path(path) as temporary:
            if suffix == ".npz":
                np.savez_compressed(temporary, **arrays, **settings, metadata=metadata)
            else:
                with h5py.File(temporary, "w") as file:
                    file.attrs.update(settings)
                    for name, value in arrays.items():
                        file.create_dataset(name, data=value, compression="gzip", shuffle=True)
                    file["metadata"] = metadata
        return path

    @classmethod
    def load(cls, path: str | Path) -> Reconstruction:
        """Read a file written by :meth:`save`.

        Args:
            path: an ``.h5``, ``.hdf5`` or ``.npz`` file.

        Returns:
            The reconstruction; arrays and settings are bitwise those saved.

        Raises:
            InputError: the file is missing, unreadable, of another schema, or lacks or misstates a key.
        """
        path = Path(path)
        suffix = reconstruction_suffix(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            entries = _read_npz(path) if suffix == ".npz" else _read_hdf5(path)
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, BadZipFile, ZlibError) as error:
            kind = "NPZ" if suffix == ".npz" else "HDF5"
            raise InputError(f"{path}: not a readable {kind} reconstruction, truncated or not one: {error}") from error
        return _from_entries(path, entries)


def check_parts_path(path: str | Path) -> None:
    """InputError if a path has no suffix that :func:`save_in_parts` writes."""
    if reconstruction_suffix(path) == ".npz":
        raise InputError(f"{path}: a reconstruction larger than memory is written to HDF5: expected .h5 or .hdf5")


def save_in_parts(
    path: str | Path,
    shape: tuple[int, int],
    parts: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    *,
    origin: tuple[float, float],
    probe: np.ndarray,
    positions: np.ndarray,
    pixel_size: float | None,
    metadata: dict[str, Any],
) -> Path:
    """Write what :meth:`Reconstruction.save` writes to HDF5, of a canvas that is never in memory as a whole.

    Args:
        path: destination, ``.h5`` or ``.hdf5``.
        shape: (H, W) of the canvas.
        parts: first row, and rows of object, weights and maybe uncertainty by name; best in multiples of 256 rows.
        origin, probe, positions, pixel_size, metadata: as in :class:`Reconstruction`.

    Raises:
        InputError: another suffix, or values that are not finite.
    """
    path = Path(path)
    check_parts_path(path)
    chunks = (min(_CHUNK_SIDE, shape[0]), min(_CHUNK_SIDE, shape[1]))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"schema_version": SCHEMA_VERSION, "origin": np.asarray(origin, np.float64)})
        if pixel_size is not None:
            file.attrs["pixel_size"] = pixel_size
        for first, rows in parts:
            for name, values in rows.items():
                if not np.isfinite(values).all():
                    raise InputError(f"{name} must be finite, got values that are not from row {first} on")
                if name not in file:
                    file.create_dataset(name, shape, values.dtype, chunks=chunks, compression="gzip", shuffle=True)
                file[name][first : first + len(values)] = values
        for name, array in (("probe", probe), ("positions", positions)):
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)
        file["metadata"] = _to_json(metadata)
    return path


def _array(name: str, value: Any, dimensions: int, dtype: type[np.generic]) -> np.ndarray:
    array = np.asarray(value)
    kinds = "iufc" if np.issubdtype(dtype, np.complexfloating) else "iuf"
    if array.ndim != dimensions or array.size == 0 or array.dtype.kind not in kinds:
        wanted = f"a non-empty {dimensions}-d {'complex' if 'c' in kinds else 'real'} array"
        raise InputError(f"{name} must be {wanted}, got {array.dtype} of shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} values that are not")
    return array


def _to_json(metadata: Any) -> str:
    if not isinstance(metadata, dict):
        raise InputError(f"metadata must be a dictionary, got {type(metadata).__name__}")
    try:
        return json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata must hold only what JSON can: {error}") from error


def reconstruction_suffix(path: str | Path, format: str = "auto", scan: Scan | None = None) -> str:
    """The suffix of a reconstruction file, lower case; InputError if it is none that can be written in this format."""
    suffix = Path(path).suffix.lower()
    if format != "auto":
        check_export(path, format, scan)
    elif suffix not in (*_HDF5_SUFFIXES, ".npz"):
        raise InputError(f"{path}: a reconstruction file must end in .h5, .hdf5 or .npz, got {suffix or 'no suffix'!r}")
    return suffix


def is_reconstruction(path: str | Path) -> bool:
    """Whether a file looks like a reconstruction rather than a scan: by its members, or its suffix if it is damaged."""
    content = content_of(path)
    if content.kind == "npz":
        return set(_REQUIRED) <= content.names
    if content.kind == "hdf5":
        return content.has("object", "weights")
    return Path(path).suffix.lower() in _HDF5_SUFFIXES


def _read_hdf5(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        entries = {name: file.attrs[name] for name in _SETTINGS if name in file.attrs}
        datasets = {name: file[name] for name in (*_ARRAYS, "metadata") if isinstance(file.get(name), h5py.Dataset)}
        return entries | {name: dataset[()] for name, dataset in datasets.items()}


def _read_npz(path: Path) -> dict[str, Any]:
    if not is_zipfile(path):
        raise BadZipFile("not a zip archive")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in (*_SETTINGS, *_ARRAYS, "metadata") if name in file.files}


def _from_entries(path: Path, entries: Mapping[str, Any]) -> Reconstruction:
    for name in _REQUIRED:
        if name not in entries:
            found = ", ".join(sorted(entries)) or "none of the keys of a reconstruction"
            raise InputError(
                f"{path}: key {name!r} is missing; a reconstruction has {', '.join(_REQUIRED)}; found {found}"
            )
    version = np.asarray(entries["schema_version"])
    if version.shape != () or version.dtype.kind not in "iu" or int(version) != SCHEMA_VERSION:
        raise InputError(
            f"{path}: key 'schema_version' must be {SCHEMA_VERSION}, got {version}; written by another release"
        )
    try:
        metadata = json.loads(_text(entries.get("metadata", "{}")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: key 'metadata' must be JSON text: {error}") from error
    try:
        pixel_size = float(entries["pixel_size"]) if "pixel_size" in entries else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: key 'pixel_size' must be a number of metres: {error}") from error
    try:
        return Reconstruction(
            object=entries["object"],
            weights=entries["weights"],
            origin=entries["origin"],
            probe=entries.get("probe"),
            uncertainty=entries.get("uncertainty"),
            positions=entries.get("positions"),
            residuals=entries.get("residuals"),
            error_map=entries.get("error_map"),
            intensities=entries.get("intensities"),
            pixel_size=pixel_size,
            metadata=metadata,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else np.asarray(value).item()
