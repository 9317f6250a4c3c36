# SPDX-License-Identifier: BSD-3-Clause
"""The directive ``result-table``: columns of a committed table of results.

Its argument is the file, such as quality/phi.csv; its options ``:columns: sample, C, mean_frc`` names the columns and
``:where: sample=phi, C=1`` the rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class ResultTable(Directive):
    """Some columns of a CSV file in benchmarks/results."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"columns": directives.unchanged_required, "where": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        path = RESULTS / self.arguments[0]
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = [part.strip().split("=") for part in self.options.get("where", "").split(",") if part.strip()]
        rows = [row for row in rows if all(row[name] == value for name, value in wanted)]
        if not rows:
            raise self.error(f"{path.name} has no row where {self.options['where']}")
        names = [name.strip() for name in self.options["columns"].split(",")]
        absent = [name for name in names if name not in rows[0]]
        if absent:
            raise self.error(f"{path.name} has no column {', '.join(absent)}; it has {', '.join(rows[0])}")
        table, group = nodes.table(), nodes.tgroup(cols=len(names))
        table += group
        for _ in names:
            group += nodes.colspec(colwidth=1)
        group += nodes.thead("", _row([name.replace("_", " ") for name in names]))
        body = nodes.tbody()
        group += body
        for row in rows:
            body += _row([_rounded(row[name]) for name in names])
        return [table]


def _row(texts: list[str]) -> nodes.row:
    row = nodes.row()
    for text in texts:
        row += nodes.entry("", nodes.paragraph(text=text))
    return row


def _rounded(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text
    return text if value == int(value) and abs(value) < 1e15 and "." not in text else f"{value:.3g}"


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("result-table", ResultTable)
    return {"parallel_read_safe": True}
