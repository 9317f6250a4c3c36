# SPDX-License-Identifier: BSD-3-Clause
"""Random scans, and the training on them: what is drawn is in its ranges and right, and a state resumes exactly."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.findings.geometry import probe_diameter
from ptychopinn.persistence.bundle import bundle_info, load_bundle
from ptychopinn.physics.likelihood import loss_of_fields, poisson_loss
from ptychopinn.physics.noise_floor import noise_floor
from ptychopinn.physics.simulate import diffract
from ptychopinn.pretraining import workflow
from ptychopinn.pretraining.images import IMAGES, PHOTOGRAPHS, ImagePool, cut, random_image
from ptychopinn.pretraining.losses import LOSSES
from ptychopinn.pretraining.probes import make_probe, random_probe, slightly_wrong
from ptychopinn.pretraining.scans import RandomBatches, Ranges, random_scan
from ptychopinn.pretraining.workflow import PretrainingOptions, Training, made_ahead, pretrain

ROOT = Path(__file__).parents[2]
SMALL = Ranges(sizes={32: 1.0}, groups={4: 0.5, 16: 0.5})
TINY = {"steps": 2, "width": 4, "state": 2}


def options(**changed: object) -> PretrainingOptions:
    values = {"steps": 6, "model": TINY, "ranges": SMALL, "patterns": 4, **changed}
    return PretrainingOptions(**values)  # type: ignore[arg-type]


def training(seed: int, **changed: object) -> Training:
    torch.manual_seed(seed)
    return Training(options(**changed), Config.from_dict({"model": {"options": TINY}}), torch.device("cpu"))


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_values_from_0_to_1_and_differ_by_seed(name: str) -> None:
    one, same, other = (IMAGES[name](160, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (160, 160) and one.dtype == np.float32
    assert 0 <= one.min() < 0.2 and 0.8 < one.max() <= 1 and one.std() > 0.03
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_photographs_of_the_benchmarks_are_not_trained_on() -> None:
    spec = importlib.util.spec_from_file_location("scans", ROOT / "benchmarks" / "scans.py")
    assert spec is not None and spec.loader is not None
    scans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scans)
    assert not {name for pair in scans.PICTURES for name in pair} & set(PHOTOGRAPHS)


def test_a_pool_depends_on_the_number_of_the_batch_alone() -> None:
    moved, direct = (ImagePool(5, 64, size=3, every=2) for _ in range(2))
    for number in range(8):
        images = moved.at(number)
    assert len(images) == 3
    for one, other in zip(images, direct.at(7), strict=True):
        assert np.array_equal(one, other)
    assert any(not np.array_equal(a, b) for a, b in zip(images, direct.at(0), strict=True))


def test_pieces_of_an_image_have_all_orientations() -> None:
    image = np.random.default_rng(1).random((8, 8), np.float32)
    rng = np.random.default_rng(0)
    seen = {cut(image, (8, 8), rng).tobytes() for _ in range(200)}
    assert len(seen) == 16  # each as it is and inverted
    assert cut(image, (3, 5), rng).shape == (3, 5)


def test_probes_have_diameters_in_the_range_and_power_1() -> None:
    rng = np.random.default_rng(1)
    made = [random_probe(48, rng, (0.25, 0.6)) for _ in range(60)]
    for _, probe, diameter in made:
        assert probe.dtype == np.complex64 and np.sum(np.abs(probe) ** 2) == pytest.approx(1, abs=1e-4)
        assert 0.25 <= diameter <= 0.6 and diameter == probe_diameter(probe) / 48
    assert {parameters.family for parameters, _, _ in made} == {"pupil", "disk", "gaussian", "airy"}
    assert {len(probe) for _, probe, _ in made} == {1, 2}
    signs = {np.sign(p.curvature) for p, _, _ in made if p.family == "pupil"}
    assert signs == {-1.0, 1.0}


def test_a_slightly_wrong_probe_is_like_the_true_one_and_differs() -> None:
    rng = np.random.default_rng(2)
    overlaps = []
    for _ in range(20):
        parameters, probe, _ = random_probe(48, rng, (0.25, 0.6))
        wrong = make_probe(slightly_wrong(parameters, rng), 48)
        overlaps.append(abs(np.vdot(probe[0], wrong[0])) / np.linalg.norm(probe[0]) / np.linalg.norm(wrong[0]))
    assert 0.5 < np.median(overlaps) < 0.9999 and max(overlaps) < 1


def test_batches_are_those_of_their_number() -> None:
    one, other = RandomBatches(3, SMALL), RandomBatches(3, SMALL)
    one.batch(0)
    first, second, different = one.batch(5), other.batch(5), other.batch(6)
    for name, value in first._asdict().items():
        same = getattr(second, name)
        assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
    assert first.counts.sum() != different.counts.sum()


def test_batches_are_patterns_of_their_truth() -> None:
    """Against the simulator, in float64, with objects that have no symmetry."""
    made = RandomBatches(11, Ranges(sizes={32: 0.5, 48: 0.5}, wrong_probe=0.5), patterns=16)
    wrong = 0
    for number in range(24):
        batch = made.batch(number)
        size = batch.counts.shape[-1]
        assert batch.counts.dtype == torch.float32 and batch.truth.shape[1:] == batch.canvas_size
        assert batch.counts.shape[:2] == batch.positions.shape[:2] and size in (32, 48)
        assert batch.counts.shape[0] * batch.counts.shape[1] <= 25
        assert (batch.positions >= 0).all() and all(side % 4 == 0 for side in batch.canvas_size)
        assert (batch.positions + size <= torch.tensor(batch.canvas_size) + 1e-9).all()
        wrong += not torch.equal(batch.probe, batch.true_probe)
        photons = float((batch.true_probe.abs() ** 2).sum())
        assert 10**3.5 * 0.999 <= photons <= 1.001e9
        expected = np.stack(
            [
                diffract(truth.numpy(), batch.true_probe.numpy(), positions.numpy())
                for truth, positions in zip(batch.truth, batch.positions, strict=True)
            ]
        )
        counts = np.fft.fftshift(batch.counts.numpy(), axes=(-2, -1))
        # Rounding of float32 leaves 1e-6 of the brightest pixels; the noise of few counts is not normal.
        variance = expected + 1e-10 * expected.max() * expected + (1e-6 * expected.max()) ** 2 + 1
        chi2 = float(((counts - expected) ** 2 / variance).sum() / (expected / variance).sum())
        assert chi2 == pytest.approx(1, abs=0.15), number
        assert (counts == counts.round()).all()
    assert 4 < wrong < 20


def test_sizes_are_drawn_by_the_time_that_they_take() -> None:
    made = RandomBatches(0, Ranges(sizes={32: 0.5, 64: 0.5}, groups={16: 1.0}))
    small = sum(made.batch(number).counts.shape[-1] == 32 for number in range(60))
    assert 38 < small < 57  # four fifths


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"photons": (1e6, 1e4)}, r"ranges\.photons must be two positive numbers, smallest first"),
        ({"sizes": {}}, r"ranges\.sizes must have positive weights"),
    ],
)
def test_ranges_are_checked(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Ranges(**changed)  # type: ignore[arg-type]


def test_a_random_scan_has_its_truth() -> None:
    scan, same, other = random_scan(4, 36, 32), random_scan(4, 36, 32), random_scan(5, 36, 32)
    assert scan.truth is not None and scan.n == 36 and np.array_equal(scan.counts, same.counts)
    assert not np.array_equal(scan.probe, other.probe)
    assert np.sum(np.abs(random_scan(4, 9, 32, photons=1e5).probe) ** 2) == pytest.approx(1e5, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_lower_at_the_truth(name: str) -> None:
    batches = RandomBatches(7, Ranges(sizes={48: 1.0}, groups={9: 1.0}))
    better = 0
    for number in range(12):
        batch = batches.batch(number)
        truth = batch.truth.clone().requires_grad_()
        flat = truth.detach().mean((-2, -1), keepdim=True).expand_as(truth).contiguous()
        loss = LOSSES[name](truth, batch)
        loss.backward()
        assert loss.dim() == 0 and torch.isfinite(loss) and torch.isfinite(torch.view_as_real(truth.grad)).all()
        better += bool(loss < LOSSES[name](flat, batch))
    assert better == 12


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("photons", [3e2, 1e5, 1e8])
def test_the_noise_floor_is_the_mean_loss_of_true_intensities(loss: str, photons: float) -> None:
    generator = torch.Generator().manual_seed(0)
    intensity = torch.rand(40, 32, 32, generator=generator, dtype=torch.float64) ** 8
    intensity *= photons / intensity.sum((-2, -1), keepdim=True)
    counts = torch.poisson(intensity, generator=generator)
    fields = torch.sqrt(intensity).to(torch.complex128)[:, None]
    good = torch.rand(32, 32, generator=generator) < 0.8
    for mask in (None, good):
        measured = float(loss_of_fields(loss, fields, counts, mask))
        assert float(noise_floor(intensity, loss, mask)) == pytest.approx(measured, rel=0.05)
    assert float(poisson_loss(intensity, counts)) >= 0


def test_a_training_that_is_resumed_is_that_of_one_go(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    straight = training(seed=0)
    straight.run()
    begun = training(seed=0)
    with made_ahead(begun.batches, 0) as batches:
        for _ in range(3):
            begun.train(next(batches), begun.progress())
    begun.save(state)
    resumed = training(seed=1)
    resumed.load(state)
    assert resumed.step == 3
    resumed.run()
    assert resumed.step == straight.step == 6 and resumed.seen == straight.seen
    for name, value in straight.average.items():
        assert torch.equal(value, resumed.average[name]), name


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: None, "expected a state with loss poisson, found floor and supervised; resume with"),
        (lambda path: path.write_bytes(b"PK no"), "expected the state of a training on random scans, found another or"),
        (lambda path: path.unlink(), "not found|found none|no such"),
    ],
)
def test_another_state_is_refused(damage: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    training(0).save(state)
    damage(state)
    with pytest.raises(InputError, match=sentence):
        training(0, loss="poisson").load(state)


def test_a_longer_time_is_no_other_training(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    training(0).save(state)
    training(0, minutes=5.0, steps=9).load(state)


def test_a_step_that_is_not_finite_is_skipped() -> None:
    made = training(0)
    batch = made.batches.batch(0)
    before = {name: value.clone() for name, value in made.model.generator.state_dict().items()}
    made.train(batch._replace(counts=batch.counts * torch.nan), 0.5)
    assert made.skipped == 1
    for name, value in made.model.generator.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_training_lowers_its_loss() -> None:
    made = training(0, patterns=16)
    batches = [made.batches.batch(number) for number in range(12)]

    def loss() -> float:
        with torch.no_grad():
            parts = [made.model.generator(b.counts, b.positions, b.canvas_size, b.probe) for b in batches]
            values = [LOSSES["supervised"](part, b) for part, b in zip(parts, batches, strict=True)]
            return float(torch.stack(values).mean())

    before = loss()
    for _ in range(10):
        for batch in batches:
            made.train(batch, 0.1)
    assert loss() < before - 0.02


def test_an_error_of_the_thread_that_makes_batches_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    made = RandomBatches(0, SMALL)

    def fail(number: int) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(made, "batch", fail)
    with pytest.raises(MemoryError, match="no more"), made_ahead(made, 0) as batches:
        next(batches)


def test_the_command_writes_a_bundle_with_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_SCANS", 2)
    monkeypatch.setattr(workflow, "_PATTERNS", 100)
    out, state = tmp_path / "network.zip", tmp_path / "state.pt"
    facts = pretrain(options(), out, checkpoint=state)
    written = json.loads(out.with_suffix(".json").read_text())
    assert written == json.loads(json.dumps(facts)) == bundle_info(out)
    assert out.stat().st_size < 2e6 and state.exists()
    assert written["steps"] == 6 and written["seed"] == 0 and written["loss"] == PretrainingOptions().loss
    assert written["ranges"]["sizes"] == [32, 32] and written["ranges"]["photons"] == [10**3.5, 1e9]
    assert len(written["scores"]["frc"]) == 2 and 0 < written["scores"]["median_frc"] < 1
    model, config = load_bundle(out)
    assert config.model.options == TINY and config.data.group_size == 16
    again = pretrain(options(), out, checkpoint=state, resume=True)  # nothing is left to do
    assert again["steps"] == 6 and again["scores"] == facts["scores"]
    for name, value in load_bundle(out)[0].generator.state_dict().items():
        assert torch.equal(value, model.generator.state_dict()[name])


def test_options_are_checked() -> None:
    for changed, sentence in (
        ({"loss": "other"}, "loss must be one of supervised, poisson, floor"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"average": 1.0}, r"average must be in \[0, 1\)"),
        ({"steps": 0}, "steps must be at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            options(**changed)
    with pytest.raises(InputError, match="name the state to continue from"):
        pretrain(options(), "unused.zip", resume=True)


def test_a_random_image_may_be_of_two() -> None:
    images = [random_image(64, np.random.default_rng(seed)) for seed in range(12)]
    assert all(image.shape == (64, 64) and image.min() >= 0 and image.max() <= 1 for image in images)
