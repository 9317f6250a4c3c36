# SPDX-License-Identifier: BSD-3-Clause
"""The smallest useful trainings, for the tests of training: a scan, a configuration, and comparisons."""

from __future__ import annotations

import csv
from typing import Any

import torch

from ptychopinn.config import Config
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import TrainedRun


def tiny_scan() -> Scan:
    return simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=3)


def tiny(**sections: dict[str, Any]) -> Config:
    """Return the smallest useful configuration, with the fields of ``sections``."""
    values: dict[str, dict[str, Any]] = {
        "data": {"group_size": 4},
        "model": {"options": {"steps": 2, "width": 8, "state": 2}},
        "training": {"epochs": 2, "batch_size": 4},
        "execution": {"accelerator": "cpu", "threads": 1, "progress": False},
    }
    for name, section in sections.items():
        values.setdefault(name, {}).update(section)
    return Config.from_dict(values)


def same(a: TrainedRun, b: TrainedRun) -> bool:
    """Return whether all weights and buffers are bitwise equal."""
    first, second = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def rows(run: TrainedRun) -> list[dict[str, str]]:
    """Return the rows of metrics.csv of a run."""
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
