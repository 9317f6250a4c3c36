# SPDX-License-Identifier: BSD-3-Clause
"""Cases of the quality benchmark with a procedure of their own; those that are lists of trainings: quality_lists.py."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from quality_bench import Bench, Picture, Row
from scans import OTHER_PICTURES, PICTURES, default_scan, split_left_right

from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.batches.steps import StepShape
from ptychopinn.config import Config
from ptychopinn.inference.predict import choose_positions
from ptychopinn.physics.objects import photos
from ptychopinn.physics.probes import defocused
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.optimiser import make_optimiser
from ptychopinn.training.shard_weights import Weights
from ptychopinn.training.workflow import TrainedRun


def dose_curve(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(b) Photons per pattern from 1e3 to 1e9, both losses, otherwise default options."""
    for seed, photons, loss in itertools.product(bench.seeds, 10.0 ** np.arange(3, 10), ("poisson", "amplitude")):
        scan = default_scan(PICTURES[seed % 3], photons=float(photons), seed=20260101 + seed, true_probe=True)
        minutes = bench.minutes(0.8, 10)
        run = bench.train(scan, minutes, seed, sections={"training": {"loss": loss}})
        yield bench.score(run, scan, f"{photons:.0e}, {loss}", photons=photons, loss=loss, seed=seed, minutes=minutes)


def data_efficiency(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(c) Training on 256 to 2048 patterns of one sample, tests on another sample."""
    for seed, side in itertools.product(bench.seeds, (16, 23, 32, 45)):
        scan = default_scan(PICTURES[seed % 3], side=side, seed=20260101 + seed, true_probe=True)
        other = default_scan(OTHER_PICTURES[seed % 3], side=24, seed=20260201 + seed, true_probe=True)
        minutes = bench.minutes(1, 10)
        run = bench.train(scan, minutes, seed)
        for target, name in ((scan, "same sample"), (other, "other sample")):
            facts = {"patterns": scan.n, "tested_on": name, "seed": seed, "minutes": minutes}
            yield bench.score(run, target, f"{scan.n} patterns, {name}", **facts)


def half_and_half(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(d) Training on the left half of a scan, tests on the right half."""
    for seed in bench.seeds:
        scan = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        left, right = split_left_right(scan)
        minutes = bench.minutes(2, 20)
        run = bench.train(left, minutes, seed)
        both = bench.train(scan, minutes, seed)
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
    """(e) Another sample with another probe: without training on it, after a short fine-tuning, and after training."""
    for seed in bench.seeds:
        first = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        probe = defocused(64, diameter=0.42)
        other = simulate(
            functools.partial(_pictures, names=OTHER_PICTURES[seed % 3]), probe, patterns=1089, seed=20260201 + seed
        )
        minutes, tuning = bench.minutes(2, 20), bench.minutes(0.7, 3)
        run = bench.train(first, minutes, seed)
        tuned = bench.train(other, tuning, seed, start=run.model)
        alone = bench.train(other, minutes, seed)
        # With the probe of the scan, since that of the training differs.
        scans_probe = _inferring(run, probe="scan")
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
    """(f) The default scan with its wrong initial probe, which is refined."""
    minutes = bench.minutes(5, 10)
    for seed in bench.seeds:
        scan = default_scan(seed=20260101 + seed)
        run = bench.train(scan, minutes, seed)
        yield bench.score(run, scan, "refined", probe="refined", pictures="coins camera", seed=seed, minutes=minutes)
    seed, few = bench.seeds[0], 0.4 * minutes
    for name, pictures, wrong in (
        ("kept", PICTURES[0], True),
        ("true", PICTURES[0], False),
        ("refined", PICTURES[1], True),
        ("true", PICTURES[1], False),
    ):
        scan = default_scan(pictures, seed=20260101 + seed, true_probe=not wrong)
        learn = name == "refined"
        run = bench.train(scan, minutes if learn else few, seed, sections={"model": {"learn_probe": learn}})
        facts = {"probe": name, "pictures": " ".join(pictures), "seed": seed, "minutes": minutes if learn else few}
        yield bench.score(run, scan, f"{name}, {facts['pictures']}", **facts)


def large_patterns(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """(g) N = 128."""
    for seed in bench.seeds:
        scan = simulate(
            functools.partial(_pictures, names=PICTURES[seed % 3]), "defocused", patterns=400, size=128, seed=seed
        )
        minutes = bench.minutes(3, 30)
        run = bench.train(scan, minutes, seed)
        yield bench.score(run, scan, "N = 128", N=128, patterns=scan.n, seed=seed, minutes=minutes)


def options_compared(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """Effect of single options on the default scan with its true probe: one change to the defaults in each row."""
    minutes = bench.minutes(1, 10)
    trainings: dict[str, dict[str, dict[str, Any]]] = {
        "default": {},
        "learn_probe off": {"model": {"learn_probe": False}},
        "average 0.99": {"training": {"average": 0.99}},
        "schedule exponential": {"training": {"schedule": "exponential"}},
        "schedule plateau": {"training": {"schedule": "plateau"}},
        "supervised": {"training": {"supervised": True}, "model": {"learn_probe": False}},
        "batch_size 4": {"training": {"batch_size": 4}},
        "group_size 4": {"data": {"group_size": 4}},
        "group_size 9": {"data": {"group_size": 9}},
        "group_size 25": {"data": {"group_size": 25}},
        "steps 8": {"model": {"options": {"steps": 8}}},
        "unet": {"model": {"generator": "unet"}},
    }
    inferences: dict[str, dict[str, Any]] = {
        "coverage none": {"coverage": None},
        "coverage 1": {"coverage": 1},
        "augment 8": {"augment": 8},
        "synchronise off": {"synchronise": False},
        "one group of all": {"group_size": 1089, "coverage": 1},
    }
    for seed in bench.seeds:
        scan = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True)
        for name, sections in trainings.items():
            run = bench.train(scan, minutes, seed, sections=sections)
            yield bench.score(run, scan, name, option=name, seed=seed, minutes=minutes)
            for other, fields in inferences.items() if name == "default" else ():
                yield bench.score(_inferring(run, **fields), scan, other, option=other, seed=seed, minutes=minutes)


def low_dose_priors(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """Total variation at low dose."""
    minutes = bench.minutes(0.7, 10)
    for seed, photons, weight in itertools.product(bench.seeds, (1e3, 1e4), (0.0, 0.03, 0.1, 0.3)):
        scan = default_scan(PICTURES[seed % 3], photons=photons, seed=20260101 + seed, true_probe=True)
        run = bench.train(scan, minutes, seed, sections={"training": {"total_variation": weight}})
        facts = {"photons": photons, "total_variation": weight, "seed": seed, "minutes": minutes}
        yield bench.score(run, scan, f"{photons:.0e}, TV {weight:g}", **facts)


def wrong_positions(bench: Bench) -> Iterator[tuple[Row, Picture]]:
    """Reported positions with errors, fixed and learned."""
    for seed, error in itertools.product(bench.seeds, (0.0, 2.0)):
        scan = default_scan(PICTURES[seed % 3], seed=20260101 + seed, position_error=error, true_probe=True)
        true = default_scan(PICTURES[seed % 3], seed=20260101 + seed, true_probe=True).positions
        for learn in (False, True):
            minutes = bench.minutes(1.5, 10)
            run = bench.train(scan, minutes, seed, sections={"model": {"learn_positions": learn}})
            used = choose_positions(run.model, scan, "auto").positions
            left = used - true - (used - true).mean(0)
            facts = {"error_px": error, "learned": learn, "left_px_rms": float(np.sqrt((left**2).sum(1).mean()))}
            label = f"{error:g} px, {'learned' if learn else 'kept'}"
            yield bench.score(run, scan, label, **facts, seed=seed, minutes=minutes)


def _inferring(run: TrainedRun, **fields: Any) -> TrainedRun:
    """Copy of a run with other inference options."""
    inference = dataclasses.replace(run.config.inference, **fields)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, inference=inference))


def throughput(bench: Bench) -> Iterator[tuple[Row, None]]:
    """Patterns per second in training and inference, for the default network and PtychoPINN's CNN in turn."""
    scan = default_scan(true_probe=True)
    for size in (1, 4, 9, 16):
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
    torch.manual_seed(0)
    config = Config.from_dict({"data": {"group_size": size}, "model": {"generator": generator, "learn_probe": False}})
    module = PtychoModule(config.to_dict(), scan.patch_size)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    groups = group_patterns(scan.positions, size)[::17][:16]
    batch = GroupDataset(scan, groups, module.model.generator.canvas_multiple).collate(range(len(groups)))
    optimiser = make_optimiser(module.model, config, StepShape(1, 1, len(groups)))

    def step() -> int:
        optimiser.zero_grad()
        module._loss(batch, Weights(1.0, 1.0, 1.0)).backward()
        optimiser.step()
        return groups.size

    def infer() -> int:
        with torch.inference_mode():
            module.model(batch.counts, batch.positions, batch.canvas_size)
        return groups.size

    count = sum(p.numel() for p in module.model.generator.parameters())
    return _Call(step, count), _Call(infer, count)


CASES: dict[str, Callable[[Bench], Iterator[tuple[Row, Picture | None]]]] = {
    "dose": dose_curve,
    "data": data_efficiency,
    "halves": half_and_half,
    "sample": new_sample,
    "probe": wrong_probe,
    "large": large_patterns,
    "options": options_compared,
    "priors": low_dose_priors,
    "positions": wrong_positions,
    "throughput": throughput,
}
