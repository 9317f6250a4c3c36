# SPDX-License-Identifier: BSD-3-Clause
"""Invalid files of each format except those of ptychodus, and invalid options of the caller, are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from corrupt import (
    Bomb,
    Row,
    array,
    assert_one_sentence,
    attribute,
    beside,
    bomb,
    hdf5,
    huge,
    member,
    npy,
    put,
    put_in,
    table,
    truncate,
)
from scan_files import COUNTS, ENERGY, PATTERNS, WORLD, N

DETECTOR = "entry_1/instrument_1/detector_1"
EIGER, STAGE = "run/beamline/eiger", "run/stage/transformations"
RECTANGLE = np.ones((PATTERNS, N, N + 2), np.uint16)
STATED = {"energy": ENERGY, "distance": 1.9, "detector_pixel_size": 55e-6}

BAD: dict[str, Row] = {
    # CXI
    "cxi without data": (
        "cxi",
        put(f"{DETECTOR}/data", None),
        {},
        r"detector_1/data': expected the key to be there \(or entry_1/",
    ),
    "cxi without translation": (
        "cxi",
        put("entry_1/sample_1/geometry_1/translation", None),
        {},
        r"geometry_1/translation': expected",
    ),
    "cxi translation": (
        "cxi",
        put("entry_1/sample_1/geometry_1/translation", WORLD[:, :1]),
        {},
        r"columns x, y and z, found shape",
    ),
    "cxi energy in eV": (
        "cxi",
        put("entry_1/instrument_1/source_1/energy", 8050.0),
        {},
        r"what reads as 5\.02441e\+22 eV",
    ),
    "cxi zero pixel": (
        "bare_cxi",
        put(f"{DETECTOR}/basis_vectors", np.zeros((3, 2))),
        {},
        r"'detector_pixel_size': .* found 0",
    ),
    "cxi no geometry": (
        "bare_cxi",
        put(f"{DETECTOR}/distance", None),
        {},
        r"found none and no distance to compute it from; state distance= or pixel_size= \(on the command line --di",
    ),
    "cxi two distances": (
        "cxi",
        put(f"{DETECTOR}/distance", [1.0, 2.0]),
        {},
        r"distance': expected one number, found 2 different numbers",
    ),
    # ptypy
    "ptyd without chunks": (
        "ptyd",
        put("chunks", None),
        {},
        r"'chunks/0/data': expected the key to be there, found only meta",
    ),
    "ptyd unlike": (
        "ptyd",
        put("chunks/1/positions", WORLD[:2]),
        {},
        r"chunks/1/positions': expected shape \(7, 2\), .* \(2, 2\)",
    ),
    "ptyd sizes": (
        "ptyd",
        put("chunks/1/data", np.ones((7, 8, 8), "f4")),
        {},
        r"expected patterns like those of chunks/0/data",
    ),
    "ptyd repeats": (
        "ptyd",
        put("chunks/1/indices", np.zeros(7)),
        {},
        r"indices': expected each frame index once, found 1 that",
    ),
    "ptyd weights": (
        "ptyd",
        put("chunks/0/weights", np.zeros((2, 8, 8))),
        {},
        r"weights of 16 x 16 pixels, found shape",
    ),
    "ptyd energy in eV": ("ptyd", put("meta/energy", 8.05e6), {}, r"what reads as 8\.05e\+09 eV"),
    "ptyd negative distance": (
        "ptyd",
        put("meta/distance", -1.0),
        {},
        r"'distance': expected a positive number; .* found -1",
    ),
    "ptyd near": (
        "ptyd",
        put("meta/propagation", "nearfield"),
        {},
        r"expected a far-field experiment, found a near-field one",
    ),
    # NeXus
    "nexus units": (
        "nexus",
        attribute(f"{EIGER}/distance", "units", "furlong"),
        {},
        r"@units': expected one of m, .* 'furlong'",
    ),
    "nexus no positions": (
        "nexus",
        put(STAGE, None),
        {},
        r"stage/transformations': expected positions x and y of the sample, or a",
    ),
    "nexus one position": (
        "nexus",
        put(f"{STAGE}/x", WORLD[:3, 0]),
        {},
        r"transformations/x': expected the shape of y, \(13,\)",
    ),
    "nexus few": (
        "nexus",
        hdf5(lambda f: [put_in(f, f"{STAGE}/{a}", WORLD[:3, 0]) for a in "xy"]),
        {},
        r"3 patterns, one for",
    ),
    "nexus two detectors": (
        "nexus",
        hdf5(lambda file: file.copy(file[EIGER], file["run/beamline"], name="second")),
        {},
        r"'run/beamline': expected one group of NX_class NXdetector, found 2",
    ),
    "nexus energies": (
        "nexus",
        put("run/beamline/mono/energy", [8.0, 9.0]),
        {},
        r"mono/energy': expected one number, found 2 diff",
    ),
    "nexus declared": (
        "nexus",
        lambda path: (put(f"{EIGER}/pixel_mask", None)(path), huge(f"{EIGER}/data")(path)),
        {},
        r"eiger/data': expected an array that fits into .* GiB of mem",
    ),
    "nexus no data": ("nexus", put(f"{EIGER}/data", None), {}, r"eiger/data': expected the key to be there"),
    # plain arrays
    "no CSV": (
        "arrays",
        beside("raw_positions.csv", None),
        STATED,
        r"found 13 patterns without; state positions= \(--positions TABLE\), or scan_step=",
    ),
    "CSV words": (
        "arrays",
        beside("raw_positions.csv", table(5, "1.0,far\n")),
        STATED,
        r"line 7: expected finite metres y, x, fou",
    ),
    "CSV one column": (
        "arrays",
        beside("raw_positions.csv", "1\n2\n"),
        STATED,
        r"expected columns y and x in metres, found 1 columns",
    ),
    "CSV NaN": (
        "arrays",
        beside("raw_positions.csv", table(12, "nan,1\n")),
        STATED,
        r"line 14: expected finite metres y, x",
    ),
    "CSV header only": ("arrays", beside("raw_positions.csv", "y,x\n"), STATED, r"found a table without rows"),
    "CSV binary": ("arrays", beside("raw_positions.csv", bytes(range(200))), STATED, r"found no text"),
    "CSV short": (
        "arrays",
        beside("raw_positions.csv", table(5)),
        STATED,
        r"expected 13 positions, one for each pattern .* found 5; state",
    ),
    "arrays no geometry": (
        "arrays",
        lambda path: None,
        {},
        r"no energy, distance, detector_pixel_size to compute it from; state",
    ),
    "arrays flat": (
        "arrays",
        array(COUNTS[0]),
        STATED,
        r"'patterns': expected patterns \(n, y, x\) .* \(16, 16\)",
    ),
    "arrays oblong": (
        "arrays",
        array(COUNTS[:, :3]),
        STATED,
        r"'patterns': expected square patterns, \(n, N, N\), found shape",
    ),
    "arrays pickled": (
        "arrays",
        array(np.array([Bomb()], object)),
        STATED,
        r"found Python objects \(pickle\), which are never",
    ),
    "arrays truncated": (
        "arrays",
        truncate,
        STATED,
        r"raw_patterns\.npy: expected an \.npy file of numbers, found a damaged one",
    ),
    "arrays declared": (
        "arrays",
        lambda path: path.write_bytes(bomb("(9, 4194304, 4194304)")),
        STATED,
        r"found a damaged one",
    ),
    "arrays probe": (
        "arrays",
        beside("probe.npy", np.ones((N, 5))),
        STATED,
        r"probe\.npy: key 'probe': expected shape \(N, N\)",
    ),
    "cube of two": (
        "cube",
        put("more", COUNTS),
        {**STATED, "format": "arrays"},
        r"one data set of three axes, found .*more.*state patterns=",
    ),
    "cube unknown": (
        "cube",
        beside("cube_positions.csv", None),
        STATED,
        r"expected positions of its patterns, .* found 13 patterns without; state",
    ),
    # NPZ
    "npz pickle": (
        "contract_npz",
        member("probeGuess", npy(np.array([Bomb()], object))),
        {},
        r"\(pickle\), which are never",
    ),
    "npz a bare pickle": (
        "contract_npz",
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
        {},
        r"NPZ file, found no zip arch",
    ),
    "npz bomb declared": (
        "contract_npz",
        member("diff3d", bomb("(9, 4194304, 4194304)")),
        {},
        r"fits into .* GiB of memory, found",
    ),
    "npz bomb empty": (
        "contract_npz",
        member("diff3d", bomb("(13, 16, 16)")),
        {},
        r"an intact array, found 128 bytes for a shape",
    ),
    "npz cut": (
        "ptychodus_npz",
        truncate,
        {},
        r"found a zip archive without its end, truncated or still being written",
    ),
    "npz oblong": (
        "ptychodus_npz",
        member("diff3d", npy(RECTANGLE)),
        {},
        r"'diff3d': expected square patterns, .* found shape",
    ),
    "npz mismatched": (
        "ptychodus_npz",
        member("ycoords", npy(np.ones(4))),
        {},
        r"'ycoords': expected 13 values, as many as in",
    ),
    "npz energy": (
        "contract_npz",
        member("energy", npy(8.05)),
        {},
        r"'energy': expected between 10 and 1e\+06 eV .* 8\.05 eV",
    ),
    # options of the caller
    "stated zero": ("pair", lambda path: None, {"energy": 0.0}, r"energy must be a positive number \(eV\), got 0\.0"),
    "stated measurement": (
        "pair",
        lambda path: None,
        {"measurement": "x"},
        r"measurement must be one of auto, amplitude, counts",
    ),
    "stated probe": (
        "pair",
        lambda path: None,
        {"probe": np.ones((5, 5))},
        r"probe=: expected a probe of shape \(M, 16, 16\)",
    ),
    "stated no probe": (
        "pair",
        lambda path: None,
        {"probe": "absent.npy"},
        r"absent\.npy: not found",
    ),
    "stated partner": (
        "pair",
        lambda path: None,
        {"partner": "absent.h5"},
        r"absent\.h5: not found",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    assert_one_sentence(tmp_path, BAD[name])
