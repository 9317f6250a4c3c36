# SPDX-License-Identifier: BSD-3-Clause
"""Row 16 of the table of reports: a flipped bit in one of our own files is refused, or changes nothing.

`PTYCHOPINN_FLIPS=400` flips as many bits of each file.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.persistence.bundle import build_model, load_bundle, save_bundle
from ptychopinn.persistence.checkpoint import load_checkpoint
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns

FLIPS = int(os.environ.get("PTYCHOPINN_FLIPS", "40"))

RANDOM = np.random.default_rng(0)
BAD = np.zeros((32, 32), np.bool_)
BAD[3, 4] = True
SCAN = dataclasses.replace(
    simulate("lines", "defocused", patterns=12, size=32, photons=1e4, seed=3),
    bad_pixels=BAD, pixel_size=1e-8, energy=8e3,
)  # fmt: skip
RESULT = Reconstruction(
    RANDOM.normal(size=(40, 40)).astype(np.complex64), np.ones((40, 40), np.float32), (0.0, 1.0), SCAN.probe,
    positions=SCAN.positions, pixel_size=1e-8,
)  # fmt: skip


def _weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    model, config = load_bundle(path)
    return {name: value.numpy() for name, value in model.state_dict().items()}, config.to_dict()


#: File name -> writer and reader.
FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "scan.cxi": (SCAN.save, Scan.load),
    "scan.ptyd": (SCAN.save, Scan.load),
    "scan.nxs": (SCAN.save, Scan.load),
    "scan.npz": (SCAN.save, Scan.load),
    "stored.npz": (SCAN.save, lambda path: Scan.load(path, memory="stored")),
    "stored.cxi": (SCAN.save, lambda path: Scan.load(path, memory="stored")),
    "diffraction.h5": (lambda path: SCAN.save(path, "ptychodus"), Scan.load),
    "product.h5": (lambda path: SCAN.save(path, "ptychodus"), Scan.load),
    "result.h5": (RESULT.save, Reconstruction.load),
    "result.npz": (RESULT.save, Reconstruction.load),
    "wts.h5.zip": (lambda path: save_bundle(build_model(Config(), 32, 1), Config(), path), _weights),
}


def same(a: Any, b: Any) -> bool:
    """Whether two values, with all that is in them, are equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, StoredPatterns):
        return np.array_equal(a[:], b[:])
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, tmp_path: Path) -> None:
    write, read = FILES[name]
    path, draw = tmp_path / name, random.Random(name)
    write(path)
    sound, data = read(path), path.read_bytes()
    altered: list[tuple[int, int]] = []
    sentences: list[str] = []
    for _ in range(FLIPS):
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        try:
            if not same(sound, read(path)):
                altered.append((place, bit))
        except InputError as error:
            sentences.append(str(error))
    print(f"{name}: {FLIPS} bits, {len(sentences)} refused, {len(altered)} altered")
    assert not altered and sentences
    assert all(str(tmp_path) in sentence and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize("name", ["scan.npz", "result.npz"])
def test_no_bit_of_an_archive_hides_data(name: str, tmp_path: Path) -> None:
    """Bits of the directory at the end of an archive, and of the shapes in the headers of its arrays."""
    write, read = FILES[name]
    path = tmp_path / name
    write(path)
    sound, data = read(path), path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory, members = archive.start_dir, archive.infolist()
    flips = [(place, bit) for place in range(directory, len(data), 3) for bit in range(1, 8, 3)]
    for member in members if members[0].compress_type == zipfile.ZIP_STORED else ():
        shape = data.index(b"'shape'", member.header_offset)
        flips += [(shape + k, bit) for k in range(10, 20) for bit in (0, 1)]
    for place, bit in flips:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with suppress(InputError):
            assert same(sound, read(path)), (place, bit)


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    import torch

    from ptychopinn.persistence.checkpoint import save_tensors

    path = tmp_path / "last.ckpt"
    save_tensors(path, {"state_dict": {"model.x": torch.arange(1000.0)}})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"last\.ckpt: .*damaged: copy or export it again"):
        load_checkpoint(path)


def test_a_file_that_another_program_changes_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    SCAN.save(path)
    with h5py.File(path, "r+") as file:
        file["entry_1/title"][()] = "renamed"
        file["entry_1/instrument_1/detector_1/data"][3, 4, 5] = 77
        file.attrs["note"] = "mine"
    changed = Scan.load(path)
    assert changed.name == "renamed" and changed.counts[3, 4, 5] == 77


def test_a_file_that_was_appended_to_is_refused(tmp_path: Path) -> None:
    path = RESULT.save(tmp_path / "r.h5")
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + sound[90:])
    with pytest.raises(InputError, match=r"r\.h5"):
        Reconstruction.load(path)
    shutil.rmtree(tmp_path)
