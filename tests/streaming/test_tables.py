# SPDX-License-Identifier: BSD-3-Clause
"""Positions of growing tables: text, SPEC and HDF5, rows that are late, repeated, incomplete or no positions."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.io.options import ReadOptions
from ptychopinn.streaming.frames import Series
from ptychopinn.streaming.senders.hdf5 import Hdf5Sender
from ptychopinn.streaming.sources import tables
from ptychopinn.streaming.sources.tables import TablePositions

UM = 1e-6


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_PAUSE", 0.0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "positions.csv"


def add(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def near(expected: list[tuple[int, float, float]]) -> Any:
    return [(index, pytest.approx(y, rel=1e-12), pytest.approx(x, rel=1e-12)) for index, y, x in expected]


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "rows", "unit"),
    [
        ("", "{y} {x}", 1.0),
        ("y,x\n", "{y},{x}", 1.0),
        ("\ufeffx_um;y_um\n", "{x};{y}", UM),
        ("# from the stage\n# samx[mm]  samy[mm]  current\n", "{x} {y} 5", 1e-3),
        ("% a comment\n\n", "{y}\t{x}", 1.0),
    ],
)
def test_rows_as_they_come(table: Path, head: str, rows: str, unit: float) -> None:
    positions = TablePositions(table)
    assert positions.read() == [] and positions.unit == "m"  # no file yet
    add(table, head)
    assert positions.read() == []
    for k in range(3):
        add(table, rows.format(y=k + 1.5, x=-k - 0.25) + "\n")
        assert positions.read() == near([(k, (k + 1.5) * unit, (-k - 0.25) * unit)])
    assert positions.read() == []
    positions.close()
    positions.close()


def test_last_line_waits_for_its_end(table: Path) -> None:
    add(table, "y,x\n1,2\n3,4")
    positions = TablePositions(table)
    assert positions.read() == [(0, 1.0, 2.0)] and positions.read() == []
    add(table, "5")
    assert positions.read() == []
    add(table, "6\r\n7,")
    assert positions.read() == [(1, 3.0, 456.0)]
    add(table, "8\r\n")
    assert positions.read() == [(2, 7.0, 8.0)]


def test_header_alone_waits(table: Path) -> None:
    positions = TablePositions(table)
    for text in ("index,", "y_um,x_um", "\n"):
        add(table, text)
        assert positions.read() == []
    add(table, "3,1,2\n")
    assert positions.read() == near([(3, 1 * UM, 2 * UM)])


def test_rows_with_indexes_in_any_order_and_repeated(table: Path) -> None:
    add(table, "frame,y,x\n4,1,9\n0,3,4\n4,1,2\n")
    positions = TablePositions(table)
    assert positions.read() == [(4, 1.0, 2.0), (0, 3.0, 4.0)]
    add(table, "4,1,2\n")
    assert positions.read() == []
    add(table, "4,1,9\n2,0,0\n")
    assert positions.read() == [(4, 1.0, 9.0), (2, 0.0, 0.0)]


def test_first_index_of_the_table(table: Path) -> None:
    add(table, "index,y,x\n0,9,9\n1,1,2\n2,3,4\n")
    assert TablePositions(table, first=1).read() == [(0, 1.0, 2.0), (1, 3.0, 4.0)]


def test_nan_is_a_position_that_comes_later(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(table, "y,x\n1,2\nnan,nan\n3,4\n")
    positions = TablePositions(table)
    assert positions.read() == [(0, 1.0, 2.0), (2, 3.0, 4.0)]
    table.write_text("y,x\n1,2\n7,8\n3,4\n")
    assert positions.read() == [(1, 7.0, 8.0)]
    assert not caplog.records


def test_rows_that_are_no_positions_are_ignored(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(table, "index,y,x\n0,1,2\n1,far,2\n2,5\n3.5,1,1\n-4,1,1\n5,6,7\n# a remark\n")
    with caplog.at_level(logging.WARNING):
        assert TablePositions(table).read() == [(0, 1.0, 2.0), (5, 6.0, 7.0)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{table}: line 3: expected a position, found '1,far,2'; it is ignored"
    ]


@pytest.mark.parametrize("way", ["in place", "another file", "same size"])
def test_table_that_is_written_again(table: Path, way: str) -> None:
    add(table, "1,2\n3,4\n5,6\n")
    positions = TablePositions(table)
    assert len(positions.read()) == 3
    text = {"in place": "1,2\n7,8\n", "another file": "1,2\n7,8\n5,6\n9,9\n9,8\n", "same size": "1,2\n7,8\n5,6\n"}[way]
    target = table.with_name("new") if way == "another file" else table
    target.write_text(text)
    os.utime(target, (1e9, 1e9))
    target.replace(table)
    new = [(3, 9.0, 9.0), (4, 9.0, 8.0)] if way == "another file" else []
    assert positions.read() == [(1, 7.0, 8.0), *new]
    add(table, "0,1\n")
    index = text.count("\n")
    assert positions.read() == [(index, 0.0, 1.0)]


def test_table_larger_than_one_read(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_BYTES", 50)
    table.write_text("".join(f"{k}.5,{k}\n" for k in range(40)))
    positions = TablePositions(table)
    found: list[tuple[int, float, float]] = []
    while new := positions.read():
        found += new
    assert found == [(k, k + 0.5, float(k)) for k in range(40)]


def test_pixels_have_no_unit(table: Path) -> None:
    add(table, "1.5,2\n")
    positions = TablePositions(table, "px")
    assert positions.read() == [(0, 1.5, 2.0)] and positions.unit == "px"
    add(other := table.with_name("um.csv"), "y_um,x_um\n1,2\n")
    with pytest.raises(InputError, match="found a unit of length in its header; state the unit m"):
        TablePositions(other, "px").read()
    with pytest.raises(InputError, match="one of m, px, found 'mm'"):
        TablePositions(table, "mm")


def test_options_of_the_caller(table: Path) -> None:
    add(table, "a,b,c\n1,2,3\n")
    options = ReadOptions(position_columns=("c", "a"), position_unit="nm")
    assert TablePositions(table, options=options).read() == near([(0, 3e-9, 1e-9)])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,b,c\n1,2,3\n", "one column of y and one of x, found 3 columns named a, b, c"),
        (b"1,5;2,5\n", "found decimal commas"),
        (b"\xff\xfe1,2\n", "found no text"),
        (b"x" * 3000, "a line of more than"),
        (b"# remark\n" * 400, "rows of positions, found none in"),
    ],
)
def test_tables_that_have_no_positions(table: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(tables, "_LONGEST", 2000)
    table.write_bytes(data)
    with pytest.raises(InputError, match=words):
        TablePositions(table).read()


SPEC = "#F run.spec\n\n#S 1  ascan samx 0 1 2\n#N 3\n#L samy  samx  Current\n1 2 5\n"


def test_spec_scan_as_it_runs(table: Path) -> None:
    add(table, SPEC)
    positions = TablePositions(table, options=ReadOptions(position_unit="mm"))
    assert positions.read() == near([(0, 1e-3, 2e-3)])
    add(table, "3 4 6\n\n#S 2 mesh\n#L Epoch  samx  samy\n")
    assert positions.read() == near([(1, 3e-3, 4e-3)])
    add(table, "9 8 7\n@A 1 2 3\n9 6 5\n")
    assert positions.read() == near([(0, 7e-3, 8e-3), (1, 5e-3, 6e-3)])


def test_spec_scan_that_is_stated(table: Path) -> None:
    add(table, SPEC)
    positions = TablePositions(table, options=ReadOptions(position_scan=2))
    assert positions.read() == []
    add(table, "3 4 6\n#S 2 mesh\n#L Epoch  samx  samy\n9 8 7\n#S 3 mesh\n#L samy  samx\n1 1\n")
    assert positions.read() == [(0, 7.0, 8.0)]


# -- HDF5 ------------------------------------------------------------------------------------------------------------


def test_two_columns_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    positions = TablePositions(f"{path}:scan/p")
    assert positions.read() == []
    with h5py.File(path, "w") as file:
        data = file.create_dataset("scan/p", (0, 2), np.float32, maxshape=(None, 2))
        data.attrs["units"] = "um"
    assert positions.read() == []
    rows = [(1.0, 2.0), (np.nan, np.nan), (3.0, 4.0)]
    with h5py.File(path, "a", locking=False) as file:
        file["scan/p"].resize(3, 0)
        file["scan/p"][:] = rows
    assert positions.read() == near([(0, 1 * UM, 2 * UM), (2, 3 * UM, 4 * UM)])
    assert positions.read() == []
    with h5py.File(path, "a", locking=False) as file:
        file["scan/p"][1:] = [(7.0, 8.0), (3.0, 5.0)]
    assert positions.read() == near([(1, 7 * UM, 8 * UM), (2, 3 * UM, 5 * UM)])


def test_two_data_sets_of_different_length(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["y"], file["x"] = np.arange(3.0), np.arange(5.0)
        file["y"].attrs["units"], file["x"].attrs["units"] = "mm", "um"
    assert TablePositions(f"{path}:y,x").read() == near([(k, k * 1e-3, k * UM) for k in range(3)])


def test_columns_of_a_translation_are_x_and_y(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["translation"] = [[1.0, 2.0, 0.0]]
    assert TablePositions(f"{path}:translation").read() == [(0, 2.0, 1.0)]


@pytest.mark.parametrize("unit", ["m", "px"])
def test_positions_of_the_sender_that_come_late(tmp_path: Path, unit: str) -> None:
    """Without a key, they are found by the format."""
    path = tmp_path / "a.cxi"
    sender = Hdf5Sender(path)
    sender.begin(Series(position_unit=unit), (8, 8), np.dtype(np.uint8))
    positions = TablePositions(path, unit)
    for k, position in ((0, (1.0, 2.0)), (1, None), (2, (3.0, 4.0)), (1, (5.0, 6.0))):
        sender.send(k, np.ones((8, 8), np.uint8), position)
        assert positions.read() == ([] if position is None else [(k, *position)])
    sender.close()
    other = "px" if unit == "m" else "m"
    with pytest.raises(InputError, match=f"positions in {other}, as stated, found the unit {unit}"):
        TablePositions(path, other).read()


def test_file_that_cannot_be_read_for_a_moment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    positions = TablePositions(f"{path}:p")
    assert positions.read() == [] and not caplog.records
    monkeypatch.setattr(tables, "_PATIENCE", -1.0)
    assert positions.read() == [] and positions.read() == []
    (record,) = caplog.records
    assert "truncated, damaged or still being written" in record.getMessage()
    path.unlink()
    with h5py.File(path, "w") as file:
        file["p"] = [[1.0, 2.0]]
    assert positions.read() == [(0, 1.0, 2.0)]


def test_key_that_is_missing_in_a_finished_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["q"] = 1
    with pytest.raises(InputError, match="key 'p': expected the key to be there, found only q"):
        TablePositions(f"{tmp_path / 'a.h5'}:p").read()
    with pytest.raises(InputError, match=r"found none that are known by their name; state FILE.h5:KEY"):
        TablePositions(tmp_path / "a.h5").read()
