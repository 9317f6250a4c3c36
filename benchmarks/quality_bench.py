# SPDX-License-Identifier: BSD-3-Clause
"""Settings of a run of the quality benchmark, and what all its cases do: train, reconstruct, score."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ptychopinn.config import Config
from ptychopinn.first_image import reconstruct
from ptychopinn.metrics.align import Aligned
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.models import PtychoModel
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import TrainedRun, train

Row = dict[str, Any]
Picture = tuple[str, Aligned]
Sections = dict[str, dict[str, Any]]


@dataclasses.dataclass
class Bench:
    """Settings of a run of the benchmark, and the operations that all cases share.

    Args:
        full: longer trainings.
        seeds: one training of each kind for every seed.
        threads: of the CPU.
        scale: factor on the times of all trainings.
        given: minutes of every training, in place of those of the case.
        epochs: of every training, in place of a time.
        patterns: of every scan of the trainings in quality_trainings.py, to see that they run.
        start: a trained bundle to begin with, of the case "start".
    """

    full: bool
    seeds: tuple[int, ...]
    threads: int
    scale: float
    given: float | None = None
    epochs: int | None = None
    patterns: int | None = None
    start: Path | None = None

    def minutes(self, small: float, full: float) -> float:
        return self.scale * (self.given or (full if self.full else small))

    @property
    def hardware(self) -> str:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {self.threads} threads"

    def config(self, minutes: float, seed: int, sections: Sections | None = None) -> Config:
        """The default options except ``sections``, for a training of some minutes (or of the epochs that are given).

        It begins with nothing: shorter ones would begin with the pretrained network.
        """
        limits = {"minutes": minutes, "epochs": 100_000} if self.epochs is None else {"epochs": self.epochs}
        values: Sections = {
            "training": {**limits, "seed": seed, "start": "nothing"},
            "execution": {"threads": self.threads, "progress": False},
        }
        for name, section in (sections or {}).items():
            values.setdefault(name, {}).update(section)
        return Config.from_dict(values)

    def train(
        self,
        scan: Scan | list[Scan],
        minutes: float,
        seed: int,
        start: PtychoModel | None = None,
        sections: Sections | None = None,
        callbacks: Sequence[L.Callback] = (),
    ) -> TrainedRun:
        """Train for a number of minutes, with the default options except ``sections``."""
        config = self.config(minutes, seed, sections)
        with tempfile.TemporaryDirectory() as folder:
            return train(scan, Path(folder) / "run", config, start=start, callbacks=callbacks)

    def reconstruct(self, run: TrainedRun, scan: Scan, passes: int = 0) -> tuple[Row, Aligned]:
        """Reconstruct, refine in a number of passes over the scan, align and evaluate."""
        start = time.perf_counter()
        result = reconstruct(run.model, scan, run.config, resolve_device("auto"), refine=passes)
        seconds = time.perf_counter() - start
        aligned = align_to_scan(result, scan)
        metrics = evaluate(result, scan, aligned=aligned)
        amplitude, phase = metrics["amplitude"], metrics["phase"]
        row = {
            "amplitude_ssim": amplitude["ssim"],
            "amplitude_pearson": amplitude["pearson"],
            "phase_pearson": phase["pearson"],
            "phase_rmse_high_pass": phase["rmse_high_pass"],
            "mean_frc": metrics["frc"]["mean"],
            "frc50_nyquist": metrics["frc"]["crossing_0.5"],
            "patterns_per_s": scan.n / seconds,
            "train_loss": run.losses.get("train_loss"),
        }
        return row, aligned

    def score(self, run: TrainedRun, scan: Scan, label: str, **facts: Any) -> tuple[Row, Picture]:
        """A row of a scan's reconstruction, which is printed, and the reconstruction."""
        scores, aligned = self.reconstruct(run, scan)
        row = {**facts, **scores}
        show(label, row)
        return row, (label, aligned)


def show(label: str, row: Row) -> None:
    """Print a row."""
    values = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(f"  {label}: {', '.join(values)}", flush=True)
