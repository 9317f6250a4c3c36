# SPDX-License-Identifier: BSD-3-Clause
"""What it is worth to refine two scans together, alone and with the other, and beside pty-chi where it is installed.

    python benchmarks/physics_together.py --seeds 0 1 2

The samples are those of scans.py, with its probe and its wrong initial probe. "probe": a scan of 625 patterns and 1e6
photons each, and one of another sample with 49 patterns and 1e5 photons; pty-chi has nothing for it. "object" and
"both": two scans of one sample with 225 patterns and 1e5 photons each, the second with another defocus of the probe
("object") or the same probe. pty-chi has its workflow for scans that share an object, and for "both" a single scan of
all patterns, too. Rows of every few passes are written to benchmarks/results/physics/together.csv, and images to
together-<common>.png there; costs are CPU-seconds of the process, without the evaluation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import refine_peer
import torch
from physics import RESULTS, read, write
from physics_pictures import draw
from physics_scans import Problem
from refine import Course, Row, measured
from scans import OTHER_PICTURES, PICTURES, default_scan

from ptychopinn.config import RefineConfig
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.joint import combined
from ptychopinn.refinement.run import Progress
from ptychopinn.refinement.several import Common, refine_several
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

#: Phase of the second beam at the corner of the far field, rad.
_DEFOCUS = 25.0
#: Name of the refinement of both scans with a lower tolerance than the default.
LONGER = "together, tolerance 1e-4"
#: LSQML's batches, which are compact, with momentum; small ones for as many steps in an epoch as larger scans have.
SETTINGS = {
    "batches of 100": refine_peer.SETTINGS[1],
    "batches of 25": replace(refine_peer.SETTINGS[1], batch=25),
}


def pair(common: Common, seed: int) -> list[Scan]:
    """Two scans with the wrong initial probe."""
    sample, true = (default_scan(PICTURES[seed], side=5, true_probe=known) for known in (False, True))
    options: dict[str, Any] = {"step": 9.6, "jitter": 2.0}
    if common == "probe":
        other = default_scan(OTHER_PICTURES[seed], side=5).truth
        scans = [
            simulate(sample.truth, true.probe, patterns=625, photons=1e6, seed=seed, **options),
            simulate(other, true.probe, patterns=49, photons=1e5, seed=seed + 100, **options),
        ]
    else:
        second = defocused(true.probe) if common == "object" else true.probe
        scans = [
            simulate(sample.truth, probe, patterns=225, photons=1e5, seed=seed + 100 * index, **options)
            for index, probe in enumerate((true.probe, second))
        ]
    begun = []
    for index, scan in enumerate(scans):
        guess = defocused(sample.probe) if common == "object" and index else sample.probe
        power = np.linalg.norm(scan.probe) / np.linalg.norm(guess)
        begun.append(replace(scan, probe=(guess * power).astype(np.complex64)))
    return begun


def defocused(probe: np.ndarray) -> np.ndarray:
    """A probe (M, N, N) with more defocus."""
    k = np.fft.fftfreq(probe.shape[-1])
    factor = np.exp(2j * _DEFOCUS * (k[:, np.newaxis] ** 2 + k**2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(probe) * factor), np.complex64)


def states_of(
    run: Callable[[Callable[[Progress], None]], list[Reconstruction]],
) -> tuple[list[tuple[int, float, Reconstruction]], list[Reconstruction]]:
    """States (passes, CPU-seconds, image) of a refinement, which is given a callback, and its results."""
    states: list[tuple[int, float, Reconstruction]] = []
    clock = {"spent": 0.0, "since": time.process_time()}

    def note(progress: Progress) -> None:
        clock["spent"] += time.process_time() - clock["since"]
        states.append((progress.passes, clock["spent"], progress.result()))
        clock["since"] = time.process_time()

    results = run(note)
    clock["spent"] += time.process_time() - clock["since"]
    report = results[0].refinement
    assert report is not None
    return [*states[:-1], (report.passes, clock["spent"], results[0])], results


def longer(common: Common, scans: list[Scan], every: int) -> list[tuple[int, float, Reconstruction]]:
    """States of both scans together, as :func:`states_of`, until slow errors of the phase have converged."""
    config = RefineConfig(split_half=False, iterations=1000, tolerance=1e-4)
    return states_of(
        lambda note: refine_several(scans, common, None, config, "cpu", progress=note, every=every, accept="all")
    )[0]


def case(common: Common, seed: int, given: argparse.Namespace) -> list[Row]:
    """Rows of all ways to reconstruct a pair, and their pictures; the image "all" is that of the common sample."""
    scans = pair(common, seed)
    config = RefineConfig(split_half=False, iterations=given.passes)
    rows: list[Row] = []
    images: dict[str, Reconstruction] = {}

    def note(course: Course, model: str, number: int | str) -> None:
        states = list(course)
        named = {"common": common, "seed": seed, "model": model, "image": number}
        rows.extend(measured(iter(states), scans[0 if number == "all" else int(number) - 1], **named))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        if common != "probe" or number == 2:
            images[f"{model}, {number}"] = states[-1][2]

    for number, scan in enumerate(scans, 1):
        states, _ = states_of(
            lambda note, scan=scan: [  # type: ignore[misc]
                refine(scan, None, config, "cpu", progress=note, every=given.every, accept="all")
            ]
        )
        note(iter(states), "alone", number)
    states, results = states_of(
        lambda note: refine_several(scans, common, None, config, "cpu", progress=note, every=given.every, accept="all")
    )
    if common == "probe":  # states have all samples on one canvas
        for number, result in enumerate(results, 1):
            note(iter([(*states[-1][:2], result)]), "together", number)
    else:
        note(iter(states), "together", "all")
        note(iter(longer(common, scans, given.every)), LONGER, "all")
    if common != "probe" and refine_peer.installed():
        for name, setting in SETTINGS.items():
            courses = {f"pty-chi, {name}": refine_peer.shared_object(scans, setting, given.epochs)}
            if common == "both":
                one = combined(scans, side_by_side=False).scan
                courses[f"pty-chi, one scan, {name}"] = refine_peer.lsqml(one, setting, given.epochs)
            for model, course in courses.items():
                note((state for state in course if state[0] == 1 or state[0] % given.every == 0), model, "all")
    where = RESULTS / f"together-{common}.png" if seed == 0 else RESULTS / "pictures" / f"together-{common}-{seed}.png"
    draw(Problem(scans[common == "probe"]), images, where)
    return rows


def verdicts(rows: list[Row]) -> list[str]:
    """For each case: the last figures of every way, means over the seeds, and those of ours at pty-chi's time."""
    lines = []
    for common, model, image in dict.fromkeys((row["common"], row["model"], row["image"]) for row in rows):
        own = [row for row in rows if row["common"] == common]
        last, beside, reached = [], [], []
        for seed in sorted({row["seed"] for row in own}):
            course = [r for r in own if (r["seed"], r["model"], r["image"]) == (seed, model, image)]
            mine = [r for r in own if (r["seed"], r["model"]) == (seed, LONGER)]
            last.append(course[-1])
            beside += [r for r in mine if r["cpu_seconds"] <= course[-1]["cpu_seconds"]][-1:]
            reached += [r["cpu_seconds"] for r in mine if r["mean_frc"] >= max(c["mean_frc"] for c in course)][:1]
        line = f"{common}: {model}, image {image}: {_figures(last)}"
        if model.startswith("pty-chi"):
            line += f"; together, in this time: {_figures(beside) if beside else 'nothing'}; at its best FRC after"
            line += f" {np.mean(reached):.2f} s ({len(reached)} of {len(last)} seeds)" if reached else " no time"
        lines.append(line)
    return lines


def merged(path: Path, rows: list[Row]) -> list[Row]:
    """Rows of a file and new ones, which replace those of the same pair and model."""
    done = {(row["common"], row["seed"], row["model"]) for row in rows}
    kept = [row for row in read(path) if (row["common"], row["seed"], row["model"]) not in done]
    models = list(dict.fromkeys(["alone", "together", *(row["model"] for row in kept)]))
    order = ("probe", "object", "both")
    both = [*kept, *rows]
    models += [row["model"] for row in rows if row["model"] not in models]
    return sorted(both, key=lambda row: (order.index(row["common"]), row["seed"], models.index(row["model"])))


def _figures(rows: list[Row]) -> str:
    frc, phase, slow, spent = (
        np.mean([row[key] for row in rows]) for key in ("mean_frc", "phase_rmse", "phase_rmse_high_pass", "cpu_seconds")
    )
    return f"FRC {frc:.3f}, phase {phase:.3f} rad (high-passed {slow:.3f}), {spent:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--common", nargs="+", choices=("probe", "object", "both"), default=["probe", "object", "both"])
    parser.add_argument("--passes", type=int, default=200, help="of our refinement, at most")
    parser.add_argument("--epochs", type=int, default=100, help="of LSQML")
    parser.add_argument("--every", type=int, default=5, help="passes between the rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "together.csv"
    for common in given.common:
        for seed in given.seeds:
            write(path, merged(path, case(common, seed, given)))
    rows = read(path)
    for line in verdicts(rows):
        print(line)


if __name__ == "__main__":
    main()
