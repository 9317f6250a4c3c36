# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of standard deviations: how often the truth of simulated scans is within one and within two of them.

Twenty scans: seven samples, two probes, 1e4 to 1e7 photons, 32 and 64 px, rasters and spirals; every fifth begins with
a probe of wrong defocus. A method makes an image with maps of the standard deviation of amplitude and phase; of the
well-illuminated pixels inside of the scan, those whose truth is within 1 and within 1.96 of them should be 68 % and
95 %. Beside it, "ratio" is the root mean square of the map over that of the error, and "rank" the rank correlation of
map and error, with that of normal errors which have exactly these deviations in "attainable": a constant map has rank
0. Rows are in METHOD.csv and .md, pictures in pictures/METHOD; no choice of the method was made with these seeds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, Rows, machine
from scipy.stats import spearmanr

from ptychopinn.config import Config, RefineConfig
from ptychopinn.first_image import reconstruct as first_image
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.evaluate import align_to_scan
from ptychopinn.metrics.scores import matched_phases
from ptychopinn.models import PtychoModel
from ptychopinn.physics.objects import photos
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.images import COUNTS_MAP, draw_image, image_figure
from ptychopinn.plotting.style import save_figure
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train

RESULTS = Path(__file__).parent / "results" / "uncertainty"
SAMPLES = ("photos", "dead_leaves", "lines", "siemens", "moon", "lines_phase", "lines_amplitude")
PHOTONS = (1e4, 1e5, 1e6, 1e7)
#: Factors of the standard deviation, and what part of normal errors is within.
LEVELS = {"68": 1.0, "95": 1.96}
WITHIN = {"68": (0.60, 0.76), "95": (0.92, 0.98)}
COLUMNS = {
    "scan": "", "photons": ".0e", "seconds": ".0f",
    **{f"{part}_{name}": form for part in ("amplitude", "phase") for name, form in (
        ("68", ".2f"), ("95", ".2f"), ("error", ".4f"), ("ratio", ".2f"), ("rank", ".2f"), ("attainable", ".2f"))},
}  # fmt: skip


def scans(count: int, first: int, patterns: int | None = None, sizes: tuple[int, ...] = (32, 64)) -> Iterator[Scan]:
    """Scans of seeds from ``first`` on."""
    for index in range(count):
        sample, photons = SAMPLES[index % len(SAMPLES)], PHOTONS[(index + index // 4) % len(PHOTONS)]
        size = sizes[index // 2 % len(sizes)]
        probe, shape = ("defocused", "disk")[index % 2], ("raster", "spiral")[index // 3 % 2]
        source: Any = _moon if sample == "moon" else sample
        number = patterns or (300 if size == 32 else 225)
        made = simulate(source, probe, shape, number, size, photons=photons, seed=first + index)
        wrong = index % 5 == 4
        if wrong:
            made = replace(made, probe=defocus_probe(torch.from_numpy(made.probe), -0.4).numpy())
        yield replace(made, name=f"{first + index}-{sample}-{probe}-{size}{'-wrong' if wrong else ''}")


def _moon(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.complex64]:
    return photos(shape, rng, "moon", "rocket")


def refined(scan: Scan, given: argparse.Namespace) -> Reconstruction:
    """By refinement from scratch, with its defaults."""
    config = RefineConfig(split_half=False, uncertainty="bootstrap", replicas=given.replicas)
    return refine(scan, None, config, "cpu", accept="all")


def _inference(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "inference": {"uncertainty": "bootstrap", "replicas": given.replicas},
        "execution": {"threads": 1, "progress": False, "checkpoints": False, "picture_every": None},
    }


def pretrained(scan: Scan, given: argparse.Namespace) -> Reconstruction:
    """By the network in the package."""
    return reconstruct(None, scan, Config.from_dict(_inference(given)), "cpu", accept="all")


def first(scan: Scan, given: argparse.Namespace) -> Reconstruction:
    """By the network in the package, refined in some passes, as is the default of ``ptychopinn reconstruct``."""
    return first_image(None, scan, Config.from_dict(_inference(given)), "cpu", accept="all")


def trained(scan: Scan, given: argparse.Namespace) -> Reconstruction:
    """By a network that was trained on the scan for some seconds, beginning with that in the package."""
    values = {"minutes": given.seconds / 60, "epochs": 100_000, "seed": 0, "start": "pretrained"}
    config = Config.from_dict({**_inference(given), "training": values})
    with tempfile.TemporaryDirectory() as folder:
        run = train(scan, Path(folder) / "run", config, accept="all")
        model: PtychoModel = run.model
        return reconstruct(model, scan, replace(run.config, inference=config.inference), "cpu", accept="all")


METHODS: dict[str, Callable[[Scan, argparse.Namespace], Reconstruction]] = {
    "refined": refined, "pretrained": pretrained, "first": first, "trained": trained
}  # fmt: skip


def scored(result: Reconstruction, scan: Scan) -> tuple[Row, list[tuple[str, NDArray[Any], NDArray[Any]]]]:
    """Coverage and sharpness of the maps of a result, and its errors beside their standard deviations."""
    assert result.amplitude_uncertainty is not None and result.phase_uncertainty is not None
    aligned = align_to_scan(result, scan)
    phases = matched_phases(aligned.image, aligned.truth)
    parts = [
        ("amplitude", np.abs(aligned.image) - np.abs(aligned.truth),
         result.amplitude_uncertainty[aligned.region] * abs(aligned.scale)),
        ("phase", phases[0] - phases[1], result.phase_uncertainty[aligned.region]),
    ]  # fmt: skip
    row: Row = {}
    rng = np.random.default_rng(0)
    for name, error, deviation in parts:
        size = np.abs(error)
        for level, factor in LEVELS.items():
            row[f"{name}_{level}"] = float(np.mean(size <= factor * deviation))
        row[f"{name}_error"] = _rms(error)
        row[f"{name}_ratio"] = _rms(deviation) / max(_rms(error), 1e-30)
        row[f"{name}_rank"] = _rank(size, deviation)
        row[f"{name}_attainable"] = _rank(np.abs(rng.normal(size=deviation.shape)) * deviation, deviation)
    return row, parts


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _rank(first: NDArray[Any], second: NDArray[Any]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel())[0])


def draw(parts: list[tuple[str, NDArray[Any], NDArray[Any]]], path: Path) -> None:
    """Modulus of the error beside its standard deviation, in the same colours."""
    figure, grid = image_figure(parts[0][1].shape, 2, rows=2)
    for row, (name, error, deviation) in enumerate(parts):
        limit = float(np.percentile(np.abs(error), 99))
        for column, (title, image) in enumerate((("modulus of the error", np.abs(error)), ("deviation", deviation))):
            axes = grid[2 * row + column]
            draw_image(
                axes, image, label=name, limits=(0.0, limit), colour_map=COUNTS_MAP, origin=(0, 0), pixel_size=None,
                scale_bar=False,
            )  # fmt: skip
            axes.set_title(title if row == 0 else "")
            axes.label_outer()
    save_figure(figure, path)


def summary(rows: list[Row]) -> Row:
    """Means over scans, with medians of the ratios."""
    mean: Row = {"scan": f"all {len(rows)}", "seconds": float(sum(row["seconds"] for row in rows))}
    for name in COLUMNS:
        if name.startswith(("amplitude", "phase")):
            middle = np.median if name.endswith(("ratio", "error")) else np.mean
            mean[name] = float(middle([row[name] for row in rows]))
    return mean


def outside(rows: list[Row]) -> dict[str, list[str]]:
    """Scans whose coverage is outside of the ranges, by column."""
    found = {}
    for part in ("amplitude", "phase"):
        for level, (low, high) in WITHIN.items():
            name = f"{part}_{level}"
            found[name] = [row["scan"] for row in rows if not low <= round(row[name], 2) <= high]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=list(METHODS), default="refined", help="(%(default)s)")
    parser.add_argument("--scans", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--first", type=int, default=700, help="seed of the first scan (%(default)s)")
    parser.add_argument("--patterns", type=int, help="of a scan (300 of 32 px, 225 of 64 px)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64], help="pixels of a pattern (32 64)")
    parser.add_argument("--replicas", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a training (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables and pictures")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = Rows(given.out, given.method, COLUMNS, machine(torch.device("cpu")))
    for scan in scans(given.scans, given.first, given.patterns, tuple(given.sizes)):
        began = time.perf_counter()
        result = METHODS[given.method](scan, given)
        row, parts = scored(result, scan)
        photons = round(float(np.square(np.abs(scan.probe)).sum()))
        table.add({"scan": scan.name, "photons": photons, "seconds": time.perf_counter() - began, **row})
        draw(parts, given.out / "pictures" / given.method / f"{scan.name}.png")
    rows = list(table.rows)
    table.add(summary(rows))
    for name, names in outside(rows).items():
        print(
            f"{name}: {len(rows) - len(names)} of {len(rows)} scans within the range; not {', '.join(names) or 'any'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
