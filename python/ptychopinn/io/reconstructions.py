# SPDX-License-Identifier: BSD-3-Clause
"""Files of reconstructions: arrays and JSON in HDF5 or NPZ, without pickle, replaced atomically.

:meth:`Reconstruction.save` documents the layout. A canvas larger than memory is written in parts to the same layout.
Files for other programs are written by :mod:`ptychopinn.io.products`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, is_zipfile
from zlib import error as zlib_error

import numpy as np

from ptychopinn.acquisition import Acquisition
from ptychopinn.errors import InputError, not_found
from ptychopinn.experiment import Experiment
from ptychopinn.io.lazy import h5py
from ptychopinn.io.products import EXPORTS, check_export, is_nexus_result, is_product, read_product
from ptychopinn.io.sniff import Content, content_of
from ptychopinn.io.stored_experiments import GROUP, NAMES, PREFIX, prefixed, put_experiment
from ptychopinn.reconstruction import SLICE_MAPS, Reconstruction, json_of
from ptychopinn.records import ResultRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.checksums import check_names, check_seal
from ptychopinn.storage.new_hdf5 import check_written, chunks_of, new_hdf5, put_array

SCHEMA_VERSION = 1
_ARRAYS = (
    *("object", "weights", "probe", "uncertainty", "positions", "residuals", "error_map", "intensities"),
    *("slices", "amplitude_uncertainty", "phase_uncertainty", *SLICE_MAPS),
)
#: Arrays of the experiment in HDF5 -> in NPZ, which are the keys that the readers have.
_EXPERIMENT = {f"{GROUP}/{name}": f"{PREFIX}{name}" for name in NAMES}
_SETTINGS = ("schema_version", "origin", "pixel_size")
_REQUIRED = ("schema_version", "object", "weights", "origin")
_HDF5_SUFFIXES = (".h5", ".hdf5")
#: Of object and weights.
_BYTES_PER_PIXEL = 12


def write_reconstruction(
    result: Reconstruction, path: str | Path, format: str = "auto", scan: Scan | None = None
) -> Path:
    """Write a reconstruction; see :meth:`Reconstruction.save`."""
    path = Path(path)
    suffix = reconstruction_suffix(path, format, scan)
    if format != "auto":
        EXPORTS[format](result, path, scan)
        return path
    arrays = {name: value for name in _ARRAYS if (value := getattr(result, name)) is not None}
    settings: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "origin": np.asarray(result.origin)}
    if result.pixel_size is not None:
        settings["pixel_size"] = result.pixel_size
    metadata = json_of(result.record().to_json())
    if suffix == ".npz":
        with atomic_path(path) as temporary:
            entries = {**arrays, **prefixed(result.experiment), **settings, "metadata": metadata}
            np.savez_compressed(temporary, **entries)
        return path
    stored = [*arrays.values(), *result.experiment.arrays().values()]
    with new_hdf5(path, sum(array.nbytes for array in stored)) as file:
        file.attrs.update(settings)
        for name, value in arrays.items():
            put_array(file, name, value)  # not compressed: noise of a float hardly shrinks, and it takes time
        put_experiment(file, result.experiment)
        file["metadata"] = metadata
    return path


def read_reconstruction(path: str | Path) -> Reconstruction:
    """Read a reconstruction; see :meth:`Reconstruction.load`."""
    path = Path(path)
    if is_nexus_result(content_of(path)):
        raise InputError(
            f"{path}: expected a reconstruction of this package, .h5 or .npz, found its NeXus copy for other programs, "
            "which is not read; reconstruct with --out recon.h5"
        )
    if is_product(content_of(path)):
        return read_product(path)
    suffix = reconstruction_suffix(path)
    if not path.exists():
        raise not_found(path)
    if path.is_dir():
        raise InputError(f"{path}: expected a file of a reconstruction, found a folder; name the .h5 or .npz file")
    try:
        entries = _read_npz(path) if suffix == ".npz" else _read_hdf5(path)
    except InputError:
        raise
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, TokenError, BadZipFile, zlib_error) as error:
        kind = "NPZ" if suffix == ".npz" else "HDF5"
        raise InputError(f"{path}: not a readable {kind} reconstruction, truncated or not one: {error}") from error
    return _from_entries(path, entries)


def check_parts_path(path: str | Path) -> None:
    """Raise InputError unless :func:`save_in_parts` can write a file of this suffix."""
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
    acquisition: Acquisition,
    orientation: str,
    experiment: Experiment | None = None,
) -> Path:
    """Write a reconstruction whose canvas exceeds memory, in the HDF5 layout of :meth:`Reconstruction.save`.

    Args:
        path: destination, ``.h5`` or ``.hdf5``.
        shape: (H, W) of the canvas.
        parts: first row of a block, and the block's rows of "object", "weights" and optionally "uncertainty".
        origin: (y, x) scan coordinate of the object's pixel (0, 0), in pixels.
        probe: (M, N, N) complex64 in sqrt(counts).
        positions: (n, 2) float64 (y, x) in pixels.
        pixel_size: metres per pixel, None if unknown.
        metadata: JSON types.
        acquisition: distance, detector pixels and world origin of the scan.
        orientation: of the scan's positions.
        experiment: that of the reconstruction; None: the plain one.

    Returns:
        The path written.

    Raises:
        InputError: another suffix, or values that are not finite.
    """
    path = Path(path)
    check_parts_path(path)
    needed = math.prod(shape) * _BYTES_PER_PIXEL + probe.nbytes + positions.nbytes
    with new_hdf5(path, needed) as file:
        file.attrs.update({"schema_version": SCHEMA_VERSION, "origin": np.asarray(origin, np.float64)})
        if pixel_size is not None:
            file.attrs["pixel_size"] = pixel_size
        for first, rows in parts:
            for name, values in rows.items():
                if not np.isfinite(values).all():
                    raise InputError(f"{name} must be finite, got values that are not from row {first} on")
                if name not in file:
                    layout = {"chunks": chunks_of(shape, values.dtype), "fletcher32": True}
                    file.create_dataset(name, shape, values.dtype, **layout)
                file[name][first : first + len(values)] = values
                check_written(file)
        for name, array in (("probe", probe), ("positions", positions)):
            put_array(file, name, array)
        experiment = experiment or Experiment()
        put_experiment(file, experiment)
        record = ResultRecord(acquisition, orientation, metadata=metadata, experiment=experiment)
        file["metadata"] = json_of(record.to_json())
    return path


def reconstruction_suffix(path: str | Path, format: str = "auto", scan: Scan | None = None) -> str:
    """The suffix of a reconstruction file in lower case; InputError if the format is not written with it."""
    suffix = Path(path).suffix.lower()
    if format != "auto":
        check_export(path, format, scan)
    elif suffix not in (*_HDF5_SUFFIXES, ".npz"):
        raise InputError(
            f"{path}: a reconstruction file must end in .h5, .hdf5 or .npz, got {suffix or 'no suffix'!r}; "
            f"another format is stated by its name (--out-format): {', '.join(EXPORTS)}"
        )
    return suffix


def pictures_folder(path: str | Path) -> Path:
    """The folder beside a reconstruction for its pictures: recon for recon.h5, and recon-nxs for recon.nxs."""
    path = Path(path)
    own = path.suffix.lower() in (*_HDF5_SUFFIXES, ".npz")
    return path.with_suffix("") if own else path.with_name(path.name.replace(".", "-"))


def is_reconstruction(path: str | Path) -> bool:
    """Whether a file is a reconstruction, by the names in it, or by its suffix if it is damaged."""
    content = content_of(path)
    if content.kind in ("npz", "hdf5"):
        return has_reconstruction(content)
    return Path(path).suffix.lower() in _HDF5_SUFFIXES


def read_start(path: str | Path, scan: Scan) -> Reconstruction | None:
    """What a refinement of a scan begins with: a reconstruction or a product of ptychodus; None for another file."""
    path = Path(path)
    if not path.is_file():
        return None
    if is_product(content_of(path)):
        return read_product(path, scan)
    return read_reconstruction(path) if is_reconstruction(path) else None


def is_start(path: str | Path) -> bool:
    """Whether a file is a reconstruction, also of ptychodus, by the names in it."""
    return is_reconstruction(path) or is_product(content_of(path))


def has_reconstruction(content: Content) -> bool:
    """Whether these are the names in a file of a reconstruction."""
    if content.kind == "npz":
        return set(_REQUIRED) <= content.names
    own = {*_ARRAYS, *_EXPERIMENT, GROUP, "metadata"}
    return content.kind == "hdf5" and content.has("object", "weights") and content.names <= own


def _read_hdf5(path: Path) -> dict[str, Any]:
    check_seal(path)
    with h5py.File(path, "r") as file:
        entries = {name: file.attrs[name] for name in _SETTINGS if name in file.attrs}
        datasets = {name: _own(file, name) for name in (*_ARRAYS, "metadata")}
        if isinstance(file.get(GROUP, getlink=True), h5py.HardLink) and isinstance(file[GROUP], h5py.Group):
            datasets |= {key: _own(file, name) for name, key in _EXPERIMENT.items()}
        return entries | {name: dataset[()] for name, dataset in datasets.items() if dataset is not None}


def _own(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The data set of this name in the file itself, without links and other files; None if there is none."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    node = file[name]
    return node if isinstance(node, h5py.Dataset) and not (node.is_virtual or node.external) else None


def _read_npz(path: Path) -> dict[str, Any]:
    if not is_zipfile(path):
        raise BadZipFile("not a zip archive")
    with np.load(path, allow_pickle=False) as file:
        check_names(file.zip)
        names = (*_SETTINGS, *_ARRAYS, *_EXPERIMENT.values(), "metadata")
        return {name: file[name] for name in names if name in file.files}


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
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: key 'metadata' must be a JSON object, got {type(metadata).__name__}")
    record = ResultRecord.from_json(metadata)
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
            metadata=record.metadata,
            acquisition=record.acquisition,
            orientation=record.orientation,
            refinement=record.refinement,
            slices=entries.get("slices"),
            experiment=_experiment(entries, record),
            amplitude_uncertainty=entries.get("amplitude_uncertainty"),
            phase_uncertainty=entries.get("phase_uncertainty"),
            **{name: entries.get(name) for name in SLICE_MAPS},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _experiment(entries: Mapping[str, Any], record: ResultRecord) -> Experiment:
    """The experiment of the scalars in the record and the arrays, whose values the result checks."""
    arrays = {name: np.asarray(entries[key]) for name in NAMES if (key := f"{PREFIX}{name}") in entries}
    return Experiment.from_parts(arrays, record.experiment.scalars())


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else np.asarray(value).item()
