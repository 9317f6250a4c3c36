# SPDX-License-Identifier: BSD-3-Clause
"""Tables of positions: separators, comments, headers with names and units, indexes, and scans of SPEC files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.positions_table import read_positions
from ptychopinn.scan import Scan

METRES = [[1e-6, 2e-6], [3e-6, 4e-6]]

SPEC = """#F run.spec
#D Sat Nov 28

#S 1  ascan samx 0 1 2
#N 3
#L samy  samx  Detector current
0.001  0.002  5
0.003  0.004  6

#S 2  mesh samx 0 1 2
#L Epoch  samx  samy
7  0.002  0.001
@A 1 2 3
8  0.004  0.003
"""

READ: dict[str, tuple[str, dict[str, Any]]] = {
    "comma": ("1e-6,2e-6\n3e-6,4e-6\n", {}),
    "semicolon and comment": ("% from the stage\n1e-6; 2e-6\n3e-6; 4e-6\n", {}),
    "tab": ("1e-6\t2e-6\n3e-6\t4e-6\n", {}),
    "blanks": ("  1e-6   2e-6\n 3e-6 4e-6 \n\n", {}),
    "byte order mark": ("﻿y,x\n1e-6,2e-6\n3e-6,4e-6\n", {}),
    "header in another order": ("x_m,y_m\n2e-6,1e-6\n4e-6,3e-6\n", {}),
    "unit as a suffix": ("x_um y_um\n2 1\n4 3\n", {}),
    "unit in brackets": ("X [mm];Y [nm]\n0.002;1000\n0.004;3000\n", {}),
    "unit in parentheses": ("#  y (um)  x (µm)\n1 2\n3 4\n", {}),
    "last comment": ("# scan 7\n# samx samy\n2e-6 1e-6\n4e-6 3e-6\n", {}),
    "comment that is no header": ("# positions of the stage in metres\n1e-6 2e-6\n3e-6 4e-6\n", {}),
    "among others": ("time,energy,pos_x_um,pos_y_um\n0,8,2,1\n1,8,4,3\n", {}),
    "stated unit": ("1,2\n3,4\n", {"position_unit": "um"}),
    "stated unit over the header's": ("y_mm,x_mm\n1,2\n3,4\n", {"position_unit": "um"}),
    "stated numbers": ("0 2 1\n1 4 3\n", {"position_columns": (2, 1), "position_unit": "um"}),
    "stated names": ("a_um;b_um;c\n2;1;0\n4;3;0\n", {"position_columns": ("B", "a")}),
    "stated names of the command line": ("9,2,1\n9,4,3\n", {"position_columns": ("2", "1"), "position_unit": "um"}),
    "first SPEC scan": (SPEC, {"position_unit": "mm"}),
    "second SPEC scan": (SPEC, {"position_unit": "mm", "position_scan": 2}),
}


@pytest.mark.parametrize("name", READ)
def test_table_is_read(tmp_path: Path, name: str) -> None:
    text, options = READ[name]
    (tmp_path / "p.dat").write_text(text, encoding="utf-8")
    table = read_positions(tmp_path / "p.dat", ReadOptions(**options))
    np.testing.assert_allclose(table.world, METRES, rtol=1e-12)
    assert table.indexes is None


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "decimal commas": ("1,5;2,5\n3,5;4,5\n", {}, r"line .* found decimal commas, .*; replace them by points"),
    "decimal commas between blanks": ("1,5 2,5\n3,5 4,5\n", {}, r"found decimal commas"),
    "unit that is no length": ("x [V],y [V]\n1,2\n", {}, r"'y\[V\]', one of m, .*found 'V'; state position_unit="),
    "no y": ("a,b,c\n1,2,3\n", {}, r"one column of y and one of x, found 3 columns named a, b, c; state position_col"),
    "two pairs": ("x1,y1,x2,y2\n1,2,3,4\n", {}, r"one column of y and one of x, found 4 columns named x1, y1, x2, y2"),
    "unknown name": ("x,y\n1,2\n", {"position_columns": ("z", "x")}, r"a column 'z' .*, found 2 columns named x, y"),
    "unknown number": ("1,2\n", {"position_columns": (0, 2)}, r"a column '2' for the positions, found 2 columns"),
    "a word": ("1,2\n3,far\n", {}, r"line 2: expected finite metres y, x, found '3,far'; state position_columns="),
    "a short line": ("1,2\n3\n", {}, r"line 2: expected finite metres"),
    "repeated index": ("index,y,x\n0,1,2\n0,3,4\n", {}, r"integer frame indexes, each once, in column 0"),
    "only comments": ("# y x\n", {}, r"a table without rows"),
    "no such scan": (SPEC, {"position_scan": 3}, r"one of 1, 2, found no 3"),
    "no SPEC file": ("1,2\n", {"position_scan": 1}, r"expected a SPEC file with scans"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_table_is_refused(tmp_path: Path, name: str) -> None:
    text, options, words = REFUSED[name]
    (tmp_path / "p.dat").write_text(text)
    with pytest.raises(InputError, match=words):
        read_positions(tmp_path / "p.dat", ReadOptions(**options))


@pytest.mark.parametrize("first", [0, 1])
def test_index_column_pairs_rows_with_patterns(tmp_path: Path, first: int) -> None:
    counts = np.random.default_rng(1).poisson(9, (4, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "a.npy", counts)
    rows = [(3, 7.0), (0, 4.0), (2, 6.0)]
    lines = [f"{index + first},{y},{y}" for index, y in rows]
    (tmp_path / "positions.txt").write_text("\n".join(["frame,y_um,x_um", *lines]))
    scan = Scan.load(tmp_path / "a.npy", pixel_size=1e-6)
    np.testing.assert_array_equal(scan.counts, counts[[0, 2, 3]])
    np.testing.assert_allclose(scan.positions[:, 0], [0, 2, 3], atol=1e-9)
    assert scan.frame_indexes is not None and scan.frame_indexes.tolist() == [0, 2, 3]
    assert scan.decisions.pairing is not None and scan.decisions.pairing.patterns == 1


@pytest.mark.parametrize("n", [3, 5])
def test_another_number_of_rows_has_a_way_out(tmp_path: Path, n: int) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 8, 8), np.uint8))
    np.savetxt(tmp_path / "positions.dat", np.arange(2.0 * n).reshape(n, 2))
    with pytest.raises(InputError, match=rf"expected 4 positions, .*, found {n}; state the table .* 'index' .*SPEC"):
        Scan.load(tmp_path / "a.npy", pixel_size=1.0)
