# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction files: bitwise round trips, and errors that name the file and its fault."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction

SUFFIXES = [".h5", ".hdf5", ".npz"]


def example(**changes: object) -> Reconstruction:
    rng = np.random.default_rng(3)
    fields: dict[str, object] = {
        "object": (rng.normal(size=(12, 17)) + 1j * rng.normal(size=(12, 17))).astype(np.complex64),
        "weights": rng.random((12, 17)).astype(np.float32),
        "origin": (-3.25, 41.0),
        "probe": (rng.normal(size=(2, 8, 8)) + 1j).astype(np.complex64),
        "pixel_size": 1.3e-8,
        "metadata": {"model": "cnn", "µ": [1, 2.5, None], "nested": {"ok": True}},
    }
    return Reconstruction(**(fields | changes))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(tmp_path: Path, suffix: str) -> None:
    saved = example()
    path = saved.save(tmp_path / "new" / f"result{suffix}")
    loaded = Reconstruction.load(path)
    for name in ("object", "weights", "probe"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype
    assert loaded.origin == saved.origin
    assert loaded.pixel_size == saved.pixel_size
    assert loaded.metadata == saved.metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_optional_fields_may_be_absent(tmp_path: Path, suffix: str) -> None:
    loaded = Reconstruction.load(example(probe=None, pixel_size=None, metadata={}).save(tmp_path / f"r{suffix}"))
    assert loaded.probe is None and loaded.pixel_size is None and loaded.metadata == {}


def test_hdf5_layout_is_documented(tmp_path: Path) -> None:
    saved = example(metadata={"long": "x" * 100_000})
    with h5py.File(saved.save(tmp_path / "r.h5")) as file:
        assert sorted(file) == ["metadata", "object", "probe", "weights"]
        assert file.attrs["schema_version"] == 1
        assert file.attrs["origin"].tolist() == [-3.25, 41.0]
        assert file.attrs["pixel_size"] == 1.3e-8
        assert file["object"].dtype == np.complex64
        assert file["object"].fletcher32 and file["object"].compression is None
        assert json.loads(file["metadata"].asstr()[()]) == saved.metadata


def test_files_with_compressed_arrays_are_read(tmp_path: Path) -> None:
    saved = example()
    with h5py.File(saved.save(tmp_path / "r.h5"), "a") as file:
        for name in ("object", "weights", "probe"):
            values = file[name][()]
            del file[name]
            file.create_dataset(name, data=values, compression="gzip", shuffle=True)
    loaded = Reconstruction.load(tmp_path / "r.h5")
    assert np.array_equal(loaded.object, saved.object) and np.array_equal(loaded.weights, saved.weights)


def test_npz_needs_no_pickle(tmp_path: Path) -> None:
    with np.load(example().save(tmp_path / "r.npz"), allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example().save(tmp_path / "r.h5")
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="disk full"):
        example(pixel_size=2e-8).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_inputs_are_converted_once() -> None:
    r = Reconstruction(np.ones((3, 4)), np.ones((3, 4), int), origin=np.array([1, 2]))
    assert r.object.dtype == np.complex64 and r.weights.dtype == np.float32
    assert r.origin == (1.0, 2.0) and r.shape == (3, 4)
    np.testing.assert_array_equal(example().amplitude, np.abs(example().object))
    np.testing.assert_array_equal(example().phase, np.angle(example().object))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"object": np.ones(5)}, r"object must be a non-empty 2-d complex array, got float64 of shape \(5,\)"),
        ({"object": np.full((12, 17), np.nan)}, "object must be finite, got 204 values"),
        ({"object": np.array([["a"]])}, "object must be a non-empty 2-d complex array, got <U1"),
        ({"weights": np.ones((17, 12))}, r"weights must have the shape of object, \(12, 17\), got \(17, 12\)"),
        ({"weights": np.full((12, 17), -1.0)}, "weights must be >= 0, got a minimum of -1"),
        ({"weights": np.ones((12, 17), complex)}, "weights must be a non-empty 2-d real array, got complex128"),
        ({"probe": np.ones((2, 8, 9))}, r"probe must be \(modes, N, N\), got shape \(2, 8, 9\)"),
        ({"probe": np.ones((8, 8))}, "probe must be a non-empty 3-d complex array"),
        ({"origin": (1.0, np.inf)}, "origin must be two finite numbers"),
        ({"origin": (1.0, 2.0, 3.0)}, "origin must be two finite numbers"),
        ({"pixel_size": 0.0}, "pixel_size must be positive metres, got 0"),
        ({"metadata": {"a": np.ones(2)}}, "metadata must hold only what JSON can"),
        ({"metadata": {"a": float("nan")}}, "metadata must hold only what JSON can"),
        ({"metadata": [1]}, "metadata must be a dictionary, got list"),
    ],
)
def test_bad_fields_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        example(**changes)


@pytest.mark.parametrize("suffix", [".tif", "", ".npy"])
def test_unknown_suffix_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"result{suffix}"
    for use in (example().save, Reconstruction.load):
        with pytest.raises(InputError, match=r"result.*must end in \.h5, \.hdf5 or \.npz"):
            use(path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file_is_reported(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=rf"gone\{suffix}: not found"):
        Reconstruction.load(tmp_path / f"gone{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.95])
def test_truncated_file_is_reported(tmp_path: Path, suffix: str, keep: float) -> None:
    path = example().save(tmp_path / f"cut{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(InputError, match=rf"cut\{suffix}: not a readable (HDF5|NPZ) reconstruction"):
        Reconstruction.load(path)


def test_corrupt_npz_member_is_reported(tmp_path: Path) -> None:
    path = example().save(tmp_path / "r.npz")
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.npz: not a readable NPZ"):
        Reconstruction.load(path)


@pytest.mark.parametrize("key", ["object", "weights", "origin", "schema_version"])
def test_missing_key_is_reported(tmp_path: Path, key: str) -> None:
    path = example().save(tmp_path / "r.h5")
    with h5py.File(path, "a") as file:
        del (file if key in file else file.attrs)[key]
    with pytest.raises(InputError, match=rf"r\.h5: key '{key}' is missing"):
        Reconstruction.load(path)
    npz = example().save(tmp_path / "r.npz")
    with np.load(npz) as file:
        left = {name: file[name] for name in file.files if name != key}
    np.savez(npz, **left)
    with pytest.raises(InputError, match=rf"r\.npz: key '{key}' is missing"):
        Reconstruction.load(npz)


def test_wrong_contents_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    good: dict[str, object] = {
        "schema_version": 1,
        "origin": (0.0, 0.0),
        "object": np.ones((2, 3)),
        "weights": np.ones((2, 3)),
    }
    for change, message in (
        ({"schema_version": 2}, "key 'schema_version' must be 1, got 2"),
        ({"metadata": "{"}, "key 'metadata' must be JSON text"),
        ({"pixel_size": "small"}, "key 'pixel_size' must be a number"),
        ({"weights": np.ones((3, 2))}, "weights must have the shape of object"),
        ({"object": np.array([[{}]], dtype=object)}, "not a readable NPZ reconstruction"),
    ):
        np.savez(path, allow_pickle=True, **(good | change))
        with pytest.raises(InputError, match=rf"r\.npz: {message}"):
            Reconstruction.load(path)


def test_covered_ignores_hot_pixels_and_the_dim_rim() -> None:
    weights = np.full((40, 50), 0.01)
    weights[10:30, 10:40] = 1.0
    weights[10, 10:40] = 0.25
    weights[20, 20] = 50.0
    r = Reconstruction(np.ones((40, 50)), weights, (0, 0))
    expected = np.zeros((40, 50), bool)
    expected[10:30, 10:40] = True
    np.testing.assert_array_equal(r.covered(), expected)
    np.testing.assert_array_equal(r.covered(0.3)[10], False)
    assert r.covered(0).all()
    assert not Reconstruction(np.ones((4, 4)), np.zeros((4, 4)), (0, 0)).covered(0).any()
    with pytest.raises(InputError, match="threshold must be a finite number >= 0, got -1"):
        r.covered(-1)
