# SPDX-License-Identifier: BSD-3-Clause
"""Options of a training: resuming, beginning with another model, several scans, positions, priors, labels, precision.

Every option that is trained must move, and what is stopped and resumed must end where it would have ended.
"""

from __future__ import annotations

import csv
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ext import extract_patches
from ptychopinn.config import Config
from ptychopinn.data.scan import Scan
from ptychopinn.errors import InputError
from ptychopinn.inference.bundle import load_bundle
from ptychopinn.inference.predict import choose_positions, predict, reconstruct
from ptychopinn.physics.likelihood import LOSSES
from ptychopinn.physics.positions import REACH, PositionOffsets
from ptychopinn.physics.priors import supervised_loss, total_variation
from ptychopinn.physics.propagation import diffract
from ptychopinn.physics.simulate import simulate
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import TrainedRun, read_config, train


def tiny(**sections: dict[str, Any]) -> Config:
    values: dict[str, dict[str, Any]] = {
        "data": {"group_size": 4},
        "model": {"options": {"steps": 2, "width": 8, "state": 2}},
        "training": {"epochs": 2, "batch_size": 4},
        "execution": {"accelerator": "cpu", "threads": 1, "progress": False},
    }
    for name, section in sections.items():
        values.setdefault(name, {}).update(section)
    return Config.from_dict(values)


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=3)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def same(a: TrainedRun, b: TrainedRun) -> bool:
    first, second = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def rows(run: TrainedRun) -> list[dict[str, str]]:
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# Resuming.

EVERYTHING: dict[str, dict[str, Any]] = {
    "data": {"pool": 6},
    "model": {"learn_positions": True, "learn_scale": True},
    "training": {"epochs": 4, "average": 0.9, "accumulate": 2, "total_variation": 0.01, "schedule": "plateau"},
    "execution": {"deterministic": True},
}


@pytest.mark.parametrize(
    "sections", [{"execution": {"deterministic": True}}, EVERYTHING], ids=["default", "everything"]
)
@pytest.mark.parametrize("stop", ["interrupt", "crash"])
def test_a_resumed_run_ends_where_it_would_have_ended(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], stop: str
) -> None:
    config = tiny(**{**sections, "training": {**sections.get("training", {}), "epochs": 4}})
    whole = train(scan, tmp_path / "whole", config)
    step = PtychoModule.training_step
    steps = 0

    def training_step(self: PtychoModule, batch: Any, batch_index: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if self.current_epoch == 2 and batch_index == 1:
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
    assert same(whole, resumed) and whole.losses == resumed.losses
    assert not resumed.interrupted and done > 2
    assert [row["train_loss"] for row in rows(resumed) if row["train_loss"]][-1] == rows(whole)[-1]["train_loss"]
    assert len({row["epoch"] for row in rows(resumed)}) == 4


def test_a_finished_run_goes_on_with_more_epochs(scan: Scan, tmp_path: Path) -> None:
    train(scan, tmp_path, tiny())
    run = train(scan, tmp_path, tiny(training={"epochs": 3}), resume=True)
    assert len({row["epoch"] for row in rows(run)}) == 3 and read_config(tmp_path).training.epochs == 3


def test_what_cannot_be_resumed_is_said(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a run to resume, with checkpoints/last\.ckpt, found none"):
        train(scan, tmp_path / "none", tiny(), resume=True)
    with pytest.raises(InputError, match=r"expected the folder of a run, with config\.yaml, found none"):
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


# Beginning with another model.


def test_fine_tuning_begins_with_the_network_and_the_scans_own_probe(scan: Scan, tmp_path: Path) -> None:
    first = train(scan, tmp_path / "first", tiny())
    other = dataclasses.replace(scan, probe=(scan.probe * 0.5).astype(np.complex64))
    still = {"learning_rate": 1e-30, "probe_step": 1e-30, "epochs": 1}
    run = train(other, tmp_path / "tuned", tiny(training=still), start=load_bundle(tmp_path / "first")[0])
    for name, value in first.model.generator.state_dict().items():
        assert torch.equal(value, run.model.generator.state_dict()[name]), name
    torch.testing.assert_close(run.model.illumination.probe.detach(), torch.from_numpy(other.probe))
    config = tiny(training=still, inference={"probe": "model"})
    run = train(other, tmp_path / "model", config, start=first.model)
    learned = first.model.illumination.probe.detach()
    scaled = learned * torch.linalg.vector_norm(torch.from_numpy(other.probe)) / torch.linalg.vector_norm(learned)
    torch.testing.assert_close(run.model.illumination.probe.detach(), scaled)


def test_another_network_cannot_be_begun_with(scan: Scan, tmp_path: Path) -> None:
    first = train(scan, tmp_path / "first", tiny(training={"epochs": 1}))
    options = {"options": {"steps": 2, "width": 4, "state": 2}}
    with pytest.raises(InputError, match="has another network than"):
        train(scan, tmp_path / "tuned", tiny(model=options), start=first.model)
    modes = simulate("dead_leaves", patterns=16, size=32, photons=1e5, modes=2)
    with pytest.raises(InputError, match=r"expected a probe of shape \(1, 32, 32\) as in the model to begin with"):
        train(modes, tmp_path / "tuned", tiny(inference={"probe": "model"}), start=first.model)


# Several scans.


def test_several_scans_are_trained_on_together(scan: Scan, tmp_path: Path) -> None:
    other = simulate("lines", patterns=12, size=32, photons=2e5, seed=4)
    run = train([scan, other], tmp_path, tiny())
    assert all(
        torch.isfinite(torch.view_as_real(predict(run.model, s, run.config).canvases)).all() for s in (scan, other)
    )
    alone = train(scan, tmp_path / "alone", tiny())
    assert not same(run, alone)


def test_scans_that_do_not_go_together_are_refused(scan: Scan, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), bool)
    mask[3, 4] = True
    for other, message in (
        (simulate("lines", patterns=12, size=32, modes=2), r"must have probes of one shape, got \(2, 32, 32\)"),
        (simulate("lines", patterns=12, size=32, probe="disk"), r"must have one probe \(up to its scale\).*differs by"),
        (dataclasses.replace(scan, bad_pixels=mask), "must have one mask of bad pixels"),
    ):
        with pytest.raises(InputError, match=message):
            train([scan, other], tmp_path / "run", tiny())
    with pytest.raises(InputError, match="at least one scan, got none"):
        train([], tmp_path / "run", tiny())
    assert not (tmp_path / "run").exists()


# Positions.


def test_positions_move_and_are_used_for_their_own_scan_only(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path, tiny(model={"learn_positions": True}))
    model, config = load_bundle(tmp_path)
    assert model.positions is not None and model.patterns == 16
    offsets = model.positions.offsets.detach()
    assert (offsets.abs().amax(1) > 0).all() and offsets.mean(0).abs().max() < 1e-6
    refined = choose_positions(model, scan, "auto")
    np.testing.assert_allclose(refined.positions, scan.positions + offsets.numpy())
    assert choose_positions(model, scan, "scan") is scan
    other = scan.subset(range(12))
    assert choose_positions(model, other, "auto") is other
    np.testing.assert_array_equal(reconstruct(run.model, scan, config).positions, refined.positions)
    assert train(scan, tmp_path / "fixed", tiny()).model.positions is None


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_gradients_lead_wrong_positions_back(loss: str) -> None:
    """With the true object: the physics alone, without a network that could make up for them."""
    scan = simulate("dead_leaves", patterns=16, size=32, step=(5, 4), jitter=0, photons=1e6, noise=False, seed=5)
    counts = torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(-2, -1)).astype(np.float32))
    true, truth = torch.from_numpy(scan.positions), torch.from_numpy(scan.truth)[None]
    wrong = torch.randn(true.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.7
    wrong -= wrong.mean(0)
    learned, members = PositionOffsets(16), torch.arange(16)[None]
    optimiser = torch.optim.Adam(learned.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        positions = learned((true + wrong)[None], members)
        predicted = diffract(extract_patches(truth, positions, 32), torch.from_numpy(scan.probe))
        LOSSES[loss](predicted[0], counts, None).backward()
        optimiser.step()
    left = (wrong + learned.offsets.detach()).pow(2).mean().sqrt()
    assert left < 0.05 < 0.5 < wrong.pow(2).mean().sqrt()


def test_offsets_stay_within_the_canvas() -> None:
    learned = PositionOffsets(3)
    with torch.no_grad():
        learned.free[0] = 100
    assert learned.offsets.abs().max() <= REACH


# Priors and labels.


def test_total_variation_is_zero_for_a_constant_and_counts_edges_where_light_is() -> None:
    light = torch.zeros(1, 16, 16)
    light[:, 4:12, 4:12] = 1
    flat = torch.full((1, 16, 16), 3 - 4j, dtype=torch.complex64)
    step = flat.clone()
    step[..., 8:] *= 1.1
    dark = flat.clone()
    dark[..., :2, :] *= 5
    assert total_variation(flat, light) < 1e-6 and total_variation(dark, light) < 1e-6
    assert total_variation(step, light).item() == pytest.approx(8 * 0.1 / 64, rel=0.1)
    assert total_variation(7 * step, light).item() == pytest.approx(total_variation(step, light).item(), rel=1e-4)
    empty = torch.zeros(1, 16, 16, dtype=torch.complex64, requires_grad=True)
    total_variation(empty, light).backward()
    assert torch.isfinite(torch.view_as_real(empty.grad)).all()


def test_total_variation_smooths_what_is_reconstructed(tmp_path: Path) -> None:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e4, seed=3)
    variations = []
    for weight in (0.0, 3.0):
        config = tiny(training={"total_variation": weight, "epochs": 15, "learning_rate": 1e-2})
        run = train(scan, tmp_path / str(weight), config)
        prediction = predict(run.model, scan, config)
        variations.append(total_variation(prediction.canvases, prediction.weights).item())
    assert variations[1] < 0.8 * variations[0]


def test_supervised_loss_is_blind_to_a_phase_only() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 8, 8, dtype=torch.complex64, generator=generator)
    light = torch.rand(3, 8, 8, generator=generator)
    turned = truth * torch.exp(1j * torch.rand(3, 1, 1, generator=generator))
    assert supervised_loss(turned, truth, light).abs() < 1e-5
    assert supervised_loss(1.5 * turned, truth, light).item() == pytest.approx(0.25, rel=1e-4)
    assert supervised_loss(truth.conj().resolve_conj(), truth, light) > 0.5


@pytest.mark.parametrize("generator", ["unrolled", "unet", "cnn"])
def test_supervised_training_comes_closer_to_the_truth(scan: Scan, tmp_path: Path, generator: str) -> None:
    options = {"unrolled": {"steps": 2, "width": 8, "state": 2}, "unet": {"width": 4}, "cnn": {"width": 1}}[generator]
    config = tiny(
        model={"generator": generator, "options": options},
        training={"supervised": True, "epochs": 15, "learning_rate": 5e-3},
    )
    run = train(scan, tmp_path, config)
    losses = [float(row["train_loss"]) for row in rows(run) if row["train_loss"]]
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(InputError, match="supervised training needs a truth"):
        train(dataclasses.replace(scan, truth=None), tmp_path / "none", config)


# How weights are stepped.


def test_an_average_of_the_weights_is_saved_in_their_place(scan: Scan, tmp_path: Path) -> None:
    plain = train(scan, tmp_path / "plain", tiny())
    average = train(scan, tmp_path / "average", tiny(training={"average": 0.99}))
    assert not same(plain, average)
    name = "generator.step_size"
    start = torch.ones_like(plain.model.state_dict()[name])
    moved, less = (run.model.state_dict()[name] - start for run in (plain, average))
    assert (less.abs() < 0.5 * moved.abs()).all() and (less != 0).any()


def test_accumulated_batches_make_one_step(scan: Scan, tmp_path: Path) -> None:
    steps = []
    for accumulate in (1, 2):
        run = train(scan, tmp_path / str(accumulate), tiny(training={"accumulate": accumulate}))
        checkpoint = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        steps.append(checkpoint["global_step"])
    assert steps[0] == 2 * steps[1]


def test_half_precision_of_the_network_changes_little(scan: Scan, tmp_path: Path) -> None:
    full = train(scan, tmp_path / "32", tiny())
    half = train(scan, tmp_path / "bf16", tiny(execution={"precision": "bf16"}))
    assert not same(full, half)
    assert half.losses["train_loss"] == pytest.approx(full.losses["train_loss"], rel=0.05)


def test_probe_steps_do_not_depend_on_the_dose(tmp_path: Path) -> None:
    """About the same relative change of the probe at any dose, from the same relative error."""
    changes = []
    for photons in (1e3, 1e5, 1e7, 1e9):
        scan = simulate("dead_leaves", patterns=16, size=32, photons=photons, seed=3, noise=False)
        guess = (np.roll(scan.probe, 1, axis=-1) * np.float32(0.9)).astype(np.complex64)
        run = train(dataclasses.replace(scan, probe=guess), tmp_path / str(photons), tiny())
        probe = run.model.illumination.probe.detach().numpy()
        changes.append(np.linalg.norm(probe - guess) / np.linalg.norm(guess))
    assert min(changes) > 0.01 and max(changes) < 4 * min(changes)
