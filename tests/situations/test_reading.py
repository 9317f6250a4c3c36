# SPDX-License-Identifier: BSD-3-Clause
"""Situations of reading HDF5: links, detectors' files, filters, units, masks and layouts of the probe."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from situation import Situation

from ptychopinn.scan import Scan
from ptychopinn.world import known_detector_pixel_size, world_positions

DETECTOR = "entry_1/instrument_1/detector_1"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"
GEOMETRY = {"pixel_size": 2e-8, "energy": 8800.0, "distance": 2.0}


@dataclass(frozen=True)
class Logged(Situation):
    """A situation with a line of the log, which pytest keeps apart.

    Args:
        logged: regular expression to be found in the log.
    """

    logged: str = ""


def cxi(change: Callable[[h5py.File], object] | None = None) -> Callable[[Path], None]:
    """Write ``scan.cxi``, without the truth, and change it."""

    def make(folder: Path) -> None:
        Scan.load(folder / "scan.npz", **GEOMETRY).save(folder / "scan.cxi")
        if change is not None:
            with h5py.File(folder / "scan.cxi", "a") as file:
                change(file)

    return make


def put(key: str, value: Callable[[Any], Any], **attributes: Any) -> Callable[[h5py.File], None]:
    """Replace a data set by a function of it."""

    def change(file: h5py.File) -> None:
        array = value(file[key][()] if key in file else None)
        if key in file:
            del file[key]
        file[key] = array
        file[key].attrs.update(attributes)

    return change


def eiger(link: str | None = None, files: int = 3, single: bool = False) -> Callable[[Path], None]:
    """Write ``series_master.h5`` with data files beside it and ``series.csv``; `link` replaces the links' folder."""

    def make(folder: Path) -> None:
        scan = Scan.load(folder / "scan.npz", **GEOMETRY)
        counts = np.asarray(scan.counts)
        np.savetxt(folder / "series.csv", world_positions(scan), delimiter=",")
        with h5py.File(folder / "series_master.h5", "w") as master:
            for name in ("entry", "entry/data", "entry/instrument", "entry/instrument/detector"):
                kind = {"entry": "NXentry", "entry/instrument/detector": "NXdetector"}.get(name, "NXcollection")
                master.create_group(name).attrs["NX_class"] = kind
            detector = master["entry/instrument/detector"]
            detector["detector_distance"], detector["x_pixel_size"] = 2.0, known_detector_pixel_size(scan)
            master["entry/instrument/beam/incident_wavelength"] = 12398.4198 / 8800
            for number, part in enumerate(np.array_split(np.arange(scan.n), files), 1):
                name, key = f"series_data_{number:06d}.h5", f"entry/data/data_{number:06d}"
                if single:
                    master[key] = counts[part]
                    continue
                with h5py.File(folder / name, "w") as data:
                    data["entry/data/data"] = counts[part]
                master[key] = h5py.ExternalLink(f"{link or ''}{name}", "entry/data/data")

    return make


def moved_away(folder: Path) -> None:
    """The links lead to another folder, in which the data files are."""
    eiger("../raw/")(folder)
    raw = folder.parent / "raw"
    raw.mkdir(exist_ok=True)
    for path in folder.glob("series_data*"):
        os.replace(path, raw / path.name)


def without_the_second(folder: Path) -> None:
    eiger()(folder)
    (folder / "series_data_000002.h5").unlink()


def virtual(file: h5py.File) -> None:
    """The patterns are a virtual data set over two others of the file."""
    counts = file[f"{DETECTOR}/data"][()]
    layout = h5py.VirtualLayout(counts.shape, counts.dtype)
    del file[f"{DETECTOR}/data"]
    for name, part in (("first", slice(0, 30)), ("second", slice(30, len(counts)))):
        file[f"raw/{name}"] = counts[part]
        layout[part] = h5py.VirtualSource(file[f"raw/{name}"])
    file.create_virtual_dataset(f"{DETECTOR}/data", layout)


def own_layout(folder: Path) -> None:
    """A layout of one's own, with two cubes."""
    scan = Scan.load(folder / "scan.npz", **GEOMETRY)
    with h5py.File(folder / "own.h5", "w") as file:
        file["lab/frames"], file["lab/darks"] = np.asarray(scan.counts), np.zeros((3, 32, 32), np.uint16)
    np.savetxt(folder / "own.csv", world_positions(scan), delimiter=",")


def parts(probe: np.ndarray) -> np.ndarray:
    return np.stack([probe.reshape(32, 32).real, probe.reshape(32, 32).imag])


IMAGE = "entry_1/image_1/data"
TABLE = [
    Logged(
        "eiger master with data files",
        "inspect series_master.h5 --positions series.csv --probe scan.npz",
        0,
        ("64 of 32 x 32 px",),
        eiger(),
        row="7",
        logged="taken as metres",
    ),
    Situation(
        "eiger data sets in one file",
        "inspect series_master.h5 --positions series.csv --probe scan.npz",
        0,
        ("64 of 32 x 32 px",),
        eiger(single=True),
    ),
    Situation(
        "eiger, data files copied beside the master",
        "inspect series_master.h5 --positions series.csv --probe scan.npz",
        0,
        ("64 of 32 x 32 px",),
        eiger("/gpfs/raw/visitor/"),
        row="7",
    ),
    Situation(
        "eiger, data files elsewhere",
        "inspect series_master.h5 --positions series.csv",
        2,
        (r"data_000001': expected data in the folder of the file, found a link .*; copy the data files beside it",),
        moved_away,
        row="7",
    ),
    Situation(
        "eiger, a data file is missing",
        "inspect series_master.h5 --positions series.csv",
        2,
        ("data_000002': expected the file series_data_000002.h5, .* found none there; copy the data files beside it",),
        without_the_second,
        row="7",
    ),
    Situation(
        "eiger without positions",
        "inspect series_master.h5",
        2,
        (r"state positions= \(--positions TABLE\)",),
        eiger(),
        row="7",
    ),
    Situation("virtual patterns", "inspect scan.cxi", 0, ("no findings",), cxi(virtual), row="7"),
    Situation(
        "patterns at a path of one's own",
        "inspect own.h5 --patterns lab/frames --positions own.csv --pixel-size 2e-8 --probe scan.npz",
        0,
        ("64 of 32 x 32 px",),
        own_layout,
        row="7",
    ),
    Situation(
        "two cubes",
        "inspect own.h5 --positions own.csv --pixel-size 2e-8",
        2,
        (r"state patterns= \(--patterns PATH_IN_FILE\); .*lab/frames \(64, 32, 32\)",),
        own_layout,
        row="7",
    ),
    Logged(
        "probe of real and imaginary part",
        "inspect scan.cxi",
        0,
        ("no findings",),
        cxi(put(IMAGE, parts)),
        row="5",
        logged="read as complex: .*real and imaginary part",
    ),
    Logged(
        "probe with variations",
        "inspect scan.cxi",
        0,
        ("no findings",),
        cxi(put(IMAGE, lambda probe: np.stack([probe.reshape(1, 32, 32)] * 3))),
        row="5",
        logged="read as first of several: there are 3 probes along the scan, and no weights of them",
    ),
    Situation(
        "probe with modes last",
        "inspect scan.cxi",
        0,
        ("no findings",),
        cxi(put(IMAGE, lambda p: p.reshape(32, 32, 1))),
    ),
    Situation(
        "probe of amplitude and phase",
        "inspect scan.cxi",
        2,
        (r"perhaps amplitude and phase; state probe= \(--probe FILE.npy\), complex with the axes \(modes, y, x\)",),
        cxi(put(IMAGE, lambda p: np.stack([np.abs(p.reshape(32, 32)), np.angle(p.reshape(32, 32))]))),
        row="5",
    ),
    Logged(
        "mask with flags of good pixels",
        "inspect scan.cxi",
        0,
        ("2 masked", "no findings"),
        cxi(put(f"{DETECTOR}/mask", lambda _: np.array([1, 2, *[0x4000, 0x800] * 511], np.uint32).reshape(32, 32))),
        row="17",
        logged=r"1022 pixels of .* have flags of good pixels only \(0x4800\)",
    ),
    Logged(
        "mask for each frame",
        "inspect scan.cxi",
        0,
        ("3 masked",),
        cxi(
            put(
                f"{DETECTOR}/mask",
                lambda _: np.stack([np.eye(32, dtype=int) * (np.arange(32) < (3 if k == 5 else 1)) for k in range(64)]),
            )
        ),
        row="17",
        logged="1 pixels are bad in more than 10% of the 64 frames, and 2 in fewer: all of these are bad in all frames",
    ),
    Situation(
        "positions in micrometres by their attribute",
        "inspect scan.cxi",
        0,
        ("no findings",),
        cxi(put(TRANSLATION, lambda positions: positions * 1e6, units="um")),
        row="21",
    ),
    Situation(
        "positions in micrometres without it",
        "inspect scan.cxi",
        2,
        (r"the attribute units, found no attribute and positions .*attrs\['units'\] = 'um', which would fit",),
        cxi(put(TRANSLATION, lambda positions: positions * 1e6)),
        row="21",
    ),
    Situation(
        "a unit that nobody knows",
        "inspect scan.cxi",
        2,
        (r"distance@units': expected one of m, cm, .*found 'inch'; state distance= \(--distance\)",),
        cxi(put(f"{DETECTOR}/distance", lambda distance: distance, units="inch")),
        row="21",
    ),
    Logged(
        "an absent unit",
        "inspect scan.cxi",
        0,
        ("no findings",),
        cxi(put(f"{DETECTOR}/distance", float)),
        row="21",
        logged="no unit of entry_1/instrument_1/detector_1/distance: taken as metres",
    ),
]


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_reading(
    situation: Situation,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    situation.check(folder, capsys, monkeypatch)
    assert not isinstance(situation, Logged) or re.search(situation.logged, caplog.text), caplog.text


def test_compressed_with_a_filter_that_is_not_installed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip("hdf5plugin")

    def compress(file: h5py.File) -> None:
        counts = file[f"{DETECTOR}/data"][()]
        del file[f"{DETECTOR}/data"]
        file.create_dataset(f"{DETECTOR}/data", data=counts, chunks=(1, 32, 32), **plugin.Bitshuffle())

    words = (r"data compressed with bitshuffle \(filter 32008\): pip install hdf5plugin",)
    with monkeypatch.context() as patch:
        cxi(compress)(folder)
        Situation("with the plugin", "inspect scan.cxi", 0, ("no findings",), row="20").check(folder, capsys, patch)
        patch.setitem(sys.modules, "hdf5plugin", None)
        h5py.h5z.unregister_filter(32008)
        try:
            Situation("without", "inspect scan.cxi", 2, words, row="20").check(folder, capsys, patch)
        finally:
            plugin.register("bshuf", force=True)
