# SPDX-License-Identifier: BSD-3-Clause
"""Prepared data of ptypy (`.ptyd`, HDF5): patterns with positions, indexes and weights in chunks, and the geometry.

The format has energies in keV, lengths in metres, positions (y, x), and no probe, which is an option of the caller or
is estimated. A pixel whose weight is 0 in any pattern is bad in all, since a Scan has one mask.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition, near_field, wavelength_of
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, origin_of, truth_of
from ptychopinn.io.geometry import detector_sides
from ptychopinn.io.hdf5 import PACKAGE_GROUP, Frames, Hdf5, put_counts, put_package_group
from ptychopinn.io.indexes import frame_indexes, unique_indexes, unless_in_order
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import stacked
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import GROUP as EXPERIMENT
from ptychopinn.io.stored_experiments import experiment_in, warn_of_unread
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.new_hdf5 import check_written, new_hdf5, put_array
from ptychopinn.world import (
    known_detector_pixel_size,
    needed_pixel_size,
    photon_energy,
    world_origin,
    world_positions,
)

_GROUPS = ("meta", "info", "common")

_log = logging.getLogger(__name__)


def read_ptyd(path: Path, options: ReadOptions) -> Scan:
    """Read a scan that ptypy prepared.

    Args:
        path: the file, with `chunks/0/data`, `chunks/0/positions` and so on, and geometry in `meta` (or `info`).
        options: from the caller; should include a probe.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    with Hdf5(path, "a ptyd file") as file:
        chunks = sorted((name for name in file.members("chunks") if name.isdecimal()), key=int)
        if not chunks:
            file.need("chunks/0/data")
        frames = Frames(file, [file.need(f"chunks/{name}/data") for name in chunks])
        positions = [_positions(file, f"chunks/{name}") for name in chunks]
        kev = _lengths(file, "energy")[0]
        record = ScanRecord.from_json(file.json(f"{PACKAGE_GROUP}/metadata_json"))
        stated = options.near_field or record.experiment.fresnel_number is not None
        if _text(file, "propagation") == "nearfield" and not stated:
            found = "a near-field one; state near_field= (--near-field) if its distance is the effective one"
            file.fail("meta/propagation", "a far-field experiment", found)
        side, pixel_sides = detector_sides(file, "meta/psize", _lengths(file, "psize")[::-1], options)
        probe, truth = f"{PACKAGE_GROUP}/probe", f"{PACKAGE_GROUP}/truth"
        own_probe = options.probe is None and file.has(probe)
        contents = Contents(
            file=file,
            key=f"chunks/{chunks[0]}/data",
            patterns=frames,
            world=np.concatenate(positions),
            energy=None if kev is None else kev * 1e3,
            photon_energy=True,
            pixel_size=file.scalar(f"{PACKAGE_GROUP}/pixel_size"),
            pixel_sides=pixel_sides,
            acquisition=_acquisition(file, record, side),
            probe=stacked(file, probe, file.numeric(probe, "iufc")) if own_probe else None,
            scale_known="written by this package in sqrt_counts" if file.has(probe) else None,
            bad_pixels=_bad_pixels(file, chunks, frames.shape[1:]),
            truth=truth_of(file, truth, file.array(truth)) if file.has(truth) else None,
            stated=file.text_attribute(f"chunks/{chunks[0]}/data", "measurement"),
            name=file.text(f"{PACKAGE_GROUP}/name") or _text(file, "label") or path.stem,
            frame_indexes=_frame_indexes(file, chunks, frames.total),
            record=record,
            experiment=experiment_in(file, f"{PACKAGE_GROUP}/{EXPERIMENT}/", record.experiment, frames.total),
        )
        return assemble(contents, options)


def write_ptyd(scan: Scan, path: Path) -> None:
    """Write a scan as prepared data of ptypy, in one chunk, with probe and truth in the group of this package.

    Args:
        scan: must have a pixel size, an energy, and a distance or a detector pixel size.
        path: the file; missing parent folders are created, an existing file is replaced.
    """
    pixel_size, world = needed_pixel_size(scan), world_positions(scan)
    side, distance, focus = known_detector_pixel_size(scan), scan.acquisition.distance, scan.acquisition.source_distance
    if focus is not None and side is not None and distance is not None:  # ptypy has parallel beams: the equivalent one
        near = near_field(wavelength_of(photon_energy(scan) or 1.0), distance, side, focus)
        side, distance = near.pixel_size, near.distance
    with new_hdf5(path) as file:
        meta = file.create_group("meta")
        far = "farfield" if scan.experiment.fresnel_number is None else "nearfield"
        meta["label"], meta["propagation"], meta["num_frames"] = scan.name, far, scan.n
        meta["shape"] = meta["center"] = np.array(scan.counts.shape[1:])
        meta["center"][...] = scan.patch_size // 2
        energy = photon_energy(scan)
        for name, value in (("energy", energy and energy / 1e3), ("distance", distance), ("psize", side)):
            if value is not None:
                meta[name] = value
        chunk = file.create_group("chunks/0")
        put_counts(chunk, "data", scan.counts)
        put_array(chunk, "positions", world)
        put_array(chunk, "indices", frame_indexes(scan))
        good = np.ones(scan.counts.shape[1:]) if scan.bad_pixels is None else 1.0 - scan.bad_pixels
        shape = (scan.n, *good.shape)
        layout = {"chunks": (1, *good.shape), "compression": "gzip"}
        weights = chunk.create_dataset("weights", shape, np.float32, fletcher32=True, **layout)
        for part in pattern_blocks(shape):
            weights[part] = good
            check_written(chunk)
        put_package_group(file, scan, probe=scan.probe, truth=scan.truth, origin_m=world_origin(scan))
        file[PACKAGE_GROUP]["pixel_size"] = pixel_size
    warn_of_unread(path, scan.experiment, "ptypy", ("the near field",))


def _acquisition(file: Hdf5, record: ScanRecord, side: float | None) -> Acquisition:
    """Lengths of the file; of a cone beam those that this package wrote, of which the file has the parallel beam."""
    origin = origin_of(file, PACKAGE_GROUP)
    if record.acquisition.source_distance is not None:
        return replace(record.acquisition, world_origin=origin)
    return Acquisition(_lengths(file, "distance")[0], side, origin)


def _lengths(file: Hdf5, name: str) -> tuple[float | None, float | None]:
    """A number of the geometry, None if unknown (missing or "None" in ptypy); psize has one or two values (y, x)."""
    key = file.first(*(f"{group}/{name}" for group in _GROUPS))
    if key is None or file.is_text(key):
        return None, None
    values = file.numeric(key, "iuf").ravel()
    if values.size not in (1, 2):
        file.fail(key, "one number", f"shape {values.shape}")
    return float(values[0]), float(values[-1])


def _text(file: Hdf5, name: str) -> str | None:
    key = file.first(*(f"{group}/{name}" for group in _GROUPS))
    words = file.text(key) if key is not None and file.is_text(key) else None
    return None if words in ("None", "") else words


def _positions(file: Hdf5, chunk: str) -> NDArray[np.float64]:
    key = f"{chunk}/positions"
    positions = file.numeric(key, "iuf", ndim=2).astype(np.float64)
    frames = Frames(file, [f"{chunk}/data"]).total
    if positions.shape != (frames, 2):
        file.fail(key, f"shape {frames, 2}, (y, x) of each pattern", f"{positions.shape}")
    return positions


def _frame_indexes(file: Hdf5, chunks: list[str], n: int) -> NDArray[np.int64] | None:
    """Frame indexes of the patterns, checked to be unique; None if they are missing or in order."""
    keys = [f"chunks/{name}/indices" for name in chunks]
    if not all(file.has(key) for key in keys):
        return None
    indexes = np.concatenate([file.numeric(key, "iuf", ndim=1) for key in keys])
    return unless_in_order(unique_indexes(file, keys[0], indexes, n))


def _bad_pixels(file: Hdf5, chunks: list[str], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels (h, w) with a weight of 0 in any pattern; weights are in each chunk, or once for all."""
    bad = np.zeros(shape, np.bool_)
    differ = False
    for key in [f"{group}/weight2d" for group in _GROUPS] + [f"chunks/{name}/weights" for name in chunks]:
        if not file.has(key) or file.is_text(key) or not file.dataset(key).size:
            continue
        if file.dataset(key).ndim == 2:
            weights = file.numeric(key, "biuf")
            if weights.shape != shape:
                file.fail(key, f"shape {shape}", f"{weights.shape}")
            bad |= weights == 0
            continue
        frames = Frames(file, [key])
        if frames.shape[1:] != shape:
            file.fail(key, f"weights of {shape[0]} x {shape[1]} pixels", f"shape {frames.shape}")
        for part in pattern_blocks(frames.shape):
            zero = frames[part] == 0
            differ = differ or bool((zero != zero[0]).any())
            bad |= zero.any(axis=0)
    if differ:
        _log.warning("%s: weights differ between patterns: a pixel of weight 0 in one pattern is bad in all", file.path)
    return bad_pixels_of(file, "weights", bad)


def _is_ptyd(content: Content) -> bool:
    return content.kind == "hdf5" and content.has("chunks/0/data", "chunks/0/positions")


register(Format("ptyd", "prepared data of ptypy", (".ptyd",), _is_ptyd, read_ptyd, write_ptyd, order=60))
