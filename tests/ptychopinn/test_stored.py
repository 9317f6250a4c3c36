# SPDX-License-Identifier: BSD-3-Clause
"""Patterns on disk: every source gives what the array would, wrong values and files are named, and runs are equal."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import same, tiny, tiny_scan

from ptychopinn.data.dataset import GroupDataset, JoinedGroups
from ptychopinn.data.grouping import group_patterns
from ptychopinn.data.reconstruction import Reconstruction
from ptychopinn.data.scan import Scan, total_counts
from ptychopinn.data.sources import Hdf5Dataset, runs
from ptychopinn.data.stored import StoredPatterns, available_memory, fits_in_memory, load_counts
from ptychopinn.errors import InputError
from ptychopinn.inference.large import is_large, reconstruct_to_file
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.plots import plot_scan_overview
from ptychopinn.refinement.workflow import refine
from ptychopinn.training.workflow import train

N, SIZE = 23, 10


def patterns(dtype: Any = np.uint16, n: int = N, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60000, (n, size, size)).astype(dtype)


def hdf5(folder: Path, values: np.ndarray, axis: int = 0, **options: Any) -> StoredPatterns:
    path = folder / f"{len(list(folder.iterdir()))}.h5"  # one that is still open cannot be written to
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=np.moveaxis(values, 0, axis), **options)
    return StoredPatterns.hdf5(path, "entry/data", axis)


def npy(folder: Path, values: np.ndarray) -> StoredPatterns:
    np.save(folder / "a.npy", values)
    return StoredPatterns.npy(folder / "a.npy")


def npz(folder: Path, values: np.ndarray) -> StoredPatterns:
    np.savez(folder / "a.npz", other=np.arange(7), diffraction=values, last="text")
    return StoredPatterns.npz(folder / "a.npz", "diffraction")


def virtual(folder: Path, values: np.ndarray) -> StoredPatterns:
    order = np.random.default_rng(1).permutation(len(values))
    return StoredPatterns.virtual(values[order], np.argsort(order))


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
def test_patterns_are_those_of_the_array(tmp_path: Path, source: str, dtype: str) -> None:
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
def test_pickled_patterns_are_small_and_open_the_file_anew(tmp_path: Path, source: str) -> None:
    values = patterns(n=400)
    stored = SOURCES[source](tmp_path, values)
    stored[3]
    text = pickle.dumps(stored.subset([3, 1]))
    assert len(text) < 5000 or source == "virtual"
    assert np.array_equal(pickle.loads(text)[:], values[[3, 1]])


def test_indices_that_do_not_fit_are_index_errors(tmp_path: Path) -> None:
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
    with pytest.raises(TypeError, match=r"a\.npy: patterns on disk are not loaded unasked; take patterns\[:\]"):
        np.asarray(stored)


def test_runs_are_the_fewest() -> None:
    assert list(runs(np.array([], np.int64))) == []
    assert [(a, b) for a, b, _ in runs(np.array([0, 1, 2, 5, 7, 8]))] == [(0, 3), (5, 6), (7, 9)]


def test_no_handle_is_open_while_a_process_forks(tmp_path: Path) -> None:
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
    assert wide[:].max() == np.float32(65535.0**2)  # not wrapped
    with pytest.raises(InputError, match="expected patterns of 16 px or more to crop, found 8 x 8 px"):
        wide.converted(size=16)


def test_conversion_in_pieces_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = npy(tmp_path, patterns(np.float32)).converted(dtype=np.uint16)
    monkeypatch.setattr("ptychopinn.data.stored._BLOCK_ELEMENTS", 3 * SIZE * SIZE)
    assert np.array_equal(stored[:], patterns()) and np.array_equal(stored[[9, 1, 1]], patterns()[[9, 1, 1]])


def test_values_that_are_no_counts_are_found_when_read(tmp_path: Path) -> None:
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
    values[38] = 1  # is not among those looked at first
    npy(tmp_path, values).look()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_file_that_loses_its_end_is_an_input_error(tmp_path: Path, dtype: Any) -> None:
    for source in ("npy", "npz"):
        stored = SOURCES[source](tmp_path, patterns(dtype))
        path = tmp_path / f"a.{source}"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
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


def test_files_that_hold_no_patterns_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"], file["group/text"] = np.zeros((3, 4)), "text"
    np.save(tmp_path / "f.npy", np.asfortranarray(np.zeros((4, 8, 8))))
    np.save(tmp_path / "c.npy", np.zeros((4, 8, 8), complex))
    np.savez_compressed(tmp_path / "z.npz", diffraction=patterns())
    (tmp_path / "text.npy").write_text("no array")
    for make, message in (
        (lambda: StoredPatterns.hdf5(tmp_path / "none.h5", "x"), r"none\.h5: expected a file of patterns, found none"),
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


# Scans.


#: Type in a file -> what its values are, and the marker that its bad pixels hold.
MARKERS = {
    "int32": ("counts", 2**31 - 1),
    "float64": ("amplitude", 1e30),
    "uint32": ("amplitude", 2**32 - 1),
    "float32": ("counts", 1e30),
}


def on_disk(scan: Scan, folder: Path) -> Scan:
    return dataclasses.replace(scan, counts=hdf5(folder, np.asarray(scan.counts), chunks=(3, 32, 32)))


@pytest.mark.parametrize("kind", ["counts", "amplitude", "fractions", "bad", "int32", "float64", "uint32", "float32"])
def test_a_stored_scan_is_the_loaded_one(tmp_path: Path, kind: str) -> None:
    scan, path = tiny_scan(), tmp_path / "a.npz"
    values = scan.counts if kind == "counts" else np.sqrt(scan.counts, dtype=np.float32)
    values = values * np.float32(0.7) if kind == "fractions" else values
    bad = {}
    options = {}
    if kind in MARKERS:
        options["measurement"], marker = MARKERS[kind]
        values = np.sqrt(scan.counts) if options["measurement"] == "amplitude" else scan.counts
        values = (0.7 * values if kind == "float32" else np.rint(values) if kind == "uint32" else values).astype(kind)
        values[:, 3, 4], values[2, 5, 6] = marker, marker
    if kind == "bad":
        values[:, 3, 4], values[2, 5, 6] = np.nan, -7
    if kind in ("bad", *MARKERS):
        bad["bad_pixels"] = np.zeros((32, 32), bool)
        bad["bad_pixels"][[3, 5], [4, 6]] = True
    y, x = (scan.positions + 16).T
    np.savez(path, diffraction=values, xcoords=x, ycoords=y, probeGuess=scan.probe, **bad)
    loaded, stored = Scan.load(path, memory="load", **options), Scan.load(path, memory="stored", **options)
    assert isinstance(loaded.counts, np.ndarray) and isinstance(stored.counts, StoredPatterns)
    assert kind not in MARKERS or not loaded.counts[:, 3, 4].any()
    assert stored.counts.dtype == loaded.counts.dtype and np.array_equal(stored.counts[:], loaded.counts)
    assert stored.metadata == loaded.metadata and np.array_equal(stored.probe, loaded.probe)
    assert total_counts(stored) == total_counts(loaded)
    stored.subset([5, 2]).save(tmp_path / "b.npz")
    loaded.subset([5, 2]).save(tmp_path / "c.npz")
    for name in np.load(tmp_path / "c.npz").files:
        assert np.array_equal(np.load(tmp_path / "b.npz")[name], np.load(tmp_path / "c.npz")[name]), name


def test_auto_stores_what_is_larger_than_a_quarter_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tiny_scan()
    y, x = (scan.positions + 16).T
    for name, save in (("a", np.savez), ("z", np.savez_compressed)):
        save(tmp_path / f"{name}.npz", diffraction=scan.counts, xcoords=x, ycoords=y, probeGuess=scan.probe)
    assert isinstance(Scan.load(tmp_path / "a.npz").counts, np.ndarray)
    monkeypatch.setattr("ptychopinn.data.stored.available_memory", lambda: 4 * scan.counts.nbytes - 1)
    assert isinstance(Scan.load(tmp_path / "a.npz").counts, StoredPatterns)
    assert isinstance(Scan.load(tmp_path / "z.npz").counts, np.ndarray)  # compressed: there is no other way
    with pytest.raises(InputError, match=r"z\.npz: key 'diffraction': expected an uncompressed array"):
        Scan.load(tmp_path / "z.npz", memory="stored")
    with pytest.raises(InputError, match="memory must be one of auto, load, stored, got 'disk'"):
        Scan.load(tmp_path / "a.npz", memory="disk")


def test_memory_is_found_and_a_quarter_of_it_fits() -> None:
    assert 1 << 20 < available_memory() < 1 << 60
    assert fits_in_memory(1 << 10) and not fits_in_memory(available_memory())


def test_batches_are_those_of_the_array_bit_for_bit(tmp_path: Path) -> None:
    """Also that the cast after the transfer gives what the cast before it gave: in NumPy, shifted first."""
    bad = np.zeros((32, 32), bool)
    bad[[4, 4, 20], [5, 6, 31]] = True
    for mask in (None, bad):
        scan = dataclasses.replace(tiny_scan(), bad_pixels=mask)
        groups = group_patterns(scan.positions, 4)
        asked = [7, 0, 3]
        stored = GroupDataset(on_disk(scan, tmp_path), groups).gather(asked)
        assert stored.counts.dtype == torch.from_numpy(scan.counts).dtype
        batch, loaded = stored.finish(), GroupDataset(scan, groups).collate(asked)
        assert all(torch.equal(a, b) for a, b in zip(batch[:3], loaded[:3], strict=True))
        before = np.fft.ifftshift(scan.counts[groups[asked]], axes=(-2, -1)).astype(np.float32)
        if mask is not None:
            good = np.fft.ifftshift(~mask)
            empty = (np.abs(np.fft.fft2(scan.probe, norm="ortho")) ** 2).sum(0).astype(np.float32)
            brightness = before[..., good].sum(-1, keepdims=True) / max(empty[good].sum(), 1e-30)
            before[..., ~good] = brightness * empty[~good]
        assert np.array_equal(batch.counts.numpy(), before)


def test_scans_of_different_types_are_batched_together(tmp_path: Path) -> None:
    scan = tiny_scan()
    other = dataclasses.replace(scan, counts=scan.counts.astype(np.uint64))
    groups = group_patterns(scan.positions, 2)
    joined = JoinedGroups([GroupDataset(on_disk(scan, tmp_path), groups), GroupDataset(other, groups, first=16)])
    batch = joined.collate([1, 17])
    assert torch.equal(batch.counts[0], batch.counts[1]) and batch.counts.dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_reconstruction_are_bit_for_bit_those_in_memory(tmp_path: Path, workers: int) -> None:
    scan = tiny_scan()
    config = tiny(execution={"workers": workers}, training={"epochs": 1})
    loaded = train(scan, tmp_path / "loaded", tiny(training={"epochs": 1}))
    stored = train(on_disk(scan, tmp_path), tmp_path / "stored", config)
    assert same(loaded, stored)
    first = reconstruct(loaded.model, scan, loaded.config)
    second = reconstruct(stored.model, on_disk(scan, tmp_path), config)
    assert np.array_equal(first.object, second.object) and np.array_equal(first.weights, second.weights)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_pattern_ends_a_training_with_its_name(tmp_path: Path, workers: int) -> None:
    scan = tiny_scan()
    values = scan.counts.astype(np.float32)
    values[14] = np.nan
    counts = npy(tmp_path, values)
    counts.look = lambda: None  # type: ignore[method-assign]
    config = tiny(execution={"workers": workers})
    with pytest.raises(InputError, match=r"a\.npy: pattern 14: expected finite values") as caught:
        train(dataclasses.replace(scan, counts=counts), tmp_path / "run", config)
    assert "\n" not in str(caught.value)  # no traceback of the worker


def test_refinement_loads_what_fits_and_refuses_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptychopinn.config import RefineConfig

    scan, config = tiny_scan(), RefineConfig(iterations=2, split_half=False)
    stored = on_disk(scan, tmp_path)
    assert np.array_equal(load_counts(stored.counts, "it"), np.fft.ifftshift(scan.counts, axes=(-2, -1)))
    assert np.array_equal(refine(stored, config=config).object, refine(scan, config=config).object)
    monkeypatch.setattr("ptychopinn.data.stored.available_memory", lambda: scan.counts.nbytes)
    with pytest.raises(InputError, match=r"refine needs all counts in memory, expected at most half of the 0\.0 GB av"):
        refine(stored, config=config)


def test_the_overview_says_of_how_many_patterns_it_shows_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptychopinn.metrics.plots._AVERAGED", 5)
    from ptychopinn.metrics.plots import _mean_pattern

    scan = tiny_scan()
    mean, of = _mean_pattern(on_disk(scan, tmp_path))
    assert of == "of 5 " and np.array_equal(mean, scan.counts[[0, 3, 7, 11, 15]].mean(0))
    assert _mean_pattern(scan)[1] == ""
    assert plot_scan_overview(on_disk(scan, tmp_path), tmp_path / "scan.png")[0].exists()


# Large images.


@pytest.mark.parametrize(
    "inference",
    [{}, {"synchronise": False}, {"coverage": None, "uncertainty": "overlaps"}, {"augment": 2}],
    ids=["synchronised", "as they are", "overlaps", "orientations"],
)
def test_what_goes_through_files_is_what_is_stitched_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inference: dict[str, Any]
) -> None:
    from ptychopinn.models import PtychoModel
    from ptychopinn.physics.simulate import simulate

    torch.manual_seed(0)
    scan = simulate("dead_leaves", patterns=90, size=32, step=(8, 5), photons=1e5, seed=1)
    model = PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, 32)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    config = tiny(inference=inference)
    once = reconstruct(model, scan, config)
    for name in ("_CACHED", "_CHUNK", "_ROWS"):  # as many parts as there can be
        monkeypatch.setattr(f"ptychopinn.inference.stream.{name}", 30000)
    monkeypatch.setattr("ptychopinn.inference.large._ROWS_MULTIPLE", 16)
    monkeypatch.setattr("ptychopinn.inference.predict.fits_in_memory", lambda _: False)
    assert once.shape[0] > 3 * 16
    assert reconstruct_to_file(model, on_disk(scan, tmp_path), tmp_path / "r.h5", config) == once.shape
    for again in (reconstruct(model, scan, config), Reconstruction.load(tmp_path / "r.h5")):
        assert again.origin == once.origin and again.metadata["config"] == once.metadata["config"]
        np.testing.assert_array_equal(again.positions, once.positions)
        np.testing.assert_array_equal(again.probe, once.probe)
        for field, tolerance in (("object", 3e-6), ("weights", 3e-6), ("uncertainty", 3e-3)):
            expected, got = getattr(once, field), getattr(again, field)
            if expected is None:
                assert got is None
            else:
                np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".h5", ".png")] == []


def test_scratch_space_and_format_are_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptychopinn.inference.stream import Rows

    scan = tiny_scan()
    assert not is_large(scan)
    with pytest.raises(InputError, match=r"expected 1000000\.0 GB of free space for a scratch file, found .* GB; free"):
        Rows(tmp_path, (10**9, 125, 1000), np.complex64)
    from ptychopinn.models import PtychoModel

    model = PtychoModel("unrolled", {"steps": 1, "width": 4, "state": 2}, 32)
    monkeypatch.setattr("ptychopinn.inference.large.predict_streamed", lambda *_: pytest.fail("predicted first"))
    with pytest.raises(InputError, match=r"r\.npz: a reconstruction larger than memory is written to HDF5"):
        reconstruct_to_file(model, scan, tmp_path / "new" / "r.npz", tiny())
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("ptychopinn.data.stored.available_memory", lambda: 1000)
    assert is_large(scan)
