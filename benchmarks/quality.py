# SPDX-License-Identifier: BSD-3-Clause
"""What the network's reconstructions are worth: named cases with seeds, cost, a table and a picture each.

Truth is known in every case. A row is one training (or fine-tuning) and one evaluated reconstruction; its cost is the
training's wall time on the threads named. Small versions take minutes on two cores; ``--full`` has longer trainings and
more seeds, on a GPU if there is one. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scans import OTHER_PICTURES, PICTURES, default_scan, halves, lines_scan

from ptychopinn.config import Config
from ptychopinn.data.scan import Scan
from ptychopinn.devices import resolve_device
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.align import Aligned
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.metrics.scores import matched_phases
from ptychopinn.models import PtychoModel
from ptychopinn.physics.objects import photos
from ptychopinn.physics.probes import defocused
from ptychopinn.physics.simulate import simulate
from ptychopinn.training.workflow import TrainedRun, train

RESULTS = Path(__file__).parent / "results"
CNN: dict[str, Any] = {"model": {"generator": "cnn"}}
Row = dict[str, Any]
Picture = tuple[str, Aligned]


@dataclasses.dataclass
class Bench:
    """One run of the benchmark: its size, and what all cases do alike."""

    full: bool
    seeds: tuple[int, ...]
    threads: int
    scale: float

    def minutes(self, small: float, full: float) -> float:
        return self.scale * (full if self.full else small)

    def train(
        self,
        scan: Scan | list[Scan],
        minutes: float,
        seed: int,
        start: PtychoModel | None = None,
        sections: dict[str, dict[str, Any]] | None = None,
    ) -> TrainedRun:
        """Train for a time, with the defaults but for ``sections``."""
        values: dict[str, dict[str, Any]] = {
            "training": {"minutes": minutes, "epochs": 100_000, "seed": seed},
            "execution": {"threads": self.threads, "progress": False},
        }
        for name, section in (sections or {}).items():
            values.setdefault(name, {}).update(section)
        with tempfile.TemporaryDirectory() as folder:
            return train(scan, Path(folder) / "run", Config.from_dict(values), start=start)

    def score(self, run: TrainedRun, scan: Scan, label: str, **facts: Any) -> tuple[Row, Picture]:
        """Reconstruct, align, measure."""
        start = time.perf_counter()
        result = reconstruct(run.model, scan, run.config, resolve_device("auto"))
        seconds = time.perf_counter() - start
        aligned = align_to_scan(result, scan)
        metrics = evaluate(result, scan, aligned=aligned)
        amplitude, phase = metrics["amplitude"], metrics["phase"]
        row = {
            **facts,
            "amplitude_ssim": amplitude["ssim"],
            "amplitude_pearson": amplitude["pearson"],
            "phase_pearson": phase["pearson"],
            "phase_rmse_high_pass": phase["rmse_high_pass"],
            "mean_frc": metrics["frc"]["mean"],
            "frc50_nyquist": metrics["frc"]["crossing_0.5"],
            "patterns_per_s": scan.n / seconds,
            "train_loss": run.losses["train_loss"],
        }
        said = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items())
        print(f"  {label}: {said}", flush=True)
        return row, (label, aligned)


def lines_table(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(a) The synthetic-lines table: two objects to train on, two others to test; one loss, one budget for all rows."""
    patterns = 6889 if bench.full else 1024
    minutes = bench.minutes(3, 20)
    for seed, probe, size in itertools.product(bench.seeds, ("defocused", "disk"), (4, 1)):
        scans = [lines_scan(probe, 10 * seed + index, patterns) for index in range(4)]
        for generator in ("unrolled", "cnn"):
            sections = {"data": {"group_size": size}, "model": {"generator": generator, "learn_probe": False}}
            run = bench.train(scans[:2], minutes, seed, sections=sections)
            for index in (2, 3):
                facts = {"generator": generator, "probe": probe, "C": size, "seed": seed, "object": index - 1}
                label = f"{generator}, {probe}, C = {size}"
                yield bench.score(run, scans[index], label, **facts, minutes=minutes)


def budget_curve(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(a) against the budget, where it falls short: one pattern at a time under the curved probe."""
    for seed, minutes in itertools.product(bench.seeds, (0.1, 0.5, 2.0, 8.0)):
        scans = [lines_scan("defocused", 10 * seed + index) for index in range(3)]
        sections = {"data": {"group_size": 1}, "model": {"learn_probe": False}}
        run = bench.train(scans[:2], bench.scale * minutes, seed, sections=sections)
        yield bench.score(run, scans[2], f"{minutes:g} minutes", seed=seed, minutes=bench.scale * minutes)


def dose_curve(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(b) Photons per pattern from 1e3 to 1e9, both losses, nothing set by hand."""
    for seed, photons, loss in itertools.product(bench.seeds, 10.0 ** np.arange(3, 10), ("poisson", "amplitude")):
        scan = default_scan(PICTURES[seed % 3], photons=float(photons), seed=20260101 + seed, true_probe=True)
        minutes = bench.minutes(1, 10)
        run = bench.train(scan, minutes, seed, sections={"training": {"loss": loss}})
        yield bench.score(run, scan, f"{photons:.0e}, {loss}", photons=photons, loss=loss, seed=seed, minutes=minutes)


def data_efficiency(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(c) Trained on 256 to 2048 patterns of one sample, tested on another sample."""
    for seed, side in itertools.product(bench.seeds, (16, 23, 32, 45)):
        scan = default_scan(PICTURES[seed % 3], side=side, seed=20260101 + seed, true_probe=True)
        other = default_scan(OTHER_PICTURES[seed % 3], side=24, seed=20260201 + seed, true_probe=True)
        minutes = bench.minutes(1.5, 10)
        run = bench.train(scan, minutes, seed)
        for target, name in ((scan, "same sample"), (other, "other sample")):
            facts = {"patterns": scan.n, "tested_on": name, "seed": seed, "minutes": minutes}
            yield bench.score(run, target, f"{scan.n} patterns, {name}", **facts)


def half_and_half(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(d) Trained on the left half of a scan, tested on the right one."""
    for seed in bench.seeds:
        whole = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        left, right = halves(whole)
        minutes = bench.minutes(3, 20)
        run = bench.train(left, minutes, seed)
        both = bench.train(whole, minutes, seed)
        for trained, model, target in (
            ("left", run, left),
            ("left", run, right),
            ("all", both, left),
            ("all", both, right),
        ):
            side = target.name.rsplit("-", 1)[1]
            facts = {"trained_on": trained, "tested_on": side, "seed": seed, "minutes": minutes}
            yield bench.score(model, target, f"trained {trained}, tested {side}", **facts)


def new_sample(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(e) Another sample under another probe: as trained before, after a short fine-tuning, and trained on itself."""
    for seed in bench.seeds:
        first = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        probe = defocused(64, diameter=0.42)
        other = simulate(
            functools.partial(_pictures, names=OTHER_PICTURES[seed % 3]), probe, patterns=1089, seed=20260201 + seed
        )
        minutes, tuning = bench.minutes(3, 20), bench.minutes(1, 3)
        run = bench.train(first, minutes, seed)
        tuned = bench.train(other, tuning, seed, start=run.model)
        alone = bench.train(other, minutes, seed)
        # The scan's own probe: that of the training would be wrong here.
        scans_probe = dataclasses.replace(
            run,
            config=dataclasses.replace(run.config, inference=dataclasses.replace(run.config.inference, probe="scan")),
        )
        for name, model, target, spent in (
            ("first sample, as trained", run, first, minutes),
            ("new sample, no retraining", scans_probe, other, 0.0),
            ("new sample, fine-tuned", tuned, other, tuning),
            ("new sample, trained on itself", alone, other, minutes),
        ):
            yield bench.score(model, target, name, what=name, seed=seed, minutes=spent)


def _pictures(shape: tuple[int, int], rng: np.random.Generator, names: tuple[str, str]) -> Any:
    return photos(shape, rng, *names)


def wrong_probe(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(f) The default scan of the field's comparison, with its wrong guess of the probe, refined."""
    for seed in bench.seeds:
        scan = default_scan(PICTURES[seed % 3], seed=20260101 + seed)
        true = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        minutes = bench.minutes(6, 10)
        for name, learn, target in (("refined", True, scan), ("kept", False, scan), ("true", False, true)):
            if name != "refined" and seed != bench.seeds[0]:
                continue
            run = bench.train(
                target, minutes if learn else minutes / 2, seed, sections={"model": {"learn_probe": learn}}
            )
            facts = {"probe": name, "seed": seed, "minutes": minutes if learn else minutes / 2}
            yield bench.score(run, scan if learn else target, f"probe {name}", **facts)


def large_patterns(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(g) N = 128."""
    for seed in bench.seeds:
        scan = simulate(
            functools.partial(_pictures, names=PICTURES[seed % 3]), "defocused", patterns=400, size=128, seed=seed
        )
        minutes = bench.minutes(4, 30)
        run = bench.train(scan, minutes, seed)
        yield bench.score(run, scan, "N = 128", N=128, patterns=scan.n, seed=seed, minutes=minutes)


def throughput(bench: Bench) -> Iterator[tuple[Row, None]]:
    """Patterns through the network per second, in training and inference, beside the predecessor's CNN, in turns."""
    scan = default_scan(true_probe=True)
    for size in (1, 4, 9, 25):
        times: dict[tuple[str, str], list[float]] = {}
        made = {name: _stepper(scan, name, size) for name in ("unrolled", "cnn")}
        for _ in range(5):
            for name, (step, infer) in made.items():
                for what, call in (("training", step), ("inference", infer)):
                    start = time.perf_counter()
                    shown = call()
                    times.setdefault((name, what), []).append((time.perf_counter() - start) / shown)
        speed = {key: 1 / float(np.median(values)) for key, values in times.items()}
        row: Row = {"C": size, "threads": bench.threads}
        for what in ("training", "inference"):
            row[f"{what}_unrolled"], row[f"{what}_cnn"] = speed["unrolled", what], speed["cnn", what]
            row[f"{what}_ratio"] = speed["unrolled", what] / speed["cnn", what]
        row["parameters_unrolled"], row["parameters_cnn"] = (made[name][0].parameters for name in ("unrolled", "cnn"))
        print("  " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        yield row, None


@dataclasses.dataclass
class _Call:
    function: Callable[[], int]
    parameters: int

    def __call__(self) -> int:
        return self.function()


def _stepper(scan: Scan, generator: str, size: int) -> tuple[_Call, _Call]:
    """One training step, and one batch of inference, on batches of 16 groups: patterns that went through."""
    from ptychopinn.data.dataset import GroupDataset
    from ptychopinn.data.grouping import group_nearest
    from ptychopinn.training.module import PtychoModule

    torch.manual_seed(0)
    config = Config.from_dict({"data": {"group_size": size}, "model": {"generator": generator, "learn_probe": False}})
    module = PtychoModule(config.to_dict(), scan.patch_size)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    groups = group_nearest(scan.positions, size)[::17][:16]
    batch = GroupDataset(scan, groups, module.model.generator.canvas_multiple).collate(range(len(groups)))
    optimiser = module.configure_optimizers()

    def step() -> int:
        optimiser.zero_grad()
        module._loss(batch).backward()
        optimiser.step()
        return groups.size

    def infer() -> int:
        with torch.inference_mode():
            module.model(batch.counts, batch.positions, batch.canvas_size)
        return groups.size

    count = sum(p.numel() for p in module.model.generator.parameters())
    return _Call(step, count), _Call(infer, count)


CASES: dict[str, Callable[[Bench], Iterator[tuple[Row, Picture | None]]]] = {
    "lines": lines_table,
    "budget": budget_curve,
    "dose": dose_curve,
    "data": data_efficiency,
    "halves": half_and_half,
    "sample": new_sample,
    "probe": wrong_probe,
    "large": large_patterns,
    "throughput": throughput,
}


def draw(pictures: list[Picture], path: Path) -> None:
    """Amplitude, phase and their truths, a row for each picture."""
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
    figure.savefig(path, dpi=110)


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
            write(case, rows, arguments.out)  # what is done is kept, whatever happens to the rest
        if pictures:
            draw(pictures, arguments.out / f"{case}.png")
        settings = {"case": case, "full": bench.full, "seeds": seeds, "threads": bench.threads, "scale": bench.scale}
        settings["seconds"] = round(time.perf_counter() - start)
        settings["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        (arguments.out / f"{case}.json").write_text(json.dumps(settings) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
