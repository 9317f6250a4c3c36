# SPDX-License-Identifier: BSD-3-Clause
"""The checkpoint that a training run selects, also of an incomplete epoch, is the model of the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny, tiny_scan

from ptychopinn.persistence.bundle import is_bundle, load_bundle
from ptychopinn.persistence.checkpoint import MODEL_NAME, best_checkpoint, copy_chosen, load_checkpoint
from ptychopinn.training.workflow import train


@pytest.mark.parametrize(
    ("training", "name"),
    [({"epochs": 3}, "best.ckpt"), ({"epochs": 1, "minutes": 1e-5}, "cut.ckpt")],
    ids=["complete", "incomplete"],
)
def test_chosen_checkpoint_is_the_model_of_the_bundle(training: dict[str, Any], name: str, tmp_path: Path) -> None:
    run = train(tiny_scan(), tmp_path, tiny(training=training))
    assert run.checkpoint == tmp_path / "checkpoints" / name
    copied = copy_chosen(run.checkpoint, tmp_path)
    assert copied == best_checkpoint(tmp_path) == tmp_path / MODEL_NAME
    assert is_bundle(tmp_path / "wts.h5.zip") and not is_bundle(copied)
    bundled, kept = (model.state_dict() for model in (load_bundle(tmp_path)[0], load_checkpoint(copied)[0]))
    assert set(bundled) == set(kept) and all(torch.equal(bundled[key], kept[key]) for key in kept)


def test_without_checkpoints_none_is_chosen(tmp_path: Path) -> None:
    run = train(tiny_scan(), tmp_path, tiny(execution={"checkpoints": False}))
    assert run.checkpoint is None and best_checkpoint(tmp_path) is None
