# SPDX-License-Identifier: BSD-3-Clause
"""Faults for the files of `scan_files`, for the tables of bad files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scan_files import COUNTS, FILES, PATTERNS, WORLD, N

from ptychopinn.errors import InputError
from ptychopinn.scan import Scan

Fault = Callable[[Path], object]
#: The name of a file of `scan_files`, its fault, options of the caller, and the expected sentence.
Row = tuple[str, Fault, dict[str, Any], str]


class Executed(Exception):
    """Raised if a pickle in a file is ever loaded."""


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from corrupt import Executed; raise Executed",)


def hdf5(change: Callable[[h5py.File], object], name: str | None = None) -> Fault:
    def corrupt(path: Path) -> None:
        with h5py.File(path if name is None else path.with_name(name), "a") as file:
            change(file)

    return corrupt


def put(key: str, value: Any, name: str | None = None) -> Fault:
    """Replace a data set, keeping its attributes; None removes it."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[key].attrs) if key in file else {}
        if key in file:
            del file[key]
        if value is not None:
            file[key] = value
            file[key].attrs.update(attributes)

    return hdf5(change, name)


def attribute(key: str, name: str, value: Any, file: str | None = None) -> Fault:
    return hdf5(lambda opened: opened[key].attrs.__setitem__(name, value), file)


def in_product(key: str, value: Any) -> Fault:
    return put(key, value, "product.h5")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def text(path: Path) -> None:
    path.write_text("y,x\n1,2\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def missing(path: Path) -> None:
    path.unlink()


def damage_chunk(path: Path) -> None:
    """Overwrite bytes of the first compressed pattern; the structure of the file stays intact."""
    with h5py.File(path) as file:
        chunk = file["patterns"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 40] = bytes(40)
    path.write_bytes(data)


def external_link(key: str) -> Fault:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = h5py.ExternalLink("/etc/secrets.h5", "/data")

    return hdf5(change)


def link_over(key: str) -> Fault:
    """Replace a data set with a soft link to an external link."""

    def change(file: h5py.File) -> None:
        del file[key]
        file["external"] = h5py.ExternalLink("other.h5", "/data")
        file[key] = h5py.SoftLink("/external")

    return hdf5(change)


def circle(file: h5py.File) -> None:
    del file["patterns"]
    file["patterns"] = h5py.SoftLink("/ring")
    file["ring"] = h5py.SoftLink("/patterns")


def virtual(file: h5py.File) -> None:
    del file["patterns"]
    layout = h5py.VirtualLayout((PATTERNS, N, N), np.uint16)
    layout[:] = h5py.VirtualSource("other.h5", "data", (PATTERNS, N, N))
    file.create_virtual_dataset("patterns", layout)


def outside(file: h5py.File) -> None:
    del file["patterns"]
    file.create_dataset("patterns", (PATTERNS, N, N), np.uint16, external=[("/etc/passwd", 0, PATTERNS * N * N * 2)])


def huge(key: str, name: str | None = None) -> Fault:
    """Replace a data set with an array of 280 TB without stored chunks."""

    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, (PATTERNS, 1 << 22, 1 << 22), np.uint8, chunks=(1, 64, 64))

    return hdf5(change, name)


def member(name: str, data: bytes) -> Fault:
    def corrupt(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            kept = {other: archive.read(other) for other in archive.namelist() if other != f"{name}.npy"}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for other, value in {**kept, f"{name}.npy": data}.items():
                archive.writestr(other, value)

    return corrupt


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def bomb(shape: str) -> bytes:
    """Return an NPY header with a large shape and without data."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def beside(name: str, content: str | bytes | np.ndarray | None) -> Fault:
    """Replace a file beside the patterns; None removes it."""

    def corrupt(path: Path) -> None:
        other = path.with_name(name)
        if content is None:
            other.unlink()
        elif isinstance(content, str):
            other.write_text(content)
        elif isinstance(content, bytes):
            other.write_bytes(content)
        else:
            np.save(other, content)

    return corrupt


def array(value: Any) -> Fault:
    return lambda path: path.write_bytes(npy(value))


def counts_with(value: float, dtype: Any = np.float64) -> np.ndarray:
    changed = COUNTS.astype(dtype)
    changed[4, 1, 2] = value
    return changed


def table(rows: int = PATTERNS, bad: str = "") -> str:
    return "y,x\n" + "".join(f"{y!r},{x!r}\n" for y, x in WORLD[:rows].tolist()) + bad


def put_in(file: h5py.File, key: str, value: np.ndarray) -> None:
    del file[key]
    file[key] = value


def assert_one_sentence(folder: Path, row: Row) -> None:
    """Check that the file of a row is refused with its sentence, and that no file is written."""
    kind, fault, stated, sentence = row
    path = FILES[kind][0](folder)
    fault(path)
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=sentence) as caught:
        Scan.load(path, **stated)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before
