# SPDX-License-Identifier: BSD-3-Clause
"""One call for scripts: train on a scan, reconstruct another, and have amplitude and phase as arrays."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import predict, reconstruct
from ptychopinn.runtime.devices import device_of
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import TrainedRun, train

Image = NDArray[np.float32]


def run(
    train_scan: Scan | str | Path,
    test_scan: Scan | str | Path | None = None,
    config: Config | None = None,
    stitch: bool = True,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    backend: str = "pytorch",
) -> tuple[Image | None, Image | None, dict[str, Any]]:
    """Train on one scan and reconstruct another, or the same.

    Args:
        train_scan: the scan to train on, or its file.
        test_scan: the scan to reconstruct, or its file; none: the one that was trained on.
        config: the configuration; defaults otherwise.
        stitch: make one object of what the network predicts for the groups.
        out: folder of the run, as :func:`ptychopinn.train` writes it; none: nothing is kept on disk.
        overwrite: replace an earlier run in that folder.
        backend: "pytorch"; scripts for PtychoPINN may name it.

    Returns:
        Amplitude and phase (rad), each (H, W) float32, or None and None without stitching; and a dictionary: "backend"
        ("pytorch"), "model", "config", "losses" (the last), "history" (column -> values, one per epoch), "folder" (or
        None), "reconstruction" (with stitching) or "prediction" (the groups' canvases, without).

    Raises:
        InputError: another backend was asked for, or as for :func:`ptychopinn.train` and
            :func:`ptychopinn.reconstruct`.
    """
    if backend != "pytorch":
        raise InputError(
            f"backend: expected 'pytorch', got {backend!r}; ptychopinn is a library of its own on PyTorch and holds no "
            "TensorFlow: leave the option away, or use the PtychoPINN package"
        )
    config = config or Config()
    scan = _loaded(train_scan)
    other = scan if test_scan is None else _loaded(test_scan)
    with tempfile.TemporaryDirectory() as scratch:
        trained = train(scan, scratch if out is None else out, config, overwrite=overwrite)
        history = _history(trained)
    results: dict[str, Any] = {
        "backend": "pytorch",
        "model": trained.model,
        "config": trained.config,
        "losses": trained.losses,
        "history": history,
        "folder": None if out is None else trained.folder,
    }
    device = device_of(config.execution)
    if not stitch:
        return None, None, results | {"prediction": predict(trained.model, other, trained.config, device)}
    found = reconstruct(trained.model, other, trained.config, device)
    return found.amplitude, found.phase, results | {"reconstruction": found}


def _loaded(scan: Scan | str | Path) -> Scan:
    return scan if isinstance(scan, Scan) else Scan.load(scan)


def _history(trained: TrainedRun) -> dict[str, list[float]]:
    if trained.config.execution.logger == "none":
        return {}
    with (trained.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.endswith("_loss")] if rows else []
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}
