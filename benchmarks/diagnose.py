# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the diagnosis: ``python benchmarks/diagnose.py``, about 30 minutes on one core.

20 simulated scans with one fault each, and 10 sound ones, are trained for about 20 seconds, without the check of the
scan, and diagnosed. Objects, probes, doses, sizes, paths and the strength of the fault are drawn from the seed of the
set. The rules of the diagnosis were chosen on the sets of seeds 1 to 6, and one of them after those of 7 and 8; a
confirmation needs another seed. Rows are written to results/quality/diagnose.csv.

For a sound scan the right answer is "none", or "training" where the training has left the result at more than three
times the noise floor.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from orientation import SOURCES, lens

from ptychopinn import Config, Scan, diagnose, train
from ptychopinn.inspection.orientation import oriented
from ptychopinn.physics.probes import add_modes, disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.storage.arrays import compact_counts

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "quality"

#: Faults, and the cause that the diagnosis must name for each.
FAULTS = {
    "defocus": "probe",
    "aperture": "probe",
    "shifted pattern": "centre",
    "mirrored axis": "orientation",
    "swapped axes": "orientation",
    "drift": "drift",
    "scaled positions": "position_scale",
    "random positions": "position_errors",
    "random positions, strong": "position_errors",
    "flat background": "background",
    "halo": "background",
    "detector units": "gain",
    "normalised counts": "gain",
    "dead region": "pixels",
    "hot pixels": "pixels",
    "large steps": "overlap",
    "few photons": "photons",
    "one epoch": "training",
    "three modes": "coherence",
    "exposure": "intensity",
}
SOUND = 10
#: Loss over noise floor from which a sound scan's training is not complete.
_INCOMPLETE = 3.0


def draw(seed: int, index: int, fault: str, effort: float = 1.0) -> tuple[Scan, dict[str, Any], Row]:
    """Simulate a scan with a fault; "" for none. Returns the sections of its training and its parameters, too.

    ``effort`` multiplies the epochs of the training.
    """
    rng = np.random.default_rng([91, seed, index])
    size = int(rng.choice([32, 64]))
    flat = fault not in ("defocus", "aperture", "three modes") and rng.random() < 0.2
    spread, radius = rng.choice([-1, 1]) * rng.uniform(0.35, 0.5), rng.uniform(0.22, 0.28)
    stop, aberrations = bool(rng.random() < 0.3), rng.uniform(-0.2, 0.2, 3)
    row: Row = {
        "fault": fault or "none", "cause": FAULTS.get(fault, "none"), "size": size,
        "object": str(rng.choice(list(SOURCES))), "probe": "disk" if flat else "annular" if stop else "lens",
        "photons": float(f"{size**2 / 4096 * 10 ** rng.uniform(4.7, 6.3):.3g}"),
        "patterns": int(rng.integers(256, 325)), "path": str(rng.choice(["raster", "spiral"])),
        "strength": 0.0,
    }  # fmt: skip
    probe = disk(size, diameter=0.45)[0] if flat else lens(size, spread, radius, aberrations, stop)
    guess, sections, step = probe, dict[str, Any](), size * rng.uniform(0.09, 0.14)
    if rng.random() < 0.3 and not flat:  # a usual error, which the training removes
        guess = lens(size, spread * rng.uniform(0.94, 1.06), radius, aberrations, stop)
    if fault == "defocus":
        row["strength"] = rng.choice([rng.uniform(0.4, 0.6), rng.uniform(1.5, 1.8)])
        guess, sections = lens(size, spread * row["strength"], radius, aberrations, stop), _KEPT
    elif fault == "aperture":
        row["strength"] = rng.choice([rng.uniform(0.65, 0.75), rng.uniform(1.3, 1.45)])
        guess, sections = lens(size, spread, radius * row["strength"], aberrations, stop), _KEPT
    elif fault == "three modes":
        probe, row["strength"] = add_modes(probe, 3, decay=0.8), 3.0
        row["photons"] = max(row["photons"], size**2 * 200.0)  # with fewer, one mode explains the patterns
    elif fault == "large steps":
        row["strength"] = rng.uniform(0.7, 0.85)
        step = row["strength"] * _diameter(probe)
    elif fault == "few photons":
        row["photons"] = row["strength"] = float(f"{size**2 * rng.uniform(0.04, 0.1):.3g}")
    elif fault == "one epoch":
        row["strength"] = 1.0
        row["photons"] = float(f"{size**2 * 10 ** rng.uniform(3.4, 4.4):.3g}")  # at a low dose it would be enough
        sections = {"training": {"epochs": 1}}
    scan = simulate(
        SOURCES[row["object"]], probe=probe, scan=row["path"], patterns=row["patterns"], step=step,
        photons=row["photons"], seed=int(rng.integers(2**31)), noise=False,
    )  # fmt: skip
    scaled = guess * (np.linalg.norm(scan.probe) / np.linalg.norm(guess))
    scan = dataclasses.replace(scan, probe=scaled[np.newaxis].astype(np.complex64), name=fault or "sound")
    scan = _with_fault(scan, fault, row, rng)
    training = {"epochs": round(effort * (24 if size == 64 else 60)), "seed": index, **sections.get("training", {})}
    row["epochs"] = training["epochs"]
    config = {
        "training": training,
        "model": sections.get("model", {}),
        "execution": {"threads": 1, "progress": False, "checkpoints": False, "picture_every": None},
    }
    return scan, config, row


_KEPT = {"model": {"learn_probe": False}}


def _with_fault(scan: Scan, fault: str, row: Row, rng: np.random.Generator) -> Scan:
    """A scan of expected counts with its photon noise and a fault of its counts or positions."""
    intensity, positions, size = scan.counts.astype(np.float64), scan.positions, scan.patch_size
    if fault in ("flat background", "halo"):
        row["strength"] = rng.uniform(0.2, 0.5)
        axis = np.arange(size) - size / 2
        width = 1e9 if fault == "flat background" else 0.25 * size
        shape = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * width**2))
        intensity += row["strength"] * row["photons"] * shape / shape.sum()
    elif fault == "exposure":
        row["strength"] = rng.uniform(0.3, 0.45)
        intensity *= np.exp(row["strength"] * rng.normal(size=(len(intensity), 1, 1)))
    counts = rng.poisson(intensity)
    if fault == "detector units":
        row["strength"] = rng.uniform(4, 12)
        counts = np.rint(row["strength"] * counts).astype(np.int64)
    elif fault == "dead region":
        row["strength"] = float(round(size * rng.uniform(0.08, 0.12)))
        first = size // 2 + int(rng.integers(-size // 6, size // 10))
        part = np.s_[:, :, first : first + int(row["strength"])]
        counts[part if rng.random() < 0.5 else (part[0], part[2], part[1])] = 0
    elif fault == "hot pixels":
        row["strength"] = float(rng.integers(5, 16))
        chosen = rng.choice(size**2, int(row["strength"]), replace=False)
        level = rng.uniform(0.3, 1.0) * intensity.mean(0).max()
        counts.reshape(len(counts), -1)[:, chosen] += rng.poisson(level, (len(counts), len(chosen)))
    elif fault == "shifted pattern":
        shifts = rng.choice([-1, 1], 2) * np.rint(size * rng.uniform(0.08, 0.15, 2)).astype(int)
        counts, row["strength"] = np.roll(counts, shifts, (1, 2)), float(np.hypot(*shifts))
    elif fault == "drift":
        row["strength"] = size / 64 * rng.uniform(4, 7)
        time, angle = np.linspace(-1, 1, scan.n), rng.uniform(0, 2 * np.pi)
        along, across = np.sin(np.pi * time * rng.uniform(0.7, 1.3)), time**2 * rng.uniform(0.5, 1)
        axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
        positions = positions + row["strength"] * np.stack([along, across], 1) @ axes
    elif fault == "scaled positions":
        row["strength"] = rng.choice([rng.uniform(0.85, 0.91), rng.uniform(1.09, 1.15)])
        positions = positions * row["strength"]
    elif fault.startswith("random positions"):
        row["strength"] = size / 64 * (rng.uniform(2.5, 3.5) if "strong" in fault else rng.uniform(1.5, 2))
        positions = positions + row["strength"] * rng.normal(size=positions.shape)
    kept: NDArray[Any] = compact_counts(counts)
    if fault == "normalised counts":
        row["strength"] = rng.uniform(0.05, 0.3)
        kept = (row["strength"] * counts).astype(np.float32)
    probe = scan.probe
    if fault in ("detector units", "normalised counts"):  # as a reader scales it
        probe = (probe * np.float32(np.sqrt(row["strength"]))).astype(np.complex64)
    scan = dataclasses.replace(scan, counts=kept, positions=positions, probe=probe, truth=None)
    if fault == "mirrored axis":
        scan = oriented(scan, str(rng.choice(["flip_y", "flip_x"])))
    elif fault == "swapped axes":
        scan = oriented(scan, str(rng.choice(["swap", "swap_rotate_180", "swap_flip_y", "swap_flip_x"])))
    return scan


def _diameter(probe: NDArray[np.complex128]) -> float:
    """Diameter of the circle about the centre with 90 % of the probe's intensity, pixels."""
    axis = np.arange(len(probe)) - len(probe) // 2
    distance, intensity = np.hypot(axis[:, None], axis).ravel(), np.square(np.abs(probe)).ravel()
    order = np.argsort(distance)
    total = np.cumsum(intensity[order])
    return 2 * float(distance[order][np.searchsorted(total, 0.9 * total[-1])])


def cases() -> list[tuple[int, str]]:
    """Index and fault of all scans of a set."""
    return [*enumerate(FAULTS), *((len(FAULTS) + k, "") for k in range(SOUND))]


def trained(seed: int, index: int, fault: str, cache: Path, effort: float = 1.0) -> tuple[Path, Scan, Row]:
    """The folder of the run of a case, from the cache if it is there."""
    scan, config, row = draw(seed, index, fault, effort)
    folder = cache / f"{seed}-{index}"
    if not (folder / "wts.h5.zip").exists():
        began = time.perf_counter()
        train(scan, folder, Config.from_dict(config), overwrite=True, accept="all")
        (folder / "seconds.txt").write_text(f"{time.perf_counter() - began:.1f}\n")
    return folder, scan, row


def check(seed: int, index: int, fault: str, cache: Path, effort: float = 1.0) -> Row:
    """Train and diagnose one case."""
    folder, scan, row = trained(seed, index, fault, cache, effort)
    began = time.perf_counter()
    found = diagnose(folder, scan)
    ranked = [cause.key for cause in found.causes]
    right = found.cause == row["cause"] or (not fault and found.cause == "training" and found.ratio > _INCOMPLETE)
    return {
        "seed": seed, "case": index, **row, "found": found.cause, "right": right,
        "second": ranked[1] if len(ranked) > 1 else "", "ratio": found.ratio,
        "training_s": float((folder / "seconds.txt").read_text()), "diagnosis_s": time.perf_counter() - began,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[9, 10], help="of the sets; 1 to 8 are known")
    parser.add_argument("--cases", nargs="+", type=int, help="indices within a set; default: all 30")
    parser.add_argument("--cache", type=Path, default=Path("diagnose_runs"), help="folder that keeps the trainings")
    parser.add_argument("--effort", type=float, default=1.0, help="multiplies the epochs of the trainings")
    parser.add_argument("--train-only", action="store_true", help="fill the cache")
    parser.add_argument("--out", type=Path, default=RESULTS / "diagnose.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows: list[Row] = []
    for seed in options.seeds:
        for index, fault in cases():
            if options.cases and index not in options.cases:
                continue
            if options.train_only:
                trained(seed, index, fault, options.cache, options.effort)
                print(seed, index, fault, (options.cache / f"{seed}-{index}" / "seconds.txt").read_text(), flush=True)
                continue
            rows.append(check(seed, index, fault, options.cache, options.effort))
            shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in rows[-1].items()}
            print(" ".join(f"{key}={value}" for key, value in shown.items()), flush=True)
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(shown), lineterminator="\n")
                writer.writeheader()
                for row in rows:
                    writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    for seed in options.seeds:
        chosen = [row for row in rows if row["seed"] == seed]
        faulty = [row for row in chosen if row["cause"] != "none"]
        sound = [row for row in chosen if row["cause"] == "none"]
        print(
            f"set {seed}: right cause in {sum(row['right'] for row in faulty)} of {len(faulty)}, "
            f"false alarms in {sum(not row['right'] for row in sound)} of {len(sound)}"
        )


if __name__ == "__main__":
    main()
