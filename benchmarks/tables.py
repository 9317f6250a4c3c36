# SPDX-License-Identifier: BSD-3-Clause
"""Tables of the quality benchmark in Markdown, made from its CSVs, with published results beside ours.

Rows that differ in seed and tested object only are one row: the mean, and the standard deviation where there are
several. Facts that all rows share are in a line above the table.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

#: Published results: rows with the columns of ours, and where they are from. results/quality/published.csv.
PUBLISHED = Path(__file__).parent / "results" / "quality" / "published.csv"
#: What rows of one kind differ in.
_REPEATS = ("seed", "object")
#: Column of the CSV -> its title and the digits after the point; None: three significant digits.
_SCORES: dict[str, tuple[str, int | None]] = {
    "amplitude_ssim": ("amplitude SSIM", 3),
    "phase_ssim": ("phase SSIM", 3),
    "phase_ssim_strict": ("phase SSIM, strict", 3),
    "phase_ssim_mapped": ("phase SSIM, mapped", 3),
    "phase_pearson": ("phase Pearson", 3),
    "mean_frc": ("mean FRC", 3),
    "amplitude_ssim_constant": ("constant: amplitude SSIM", 3),
    "phase_ssim_constant": ("constant: phase SSIM", 3),
    "phase_ssim_mapped_constant": ("constant: phase SSIM, mapped", 3),
    "train_s": ("training, s", None),
    "step_ms": ("step, ms", None),
    "parameters": ("parameters", 0),
    "patterns_per_s": ("patterns/s", None),
    "expected_h200_s": ("40 epochs, H200, expected, s", None),
}

Record = dict[str, str]


def table_of(case: str, folder: Path) -> str:
    """The rows of a case as a page in Markdown.

    Args:
        case: name of the CSV in the folder.
        folder: of the tables.
    """
    rows = _read(folder / f"{case}.csv")
    if not rows:
        return f"{case}: no rows in {folder}\n"
    if "phase_ssim_strict" not in rows[0]:  # a case with a procedure of its own
        return _page([dict(row) for row in rows], list(rows[0]))
    names = list(rows[0])
    facts = [name for name in names[: names.index("amplitude_ssim")] if name not in _REPEATS]
    lines = [_mean(group, facts) for group in _groups(rows, facts)]
    published = [row for row in _read(PUBLISHED) if row["case"] == case]
    shared = [name for name in facts if name != "hardware" and len({line[name] for line in lines}) == 1]
    shared = [name for name in shared if all(row.get(name, "") in ("", lines[0][name]) for row in published)]
    heading = ", ".join(f"{name} {lines[0][name]}" for name in shared if lines[0][name])
    shown = [name for name in facts if name not in shared and name != "hardware"]
    if published:
        lines = [{"source": "this library", **line} for line in lines]
        lines += [_published(row) for row in published]
        shown = ["source", *shown]
    scores = [name for name in _SCORES if any(line.get(name) for line in lines)]
    notes = dict.fromkeys(f"{row['source']}: {row['note']}" for row in published if row["note"])
    foot = "".join(f"\n{note}.\n" for note in notes)
    return f"{heading}\n\n{_page(lines, [*shown, *scores, 'rows', 'hardware'])}{foot}"


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _groups(rows: Sequence[Record], facts: Sequence[str]) -> list[list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in facts), []).append(row)
    return list(groups.values())


def _mean(group: Sequence[Record], facts: Sequence[str]) -> Record:
    line = {name: group[0][name] for name in facts}
    for name, (_, digits) in _SCORES.items():
        values = [float(row[name]) for row in group if row.get(name)]
        if values:
            line[name] = _number(statistics.mean(values), digits)
            if len(values) > 1 and digits == 3 and not name.endswith("_constant"):
                line[name] += f" ± {statistics.stdev(values):.3f}"
    return {**line, "rows": str(len(group))}


def _published(row: Record) -> Record:
    source = f"{row['source']}, {row['network']}"
    scores = {name: _number(float(row[name]), digits) for name, (_, digits) in _SCORES.items() if row.get(name)}
    return {**row, **scores, "source": source, "rows": ""}


def _number(value: float, digits: int | None) -> str:
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _page(lines: Sequence[Record], names: Sequence[str]) -> str:
    titles = [_SCORES[name][0] if name in _SCORES else name.replace("_", " ") for name in names]
    cells = [[line.get(name) or "" for name in names] for line in lines]
    rules = ["---:" if name in _SCORES else "---" for name in names]
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rules, *cells))
