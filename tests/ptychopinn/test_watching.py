# SPDX-License-Identifier: BSD-3-Clause
"""Monitoring of a training: loggers, figures of running trainings, early stopping, optional checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_runs import rows, same, tiny, tiny_scan

from ptychopinn.errors import InputError
from ptychopinn.persistence.bundle import BUNDLE_NAME, load_bundle
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_figures_are_drawn_and_do_not_change_the_training(scan: Scan, tmp_path: Path) -> None:
    runs = [
        train(
            scan,
            tmp_path / name,
            tiny(training={"epochs": 4}, data={"pool": 6}, execution={"picture_every": every, "deterministic": True}),
        )
        for name, every in (("with", 2), ("without", None))
    ]
    assert same(*runs)
    assert names(tmp_path / "with" / "running") == {"epoch-0002", "epoch-0004"}
    assert {"amplitude.png", "phase.png"} <= names(tmp_path / "with" / "running" / "epoch-0004")
    assert not (tmp_path / "without" / "running").exists()
    again = tiny(training={"epochs": 1}, execution={"picture_every": 1})
    train(scan, tmp_path / "with", again, overwrite=True)
    assert names(tmp_path / "with" / "running") == {"epoch-0001"}  # without those of the replaced run


@pytest.mark.parametrize("failing", ["reconstruct", "plot_reconstruction"])
def test_picture_that_fails_does_not_end_the_training(
    failing: str, scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("ARPACK error -1: no convergence")

    monkeypatch.setattr(f"ptychopinn.training.pictures.{failing}", fail)
    run = train(scan, tmp_path / "run", tiny(training={"epochs": 2}, execution={"picture_every": 1}))
    assert load_bundle(run.folder)[0].training is False and len(rows(run)) >= 2
    warned = [record.getMessage() for record in caplog.records if "ARPACK" in record.getMessage()]
    assert len(warned) == 2 and all("the training continues" in line or "not drawn" in line for line in warned)


def test_training_without_improvement_stops_early(scan: Scan, tmp_path: Path) -> None:
    slow = {"epochs": 12, "learning_rate": 1e-12, "probe_step": 1e-12, "schedule": "constant"}
    run = train(scan, tmp_path / "run", tiny(training=slow, execution={"early_stopping": 2}))
    losses = [float(row["val_loss"]) for row in rows(run) if row["val_loss"]]
    assert len(losses) < 12
    full = train(scan, tmp_path / "all epochs", tiny(training={**slow, "epochs": 5}))
    assert len([row for row in rows(full) if row["val_loss"]]) == 5


def test_without_checkpoints_the_last_step_is_saved_and_nothing_can_be_resumed(scan: Scan, tmp_path: Path) -> None:
    kept = train(scan, tmp_path / "kept", tiny(training={"epochs": 1}, execution={"deterministic": True}))
    options = {"checkpoints": False, "deterministic": True}
    run = train(scan, tmp_path / "run", tiny(training={"epochs": 1}, execution=options))
    assert not (run.folder / "checkpoints").exists() and (run.folder / BUNDLE_NAME).exists()
    assert same(run, kept)
    with pytest.raises(InputError, match="expected a run to resume"):
        train(scan, tmp_path / "run", tiny(), resume=True)


def test_without_a_logger_no_table_or_curve_is_written(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path / "run", tiny(execution={"logger": "none"}))
    assert not names(run.folder) & {"metrics.csv", "training.png"}
    assert run.losses["train_loss"] > 0 and load_bundle(run.folder)[1].execution.logger == "none"


def test_tensorboard_is_written_in_addition_to_the_table(scan: Scan, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(scan, tmp_path / "run", tiny(execution={"logger": "tensorboard"}))
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("train_loss")]
    assert written == pytest.approx([float(row["train_loss"]) for row in rows(run) if row["train_loss"]])


def test_mlflow_is_written_in_addition_to_the_table(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train(scan, tmp_path / "run", tiny(execution={"logger": "mlflow"}))
    client = mlflow.MlflowClient(f"sqlite:///{run.folder / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("ptychopinn").experiment_id])
    assert found.info.run_name == "run" and found.data.params["training/epochs"] == "2"
    written = [metric.value for metric in client.get_metric_history(found.info.run_id, "train_loss")]
    assert written == pytest.approx([float(row["train_loss"]) for row in rows(run) if row["train_loss"]])


@pytest.mark.parametrize(("logger", "name"), [("tensorboard", "TensorBoardLogger"), ("mlflow", "MLFlowLogger")])
def test_logger_without_its_package_is_refused_before_anything_is_written(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, name: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError(f"No module named {logger!r}")

    monkeypatch.setattr(sys.modules["ptychopinn.training.loggers"], name, refuse)
    with pytest.raises(InputError, match=r"execution.logger: '\w+' needs its package: pip install 'ptychopinn\[log"):
        train(scan, tmp_path / "run", tiny(execution={"logger": logger}))
    assert not (tmp_path / "run").exists()


def test_refused_training_keeps_an_earlier_run(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path / "run", tiny())
    before = {
        path.name: path.read_bytes() for path in run.folder.rglob("*") if path.suffix in (".ckpt", ".csv", ".yaml")
    }
    for data in ({"pool": 9, "validation": "region"}, {"max_distance": 1e-3}):
        with pytest.raises(InputError):
            train(scan, tmp_path / "run", tiny(data=data), overwrite=True)
    after = {
        path.name: path.read_bytes() for path in run.folder.rglob("*") if path.suffix in (".ckpt", ".csv", ".yaml")
    }
    assert before == after and len(before) >= 4


def test_replaced_run_leaves_no_table(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path / "run", tiny())
    silent = tiny(execution={"logger": "none"}, training={"epochs": 1})
    train(scan, tmp_path / "run", silent, overwrite=True)
    assert not names(tmp_path / "run") & {"metrics.csv", "training.png"}


def test_run_with_a_table_is_resumed_without_one(scan: Scan, tmp_path: Path) -> None:
    full = train(scan, tmp_path / "uninterrupted", tiny(training={"epochs": 3, "schedule": "constant"}))
    options = {"training": {"epochs": 2, "schedule": "constant"}}
    train(scan, tmp_path / "run", tiny(**options))
    options["training"]["epochs"] = 3
    run = train(scan, tmp_path / "run", tiny(**options, execution={"logger": "none"}), resume=True)
    assert run.losses["train_loss"] == pytest.approx(full.losses["train_loss"], rel=1e-4)


def test_validation_groups_stay_the_same_in_a_resumed_run(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path / "run", tiny(data={"validation": "region"}, training={"epochs": 1}))
    with pytest.raises(InputError, match=r"expected a checkpoint with data.validation 'scattered', found 'region'"):
        train(scan, tmp_path / "run", tiny(training={"epochs": 2}), resume=True)
