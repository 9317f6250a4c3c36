# SPDX-License-Identifier: BSD-3-Clause
"""Training and reconstruction on a GPU, against the same on the CPU where that is meaningful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")

import ptychopinn as pp
from ptychopinn.runtime.graphs import Captured

pytestmark = pytest.mark.gpu


def test_train_on_the_gpu_and_reconstruct_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # its 10 bits are not the CPU's 23
    scan = pp.simulate("dead_leaves", patterns=64, seed=1)
    settings = {
        "model": {"options": {"steps": 3, "width": 8, "state": 2}},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 5e-3},
        "execution": {"accelerator": "gpu", "devices": 1, "progress": False},
    }
    run = pp.train(scan, tmp_path / "run", pp.Config.from_dict(settings))
    on_gpu = pp.reconstruct(run.model, scan, run.config, "cuda")
    on_cpu = pp.reconstruct(run.model, scan, run.config, "cpu")
    assert on_gpu.object.shape == on_cpu.object.shape and np.ptp(np.abs(on_gpu.object)) > 0.1
    assert np.linalg.norm(on_gpu.object - on_cpu.object) < 0.01 * np.linalg.norm(on_cpu.object)
    assert pp.evaluate(on_gpu, scan)["amplitude"]["pearson"] > 0.4


@pytest.mark.parametrize("resident", [True, False])
def test_replayed_steps_are_those_that_are_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool
) -> None:
    """The first epoch, before rounding is amplified; with everything that is learned, and an average."""
    scan = pp.simulate("dead_leaves", patterns=144, seed=1)
    settings = {
        "model": {"options": {"steps": 2, "width": 8, "state": 2}, "learn_positions": True, "learn_scale": True},
        "training": {"epochs": 1, "batch_size": 1, "average": 0.9},
        "execution": {"accelerator": "gpu", "devices": 1, "progress": False, "checkpoints": False},
    }
    monkeypatch.setattr("ptychopinn.batches.datamodule.fits_on", lambda *_: resident)
    captures: list[str] = []
    capture = Captured._capture
    monkeypatch.setattr(Captured, "_capture", lambda self: captures.append(self.name) or capture(self))
    replayed = pp.train(scan, tmp_path / "replayed", pp.Config.from_dict(settings))
    assert "the training step" in captures
    monkeypatch.setattr("ptychopinn.runtime.graphs._WARM_UP", 10**9)
    eager = pp.train(scan, tmp_path / "eager", pp.Config.from_dict(settings))
    for name, loss in eager.losses.items():
        assert replayed.losses[name] == pytest.approx(loss, rel=1e-3)
