# SPDX-License-Identifier: BSD-3-Clause
"""NeXus files of ptychography (NXptycho, NXcxi_ptycho); groups are found by class, under any name.

Quantities are converted from their `units`; without units they are in those of the definition (metres, eV). Positions
are two motors x and y in the transformations of NXsample, or a `translation` with columns x, y, z.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition, energy_of_wavelength
from ptychopinn.errors import InputError
from ptychopinn.io.build import Contents, assemble, origin_of, truth_of, units_reason
from ptychopinn.io.candidates import patterns_key
from ptychopinn.io.electrons import stated_energy
from ptychopinn.io.formats.eiger import is_eiger
from ptychopinn.io.geometry import detector_sides
from ptychopinn.io.hdf5 import PACKAGE_GROUP, Frames, Hdf5, put_counts, put_package_group, put_units
from ptychopinn.io.lazy import h5py
from ptychopinn.io.masks import cxi_mask, nexus_mask
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import PROBE_UNITS, stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import GROUP as EXPERIMENT
from ptychopinn.io.stored_experiments import experiment_in, warn_of_unread
from ptychopinn.io.units import ENERGIES, LENGTHS, Units
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.new_hdf5 import new_hdf5
from ptychopinn.world import known_detector_pixel_size, needed_pixel_size, world_origin, world_positions

_POSITIONS = "positions x and y of the sample, or a translation (or positions=, --positions FILE.csv)"


def read_nexus(path: Path, options: ReadOptions) -> Scan:
    """Read a scan from a NeXus file.

    Args:
        path: the file, with an NXentry whose NXdetector holds `data` with three axes (or four, for a raster).
        options: from the caller.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "a NeXus file") as file:
        entry = only_one(file, "", "NXentry")
        instrument = only_one(file, entry, "NXinstrument")
        detector = only_one(file, instrument, "NXdetector")
        units = Units(file, options)
        key = patterns_key(file, options, f"{detector}/data")
        frames = Frames(file, [key])
        sides = [units.number(f"{detector}/{axis}_pixel_size", LENGTHS) for axis in "xy"]
        side, pixel_sides = detector_sides(file, f"{detector}/x_pixel_size", sides, options)
        package = f"{entry}/{PACKAGE_GROUP}"
        probe, truth = f"{package}/probe", f"{package}/truth"
        record = ScanRecord.from_json(file.json(f"{package}/metadata_json"))
        world, positions_key = None, ""
        if not options.states_positions:
            world, positions_key = _positions(file, units, entry, detector)
        own_probe = options.probe is None and file.has(probe)
        radiation = _radiation(file, instrument, entry)
        stored = experiment_in(file, f"{package}/{EXPERIMENT}/", record.experiment, frames.total)
        contents = Contents(
            file=file,
            key=key,
            patterns=frames,
            world=world,
            positions_without_unit=None if units.stated(positions_key) else positions_key,
            energy=energy_of(file, units, instrument, entry, radiation),
            pixel_size=file.scalar(f"{package}/pixel_size"),
            acquisition=Acquisition(
                distance=units.number(f"{detector}/distance", LENGTHS),
                detector_pixel_size=side,
                world_origin=origin_of(file, package),
            ),
            pixel_sides=pixel_sides,
            probe=stacked(file, probe, file.numeric(probe, "iufc")) if own_probe else None,
            scale_known=units_reason(file.text_attribute(probe, "probe_units"), probe, file),
            bad_pixels=pixel_mask_of(file, detector),
            truth=truth_of(file, truth, file.array(truth)) if file.has(truth) else None,
            stated=file.text_attribute(key, "measurement"),
            name=file.text(f"{entry}/title") or path.stem,
            frame_indexes=record.frame_indexes,
            record=record,
            experiment=replace(stored, radiation=radiation) if radiation == "electron" else stored,
        )
        units.report()
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
            if scan.experiment.radiation == "electron":
                put_group(instrument, "source_1", "NXsource")["probe"] = "electron"
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
    warn_of_unread(path, scan.experiment, "another reader of NeXus")


def put_group(parent: h5py.Group, name: str, nexus_class: str, **attributes: object) -> h5py.Group:
    """Create a group of a NeXus class, with these attributes."""
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    group.attrs.update(attributes)
    return group


def groups_of_class(file: Hdf5, inside: str, nexus_class: str) -> list[str]:
    """The groups of a class in a group."""
    paths = [f"{inside}/{name}" if inside else name for name in file.members(inside or "/")]
    return [path for path in paths if file.is_group(path) and file.text_attribute(path, "NX_class") == nexus_class]


def only_one(file: Hdf5, inside: str, nexus_class: str) -> str:
    """The group of a class in a group; among several, the one that `default` names or that has patterns."""
    found = groups_of_class(file, inside, nexus_class)
    if len(found) > 1 and nexus_class == "NXentry":
        default = file.text_attribute("/", "default")
        found = [default] if default in found else [path for path in found if _has_patterns(file, path)]
    if len(found) > 1 and nexus_class == "NXdetector":
        found = [path for path in found if _has_cube(file, path)]
    if len(found) != 1:
        several = str(len(found)) if found else "none"
        file.fail(inside or "/", f"one group of NX_class {nexus_class}", several)
    return found[0]


def _has_patterns(file: Hdf5, entry: str) -> bool:
    detectors = [
        path
        for inside in groups_of_class(file, entry, "NXinstrument")
        for path in groups_of_class(file, inside, "NXdetector")
    ]
    return any(_has_cube(file, path) for path in detectors)


def _has_cube(file: Hdf5, detector: str) -> bool:
    """Whether a detector has patterns; data that cannot be read are those of another detector."""
    try:
        return file.is_array(f"{detector}/data") and file.dataset(f"{detector}/data").ndim >= 3
    except InputError:
        return False


def _radiation(file: Hdf5, instrument: str, entry: str) -> Literal["photon", "electron"]:
    """The radiation by `probe` of an NXsource: electrons where it is "electron", else photons."""
    for path in (path for inside in (instrument, entry) for path in groups_of_class(file, inside, "NXsource")):
        if file.has(f"{path}/probe") and file.is_text(f"{path}/probe"):
            return "electron" if (file.text(f"{path}/probe") or "").strip().lower() == "electron" else "photon"
    return "photon"


def energy_of(
    file: Hdf5, units: Units, instrument: str, entry: str, radiation: Literal["photon", "electron"] = "photon"
) -> float | None:
    """Energy in eV of the beam; that of an NXsource is used for electrons, and else is that of a storage ring."""
    holders = [path for inside in (instrument, entry) for path in groups_of_class(file, inside, "NXbeam")]
    holders += [
        path for inside in groups_of_class(file, entry, "NXsample") for path in groups_of_class(file, inside, "NXbeam")
    ]
    holders += groups_of_class(file, instrument, "NXmonochromator")
    for holder in holders:
        for name in ("incident_beam_energy", "incident_energy", "energy"):
            if (energy := units.number(f"{holder}/{name}", ENERGIES)) is not None:
                return energy
        for name in ("incident_wavelength", "wavelength"):
            if file.has(f"{holder}/{name}"):
                length = units.number(f"{holder}/{name}", LENGTHS)
                if length is None or not length > 0:
                    file.fail(f"{holder}/{name}", "a positive wavelength", f"{length}")
                return energy_of_wavelength(length, radiation)
    if radiation == "electron":  # the source is the gun of a microscope
        for source in (path for inside in (instrument, entry) for path in groups_of_class(file, inside, "NXsource")):
            if units.options.energy is None and (volts := stated_energy(file, source)) is not None:
                return volts
    return None


def _positions(file: Hdf5, units: Units, entry: str, detector: str) -> tuple[NDArray[np.float64], str]:
    """Positions (n, 2), (y, x) in metres, from the motors of the sample or from a translation; and their path."""
    samples = groups_of_class(file, entry, "NXsample")
    groups = [path for sample in samples for path in (sample, *groups_of_class(file, sample, "NXtransformations"))]
    for group in [*groups, *groups_of_class(file, entry, "NXdata")]:
        motors = [file.first(f"{group}/{axis}", f"{group}/{axis}_translation") for axis in "yx"]
        if motors[0] is not None and motors[1] is not None:
            y, x = (file.numeric(key, "iuf").astype(np.float64) * units.factor(key, LENGTHS) for key in motors if key)
            if y.shape != x.shape:
                file.fail(motors[1], f"the shape of y, {y.shape}", f"{x.shape}")
            unknown = next((key for key in motors if key and not units.stated(key)), motors[0])
            return np.stack([y.ravel(), x.ravel()], axis=1), unknown
    translations = [f"{sample}/geometry_1/translation" for sample in samples] + [f"{detector}/translation"]
    key = file.first(*translations)
    if key is None:
        inside = samples[0] if samples else f"{entry}/sample"
        file.fail(f"{inside}/transformations", _POSITIONS, "neither")
    translation = file.numeric(key, "iuf", ndim=2).astype(np.float64) * units.factor(key, LENGTHS)
    if translation.shape[1] not in (2, 3):
        file.fail(key, "columns x, y and z", f"shape {translation.shape}")
    return translation[:, 1::-1], key


def pixel_mask_of(file: Hdf5, detector: str) -> NDArray[np.bool_] | None:
    """Bad pixels of a `pixel_mask` of NeXus, or of a `mask` of CXI."""
    key = f"{detector}/pixel_mask"
    return nexus_mask(file, key) if file.has(key) else cxi_mask(file, f"{detector}/mask")


def is_nexus(content: Content) -> bool:
    """Whether the file has groups of the classes NXentry and NXdetector, and not the data sets of an Eiger's master."""
    classes = {"NXentry", "NXdetector"} <= set(content.classes.values())
    return content.kind == "hdf5" and classes and not is_eiger(content)


register(
    Format(
        "nexus",
        "NeXus (NXptycho, NXcxi_ptycho)",
        (".nxs", ".nx"),
        is_nexus,
        read_nexus,
        write_nexus,
        takes=("positions", "patterns"),
        order=70,
    )
)
