# SPDX-License-Identifier: BSD-3-Clause
"""NeXus files of ptychography (NXptycho, NXcxi_ptycho); groups are found by class, under any name.

Quantities are converted from their `units`; without units they are in those of the definition (metres, eV). Positions
are two motors x and y in the transformations of NXsample, or a `translation` with columns x, y, z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import HC, JOULE_PER_EV, Acquisition
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, origin_of, truth_of, units_reason
from ptychopinn.io.geometry import one_size
from ptychopinn.io.hdf5 import PACKAGE_GROUP, Frames, Hdf5, put_counts, put_package_group, put_units
from ptychopinn.io.lazy import h5py
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import PROBE_UNITS, stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.new_hdf5 import new_hdf5
from ptychopinn.world import known_detector_pixel_size, needed_pixel_size, world_origin, world_positions

_LENGTHS = {"m": 1.0, "metre": 1.0, "meter": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6}
_LENGTHS |= {"nm": 1e-9, "angstrom": 1e-10, "å": 1e-10, "a": 1e-10, "pm": 1e-12, "cm": 1e-2}
_ENERGIES = {"ev": 1.0, "kev": 1e3, "mev": 1e6, "j": 1 / JOULE_PER_EV, "joule": 1 / JOULE_PER_EV}
_INVALID_BITS = 0x1F  # gap, dead, under-responding, over-responding and noisy, of NXdetector's pixel_mask


def read_nexus(path: Path, options: ReadOptions) -> Scan:
    """Read a scan from a NeXus file.

    Args:
        path: the file, with an NXentry whose NXdetector holds `data` with three axes (or four, for a raster).
        options: from the caller.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "a NeXus file") as file:
        entry = _one(file, "", "NXentry")
        instrument = _one(file, entry, "NXinstrument")
        detector = _one(file, instrument, "NXdetector")
        key = f"{detector}/data"
        frames = Frames(file, [file.need(key)])
        size = frames.shape[-1]
        sides = [_quantity(file, f"{detector}/{axis}_pixel_size", _LENGTHS) for axis in "xy"]
        package = f"{entry}/{PACKAGE_GROUP}"
        probe, truth = f"{package}/probe", f"{package}/truth"
        record = ScanRecord.from_json(file.json(f"{package}/metadata_json"))
        contents = Contents(
            file=file,
            key=key,
            patterns=frames,
            world=_positions(file, entry, detector),
            energy=_energy(file, instrument, entry),
            pixel_size=file.scalar(f"{package}/pixel_size"),
            acquisition=Acquisition(
                distance=_quantity(file, f"{detector}/distance", _LENGTHS),
                detector_pixel_size=one_size(file, f"{detector}/x_pixel_size", *sides),
                world_origin=origin_of(file, package),
            ),
            probe=stacked(file, probe, file.numeric(probe, "iufc"), size) if file.has(probe) else None,
            scale_known=units_reason(file.text_attribute(probe, "probe_units"), probe, file),
            bad_pixels=_bad_pixels(file, detector, size),
            truth=truth_of(file, truth, file.array(truth)) if file.has(truth) else None,
            stated=file.text_attribute(key, "measurement"),
            name=file.text(f"{entry}/title") or path.stem,
            frame_indexes=record.frame_indexes,
            record=record,
        )
        return assemble(contents, options)


def write_nexus(scan: Scan, path: Path) -> None:
    """Write a scan as NXcxi_ptycho: a NeXus file whose names are those of CXI.

    Args:
        scan: must have a pixel size.
        path: the file; missing parent folders are created, an existing file is replaced.
    """
    pixel_size, world = needed_pixel_size(scan), world_positions(scan)
    with new_hdf5(path) as file:
        file.attrs["default"] = "entry_1"
        entry = put_group(file, "entry_1", "NXentry", default="data_1")
        entry["title"], entry["definition"] = scan.name, "NXcxi_ptycho"
        instrument = put_group(entry, "instrument_1", "NXinstrument")
        detector = put_group(instrument, "detector_1", "NXdetector")
        put_counts(detector, "data", scan.counts)
        if scan.energy is not None:
            beam = put_group(instrument, "beam_1", "NXbeam")
            put_units(beam, "incident_beam_energy", scan.energy, "eV")
            put_units(beam, "energy", scan.energy, "eV")
        if (distance := scan.acquisition.distance) is not None:
            put_units(detector, "distance", distance, "m")
        if (side := known_detector_pixel_size(scan)) is not None:
            for axis in "xy":
                put_units(detector, f"{axis}_pixel_size", side, "m")
        if scan.bad_pixels is not None:
            detector["pixel_mask"] = scan.bad_pixels.astype(np.uint32)
        translation = np.column_stack([world[:, ::-1], np.zeros(scan.n)])
        put_units(detector, "translation", translation, "m")
        sample = put_group(entry, "sample_1", "NXsample")
        sample["name"] = scan.name
        motors = put_group(sample, "transformations", "NXtransformations")
        for axis, column, vector in (("y", 0, (0, 1, 0)), ("x", 1, (1, 0, 0))):
            motor = put_units(motors, axis, world[:, column], "m")
            motor.attrs.update({"transformation_type": "translation", "vector": vector, "depends_on": "."})
        sample["geometry_1/translation"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/translation")
        data = put_group(entry, "data_1", "NXdata", signal="data", axes=np.array(["x", ".", "."], "S"))
        data["data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        for axis in "xy":
            data[axis] = h5py.SoftLink(f"/entry_1/sample_1/transformations/{axis}")
            data.attrs[f"{axis}_indices"] = 0
        arrays = {"probe": scan.probe, "truth": scan.truth, "origin_m": world_origin(scan)}
        group = put_package_group(entry, scan, **arrays)
        group.attrs["NX_class"] = "NXcollection"
        group["pixel_size"] = pixel_size
        group["probe"].attrs["probe_units"] = PROBE_UNITS


def put_group(parent: h5py.Group, name: str, nexus_class: str, **attributes: object) -> h5py.Group:
    """Create a group of a NeXus class, with these attributes."""
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    group.attrs.update(attributes)
    return group


def _groups(file: Hdf5, inside: str, nexus_class: str) -> list[str]:
    paths = [f"{inside}/{name}" if inside else name for name in file.members(inside or "/")]
    return [path for path in paths if not file.is_array(path) and file.text_attribute(path, "NX_class") == nexus_class]


def _one(file: Hdf5, inside: str, nexus_class: str) -> str:
    """The group of a class in a group; among several, the one that `default` names or that has patterns."""
    found = _groups(file, inside, nexus_class)
    if len(found) > 1 and nexus_class == "NXentry":
        default = file.text_attribute("/", "default")
        found = [default] if default in found else [path for path in found if _has_patterns(file, path)]
    if len(found) > 1 and nexus_class == "NXdetector":
        found = [path for path in found if file.is_array(f"{path}/data") and file.dataset(f"{path}/data").ndim >= 3]
    if len(found) != 1:
        several = str(len(found)) if found else "none"
        file.fail(inside or "/", f"one group of NX_class {nexus_class}", several)
    return found[0]


def _has_patterns(file: Hdf5, entry: str) -> bool:
    detectors = [
        path for inside in _groups(file, entry, "NXinstrument") for path in _groups(file, inside, "NXdetector")
    ]
    return any(file.is_array(f"{path}/data") and file.dataset(f"{path}/data").ndim >= 3 for path in detectors)


def _quantity(file: Hdf5, key: str, units: dict[str, float]) -> float | None:
    """The number at a path, converted to metres or eV; an array must have equal values."""
    if not file.has(key):
        return None
    values = np.unique(file.numeric(key, "iuf"))
    if values.size != 1:
        file.fail(key, "one number", f"{values.size} different numbers")
    return float(values[0]) * _factor(file, key, units)


def _factor(file: Hdf5, key: str, units: dict[str, float]) -> float:
    name = file.text_attribute(key, "units")
    if name is None:
        return 1.0
    factor = units.get(name.strip().lower())
    if factor is None:
        file.fail(f"{key}@units", f"one of {', '.join(units)}", repr(name))
    return factor


def _energy(file: Hdf5, instrument: str, entry: str) -> float | None:
    """Photon energy in eV; the energy of an NXsource is that of the electrons, and is ignored."""
    holders = [path for inside in (instrument, entry) for path in _groups(file, inside, "NXbeam")]
    holders += [path for inside in _groups(file, entry, "NXsample") for path in _groups(file, inside, "NXbeam")]
    holders += _groups(file, instrument, "NXmonochromator")
    for holder in holders:
        for name in ("incident_beam_energy", "incident_energy", "energy"):
            if (energy := _quantity(file, f"{holder}/{name}", _ENERGIES)) is not None:
                return energy
        for name in ("incident_wavelength", "wavelength"):
            if file.has(f"{holder}/{name}"):
                length = _quantity(file, f"{holder}/{name}", _LENGTHS)
                if length is None or not length > 0:
                    file.fail(f"{holder}/{name}", "a positive wavelength", f"{length}")
                return HC / length
    return None


def _positions(file: Hdf5, entry: str, detector: str) -> NDArray[np.float64]:
    """Positions (n, 2), (y, x) in metres, from the motors of the sample or from a translation."""
    samples = _groups(file, entry, "NXsample")
    groups = [path for sample in samples for path in (sample, *_groups(file, sample, "NXtransformations"))]
    for group in [*groups, *_groups(file, entry, "NXdata")]:
        motors = [file.first(f"{group}/{axis}", f"{group}/{axis}_translation") for axis in "yx"]
        if motors[0] is not None and motors[1] is not None:
            y, x = (file.numeric(key, "iuf").astype(np.float64) * _factor(file, key, _LENGTHS) for key in motors if key)
            if y.shape != x.shape:
                file.fail(motors[1], f"the shape of y, {y.shape}", f"{x.shape}")
            return np.stack([y.ravel(), x.ravel()], axis=1)
    translations = [f"{sample}/geometry_1/translation" for sample in samples] + [f"{detector}/translation"]
    key = file.first(*translations)
    if key is None:
        inside = samples[0] if samples else f"{entry}/sample"
        file.fail(f"{inside}/transformations", "positions x and y of the sample, or a translation", "neither")
    translation = file.numeric(key, "iuf", ndim=2).astype(np.float64) * _factor(file, key, _LENGTHS)
    if translation.shape[1] not in (2, 3):
        file.fail(key, "columns x, y and z", f"shape {translation.shape}")
    return translation[:, 1::-1]


def _bad_pixels(file: Hdf5, detector: str, size: int) -> NDArray[np.bool_] | None:
    """Bad pixels: those with an invalid bit in a mask of NeXus, or any bit in a mask of CXI."""
    key = f"{detector}/pixel_mask"
    if not file.has(key):
        return bad_pixels_of(file, f"{detector}/mask", size)
    mask = file.numeric(key, "biu")
    if mask.ndim == 3 and len(mask) == 1:
        mask = mask[0]
    return bad_pixels_of(file, key, size, mask.astype(np.int64) & _INVALID_BITS != 0)


def is_nexus(content: Content) -> bool:
    """Whether the file has groups of the classes NXentry and NXdetector."""
    return content.kind == "hdf5" and {"NXentry", "NXdetector"} <= set(content.classes.values())


register(
    Format("nexus", "NeXus (NXptycho, NXcxi_ptycho)", (".nxs", ".nx"), is_nexus, read_nexus, write_nexus, order=70)
)
