# SPDX-License-Identifier: BSD-3-Clause
"""What a support of the probe, limits of the object and a later begin of probe and positions are worth, where known.

    python benchmarks/physics_limits.py --seeds 0 1 2

"support": a curved wave behind a pinhole of 26 px, off centre, in an array of 64 px, and an initial probe of half the
curvature. "limits": transparent particles in vacuum, with a probe of wrong defocus. "later": a known or a wrong initial
probe, and positions without or with normal errors. Costs are CPU-seconds of one thread, without the evaluation. The
last states are written to benchmarks/results/physics/limits.csv and .md, and their phases to limits-<case>.png.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from physics import RESULTS
from rows import Rows
from scipy.ndimage import gaussian_filter

from ptychopinn.config import RefineConfig
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.metrics.scores import matched_phases
from ptychopinn.physics.probes import disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.style import new_figure
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import remove_affine
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

COLUMNS = {
    "case": "", "patterns": "d", "step": "g", "photons": "g", "errors": "g", "defocus": "g", "seed": "d", "options": "",
    "mean_frc": ".3f", "phase_rmse": ".4f", "amplitude_rmse": ".4f", "position_rms": ".3f", "deviance": ".3f",
    "passes": "d", "cpu_seconds": ".1f",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A scan that is simulated for every seed.

    Args:
        case: "support", "limits" or "later".
        patterns: their number.
        step: between them, pixels.
        photons: of each.
        models: options of the refinements.
        errors: standard deviation of the positions along an axis, pixels.
        defocus: of the initial probe, rad; of "support" half of its curvature is wrong.
        common: options of all refinements.
    """

    case: str
    patterns: int
    step: float
    photons: float
    models: list[dict[str, Any]]
    errors: float = 0.0
    defocus: float = -0.5
    common: dict[str, Any] = field(default_factory=dict)


SUPPORTS: list[dict[str, Any]] = [{}, {"probe_support": 38.0}, {"probe_threshold": 0.02}]
AMPLITUDE, PHASE = {"amplitude_limit": 1.0}, {"phase_limits": (-0.9, 0.0)}
LIMITS: list[dict[str, Any]] = [{}, AMPLITUDE, PHASE, AMPLITUDE | PHASE]
PROBES: list[dict[str, Any]] = [{}, {"probe_from": 10}, {"probe_from": 30}]
POSITIONS: list[dict[str, Any]] = [{}, {"positions_from": 10}, {"positions_from": 30}]
MOVING = {"learn_positions": True, "find_defocus": False}
PROBLEMS = [
    Problem("support", 16, 16, 1e5, SUPPORTS),
    Problem("support", 25, 10, 1e6, SUPPORTS),
    Problem("support", 100, 16, 1e4, SUPPORTS),
    Problem("support", 64, 20, 1e6, SUPPORTS),
    Problem("limits", 100, 8, 3e3, LIMITS),
    Problem("limits", 100, 8, 1e4, LIMITS),
    Problem("limits", 100, 8, 1e5, LIMITS),
    Problem("later", 225, 9.6, 1e4, PROBES, defocus=0.0),
    Problem("later", 225, 9.6, 1e6, PROBES),
    Problem("later", 225, 9.6, 1e6, POSITIONS, 1.0, common=MOVING),
    Problem("later", 225, 9.6, 1e6, POSITIONS, 1.0, 0.0, common=MOVING),
]


def pinhole(curvature: float, y: int, x: int) -> NDArray[np.complex64]:
    """A curved wave behind a pinhole of 26 px about (y, x) from the middle, (1, 64, 64)."""
    axis = np.arange(64) - 32
    v, u = (axis[:, np.newaxis] - y) / 13, (axis - x) / 13
    disc = np.roll(disk(64, diameter=26 / 64)[0], (y, x), (0, 1))
    return np.asarray(disc * np.exp(1j * (curvature * (1.2 * v**2 + u**2) + 0.5 * u**3)), np.complex64)[np.newaxis]


def particles(shape: tuple[int, int], rng: np.random.Generator, *_: object) -> NDArray[np.complex64]:
    """Particles in vacuum that retard the phase by up to 0.9 rad and absorb little."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    depth = np.zeros(shape)
    for _number in range(shape[0] * shape[1] // 500):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 9)
        depth = np.maximum(depth, (np.hypot((y - cy) / 1.3, x - cx) < radius) * rng.uniform(0.3, 1))
    return np.asarray(np.exp((-0.15 - 0.9j) * gaussian_filter(depth, 0.7)), np.complex64)


def simulated(problem: Problem, seed: int) -> tuple[Scan, Scan]:
    """The scan with what is wrong of it, and as it is."""
    options: dict[str, Any] = {"patterns": problem.patterns, "step": problem.step, "photons": problem.photons}
    if problem.case == "support":
        known = simulate("photos", pinhole(2.5, 1, -2), seed=seed, **options)
        probe = pinhole(1.2, 0, 0)
        probe *= np.linalg.norm(known.probe) / np.linalg.norm(probe)
    else:
        known = simulate(particles if problem.case == "limits" else "photos", seed=seed, **options)
        probe = defocus_probe(torch.from_numpy(known.probe), problem.defocus).numpy()
    moves = problem.errors * np.random.default_rng(seed).normal(size=known.positions.shape)
    return replace(known, probe=probe, positions=known.positions + moves), known


def measured(problem: Problem, seed: int, options: dict[str, Any], table: Rows) -> tuple[Reconstruction, Scan]:
    """Refine, and add a row."""
    scan, known = simulated(problem, seed)
    began = time.process_time()
    config = RefineConfig(**{"split_half": False, "iterations": 150, **problem.common, **options})
    found = refine(scan, None, config, "cpu", accept="all")
    spent = time.process_time() - began
    assert found.refinement is not None and found.positions is not None
    scores = evaluate(found, known, border=8, threshold=0.1)
    moves = torch.from_numpy(found.positions - known.positions)
    rest = remove_affine(torch.from_numpy(known.positions), moves).square().sum(1).mean().sqrt()
    table.add(
        {
            "case": problem.case, "patterns": problem.patterns, "step": problem.step, "photons": problem.photons,
            "errors": problem.errors, "defocus": problem.defocus, "seed": seed, "options": named(options),
            "mean_frc": scores["frc"]["mean"], "phase_rmse": scores["phase"]["rmse"],
            "amplitude_rmse": scores["amplitude"]["rmse"], "position_rms": float(rest),
            "deviance": found.refinement.deviance[-1], "passes": found.refinement.passes, "cpu_seconds": spent,
        }
    )  # fmt: skip
    return found, known


def named(options: dict[str, Any]) -> str:
    """Options in a line."""
    return " ".join(f"{name}={str(value).replace(' ', '')}" for name, value in options.items()) or "none"


def draw(images: dict[str, tuple[Reconstruction, Scan]], name: str) -> None:
    """Draw phases and their errors, to 0.3 rad, of the first seed."""
    figure = new_figure(2.2 * len(images), 4.4)
    for column, (title, (found, known)) in enumerate(images.items()):
        aligned = align_to_scan(found, known, border=8, threshold=0.1)
        phase, true = matched_phases(aligned.image, aligned.truth)
        for row, (shown, limits) in enumerate(((phase, np.percentile(true, (0.5, 99.5))), (phase - true, (-0.3, 0.3)))):
            axes = figure.add_subplot(2, len(images), row * len(images) + column + 1, xticks=[], yticks=[])
            axes.imshow(shown, cmap="coolwarm" if row else "viridis", vmin=limits[0], vmax=limits[1])
            axes.set_title("" if row else title, fontsize="xx-small")
    figure.savefig(RESULTS / f"limits-{name}.png", dpi=60, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", default=["support", "limits", "later"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Rows(RESULTS, "limits", COLUMNS, "Support of the probe, limits of the object, parts that are refined later")
    for case in given.cases:
        images = {}
        for problem in (problem for problem in PROBLEMS if problem.case == case):
            for seed in given.seeds:
                for options in problem.models:
                    found = measured(problem, seed, options, table)
                    if seed == given.seeds[0]:
                        images[f"{problem.patterns}, {problem.photons:g}, {problem.defocus:g}\n{named(options)}"] = (
                            found
                        )
        draw(images, case)


if __name__ == "__main__":
    main()
