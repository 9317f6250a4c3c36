# SPDX-License-Identifier: BSD-3-Clause
"""All steps of a user, each command in its own process: simulate, train, reconstruct, evaluate.

A short training of a small network on 64 patterns; the floors below leave margin under the worst of three seeds, and
an image without features scores 0 (see the control).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

# Seeds 1, 2, 3 gave amplitude 0.62, 0.52, 0.57 (high-passed 0.58, 0.50, 0.55) and phase 0.73, 0.72, 0.84 (high-passed
# 0.74, 0.77, 0.86).
FLOORS = {
    ("amplitude", "pearson"): 0.4,
    ("amplitude", "pearson_high_pass"): 0.4,
    ("phase", "pearson"): 0.6,
    ("phase", "pearson_high_pass"): 0.6,
}


def ptychopinn(folder: Path, command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ptychopinn.cli", *command.split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_from_simulation_to_figures(tmp_path: Path) -> None:
    ptychopinn(tmp_path, "simulate scan.npz --object dead_leaves --patterns 64 --seed 1")
    network = '--model.options={"steps":3,"width":8,"state":2}'
    training = "--epochs 3 --data.group_size 9 --training.batch_size 4 --training.learning_rate 5e-3"
    execution = "--execution.accelerator cpu --execution.progress false"
    ptychopinn(tmp_path, f"train scan.npz --out run {network} {training} {execution}")
    ptychopinn(tmp_path, "reconstruct run scan.npz --out recon.h5 --device cpu")
    quick = "--device cpu --refine.split_half false --refine.batch_size 16"
    ptychopinn(tmp_path, f"refine run scan.npz --out refined.h5 --iterations 10 {quick}")
    ptychopinn(tmp_path, "reconstruct run scan.npz --out both.h5 --device cpu --refine 10")
    printed = ptychopinn(tmp_path, "evaluate recon.h5 scan.npz --out metrics.json")

    expected = ["run/scan.png", "run/training.png"]
    expected += [f"recon/{name}.png" for name in ("amplitude", "phase", "comparison", "frc")]
    for name in expected:
        assert (tmp_path / name).stat().st_size > 10_000, name
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for (part, score), floor in FLOORS.items():
        assert metrics[part][score] > floor, (part, score)
    assert 0 < metrics["complex"]["nmse"] < 0.3 and metrics["frc"]["mean"] > 0.2
    assert f"{metrics['phase']['pearson']:.3f}" in printed

    scan, recon = Scan.load(tmp_path / "scan.npz"), Reconstruction.load(tmp_path / "recon.h5")
    for name in ("refined", "both"):
        better = evaluate(Reconstruction.load(tmp_path / f"{name}.h5"), scan)
        for part in ("amplitude", "phase"):
            assert better[part]["pearson_high_pass"] > metrics[part]["pearson_high_pass"] + 0.05, (name, part)
    constant = Reconstruction(np.ones_like(recon.object), recon.weights, recon.origin)
    control = evaluate(constant, scan)
    for (part, score), floor in FLOORS.items():
        assert abs(control[part][score]) < floor / 4, (part, score)
