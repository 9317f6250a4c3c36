# SPDX-License-Identifier: BSD-3-Clause
"""The figure of a training run: its losses."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ptychopinn.errors import InputError, not_found
from ptychopinn.plotting.style import new_figure, save_figure


def plot_training(history: str | Path | Mapping[str, Sequence[float]], path: str | Path) -> list[Path]:
    """Draw all losses of a training run.

    Args:
        history: Lightning's ``metrics.csv``, or columns by name. Columns with "loss" in their name are drawn over
            "epoch", or over "step" if a loss was logged more than once in an epoch; NaN is skipped.
        path: the PNG file.

    Returns:
        The path written, in a list.

    Raises:
        InputError: the file is missing or holds no finite loss.
    """
    source = "history" if isinstance(history, Mapping) else str(history)
    columns = dict(history) if isinstance(history, Mapping) else _read_csv(Path(history))
    table = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    losses = {name: v for name, v in table.items() if "loss" in name.lower() and np.isfinite(v).any()}
    if not losses:
        raise InputError(f"{source}: no column with 'loss' in its name holds a number, found columns {sorted(table)}")
    from matplotlib.ticker import MaxNLocator  # see style.py

    unit = _abscissa(table, losses)
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    for name, values in losses.items():
        x = table[unit] if unit in table else np.arange(len(values))
        present = np.isfinite(values)
        marker = "o" if present.sum() <= 30 else ""
        axes.plot(x[present], values[present], label=name, linewidth=1.4, marker=marker, markersize=3.5)
    if all((v[np.isfinite(v)] > 0).all() for v in losses.values()):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=unit, ylabel="loss")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(frameon=False)
    return [save_figure(figure, Path(path))]


def _read_csv(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        raise not_found(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ()) if name is not None}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _abscissa(table: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]) -> str:
    if "epoch" in table:
        logged = [table["epoch"][np.isfinite(values)] for values in losses.values()]
        if "step" not in table or all(len(np.unique(epochs)) == len(epochs) for epochs in logged):
            return "epoch"
    return "step"
