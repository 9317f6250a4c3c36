# SPDX-License-Identifier: BSD-3-Clause
"""CXI files (cxidb.org, version 1.6), which ptychodus can also open.

All values are in SI units, including energies (joule), unless they have the attribute `units`. `translation` is
(x, y, z) in metres, x along the columns of the pattern and y along its rows, as in ptychodus. `image_1` can be the
probe, `image_2` the object.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import JOULE_PER_EV, Acquisition
from ptychopinn.decisions import Decision
from ptychopinn.io.build import Contents, assemble, first_pixel, truth_of, units_reason
from ptychopinn.io.candidates import patterns_key
from ptychopinn.io.formats.nexus import is_nexus
from ptychopinn.io.geometry import detector_sides, one_size
from ptychopinn.io.hdf5 import PACKAGE_GROUP, Frames, Hdf5, put_counts, put_package_group, put_units
from ptychopinn.io.indexes import indexes_of, pair_by_index, with_pairing
from ptychopinn.io.lazy import h5py
from ptychopinn.io.masks import cxi_mask
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import PROBE_UNITS
from ptychopinn.io.probe_layout import arranged
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import GROUP as EXPERIMENT
from ptychopinn.io.stored_experiments import experiment_in, warn_of_unread
from ptychopinn.io.units import ENERGIES, LENGTHS, Units
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.new_hdf5 import new_hdf5, put_array
from ptychopinn.world import (
    known_detector_pixel_size,
    needed_pixel_size,
    photon_energy,
    world_origin,
    world_positions,
)

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"
SOURCE = f"{ENTRY}/instrument_1/source_1"
_PTYCHODUS = f"{ENTRY}/ptychodus"
PATTERNS = (f"{DETECTOR}/data", f"{ENTRY}/data_1/data")
POSITIONS = (
    f"{ENTRY}/sample_1/geometry_1/translation",
    f"{ENTRY}/data_1/translation",
    f"{DETECTOR}/translation",
)
VERSION = 160
_INVALID = 1  # the bit of a mask that marks an invalid pixel


def read_cxi(path: Path, options: ReadOptions) -> Scan:
    """Read a scan from a CXI file.

    Args:
        path: the file, with patterns in `entry_1/instrument_1/detector_1/data` (or `entry_1/data_1/data`) and positions
            in `entry_1/sample_1/geometry_1/translation`.
        options: from the caller.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "a CXI file") as file:
        units = Units(file, options, joule=True)
        key = patterns_key(file, options, *PATTERNS)
        frames = Frames(file, [key])
        positions_key, translation = "", None
        if not options.states_positions:
            positions_key, translation = _positions(file, units)
        pixel_size, truth, origin = _object(file)
        record = ScanRecord.from_json(file.json(f"{ENTRY}/{PACKAGE_GROUP}/metadata_json"))
        frame_indexes = record.frame_indexes
        order: NDArray[np.int64] | None = None
        indexes = None
        if translation is not None:
            indexes = indexes_of(file, f"{_PTYCHODUS}/probe_position_indexes", len(translation))
        if translation is not None and indexes is not None:
            pattern_indexes = np.arange(frames.total)
            pairs = pair_by_index(file, pattern_indexes, indexes, frames.total, len(translation))
            order, frame_indexes, translation = pairs.patterns, pairs.frame_indexes, translation[pairs.positions]
            record = with_pairing(record, pairs)
        probe, layout = (None, None) if options.probe is not None else _probe(file)
        patterns = frames if order is None else frames.take(order)
        side, pixel_sides = detector_sides(file, *_detector_pixel(file, units), options)
        prefix = f"{ENTRY}/{PACKAGE_GROUP}/{EXPERIMENT}/"
        contents = Contents(
            file=file,
            key=key,
            patterns=patterns,
            world=None if translation is None else translation[:, 1::-1],
            positions_without_unit=None if units.stated(positions_key) else positions_key,
            energy=units.number(f"{SOURCE}/energy", ENERGIES),
            photon_energy=True,
            pixel_size=pixel_size,
            pixel_sides=pixel_sides,
            acquisition=Acquisition(units.number(f"{DETECTOR}/distance", LENGTHS), side, origin),
            probe=probe,
            probe_layout=layout,
            scale_known=units_reason(file.text_attribute(f"{ENTRY}/image_1/data", "probe_units"), "image_1/data", file),
            bad_pixels=cxi_mask(file, f"{DETECTOR}/mask"),
            truth=truth,
            stated=file.text_attribute(key, "measurement"),
            name=file.text(f"{ENTRY}/title") or path.stem,
            frame_indexes=frame_indexes,
            record=record,
            experiment=experiment_in(file, prefix, record.experiment, patterns.shape[0]),
        )
        units.report()
        return assemble(contents, options)


def write_cxi(scan: Scan, path: Path) -> None:
    """Write patterns, positions, probe and, if known, the object of a scan to a CXI file.

    Args:
        scan: must have a pixel size.
        path: the file; missing parent folders are created, an existing file is replaced.
    """
    pixel_size, world, origin = needed_pixel_size(scan), world_positions(scan), world_origin(scan)
    with new_hdf5(path) as file:
        file["cxi_version"] = VERSION
        entry = file.create_group(ENTRY)
        entry["title"] = entry["sample_1/name"] = scan.name
        detector, source = file.create_group(DETECTOR), file.create_group(SOURCE)
        put_counts(detector, "data", scan.counts)
        if scan.bad_pixels is not None:
            detector["mask"] = np.where(scan.bad_pixels, _INVALID, 0).astype(np.uint32)
        if (energy := photon_energy(scan)) is not None:
            put_units(source, "energy", energy * JOULE_PER_EV, "J")
        if (distance := scan.acquisition.distance) is not None:
            put_units(detector, "distance", distance, "m")
        if (side := known_detector_pixel_size(scan)) is not None:
            for axis in "xy":
                put_units(detector, f"{axis}_pixel_size", side, "m")
        put_units(entry, "sample_1/geometry_1/translation", np.column_stack([world[:, ::-1], np.zeros(scan.n)]), "m")
        entry["data_1/data"] = h5py.SoftLink(f"/{PATTERNS[0]}")
        entry["data_1/translation"] = h5py.SoftLink(f"/{POSITIONS[0]}")
        # ptychodus has the axes coherent, incoherent, y, x, and requires an object with a probe
        image = scan.truth if scan.truth is not None else np.ones((scan.patch_size, scan.patch_size), np.complex64)
        centre = origin + pixel_size * (np.asarray(image.shape, np.float64) - 1) / 2
        for name, array, kind in (
            ("image_1", scan.probe[np.newaxis], "probe"),
            ("image_2", image[np.newaxis], "object"),
        ):
            group = entry.create_group(name)
            put_array(group, "data", array)
            group["data_space"] = "real"
            group["image_size"] = np.array([array.shape[-1] * pixel_size, array.shape[-2] * pixel_size, 0.0])
            for side_name in ("width", "height"):
                entry[f"ptychodus/{kind}_pixel_{side_name}_m"] = pixel_size
        entry["image_1/data"].attrs["probe_units"] = PROBE_UNITS
        entry["ptychodus/object_center_y_m"], entry["ptychodus/object_center_x_m"] = centre
        put_package_group(entry, scan)
    warn_of_unread(path, scan.experiment, "another reader of CXI")


def _positions(file: Hdf5, units: Units) -> tuple[str, NDArray[np.float64]]:
    """The path of the positions, and (n, 2) or (n, 3) metres with columns x, y."""
    key = file.need(*POSITIONS)
    translation = file.numeric(key, "iuf", ndim=2).astype(np.float64)
    if translation.shape[1] not in (2, 3):
        file.fail(key, "columns x, y and z", f"shape {translation.shape}")
    return key, translation * units.factor(key, LENGTHS)


def detector_pixel(file: Hdf5, units: Units) -> float | None:
    """Side of the detector's square pixels in metres."""
    key, (width, height) = _detector_pixel(file, units)
    return one_size(file, key, width, height)


def _detector_pixel(file: Hdf5, units: Units) -> tuple[str, tuple[float | None, float | None]]:
    """Path, and width and height of a pixel in metres, from `{x,y}_pixel_size` or the lengths of `basis_vectors`."""
    x, y = (units.number(f"{DETECTOR}/{axis}_pixel_size", LENGTHS) for axis in "xy")
    key = f"{DETECTOR}/x_pixel_size"
    unknown = x is None and y is None and units.options.detector_pixel_size is None
    if unknown and file.has(f"{DETECTOR}/basis_vectors"):
        key = f"{DETECTOR}/basis_vectors"
        vectors = file.numeric(key, "iuf").astype(np.float64)
        if vectors.ndim < 2 or vectors.shape[-2:] not in ((3, 2), (2, 3)):
            file.fail(key, "two vectors of three components", f"shape {vectors.shape}")
        vectors = vectors.reshape(-1, *vectors.shape[-2:])[0] * units.factor(key, LENGTHS)
        y, x = np.linalg.norm(vectors, axis=0 if vectors.shape == (3, 2) else 1)
    return key, (None if x is None else float(x), None if y is None else float(y))


def _probe(file: Hdf5) -> tuple[NDArray[np.complex64] | None, Decision | None]:
    key = file.first(f"{ENTRY}/image_1/data", f"{SOURCE}/illumination")
    if key is None:
        return None, None
    return arranged(file, key, file.numeric(key, "iufc"))


def _object(file: Hdf5) -> tuple[float | None, NDArray[np.complex64] | None, tuple[float, float] | None]:
    """Pixel size in metres, object (H, W), world coordinate (y, x) of its pixel (0, 0); each None if unknown."""
    key = f"{ENTRY}/image_2/data"
    width, height = (file.scalar(f"{_PTYCHODUS}/object_pixel_{side}_m") for side in ("width", "height"))
    pixel_size = one_size(file, f"{_PTYCHODUS}/object_pixel_width_m", width, height)
    centre = [file.scalar(f"{_PTYCHODUS}/object_center_{axis}_m") for axis in "yx"]
    if not file.has(key) or pixel_size is None or centre[0] is None or centre[1] is None:
        return pixel_size, None, None
    layers = file.numeric(key, "iufc")
    layers = layers[np.newaxis] if layers.ndim == 2 else layers
    if layers.ndim != 3 or not layers.size:
        file.fail(key, "an object (L, H, W)", f"shape {layers.shape}")
    origin = first_pixel((centre[0], centre[1]), pixel_size, layers.shape[1:])
    return pixel_size, truth_of(file, key, layers[0]) if len(layers) == 1 else None, origin


def _is_cxi(content: Content) -> bool:
    """Names of CXI without NeXus classes; with classes the format is NXcxi_ptycho."""
    named = content.has("cxi_version") or content.has(PATTERNS[0])
    return content.kind == "hdf5" and named and not is_nexus(content)


register(
    Format(
        "cxi", "CXI of cxidb.org", (".cxi",), _is_cxi, read_cxi, write_cxi, takes=("positions", "patterns"), order=50
    )
)
