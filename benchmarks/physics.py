# SPDX-License-Identifier: BSD-3-Clause
"""What models of the experiment are worth: reconstructions with and without them, and of pty-chi with what it has.

    python benchmarks/physics.py fly-1 background thick --seeds 0 1 2
    python benchmarks/physics.py varying --models on "pty-chi opr"

Each scan is simulated with one effect (benchmarks/physics_scans.py) and reconstructed from a uniform object and a wrong
probe. Costs are CPU-seconds of the process, without the evaluation. Rows are merged into
benchmarks/results/physics/<case>.csv, one for every few passes; <case>.png has the images of seed 0, pictures/ those of
the other seeds and of single models, and <case>-curves.png the scores over the time; summary.csv has means over seeds.
pty-chi takes part where it is installed (benchmarks/refine_peer.py).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import physics_peer as peer
import refine_peer
import torch
from physics_pictures import curves, draw
from physics_scans import PROBLEMS, Problem, masked, plain, subtracted
from refine import Course, Row, measured, ours, summary

from ptychopinn.experiment import Experiment
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

RESULTS = Path(__file__).parent / "results" / "physics"
RANDOM, COMPACT = refine_peer.SETTINGS


@dataclass(frozen=True)
class Model:
    """A way to reconstruct a scan.

    Args:
        scan: what is reconstructed of the problem's scan.
        options: of the refinement.
        adjust: options of pty-chi; None: the reconstruction is ours.
        setting: of pty-chi.
    """

    scan: Callable[[Scan], Scan] = plain
    options: dict[str, Any] = field(default_factory=dict)
    adjust: Callable[[Problem], Callable[[Any], None]] | None = None
    setting: refine_peer.PeerSetting = COMPACT


def known(scan: Scan) -> Scan:
    return scan


def unknown_distance(scan: Scan, factor: float = 1.5) -> Scan:
    """The scan with another distance between the slices, by a factor."""
    distances = tuple(factor * value for value in scan.experiment.slice_distances)
    return replace(scan, experiment=replace(scan.experiment, slice_distances=distances))


def _nothing(problem: Problem) -> Callable[[Any], None]:
    return lambda options: None


OFF, PEER_OFF = Model(), Model(adjust=_nothing)
MODES = {"modes": Model(options={"modes": 5}), "pty-chi modes": Model(adjust=partial(peer.modes, count=5))}
MODELS: dict[str, dict[str, Model]] = {
    "fly-1": {"off": OFF, "on": Model(known), "pty-chi off": PEER_OFF, **MODES},
    "fly-2": {"off": OFF, "on": Model(known), "pty-chi off": PEER_OFF, **MODES},
    "background": {
        "off": OFF,
        "on": Model(options={"learn_background": True}),
        "on, known": Model(known),
        "pty-chi off": PEER_OFF,
        "pty-chi, known one subtracted": Model(subtracted, adjust=_nothing),
    },
    "saturation": {
        "off": OFF,
        "off, masked": Model(masked),
        "on": Model(known),
        "pty-chi off": PEER_OFF,
        "pty-chi, masked": Model(adjust=peer.mask),
    },
    "spread": {"off": OFF, "on": Model(known), "pty-chi off": PEER_OFF, "pty-chi": Model(adjust=peer.spread)},
    "source": {"off": OFF, "on": Model(known), "pty-chi off": PEER_OFF, **MODES},
    "near": {"off": OFF, "on": Model(known), "pty-chi": Model(known, adjust=peer.near)},
    "thick": {
        "off": OFF,
        "on": Model(known),
        "on, distance learned": Model(unknown_distance, {"learn_slice_distances": True}),
        "on, distance learned from half": Model(partial(unknown_distance, factor=0.5), {"learn_slice_distances": True}),
        "on, distance learned from twice": Model(
            partial(unknown_distance, factor=2.0), {"learn_slice_distances": True}
        ),
        "pty-chi off": PEER_OFF,
        "pty-chi": Model(known, adjust=peer.slices),
    },
    "varying": {
        "off": OFF,
        "on": Model(options={"probe_variations": 10, "iterations": 200}),
        "pty-chi off": PEER_OFF,
        "pty-chi": Model(adjust=partial(peer.variations, count=10)),
        "pty-chi, random batches": Model(adjust=partial(peer.variations, count=10), setting=RANDOM),
    },
}


def course(model: Model, problem: Problem, given: argparse.Namespace) -> Course:
    """States of a reconstruction."""
    scan = model.scan(problem.scan)
    if model.adjust is None:
        options = {"iterations": given.passes, **model.options}
        return ours(scan, None, given.every, accept="all", **options)
    epochs = refine_peer.lsqml(scan, model.setting, given.epochs, model.adjust(problem))
    return (state for state in epochs if state[0] == 1 or state[0] % given.every == 0)


def scored(states: Course, problem: Problem, **named: Any) -> tuple[list[Row], Reconstruction]:
    """A row for every state, and the last state."""
    rows: list[Row] = []
    last: Reconstruction | None = None
    for passes, seconds, state in states:
        (row,) = measured(iter([(passes, seconds, state)]), problem.scan, **named)
        if problem.slices is not None:
            row |= _of_slices(state, problem)
        rows.append(row)
        last = state
    assert last is not None
    return rows, last


def _of_slices(state: Reconstruction, problem: Problem) -> Row:
    """FRC of single slices, for which a thin image is taken where there are none, and the distance that was found."""
    assert problem.slices is not None
    row: Row = {}
    images = [state.object] * len(problem.slices) if state.slices is None else list(state.slices)
    for index, (image, truth) in enumerate(zip(images, problem.slices, strict=True)):
        # A phase ramp and a factor of one slice and their inverses of the other are an ambiguity.
        single = replace(state, object=image, slices=None, experiment=Experiment())
        figures = evaluate(single, replace(problem.scan, truth=truth, experiment=Experiment()))
        row[f"slice_{index}_frc"] = round(figures["frc"]["mean"], 4)
    if state.experiment.slice_distances:
        row["distance_ratio"] = round(state.experiment.slice_distances[0] / problem.distance, 4)
    return row


def verdicts(rows: list[Row]) -> list[str]:
    """For each seed: the last figures of every model, and those of ours at the time of pty-chi's last."""
    lines = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["seed"] == seed]
        for name in dict.fromkeys(row["model"] for row in own):
            last = [row for row in own if row["model"] == name][-1]
            line = f"seed {seed}: {name}: {_figures(last)}"
            if name.startswith("pty-chi"):
                within = [r for r in own if r["model"] == "on" and r["cpu_seconds"] <= last["cpu_seconds"]]
                line += f"; on, in this time: {_figures(within[-1]) if within else 'nothing'}"
            lines.append(line)
    return lines


def summaries(case: str, rows: list[Row]) -> list[Row]:
    """For each model: means of the last figures over the seeds, and those of "on" at the time of the model's last."""
    found = []
    for name in dict.fromkeys(row["model"] for row in rows):
        last, beside = [], []
        for seed in sorted({row["seed"] for row in rows}):
            own = [row for row in rows if row["seed"] == seed]
            ends = [row for row in own if row["model"] == name][-1:]
            last += ends
            beside += [r for r in own if r["model"] == "on" and ends and r["cpu_seconds"] <= ends[0]["cpu_seconds"]][
                -1:
            ]
        row: Row = {"case": case, "model": name, "seeds": len(last), "cpu_seconds": _mean(last, "cpu_seconds", 1)}
        for key in ("mean_frc", "phase_rmse", "phase_rmse_high_pass", "amplitude_rmse"):
            row[key] = _mean(last, key, 4)
        row["lowest_frc"] = min(r["mean_frc"] for r in last)
        for key in ("slice_0_frc", "slice_1_frc", "distance_ratio"):
            if all(key in r for r in last):
                row[key] = _mean(last, key, 4)
        if name.startswith("pty-chi") and len(beside) == len(last):
            row |= {f"on_at_this_time_{key}": _mean(beside, key, 4) for key in ("mean_frc", "phase_rmse")}
        found.append(row)
    return found


def _mean(rows: list[Row], key: str, digits: int) -> float:
    return round(sum(row[key] for row in rows) / len(rows), digits)


def _figures(row: Row) -> str:
    return f"FRC {row['mean_frc']}, phase {row['phase_rmse']} rad, {row['cpu_seconds']} s"


def merged(path: Path, rows: list[Row]) -> list[Row]:
    """Rows of a file and new ones, which replace those of the same seed and model; sorted by these."""
    done = {(row["seed"], row["model"]) for row in rows}
    kept = [row for row in read(path) if (row["seed"], row["model"]) not in done]
    order = list(MODELS[path.stem])
    return sorted([*kept, *rows], key=lambda row: (row["seed"], order.index(row["model"])))


def read(path: Path) -> list[Row]:
    """Rows of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: _number(text) for key, text in row.items() if text} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", help="by default all of the case")
    parser.add_argument("--side", type=int, default=25, help="patterns along one side of the scan")
    parser.add_argument("--passes", type=int, default=80, help="of our refinement, at most")
    parser.add_argument("--epochs", type=int, default=40, help="of LSQML")
    parser.add_argument("--every", type=int, default=10, help="passes between the rows")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for case in given.cases:
        path = RESULTS / f"{case}.csv"
        for seed in given.seeds:
            problem = PROBLEMS[case](seed, given.side)
            images: dict[str, Reconstruction] = {}
            for name, model in MODELS[case].items():
                wanted = given.models is None or name in given.models
                if not wanted or (model.adjust is not None and not refine_peer.installed()):
                    continue
                rows, images[name] = scored(course(model, problem, given), problem, seed=seed, model=name)
                print(case, summary(rows), flush=True)
                write(path, merged(path, rows))
            kept = seed == 0 and {"off", "on"} <= set(images)
            draw(problem, images, RESULTS / f"{case}.png" if kept else RESULTS / "pictures" / f"{case}-{seed}.png")
        rows = merged(path, [])
        curves(rows, RESULTS / f"{case}-curves.png")
        for line in verdicts(rows):
            print(case, line)
    tables = {path.stem: merged(path, []) for case in MODELS if (path := RESULTS / f"{case}.csv").exists()}
    write(RESULTS / "summary.csv", [row for case, rows in tables.items() for row in summaries(case, rows)])


if __name__ == "__main__":
    main()
