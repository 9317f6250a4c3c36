# SPDX-License-Identifier: BSD-3-Clause
"""Training and reconstruction in one call, for scripts."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import check_scan
from ptychopinn.inference.predict import predict, reconstruct
from ptychopinn.runtime.devices import device_of
from ptychopinn.runtime.process_settings import process_settings
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
    accept: str | Collection[str] = (),
    drop_outliers: bool = False,
    mask_faulty: bool = False,
) -> tuple[Image | None, Image | None, dict[str, Any]]:
    """Train on one scan and reconstruct the same or another one.

    Args:
        train_scan: the scan to train on, or its file.
        test_scan: the scan to reconstruct, or its file; None: ``train_scan``.
        config: the configuration; None: defaults. The device is that of ``execution``: a GPU if one can be used.
        stitch: combine the predicted canvases of the groups to one object.
        out: folder of the run, as :func:`ptychopinn.train` writes it; None: nothing stays on disk.
        overwrite: replace an earlier run in that folder.
        backend: "pytorch"; the argument exists for scripts of PtychoPINN.
        accept: keys of problems of the scans to accept, or "all", see :func:`ptychopinn.check_scan`.
        drop_outliers: omit patterns that are far from the others or have far fewer or more counts.
        mask_faulty: ignore dead, stuck, hot and saturated pixels.

    Returns:
        Amplitude and phase (rad), float32, (H, W), or None and None without stitching; and a dictionary: "backend"
        ("pytorch"), "model", "config", "losses" (of the last epoch), "history" (column -> values, one per epoch),
        "folder" (or None), and "reconstruction" with stitching, "prediction" (canvases of the groups) without.

    Raises:
        InputError: another backend is requested, a scan has a problem that is not accepted, or as for
            :func:`ptychopinn.train` and :func:`ptychopinn.reconstruct`.
    """
    if backend != "pytorch":
        raise InputError(
            f"backend: expected 'pytorch', got {backend!r}; ptychopinn uses PyTorch only: omit the argument, or use "
            "PtychoPINN"
        )
    config = config or Config()
    with process_settings(config.execution, seed=config.training.seed):
        scans = [None if scan is None else _load(scan) for scan in (train_scan, test_scan)]
        scan, test = (
            None if one is None else check_scan(one, accept, drop_outliers=drop_outliers, mask_faulty=mask_faulty)
            for one in scans
        )
        assert scan is not None
        return _run(scan, test, config, stitch, out, overwrite)


def _run(
    scan: Scan, test_scan: Scan | None, config: Config, stitch: bool, out: str | Path | None, overwrite: bool
) -> tuple[Image | None, Image | None, dict[str, Any]]:
    other = scan if test_scan is None else test_scan
    device = device_of(config.execution)
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
    if not stitch:
        return None, None, results | {"prediction": predict(trained.model, other, trained.config, device)}
    reconstruction = reconstruct(trained.model, other, trained.config, device)
    return reconstruction.amplitude, reconstruction.phase, results | {"reconstruction": reconstruction}


def _load(scan: Scan | str | Path) -> Scan:
    return scan if isinstance(scan, Scan) else Scan.load(scan)


def _history(trained: TrainedRun) -> dict[str, list[float]]:
    if trained.config.execution.logger == "none":
        return {}
    with (trained.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.endswith("_loss")] if rows else []
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}
