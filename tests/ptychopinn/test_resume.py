# SPDX-License-Identifier: BSD-3-Clause
"""Resumed runs equal uninterrupted ones bitwise; runs that cannot be resumed are reported."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import rows, same, tiny, tiny_scan

from ptychopinn.errors import InputError
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import read_config, train


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


EVERYTHING: dict[str, dict[str, Any]] = {
    "data": {"pool": 6},
    "model": {"learn_positions": True, "learn_scale": True},
    "training": {
        **{"average": 0.9, "accumulate": 2, "total_variation": 0.01},
        # At this rate the loss rises, so that the plateaus and the best epoch must be restored.
        **{"schedule": "plateau", "patience": 1, "learning_rate": 0.05},
    },
    "execution": {"deterministic": True},
}


@pytest.mark.parametrize(
    "sections", [{"execution": {"deterministic": True}}, EVERYTHING], ids=["default", "everything"]
)
@pytest.mark.parametrize("stop", ["interrupt", "crash"])
def test_resumed_run_equals_an_uninterrupted_one(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], stop: str
) -> None:
    config = tiny(**{**sections, "training": {**sections.get("training", {}), "epochs": 5}})
    uninterrupted = train(scan, tmp_path / "uninterrupted", config)
    step = PtychoModule.training_step
    steps = 0

    def training_step(self: PtychoModule, batch: Any, batch_index: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if self.current_epoch == 3 and batch_index == 1:
            if stop == "crash":
                raise OSError("the power went out")
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(PtychoModule, "training_step", training_step)
        if stop == "crash":
            with pytest.raises(OSError, match="power"):
                train(scan, tmp_path / "stopped", config)
        else:
            assert train(scan, tmp_path / "stopped", config).interrupted
        done = steps
        patch.setattr(PtychoModule, "training_step", step)
        resumed = train(scan, tmp_path / "stopped", config, resume=True)
    assert same(uninterrupted, resumed) and uninterrupted.losses == resumed.losses
    assert not resumed.interrupted and done > 2
    assert [row["train_loss"] for row in rows(resumed) if row["train_loss"]][-1] == rows(uninterrupted)[-1][
        "train_loss"
    ]
    assert len({row["epoch"] for row in rows(resumed)} - {""}) == 5


def test_finished_run_is_resumed_with_more_epochs(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path, tiny())
    run = train(scan, tmp_path, tiny(training={"epochs": 3}), resume=True)
    assert len({row["epoch"] for row in rows(run)} - {""}) == 3 and read_config(tmp_path).training.epochs == 3


def test_resumed_run_has_the_rates_of_its_configuration(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path, tiny(execution={"deterministic": True}))
    still = {"learning_rate": 1e-60, "probe_step": 1e-30, "epochs": 4}  # which moves no weight, not even a zero
    before = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    train(scan, tmp_path, tiny(training=still, execution={"deterministic": True}), resume=True)
    after = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    # The momentum of the probe decays; the network does not change.
    for name in before:
        if name.startswith("model.generator"):
            assert torch.equal(before[name], after[name]), name


def test_incomplete_epoch_is_saved_and_repeated_when_resumed(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its validation loss is the lowest: the resumed run must repeat the epoch."""
    config = tiny(training={"epochs": 4}, execution={"deterministic": True})
    uninterrupted = train(scan, tmp_path / "uninterrupted", config)
    step, validate = PtychoModule.training_step, PtychoModule.validation_step

    def training_step(self: PtychoModule, batch: Any, batch_index: int) -> torch.Tensor:
        if self.current_epoch == 2 and batch_index == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    def validation_step(self: PtychoModule, batch: Any, batch_index: int) -> None:
        if self.current_epoch == 2:
            self.log("val_loss", torch.tensor(-1.0), prog_bar=True, batch_size=batch.size, sync_dist=True)
        else:
            validate(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(PtychoModule, "training_step", training_step)
        patch.setattr(PtychoModule, "validation_step", validation_step)
        stopped = train(scan, tmp_path / "stopped", config)
    cut = torch.load(tmp_path / "stopped" / "checkpoints" / "cut.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, cut[f"model.{name}"]) for name, value in stopped.model.state_dict().items())
    assert same(uninterrupted, train(scan, tmp_path / "stopped", config, resume=True))
    assert not (tmp_path / "stopped" / "checkpoints" / "cut.ckpt").exists()


def test_overwritten_run_leaves_nothing_to_resume(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(scan, tmp_path, tiny())
    step = PtychoModule.training_step

    def training_step(self: PtychoModule, batch: Any, batch_index: int) -> torch.Tensor:
        if self.current_epoch == 0 and batch_index == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)
    assert train(scan, tmp_path, tiny(training={"seed": 2}), overwrite=True).interrupted
    with pytest.raises(InputError, match="written after the first complete epoch"):
        train(scan, tmp_path, tiny(training={"seed": 2}), resume=True)


def test_moved_folder_is_resumed(scan: Scan, tmp_path: Path) -> None:
    first = train(scan, tmp_path / "here", tiny())
    (tmp_path / "here").rename(tmp_path / "there")
    again = train(scan, tmp_path / "there", tiny(), resume=True)
    assert same(first, again) and again.losses == pytest.approx(first.losses)


def test_time_limit_reached_before_the_first_step_is_reported(scan: Scan, tmp_path: Path) -> None:
    config = tiny(training={"minutes": 1e-9, "accumulate": 50})
    with pytest.raises(InputError, match=r"no step was made; allow more training\.minutes"):
        train(scan, tmp_path, config)


def test_run_that_cannot_be_resumed_is_reported(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: not found; expected the folder of a run, with its config\.yaml"):
        read_config(tmp_path / "none")
    train(scan, tmp_path / "run", tiny())
    for section, message in (
        ({"options": {"steps": 3, "width": 8, "state": 2}}, "expected a checkpoint with model .*steps': 3"),
        ({"learn_scale": True}, "expected a checkpoint with model .*learn_scale=True"),
    ):
        with pytest.raises(InputError, match=message):
            train(scan, tmp_path / "run", tiny(model=section), resume=True)
    with pytest.raises(InputError, match="expected a checkpoint with patterns 9, found 16"):
        train(scan.subset(range(9)), tmp_path / "run", tiny(), resume=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="expected a checkpoint of ptychopinn, found another or damaged file"):
        train(scan, tmp_path / "run", tiny(), resume=True)
