# SPDX-License-Identifier: BSD-3-Clause
"""Networks and experiments that are not plain: the loss of groups, the inputs of networks, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import same, tiny
from torch import Tensor

from ptycho_ext import extract_patches
from ptychopinn import first_image
from ptychopinn.batches.dataset import GroupBatch, GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.inference.predict import groups_to_predict, reconstruct
from ptychopinn.inference.pretrained import first_network
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.pretrained import load_pretrained
from ptychopinn.physics.forward_model import ForwardModel
from ptychopinn.physics.likelihood import loss_of_fields
from ptychopinn.physics.plain_inputs import PlainInputs, centred, exposure_reach
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.propagation import mode_intensity
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import (
    as_variations,
    drifting_probe,
    line_exposure,
    smooth_background,
    snake_directions,
)
from ptychopinn.scan import Scan
from ptychopinn.streaming.setup import Setup, turned_path
from ptychopinn.streaming.workflow import live
from ptychopinn.training.experiment_loss import ExperimentLoss, joined_experiment
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.shard_weights import Weights, parts_of
from ptychopinn.training.workflow import train

CPU = torch.device("cpu")
N, PATTERNS, PHOTONS = 32, 16, 1e5


def simulated(seed: int = 3, **experiment: Any) -> Scan:
    """Return a small scan of an experiment, asymmetric in object, positions and probe."""
    made = Experiment(**experiment)
    return simulate(
        "dead_leaves", patterns=PATTERNS, size=N, step=(5, 4), photons=PHOTONS, seed=seed, experiment=made,
        pixel_size=1e-8, energy=9000.0,
    )  # fmt: skip


def variations() -> dict[str, Any]:
    probe = PROBES["defocused"](N, 1)
    shapes, coefficients = as_variations(drifting_probe(probe, PATTERNS, 1.5), probe, 3)
    return {"probe_variations": shapes, "variation_coefficients": coefficients}


def snake() -> dict[str, Any]:
    return {"exposure": line_exposure((1.0, 4.0), 5, 0.0, snake_directions(PATTERNS, 4))}


EFFECTS: dict[str, dict[str, Any]] = {
    "path": {"exposure": line_exposure((1.0, 5.0), 5, 0.2)},
    "snake": snake(),
    "source": {"source_size": (1.2, 0.4)},
    "variations": variations(),
    "background": {"background": smooth_background(N, 8.0, 1), "background_factors": np.linspace(0.2, 1.8, PATTERNS)},
    "point_spread": {"point_spread": 0.8},
    "saturation": {"saturation": 400.0},
}


def groups_of(scan: Scan, size: int = 4) -> GroupBatch:
    """Return two groups of a scan whose positions are in the middle of their exposures."""
    dataset = GroupDataset(scan, group_patterns(scan.positions, size), 4, margin=exposure_reach(scan.experiment))
    return dataset.collate([2, 9])


def true_canvases(scan: Scan, batch: GroupBatch) -> Tensor:
    assert scan.truth is not None
    truth = torch.from_numpy(scan.truth).expand(len(batch.origins), -1, -1).contiguous()
    return extract_patches(truth, batch.origins[:, None].double(), batch.canvas_size)[:, 0]


def loss_for(scan: Scan, loss: str = "poisson") -> ExperimentLoss:
    return ExperimentLoss(scan.experiment, N, loss, torch.ones(N, N, dtype=torch.bool), CPU)


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("effect", EFFECTS)
def test_the_truth_explains_the_patterns_to_their_noise(effect: str, loss: str) -> None:
    scan = centred(simulated(**EFFECTS[effect]))
    batch = groups_of(scan)
    arguments = (true_canvases(scan, batch), batch.positions, batch.members, torch.from_numpy(scan.probe), batch.counts)
    value, floor = loss_for(scan, loss).with_floor(*arguments)
    plain = loss_for(replace(scan, experiment=Experiment()), loss)(*arguments)
    assert 0.9 < value / floor < 1.1
    assert plain > 1.3 * value
    assert torch.equal(loss_for(scan, loss)(*arguments), value)


def test_the_plain_experiment_has_the_plain_loss() -> None:
    scan = simulated()
    on_pixels = replace(scan, positions=np.rint(scan.positions))  # where interpolation and Fourier shifts are the same
    batch, probe = groups_of(on_pixels), torch.from_numpy(scan.probe)
    canvases = true_canvases(scan, batch)
    model = PtychoModel("unrolled", {"steps": 1}, N)
    model.illumination.set_probe(probe)
    expected = loss_of_fields("poisson", model.predict_fields(canvases, batch.positions), batch.counts)
    assert loss_for(on_pixels)(canvases, batch.positions, batch.members, probe, batch.counts) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
def test_the_gradient_is_that_of_finite_differences(loss: str) -> None:
    every = {name: value for effect in EFFECTS.values() for name, value in effect.items()}
    scan = centred(simulated(**{**every, "exposure": EFFECTS["path"]["exposure"]}))
    batch, generator = groups_of(scan), torch.Generator().manual_seed(0)
    parts = {
        "canvases": true_canvases(scan, batch),
        "positions": batch.positions,
        "probe": torch.from_numpy(scan.probe),
    }
    directions = {
        name: torch.randn(part.shape, generator=generator, dtype=part.dtype) * scale
        for (name, part), scale in zip(parts.items(), (0.1, 0.3, 0.05 * np.abs(scan.probe).max()), strict=True)
    }
    # Away from the minimum, where the derivative is of the order of the loss.
    start = {name: part + directions[name] for name, part in parts.items()}
    objective = loss_for(scan, loss)

    def value(**changed: Tensor) -> Tensor:
        used = {**start, **changed}
        return objective(used["canvases"], used["positions"], batch.members, used["probe"], batch.counts)

    for name, part in start.items():
        leaf = part.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(**{name: leaf}), [leaf])
        derivative = (gradient.conj() * directions[name]).real.sum() if part.is_complex() else None
        derivative = (gradient * directions[name]).sum() if derivative is None else derivative
        step = 0.02
        difference = value(**{name: part + step * directions[name]}) - value(**{name: part - step * directions[name]})
        assert float(derivative) == pytest.approx(float(difference) / (2 * step), rel=2e-2), name


@pytest.mark.parametrize("effect", ["path", "snake"])
def test_a_scan_with_positions_in_the_middle_has_the_same_patterns(effect: str) -> None:
    scan = simulated(**EFFECTS[effect])
    middle = centred(scan)
    assert middle.experiment.exposure is not None
    assert np.abs(middle.experiment.exposure.mean(-2)).max() < 1e-12
    assert np.abs(middle.positions - scan.positions).max() > 1
    assert centred(middle) is middle
    values = []
    for one in (scan, middle):
        model = ForwardModel(one.experiment, N, None, None, CPU)
        points = torch.from_numpy(one.positions)[:, None] + model.points
        anchors = torch.floor(points + 0.5)
        waves = model.fields(torch.from_numpy(one.truth), torch.from_numpy(one.probe)[None], anchors, points - anchors)
        values.append(mode_intensity(waves))
    assert torch.allclose(values[0], values[1], rtol=1e-4, atol=1e-2)
    plain = simulated()
    assert centred(plain) is plain


@pytest.mark.parametrize("effect", ["path", "snake", "source"])
def test_modes_of_a_network_predict_the_exposures(effect: str) -> None:
    scan = centred(simulated(**EFFECTS[effect]))
    probe = torch.from_numpy(scan.probe)
    inputs = PlainInputs.of(scan.experiment, scan.probe, CPU, modes=True)
    assert inputs is not None
    modes = inputs.probe(probe)
    assert mode_intensity(modes).sum() == pytest.approx(float(mode_intensity(probe).sum()), rel=1e-5)
    still = ForwardModel(Experiment(), N, None, None, CPU)
    positions, truth = torch.from_numpy(scan.positions)[:, None], torch.from_numpy(scan.truth)
    anchors = torch.floor(positions + 0.5)
    counts = torch.from_numpy(np.fft.ifftshift(scan.counts, axes=(1, 2)).astype(np.float32))
    errors = [
        (mode_intensity(still.fields(truth, one[None], anchors, positions - anchors)) - counts).abs().sum()
        for one in (modes, probe)
    ]
    noise = math.sqrt(2 / math.pi) * counts.sqrt().sum()
    assert errors[0] < 1.1 * noise
    assert errors[1] > 1.3 * errors[0]


def test_only_the_pretrained_network_has_modes_for_a_path(fly_scan: Scan) -> None:
    assert load_pretrained().for_scan(fly_scan).exposure_modes
    assert not PtychoModel("unrolled", {"steps": 1}, N).exposure_modes
    assert PlainInputs.of(Experiment(exposure=line_exposure(3.0, 5)), fly_scan.probe, CPU) is None


def test_a_network_sees_counts_without_the_background() -> None:
    background = smooth_background(N, 2.0, 1)
    factors = np.linspace(0.5, 1.5, PATTERNS)
    inputs = PlainInputs.of(
        Experiment(background=background, background_factors=factors), np.ones((1, N, N), np.complex64), CPU
    )
    assert inputs is not None
    members = torch.tensor([[3, 7]])
    found = inputs.counts(torch.full((1, 2, N, N), 2.0), members)
    expected = np.maximum(2.0 - factors[[3, 7], None, None] * np.fft.ifftshift(background), 0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


def test_a_network_sees_plain_experiments_as_they_are() -> None:
    probe = np.ones((1, N, N), np.complex64)
    for experiment in (Experiment(), Experiment(saturation=9.0, point_spread=1.0, radiation="electron")):
        assert PlainInputs.of(experiment, probe, CPU) is None


def test_parts_of_a_batch_have_so_many_fewer_groups_as_exposures_have_points() -> None:
    batch = GroupBatch(
        torch.ones(8, 4, 64, 64), torch.zeros(8, 4, 2, dtype=torch.float64), torch.zeros(8, 2, dtype=torch.int64),
        (80, 80), torch.zeros(8, 4, dtype=torch.int64),
    )  # fmt: skip
    good = torch.ones(64, 64, dtype=torch.bool)
    for points, number in ((1, 1), (16, 2), (60, 8), (1000, 8)):
        parts = list(parts_of(batch, Weights(1.0, 1.0, 1.0), good, points))
        assert len(parts) == number
        assert sum(float(weights.photons) for _, weights in parts) == pytest.approx(1)


def test_several_scans_have_the_values_of_their_patterns_in_succession() -> None:
    shared = {"background": EFFECTS["background"]["background"]}
    first = simulated(**shared, exposure=line_exposure(3.0, 5))
    second = simulated(**EFFECTS["background"], **snake(), seed=4)
    both = joined_experiment([first, second])
    assert both.exposure is not None and both.exposure.shape == (2 * PATTERNS, 5, 2)
    np.testing.assert_array_equal(both.exposure[0], first.experiment.exposure)
    np.testing.assert_array_equal(both.exposure[PATTERNS:], second.experiment.exposure)
    assert both.background_factors is not None
    assert both.background_factors.tolist() == [1.0] * PATTERNS + EFFECTS["background"]["background_factors"].tolist()
    assert joined_experiment([first]) is first.experiment
    assert joined_experiment([simulated(), simulated(seed=4)]).plain


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"saturation": 400.0}, {"saturation": 300.0}, "saturation"),
        ({}, {"background": smooth_background(N, 1.0)}, "background"),
        ({"exposure": line_exposure(3.0, 5)}, {"exposure": line_exposure(3.0, 3)}, "exposure"),
        ({"exposure": line_exposure(3.0, 5)}, {}, "exposure"),
    ],
)
def test_scans_of_different_experiments_are_refused(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], name: str
) -> None:
    with pytest.raises(InputError, match=f"found another {name} than in .*; train on each by itself"):
        train([simulated(**one), simulated(**other)], tmp_path / "run", tiny(), accept="all")


@pytest.fixture(scope="module")
def fly_scan() -> Scan:
    return simulated(**snake(), **EFFECTS["background"], saturation=900.0)


def test_a_training_uses_the_model_of_the_experiment(fly_scan: Scan, tmp_path: Path) -> None:
    config = tiny(model={"learn_positions": True}, training={"merge": 2, "merge_own": 0.5, "epochs": 1})
    run = train(fly_scan, tmp_path / "a", config, accept="all")
    assert all(math.isfinite(value) for value in run.losses.values())
    other = train(replace(fly_scan, experiment=Experiment()), tmp_path / "b", config, accept="all")
    assert not same(run, other)
    assert run.model.positions is not None
    assert run.model.positions.place_of(fly_scan) == slice(0, PATTERNS)
    result = reconstruct(run.model, fly_scan, run.config, "cpu", accept="all")
    assert result.experiment.scalars() == fly_scan.experiment.scalars()
    assert set(result.experiment.arrays()) == set(fly_scan.experiment.arrays())
    np.testing.assert_array_equal(result.experiment.exposure, fly_scan.experiment.exposure)
    refined = run.model.positions.applied_to(fly_scan)
    assert refined is not None
    np.testing.assert_array_equal(result.positions, refined.positions)


def test_a_resumed_training_is_that_of_an_uninterrupted_one(fly_scan: Scan, tmp_path: Path) -> None:
    complete, first, both = (
        tiny(training={"epochs": epochs, "schedule": "constant"}, execution={"deterministic": True})
        for epochs in (2, 1, 2)
    )
    run = train(fly_scan, tmp_path / "a", complete, accept="all")
    train(fly_scan, tmp_path / "b", first, accept="all")
    assert same(run, train(fly_scan, tmp_path / "b", both, accept="all", resume=True))


def test_a_plain_training_has_no_loss_of_an_experiment() -> None:
    module = PtychoModule(tiny().to_dict(), N)
    module._set_experiment(Experiment(radiation="electron"), simulated().probe)
    assert module.experiment_loss is None and module.inputs is None and module.points == 1
    module._set_experiment(Experiment(saturation=100.0), simulated().probe)
    assert module.experiment_loss is not None and module.inputs is None


def test_groups_are_predicted_in_the_middle_of_their_exposures(fly_scan: Scan) -> None:
    model = PtychoModel("unrolled", {"steps": 1, "width": 8}, N)
    dataset = groups_to_predict(model, fly_scan, tiny())
    np.testing.assert_array_equal(dataset.scan.positions, centred(fly_scan).positions)


def near_field() -> Scan:
    return simulated(fresnel_number=0.01)


def thick() -> Scan:
    return replace(simulated(), experiment=Experiment(slice_distances=(1e-6,)), pixel_size=1e-8, energy=9000.0)


@pytest.mark.parametrize(("scan", "found"), [(near_field(), "the near field"), (thick(), "a thick sample")])
def test_networks_refuse_thick_samples_and_the_near_field(scan: Scan, found: str, tmp_path: Path) -> None:
    sentence = f"for which networks are made, found {found}; `ptychopinn refine SCAN --out OUT.h5`"
    model = PtychoModel("unrolled", {"steps": 1, "width": 8}, N)
    config = tiny()
    with pytest.raises(InputError, match=sentence):
        train(scan, tmp_path / "run", config, accept="all")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=sentence):
        reconstruct(model, scan, config, "cpu", accept="all")
    with pytest.raises(InputError, match=sentence):
        first_network(scan, config, "all")
    with pytest.raises(InputError, match=sentence):
        first_image.reconstruct(None, scan, config, "cpu", "all", refine=0)
    with pytest.raises(InputError, match="model: expected none for a thick sample"):
        live(tmp_path, model, config, out=tmp_path / "live.h5", like=Setup.like(scan), device="cpu")
    assert not (tmp_path / "live.h5").exists()


@pytest.mark.parametrize("scan", [near_field(), thick()])
def test_a_first_image_of_these_is_refined_from_nothing(scan: Scan) -> None:
    result = first_image.reconstruct(None, scan, tiny(), "cpu", "all", refine=3)
    assert result.refinement is not None and result.refinement.passes == 3
    assert "network" not in result.metadata


def test_the_path_of_a_setup_is_that_of_positions_as_they_come() -> None:
    scan = replace(simulated(exposure=line_exposure((1.0, 4.0), 3, 0.0)), orientation="swap_flip_y")
    from ptychopinn.inspection.orientation import ORIENTATIONS

    setup = Setup.like(scan)
    assert setup.experiment.exposure is not None and scan.experiment.exposure is not None
    assert not np.allclose(setup.experiment.exposure, scan.experiment.exposure)
    turned = turned_path(setup.experiment, ORIENTATIONS[setup.orientation])
    np.testing.assert_array_equal(turned.exposure, scan.experiment.exposure)
