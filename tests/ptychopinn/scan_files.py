# SPDX-License-Identifier: BSD-3-Clause
"""Small files of every format, written by their public layouts with h5py and NumPy, without the package's writers.

All are files of one scan: an object that is not square, different offsets per axis, two probe modes, a bad pixel, and
unsorted frame indexes in the formats that have any.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile

N, PATTERNS = 16, 13
ENERGY, DISTANCE, DETECTOR = 8_050.0, 1.9, 55e-6
HC = 1.2398419843320026e-06
PIXEL = HC / ENERGY * DISTANCE / (N * DETECTOR)
SHAPE, CENTRE = (47, 39), np.array([-0.7e-6, 1.9e-6])

_rng = np.random.default_rng(17)
COUNTS = _rng.poisson(60, (PATTERNS, N, N)).astype(np.uint16)
COUNTS[:, 2, 3] = 9
#: (y, x) of patch sample [0, 0] in pixels of the object.
CORNERS = np.column_stack([_rng.uniform(1, 28, PATTERNS), _rng.uniform(3, 20, PATTERNS)])
#: (y, x) of the patch centres in metres.
WORLD = CENTRE + PIXEL * (CORNERS + (N - 1) / 2 - (np.array(SHAPE) - 1) / 2)
PROBE = (_rng.normal(size=(2, N, N)) + 1j * _rng.normal(size=(2, N, N))).astype(np.complex64)
OBJECT = (_rng.normal(size=SHAPE) + 1j * _rng.normal(size=SHAPE)).astype(np.complex64)
BAD = np.zeros((N, N), np.bool_)
BAD[2, 3] = True
#: Scan indexes of the patterns, and the order in which positions are written.
INDEXES = np.arange(PATTERNS)[::-1] * 3 + 5
SHUFFLED = _rng.permutation(PATTERNS)


def detector_intensity(probe: np.ndarray) -> np.ndarray:
    """Return the intensity (N, N) of a probe (M, N, N) at the detector, without an object."""
    waves = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return np.square(np.abs(waves)).sum(0)


def contract_npz(folder: Path) -> Path:
    path = folder / "contract.npz"
    middle = CORNERS + N // 2
    np.savez(path, diff3d=COUNTS, ycoords=middle[:, 0], xcoords=middle[:, 1], probeGuess=PROBE, objectGuess=OBJECT)
    return path


def ptychodus_npz(folder: Path) -> Path:
    path = folder / "train_data.npz"
    y, x = (CORNERS + (N - 1) / 2).T
    keys = {"xcoords": x, "ycoords": y, "xcoords_start": x, "ycoords_start": y, "diff3d": COUNTS, "bad_pixels": BAD}
    np.savez(path, **keys, probeGuess=PROBE, objectGuess=OBJECT, scan_index=np.zeros(PATTERNS, np.int64))
    return path


def diffraction(folder: Path) -> Path:
    path = folder / "diffraction.h5"
    with h5py.File(path, "w") as file:
        file["indexes"], file["bad_pixels"] = INDEXES, BAD
        patterns = file.create_dataset("patterns", data=COUNTS, compression="lzf")
        patterns.attrs["detector_pixel_width_m"] = patterns.attrs["detector_pixel_height_m"] = DETECTOR
    return path


def product(folder: Path) -> Path:
    path = folder / "product.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"name": "sample", "comments": "", "far_field": True, "probe_photon_count": 0.0})
        file.attrs.update({"photon_energy_eV": ENERGY, "detector_object_distance_m": DISTANCE})
        file["probe"], file["object"] = PROBE[np.newaxis], OBJECT[np.newaxis]
        for key in ("probe", "object"):
            file[key].attrs.update({"pixel_width_m": PIXEL, "pixel_height_m": PIXEL})
        file["object"].attrs.update({"center_y_m": CENTRE[0], "center_x_m": CENTRE[1]})
        file["probe_position_indexes"] = INDEXES[SHUFFLED]
        file["probe_position_y_m"], file["probe_position_x_m"] = WORLD[SHUFFLED].T
    return path


def pair(folder: Path) -> Path:
    product(folder)
    return diffraction(folder)


def training(folder: Path) -> Path:
    path = folder / "training_data.h5"
    with h5py.File(path, "w") as file:
        file["patterns"], file["bad_pixels"], file["probe"], file["object"] = COUNTS, BAD, PROBE, OBJECT
        file["probe_position_y_px"], file["probe_position_x_px"] = (CORNERS + (N - 1) / 2).T
        file["object_pixel_width_m"] = file["object_pixel_height_m"] = PIXEL
        file["detector_object_distance_m"], file["photon_energy_eV"] = DISTANCE, ENERGY
    return path


def cxi(folder: Path) -> Path:
    """Write the layout of ptychodus: detector data, translation, image_1 the probe, image_2 the object."""
    path = folder / "scan.cxi"
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file["entry_1/title"] = "sample"
        file["entry_1/instrument_1/source_1/energy"] = ENERGY * 1.602176634e-19
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"], detector["distance"], detector["mask"] = COUNTS, DISTANCE, BAD.astype(np.uint32)
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR
        file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        file["entry_1/sample_1/geometry_1/translation"] = np.column_stack([WORLD[:, ::-1], np.zeros(PATTERNS)])
        file["entry_1/image_1/data"], file["entry_1/image_2/data"] = PROBE[np.newaxis], OBJECT[np.newaxis]
        extra = file.create_group("entry_1/ptychodus")
        extra["object_center_y_m"], extra["object_center_x_m"] = CENTRE
        extra["object_pixel_width_m"] = extra["object_pixel_height_m"] = PIXEL
    return path


def bare_cxi(folder: Path) -> Path:
    """Write the layout of the CXI data bank: vectors instead of pixel sizes, no probe, no object."""
    path = folder / "bare.cxi"
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 150
        file["entry_1/instrument_1/source_1/energy"] = ENERGY * 1.602176634e-19
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"], detector["distance"], detector["mask"] = COUNTS, DISTANCE, BAD.astype(np.uint32)
        detector["basis_vectors"] = np.array([[0, -DETECTOR], [-DETECTOR, 0], [0, 0]])
        file["entry_1/data_1/translation"] = np.column_stack([WORLD[:, ::-1], np.zeros(PATTERNS)])
    return path


def ptyd(folder: Path) -> Path:
    path = folder / "scan.ptyd"
    with h5py.File(path, "w") as file:
        file["meta/energy"], file["meta/distance"], file["meta/psize"] = [ENERGY / 1e3], [DISTANCE], [DETECTOR] * 2
        file["meta/label"], file["meta/propagation"], file["meta/center"] = "sample", "farfield", "None"
        for number, part in enumerate((slice(0, 5), slice(5, 12), slice(12, PATTERNS))):
            chunk = file.create_group(f"chunks/{number}")
            chunk["data"], chunk["positions"] = COUNTS[part].astype(np.float32), WORLD[part]
            chunk["indices"] = np.arange(PATTERNS)[part].astype(float)
            chunk["weights"] = np.broadcast_to(~BAD, COUNTS[part].shape).astype(np.float32)
    return path


def nexus(folder: Path) -> Path:
    """Write arbitrary names with NeXus classes, and quantities in units that must be converted."""
    path = folder / "scan.nxs"
    with h5py.File(path, "w") as file:
        for name, kind in (
            ("run", "NXentry"),
            ("run/beamline", "NXinstrument"),
            ("run/beamline/eiger", "NXdetector"),
            ("run/beamline/source", "NXsource"),
            ("run/beamline/mono", "NXmonochromator"),
            ("run/stage", "NXsample"),
            ("run/stage/transformations", "NXtransformations"),
        ):
            file.create_group(name).attrs["NX_class"] = kind
        detector = file["run/beamline/eiger"]
        detector["data"], detector["pixel_mask"] = COUNTS, BAD.astype(np.uint32) * 2
        for name, value, units in (
            ("run/beamline/eiger/distance", DISTANCE * 1e3, "mm"),
            ("run/beamline/eiger/x_pixel_size", DETECTOR * 1e6, "um"),
            ("run/beamline/eiger/y_pixel_size", DETECTOR * 1e6, "um"),
            ("run/beamline/mono/energy", ENERGY / 1e3, "keV"),
            ("run/beamline/source/energy", 3.0, "GeV"),
            ("run/stage/transformations/y", WORLD[:, 0] * 1e3, "mm"),
            ("run/stage/transformations/x", WORLD[:, 1] * 1e6, "µm"),
        ):
            file[name] = value
            file[name].attrs["units"] = units
    return path


def arrays(folder: Path) -> Path:
    path = folder / "raw_patterns.npy"
    np.save(path, COUNTS)
    np.save(folder / "raw_bad_pixels.npy", BAD)
    np.savetxt(folder / "raw_positions.csv", WORLD, delimiter=",")
    return path


def cube(folder: Path) -> Path:
    """Write one data set with three axes in an HDF5 file, and a CSV file with columns in the order x, y."""
    path = folder / "cube.h5"
    with h5py.File(path, "w") as file:
        file["measured/frames"], file["measured/temperature"] = COUNTS, np.ones(PATTERNS)
    np.save(folder / "cube_bad_pixels.npy", BAD)
    lines = ["x_m,y_m", *(f"{x!r},{y!r}" for y, x in WORLD.tolist())]
    (folder / "cube_positions.csv").write_text("\n".join(lines) + "\n")
    return path


def eiger(folder: Path) -> Path:
    """Write a master file with links to three data files, and positions beside it."""
    path = folder / "series_master.h5"
    with h5py.File(path, "w") as file:
        for name, kind in (
            ("entry", "NXentry"),
            ("entry/data", "NXdata"),
            ("entry/instrument", "NXinstrument"),
            ("entry/instrument/beam", "NXbeam"),
            ("entry/instrument/detector", "NXdetector"),
        ):
            file.create_group(name).attrs["NX_class"] = kind
        for number, part in enumerate((slice(0, 5), slice(5, 10), slice(10, PATTERNS)), 1):
            data = f"series_data_{number:06d}.h5"
            with h5py.File(folder / data, "w") as other:
                other.create_dataset("entry/data/data", data=COUNTS[part], chunks=(1, N, N), compression="gzip")
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(data, "/entry/data/data")
        detector = file["entry/instrument/detector"]
        for key, value in (("x_pixel_size", DETECTOR), ("y_pixel_size", DETECTOR), ("detector_distance", DISTANCE)):
            detector[key] = value
            detector[key].attrs["units"] = "m"
        detector["detectorSpecific/pixel_mask"] = BAD.astype(np.uint32) * 2
        beam = file["entry/instrument/beam"]
        beam["incident_wavelength"] = HC / ENERGY * 1e10
        beam["incident_wavelength"].attrs["units"] = "angstrom"
    np.savetxt(folder / "series_master_positions.csv", WORLD, delimiter=",")
    return path


def tiff(folder: Path) -> Path:
    """Write a stack of pages, and a table of positions in micrometres between blanks."""
    path = folder / "stack.tif"
    tifffile.imwrite(path, COUNTS, photometric="minisblack")
    np.save(folder / "stack_bad_pixels.npy", BAD)
    rows = [f"{x * 1e6!r}  {y * 1e6!r}" for y, x in WORLD.tolist()]
    (folder / "stack_positions.txt").write_text("\n".join(["# stage", "# x_um  y_um", *rows]) + "\n")
    return path


#: Name in the tests -> (maker, name of the format, whether it has a probe, an object, metres).
FILES: dict[str, tuple[Callable[[Path], Path], str, bool, bool, bool]] = {
    "contract_npz": (contract_npz, "npz", True, True, False),
    "ptychodus_npz": (ptychodus_npz, "ptychodus-npz", True, True, False),
    "pair": (pair, "ptychodus", True, True, True),
    "training": (training, "ptychodus-training", True, True, True),
    "cxi": (cxi, "cxi", True, True, True),
    "bare_cxi": (bare_cxi, "cxi", False, False, True),
    "ptyd": (ptyd, "ptyd", False, False, True),
    "nexus": (nexus, "nexus", False, False, True),
    "eiger": (eiger, "eiger", False, False, True),
    "arrays": (arrays, "arrays", False, False, True),
    "tiff": (tiff, "tiff", False, False, True),
    "cube": (cube, "arrays", False, False, True),
}
#: Options that plain arrays need.
GEOMETRY = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": DETECTOR}
