# SPDX-License-Identifier: BSD-3-Clause
"""Another library in the process may set torch's default device and type: files, figures and reports do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ptychopinn.inspection import inspect_scan
from ptychopinn.metrics.evaluate import align_to_scan, evaluate
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.plotting.scans import plot_scan_overview
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

SCAN = replace(simulate(patterns=64, size=32), pixel_size=1e-8)
assert SCAN.truth is not None
RESULT = Reconstruction(
    SCAN.truth, np.ones(SCAN.truth.shape, np.float32), (0.0, 0.0), SCAN.probe, positions=SCAN.positions, pixel_size=1e-8
)
REPORT = inspect_scan(SCAN, orientation=False).to_dict()


@pytest.fixture(autouse=True, params=["meta", "float64"])
def global_settings_of_another_library(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["scan.npz", "scan.cxi", "scan.ptyd", "scan.nxs", "pair"])
def test_scans_are_written_and_read(name: str, tmp_path: Path) -> None:
    SCAN.save(tmp_path / name, "ptychodus" if name == "pair" else "auto")
    for memory in ("load", "stored") if name == "scan.cxi" else ("load",):
        loaded = Scan.load(tmp_path / name, memory=memory)
        assert np.array_equal(loaded.counts[:], SCAN.counts) and loaded.probe.dtype == np.complex64


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_reconstructions_are_written_and_read(suffix: str, tmp_path: Path) -> None:
    loaded = Reconstruction.load(RESULT.save(tmp_path / f"r{suffix}"))
    assert loaded.object.dtype == np.complex64 and np.array_equal(loaded.object, RESULT.object)


def test_figures_and_scores_are_made(tmp_path: Path) -> None:
    aligned = align_to_scan(RESULT, SCAN)
    assert all(path.exists() for path in plot_reconstruction(RESULT, tmp_path, aligned=aligned))
    assert plot_scan_overview(SCAN, tmp_path / "scan.png")[0].exists()
    assert evaluate(RESULT, SCAN, aligned=aligned)["frc"]["mean"] > 0.99


def test_an_inspection_is_the_same() -> None:
    assert inspect_scan(SCAN, orientation=False).to_dict() == REPORT
