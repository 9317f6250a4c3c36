# SPDX-License-Identifier: BSD-3-Clause
"""Scans with patterns on disk give bitwise the same batches, trainings and reconstructions as scans in memory."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored_files import hdf5, npy
from tiny_runs import same, tiny, tiny_scan

from ptychopinn.acquisition import Acquisition
from ptychopinn.batches.dataset import GroupDataset, JoinedGroups
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.errors import InputError
from ptychopinn.inference.large import is_large, reconstruct_to_file
from ptychopinn.inference.predict import reconstruct
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.workflow import refine
from ptychopinn.runtime.memory import available_memory, fits_in_memory
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.stored import StoredPatterns, load_counts
from ptychopinn.training.workflow import train

#: Type in a file -> measurement (counts or amplitudes), and marker of bad pixels.
MARKERS = {
    "int32": ("counts", 2**31 - 1),
    "float64": ("amplitude", 1e30),
    "uint32": ("amplitude", 2**32 - 1),
    "float32": ("counts", 1e30),
}


def on_disk(scan: Scan, folder: Path) -> Scan:
    return dataclasses.replace(scan, counts=hdf5(folder, np.asarray(scan.counts), chunks=(3, 32, 32)))


@pytest.mark.parametrize("kind", ["counts", "amplitude", "fractions", "bad", "int32", "float64", "uint32", "float32"])
def test_stored_scan_equals_the_loaded_one(tmp_path: Path, kind: str) -> None:
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
    assert stored.record().to_json() == loaded.record().to_json() and np.array_equal(stored.probe, loaded.probe)
    assert total_counts(stored.counts) == total_counts(loaded.counts)
    stored.subset([5, 2]).save(tmp_path / "b.npz")
    loaded.subset([5, 2]).save(tmp_path / "c.npz")
    for name in np.load(tmp_path / "c.npz").files:
        assert np.array_equal(np.load(tmp_path / "b.npz")[name], np.load(tmp_path / "c.npz")[name]), name


def test_auto_stores_scans_larger_than_a_quarter_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = tiny_scan()
    y, x = (scan.positions + 16).T
    for name, save in (("a", np.savez), ("z", np.savez_compressed)):
        save(tmp_path / f"{name}.npz", diffraction=scan.counts, xcoords=x, ycoords=y, probeGuess=scan.probe)
    assert isinstance(Scan.load(tmp_path / "a.npz").counts, np.ndarray)
    monkeypatch.setattr("ptychopinn.runtime.memory.available_memory", lambda: 4 * scan.counts.nbytes - 1)
    assert isinstance(Scan.load(tmp_path / "a.npz").counts, StoredPatterns)
    assert isinstance(Scan.load(tmp_path / "z.npz").counts, np.ndarray)  # compressed arrays can only be loaded
    with pytest.raises(InputError, match=r"z\.npz: key 'diffraction': expected an uncompressed array"):
        Scan.load(tmp_path / "z.npz", memory="stored")
    with pytest.raises(InputError, match="memory must be one of auto, load, stored, got 'disk'"):
        Scan.load(tmp_path / "a.npz", memory="disk")


def test_available_memory_is_plausible() -> None:
    assert 1 << 20 < available_memory() < 1 << 60
    assert fits_in_memory(1 << 10) and not fits_in_memory(available_memory())


def test_batches_equal_those_of_the_array_bitwise(tmp_path: Path) -> None:
    """Also: the cast after the transfer equals the cast and shift in NumPy before it."""
    bad = np.zeros((32, 32), bool)
    bad[[4, 4, 20], [5, 6, 31]] = True
    for mask in (None, bad):
        scan = dataclasses.replace(tiny_scan(), bad_pixels=mask)
        groups = group_patterns(scan.positions, 4)
        indices = [7, 0, 3]
        stored = GroupDataset(on_disk(scan, tmp_path), groups).gather(indices)
        assert stored.counts.dtype == torch.from_numpy(scan.counts).dtype
        batch, loaded = stored.finish(), GroupDataset(scan, groups).collate(indices)
        assert all(torch.equal(a, b) for a, b in zip(batch[:3], loaded[:3], strict=True))
        before = np.fft.ifftshift(scan.counts[groups[indices]], axes=(-2, -1)).astype(np.float32)
        if mask is not None:
            good = np.fft.ifftshift(~mask)
            empty = (np.abs(np.fft.fft2(scan.probe, norm="ortho")) ** 2).sum(0).astype(np.float32)
            brightness = before[..., good].sum(-1, keepdims=True) / max(empty[good].sum(), 1e-30)
            before[..., ~good] = brightness * empty[~good]
        assert np.array_equal(batch.counts.numpy(), before)


def test_one_batch_contains_scans_of_different_types(tmp_path: Path) -> None:
    scan = tiny_scan()
    other = dataclasses.replace(scan, counts=scan.counts.astype(np.uint64))
    groups = group_patterns(scan.positions, 2)
    joined = JoinedGroups([GroupDataset(on_disk(scan, tmp_path), groups), GroupDataset(other, groups, first=16)])
    batch = joined.collate([1, 17])
    assert torch.equal(batch.counts[0], batch.counts[1]) and batch.counts.dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_reconstruction_equal_those_in_memory_bitwise(tmp_path: Path, workers: int) -> None:
    scan = tiny_scan()
    config = tiny(execution={"workers": workers}, training={"epochs": 1})
    loaded = train(scan, tmp_path / "loaded", tiny(training={"epochs": 1}))
    stored = train(on_disk(scan, tmp_path), tmp_path / "stored", config)
    assert same(loaded, stored)
    first = reconstruct(loaded.model, scan, loaded.config)
    second = reconstruct(stored.model, on_disk(scan, tmp_path), config)
    assert np.array_equal(first.object, second.object) and np.array_equal(first.weights, second.weights)


@pytest.mark.parametrize("workers", [0, 1])
def test_invalid_pattern_ends_a_training_with_an_error_that_names_it(tmp_path: Path, workers: int) -> None:
    scan = tiny_scan()
    values = scan.counts.astype(np.float32)
    values[14] = np.nan
    counts = npy(tmp_path, values)
    counts.look = lambda: None  # type: ignore[method-assign]
    config = tiny(execution={"workers": workers})
    with pytest.raises(InputError, match=r"a\.npy: pattern 14: expected finite values") as caught:
        train(dataclasses.replace(scan, counts=counts), tmp_path / "run", config)
    assert "\n" not in str(caught.value)  # no traceback of the worker


def test_refinement_loads_scans_that_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptychopinn.config import RefineConfig

    scan, config = tiny_scan(), RefineConfig(iterations=2, split_half=False)
    stored = on_disk(scan, tmp_path)
    assert np.array_equal(load_counts(stored.counts, "it"), np.fft.ifftshift(scan.counts, axes=(-2, -1)))
    assert np.array_equal(refine(stored, config=config).object, refine(scan, config=config).object)
    monkeypatch.setattr("ptychopinn.storage.stored.available_memory", lambda: scan.counts.nbytes)
    with pytest.raises(InputError, match=r"refine needs all counts in memory, expected at most half of the 0\.0 GB av"):
        refine(stored, config=config)


def test_overview_reports_how_many_patterns_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.plotting.scans._AVERAGED", 5)
    from ptychopinn.plotting.scans import mean_pattern

    scan = tiny_scan()
    mean, of = mean_pattern(on_disk(scan, tmp_path))
    assert of == "of 5 " and np.array_equal(mean, scan.counts[[0, 3, 7, 11, 15]].mean(0))
    assert mean_pattern(scan)[1] == ""
    assert plot_scan_overview(on_disk(scan, tmp_path), tmp_path / "scan.png")[0].exists()


# Large images.


@pytest.mark.parametrize(
    "inference",
    [{}, {"synchronise": False}, {"coverage": None, "uncertainty": "overlaps"}, {"augment": 2}],
    ids=["synchronised", "as they are", "overlaps", "orientations"],
)
def test_stitching_through_files_equals_stitching_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inference: dict[str, Any]
) -> None:
    from ptychopinn.models import PtychoModel
    from ptychopinn.physics.simulate import simulate

    torch.manual_seed(0)
    scan = simulate("dead_leaves", patterns=90, size=32, step=(8, 5), photons=1e5, seed=1)
    scan = dataclasses.replace(scan, acquisition=Acquisition(2.0, world_origin=(1e-6, 0.0)), orientation="swap")
    model = PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, 32)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    config = tiny(inference=inference)
    once = reconstruct(model, scan, config)
    for name in ("stitching.overlaps._KEPT", "stitching.canvases._CHUNK", "inference.large._ROWS"):
        monkeypatch.setattr(f"ptychopinn.{name}", 30000)  # as many parts as there can be
    monkeypatch.setattr("ptychopinn.inference.large._ROWS_MULTIPLE", 16)
    monkeypatch.setattr("ptychopinn.inference.predict.fits_in_memory", lambda _: False)
    assert once.shape[0] > 3 * 16
    assert reconstruct_to_file(model, on_disk(scan, tmp_path), tmp_path / "r.h5", config) == once.shape
    for again in (reconstruct(model, scan, config), Reconstruction.load(tmp_path / "r.h5")):
        assert again.origin == once.origin and again.metadata["config"] == once.metadata["config"]
        assert (again.acquisition, again.orientation) == (scan.acquisition, "swap")
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
    from ptychopinn.stitching.scratch import ScratchArray

    scan = tiny_scan()
    assert not is_large(scan)
    with pytest.raises(InputError, match=r"expected 1000000\.0 GB of free space for a scratch file, found .* GB; free"):
        ScratchArray(tmp_path, (10**9, 125, 1000), np.complex64)
    from ptychopinn.models import PtychoModel

    model = PtychoModel("unrolled", {"steps": 1, "width": 4, "state": 2}, 32)
    monkeypatch.setattr("ptychopinn.inference.large.predict_streamed", lambda *_: pytest.fail("predicted first"))
    with pytest.raises(InputError, match=r"r\.npz: a reconstruction larger than memory is written to HDF5"):
        reconstruct_to_file(model, scan, tmp_path / "new" / "r.npz", tiny())
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("ptychopinn.runtime.memory.available_memory", lambda: 1000)
    assert is_large(scan)


@pytest.mark.parametrize("when", ["reserved", "written"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, code: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    from ptychopinn.models import PtychoModel

    model = PtychoModel("unrolled", {"steps": 1, "width": 4, "state": 2}, 32)
    monkeypatch.setattr("ptychopinn.inference.predict.fits_in_memory", lambda _: False)
    monkeypatch.setattr("ptychopinn.inference.predict.gettempdir", lambda: str(tmp_path))
    if when == "reserved":
        monkeypatch.setattr("ptychopinn.stitching.scratch.os.posix_fallocate", fail)
    else:
        monkeypatch.setattr("ptychopinn.stitching.scratch._write", fail)
    with pytest.raises(InputError, match=r"^.*: the disk became full while a scratch file of .* GB was written; free"):
        reconstruct(model, tiny_scan(), tiny(), "cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_scratch_files_without_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    from ptychopinn.stitching.scratch import ScratchArray

    def unsupported(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("ptychopinn.stitching.scratch.os.posix_fallocate", unsupported)
    array = ScratchArray(tmp_path, (4, 3), np.float32)
    array.write(1, np.ones((2, 3)))
    assert array.read(0, 4).sum() == 6


def test_space_of_scratch_files_is_reserved(tmp_path: Path) -> None:
    from ptychopinn.stitching.scratch import ScratchArray

    array = ScratchArray(tmp_path, (1000, 1000), np.float32)
    assert os.fstat(array._file.fileno()).st_blocks * 512 >= 4_000_000
    assert ScratchArray(tmp_path, (0, 5), np.float32).read(0, 0).shape == (0, 5)
