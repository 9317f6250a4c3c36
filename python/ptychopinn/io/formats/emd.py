# SPDX-License-Identifier: BSD-3-Clause
"""Datacubes of electron microscopes in EMD files: those of py4DSTEM and emdfile (EMD 1.0), and EMD 0.2.

A datacube is a group with `data` (Ry, Rx, Qy, Qx) and a vector for each axis, `dim0` to `dim3`, or `dim1` to `dim4` in
EMD 0.2. py4DSTEM keeps steps and units in a group `calibration` of the datacube or of its root; those of the vectors
are used where it has none. The energy is that of a group of metadata or of the microscope. The first axis of scan and
detector is y.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ptychopinn.io.build import Contents, assemble
from ptychopinn.io.electrons import ELECTRONS, Step, electron_options, object_pixel, scan_step, stated_energy
from ptychopinn.io.hdf5 import Frames, Hdf5
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content, content_of
from ptychopinn.scan import Scan

_BUNDLES = ("metadatabundle", "_metadata")
#: Groups of a microscope in EMD 0.2, and in files of py4DSTEM before 0.13.
_MICROSCOPES = ("microscope", "metadata/microscope", "metadata/metadata_0/microscope")
_UNCALIBRATED = ("", "pixels", "none")

_log = logging.getLogger(__name__)


def read_emd(path: Path, options: ReadOptions) -> Scan:
    """Read a datacube of an EMD file.

    Args:
        path: the file, with one datacube of four axes.
        options: from the caller; `energy` is that of the electrons, in place of the file's.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "an EMD file") as file:
        cubes = list(_datacubes(content_of(path)))
        if len(cubes) != 1:
            found = ", ".join(group for group, _ in cubes[:8]) or "none"
            file.fail("data", "one datacube of four axes", found, "save the one to read alone")
        group, dims = cubes[0]
        key = f"{group}/data"
        frames = Frames(file, [key])
        steps = {letter: _step(file, group, letter, pair) for letter, pair in (("R", dims[:2]), ("Q", dims[2:]))}
        _warn_of_rotation(file, group)
        stated, energy = electron_options(file, options), None
        if options.energy is None:
            energies = (stated_energy(file, holder) for holder in _metadata(file, group))
            energy = next((value for value in energies if value is not None), None)
        contents = Contents(
            file=file,
            key=key,
            patterns=frames,
            raster=frames.raster,
            step=scan_step(file, f"{group}: R_pixel_units", steps["R"]),
            energy=energy,
            pixel_size=object_pixel(file, f"{group}: Q_pixel_units", steps["Q"], frames.shape[-1], stated, energy),
            name=path.stem,
            experiment=ELECTRONS,
        )
        return assemble(contents, stated)


def _datacubes(content: Content) -> Iterator[tuple[str, list[str]]]:
    """Groups with data of four axes and a vector for each, and the paths of the vectors."""
    for key in content.rasters:
        group, _, name = key.rpartition("/")
        for first in (0, 1):
            dims = [f"{group}/dim{first + axis}" for axis in range(4)]
            if name == "data" and content.has(*dims):
                yield group, dims
                break


def _step(file: Hdf5, group: str, letter: str, dims: list[str]) -> Step | None:
    """The step of the scan (R) or of the detector (Q)."""
    for holder in _calibrations(file, group):
        size, units = (f"{holder}/{letter}_pixel_{what}" for what in ("size", "units"))
        if file.has(size) and file.has(units) and file.is_text(units):
            unit = file.array(units).ravel()[0]
            text = unit.decode() if isinstance(unit, bytes) else str(unit)
            values = file.numeric(size, "iuf").astype(np.float64).ravel()
            if values.size and text.strip().lower() not in _UNCALIBRATED:
                return Step((float(values[0]), float(values[-1])), text)
    steps, units_found = [], []
    for dim in dims:
        vector = file.numeric(dim, "iuf").astype(np.float64).ravel()
        if vector.size < 2:
            return None
        steps.append(float(vector[1] - vector[0]))
        units_found.append(file.text_attribute(dim, "units") or "")
    return Step((steps[0], steps[1]), units_found[0])


def _calibrations(file: Hdf5, group: str) -> Iterator[str]:
    """Groups `calibration` of a datacube and of the groups that hold it, the nearest first."""
    parts = group.split("/")
    for depth in range(len(parts), -1, -1):
        for bundle in _BUNDLES:
            path = "/".join([*parts[:depth], bundle, "calibration"])
            if file.has(path):
                yield path


def _metadata(file: Hdf5, group: str) -> Iterator[str]:
    """Groups that can state the energy, for a datacube and for the groups that hold it, the nearest first."""
    parts = group.split("/")
    for depth in range(len(parts), -1, -1):
        above = "/".join(parts[:depth])
        here = f"{above}/" if above else ""
        bundles = [f"{here}{bundle}" for bundle in _BUNDLES]
        inside = [f"{bundle}/{name}" for bundle in bundles for name in sorted(file.members(bundle))]
        for path in (*inside, *(f"{here}{name}" for name in _MICROSCOPES)):
            if file.has(path) and file.is_group(path):
                yield path


def _warn_of_rotation(file: Hdf5, group: str) -> None:
    for holder in _calibrations(file, group):
        for name in ("QR_rotation", "QR_rotation_degrees", "QR_flip"):
            key = f"{holder}/{name}"
            if file.has(key) and not file.is_text(key) and np.any(file.array(key)):
                _log.warning(
                    "%s: key '%s': the scan is turned against the detector, and positions are read as they are; "
                    "`ptychopinn inspect` finds the orientation, and refinement of positions a rotation",
                    *(file.path, key),
                )
                return


def _is_emd(content: Content) -> bool:
    return content.kind == "hdf5" and any(True for _ in _datacubes(content))


register(
    Format(
        "emd",
        "datacubes of py4DSTEM, EMD",
        (".emd",),
        _is_emd,
        read_emd,
        takes=("positions",),
        order=72,
    )
)
