# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong in ptychodus is an error that it shows, with exit code 1 and a sentence that names it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ptychodus.api", reason="ptychodus is not installed: make ptychodus")
pytest.importorskip("ptychopinn_ptychodus", reason="not installed: pip install --no-deps ./integrations/ptychodus")

import numpy as np
from staged import CASES, Case, ptychodus, write

from ptychopinn.config import Config
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train

SMALL = replace(CASES[0], epochs=1)
ROUTES = ("ptychopinn-torch_unsupervised", "ptychopinn_network")
NO_MODEL = r"InputError: .*model.ckpt: expected a checkpoint of ptychopinn, found another or damaged"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for patterns of 32 pixels."""
    folder = tmp_path_factory.mktemp("model")
    write(SMALL, folder, ROUTES[1])
    config = Config.load(overrides={"training.epochs": 1, "data.group_size": 1, "execution.picture_every": None})
    train(Scan.load(folder / "train"), folder / "run", config)
    return folder / "run" / "checkpoints" / "best.ckpt"


def text(path: Path, _: Path) -> None:
    path.write_text("no checkpoint")


def another_zip(path: Path, _: Path) -> None:
    np.savez(path.with_suffix(".npz"), weights=np.ones(3))
    path.with_suffix(".npz").rename(path)


def cut_short(path: Path, model: Path) -> None:
    path.write_bytes(model.read_bytes()[:20_000])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ROUTES)
@pytest.mark.parametrize(
    ("case", "put", "sentence"),
    [
        (SMALL, None, "no model checkpoint has been loaded|expected a trained model .*found none"),
        (SMALL, text, NO_MODEL),
        (
            SMALL,
            another_zip,
            NO_MODEL,
        ),
        (SMALL, cut_short, NO_MODEL),
        (
            replace(SMALL, size=48),
            shutil.copy,
            r"InputError: .*patterns must be 32 x 32 pixels as in the model's training, got 48 x 48",
        ),
    ],
    ids=["missing", "text", "zip", "damaged", "size"],
)
def test_a_model_that_does_not_fit(
    algorithm: str, case: Case, put: Callable[[Path, Path], None] | None, sentence: str, model: Path, tmp_path: Path
) -> None:
    write(case, tmp_path, algorithm)
    target = tmp_path / "infer" / "model.ckpt"
    if put is shutil.copy:
        shutil.copy(model, target)
    elif put is not None:
        put(target, model)
    check(*ptychodus(tmp_path, "reconstruct", "infer", "result"), "Reconstruction failed", sentence)
    assert not list((tmp_path / "result").glob("*.h5"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "setting", "sentence"),
    [
        (ROUTES[0], "[PtychoPINNTorchData]\nmodel_size = 64", "expected patterns of 64 px, the model size in the"),
        (ROUTES[0], "[PtychoPINNTorchTraining]\nlearning_rate = -1", "training.learning_rate must be positive"),
        (ROUTES[1], "[PtychoPINNNetworkData]\nneighbours = all", "data.neighbours must be nearest or quadrants, got"),
        (ROUTES[1], "[PtychoPINNNetworkData]\ngroup_size = 5000", "group_size"),
    ],
)
def test_a_setting_that_does_not_fit(algorithm: str, setting: str, sentence: str, tmp_path: Path) -> None:
    write(SMALL, tmp_path, algorithm)
    section, line = setting.split("\n")
    path = tmp_path / "train" / "settings.ini"
    key = line.split(" = ")[0]
    kept = [known for known in path.read_text().splitlines() if not known.startswith(f"{key} ")]
    kept.insert(kept.index(section) + 1, line)
    path.write_text("\n".join(kept))
    check(*ptychodus(tmp_path, "train", "train", "trained"), "Training failed", f"InputError: .*{sentence}")
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_training_data_that_is_none(tmp_path: Path) -> None:
    write(SMALL, tmp_path, ROUTES[0])
    (tmp_path / "train" / "train_data.npz").write_text("no scan")
    check(*ptychodus(tmp_path, "train", "train", "trained"), "Training failed", "InputError: .*train_data.npz: ")


def check(code: int, log: str, failed: str, sentence: str) -> None:
    """ptychodus failed, with this sentence in its log."""
    assert code == 1 and failed in log, log
    report = log[log.index(failed) :]
    assert re.search(sentence, report), report
