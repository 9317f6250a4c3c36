# SPDX-License-Identifier: BSD-3-Clause
"""The layer behind all writers: leftovers of dead processes, tables that grow, checksums, owners of files."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.storage import atomic, tables
from ptychopinn.storage.atomic import atomic_file, atomic_path, remove_leftovers, write_text
from ptychopinn.storage.checksums import RunningChecksum, check_seal
from ptychopinn.storage.new_hdf5 import chunks_of, new_hdf5, put_array
from ptychopinn.storage.owners import Owner, this_process
from ptychopinn.storage.tables import GrowingTable

HERE = this_process()


def leftover(folder: Path, owner: Owner, name: str = ".scan", suffix: str = ".npz", age: float = 0.0) -> Path:
    path = folder / f"{name}.{owner}-0123abcd{suffix}"
    path.write_bytes(b"part")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_leftovers_of_dead_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    dead = Owner(HERE.host, 2**22 + 5, HERE.started)
    elsewhere = Owner(HERE.host ^ 1, 7, 0)
    gone = [
        leftover(tmp_path, dead),
        leftover(tmp_path, Owner(HERE.host, HERE.pid, HERE.started - 500)),  # the number is used again
        leftover(tmp_path, Owner(HERE.host ^ 1, 8, 0), age=2 * 86400),
        leftover(tmp_path, dead, f"..scan.{dead}-00000000"),  # of a subset, whose writer writes atomically itself
    ]
    kept = [
        leftover(tmp_path, HERE),
        leftover(tmp_path, elsewhere, age=3600),
        leftover(tmp_path, dead, ".other"),
        leftover(tmp_path, dead, suffix=".h5"),
    ]
    for name in (".scan.npz", ".scan.0123456789ab.npz", "scan.1.npz"):  # no names of ours
        (tmp_path / name).write_text("")
        kept.append(tmp_path / name)
    write_text(tmp_path / "scan.npz", "new")
    assert [path for path in gone if path.exists()] == [] and [path for path in kept if not path.exists()] == []
    remove_leftovers(tmp_path)
    assert not leftover(tmp_path, dead).with_name(f".other.{dead}-0123abcd.npz").exists() and kept[0].exists()


def test_a_temporary_file_is_removed_by_the_next_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from ptychopinn.storage.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path: path.write_text('part'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-B", "-c", program, str(tmp_path / "a.txt")], check=False)
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(rf"\.a\.{atomic.OWNER}-[0-9a-f]{{8}}\.txt", left.name)
    write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_names_of_every_length_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_library_that_loses_the_reason_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: atomic.RememberingFile, data: bytes) -> int:
        self.error = OSError(errno.EIO, "broken")
        return len(data)

    monkeypatch.setattr(atomic.RememberingFile, "write", write)
    with (
        pytest.raises(InputError, match=r"a\.bin: cannot be written: Input/output error$"),
        atomic_file(tmp_path / "a.bin") as file,
    ):
        file.write(b"x" * 3_000_000)
        raise RuntimeError("something went wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_only_when_it_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="the disk is full"):
        write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []
    with atomic_path(tmp_path / "a.png", durable=False) as temporary:
        temporary.write_text("picture")


def test_a_table_grows_by_full_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = GrowingTable(tmp_path / "t.csv")
    table.append([{"b": 1.5, "step": 0}])
    table.append([{"b": 2.5, "step": 1}])
    assert table.path.read_text().splitlines() == ["b,step", "1.5,0", "2.5,1"]
    table.append([{"a": 3, "step": 2}])
    expected = ["a,b,step", ",1.5,0", ",2.5,1", "3,,2"]
    assert table.path.read_text().splitlines() == expected

    real = Path.open

    class Full(io.BytesIO):
        def __init__(self, path: Path) -> None:
            super().__init__()
            self.file, self.left = real(path, "ab", buffering=0), 3

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: Any) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "full")
            count = self.file.write(data[: self.left])
            self.left = 0
            return count

    with monkeypatch.context() as patch:
        patch.setattr(tables.Path, "open", lambda path, *_, **__: Full(path))
        with pytest.raises(InputError, match=r"t\.csv: the disk is full"):
            table.append([{"a": 4, "step": 3}])
    assert table.path.read_text().splitlines() == expected
    table.append([{"a": 4, "step": 3}])
    assert table.path.read_text().splitlines() == [*expected, "4,,3"]


def test_arrays_have_checksums_in_chunks_of_a_megabyte(tmp_path: Path) -> None:
    with new_hdf5(tmp_path / "a.h5") as file:
        for name, shape in (("long", (3_000_000,)), ("cube", (5, 700, 900)), ("small", (2, 2)), ("one", (1, 1, 400))):
            put_array(file, name, np.zeros(shape))
        put_array(file, "number", 3.0)
        put_array(file, "text", "abc")
        put_array(file, "empty", np.zeros(0))
    check_seal(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        chunks = {name: file[name].chunks for name in file}
        assert all(file[name].fletcher32 == (chunks[name] is not None) for name in file)
    assert chunks == {
        "long": (131072,), "cube": (1, 145, 900), "small": (2, 2), "one": (1, 1, 400),
        "number": None, "text": None, "empty": None,
    }  # fmt: skip
    assert chunks_of((10**9,), "uint8") == (1 << 20,)


def test_the_checksum_of_rows_is_that_of_the_first_pass_in_order() -> None:
    import zlib

    values = np.arange(40.0).reshape(10, 4)
    crc = zlib.crc32(values.tobytes(), zlib.crc32(b"head"))
    for expected, good in ((crc, True), (crc ^ 1, False)):
        checksum = RunningChecksum(expected, b"head", 10)
        assert checksum.agrees(np.array([7, 8]), values[7:9])  # passed over
        assert checksum.agrees(np.arange(6), values[:6])
        assert checksum.agrees(np.arange(6, 10), values[6:]) is good
        assert checksum.agrees(np.arange(6), values[:6])


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "\u6e2c" * 83 + ".txt"])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text" and len(list(tmp_path.iterdir())) == 1
