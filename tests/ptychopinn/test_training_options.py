# SPDX-License-Identifier: BSD-3-Clause
"""Options of a training: fine-tuning, several scans, positions, priors, labels, precision.

Every learned parameter must change.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import rows, same, tiny, tiny_scan

from ptycho_ext import extract_patches
from ptychopinn.cli import main
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import choose_positions, predict, reconstruct
from ptychopinn.persistence.bundle import load_bundle
from ptychopinn.physics.likelihood import LOSSES
from ptychopinn.physics.positions import REACH, PositionOffsets
from ptychopinn.physics.priors import supervised_loss, total_variation
from ptychopinn.physics.propagation import diffract
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import read_config, train


@pytest.fixture(scope="module")
def scan() -> Scan:
    return tiny_scan()


# Fine-tuning.


def test_fine_tuning_starts_from_the_network_and_the_probe_of_the_scan(scan: Scan, tmp_path: Path) -> None:
    first = train(scan, tmp_path / "first", tiny())
    other = dataclasses.replace(scan, probe=(scan.probe * 0.5).astype(np.complex64))
    still = {"learning_rate": 1e-60, "probe_step": 1e-30, "epochs": 1}  # which moves no weight, not even a zero
    run = train(other, tmp_path / "tuned", tiny(training=still), start=load_bundle(tmp_path / "first")[0])
    for name, value in first.model.generator.state_dict().items():
        assert torch.equal(value, run.model.generator.state_dict()[name]), name
    torch.testing.assert_close(run.model.illumination.probe.detach(), torch.from_numpy(other.probe))
    config = tiny(training=still, inference={"probe": "model"})
    run = train(other, tmp_path / "model", config, start=first.model)
    learned = first.model.illumination.probe.detach()
    scaled = learned * torch.linalg.vector_norm(torch.from_numpy(other.probe)) / torch.linalg.vector_norm(learned)
    torch.testing.assert_close(run.model.illumination.probe.detach(), scaled)


def test_fine_tuning_of_another_network_is_refused(scan: Scan, tmp_path: Path) -> None:
    first = train(scan, tmp_path / "first", tiny(training={"epochs": 1}))
    options = {"options": {"steps": 2, "width": 4, "state": 2}}
    with pytest.raises(InputError, match="has another network than"):
        train(scan, tmp_path / "tuned", tiny(model=options), start=first.model)
    modes = simulate("dead_leaves", patterns=16, size=32, photons=1e5, modes=2)
    with pytest.raises(InputError, match=r"expected a probe of shape \(1, 32, 32\) as in the model to begin with"):
        train(modes, tmp_path / "tuned", tiny(inference={"probe": "model"}), start=first.model)


# Several scans.


def test_one_model_is_trained_on_several_scans(scan: Scan, tmp_path: Path) -> None:
    other = simulate("lines", patterns=12, size=32, photons=2e5, seed=4)
    run = train([scan, other], tmp_path, tiny())
    assert all(
        torch.isfinite(torch.view_as_real(predict(run.model, s, run.config).canvases)).all() for s in (scan, other)
    )
    alone = train(scan, tmp_path / "alone", tiny())
    assert not same(run, alone)


def test_incompatible_scans_are_refused(scan: Scan, tmp_path: Path) -> None:
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


def test_learned_positions_are_used_for_their_own_scan_only(scan: Scan, tmp_path: Path) -> None:
    run = train(scan, tmp_path, tiny(model={"learn_positions": True}))
    model, config = load_bundle(tmp_path)
    assert model.positions is not None and model.patterns == 16
    offsets = model.positions.offsets.detach()
    assert (offsets.abs().amax(1) > 0).all() and offsets.mean(0).abs().max() < 1e-6
    refined = choose_positions(model, scan, "auto")
    np.testing.assert_allclose(refined.positions, scan.positions + offsets.numpy())
    assert choose_positions(model, scan, "scan") is scan
    part = choose_positions(model, scan.subset(range(3, 12)), "auto")
    np.testing.assert_allclose(part.positions, refined.positions[3:12])
    other = simulate("lines", patterns=16, size=32, photons=1e5, seed=3)  # the same raster over another sample
    assert np.array_equal(other.positions - scan.positions, other.positions * 0)
    assert choose_positions(model, other, "auto") is other
    np.testing.assert_array_equal(reconstruct(run.model, scan, config).positions, refined.positions)
    assert train(scan, tmp_path / "fixed", tiny()).model.positions is None


def test_positions_of_several_scans_are_learned_separately(scan: Scan, tmp_path: Path) -> None:
    other = simulate("lines", patterns=20, size=32, photons=2e5, seed=4)
    run = train([scan, other], tmp_path, tiny(model={"learn_positions": True}))
    learned = run.model.positions
    assert learned is not None and learned.place_of(scan) == slice(0, 16) and learned.place_of(other) == slice(16, 36)
    assert (learned.offsets.detach().abs().amax(1) > 0).all()
    np.testing.assert_allclose(
        choose_positions(run.model, other, "auto").positions, other.positions + learned.offsets[16:].detach().numpy()
    )
    other.save(tmp_path / "other.npz")  # positions are centres in the file, and equal up to rounding
    assert learned.place_of(Scan.load(tmp_path / "other.npz")) == slice(16, 36)
    same_raster = dataclasses.replace(other, counts=other.counts[::-1].copy())
    assert learned.place_of(same_raster) is None


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_gradients_correct_wrong_positions(loss: str) -> None:
    """With the true object, without a network that could compensate for them."""
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
    span = learned.offsets.detach().amax(0) - learned.offsets.detach().amin(0)
    assert span.max() <= REACH and learned.offsets.mean(0).abs().max() < 1e-6


# Priors and labels.


def test_total_variation_counts_edges_in_the_illuminated_area() -> None:
    illumination = torch.zeros(1, 16, 16)
    illumination[:, 4:12, 4:12] = 1
    flat = torch.full((1, 16, 16), 3 - 4j, dtype=torch.complex64)
    step = flat.clone()
    step[..., 8:] *= 1.1
    dark = flat.clone()
    dark[..., :2, :] *= 5
    assert total_variation(flat, illumination) < 1e-6 and total_variation(dark, illumination) < 1e-6
    assert total_variation(step, illumination).item() == pytest.approx(8 * 0.1 / 64, rel=0.1)
    assert total_variation(7 * step, illumination).item() == pytest.approx(
        total_variation(step, illumination).item(), rel=1e-4
    )
    empty = torch.zeros(1, 16, 16, dtype=torch.complex64, requires_grad=True)
    total_variation(empty, illumination).backward()
    assert torch.isfinite(torch.view_as_real(empty.grad)).all()


def test_total_variation_smooths_the_reconstruction(tmp_path: Path) -> None:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e4, seed=3)
    variations = []
    for weight in (0.0, 3.0):
        config = tiny(training={"total_variation": weight, "epochs": 15, "learning_rate": 1e-2})
        run = train(scan, tmp_path / str(weight), config)
        prediction = predict(run.model, scan, config)
        variations.append(total_variation(prediction.canvases, prediction.weights).item())
    assert variations[1] < 0.8 * variations[0]


def test_supervised_loss_ignores_a_constant_phase_only() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 8, 8, dtype=torch.complex64, generator=generator)
    illumination = torch.rand(3, 8, 8, generator=generator)
    turned = truth * torch.exp(1j * torch.rand(3, 1, 1, generator=generator))
    assert supervised_loss(turned, truth, illumination).abs() < 1e-5
    assert supervised_loss(1.5 * turned, truth, illumination).item() == pytest.approx(0.25, rel=1e-4)
    assert supervised_loss(truth.conj().resolve_conj(), truth, illumination) > 0.5


def untrained_probe(config: Config, scan: Scan) -> torch.Tensor:
    model = PtychoModule(config.to_dict(), scan.patch_size).model
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    return model.illumination.unscaled.detach()


def test_supervised_scans_of_different_doses_are_consistent(scan: Scan, tmp_path: Path) -> None:
    """Four times the dose is twice the probe; the model has one probe, so the second object is twice its truth."""
    louder = dataclasses.replace(scan, counts=(4 * scan.counts.astype(np.uint32)), probe=2 * scan.probe)
    config = tiny(training={"supervised": True, "epochs": 1, "learning_rate": 1e-30})
    losses = [
        train(scans, tmp_path / str(k), config).losses["train_loss"] for k, scans in enumerate((scan, [scan, louder]))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


@pytest.mark.parametrize("generator", ["unrolled", "unet", "cnn", "ffno", "sru_net"])
def test_supervised_training_approaches_the_truth(scan: Scan, tmp_path: Path, generator: str) -> None:
    options = {
        "unrolled": {"steps": 2, "width": 8, "state": 2},
        "unet": {"width": 4},
        "cnn": {"width": 1},
        "ffno": {"width": 8, "layers": 2, "modes": 6},
        "sru_net": {"width": 4, "units": 2, "modes": 4},
    }[generator]
    config = tiny(
        model={"generator": generator, "options": options},
        training={"supervised": True, "epochs": 15, "learning_rate": 5e-3},
    )
    run = train(scan, tmp_path, config)
    losses = [float(row["train_loss"]) for row in rows(run) if row["train_loss"]]
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(run.model.illumination.unscaled.detach(), untrained_probe(config, scan))  # the network only
    with pytest.raises(InputError, match="supervised training needs a truth"):
        train(dataclasses.replace(scan, truth=None), tmp_path / "none", config)


# Steps of the weights.


def test_average_of_the_weights_is_saved(scan: Scan, tmp_path: Path) -> None:
    plain = train(scan, tmp_path / "plain", tiny())
    average = train(scan, tmp_path / "average", tiny(training={"average": 0.99}))
    assert not same(plain, average)
    name = "generator.step_size"
    start = torch.ones_like(plain.model.state_dict()[name])
    moved, less = (run.model.state_dict()[name] - start for run in (plain, average))
    assert (less.abs() < 0.5 * moved.abs()).all() and (less != 0).any()


def test_accumulated_batches_are_one_step(scan: Scan, tmp_path: Path) -> None:
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


def test_probe_steps_depend_on_the_dose_only_where_photons_are_few(tmp_path: Path) -> None:
    """About the same relative change of the probe for the same relative error, except where noise dominates."""
    changes = []
    for photons in (1e3, 1e5, 1e7, 1e9):
        scan = simulate("dead_leaves", patterns=16, size=32, photons=photons, seed=3, noise=False)
        guess = (np.roll(scan.probe, 1, axis=-1) * np.float32(0.9)).astype(np.complex64)
        run = train(dataclasses.replace(scan, probe=guess), tmp_path / str(photons), tiny())
        probe = run.model.illumination.probe.detach().numpy()
        changes.append(np.linalg.norm(probe - guess) / np.linalg.norm(guess))
    few, *enough = changes
    assert min(enough) > 0.01 and max(enough) < 4 * min(enough) and 1e-4 < few < 0.3 * min(enough)


# On the command line.


def test_command_line_resumes_fine_tunes_and_averages(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scan.save("scan.npz")
    options_cpu = ["--execution.accelerator", "cpu", "--execution.progress", "false"]
    network = ["--data.group_size", "4", "--model.options", '{"steps": 2, "width": 8, "every": 1}']
    assert main(["train", "scan.npz", "--out", "run", "--epochs", "1", *network, *options_cpu]) == 0
    assert main(["train", "scan.npz", "--out", "run", "--resume", "--epochs", "2"]) == 0
    config = read_config(Path("run"))
    assert config.training.epochs == 2 and config.data.group_size == 4 and config.model.options["width"] == 8
    more = ["--from", "run", "--epochs", "1", "--model.options", '{"steps": 2, "regularisation": 0.1}', *options_cpu]
    assert main(["train", "scan.npz", "scan.npz", "--out", "tuned", *more]) == 0
    options = {"steps": 2, "width": 8, "every": 1, "regularisation": 0.1}
    assert load_bundle("tuned")[1].model.options == options and load_bundle("tuned")[1].data.group_size == 4
    uncertain = ["--ensemble", "tuned", "--inference.uncertainty", "ensemble", "--device", "cpu"]
    assert main(["reconstruct", "run", "scan.npz", "--out", "r.h5", *uncertain]) == 0
    assert Path("r/uncertainty.png").exists()
    capsys.readouterr()
    for wrong in (["--from", "run"], ["--overwrite"]):
        assert main(["train", "scan.npz", "--out", "run", "--resume", *wrong]) == 2
        assert "omit --from and --overwrite" in capsys.readouterr().err
