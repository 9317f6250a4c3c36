# SPDX-License-Identifier: BSD-3-Clause
"""`ptychopinn.run`: equal to its parts, with and without stitching, from files and from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import same, tiny, tiny_scan

from ptychopinn import run
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import reconstruct
from ptychopinn.persistence.bundle import BUNDLE_NAME, load_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


def test_the_result_equals_that_of_its_parts(scan: Scan, tmp_path: Path) -> None:
    other = simulate("dead_leaves", patterns=25, size=32, photons=1e5, seed=4)
    amplitude, phase, results = run(scan, other, tiny(execution={"deterministic": True}))
    trained = train(scan, tmp_path / "run", tiny(execution={"deterministic": True}))
    expected = reconstruct(trained.model, other, trained.config)
    assert amplitude is not None and phase is not None
    np.testing.assert_array_equal(amplitude * np.exp(1j * phase), np.abs(expected.object) * np.exp(1j * expected.phase))
    assert amplitude.shape == results["reconstruction"].shape and amplitude.dtype == np.float32
    assert results["backend"] == "pytorch" and results["folder"] is None
    assert results["losses"] == trained.losses
    assert len(results["history"]["train_loss"]) == 2
    assert results["history"]["val_loss"][-1] == pytest.approx(results["losses"]["val_loss"])


def test_from_files_into_a_folder_without_stitching(scan: Scan, tmp_path: Path) -> None:
    scan.save(tmp_path / "scan.npz")
    amplitude, phase, results = run(
        str(tmp_path / "scan.npz"), config=tiny(execution={"logger": "none"}), stitch=False, out=tmp_path / "run"
    )
    assert amplitude is None and phase is None and results["history"] == {}
    assert results["prediction"].canvases.shape[0] > 0 and "reconstruction" not in results
    assert results["folder"] == tmp_path / "run"
    model, _ = load_bundle(tmp_path / "run" / BUNDLE_NAME)
    assert all((a == b).all() for a, b in zip(model.parameters(), results["model"].parameters(), strict=True))
    with pytest.raises(InputError, match="expected a folder without a trained model"):
        run(scan, config=tiny(), out=tmp_path / "run")


def test_runs_are_reproducible(scan: Scan) -> None:
    class Run:
        def __init__(self) -> None:
            self.model = run(scan, config=tiny(execution={"deterministic": True}))[2]["model"]

    assert same(Run(), Run())  # type: ignore[arg-type]


def test_another_backend_is_refused(scan: Scan) -> None:
    with pytest.raises(InputError, match="backend: expected 'pytorch', got 'tensorflow'; ptychopinn uses PyTorch only"):
        run(scan, backend="tensorflow")
