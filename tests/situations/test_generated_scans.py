# SPDX-License-Identifier: BSD-3-Clause
"""Scan files of any content: each is read and inspected, or refused with one line; sound ones train and refine.

Files are generated: sizes, types, orders of axes and bytes, positions, masks, probes and units, each possibly wrong.
Whatever a file holds, the only exception is an InputError of one line, and no allocation follows a wrong position.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
from hypothesis import Phase, given, settings
from numpy.typing import NDArray

from ptychopinn import Config, Scan, reconstruct, refine, train
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import check_scan
from ptychopinn.inspection import inspect_scan
from ptychopinn.physics.probes import defocused

#: Memory, bytes, by which the process may grow over all examples of a test.
GROWTH = 1 << 30
FACTORS = st.sampled_from([0.0, -1.0, 1e-9, 1e-6, 1e-3, 0.1, 10.0, 1e3, 1e6, 1e9, 1e30, 1e300])
TYPES = st.sampled_from(["u1", "u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">f4", ">f8", "?", "c8"])
VALUES = st.sampled_from(["counts", "amplitude", "zero", "nan", "negative", "inf", "huge", "constant", "fraction"])
MASKS = st.sampled_from([None, "none", "few", "all", "other shape", "float", "per frame", "integer", "inverted"])
PROBES = st.sampled_from(
    ["complex", "real", "modes", "parts", "last", "stack", "zero", "nan", "corner", "small", "none", "constant"]
)
FAULTS = st.sampled_from(["nan", "inf", "outlier", "duplicate", "one less", "one more", "line", "text", "empty", "2-D"])


@dataclass(frozen=True)
class Generated:
    """What a generated file holds; see `arrays`."""

    n: int
    size: int
    width: int
    dtype: str = "u2"
    values: str = "counts"
    fortran: bool = False
    axes_last: bool = False
    factor: float = 1.0
    offset: float = 0.0
    fault: str | None = None
    mask: str | None = None
    probe: str = "complex"
    seed: int = 0


sound_scans = st.builds(
    Generated,
    n=st.integers(4, 24),
    size=st.sampled_from([8, 10, 16]),
    width=st.just(0),
    dtype=st.sampled_from(["u1", "u2", "i4", "f4", ">f8"]),
    values=st.sampled_from(["counts", "constant"]),
    fortran=st.booleans(),
    axes_last=st.booleans(),
    offset=st.sampled_from([0.0, -1e6]),
    fault=st.sampled_from([None, "duplicate", "line"]),
    mask=st.sampled_from([None, "few", "inverted"]),
    probe=st.sampled_from(["complex", "real", "modes", "constant"]),
    seed=st.integers(0, 99),
)


#: Field -> values of any kind, of which a file has up to two; more would hide each other.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": st.sampled_from([0, 1, 2, 3, 40]),
    "size": st.sampled_from([2, 7, 9, 12]),
    "width": st.sampled_from([1, -2, 8]),
    "dtype": TYPES,
    "values": VALUES,
    "factor": FACTORS,
    "offset": st.sampled_from([-3.5, 1e6, 1e15]),
    "fault": FAULTS,
    "mask": MASKS,
    "probe": PROBES,
}


@st.composite
def scans(draw: st.DrawFn) -> Generated:
    """A sound scan with up to two fields of any kind."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2, unique=True))
    return replace(draw(sound_scans), **{name: draw(FIELDS[name]) for name in names})


def arrays(made: Generated) -> dict[str, Any]:
    """The arrays of the contract's NPZ, as generated."""
    rng = np.random.default_rng(made.seed)
    height, width = made.size, made.size + made.width
    patterns = _patterns(made, rng, height, width)
    positions = _positions(made, rng)
    contents: dict[str, Any] = {
        "diffraction": np.moveaxis(patterns, 0, -1) if made.axes_last else patterns,
        "ycoords": positions[:, 0] if made.fault != "2-D" else positions,
        "xcoords": positions[:, 1],
        "probeGuess": _probe(made, height),
        "bad_pixels": _mask(made, height, width),
    }
    if made.values in ("counts", "amplitude"):
        contents["measurement"] = made.values
    return {key: value for key, value in contents.items() if value is not None}


def _patterns(made: Generated, rng: np.random.Generator, height: int, width: int) -> NDArray[Any]:
    y, x = np.mgrid[:height, :width]
    bright = 50 * np.exp(-((y - height // 2) ** 2 + (x - width // 2) ** 2) / (height / 3) ** 2)
    values = rng.poisson(bright, (made.n, height, width)).astype(np.float64)
    if made.values == "amplitude":
        values = np.sqrt(values)
    if made.values == "fraction":
        values *= 0.37
    if made.values in ("zero", "constant"):
        values[:] = 0 if made.values == "zero" else 3
    wrong = {"nan": np.nan, "negative": -1, "inf": np.inf, "huge": 1e300}
    if made.values in wrong and values.size:
        values.flat[rng.integers(values.size)] = wrong[made.values]
    with np.errstate(all="ignore"):
        typed = values.astype(made.dtype)
    return np.asfortranarray(typed) if made.fortran else typed


def _positions(made: Generated, rng: np.random.Generator) -> NDArray[Any]:
    side = max(1, math.isqrt(made.n))
    grid = np.stack([np.arange(made.n) // side, np.arange(made.n) % side], 1) * made.size / 8
    with np.errstate(over="ignore"):
        positions = (grid + rng.uniform(0, 0.3, grid.shape)) * made.factor + made.offset
    if made.n:
        if made.fault in ("nan", "inf", "outlier"):
            positions[rng.integers(made.n)] = {"nan": np.nan, "inf": np.inf, "outlier": 1e5}[made.fault]
        if made.fault == "duplicate":
            positions[-1] = positions[0]
        if made.fault == "line":
            positions[:, 0] = made.offset
    if made.fault == "one less":
        positions = positions[:-1]
    if made.fault == "one more":
        positions = np.concatenate([positions, [[made.offset, made.offset]]])
    if made.fault == "empty":
        positions = positions[:0]
    return positions.astype(str) if made.fault == "text" else positions


def _probe(made: Generated, size: int) -> NDArray[Any] | None:
    probe = defocused(size)[0] if size >= 8 and size % 2 == 0 else np.ones((size, size), np.complex64)
    shapes = {
        "real": np.abs(probe),
        "modes": np.stack([probe, 0.3 * np.roll(probe, 1, 0)]),
        "parts": np.stack([probe.real, probe.imag]),
        "last": np.stack([probe] * 3, -1),
        "stack": probe[np.newaxis, np.newaxis],
        "zero": probe * 0,
        "nan": probe * np.nan,
        "corner": np.fft.fftshift(probe),
        "small": probe[:-2, :-2],
        "constant": np.ones((size, size)),
    }
    return None if made.probe == "none" else shapes.get(made.probe, probe)


def _mask(made: Generated, height: int, width: int) -> NDArray[Any] | None:
    few = np.zeros((height, width), np.bool_)
    few[0, 1:3] = True
    masks = {
        "none": few & False,
        "few": few,
        "all": few | True,
        "other shape": few[1:],
        "float": few.astype(np.float32),
        "per frame": np.stack([few] * max(made.n, 1)),
        "integer": few.astype(np.int16) * 4,
        "inverted": ~few,
    }
    return None if made.mask is None else masks[made.mask]


def read_and_inspect(path: Path, **stated: Any) -> Scan | None:
    """Read and inspect a file; None if it was refused in one line."""
    try:
        scan = Scan.load(path, **stated)
        found = inspect_scan(scan, orientation=False)
    except InputError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert "\n" not in sentence and len(sentence) < 1000
    if sentence:
        return None
    assert np.isfinite(scan.positions).all() and np.isfinite(scan.probe).all()
    assert str(found)
    assert all(math.isfinite(value) for value in (found.geometry.step, found.geometry.overlap, found.patterns.largest))
    return scan


@pytest.fixture(autouse=True)
def no_growth() -> Any:
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < GROWTH


@given(scans())
@settings(max_examples=150)
def test_any_archive_is_read_or_refused_in_one_line(made: Generated) -> None:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "scan.npz", **arrays(made))
        read_and_inspect(Path(folder) / "scan.npz")


@given(
    scans(),
    st.sampled_from([1.4e-15, 1.4e-15, 1.4e-15, None, 8800.0, 0.0, math.nan]),
    st.sampled_from([2.0, 2.0, 0.0, 1e9]),
)
@settings(max_examples=100)
def test_any_cxi_is_read_or_refused_in_one_line(made: Generated, energy: float | None, distance: float) -> None:
    contents = arrays(replace(made, axes_last=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.cxi"
        with h5py.File(path, "w") as file:
            file["cxi_version"] = 160
            detector = file.create_group("entry_1/instrument_1/detector_1")
            detector["data"] = contents["diffraction"]
            detector["distance"] = distance
            detector["x_pixel_size"] = detector["y_pixel_size"] = 75e-6
            if "bad_pixels" in contents:
                detector["mask"] = contents["bad_pixels"]
            if energy is not None:
                file["entry_1/instrument_1/source_1/energy"] = energy
            if contents["ycoords"].shape == contents["xcoords"].shape and contents["xcoords"].dtype.kind == "f":
                x, y = contents["xcoords"] * 1e-7, contents["ycoords"] * 1e-7
                file["entry_1/sample_1/geometry_1/translation"] = np.stack([x, y, np.zeros_like(x)], 1)
            if "probeGuess" in contents:
                file["entry_1/instrument_1/source_1/illumination"] = contents["probeGuess"]
            file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        read_and_inspect(path)


@given(scans(), st.sampled_from([1.0, 1.0, 1e-8, 1e-300]))
@settings(max_examples=100)
def test_any_table_of_positions_is_read_or_refused_in_one_line(made: Generated, pixel_size: float) -> None:
    contents = arrays(replace(made, axes_last=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patterns.npy"
        np.save(path, contents["diffraction"])
        rows = zip(np.atleast_1d(contents["ycoords"]), contents["xcoords"], strict=False)
        lines = [f"{y},{x}" for y, x in rows]
        (Path(folder) / "positions.csv").write_text("\n".join(["y,x", *lines]))
        for name, key in (("probe", "probeGuess"), ("bad_pixels", "bad_pixels")):
            if key in contents:
                np.save(Path(folder) / f"{name}.npy", contents[key])
        read_and_inspect(path, pixel_size=pixel_size)


@given(sound_scans)
@settings(max_examples=25)
def test_sound_scans_refine(made: Generated) -> None:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "scan.npz", **arrays(made))
        scan = read_and_inspect(Path(folder) / "scan.npz")
    assert scan is not None
    result = refine(scan, config=RefineConfig(iterations=1, split_half=False), device="cpu", accept="all")
    assert np.isfinite(result.object).all() and np.isfinite(result.probe).all()


@given(sound_scans)
@settings(max_examples=3, phases=[Phase.generate])  # about a second each
def test_sound_scans_train(made: Generated) -> None:
    made = replace(made, size=32)  # the smallest that the network takes
    config = Config.from_dict(
        {
            "data": {"group_size": 2},
            "model": {"options": {"steps": 2, "width": 8, "state": 2}},
            "training": {"epochs": 1, "batch_size": 4},
            "execution": {"accelerator": "cpu", "threads": 1, "progress": False, "picture_every": None},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "scan.npz", **arrays(made))
        scan = read_and_inspect(Path(folder) / "scan.npz")
        assert scan is not None
        run = train(scan, Path(folder) / "run", config, accept="all")
        result = reconstruct(run.model, scan, config, "cpu", accept="all")
    assert np.isfinite(result.object).all()


def test_positions_of_every_unit_are_checked_without_their_canvas() -> None:
    """The check before a training allocates nothing of the size that the positions span."""
    for factor in (1e3, 1e6, 1e9):
        made = arrays(Generated(n=36, size=16, width=0, factor=factor))
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "scan.npz", **made)
            scan = Scan.load(Path(folder) / "scan.npz")
        with pytest.raises(InputError, match="unit"):
            check_scan(scan)
    with pytest.raises(InputError, match="memory, found one of"):
        refine(scan, config=RefineConfig(iterations=1), device="cpu", accept="all")
