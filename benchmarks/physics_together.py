# SPDX-License-Identifier: BSD-3-Clause
"""What it is worth to refine two scans together: mean FRC of each, alone and with the other.

    python benchmarks/physics_together.py --seeds 0 1 2

The samples are those of scans.py, with its probe and its wrong initial probe. "probe": a scan of 625 patterns and 1e6
photons each, and one of another sample with 49 patterns and 1e5 photons. "object" and "both": two scans of one sample
with 225 patterns and 1e5 photons each, the second with another defocus of the probe ("object") or the same probe. Rows
are written to benchmarks/results/physics/together.csv; costs are CPU-seconds.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scans import OTHER_PICTURES, PICTURES, default_scan

from ptychopinn.config import RefineConfig
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.several import Common, refine_several
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

RESULTS = Path(__file__).parent / "results" / "physics"
Row = dict[str, Any]
#: Phase of the second beam at the corner of the far field, rad.
_DEFOCUS = 25.0


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


def joint_case(seeds: tuple[int, ...] = (0, 1, 2), passes: int = 100) -> list[Row]:
    """Rows of both scans of every pair: mean FRC and RMS phase error, alone and together."""
    config = RefineConfig(split_half=False, iterations=passes)
    rows: list[Row] = []
    commons: tuple[Common, ...] = ("probe", "object", "both")
    for common in commons:
        for seed in seeds:
            scans = pair(common, seed)
            began = time.process_time()
            alone = [refine(scan, None, config, "cpu", accept="all") for scan in scans]
            between = time.process_time()
            joint = refine_several(scans, common, None, config, "cpu", accept="all")
            spent = between - began, time.process_time() - between
            for index, scan in enumerate(scans):
                row: Row = {"common": common, "seed": seed, "scan": index + 1}
                for name, result in (("alone", alone[index]), ("joint", joint[index])):
                    row |= {f"{name}_{key}": value for key, value in figures(result, scan).items()}
                row |= {"alone_cpu_seconds": round(spent[0], 1), "joint_cpu_seconds": round(spent[1], 1)}
                print(row, flush=True)
                rows.append(row)
    return rows


def figures(result: Reconstruction, scan: Scan) -> dict[str, float]:
    found = evaluate(result, scan)
    return {"mean_frc": round(found["frc"]["mean"], 4), "phase_rmse": round(found["phase"]["rmse"], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = joint_case(tuple(options.seeds), options.passes)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "together.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
