# SPDX-License-Identifier: BSD-3-Clause
"""Reconstructions of other programs: products of ptychodus, and NeXus files for viewers.

Both have the image in world coordinates, with centre, pixel size and orientation of the measured positions. Products
are written and read, NeXus files only written; :mod:`ptychopinn.io.reconstructions` has this package's own files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.formats.nexus import put_group
from ptychopinn.io.formats.ptychodus import columns, probe_of, put_product
from ptychopinn.io.formats.ptychodus_layers import layers_of
from ptychopinn.io.hdf5 import Hdf5, put_units
from ptychopinn.io.indexes import frame_indexes, indexes_of
from ptychopinn.io.lazy import h5py
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import put_experiment, warn_of_omitted
from ptychopinn.reconstruction import MAPS, SLICE_MAPS, Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.new_hdf5 import new_hdf5, put_array
from ptychopinn.world import photon_energy, world_origin

#: Largest relative difference of object pixels that is rounding.
_LARGEST_DIFFERENCE = 1e-3
_SUFFIXES = (".h5", ".hdf5", ".nxs", ".nx")
_PROGRAM = "ptychopinn"


@dataclass(frozen=True)
class _Placed:
    """A reconstruction in world coordinates (y, x), metres: its pixel (0, 0), and the centres (n, 2) of its patches."""

    pixel_size: float
    origin_m: NDArray[np.float64]
    probe: NDArray[np.complex64] | None
    world: NDArray[np.float64] | None


def check_export(path: str | Path, format: str, scan: Scan | None = None) -> None:
    """Check before a long computation that its result can be exported.

    Args:
        path: of the file.
        format: "ptychodus" or "nexus".
        scan: to reconstruct; None if it is not read yet.

    Raises:
        InputError: the format or the suffix is unknown, or the scan has no pixel size.
    """
    if format not in EXPORTS:
        raise InputError(f"{path}: the format of a reconstruction must be auto, {' or '.join(EXPORTS)}, got {format!r}")
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{path}: a {format} reconstruction must end in {', '.join(_SUFFIXES)}, got {suffix or 'no suffix'!r}"
        )
    if scan is not None and scan.pixel_size is None:
        raise _no_pixel_size(path, format)


def write_product(result: Reconstruction, path: Path, scan: Scan | None = None) -> None:
    """Write a product of ptychodus (`product.h5`).

    The product states the world coordinate of the object's centre. ptychodus maps the world coordinate x to column
    `(x - cx)/dx + (W - 1)/2`, so each position has the same patch as in this package.

    Args:
        result: the reconstruction; it, or the scan, must have a probe, positions and a pixel size.
        path: the file; missing parent folders are created, an existing file is replaced.
        scan: the reconstructed scan, for energy, distance, world coordinates and frame indexes.

    Raises:
        InputError: probe, positions or pixel size are unknown.
    """
    placed = _placed(result, path, "ptychodus", scan)
    if placed.probe is None or placed.world is None:
        missing = "probe" if placed.probe is None else "positions"
        raise InputError(f"{path}: a product of ptychodus must have {missing}, found none; save it with scan=")
    indexes = np.arange(len(placed.world))
    if scan is not None and scan.n == len(indexes):
        indexes = frame_indexes(scan)
    experiment = result.experiment
    known = ["the near field", "a thick sample", "a probe that varies"]
    coefficients = experiment.variation_coefficients
    if coefficients is None or result.probe is None or len(coefficients) != len(indexes):
        experiment = replace(experiment, probe_variations=None, variation_coefficients=None)
        known = known[:2]
    with new_hdf5(path) as file:
        put_product(
            file,
            name=path.stem if scan is None else scan.name,
            image=result.object if result.slices is None else result.slices,
            probe=placed.probe,
            pixel_size=placed.pixel_size,
            origin_m=placed.origin_m,
            world=placed.world,
            indexes=indexes,
            energy=0.0 if scan is None else photon_energy(scan) or 0.0,
            distance=(result if scan is None else scan).acquisition.distance or 0.0,
            source_distance=(result if scan is None else scan).acquisition.source_distance or 0.0,
            comments=f"reconstructed by {_PROGRAM}",
            experiment=experiment,
        )
    warn_of_omitted(path, result.experiment, "a product of ptychodus", known)


def read_product(path: Path, scan: Scan | None = None) -> Reconstruction:
    """Read a product of ptychodus as a reconstruction, with the layers of a thick sample as its slices.

    Args:
        path: the file.
        scan: in whose coordinates, and in the order of whose patterns, the result is; None: the object's pixel (0, 0)
            is the origin, and positions are in the order of the file.

    Returns:
        The reconstruction. Its weights are the illumination by the probe at the positions, 1 everywhere without one.

    Raises:
        InputError: the product has no object with its pixel size and centre, or pixels of another size than the scan.
    """
    with Hdf5(path, "a product of ptychodus") as product:
        found = layers_of(product)
        if found.image is None or found.pixel_size is None or found.origin is None:
            product.fail("object", "an object with pixel_width_m, center_x_m and center_y_m", "none of these")
        world = columns(product, "probe_position_x_m", "probe_position_y_m")
        indexes = indexes_of(product, "probe_position_indexes", len(world))
        probe, _, experiment = probe_of(product, {}, Experiment(slice_distances=found.distances), len(world))
        distance = product.attribute("/", "detector_object_distance_m") or None
        focus = product.attribute("/", "focus_object_distance_m") or None
    pixel_size, zero = found.pixel_size, np.asarray(found.origin)
    if scan is not None and scan.pixel_size is not None:
        if abs(scan.pixel_size / pixel_size - 1) > _LARGEST_DIFFERENCE:
            raise InputError(
                f"{path}: expected object pixels of {scan.pixel_size:g} m, those of the scan, found {pixel_size:g} m; "
                "read the scan with the lengths of the product (--energy, --distance, --crop), or begin --from-scratch"
            )
        zero = world_origin(scan)
    half = 0.0 if probe is None else (probe.shape[-1] - 1) / 2
    corners = (world - zero) / pixel_size - half
    origin = (np.asarray(found.origin) - zero) / pixel_size
    weights = _illumination(found.image.shape, probe, corners - origin)
    positions: NDArray[np.float64] | None = corners
    if scan is not None:
        rows = _rows_of(frame_indexes(scan), np.arange(len(world)) if indexes is None else indexes)
        positions = None if rows is None else corners[rows]
        experiment = replace(experiment, probe_variations=None, variation_coefficients=None) if rows is None else (
            experiment.subset(rows)
        )  # fmt: skip
    return Reconstruction(
        object=found.image,
        weights=weights,
        origin=(float(origin[0]), float(origin[1])),
        probe=probe,
        positions=None if probe is None else positions,
        pixel_size=pixel_size,
        acquisition=Acquisition(distance, None, (float(zero[0]), float(zero[1])), focus),
        slices=found.slices,
        experiment=experiment,
    )


def is_product(content: Content) -> bool:
    """Whether these are the names in a product of ptychodus with an object."""
    return content.kind == "hdf5" and content.has("object", "probe_position_x_m", "probe_position_y_m")


def _rows_of(wanted: NDArray[np.int64], indexes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The row of each frame index; None if one is not found."""
    order = np.argsort(indexes)
    rows = order[np.searchsorted(indexes, wanted, sorter=order).clip(max=len(indexes) - 1)]
    return rows if np.array_equal(indexes[rows], wanted) else None


def _illumination(
    shape: tuple[int, ...], probe: NDArray[np.complex64] | None, corners: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sum of the probe's intensities at the nearest pixels of the corners (y, x), on an object of this shape."""
    if probe is None:
        return np.ones(shape, np.float32)
    intensity, size = np.square(np.abs(probe)).sum(0), probe.shape[-1]
    padded = np.zeros((shape[0] + 2 * size, shape[1] + 2 * size), np.float32)
    for y, x in np.rint(corners).astype(np.int64).clip(-size, np.asarray(shape)) + size:
        padded[y : y + size, x : x + size] += intensity
    return np.ascontiguousarray(padded[size:-size, size:-size])


def write_nexus_result(result: Reconstruction, path: Path, scan: Scan | None = None) -> None:
    """Write a NeXus file whose default plot is the phase of the object, with axes in metres.

    Groups of class NXdata: `phase` (the default), `amplitude`, `object` (complex), `weights`, and if known
    `uncertainty`, `amplitude_uncertainty`, `phase_uncertainty`, `error_map`, `probe`, and of a thick sample `slices`
    (complex), `slices_phase`, `slices_amplitude_uncertainty` and `slices_phase_uncertainty`, whose axis z has the
    distances. `positions` are in an NXsample, settings, versions and
    the experiment in an NXprocess.

    Args:
        result: the reconstruction; it, or the scan, must have a pixel size.
        path: the file; missing parent folders are created, an existing file is replaced.
        scan: the reconstructed scan, for energy, world coordinates and name.

    Raises:
        InputError: the pixel size is unknown.
    """
    placed = _placed(result, path, "nexus", scan)
    y, x = (placed.origin_m[axis] + placed.pixel_size * np.arange(result.shape[axis]) for axis in (0, 1))
    images = {"phase": result.phase, "amplitude": result.amplitude, "object": result.object, "weights": result.weights}
    images |= {name: value for name in MAPS if (value := getattr(result, name)) is not None}
    units = {"phase": "rad", "phase_uncertainty": "rad", "slices_phase_uncertainty": "rad"}
    with new_hdf5(path) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": _PROGRAM})
        entry = put_group(file, "entry", "NXentry", default="phase")
        entry["title"] = path.stem if scan is None else scan.name
        for name, image in images.items():
            _put_image(entry, name, image, {"y": y, "x": x}, units.get(name))
        if result.slices is not None:
            z = np.cumsum([0.0, *result.experiment.slice_distances])
            _put_image(entry, "slices", result.slices, {"z": z, "y": y, "x": x}, None)
            _put_image(entry, "slices_phase", np.angle(result.slices), {"z": z, "y": y, "x": x}, "rad")
            for name in SLICE_MAPS:
                if (values := getattr(result, name)) is not None:
                    _put_image(entry, name, values, {"z": z, "y": y, "x": x}, units.get(name))
        if placed.probe is not None:
            side = placed.pixel_size * (np.arange(placed.probe.shape[-1]) - (placed.probe.shape[-1] - 1) / 2)
            _put_image(entry, "probe", placed.probe, {"y": side, "x": side}, None)
        if scan is not None and scan.energy is not None:
            instrument = put_group(entry, "instrument", "NXinstrument")
            put_units(put_group(instrument, "beam", "NXbeam"), "incident_energy", scan.energy, "eV")
        if placed.world is not None:
            motors = put_group(put_group(entry, "sample", "NXsample"), "positions", "NXcollection")
            for axis, column in (("y", 0), ("x", 1)):
                put_units(motors, axis, placed.world[:, column], "m")
        process = put_group(entry, "process", "NXprocess")
        process["program"], process["metadata"] = _PROGRAM, json.dumps(result.record().to_json())
        put_experiment(process, result.experiment)


def is_nexus_result(content: Content) -> bool:
    """Whether these are the names in a file that :func:`write_nexus_result` wrote."""
    return content.kind == "hdf5" and content.has("entry/phase/data", "entry/weights/data", "entry/process/program")


#: Name -> writer of (reconstruction, path, scan).
EXPORTS: dict[str, Callable[[Reconstruction, Path, Scan | None], None]] = {
    "ptychodus": write_product,
    "nexus": write_nexus_result,
}


def _placed(result: Reconstruction, path: Path, format: str, scan: Scan | None) -> _Placed:
    pixel_size = result.pixel_size if result.pixel_size is not None or scan is None else scan.pixel_size
    if pixel_size is None:
        raise _no_pixel_size(path, format)
    if scan is not None and scan.pixel_size is not None:
        zero = world_origin(scan)
    else:
        zero = np.asarray(result.acquisition.world_origin or (0.0, 0.0))
    probe = result.probe if result.probe is not None or scan is None else scan.probe
    positions = result.positions if result.positions is not None or scan is None else scan.positions
    world = None if positions is None or probe is None else zero + pixel_size * (positions + (probe.shape[-1] - 1) / 2)
    return _Placed(pixel_size, zero + pixel_size * np.asarray(result.origin), probe, world)


def _no_pixel_size(path: str | Path, format: str) -> InputError:
    return InputError(
        f"{path}: a {format} reconstruction is in metres, and the scan has no pixel size; load it with pixel_size= "
        "(--pixel-size), or with energy=, distance= and detector_pixel_size="
    )


def _put_image(
    entry: h5py.Group, name: str, image: NDArray[np.generic], axes: dict[str, NDArray[np.float64]], units: str | None
) -> None:
    """Write an image (H, W), or a stack of them, as an NXdata group."""
    names = [*["."] * (image.ndim - len(axes)), *axes]
    group = put_group(entry, name, "NXdata", signal="data", axes=np.array(names, "S"))
    data = put_array(group, "data", image)
    data.attrs["interpretation"] = "image"
    if units is not None:
        data.attrs["units"] = units
    for axis, values in axes.items():
        put_units(group, axis, values, "m")
