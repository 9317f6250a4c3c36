# SPDX-License-Identifier: BSD-3-Clause
"""Results that state what is undefined: truths that are constant in part, real, of integers, or a placeholder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from situation import Situation, edit_npz, run

from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan


def with_truth(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Replace the truth of ``scan.npz``; ``result.h5`` is a reconstruction that equals the sound one."""

    def edit(folder: Path) -> None:
        scan = Scan.load(folder / "scan.npz")
        assert scan.truth is not None
        Reconstruction(scan.truth, np.ones(scan.truth.shape, np.float32), (0.0, 0.0)).save(folder / "result.h5")
        edit_npz(objectGuess=change)(folder)

    return edit


def flat_phase(truth: np.ndarray) -> np.ndarray:
    """A sample that absorbs alone, with a phase of its own, and with gaps."""
    amplitude = np.abs(truth)
    return np.where(amplitude < 0.9, 0, amplitude) * np.exp(1.1j, dtype=np.complex64)


def flat_amplitude(truth: np.ndarray) -> np.ndarray:
    """A sample that retards alone."""
    return np.exp(1j * np.angle(truth)).astype(np.complex64)


def tilted(truth: np.ndarray) -> np.ndarray:
    """A constant sample under a phase ramp."""
    return np.exp(0.05j * np.arange(truth.shape[1])) * np.ones_like(truth)


COMMAND = "evaluate result.h5 scan.npz --out metrics.json"
TABLE = [
    Situation(
        "constant phase", COMMAND, 0,
        (r"Pearson \d\.\d+ -", r"undefined \(constant phase of the truth\)", r"mean FRC 0\."),
        with_truth(flat_phase), row="27",
    ),
    Situation(
        "constant amplitude", COMMAND, 0, (r"Pearson - 1\.000", r"undefined \(constant amplitude of the truth\)"),
        with_truth(flat_amplitude), row="27",
    ),
    Situation(
        "constant but for a phase ramp", COMMAND, 0,
        ("Pearson - -", "mean FRC -", r"undefined \(constant amplitude and phase of the truth\)"),
        with_truth(tilted), row="27",
    ),
    Situation(
        "real truth", COMMAND, 0, (r"Pearson 1\.000 -", r"constant phase"), with_truth(np.abs), row="27",
    ),
    Situation(
        "truth of integers", COMMAND, 0, (r"Pearson 0\.99\d -|Pearson 1\.000 -", "constant phase"),
        with_truth(lambda truth: np.rint(200 * np.abs(truth)).astype(np.int32)), row="27",
    ),
    Situation(
        "truth (1, H, W)", COMMAND, 0, (r"Pearson 1\.000 1\.000",), with_truth(lambda truth: truth[np.newaxis]),
        unwanted="undefined", row="27",
    ),
    Situation(
        "truth (H, W, 1)", COMMAND, 0, (r"Pearson 1\.000 1\.000",), with_truth(lambda truth: truth[..., np.newaxis]),
        unwanted="undefined", row="27",
    ),
    Situation(
        "constant truth is not called absent", COMMAND, 2,
        ("needs a truth", "that of the scan is omitted: it is constant", "split-half"),
        with_truth(np.ones_like), unwanted="has none", row="27",
    ),
    Situation(
        "no truth", COMMAND, 2, ("needs a truth", "the scan has none", "split-half"),
        with_truth(lambda truth: None), unwanted="constant", row="27",  # type: ignore[arg-type, return-value]
    ),
]  # fmt: skip


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_truth(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)
    if situation.code == 0:
        metrics = json.loads((folder / "metrics.json").read_text())
        for part in ("amplitude", "phase"):
            constant = metrics["truth"][f"constant_{part}"]
            undefined = {name for name, value in metrics[part].items() if value is None}
            assert undefined == ({"pearson", "pearson_high_pass", "psnr_db", "ssim"} if constant else set())
        assert (folder / "result" / "comparison.png").exists() and (folder / "result" / "frc.png").exists()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_sample_of_simulate_is_evaluated(name: str) -> None:
    from ptychopinn.metrics.evaluate import evaluate

    scan = simulate(name, patterns=25, size=32)
    assert scan.truth is not None
    metrics = evaluate(Reconstruction(scan.truth, np.ones(scan.truth.shape, np.float32), (0.0, 0.0)), scan)
    json.dumps(metrics, allow_nan=False)
    for part in ("amplitude", "phase"):
        assert (metrics[part]["pearson"] is None) == metrics["truth"][f"constant_{part}"]
    assert metrics["frc"]["mean"] > 0.5


def test_few_photons_and_little_overlap_are_trained_on_with_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29, the report's commands."""
    monkeypatch.chdir(tmp_path)
    sample = "--object lines_amplitude --probe disk --patterns 100 --size 32 --step 19.2 --photons 10 --seed 27"
    assert run(f"simulate scan.npz {sample}") == 0
    training = "--epochs 2 --data.group_size 2 --data.validation_fraction 0.5 --execution.picture_every 1 --accept all"
    assert run(f"train scan.npz --out run --execution.accelerator cpu {training}") == 0
    assert "Traceback" not in "".join(capsys.readouterr())
    assert (tmp_path / "run" / "running" / "epoch-0002" / "phase.png").exists()
