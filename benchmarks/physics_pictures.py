# SPDX-License-Identifier: BSD-3-Clause
"""Pictures of benchmarks/physics.py: phases and amplitudes of the models beside the truth, and their courses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from physics_scans import Problem

from ptychopinn.experiment import Experiment
from ptychopinn.metrics.evaluate import align_to_scan
from ptychopinn.metrics.scores import matched_phases
from ptychopinn.plotting.style import new_figure
from ptychopinn.reconstruction import Reconstruction


def draw(problem: Problem, states: dict[str, Reconstruction], path: Path) -> None:
    """Draw phase, its error, and amplitude of every state, and of its slices; the last column is the truth."""
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, state in states.items():
        aligned = align_to_scan(state, problem.scan)
        shown[name] = aligned.image, aligned.truth
        for index, truth in enumerate(problem.slices if problem.slices is not None else ()):
            if state.slices is not None:
                single = replace(state, object=state.slices[index], slices=None, experiment=Experiment())
                part = align_to_scan(single, replace(problem.scan, truth=truth, experiment=Experiment()))
                shown[f"{name}, slice {index}"] = part.image, part.truth
    columns = len(shown)
    if not columns:
        return
    figure = new_figure(2.2 * columns, 8.6)
    grid = figure.subplots(4, columns, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.15})
    for axes, (name, (image, truth)) in zip(grid.T, shown.items(), strict=True):
        phase, true = matched_phases(image, truth)
        low, high = np.percentile(true, (0.5, 99.5))
        bright = np.percentile(np.abs(truth), (0.5, 99.5))
        axes[0].imshow(phase, cmap="viridis", vmin=low, vmax=high)
        axes[1].imshow(phase - true, cmap="coolwarm", vmin=-0.3, vmax=0.3)
        axes[2].imshow(np.abs(image), cmap="magma", vmin=bright[0], vmax=bright[1])
        axes[3].imshow(true, cmap="viridis", vmin=low, vmax=high)
        axes[0].set_title(name, fontsize="x-small")
        for panel in axes:
            panel.set_xticks([])
            panel.set_yticks([])
    labels = ("phase", "its error, to 0.3 rad", "amplitude", "true phase")
    for panel, label in zip(grid[:, 0], labels, strict=True):
        panel.set_ylabel(label, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60, bbox_inches="tight")


def curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw mean FRC and phase error over CPU-seconds, a column for each seed; pty-chi is dashed."""
    seeds = sorted({row["seed"] for row in rows})
    figure = new_figure(4.4 * len(seeds), 6.4)
    grid = figure.subplots(2, len(seeds), squeeze=False, gridspec_kw={"wspace": 0.3})
    for column, seed in zip(grid.T, seeds, strict=True):
        own = [row for row in rows if row["seed"] == seed]
        for name in dict.fromkeys(row["model"] for row in own):
            course = [row for row in own if row["model"] == name]
            style = "--" if name.startswith("pty-chi") else "-"
            for axes, key in zip(column, ("mean_frc", "phase_rmse"), strict=True):
                axes.plot([r["cpu_seconds"] for r in course], [r[key] for r in course], style, label=name)
        column[0].set(title=f"seed {seed}", ylabel="mean FRC", xscale="log")
        column[1].set(xlabel="CPU-seconds", ylabel="phase error (rad)", xscale="log", yscale="log")
        for axes in column:
            axes.grid(alpha=0.3, which="both", linewidth=0.5)
    grid[0][0].legend(frameon=False, fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60, bbox_inches="tight")
