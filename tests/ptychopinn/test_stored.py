# SPDX-License-Identifier: BSD-3-Clause
"""Patterns on disk: every source returns the same values as an array; errors name the file and the pattern."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from stored_files import hdf5, npy, npz, virtual

from ptychopinn.errors import InputError
from ptychopinn.storage.blocks import Hdf5Dataset, runs
from ptychopinn.storage.stored import StoredPatterns

N, SIZE = 23, 10


def patterns(dtype: Any = np.uint16, n: int = N, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60000, (n, size, size)).astype(dtype)


SOURCES: dict[str, Callable[[Path, np.ndarray], StoredPatterns]] = {
    "hdf5": hdf5,
    "hdf5 chunks": lambda folder, values: hdf5(folder, values, chunks=(4, 5, 10), compression="gzip", shuffle=True),
    "hdf5 last axis": lambda folder, values: hdf5(folder, values, 2, chunks=(10, 10, 3)),
    "npy": npy,
    "npz": npz,
    "virtual": virtual,
}
INDICES: dict[str, Any] = {
    "integer": 4,
    "negative": -1,
    "numpy integer": np.int32(3),
    "slice": slice(3, 11),
    "strided slice": slice(20, 2, -3),
    "all": slice(None),
    "empty": slice(5, 5),
    "any order": [7, 2, 3, 22, 0],
    "repeats": np.array([5, 5, -1, 5]),
    "two axes": np.array([[1, 2, 3], [3, 2, 1]]),
    "unsigned": np.array([2, 1], np.uint8),
    "mask": np.arange(N) % 3 == 1,
    "no index": [],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "u4", "f4", ">f8"])
def test_stored_patterns_equal_the_array(tmp_path: Path, source: str, dtype: str) -> None:
    values = patterns(dtype)
    stored = SOURCES[source](tmp_path, values)
    assert stored.shape == values.shape and stored.ndim == 3 and len(stored) == N
    assert stored.dtype == values.dtype.newbyteorder("=") and stored.nbytes == values.nbytes
    for name, index in INDICES.items():
        got, expected = stored[index], values[np.array(index, int) if name == "no index" else index]
        assert got.dtype == stored.dtype, name
        assert got.shape == expected.shape and np.array_equal(got, expected), name
        assert got.flags.c_contiguous and got.flags.writeable, name
    for part, expected in zip(stored, values, strict=True):
        assert np.array_equal(part, expected)


@pytest.mark.parametrize("source", SOURCES)
def test_subsets_stay_on_disk_and_compose(tmp_path: Path, source: str) -> None:
    values = patterns()
    stored = SOURCES[source](tmp_path, values)
    first = [9, 2, 2, 17, 0, 5]
    part = stored.subset(first)
    assert isinstance(part, StoredPatterns) and part.shape == (6, SIZE, SIZE)
    assert np.array_equal(part[[5, 0, 2]], values[first][[5, 0, 2]])
    again = part.subset(np.array([True, False, False, True, True, False])).subset([2, 0])
    assert np.array_equal(again[:], values[first][[0, 3, 4]][[2, 0]])
    assert np.array_equal(stored[:], values)


@pytest.mark.parametrize("source", SOURCES)
def test_pickled_patterns_are_small_and_open_the_file_again(tmp_path: Path, source: str) -> None:
    values = patterns(n=400)
    stored = SOURCES[source](tmp_path, values)
    stored[3]
    text = pickle.dumps(stored.subset([3, 1]))
    assert len(text) < 5000 or source == "virtual"
    assert np.array_equal(pickle.loads(text)[:], values[[3, 1]])


def test_wrong_indices_are_index_errors(tmp_path: Path) -> None:
    stored = npy(tmp_path, patterns())
    for index, message in (
        (N, "index 23 is out of bounds for 23 patterns"),
        ([0, -24], "index -24 is out of bounds for 23 patterns"),
        (np.ones(3, bool), r"a mask of 23 patterns must have shape \(23,\), got \(3,\)"),
        ([0.5], "indexed by integers, a slice or a mask, got float64"),
        ((0, 1), r"along their first axis only"),
    ):
        with pytest.raises(IndexError, match=message):
            stored[index]
    with pytest.raises(TypeError, match=r"a\.npy: patterns on disk are not loaded implicitly; use patterns\[:\]"):
        np.asarray(stored)


def test_runs_join_successive_rows() -> None:
    assert list(runs(np.array([], np.int64))) == []
    assert [(a, b) for a, b, _ in runs(np.array([0, 1, 2, 5, 7, 8]))] == [(0, 3), (5, 6), (7, 9)]


def test_no_file_is_open_while_a_process_forks(tmp_path: Path) -> None:
    source = Hdf5Dataset(hdf5(tmp_path, patterns())._source.path, "entry/data")  # type: ignore[attr-defined]
    source.read(np.array([1]))
    assert source._file is not None
    loader = torch.utils.data.DataLoader(range(1), num_workers=1, collate_fn=lambda _: source._file is None)
    assert list(loader) == [True] and source._file is None
    assert np.array_equal(source.read(np.array([1])), patterns()[[1]])


# Conversion.


def test_conversion_transposes_crops_and_squares(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(5e4, (6, 12, 10)).astype(np.uint32)
    stored = npy(tmp_path, np.sqrt(counts.astype(np.float64)).astype(np.float32))
    made = stored.converted(transpose=True, size=8, power=2, dtype=np.uint32, tolerance=2e-7)
    expected = counts.swapaxes(1, 2)[:, 1:9, 2:10]
    assert made.shape == (6, 8, 8) and made.dtype == np.uint32
    assert np.array_equal(made[[5, 1]], expected[[5, 1]]) and np.array_equal(made.subset([2])[0], expected[2])
    middle = np.zeros((1, 12, 10), np.uint8)
    middle[0, 6, 5] = 1
    assert npy(tmp_path, middle).converted(transpose=True, size=8)[0][4, 4] == 1
    wide = npy(tmp_path, np.full((2, 8, 8), 65535, np.uint16)).converted(power=2, dtype=np.float32)
    assert wide[:].max() == np.float32(65535.0**2)  # no overflow
    assert wide.converted(size=16)[0].nonzero()[0].tolist()[:1] == [4]  # and pads


def test_conversion_in_blocks_equals_conversion_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = npy(tmp_path, patterns(np.float32)).converted(dtype=np.uint16)
    monkeypatch.setattr("ptychopinn.storage.stored._BLOCK_ELEMENTS", 3 * SIZE * SIZE)
    assert np.array_equal(stored[:], patterns()) and np.array_equal(stored[[9, 1, 1]], patterns()[[9, 1, 1]])


def test_invalid_counts_are_reported_when_read(tmp_path: Path) -> None:
    values = np.full((40, 8, 8), 4.0, np.float32)
    values[11, 2, 3], values[12, 0, 0], values[13, 1, 1], values[14, 5, 5] = np.nan, -1, 4.5, 3e9
    stored = npy(tmp_path, values)
    assert stored[10].sum() == 256
    for index, found in ((11, r"found nan at pixel \(2, 3\)"), (12, r"found -1\.0 at pixel \(0, 0\)")):
        with pytest.raises(InputError, match=rf"pattern {index}: expected finite values .* not negative, {found}"):
            stored[9 : index + 1] if index == 11 else stored[[index]]
    with pytest.raises(InputError, match=r"pattern 13: expected a value that is a whole number, .* found 4\.5 at"):
        stored.converted(dtype=np.uint8)[13]
    with pytest.raises(InputError, match=r"pattern 14: expected counts that fit uint8, .* found 3000000000"):
        stored.converted(dtype=np.uint8)[14]
    with pytest.raises(InputError, match=r"pattern 13: expected a square that is a whole number"):
        stored.converted(power=2, dtype=np.uint32)[13]
    bad = np.zeros((8, 8), bool)
    bad[2, 3] = bad[0, 0] = bad[1, 1] = True
    masked = stored.converted(bad=bad, dtype=np.uint8)[10:14]
    assert masked[1, 2, 3] == masked[2, 0, 0] == 0 and masked[:, ~bad].min() == 4
    values[11:15] = 4
    zero = npy(tmp_path, 0 * values)
    with pytest.raises(InputError, match=r"a\.npy: expected photons, found patterns that are all zero"):
        zero.look()
    values[:] = 0
    values[38] = 1  # not in the sample
    npy(tmp_path, values).look()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_truncated_file_is_an_error(tmp_path: Path, dtype: Any) -> None:
    for source in ("npy", "npz"):
        stored = SOURCES[source](tmp_path, patterns(dtype))
        path = tmp_path / f"a.{source}"
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert np.array_equal(stored[0], patterns(dtype)[0])
        with pytest.raises(InputError, match=r"expected 23 patterns, found the file's end"):
            stored[N - 1]
        path.unlink()
        with pytest.raises(InputError, match="the patterns cannot be read: No such file"):
            stored[0]
    with pytest.raises(InputError, match=r"expected 23 patterns in a file of at least .*, truncated or still being"):
        np.save(tmp_path / "b.npy", patterns(dtype))
        (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-1])
        StoredPatterns.npy(tmp_path / "b.npy")
    stored = hdf5(tmp_path, patterns(dtype), chunks=(1, SIZE, SIZE), compression="gzip")
    path = next(tmp_path.glob("*.h5"))
    damaged = bytearray(path.read_bytes())
    damaged[-4000:] = bytes(4000)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"\.h5: key 'entry/data': patterns 0 to 22 cannot be read, the file is"):
        stored[:]


def test_files_without_patterns_are_errors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"], file["group/text"] = np.zeros((3, 4)), "text"
    np.save(tmp_path / "f.npy", np.asfortranarray(np.zeros((4, 8, 8))))
    np.save(tmp_path / "c.npy", np.zeros((4, 8, 8), complex))
    np.savez_compressed(tmp_path / "z.npz", diffraction=patterns())
    (tmp_path / "text.npy").write_text("no array")
    for make, message in (
        (lambda: StoredPatterns.hdf5(tmp_path / "none.h5", "x"), r"none\.h5: not found"),
        (lambda: StoredPatterns.hdf5(tmp_path / "text.npy", "x"), "expected an HDF5 file, found another or damaged"),
        (lambda: StoredPatterns.hdf5(tmp_path / "a.h5", "group"), "'group': expected a dataset, found none of this"),
        (lambda: StoredPatterns.hdf5(tmp_path / "a.h5", "flat"), r"expected 3 axes of real numbers, .* \(3, 4\)"),
        (lambda: StoredPatterns.npy(tmp_path / "f.npy"), r"in C order, found float64 .* in Fortran order"),
        (lambda: StoredPatterns.npy(tmp_path / "c.npy"), "of real numbers in C order, found complex128"),
        (lambda: StoredPatterns.npy(tmp_path / "text.npy"), "found no array in NumPy's format"),
        (lambda: StoredPatterns.npz(tmp_path / "text.npy", "x"), "expected an NPZ file, found another or damaged"),
        (lambda: StoredPatterns.npz(tmp_path / "z.npz", "x"), "key 'x': expected the key to be there, found none"),
        (
            lambda: StoredPatterns.npz(tmp_path / "z.npz", "diffraction"),
            r"expected an uncompressed array .* \(memory='load'\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_parts_must_be_alike(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"], file["z"] = np.ones((2, 8, 8), "u2"), np.ones((3, 8, 8), "u2"), np.ones((3, 8, 8), "u4")
    path = tmp_path / "a.h5"
    stored = StoredPatterns.hdf5_parts([(path, "x"), (path, "y")])
    assert stored.shape == (5, 8, 8) and stored[[4, 1]].sum() == 128 and "key 'x' and 1 more" in repr(stored)
    with pytest.raises(InputError, match=r"key 'z': expected patterns like those of .*'x', uint16 .*, found uint32"):
        StoredPatterns.hdf5_parts([(path, "x"), (path, "z")])
