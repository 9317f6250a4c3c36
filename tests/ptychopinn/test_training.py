# SPDX-License-Identifier: BSD-3-Clause
"""Training: reproducible, changes the selected parameters only, and saves a complete run or none.

Scans and networks are as small as the generators allow; test_cycle.py tests the quality of a trained network.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Timer
from tiny_runs import same, tiny, tiny_scan

from ptychopinn.config import Config, TrainingConfig
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import predict
from ptychopinn.persistence.bundle import BUNDLE_NAME, load_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.optimiser import CompositeOptimizer
from ptychopinn.training.schedule import ProgressLR, progress_of
from ptychopinn.training.workflow import TrainedRun, train


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


@pytest.fixture(scope="module")
def first(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return train(scan, tmp_path_factory.mktemp("first") / "run", tiny())


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def state(run: TrainedRun) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def history(run: TrainedRun, column: str) -> list[float]:
    with (run.folder / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.usefixtures("deterministic")
def test_runs_are_bitwise_reproducible_and_depend_on_the_seed(scan: Scan, tmp_path: Path) -> None:
    config = tiny(execution={"deterministic": True}, data={"pool": 6})
    a, b = (train(scan, tmp_path / name, config) for name in "ab")
    assert same(a, b) and a.losses == b.losses
    assert (a.folder / "metrics.csv").read_bytes() == (b.folder / "metrics.csv").read_bytes()
    other = train(
        scan, tmp_path / "c", dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1))
    )
    assert not torch.equal(
        state(a)["generator.networks.0.enter.weight"], state(other)["generator.networks.0.enter.weight"]
    )


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
def test_training_lowers_the_loss(scan: Scan, tmp_path: Path, loss: str) -> None:
    run = train(scan, tmp_path, tiny(training={"loss": loss, "epochs": 12, "learning_rate": 5e-3}))
    losses = history(run, "train_loss")
    assert len(losses) == 12 and losses[-1] < 0.9 * losses[0]
    assert losses[-1] == pytest.approx(run.losses["train_loss"], rel=1e-5)


def test_folder_of_a_run_has_the_documented_files(first: TrainedRun) -> None:
    found = {str(path.relative_to(first.folder)) for path in first.folder.rglob("*") if path.is_file()}
    assert found == {
        *(BUNDLE_NAME, "config.yaml", "findings.json", "metrics.csv", "scan.png", "training.png"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    }


def test_resolved_configuration_is_saved(first: TrainedRun) -> None:
    assert Config.from_dict(yaml.safe_load((first.folder / "config.yaml").read_text())) == first.config == tiny()


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_load_safely_and_without_arguments(first: TrainedRun, scan: Scan, name: str) -> None:
    path = first.folder / "checkpoints" / f"{name}.ckpt"
    assert "state_dict" in torch.load(path, weights_only=True)
    module = PtychoModule.load_from_checkpoint(path)
    assert module.config == first.config
    assert module.model.patch_size == scan.patch_size
    if name == "best":
        assert all(torch.equal(value, state(first)[key]) for key, value in module.model.state_dict().items())


def test_bundle_equals_the_trained_model_bitwise(first: TrainedRun, scan: Scan) -> None:
    model, config = load_bundle(first.folder)
    assert config == first.config
    assert model.state_dict().keys() == state(first).keys()
    assert all(torch.equal(value, state(first)[key]) for key, value in model.state_dict().items())
    assert torch.equal(predict(model, scan, config).canvases, predict(first.model, scan, config).canvases)


@pytest.mark.parametrize(("probe", "scale"), [(True, False), (False, True)])
def test_only_learned_parameters_change(scan: Scan, tmp_path: Path, probe: bool, scale: bool) -> None:
    run = train(scan, tmp_path, tiny(model={"learn_probe": probe, "learn_scale": scale}))
    start = torch.from_numpy(scan.probe)
    unit = torch.linalg.vector_norm(start)
    lanes = torch.view_as_real(start / unit)
    assert torch.allclose(state(run)["illumination.lanes"], lanes, rtol=0, atol=1e-7) is not probe
    assert (float(state(run)["illumination.log_scale"]) == 0) is not scale
    assert float(state(run)["illumination.unit"]) == pytest.approx(float(unit))


@pytest.mark.parametrize("generator", ["unrolled", "unet", "cnn", "ffno", "sru_net"])
def test_every_parameter_of_a_generator_changes(scan: Scan, tmp_path: Path, generator: str) -> None:
    options = {
        "unrolled": {"steps": 3, "width": 8, "state": 2},
        "unet": {"width": 4},
        "cnn": {"width": 1},
        "ffno": {"width": 8, "layers": 2, "modes": 6},
        "sru_net": {"width": 4, "units": 2, "modes": 4},
    }[generator]
    config = tiny(model={"generator": generator, "options": options}, training={"epochs": 4})
    L.seed_everything(config.training.seed, verbose=False)
    start = PtychoModule(config.to_dict(), scan.patch_size).model.generator.state_dict()
    run = train(scan, tmp_path, config)
    still = [name for name, value in run.model.generator.state_dict().items() if torch.equal(value, start[name])]
    assert not still
    if generator == "unrolled":
        moved = {name: state(run)[f"generator.{name}"] - start[name] for name in ("step_size", "momentum.0")}
        assert all((change != 0).all() for change in moved.values())


def test_training_without_validation_groups(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path, tiny(data={"validation_fraction": 0}))
    assert set(run.losses) == {"train_loss"}
    assert (run.folder / "checkpoints" / "best.ckpt").exists()
    assert load_bundle(run.folder)[1].data.validation_fraction == 0


def test_all_probe_modes_are_trained(tmp_path: Path) -> None:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e5, modes=2)
    run = train(scan, tmp_path, tiny())
    model, _ = load_bundle(run.folder)
    assert model.modes == 2
    moved = model.illumination.probe.detach() - torch.from_numpy(scan.probe)
    assert (moved.abs().amax((-2, -1)) > 0).all()


@pytest.mark.parametrize(("photons", "loss"), [(1e3, "poisson"), (1e8, "poisson"), (1e8, "amplitude")])
def test_training_is_finite_at_any_dose(tmp_path: Path, photons: float, loss: str) -> None:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=photons)
    run = train(scan, tmp_path, tiny(training={"loss": loss}))
    assert all(0 < value < 10 for value in run.losses.values())
    assert all(torch.isfinite(value).all() for value in state(run).values())
    assert torch.isfinite(torch.view_as_real(predict(run.model, scan, run.config).canvases)).all()


def test_values_of_bad_pixels_are_ignored(scan: Scan, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), bool)
    mask[20, 5] = mask[16, 16] = True
    counts = scan.counts.astype(np.uint32)
    bright = counts.copy()
    bright[:, mask] = 10**7
    dark, hot = (
        train(dataclasses.replace(scan, counts=c, bad_pixels=mask), tmp_path / name, tiny())
        for name, c in (("dark", counts), ("hot", bright))
    )
    assert same(dark, hot) and dark.losses == hot.losses
    unmasked = train(dataclasses.replace(scan, counts=bright), tmp_path / "unmasked", tiny(), accept="all")
    assert unmasked.losses["train_loss"] > 10 * hot.losses["train_loss"]
    canvases = [
        predict(hot.model, dataclasses.replace(scan, counts=c, bad_pixels=mask), tiny()).canvases
        for c in (counts, bright)
    ]
    assert torch.equal(*canvases)


def schedule_of(**training: Any) -> ProgressLR:
    """A schedule of two rates, 1 and 0.1."""
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1.0, 0.1)]
    return ProgressLR(CompositeOptimizer([torch.optim.SGD(groups)]), TrainingConfig(**training))


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.0), ("exponential", 0.01)])
def test_the_learning_rate_rises_and_falls(kind: str, end: float, warmup: float) -> None:
    factor = schedule_of(schedule=kind, warmup=warmup).factor
    progress = np.linspace(0, 1, 201)
    values = np.array([factor(p) for p in progress])
    peak = int(values.argmax())
    assert progress[peak] == pytest.approx(warmup, abs=0.006) and values[peak] > 0.6
    assert 0 < values[0] < 0.02 or warmup == 0
    assert (np.diff(values[: peak + 1]) > 0).all() and (np.diff(values[peak:]) < 0).all()
    assert factor(0.5) == pytest.approx({"cosine": 0.5, "exponential": 0.1}[kind])
    assert factor(1.0) == factor(7.0) == pytest.approx(end)


def test_a_constant_rate_only_warms_up() -> None:
    factor = schedule_of(schedule="constant", warmup=0.1).factor
    assert factor(0.0) < 0.02 and factor(0.1) == factor(0.5) == factor(1.0) == 1


def test_rate_is_halved_on_a_plateau() -> None:
    schedule = schedule_of(schedule="plateau", warmup=0.0, patience=2)
    recorded = []
    for loss in (3.0, 2.0, 2.0, 2.5, 2.1, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        schedule.apply(0.5)
        schedule.end_epoch(loss)
        recorded.append([group["lr"] for group in schedule.optimizer.param_groups])
    factors = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert recorded == [[factor, 0.1 * factor] for factor in factors]
    resumed = schedule_of(schedule="plateau", warmup=0.0, patience=2, learning_rate=1.0)
    resumed.load_state_dict(schedule.state_dict())
    resumed.apply(0.5)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.125, 0.0125]


class Rates(L.Callback):
    """Record the rates of every step."""

    def __init__(self) -> None:
        self.recorded: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.recorded.append([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["cosine", "exponential", "plateau", "constant"])
def test_rate_of_every_step_follows_the_schedule(scan: Scan, tmp_path: Path, kind: str, accumulate: int) -> None:
    """Bitwise the peak rate times the factor at the fraction of completed steps, for every step."""
    options = {"schedule": kind, "warmup": 0.2, "epochs": 3, "accumulate": accumulate, "learning_rate": 0.01}
    rates = Rates()
    train(scan, tmp_path, tiny(training=options, model={"learn_positions": True}), callbacks=[rates])
    steps = len(rates.recorded)
    assert steps == 12 // accumulate
    for step, (network, probe, positions) in enumerate(rates.recorded):
        progress = step / steps
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "exponential": 0.01**progress}.get(kind, 1.0)
        factor = min(1.0, (progress + 1e-3) / (0.2 + 1e-3)) * fall
        assert (network, positions) == (0.01 * factor, 0.1 * factor)
        assert probe / factor == pytest.approx(rates.recorded[0][1] / rates.recorded[0][0] * 0.01)


def test_rates_are_logged_once_an_epoch(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path, tiny(training={"epochs": 3, "schedule": "constant", "warmup": 0}))
    assert history(run, "learning_rate/network") == [2e-3] * 3 and len(history(run, "learning_rate/probe")) == 3
    assert len(history(run, "train_loss")) == 3


def test_plateau_is_detected_in_a_training(scan: Scan, tmp_path: Path) -> None:
    """The steps are zero, so that the loss cannot fall after the first epoch."""
    rates = {"learning_rate": 1e-30, "schedule": "plateau", "patience": 1, "warmup": 0, "epochs": 5}
    config = tiny(training=rates, model={"learn_probe": False}, data={"validation_fraction": 0})
    rates_of_steps = Rates()
    run = train(scan, tmp_path, config, callbacks=[rates_of_steps])
    factors = [rate / 1e-30 for (rate,) in rates_of_steps.recorded]
    assert factors[:8] == [1.0] * 8 and factors[-4:] == [factors[-4]] * 4 and factors[-4] in (0.5, 0.25)
    (state,) = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"]
    assert state["reduced"] in (0.5, 0.25)


def test_progress_is_the_larger_of_steps_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    timer = Timer(timedelta(minutes=2), verbose=False)
    trainer: Any = SimpleNamespace(
        callbacks=[timer],
        strategy=SimpleNamespace(broadcast=lambda value: value),
        should_stop=False,
    )
    module: Any = None
    timer.on_train_start(trainer, module)
    for clock, progress in {100.0: 0.25, 160.0: 0.5, 220.0: 1.0}.items():  # noqa: B007
        assert progress_of(trainer, 25, 100) == pytest.approx(progress)
        timer.on_train_batch_end(trainer, module)
        assert trainer.should_stop is (progress == 1.0)
    resumed = Timer(timedelta(minutes=4), verbose=False)
    resumed.load_state_dict(timer.state_dict())
    trainer.callbacks = [resumed]
    resumed.on_train_start(trainer, module)
    assert progress_of(trainer, 25, 100) == pytest.approx(0.5)  # half of the time was used before


def test_a_time_limit_ends_a_long_run_and_saves_it(
    scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    with caplog.at_level(logging.INFO, logger="ptychopinn"):
        limits = {"epochs": 10_000, "minutes": 0.02}
        run = train(scan, tmp_path, tiny(training=limits, execution={"progress": True}))
    assert 1.2 <= time.monotonic() - start < 20
    epochs = [message for message in caplog.messages if message.startswith("epoch 1/10000: ")]
    assert epochs and " of 1 s, train_loss" in epochs[0]
    assert "ends after 10000 epochs or 0.02 min, whichever is first" in caplog.text
    assert 1 <= len(history(run, "train_loss")) < 10_000
    assert load_bundle(run.folder)[1].training.minutes == 0.02 and not run.interrupted


def test_a_short_time_limit_is_reported(scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(scan, tmp_path / "short", tiny(training={"epochs": 10, "minutes": 1e-4}))
    assert "the time limit ended the training after 1 of 10 epochs: --resume --minutes 0.0005 would" in caplog.text
    caplog.clear()
    train(scan, tmp_path / "whole", tiny(training={"epochs": 1, "minutes": 5}))
    assert "time limit" not in caplog.text


def test_divergence_is_reported_and_no_bundle_is_saved(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf) after step \d+; lower training.learning_rate"):
        train(scan, tmp_path, tiny(training={"learning_rate": 1e30}))
    assert not (tmp_path / BUNDLE_NAME).exists()


def test_earlier_run_is_replaced_only_on_request(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path, tiny(training={"epochs": 1}))
    before = (tmp_path / BUNDLE_NAME).read_bytes()
    with pytest.raises(
        InputError, match=r"expected a folder without a trained model, found wts\.h5\.zip.*--overwrite or --resume"
    ):
        train(scan, tmp_path, tiny(training={"seed": 1}))
    assert (tmp_path / BUNDLE_NAME).read_bytes() == before
    train(scan, tmp_path, tiny(training={"seed": 1}), overwrite=True)
    assert load_bundle(tmp_path)[1].training.seed == 1
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"group_size": 17}}, "a group of 17 needs a scan of at least 17 patterns, got 16"),
        ({"data": {"pool": 16}}, "pool must be from size - 1 = 3 to n - 1 = 15"),
        (
            {"model": {"generator": "transformer"}},
            "model.generator: must be one of cnn, ffno, sru_net, unet, unrolled, got 'transformer'",
        ),
        ({"model": {"options": {"depth": 3}}}, "model.options: 'unrolled' takes steps, .*, got depth"),
        ({"model": {"options": {"steps": 0}}}, "steps must be .*1, got 0"),
        ({"model": {"options": {"width": "wide"}}}, "model.options: 'unrolled' cannot be built from them"),
        ({"execution": {"accelerator": "abacus"}}, "accelerator must be auto, cpu or gpu, got 'abacus'"),
        ({"execution": {"devices": 0}}, "with devices 0 cannot be used"),
        ({"execution": {"strategy": "ddp"}}, "execution.strategy: 'ddp' takes several processes, and this is one"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(
    scan: Scan, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(scan, tmp_path / "run", tiny(**sections))
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_created_is_reported(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file/run: expected a folder that can be made, found: Not a directory"):
        train(scan, tmp_path / "file" / "run", tiny())


def _interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, times: int = 1) -> None:
    original: Callable[..., torch.Tensor] = PtychoModule.training_step

    def training_step(self: PtychoModule, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return original(self, batch, batch_index)

    monkeypatch.setattr(PtychoModule, "training_step", training_step)


def test_an_interrupted_training_is_saved(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_in_step(monkeypatch, step=5)
    handler = signal.getsignal(signal.SIGINT)
    run = train(scan, tmp_path, tiny(training={"epochs": 1000}))
    assert run.interrupted and signal.getsignal(signal.SIGINT) is handler
    assert "val_loss" in run.losses
    model, _ = load_bundle(tmp_path)
    assert (model.state_dict()["generator.step_size"] != 1).all()


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_second_interrupt_ends_at_once(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    """Also in a background process, which starts with a handler that ignores interrupts."""
    _interrupt_in_step(monkeypatch, step=5, times=2)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(scan, tmp_path, tiny(training={"epochs": 1000}))
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / BUNDLE_NAME).exists()


def test_an_interrupt_before_the_first_step_saves_nothing(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PtychoModule, "on_fit_start", lambda self: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(scan, tmp_path, tiny(training={"epochs": 1000}))
    assert not (tmp_path / BUNDLE_NAME).exists()
