# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of the orientation check: ``python benchmarks/orientation.py``, about 10 minutes on one core.

150 simulated scans, 100 with one of the seven orientation errors and 50 without; half of each with a wrong initial
probe, a quarter with off-centre patterns. In addition, 40 scans without a correct orientation (an empty sample, or
positions in random order), for which the check must not be sure. Objects, probes, modes, doses, steps, sizes and paths
are drawn from the seed of each scan. Seeds of the published run begin at 0; the check was developed with others
(``--first 1000``). ``--guesses`` varies the errors of the initial probe and of the positions. Rows are written to
results/orientation.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scans import OTHER_PICTURES, PICTURES

from ptychopinn.inspection.orientation import ORIENTATIONS, check_orientation, compose, oriented
from ptychopinn.physics.objects import OBJECTS, photos
from ptychopinn.physics.probes import add_modes, disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.style import new_figure, save_figure
from ptychopinn.scan import Scan

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "orientation"
SOURCES: dict[str, Any] = {name: OBJECTS[name] for name in OBJECTS if name != "photos"} | {
    f"{amplitude}/{phase}": partial(photos, amplitude_photo=amplitude, phase_photo=phase)
    for amplitude, phase in (*PICTURES, *OTHER_PICTURES)
}
_PROBES = ("lens", "lens", "lens", "annular", "disk")
_COUNTS = {"wrong": 100, "right": 50, "none": 40}


def lens(
    size: int, spread: float, radius: float, aberrations: NDArray[np.float64], stop: bool
) -> NDArray[np.complex128]:
    """Probe (N, N) of a defocused lens.

    Args:
        size: N, pixels.
        spread: geometrical size of the defocused probe in units of N, with the sign of the defocus.
        radius: of the round pupil, in units of N pixels.
        aberrations: trefoil, coma and astigmatism, rad at the edge of the pupil.
        stop: whether the pupil has a central stop.
    """
    k = np.fft.fftfreq(size, 1 / size)
    rho, angle = np.hypot(k[:, np.newaxis], k) / (radius * size), np.arctan2(k[:, np.newaxis], k)
    edge = max(size / 80, 1.0) / (radius * size)
    aperture = 1 / (1 + np.exp((rho - 1) / edge))
    if stop:
        aperture = aperture * (1 - 0.9 / (1 + np.exp((rho - 3 / 64 / radius) / (0.7 * edge))))
    trefoil, coma, astigmatism = aberrations
    phase = np.pi / 2 * spread * radius * size * rho**2 + rho**3 * (
        trefoil * np.sin(3 * angle) + coma * np.cos(angle + 0.4)
    )
    phase += astigmatism * rho**2 * np.sin(2 * angle)
    return np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * phase)))


def scan_of(seed: int) -> tuple[Scan, Row]:
    """Simulate a scan in its correct orientation; returns its parameters, too. Odd seeds have a wrong initial probe."""
    rng = np.random.default_rng([77, seed])
    size = int(rng.choice([32, 64]))
    source = str(rng.choice(list(SOURCES)))
    kind = str(rng.choice(_PROBES))
    if kind == "disk":
        diameter = rng.uniform(0.35, 0.6)
        probe, guess = (disk(size, diameter=d)[0] for d in (diameter, diameter * rng.uniform(0.85, 1.15)))
    else:
        stop, spread, radius = kind == "annular", rng.choice([-1, 1]) * rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.3)
        probe = lens(size, spread, radius, rng.uniform(-0.2, 0.2, 3), stop)
        guess = lens(size, spread * rng.uniform(0.75, 1.25), radius * rng.uniform(0.88, 1.1), np.zeros(3), stop)
    modes = int(rng.choice([1, 1, 1, 2]))
    row: Row = {
        "seed": seed, "size": size, "object": source, "probe": kind, "modes": modes, "guess": bool(seed % 2),
        "photons": float(f"{10 ** rng.uniform(4, 8):.3g}"), "step": round(size * rng.uniform(0.08, 0.2), 2),
        "patterns": int(rng.integers(200, 401)), "path": str(rng.choice(["raster", "spiral"])),
    }  # fmt: skip
    scan = simulate(
        SOURCES[source], probe=add_modes(probe, modes, decay=0.2), scan=row["path"], patterns=row["patterns"],
        step=row["step"], photons=row["photons"], seed=int(rng.integers(2**31)),
    )  # fmt: skip
    if row["guess"]:
        scaled = guess * (np.linalg.norm(scan.probe) / np.linalg.norm(guess))
        scan = dataclasses.replace(scan, probe=scaled[np.newaxis].astype(np.complex64))
    row["off_y"], row["off_x"] = (int(v) for v in rng.integers(-4, 5, 2) * (rng.random() < 0.25))
    counts = np.roll(scan.counts, (row["off_y"], row["off_x"]), (1, 2))
    return dataclasses.replace(scan, counts=counts), row


def without_orientation(seed: int) -> tuple[Scan, Row]:
    """Simulate a scan without a correct orientation: an empty sample, or positions in random order."""
    scan, row = scan_of(seed)
    rng = np.random.default_rng([78, seed])
    if seed % 4 < 2:
        row["object"] = "shuffled"
        return dataclasses.replace(scan, positions=rng.permutation(scan.positions)), row
    counts = rng.poisson(np.full(scan.counts.shape, simulate_empty(scan)))
    row |= {"object": "empty", "off_y": 0, "off_x": 0}
    return dataclasses.replace(scan, counts=counts.astype(np.uint32), truth=None), row


def simulate_empty(scan: Scan) -> NDArray[np.float64]:
    """Expected pattern (N, N) without a sample."""
    empty = simulate(np.ones((200, 200), np.complex64), probe=scan.probe, patterns=1, noise=False)
    pattern: NDArray[np.float64] = empty.counts[0].astype(np.float64)
    return pattern * (float(np.square(np.abs(scan.probe)).sum()) / pattern.sum())


def check(group: str, seed: int) -> Row:
    """Check one scan; the row has the error, the result, and whether it is right."""
    scan, row = (without_orientation if group == "none" else scan_of)(seed)
    error = str(np.random.default_rng([79, seed]).choice(list(ORIENTATIONS)[1:])) if group == "wrong" else "given"
    began = time.process_time()
    report = check_orientation(oriented(scan, error))
    seconds = time.process_time() - began
    mends = {compose(name, error): name for name in ORIENTATIONS}["given"]
    answers = (report.best, report.twin)
    return {
        "group": group, **row, "error": error, "mends": mends, "best": report.best, "twin": report.twin or "",
        "margin": round(report.confidence, 2), "sure": report.sure,
        "right": mends in answers, "refused": report.sure and not report.given_is_best,
        "found_y": round(report.offset[0], 2), "found_x": round(report.offset[1], 2),
        "cpu_seconds": round(seconds, 2),
    }  # fmt: skip


#: Factors of the initial probe's defocus and aperture, and standard deviation of the positions in pixels.
_GUESSES = ((0.5, 1.0, 0.0), (1.6, 1.0, 0.0), (0.25, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.7, 0.0), (1.0, 1.3, 0.0),
            (1.0, 1.0, 2.0))  # fmt: skip


def guesses(number: int) -> list[Row]:
    """Check ``number`` scans of 32 px with a defocused probe for each error of the initial probe or positions.

    The scans have the 8 orientations in turn.
    """
    rows: list[Row] = []
    for defocus, aperture, error in _GUESSES:
        reports = []
        for seed in range(7000, 7000 + number):
            rng = np.random.default_rng(seed)
            spread, radius = rng.choice([-1, 1]) * rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.3)
            probe = lens(32, spread, radius, rng.uniform(-0.2, 0.2, 3), False)
            scan = simulate(
                list(SOURCES.values())[seed % len(SOURCES)], probe=probe, patterns=200,
                step=32 * rng.uniform(0.08, 0.2), photons=10 ** rng.uniform(4, 8), seed=seed,
            )  # fmt: skip
            guess = lens(32, spread * defocus, radius * aperture, np.zeros(3), False)
            guess = (guess * (np.linalg.norm(scan.probe) / np.linalg.norm(guess)))[np.newaxis].astype(np.complex64)
            positions = scan.positions + error * rng.normal(size=scan.positions.shape)
            wrong = list(ORIENTATIONS)[seed % 8]
            report = check_orientation(oriented(dataclasses.replace(scan, probe=guess, positions=positions), wrong))
            reports.append((report, {compose(name, wrong): name for name in ORIENTATIONS}["given"]))
        right = [mends in (report.best, report.twin) for report, mends in reports]
        rows.append(
            {
                "defocus": defocus, "aperture": aperture, "position_error": error, "scans": number,
                "right": sum(right), "sure": sum(report.sure for report, _ in reports),
                "surely_wrong": sum(r.sure and not good for (r, _), good in zip(reports, right, strict=True)),
                "median_margin": round(float(np.median([report.confidence for report, _ in reports])), 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def write(rows: list[Row], path: Path) -> None:
    """Write a table of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(rows: list[Row]) -> Iterator[str]:
    """Summarise the rows in sentences."""
    wrong, right, none = ([row for row in rows if row["group"] == group] for group in _COUNTS)
    if wrong:
        good = [row for row in wrong if row["right"]]
        pairs = [row for row in good if row["twin"]]
        blind = [row for row in pairs if row["mends"] == "rotate_180"]
        yield (
            f"with an error: right on {len(good)} of {len(wrong)}, sure of {sum(row['sure'] for row in good)}; "
            f"{len(pairs)} as a pair with its negation (the probe is its own twin); surely wrong on "
            f"{sum(row['sure'] and not row['right'] for row in wrong)}"
        )
        yield (
            f"refused: {sum(row['refused'] for row in wrong)} of {len(wrong)}; {len(blind)} cannot be told from right "
            "ones"
        )
    if right:
        yield (
            f"without an error: false alarms {sum(row['refused'] for row in right)} of {len(right)}, sure of "
            f"{sum(row['sure'] and row['right'] for row in right)}"
        )
    if none:
        yield f"with no right orientation: sure of {sum(row['sure'] for row in none)} of {len(none)}"
        yield f"largest margin of these {max(row['margin'] for row in none):.1f}"
    told = [row for row in rows if row["group"] != "none"]
    if told:
        smallest = min((row["margin"] for row in told if row["right"]), default=0.0)
        yield f"smallest margin of right answers {smallest:.1f}"
    misses = [max(abs(row["found_y"] - row["off_y"]), abs(row["found_x"] - row["off_x"])) for row in rows]
    yield f"zero frequency: off by at most {max(misses):.2f} px, median {np.median(misses):.2f} px"
    for size in sorted({row["size"] for row in rows}):
        chosen = [row["cpu_seconds"] for row in rows if row["size"] == size]
        yield f"{size} px: mean {np.mean(chosen):.1f}, largest {max(chosen):.1f} CPU-seconds"


def draw(rows: list[Row], path: Path) -> None:
    """Plot the margins of all scans against their dose, by group."""
    figure = new_figure(8.0, 4.4)
    axes = figure.subplots()
    styles = {"wrong": ("C0", "o"), "right": ("C2", "s"), "none": ("C3", "x")}
    names = {"wrong": "an error, found", "right": "no error", "none": "no right orientation exists"}
    for group, (colour, marker) in styles.items():
        chosen = [row for row in rows if row["group"] == group and (group == "none" or row["right"])]
        axes.plot(
            [row["photons"] for row in chosen], [max(row["margin"], 0.1) for row in chosen], marker, color=colour,
            markersize=5, markerfacecolor="none", label=names[group],
        )  # fmt: skip
    missed = [row for row in rows if row["group"] != "none" and not row["right"]]
    axes.plot([r["photons"] for r in missed], [max(r["margin"], 0.1) for r in missed], "k*", label="wrong answer")
    axes.axhline(5, color="0.3", linestyle="--", linewidth=1)
    axes.text(1.05e8, 5.2, "sure", ha="right", va="bottom")
    axes.set(xscale="log", yscale="log", xlabel="photons in a pattern", ylabel="margin (standard errors)")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize="small")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(_COUNTS), default=list(_COUNTS))
    parser.add_argument("--first", type=int, default=0, help="seed of the first scan")
    parser.add_argument("--number", type=int, default=None, help="scans in each group; default 100, 50 and 40")
    parser.add_argument(
        "--guesses", action="store_true", help="vary the errors of the initial probe instead; --number scans of each"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.guesses:
        return write(guesses(options.number or 10), RESULTS / "guesses.csv")
    rows: list[Row] = []
    first = options.first
    for group in options.groups:
        number = options.number or _COUNTS[group]
        for seed in range(first, first + number):
            rows.append(check(group, seed))
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
        first += _COUNTS[group]
    write(rows, RESULTS / "orientation.csv")
    draw(rows, RESULTS / "margins.png")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
