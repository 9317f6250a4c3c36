# SPDX-License-Identifier: BSD-3-Clause
"""A disk that is full is one sentence for every writer, and an earlier file stays.

Writes fail in the operating system, by the limit of a process for the size of its files; a test without root cannot
mount a small disk. The limit has an error of its own (EFBIG), which stands here for that of a full disk where the
sentence of the latter is tested.
"""

from __future__ import annotations

import errno
import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.io.subset import write_subset
from ptychopinn.persistence.bundle import build_model, save_bundle
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.checkpoint import write_checkpoint
from ptychopinn.scan import Scan
from ptychopinn.storage import atomic
from ptychopinn.storage.atomic import atomic_path, free_space
from ptychopinn.storage.new_hdf5 import new_hdf5

LIMIT = 20_000
RANDOM = np.random.default_rng(0)
SCAN = Scan(
    RANDOM.integers(0, 60_000, (40, 32, 32)).astype(np.uint16),
    RANDOM.uniform(0, 40, (40, 2)),
    np.ones((1, 32, 32), np.complex64),
    pixel_size=1e-8,
    energy=8e3,
)
RESULT = Reconstruction(
    RANDOM.normal(size=(90, 90)).astype(np.complex64), np.ones((90, 90), np.float32), (0.0, 0.0), SCAN.probe,
    positions=SCAN.positions, pixel_size=1e-8,
)  # fmt: skip


def save_tensors(path: Path) -> None:
    write_checkpoint(path, {"weights": torch.ones(100, 100)})


#: File name -> writer of it.
WRITERS: dict[str, Callable[[Path], object]] = {
    "scan.npz": SCAN.save,
    "scan.cxi": SCAN.save,
    "scan.ptyd": SCAN.save,
    "scan.nxs": SCAN.save,
    "diffraction.h5": lambda path: SCAN.save(path, "ptychodus"),
    "result.h5": RESULT.save,
    "result.npz": RESULT.save,
    "product.h5": lambda path: RESULT.save(path, "ptychodus", SCAN),
    "result.nxs": lambda path: RESULT.save(path, "nexus", SCAN),
    "scan.png": lambda path: plot_scan_overview(SCAN, path),
    "wts.h5.zip": lambda path: save_bundle(build_model(Config(), 32, 1), Config(), path),
    "refinement.ckpt": lambda path: save_tensors(path),
}


def open_hdf5_files() -> set[int]:
    """Identifiers of the files that are open in this process."""
    return {file.id for file in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)}


@contextmanager
def small_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def limit_is_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_FULL", (errno.EFBIG,))


@pytest.mark.usefixtures("limit_is_a_full_disk")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_earlier_file_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("earlier")
    with pytest.raises(InputError) as caught, small_disk():
        WRITERS[name](path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: the disk is full or a quota is used up: ") and "\n" not in sentence, sentence
    assert "needed" in sentence and "available in" in sentence
    assert path.read_text() == "earlier" and [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("limit_is_a_full_disk")
def test_the_second_of_two_files_is_named_and_the_first_is_not_written(tmp_path: Path) -> None:
    scan = replace(SCAN, counts=np.ones((40, 32, 32), np.uint16))  # shrinks
    object.__setattr__(scan, "truth", RANDOM.normal(size=(200, 200)).astype(np.complex64))
    with pytest.raises(InputError, match=r"product\.h5: the disk is full"), small_disk():
        scan.save(tmp_path, "ptychodus")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("limit_is_a_full_disk")
def test_a_subset_names_its_file(tmp_path: Path) -> None:
    SCAN.save(tmp_path / "in.npz")
    with pytest.raises(InputError, match=r"/part\.npz: the disk is full"), small_disk():
        write_subset(tmp_path / "in.npz", tmp_path / "part.npz", 20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]


def test_another_fault_of_the_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.h5: cannot be written: File too large$"), small_disk():
        RESULT.save(tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "free_space", lambda folder: 50_000)
    with pytest.raises(InputError, match=r"the disk is full: 106 kB needed, 50 kB available in .*; free some space"):
        RESULT.save(tmp_path / "r.h5")
    entered = False
    with pytest.raises(InputError, match="60 kB needed, 50 kB available"), atomic_path(tmp_path / "a.bin", 60_000):
        entered = True
    assert not entered and list(tmp_path.iterdir()) == []


def test_space_of_an_unknown_file_system_is_not_checked(tmp_path: Path) -> None:
    assert free_space(tmp_path / "nowhere") is None and (free_space(tmp_path) or 0) > 0


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "no access"), KeyError("x"), InputError("a sentence of its own")):
        with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "a.txt"):
            raise error
        assert caught.value is error


def test_an_error_of_the_writer_itself_leaves_an_hdf5_file_closed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_hdf5(tmp_path / "a.h5") as file:
        file["x"] = np.ones(10)
        raise KeyError("x")
    assert not file and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", [{}, {"chunks": (1, 64, 64)}, {"chunks": (1, 64, 64), "compression": "gzip"}])
def test_hdf5_survives_a_write_that_fails(layout: dict[str, object], tmp_path: Path) -> None:
    gc.collect()  # trainers of earlier tests, which keep their scans in cycles
    others = open_hdf5_files()
    with pytest.raises(InputError, match="File too large"), small_disk(), new_hdf5(tmp_path / "a.h5") as file:
        for k in range(100):
            file[f"small/{k}"] = np.arange(300.0)
        values = file.create_dataset("x", (200, 64, 64), np.float64, **layout)
        for k in range(200):
            values[k] = RANDOM.random((64, 64))
    assert not file and open_hdf5_files() <= others
    with new_hdf5(tmp_path / "a.h5") as file:  # HDF5 still works
        file["x"] = np.arange(5)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][()].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_standard_output_on_a_full_disk_is_one_line(buffered: bool, tmp_path: Path) -> None:
    SCAN.save(tmp_path / "in.npz")
    options = ["-B"] if buffered else ["-B", "-u"]
    command = [sys.executable, *options, "-m", "ptychopinn.cli", "convert", "in.npz", "out.cxi"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "ptychopinn convert: standard output cannot be written: No space left"
    )
    assert Scan.load(tmp_path / "out.cxi").n == 40


@pytest.mark.parametrize("target", ["out.cxi", "out.npz", "out.nxs"])
def test_the_command_line_prints_one_line(target: str, tmp_path: Path) -> None:
    SCAN.save(tmp_path / "in.npz")
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))\n"
        "from ptychopinn.cli import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-B", "-c", program, "convert", str(tmp_path / "in.npz"), str(tmp_path / target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if "read as" not in line]
    assert lines == [f"ptychopinn convert: {tmp_path / target}: cannot be written: File too large"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]
