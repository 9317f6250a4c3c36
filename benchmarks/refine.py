# SPDX-License-Identifier: BSD-3-Clause
"""Time to quality of refinement, against pty-chi's LSQML where it is installed (see benchmarks/refine_peer.py).

    python benchmarks/refine.py race --seeds 0 1 2 --threads 1
    python benchmarks/refine.py positions modes closed
    python benchmarks/refine.py star --scan siemens.npz

Costs are CPU-seconds of the process, without the evaluation; all engines of a case run in succession in one process
with the same number of threads. Ours has default options; LSQML has its defaults, or the recommended compact batches
with momentum, which are faster here. Rows are written to benchmarks/results/refine/<case>.csv, with curves and images.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import refine_peer
import torch
from position_bound import position_bound
from scans import OTHER_PICTURES, PICTURES, default_scan

from ptychopinn.config import Config, RefineConfig
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.metrics.split_half import split_half_frc
from ptychopinn.persistence.bundle import load_bundle
from ptychopinn.physics.probes import add_modes
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.plotting.style import new_figure, save_figure
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.workflow import Progress, refine, split_half
from ptychopinn.scan import Scan

RESULTS = Path(__file__).parent / "results" / "refine"
Row = dict[str, Any]
#: (passes, CPU-seconds, state)
Course = Iterator[tuple[int, float, Reconstruction]]


def scan_of(seed: int, **options: Any) -> Scan:
    return default_scan(PICTURES[seed], seed=20260101 + seed, **options)


def ours(
    scan: Scan,
    start: Reconstruction | None,
    every: int = 2,
    before: float = 0.0,
    accept: str | tuple[str, ...] = (),
    **options: Any,
) -> Course:
    """States of our refinement after every few passes, and the last.

    Args:
        scan: the scan.
        start: initial object and probe, or None.
        every: passes between the states.
        before: CPU-seconds of the initial object.
        accept: problems of the scan that are accepted.
        options: of the refinement.
    """
    states: list[tuple[int, float, Reconstruction]] = []
    clock = {"spent": before, "since": time.process_time()}

    def note(progress: Progress) -> None:
        clock["spent"] += time.process_time() - clock["since"]
        states.append((progress.passes, clock["spent"], progress.result()))
        clock["since"] = time.process_time()

    config = RefineConfig(**{"split_half": False, **options})
    result = refine(scan, start, config, "cpu", progress=note, every=every, accept=accept)
    clock["spent"] += time.process_time() - clock["since"]
    passes = result.refinement.passes
    if not states or states[-1][0] != passes:
        states.append((passes, clock["spent"], result))
    return iter(states)


def measured(course: Course, scan: Scan, **named: Any) -> Iterator[Row]:
    for passes, seconds, state in course:
        figures = evaluate(state, scan)
        yield {
            **named,
            "passes": passes,
            "cpu_seconds": round(seconds, 2),
            "mean_frc": round(figures["frc"]["mean"], 4),
            "phase_rmse": round(figures["phase"]["rmse"], 4),
            "phase_rmse_high_pass": round(figures["phase"]["rmse_high_pass"], 4),
            "amplitude_rmse": round(figures["amplitude"]["rmse"], 4),
            "patterns_per_cpu_second": round(scan.n * passes / seconds),
        }


def trained_elsewhere(minutes: float) -> Path:
    """Bundle trained on other objects with the same probe, from the wrong initial probe; trained once."""
    folder = RESULTS / "bundle"
    if not (folder / "wts.h5.zip").exists():
        from ptychopinn.training.workflow import train

        scans = [default_scan(pair, seed=777 + index) for index, pair in enumerate(OTHER_PICTURES)]
        train(scans, folder, Config.from_dict({"training": {"minutes": minutes}}), overwrite=True)
    return folder


def race(options: argparse.Namespace) -> list[Row]:
    """Refinement with the wrong probe, from scratch and from a network's reconstruction: scores against CPU-seconds."""
    model, config = load_bundle(trained_elsewhere(options.minutes))
    inference = dataclasses.replace(config.inference, probe="model", coverage=1)
    config = dataclasses.replace(config, inference=inference)
    rows: list[Row] = []
    for seed in options.seeds:
        scan = scan_of(seed)
        named = {"seed": seed, "object": "/".join(PICTURES[seed])}
        reconstruct(model, scan.subset(np.arange(64)), config)  # initialisation is not timed
        began = time.process_time()
        start = reconstruct(model, scan, config)
        inferred = time.process_time() - began
        courses: list[tuple[str, Course]] = [
            ("scratch", ours(scan, None)),
            ("network", ours(scan, start, every=1, before=inferred)),
            ("scratch without prior", ours(scan, None, total_variation=0.0)),
            ("scratch bilinear", ours(scan, None, interpolation="bilinear")),
            ("scratch pie", ours(scan, None, engine="pie", iterations=60)),
        ]
        if refine_peer.installed():
            for setting in refine_peer.SETTINGS:
                courses.append((setting.name, refine_peer.lsqml(scan, setting, options.epochs)))
        for name, course in courses:
            made = list(measured(course, scan, **named, engine=name))
            print(summary(made))
            rows += made
    _curves(rows, RESULTS / "race.png")
    for line in verdicts(rows):
        print(line)
    return rows


def summary(rows: list[Row]) -> str:
    last = rows[-1]
    return "  ".join(f"{key} {value}" for key, value in last.items())


def time_to(rows: list[Row], level: float) -> float | None:
    """CPU-seconds to the first state of at least this mean FRC."""
    return next((row["cpu_seconds"] for row in rows if row["mean_frc"] >= level), None)


def verdicts(rows: list[Row]) -> Iterator[str]:
    """For each seed: times to the FRC of LSQML (0.904, or its best if that is lower), and the FRC that ours reaches."""
    for seed in sorted({row["seed"] for row in rows}):
        by = {
            name: [row for row in rows if row["seed"] == seed and row["engine"] == name]
            for name in dict.fromkeys(row["engine"] for row in rows)
        }
        for name in [name for name in by if name.startswith("lsqml")]:
            level = min(0.904, max(row["mean_frc"] for row in by[name]))
            theirs, mine = time_to(by[name], level), time_to(by["scratch"], level)
            assert theirs is not None
            within = max((r["mean_frc"] for r in by["scratch"] if r["cpu_seconds"] <= theirs), default=0.0)
            rate = by["scratch"][-1]["patterns_per_cpu_second"] / by[name][-1]["patterns_per_cpu_second"]
            yield (
                f"seed {seed}: mean FRC {level:.3f}: {name} {theirs:.1f} s, ours {mine} s; ours reaches {within:.3f} "
                f"in {theirs:.1f} s; patterns per CPU-second {rate:.1f} times theirs"
            )
        for fraction in (0.97, 0.99, 1.0):
            level = fraction * by["scratch"][-1]["mean_frc"]
            first, second = time_to(by["scratch"], level), time_to(by["network"], level)
            yield f"seed {seed}: mean FRC {level:.3f}: from scratch {first} s, from the network {second} s"


def positions(options: argparse.Namespace) -> list[Row]:
    """Reported positions with errors, refined with the probe; the remaining error without its affine part."""
    rows: list[Row] = []
    for seed in options.seeds:
        for photons, error, learn in _POSITION_CASES:
            pictures = (*PICTURES, *OTHER_PICTURES)[seed]
            known = {"seed": 20260101 + seed, "photons": photons}
            scan = default_scan(pictures, position_error=error, **known)
            exact = default_scan(pictures, true_probe=True, **known)
            compared = learn and error == 3.0
            courses = [
                ("ours", list(ours(scan, None, 30 if compared else 1000, learn_positions=learn, iterations=300)))
            ]
            if compared:
                assert exact.truth is not None
                truth = Reconstruction(
                    exact.truth, np.ones(exact.truth.shape, np.float32), (0.0, 0.0), exact.probe,
                    positions=exact.positions,
                )  # fmt: skip
                courses.append(("from the truth", list(ours(scan, truth, 30, learn_positions=True, iterations=300))))
            if compared and refine_peer.installed():
                setting = refine_peer.SETTINGS[1]
                for name, adam in (("", None), (", Adam", 0.2)):
                    course = refine_peer.lsqml(scan, setting, options.epochs, refine_peer.correct_positions(adam))
                    courses.append((f"{setting.name}{name}", list(course)[_EPOCHS - 1 :: _EPOCHS]))
            bound = position_bound(exact, error) if error else np.zeros(scan.n)
            named = {"seed": seed, "photons": photons, "error": error, "learned": learn}
            for engine, course in courses:
                made = list(measured(iter(course), scan, **named, engine=engine))
                for row, (_, _, state) in zip(made, course, strict=True):
                    row |= _errors_left(exact.positions, state, bound)
                rows += made
                print(summary(rows[-1:]), flush=True)
                picture = f"positions-{seed}-{photons:g}-{error:g}-{learn}" + ("" if engine == "ours" else f"-{engine}")
                plot_reconstruction(course[-1][2], RESULTS / "pictures" / picture.replace(", ", "-").replace(" ", "-"))
    return rows


def _errors_left(exact: np.ndarray, state: Reconstruction, bound: np.ndarray) -> Row:
    assert state.positions is not None
    left = _without_affine(exact, state.positions)
    border = np.minimum(exact - exact.min(0), exact.max(0) - exact).min(1)
    return {
        "position_rms": _rms(left),
        "position_rms_inside": _rms(left[border >= 20]),
        "position_rms_determined": _rms(left[bound < 0.1]),
        "determined": int((bound < 0.1).sum()),
        "position_median": round(float(np.median(left)), 3),
        "above_1px": int((left > 1).sum()),
        "bound_rms": _rms(bound),
    }


#: Epochs of pty-chi between two rows.
_EPOCHS = 10
#: Photons of a pattern, error along an axis (pixels), whether positions are refined.
_POSITION_CASES = (
    (1e6, 0.0, False), (1e6, 3.0, False), (1e6, 0.0, True), (1e6, 1.0, True), (1e6, 3.0, True), (1e4, 3.0, True),
)  # fmt: skip


def _rms(lengths: np.ndarray) -> float:
    return round(float(np.sqrt(np.square(lengths).mean())), 3) if len(lengths) else float("nan")


def _without_affine(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Length (n,) of the error of positions (n, 2), without its affine part."""
    terms = np.column_stack([truth, np.ones(len(truth))])
    error = found - truth
    return np.hypot(*(error - terms @ np.linalg.lstsq(terms, error, rcond=None)[0]).T)


def modes(options: argparse.Namespace) -> list[Row]:
    """One and three incoherent modes at the same dose, from one wrong initial mode."""
    rows: list[Row] = []
    known = default_scan(true_probe=True)
    guess = default_scan().probe
    assert known.truth is not None
    for photons in (1e6, 1e7, 1e8):
        for count in (1, 3):
            probe = add_modes(known.probe[0], count, decay=0.2)
            scan = simulate(known.truth, probe=probe, patterns=1089, step=9.6, photons=photons, seed=options.seeds[0])
            powers = np.square(np.abs(scan.probe)).sum((1, 2))
            begun = dataclasses.replace(scan, probe=(guess * np.sqrt(powers.sum()) / np.linalg.norm(guess)))
            *_, (passes, seconds, state) = ours(begun, None, 1000, modes=count, iterations=300, tolerance=2e-4)
            rows += measured(iter([(passes, seconds, state)]), scan, photons=photons, modes=count)
            rows[-1]["powers"] = " ".join(f"{p:.3f}" for p in state.refinement.mode_powers)
            rows[-1]["true_powers"] = " ".join(f"{p:.3f}" for p in powers / powers.sum())
            print(summary(rows[-1:]))
    return rows


def closed(options: argparse.Namespace) -> list[Row]:
    """One pass from the truth at 1e9 photons: the relative change of the object at well-illuminated pixels."""
    rows: list[Row] = []
    scan = simulate("photos", patterns=225, photons=1e9, seed=1)
    assert scan.truth is not None
    start = Reconstruction(scan.truth, np.ones(scan.truth.shape, np.float32), (0.0, 0.0), scan.probe)
    for engine in ("lbfgs", "pie"):
        config = RefineConfig(engine=engine, iterations=1, split_half=False)
        state = refine(scan, start, config, "cpu")
        first = -np.array(state.origin).astype(int)
        part = tuple(slice(f, f + side) for f, side in zip(first, scan.truth.shape, strict=True))
        covered = state.covered()[part]
        change = np.linalg.norm((state.object[part] - scan.truth)[covered]) / np.linalg.norm(scan.truth[covered])
        rows.append({"engine": engine, "relative_change": float(f"{change:.3g}")})
        print(summary(rows[-1:]))
    return rows


#: Options that differ from the defaults; the second row is most similar to LSQML (one mode, amplitudes).
_STAR: dict[str, dict[str, Any]] = {
    "poisson": {},
    "amplitude without prior": {"loss": "amplitude", "total_variation": 0.0},
    "two modes without prior": {"modes": 2, "total_variation": 0.0},
    "two modes": {"modes": 2},
    "three modes and positions": {"modes": 3, "learn_positions": True, "find_defocus": False, "iterations": 90},
}


def star(options: argparse.Namespace) -> list[Row]:
    """A measured scan without a truth: split-half FRC, with the probe that each code found with all patterns."""
    scan = Scan.load(options.scan)
    parts = [np.sort(part) for part in np.array_split(np.random.default_rng(0).permutation(scan.n), 2)]
    rows: list[Row] = []

    def note(name: str, passes: int, seconds: float, state: Reconstruction, found: dict[str, Any] | None) -> None:
        assert found is not None
        rows.append(
            {
                "engine": name, "passes": passes, "cpu_seconds": round(seconds, 2),
                "halves_mean_frc": round(found["mean"], 4), "halves_crossing_0.5": round(found["crossing_0.5"], 3),
            }
        )  # fmt: skip
        print(summary(rows[-1:]))
        plot_reconstruction(state, RESULTS / "pictures" / f"star-{name.replace(' ', '-')}-{passes}")

    for name, chosen in _STAR.items():
        options_of = {"iterations": 60, **chosen}
        *_, (passes, seconds, state) = ours(scan, None, 1000, **options_of)
        note(name, passes, seconds, state, split_half(scan, state, RefineConfig(**options_of), "cpu"))
    for setting in refine_peer.SETTINGS if refine_peer.installed() else ():
        for epochs in (24, options.epochs):
            *_, (passes, seconds, state) = refine_peer.lsqml(scan, setting, epochs)
            known = dataclasses.replace(scan, probe=state.probe)
            pair = [list(refine_peer.lsqml(known.subset(part), setting, epochs))[-1][2] for part in parts]
            note(setting.name, passes, seconds, state, split_half_frc(*pair))
    return rows


def _curves(rows: list[Row], path: Path) -> None:
    seeds = sorted({row["seed"] for row in rows})
    figure = new_figure(5.2 * len(seeds), 8.0)
    grid = figure.subplots(2, len(seeds), squeeze=False, gridspec_kw={"wspace": 0.3})
    for column, seed in enumerate(seeds):
        mine = [row for row in rows if row["seed"] == seed]
        for name in dict.fromkeys(row["engine"] for row in mine):
            course = [row for row in mine if row["engine"] == name]
            seconds = [row["cpu_seconds"] for row in course]
            style = "--" if name.startswith("lsqml") else "-"
            for axes, key in ((grid[0][column], "mean_frc"), (grid[1][column], "phase_rmse_high_pass")):
                axes.plot(seconds, [row[key] for row in course], style, label=name, linewidth=1.6)
        grid[0][column].set(title=f"seed {seed}: {mine[0]['object']}", ylabel="mean FRC", xscale="log")
        grid[1][column].set(xlabel="CPU-seconds", ylabel="high-passed phase error (rad)", xscale="log", yscale="log")
        for axes in (grid[0][column], grid[1][column]):
            axes.grid(alpha=0.3, which="both", linewidth=0.5)
    grid[0][0].legend(frameon=False, fontsize="small")
    save_figure(figure, path)


CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "race": race, "positions": positions, "modes": modes, "closed": closed, "star": star,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60, help="of LSQML")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training on the other objects")
    parser.add_argument("--scan", type=Path, help="measured scan for the case star")
    options = parser.parse_args()
    if "star" in options.cases and options.scan is None:
        parser.error("the case star needs a measured --scan")
    torch.set_num_threads(options.threads)
    for name in options.cases:
        rows = CASES[name](options)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
