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
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from quality_cases import CASES, Bench, Picture, Row

from ptychopinn.metrics.scores import matched_phases

RESULTS = Path(__file__).parent / "results"


def draw(pictures: list[Picture], path: Path) -> None:
    """Draw amplitude, phase and their truths, a row for each picture."""
    figure = Figure(figsize=(11, 2.9 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pictures), 4, squeeze=False)
    for row, (label, aligned) in zip(grid, pictures, strict=True):
        phases = matched_phases(aligned.image, aligned.truth)
        for axes, (image, truth, shown, colours, name) in zip(
            row,
            (
                (np.abs(aligned.image), np.abs(aligned.truth), 0, "gray", "amplitude"),
                (np.abs(aligned.image), np.abs(aligned.truth), 1, "gray", "its truth"),
                (*phases, 0, "viridis", "phase"),
                (*phases, 1, "viridis", "its truth"),
            ),
            strict=True,
        ):
            low, high = np.percentile(truth, (0.5, 99.5))
            axes.imshow((image, truth)[shown], cmap=colours, vmin=low, vmax=max(high, low + 1e-3))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(name, fontsize="small")
        row[0].set_ylabel(label, fontsize="small")
    figure.savefig(path, dpi=80)


def write(case: str, rows: list[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{case}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--full", action="store_true", help="longer trainings, larger scans, three seeds")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0, or 0 1 2 with --full")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all training times")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality", help="folder for tables and pictures")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; known are {', '.join(CASES)}")
    torch.set_num_threads(arguments.threads)
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    seeds = tuple(arguments.seeds or ((0, 1, 2) if arguments.full else (0,)))
    bench = Bench(arguments.full, seeds, arguments.threads, arguments.scale)
    for case in arguments.cases:
        print(f"{case}: {(CASES[case].__doc__ or '').strip()}", flush=True)
        start = time.perf_counter()
        rows: list[Row] = []
        pictures: list[Picture] = []
        for row, picture in CASES[case](bench):
            rows.append(row)
            if picture is not None and picture[0] not in [label for label, _ in pictures]:
                pictures.append(picture)
            write(case, rows, arguments.out)  # after every row, so that an interrupted run keeps its rows
        if pictures:
            draw(pictures, arguments.out / f"{case}.png")
        settings = {"case": case, "full": bench.full, "seeds": seeds, "threads": bench.threads, "scale": bench.scale}
        settings["seconds"] = round(time.perf_counter() - start)
        settings["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        (arguments.out / f"{case}.json").write_text(json.dumps(settings) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
