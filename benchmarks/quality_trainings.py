# SPDX-License-Identifier: BSD-3-Clause
"""Cases that are lists of trainings: each is run alone, resumed, or divided among processes that share a table.

A training has facts that tell it from the others, and tests: scans that its model reconstructs, a row of the table for
each. A row is identified by all its facts; one that is measured again replaces the former.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from quality_bench import Bench, Picture, Row, Sections, show
from quality_scores import SIMILARITIES, constant_similarities, similarities
from shared_table import Table, text
from step_costs import StepWatch

from ptychopinn.models import PtychoModel
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import TrainedRun

MakeScan = Callable[[], Scan]


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a case, and what its model is tested on.

    Args:
        facts: columns that tell it from the others of the case.
        scans: make those that it is trained on.
        tests: facts of a test, and what makes its scan; the image is refined in its fact "passes", if it has that.
        minutes: of the training; 0: the network as it is at the start.
        seed: of the training.
        sections: options other than the defaults.
        start: makes the model to begin with.
    """

    facts: Row
    scans: Sequence[MakeScan]
    tests: Sequence[tuple[Row, MakeScan]]
    minutes: float
    seed: int
    sections: Sections = dataclasses.field(default_factory=dict)
    start: Callable[[], PtychoModel] | None = None

    def rows(self, bench: Bench) -> list[Row]:
        """The facts of every row."""
        limit = {"minutes": self.minutes, "epochs": None} if bench.epochs is None else {"epochs": bench.epochs}
        own = {**self.facts, "seed": self.seed, "minutes": None, **limit, "hardware": bench.hardware}
        return [{**own, **facts} for facts, _ in self.tests]

    def run(self, bench: Bench) -> tuple[TrainedRun, Row]:
        """Train, and measure what it took."""
        start = self.start() if self.start else None
        scans = [make() for make in self.scans]
        if not self.minutes:
            run = _untrained(bench, self, scans[0], start)
            return run, {"train_s": 0.0, "parameters": _parameters(run.model)}
        watch = StepWatch()
        began = time.perf_counter()
        run = bench.train(scans, self.minutes, self.seed, start, self.sections, [watch])
        seconds = time.perf_counter() - began
        return run, {"train_s": seconds, "parameters": _parameters(run.model), **watch.columns()}


def _parameters(model: PtychoModel) -> int:
    return sum(parameter.numel() for parameter in model.generator.parameters())


def _untrained(bench: Bench, training: Training, scan: Scan, start: PtychoModel | None) -> TrainedRun:
    """The network at the start of a training, with the scan's probe."""
    config = bench.config(1.0, training.seed, training.sections)
    torch.manual_seed(training.seed)
    model = PtychoModule(config.to_dict(), scan.patch_size, scan.modes, scan.n).model
    if start is not None:
        model.generator.load_state_dict(start.generator.state_dict())
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    return TrainedRun(model.eval(), config, Path(), {})


def run_trainings(trainings: Sequence[Training], bench: Bench, table: Table, resume: bool) -> Iterator[Picture]:
    """Run trainings in turn, add a row of each test to the table, and yield its picture.

    Args:
        trainings: see :func:`chosen`.
        bench: settings.
        table: of the case.
        resume: omit trainings all rows of which are in the table.
    """
    for training in trainings:
        identities = training.rows(bench)
        if resume and all(table.has(facts) for facts in identities):
            print(f"  {label_of(identities[0])}: in the table already", flush=True)
            continue
        run, costs = training.run(bench)
        for facts, (_, make) in zip(identities, training.tests, strict=True):
            scores, aligned = bench.reconstruct(run, make(), facts.get("passes", 0))
            row = {**facts, **scores, **similarities(aligned), **constant_similarities(aligned.truth), **costs}
            row = {name: row.get(name) for name in (*facts, *COLUMNS)}
            show(label_of(facts), {name: row[name] for name in COLUMNS if text(row[name])})
            table.add(facts, row)
            scored = ("amplitude_ssim", "phase_ssim", "phase_ssim_strict", "mean_frc")
            values = ", ".join(f"{name.replace('_', ' ')} {text(row[name])}" for name in scored)
            label = label_of({name: value for name, value in facts.items() if name != "hardware"})
            yield f"{label}\n{values}", aligned


#: Columns of every row after its facts. Similarities are those of quality_scores.py.
COLUMNS = (
    *SIMILARITIES,
    "mean_frc",
    "frc50_nyquist",
    "amplitude_pearson",
    "phase_pearson",
    "phase_rmse_high_pass",
    *(f"{name}_constant" for name in SIMILARITIES),
    "patterns_per_s",
    "train_loss",
    "train_s",
    "parameters",
    "steps",
    "step_patterns",
    "step_ms",
    "kernels",
    "expected_h200_s",
)


def label_of(facts: Row) -> str:
    """One line about a row."""
    return ", ".join(f"{key} {text(value)}" for key, value in facts.items() if value is not None)


def chosen(trainings: Sequence[Training], rows: str | None) -> list[Training]:
    """Those of a range FIRST:LAST of their numbers, as of a Python slice; all if there is none.

    Raises:
        ValueError: the range is not two integers.
    """
    first, colon, last = (rows or ":").partition(":")
    if not colon:
        raise ValueError(f"rows must be FIRST:LAST, as 0:4, got {rows!r}")
    return list(itertools.islice(trainings, int(first or 0), int(last) if last else None))
