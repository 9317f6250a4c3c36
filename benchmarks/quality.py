# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the quality of reconstructions with a network: cases with a table and a figure each.

The object is known in every case. A row is one training (or fine-tuning) and the scores of one reconstruction; its cost
is the wall time of the training with a number of threads. The default takes minutes per case on two cores; ``--full``
has longer trainings and more seeds, on a GPU if there is one. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from quality_bench import Bench, Picture, Row
from quality_cases import CASES
from quality_lists import LISTS
from quality_pictures import draw, draw_residuals
from quality_trainings import chosen, label_of, run_trainings
from shared_table import Table
from step_costs import HOW
from tables import table_of

RESULTS = Path(__file__).parent / "results"


def write(case: str, rows: list[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{case}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})


def run_case(case: str, bench: Bench, folder: Path) -> None:
    """Run a case with a procedure of its own, and write its table and figure."""
    rows: list[Row] = []
    pictures: list[Picture] = []
    for row, picture in CASES[case](bench):
        rows.append(row)
        if picture is not None and picture[0] not in [label for label, _ in pictures]:
            pictures.append(picture)
        write(case, rows, folder)  # after every row, so that an interrupted run keeps its rows
    if pictures:
        draw(pictures, folder / f"{case}.png")


def settings_of(case: str, bench: Bench, seconds: float) -> dict[str, Any]:
    settings = {
        "case": case,
        "full": bench.full,
        "seeds": bench.seeds,
        "threads": bench.threads,
        "scale": bench.scale,
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if case in LISTS:
        settings |= {"minutes": bench.given, "epochs": bench.epochs, "expected_h200_s": HOW}
    return settings


def main() -> int:
    known = [*CASES, *LISTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--case", action="append", default=[], metavar="CASE", help="the same")
    parser.add_argument("--full", action="store_true", help="longer trainings, larger scans, three seeds")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0, or 0 1 2 with --full")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all training times")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality", help="folder for tables and pictures")
    parser.add_argument("--table", metavar="CASE", help="print the rows of a case as a table in Markdown, and stop")
    lists = parser.add_argument_group(f"cases that are lists of trainings: {', '.join(LISTS)}")
    lists.add_argument("--minutes", type=float, help="of every training")
    lists.add_argument("--epochs", type=int, help="of every training, in place of a time")
    lists.add_argument("--rows", metavar="FIRST:LAST", help="the trainings of these numbers, as 0:4")
    lists.add_argument("--list", action="store_true", help="print the trainings with their numbers, and stop")
    lists.add_argument("--resume", action="store_true", help="omit trainings whose rows are in the table")
    lists.add_argument("--patterns", type=int, help="of every scan: few, to see that a case runs")
    lists.add_argument("--start", type=Path, metavar="BUNDLE", help="pretrained model of the case start")
    arguments = parser.parse_args()
    cases = [*arguments.cases, *arguments.case] or known
    unknown = {*cases, *([arguments.table] if arguments.table else [])} - set(known)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    if arguments.table:
        print(table_of(arguments.table, arguments.out), end="")
        return 0
    options = ("minutes", "epochs", "rows", "list", "resume", "patterns", "start")
    stated = [f"--{name}" for name in options if getattr(arguments, name) not in (None, False)]
    others = sorted(set(cases) - set(LISTS))
    if stated and others:
        parser.error(f"{', '.join(stated)}: only for {', '.join(LISTS)}, not for {', '.join(others)}")
    if "start" in cases and (arguments.minutes or arguments.epochs):
        parser.error("--minutes, --epochs: not for start, whose times are its own; --scale multiplies them")
    if not re.fullmatch(r"\d*:\d*", arguments.rows or ":"):
        parser.error(f"--rows must be FIRST:LAST, as 0:4, got {arguments.rows}")
    torch.set_num_threads(arguments.threads)
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    bench = Bench(
        arguments.full,
        tuple(arguments.seeds or ((0, 1, 2) if arguments.full else (0,))),
        arguments.threads,
        arguments.scale,
        arguments.minutes,
        arguments.epochs,
        arguments.patterns,
        arguments.start,
    )
    for case in cases:
        print(f"{case}: {((CASES.get(case) or LISTS[case]).__doc__ or '').strip()}", flush=True)
        began = time.perf_counter()
        if case in CASES:
            run_case(case, bench, arguments.out)
        else:
            trainings = LISTS[case](bench)
            if arguments.list:
                for number, training in enumerate(trainings):
                    print(f"{number:4}  {label_of(training.facts)}, seed {training.seed}")
                continue
            table = Table(arguments.out / f"{case}.csv")
            for picture in run_trainings(chosen(trainings, arguments.rows), bench, table, arguments.resume):
                draw_residuals(picture, arguments.out / "pictures" / case)
        settings = settings_of(case, bench, time.perf_counter() - began)
        (arguments.out / f"{case}.json").write_text(json.dumps(settings) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
