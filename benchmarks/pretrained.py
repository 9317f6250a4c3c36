# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the network in the package on unseen scans: its first image, after fine-tuning, and without it.

For every scan, 1,089 patterns of 64 px with a known object: the image at once by the pretrained and by an untrained
network, refined from the first and from nothing in as many passes, after some seconds of training from the pretrained
one, and after several times from an untrained one. Rows are in pretrained-SET.csv (and .md), the pictures of every scan
in a file of its name. There are two sets of scans:

- "simulate": the samples of `ptychopinn simulate` with both of its probes in turn, at its dose of 1e6 photons;
- "mixed": half of them have samples and probes of `simulate`, at 1e5 to 1e8 photons, half are drawn from the families
  of the pretraining by seeds that it does not use, at 10^3.5 to 1e9 photons; and the default scan of the other
  benchmarks with its wrong initial probe. Some are so dark or so smooth that noise hides all detail.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from quality import draw
from rows import Rows, machine
from scans import PICTURES, default_scan

from ptychopinn.config import Config
from ptychopinn.first_image import refined_first_image, refined_image
from ptychopinn.inference.fit import fit_of_result
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.align import Aligned
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import build_model
from ptychopinn.persistence.pretrained import PRETRAINED, Pretrained, load_pretrained
from ptychopinn.physics.objects import photos
from ptychopinn.physics.simulate import simulate
from ptychopinn.pretraining.scans import random_scan
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train

RESULTS = Path(__file__).parent / "results" / "pretrained"
COLUMNS = {
    "scan": "", "photons": ".0e", "start": "", "seconds": ".0f", "passes": "", "frc": ".3f", "frc50_nyquist": ".2f",
    "amplitude_ssim": ".3f", "amplitude_pearson": ".3f", "phase_ssim": ".3f", "phase_pearson": ".3f",
    "noise_ratio": ".2f", "unexplained": ".3f", "reconstruct_s": ".1f",
}  # fmt: skip
#: Sample and probe of `simulate` for the scans that it makes, in turn.
SIMULATED = (
    ("photos", "defocused"), ("siemens", "disk"), ("dead_leaves", "defocused"), ("lines", "defocused"),
    ("moon rocket", "disk"), ("lines_amplitude", "defocused"),
)  # fmt: skip


def mixed_scans(seeds: list[int], patterns: int) -> Iterator[tuple[str, Scan]]:
    """The default scan, and scans of these seeds of `simulate` and of the families of the pretraining in turn."""
    yield "default-wrong-probe", default_scan(PICTURES[0], side=round(patterns**0.5))
    for index, seed in enumerate(seeds):
        if index % 2:
            yield f"{seed}-random", random_scan(seed, patterns, 64)
            continue
        sample, probe = SIMULATED[index // 2 % len(SIMULATED)]
        yield _simulated(sample, probe, (1e6, 1e8, 1e5)[index // 2 % 3], seed, patterns)


def simulate_scans(seeds: list[int], patterns: int) -> Iterator[tuple[str, Scan]]:
    """Scans of these seeds as `ptychopinn simulate` makes them: the samples in turn, one round with each probe."""
    samples = [sample for sample, _ in SIMULATED]
    for index, seed in enumerate(seeds):
        probe = ("defocused", "disk")[index // len(samples) % 2]
        yield _simulated(samples[index % len(samples)], probe, 1e6, seed, patterns)


#: Sets of scans by name.
SETS = {"simulate": simulate_scans, "mixed": mixed_scans}


def _simulated(sample: str, probe: str, photons: float, seed: int, patterns: int) -> tuple[str, Scan]:
    source: Any = sample
    if " " in sample:
        amplitude, phase = sample.split()

        def source(shape: Any, rng: Any) -> Any:
            return photos(shape, rng, amplitude, phase)

    scan = simulate(source, probe, patterns=patterns, photons=photons, seed=seed)
    return f"{seed}-{sample}-{probe}".replace(" ", "-"), scan


class Bench:
    """One scan after the other, with a network and the times of its trainings."""

    def __init__(self, network: Pretrained, given: argparse.Namespace, rows: Rows) -> None:
        self.network, self.given, self.rows = network, given, rows

    def config(self, seconds: float, **training: Any) -> Config:
        values = {"minutes": seconds / 60, "epochs": 100_000, "seed": self.given.seed, **training}
        execution = {"threads": self.given.threads, "progress": False, "checkpoints": False}
        model = self.network.config.to_dict()["model"] | {"learn_probe": True}
        return Config.from_dict({"training": values, "execution": execution, "model": model})

    def scan(self, scan: Scan, name: str) -> None:
        """All rows of a scan, and its picture."""
        pictures = []
        config = self.config(1)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.given.seed)
            untrained = build_model(config, scan.patch_size, scan.modes)
        untrained.illumination.set_probe(torch.from_numpy(scan.probe))
        pretrained = self.network.for_scan(scan)
        pictures.append(self.row(scan, name, "pretrained", 0, pretrained, config))
        for passes in self.given.refined:
            pictures += self.refined(scan, name, passes, pretrained, config)
        pictures.append(self.row(scan, name, "untrained", 0, untrained.eval(), config))
        changed = {key: value for key in ("learning_rate", "average") if (value := getattr(self.given, key))}
        for seconds in self.given.tuned:
            # The network of the package begins with a learning rate of its own.
            packaged = self.given.bundle == PRETRAINED
            start, chosen = (None, {"start": "pretrained"}) if packaged else (pretrained, {})
            model, used = self.trained(scan, seconds, start, {**chosen, **changed})
            pictures.append(self.row(scan, name, "pretrained", seconds, model, used))
        for seconds in self.given.untrained:
            model, used = self.trained(scan, seconds, None, {"start": "nothing"})
            pictures.append(self.row(scan, name, "untrained", seconds, model, used))
        self.given.out.mkdir(parents=True, exist_ok=True)
        draw(pictures, self.given.out / f"{name}.png")

    def trained(
        self, scan: Scan, seconds: float, start: PtychoModel | None, training: dict[str, Any]
    ) -> tuple[PtychoModel, Config]:
        config = self.config(seconds, **training)
        with tempfile.TemporaryDirectory() as folder:
            run = train(scan, Path(folder) / "run", config, start=start, accept="all")
        return run.model, run.config

    def refined(
        self, scan: Scan, name: str, passes: int, model: PtychoModel, config: Config
    ) -> Iterator[tuple[str, Aligned]]:
        """The image after so many passes over the scan, from that of the network and from nothing."""
        device = resolve_device("auto")
        began = time.perf_counter()
        image = reconstruct(model, scan, config, device, accept="all")
        result = refined_first_image(scan, image, passes, device, "all")
        yield self.scored(scan, name, "pretrained", 0, result, time.perf_counter() - began, passes)
        began = time.perf_counter()
        result = refined_image(scan, None, passes, device, "all")
        yield self.scored(scan, name, "nothing", 0, result, time.perf_counter() - began, passes)

    def row(
        self, scan: Scan, name: str, start: str, seconds: float, model: PtychoModel, config: Config
    ) -> tuple[str, Aligned]:
        began = time.perf_counter()
        result = reconstruct(model, scan, config, resolve_device("auto"), accept="all")
        return self.scored(scan, name, start, seconds, result, time.perf_counter() - began)

    def scored(
        self, scan: Scan, name: str, start: str, seconds: float, result: Reconstruction, took: float, passes: int = 0
    ) -> tuple[str, Aligned]:
        aligned = align_to_scan(result, scan)
        scores = evaluate(result, scan, aligned=aligned)
        fit = fit_of_result(result, scan)
        amplitude, phase = scores["amplitude"], scores["phase"]
        row: dict[str, Any] = {
            "scan": name, "photons": float((abs(scan.probe) ** 2).sum()), "start": start, "seconds": float(seconds),
            "passes": passes,
            "frc": scores["frc"]["mean"], "frc50_nyquist": scores["frc"]["crossing_0.5"],
            "amplitude_ssim": amplitude["ssim"], "amplitude_pearson": amplitude["pearson"],
            "phase_ssim": phase["ssim"], "phase_pearson": phase["pearson"],
            "noise_ratio": fit.ratio, "unexplained": fit.unexplained, "reconstruct_s": took,
        }  # fmt: skip
        self.rows.add(row)
        return f"{start}, {f'{passes} passes' if passes else f'{seconds:g} s'}", aligned


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=list(range(101, 113)), help="one scan each (101 to 112)"
    )
    parser.add_argument("--patterns", type=int, default=1089, help="of a scan (%(default)s)")
    parser.add_argument("--set", choices=list(SETS), default="simulate", help="the scans (%(default)s)")
    parser.add_argument("--bundle", type=Path, default=PRETRAINED, help="the network (that of the package)")
    parser.add_argument("--refined", nargs="*", type=int, default=[20], help="passes of refinement (20, the default)")
    parser.add_argument("--tuned", nargs="*", type=float, default=[20.0], help="seconds of training from it (20)")
    parser.add_argument(
        "--untrained", nargs="*", type=float, default=[20.0, 30.0, 60.0], help="seconds from nothing (20 30 60)"
    )
    parser.add_argument("--learning-rate", type=float, help="of the fine-tuning (that of the product)")
    parser.add_argument("--average", type=float, help="decay of the average of the weights in the fine-tuning (none)")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the pictures")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    network = load_pretrained(given.bundle)
    heading = f"{machine(resolve_device('auto'))}; {network}"
    rows = Rows(given.out, f"pretrained-{given.set}", COLUMNS, heading)
    bench = Bench(network, given, rows)
    for name, scan in SETS[given.set](given.seeds, given.patterns):
        bench.scan(scan, name)
    for passes in (0, *given.refined):
        chosen = [row for row in rows.rows if row["start"] == "pretrained" and row["seconds"] == 0]
        firsts = [row["frc"] for row in chosen if row["passes"] == passes]
        what = f"first images, {passes} passes"
        print(f"{what}: median mean FRC {statistics.median(firsts):.3f}, lowest {min(firsts):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
