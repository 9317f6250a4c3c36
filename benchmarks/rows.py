# SPDX-License-Identifier: BSD-3-Clause
"""Tables that are written row by row, so that a run that is stopped keeps its rows: a CSV and a Markdown file."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ptycho_ext

Row = dict[str, Any]


def machine(device: torch.device) -> str:
    """One line about where and with what a table was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (
        f"{datetime.date.today().isoformat()}, {name}, torch {torch.__version__}, ptycho_ext {ptycho_ext.__version__}"
    )


class Rows:
    """A table of rows with the same columns, printed and written as they are added.

    Args:
        folder: for <name>.csv and <name>.md; None: rows are printed only.
        name: of the files, and the page's title.
        columns: names of the columns, and how their numbers are formatted ("" for text).
        heading: a line under the title.
    """

    def __init__(self, folder: Path | None, name: str, columns: Mapping[str, str], heading: str) -> None:
        self.rows: list[Row] = []
        self.columns, self.file, self.heading = columns, folder and folder / name, heading
        print(heading, flush=True)
        self.write()

    def add(self, row: Row) -> None:
        """Print a row and write it; columns that it has not are empty."""
        assert row.keys() <= self.columns.keys(), row
        self.rows.append(row)
        cells = zip(self.columns, self._cells(row), strict=True)
        print("  ".join(f"{column} {cell}" for column, cell in cells if cell), flush=True)
        self.write()

    def write(self) -> None:
        """Write all rows again, with what was added to them."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".csv").open("w", newline="") as sheet:
            writer = csv.DictWriter(sheet, list(self.columns), lineterminator="\n")
            writer.writeheader()
            for row in self.rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        titles = " | ".join(column.replace("_", " ") for column in self.columns)
        rule = "|".join("---:" if form else "---" for form in self.columns.values())
        lines = "".join(f"| {' | '.join(self._cells(row))} |\n" for row in self.rows)
        page = f"# {self.file.name}\n\n{self.heading}\n\n| {titles} |\n|{rule}|\n{lines}"
        self.file.with_suffix(".md").write_text(page)

    def _cells(self, row: Row) -> list[str]:
        return [self._cell(column, row.get(column)) for column in self.columns]

    def _cell(self, column: str, value: Any) -> str:
        form = self.columns[column]
        return "" if value is None else format(value, form) if form and not isinstance(value, str) else str(value)

    def save_json(self, path: Path) -> None:
        """Write all rows as a list of records."""
        path.write_text(json.dumps(self.rows, indent=1) + "\n")


def unavailable(error: BaseException) -> str:
    """The note of a row that was not measured."""
    lines = str(error).strip().splitlines() or [""]
    return f"n/a: {type(error).__name__}: {lines[0]}"[:160]
