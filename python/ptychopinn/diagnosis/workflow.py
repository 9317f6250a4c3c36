# SPDX-License-Identifier: BSD-3-Clause
"""Diagnosis of a result from beginning to end: reconstruct, compare with the counts, try what explains them better."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ptychopinn.config import ExecutionConfig
from ptychopinn.diagnosis.causes import rank_causes
from ptychopinn.diagnosis.experiments import run_experiments
from ptychopinn.diagnosis.residuals import measure_residuals
from ptychopinn.diagnosis.result import Diagnosis
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import ALL, require_sound
from ptychopinn.inference.predict import reconstruct
from ptychopinn.io.reconstructions import is_reconstruction
from ptychopinn.persistence.bundle import bundle_info, load_bundle
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)

#: Fewest patterns with which trials say anything.
FEWEST = 16


def diagnose(
    result: Reconstruction | str | Path,
    scan: Scan,
    device: str | torch.device = "auto",
    execution: ExecutionConfig | None = None,
) -> Diagnosis:
    """Find why a result is poor: its residuals against photon noise, and trials with one cause removed each.

    Takes 10 to 20 seconds of a CPU thread, mostly for the trials, whose number of patterns does not depend on the scan.
    The result is deterministic on a CPU.

    Args:
        result: a reconstruction or its file, or the folder of a training, or its bundle, with which the scan is
            reconstructed.
        scan: the scan; its truth is not used. Problems of the check are accepted and reported.
        device: where to reconstruct; trials run on the CPU.
        execution: threads and other settings of the computation; None: defaults.

    Returns:
        Causes, ranked, with evidence and advice; residuals and trials.

    Raises:
        InputError: the result cannot be read or does not fit the scan, or the scan has fewer than 16 patterns.

    Example:
        >>> from ptychopinn import RefineConfig, refine, simulate
        >>> scan = simulate("dead_leaves", patterns=36, size=32, photons=1e4)
        >>> found = diagnose(refine(scan, config=RefineConfig(iterations=30, split_half=False)), scan)
        >>> found.ratio < 1.3
        True
    """
    if scan.n < FEWEST:
        raise InputError(
            f"{scan.name}: expected {FEWEST} patterns or more, found {scan.n}: trials with fewer say nothing; "
            "`ptychopinn inspect` reports on a small scan"
        )
    began = time.perf_counter()
    checked = require_sound(scan, ALL)
    facts: list[tuple[str, str]] = []
    learned = True
    if not isinstance(result, Reconstruction):
        path = Path(result)
        if path.is_file() and is_reconstruction(path):
            result = Reconstruction.load(path)
        else:
            result, learned = _of_run(path, scan, device, execution, facts)
    facts += _changes(scan, result)
    with process_settings(execution or ExecutionConfig()):
        residuals = measure_residuals(scan, result)
        _log.info("%s: loss over noise floor %.2f", scan.name, residuals.ratio)
        found = run_experiments(scan, result, residuals, checked)
    causes = rank_causes(found, checked, learned)
    return Diagnosis(
        name=scan.name,
        causes=causes,
        residuals=residuals,
        experiments=found,
        findings=checked.findings,
        facts=tuple(facts),
        seconds=time.perf_counter() - began,
    )


def _of_run(
    path: Path,
    scan: Scan,
    device: str | torch.device,
    execution: ExecutionConfig | None,
    facts: list[tuple[str, str]],
) -> tuple[Reconstruction, bool]:
    """What a training makes of a scan, and whether it refined the probe; adds what is known of the training."""
    model, config = load_bundle(path)
    if execution is not None:
        config = dataclasses.replace(config, execution=execution)
    info = bundle_info(path)
    losses = ", ".join(f"{name} {info[name]:.3g}" for name in ("train_loss", "val_loss") if name in info)
    if "epochs" in info:
        facts.append(("training", f"{info['epochs']} epochs{', ' + losses if losses else ''}"))
    result = reconstruct(model, scan, config, resolve_device(device), ALL)
    return result, model.illumination.lanes.requires_grad


def _changes(scan: Scan, result: Reconstruction) -> list[tuple[str, str]]:
    """How far probe and positions of a result are from those of the scan."""
    rows = []
    if result.probe is not None and result.probe.shape == scan.probe.shape:
        own, given = (_normalised(probe) for probe in (result.probe, scan.probe))
        correlation = float(np.abs(np.vdot(own, given)))
        rows.append(("probe", f"correlation with the scan's {correlation:.3f}"))
    if result.positions is not None and len(result.positions) == scan.n:
        moves = result.positions - scan.positions
        rms = float(np.sqrt(np.square(moves - moves.mean(0)).mean()))
        rows.append(("positions", f"moved by {rms:.2f} px rms" if rms > 0 else "as in the scan"))
    return rows


def _normalised(probe: NDArray[np.complex64]) -> NDArray[np.complex128]:
    return np.asarray(probe / np.linalg.norm(probe), np.complex128)
