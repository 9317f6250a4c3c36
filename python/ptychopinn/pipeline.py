# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction, with a refinement where no network was trained; training and reconstruction in one call."""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import Config, RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import check_scan
from ptychopinn.inference.predict import predict
from ptychopinn.inference.predict import reconstruct as reconstruct_by_network
from ptychopinn.models import PtychoModel
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.devices import device_of
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import TrainedRun, train

_log = logging.getLogger(__name__)

Image = NDArray[np.float32]

#: Passes over the scan that refine the image of the pretrained network: seconds, for most of the way to the noise
#: (docs/pretrained.md).
FIRST_PASSES = 20


def reconstruct(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "auto",
    accept: str | Collection[str] = (),
    refine: int | None = None,
) -> Reconstruction:
    """Reconstruct the object of a scan with trained models, or with the pretrained network of the package.

    Args:
        model: a trained model, or several, whose results are averaged; None: the pretrained network.
        scan: the scan.
        config: sections ``data`` and ``inference`` are used.
        device: for the computation.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.
        refine: passes over the scan in which object and probe are then refined against the counts; None: 20 for the
            pretrained network, which has not seen the scan, and 0 for trained models.

    Returns:
        The object, see :func:`ptychopinn.inference.predict.reconstruct`, with what was used in its metadata.

    Raises:
        InputError: the scan has a problem that is not accepted, its patterns have another size than the model's, or
            groups another one than it is built for or than the scan has patterns.
    """
    config = config or Config()
    result = reconstruct_by_network(model, scan, config, device, accept)
    passes = refine if refine is not None else FIRST_PASSES if model is None else 0
    return refined_image(scan, result, passes, device, accept) if passes else result


def refined_image(
    scan: Scan, image: Reconstruction, passes: int, device: str | torch.device, accept: str | Collection[str] = ()
) -> Reconstruction:
    """Refine the image of a network against the counts, object and probe, in so many passes over the scan.

    Returns:
        The refined image, which still tells which network it began with.
    """
    from ptychopinn.refinement.workflow import refine  # only here, for others to begin sooner

    _log.info("%s: the image is refined against the counts in %d passes", scan.name, passes)
    config = RefineConfig(iterations=passes, split_half=False, find_defocus=False)
    result = refine(scan, image, config, device, accept=accept)
    return replace(result, metadata={**image.metadata, **result.metadata})


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
