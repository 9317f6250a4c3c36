# SPDX-License-Identifier: BSD-3-Clause
"""Options of inference: orientations, ensembles, uncertainty, weighting and cropping."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import ndimage

from ptycho_ext import CanvasGeometry, extract_patches
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.batches import batch_groups
from ptychopinn.inference.combine import combine
from ptychopinn.inference.large import reconstruct_to_file
from ptychopinn.inference.orientations import ORIENTATIONS, turn_back, turn_group
from ptychopinn.inference.predict import predict, reconstruct
from ptychopinn.models import Generator, PtychoModel
from ptychopinn.physics.propagation import diffract
from ptychopinn.physics.simulate import simulate
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.stitching.accumulator import Stitched
from ptychopinn.stitching.canvases import CanvasesOnDisk
from ptychopinn.stitching.phases import stitch

SMALL = {"steps": 2, "width": 8, "state": 2}


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=24, size=32, step=(6, 5), photons=1e5, seed=1)


def model_of(scan: Scan, seed: int | None = None) -> PtychoModel:
    """Return an untrained model, which is the physics only; a seed gives its network random weights."""
    torch.manual_seed(seed or 0)
    model = PtychoModel("unrolled", SMALL, scan.patch_size)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    if seed is not None:
        torch.nn.init.normal_(model.generator.networks[-1].leave.weight, std=0.1)
    return model


def config(**inference: object) -> Config:
    return Config.from_dict({"data": {"group_size": 4}, "inference": {"coverage": None, **inference}})


# Orientations.


@pytest.mark.parametrize("orientation", range(8))
def test_rotated_group_predicts_rotated_patterns(scan: Scan, orientation: int) -> None:
    """The rotated object at the rotated positions predicts the rotated patterns."""
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4))
    batch = dataset.collate([0, 7, 13])
    probe = torch.from_numpy(scan.probe)
    canvases = torch.randn(3, *batch.canvas_size, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    counts = diffract(extract_patches(canvases, batch.positions, 32), probe)
    turned, positions, size, turned_probe = turn_group(counts, batch.positions, batch.canvas_size, probe, orientation)
    turned_canvases = canvases.transpose(-1, -2) if orientation & 4 else canvases
    axes = [axis for axis, bit in ((-2, 2), (-1, 1)) if orientation & bit]
    turned_canvases = torch.flip(turned_canvases, axes).contiguous()
    assert turned_canvases.shape[1:] == size
    again = diffract(extract_patches(turned_canvases, positions, 32), turned_probe)
    torch.testing.assert_close(again, turned, rtol=1e-3, atol=1e-3 * counts.max().item())
    assert torch.equal(turn_back(turned_canvases, orientation), canvases)


def test_orientations_are_distinct_and_begin_with_that_of_the_scan() -> None:
    for count, orientations in ORIENTATIONS.items():
        assert len(set(orientations)) == count and orientations[0] == 0 and set(orientations) <= set(range(8))


@pytest.mark.parametrize("orientation", range(1, 8))
def test_only_a_network_depends_on_the_orientation(scan: Scan, orientation: int) -> None:
    for seed, alike in ((None, True), (3, False)):
        model = model_of(scan, seed)
        straight, turned = (predict(model, scan, config(), orientation=k) for k in (0, orientation))
        assert torch.equal(straight.origins, turned.origins) and torch.equal(straight.weights, turned.weights)
        illuminated = straight.weights > 0.1 * straight.weights.max()
        difference = (straight.canvases - turned.canvases)[illuminated].abs().max() / straight.canvases[
            illuminated
        ].abs().max()
        assert bool(difference < 1e-3) is alike


def test_augmentation_averages_the_orientations(scan: Scan) -> None:
    physics = [reconstruct(model_of(scan), scan, config(augment=count)).object for count in (1, 8)]
    np.testing.assert_allclose(*physics, atol=1e-3 * np.abs(physics[0]).max())
    model = model_of(scan, 3)
    one, two = (reconstruct(model, scan, config(augment=count)).object for count in (1, 2))
    assert np.abs(one - two).max() > 1e-3 * np.abs(one).max()


# Ensembles and uncertainty.


def image_of(values: torch.Tensor, square: torch.Tensor | None = None) -> Stitched:
    weights = torch.ones(values.shape)
    square = values.abs() ** 2 if square is None else square
    geometry = CanvasGeometry.from_positions(torch.zeros(1, 2, dtype=torch.float64), (values.shape[0], values.shape[1]))
    return Stitched(values, weights, geometry, square)


def test_combination_ignores_the_phase_of_each_image() -> None:
    values = torch.randn(6, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    turned = [image_of(values * np.exp(1j * angle)) for angle in (0.0, 1.0, -2.0)]
    mean, weights, spread = combine(turned, "ensemble")
    torch.testing.assert_close(mean, values)
    assert torch.equal(weights, torch.ones(6, 7)) and spread is not None and spread.max() < 1e-3


def test_uncertainties_are_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.full((40, 50), 2 + 0j, dtype=torch.complex64)
    noisy = [truth + 0.1 * torch.randn(40, 50, dtype=torch.complex64, generator=generator) for _ in range(12)]
    _, _, spread = combine([image_of(values) for values in noisy], "ensemble")
    assert spread is not None and spread.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)
    _, _, spread = combine([image_of(truth, truth.abs() ** 2 + 0.04)], "overlaps")
    assert spread is not None
    torch.testing.assert_close(spread, torch.full((40, 50), 0.2), rtol=1e-4, atol=0)


def test_uncertainty_is_zero_without_noise_and_else_its_size(scan: Scan) -> None:
    assert scan.truth is not None
    positions = torch.from_numpy(np.round(scan.positions))
    patches = extract_patches(torch.from_numpy(scan.truth), positions, 32)
    illumination = torch.ones(32, 32)
    _, weights, spread = combine([stitch(patches, positions, illumination)], "overlaps")
    assert spread is not None and spread[weights > 0].max() < 2e-3
    noise = 0.05 * torch.randn(patches.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    _, weights, spread = combine([stitch(patches + noise, positions, illumination)], "overlaps")
    many = weights >= 12
    assert spread is not None and spread[many].square().mean().sqrt().item() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("kind", ["overlaps", "ensemble"])
def test_map_is_returned_saved_and_plotted(scan: Scan, tmp_path: Path, kind: str) -> None:
    models = [model_of(scan, seed) for seed in (3, 4)]
    result = reconstruct(models, scan, config(uncertainty=kind))
    assert result.uncertainty is not None and result.uncertainty.shape == result.shape
    assert (result.uncertainty[result.covered()] > 0).mean() > 0.9
    for name in ("r.h5", "r.npz"):
        again = Reconstruction.load(result.save(tmp_path / name))
        assert np.array_equal(again.uncertainty, result.uncertainty)
        assert np.array_equal(again.positions, scan.positions)
    assert tmp_path / "uncertainty.png" in plot_reconstruction(result, tmp_path)
    assert reconstruct(models, scan, config()).uncertainty is None


def test_ensemble_of_one_is_refused(scan: Scan) -> None:
    with pytest.raises(InputError, match=r"an ensemble takes several models, or inference\.augment above 1"):
        reconstruct(model_of(scan), scan, config(uncertainty="ensemble"))
    assert reconstruct(model_of(scan, 3), scan, config(uncertainty="ensemble", augment=2)).uncertainty is not None


def test_members_of_an_ensemble_may_differ_in_network_and_probe(scan: Scan) -> None:
    unrolled, unet = model_of(scan), PtychoModel("unet", {"width": 4}, 32, learn_probe=True)
    shifted = np.roll(scan.probe, (1, 1), axis=(1, 2))
    unet.illumination.set_probe(torch.from_numpy(shifted))
    both = reconstruct([unrolled, unet], scan, config(uncertainty="ensemble"))
    alone = reconstruct(unrolled, scan, config())
    assert both.shape <= alone.shape and both.origin == alone.origin
    np.testing.assert_allclose(both.probe, scan.probe)
    covered = both.covered()
    difference = np.abs(both.object - alone.object[: both.shape[0], : both.shape[1]])[covered]
    assert (
        difference.max() < 0.5 * np.abs(both.object[covered]).max()
    )  # an object shifted by a pixel would differ by more


def test_all_members_are_checked_before_prediction(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.inference.predict.predict", lambda *_: pytest.fail("predicted"))
    with pytest.raises(InputError, match="patterns must be 48 x 48 pixels as in the model's training, got 32 x 32"):
        reconstruct([model_of(scan), PtychoModel("unrolled", SMALL, 48)], scan, config())
    with pytest.raises(InputError, match=r"inference\.group_size: .* has 24 patterns, fewer than a group of 40"):
        reconstruct(model_of(scan), scan, config(group_size=40))


def test_wrong_group_size_for_a_model_is_refused(scan: Scan) -> None:
    model = PtychoModel("cnn", {"width": 1}, 32, group_size=4)
    assert predict(model, scan, config()).canvases.shape[0] == 24
    with pytest.raises(InputError, match=r"inference\.group_size: this model is built for groups of 4 patterns, got 2"):
        predict(model, scan, config(group_size=2))


def test_wrong_maps_and_positions_are_refused(scan: Scan) -> None:
    result = reconstruct(model_of(scan), scan, config())
    for name, value, message in (
        ("uncertainty", -np.ones(result.shape, np.float32), "uncertainty must be >= 0"),
        ("uncertainty", np.ones((3, 4), np.float32), "uncertainty must be >= 0 and have the shape of object"),
        ("error_map", -np.ones(result.shape, np.float32), "error_map must be >= 0"),
        ("residuals", np.ones(3, np.float32), "residuals must be >= 0 and hold one value for each position"),
        ("intensities", -np.ones(scan.n, np.float32), "intensities must be >= 0"),
        ("positions", np.ones((4, 3)), r"positions must be \(n, 2\), got shape \(4, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(result, **{name: value})


# The device, the caller's model, and batches.


@pytest.mark.parametrize("generator", ["unrolled", "unet"])
@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_it_is(scan: Scan, generator: str, training: bool) -> None:
    model = PtychoModel(generator, SMALL if generator == "unrolled" else {"width": 4}, 32)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    model.train(training)
    model.generator.eval()  # modes may be mixed
    state = [(p.data_ptr(), p.stride(), p.device, p.requires_grad, p.clone()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    reconstruct(model, scan, config())
    predict(model, scan, config())
    assert [module.training for module in model.modules()] == modes
    for parameter, (address, stride, device, trained, value) in zip(model.parameters(), state, strict=True):
        assert (parameter.data_ptr(), parameter.stride(), parameter.device) == (address, stride, device)
        assert parameter.requires_grad == trained and not parameter.is_inference() and torch.equal(parameter, value)
    batch = GroupDataset(scan, group_patterns(scan.positions, 4), 4).collate([0])
    model(batch.counts, batch.positions, batch.canvas_size).abs().sum().backward()  # it still learns


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_default_device_and_type_of_other_code_are_harmless(
    scan: Scan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int, large: bool
) -> None:
    monkeypatch.setattr("ptychopinn.inference.predict.fits_in_memory", lambda _: not large)
    settings = {"data": {"group_size": 4}, "execution": {"workers": workers}, "inference": {"uncertainty": "overlaps"}}
    model, options = model_of(scan, 3), Config.from_dict(settings)
    expected = reconstruct([model, model_of(scan, 4)], scan, options, "cpu")
    torch.set_default_device("meta")  # as "cuda" on a machine with a GPU
    torch.set_default_dtype(torch.float64)
    try:
        # A model keeps its types; only what is made during the reconstruction is of interest.
        got = reconstruct([model, model_of_other(model)], scan, options, "cpu")
        predicted = predict(model, scan, options, "cpu")
        shape = reconstruct_to_file(model, scan, tmp_path / "r.h5", options, "cpu")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert predicted.canvases.device.type == "cpu" and predicted.weights.dtype == torch.float32
    assert got.object.dtype == expected.object.dtype and got.shape == expected.shape == shape
    assert np.isfinite(got.object).all() and np.ptp(np.abs(got.object)) > 0
    again = reconstruct([model, model_of(scan, 4)], scan, options, "cpu")
    np.testing.assert_array_equal(again.object, expected.object)


def model_of_other(model: PtychoModel) -> PtychoModel:
    """Return a copy, which needs no factory call."""
    return copy.deepcopy(model)


class Fussy(Generator):
    """The level of the counts; batches above two groups do not fit the memory of its device."""

    size_multiple = 1
    calls: ClassVar[list[int]] = []

    def forward(
        self, counts: torch.Tensor, positions: torch.Tensor, canvas_size: tuple[int, int], probe: torch.Tensor
    ) -> torch.Tensor:
        self.calls.append(len(counts))
        if len(counts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        level = counts.sum((-3, -2, -1)).sqrt().to(torch.complex64)
        return level[:, None, None].expand(-1, *canvas_size).contiguous()


def test_batches_that_do_not_fit_are_halved_and_the_rest_goes_on(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    model = PtychoModel("unrolled", SMALL, 32)
    model.generator = Fussy()
    expected = predict(model, scan, config(batch_size=2))
    Fussy.calls.clear()
    got = predict(model, scan, config(batch_size=16))
    for name in ("canvases", "weights", "origins"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert Fussy.calls == [16, 8, 4, *[2] * 12], "halved three times, and no group twice"
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "inference.batch_size: the memory of the device is not enough" in caplog.text


def test_group_that_does_not_fit_alone_is_an_error(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = PtychoModel("unrolled", SMALL, 32)
    monkeypatch.setattr(type(model.generator), "forward", forward)
    with pytest.raises(torch.OutOfMemoryError):
        predict(model, scan, config(batch_size=4))


def test_batch_size_makes_no_difference_beyond_that_of_the_network(scan: Scan) -> None:
    """Bitwise, for a generator that treats each group by itself."""

    class Alone(Fussy):
        def forward(self, counts: torch.Tensor, *rest: Any) -> torch.Tensor:
            return torch.cat([super(Alone, self).forward(one, *rest) for one in counts.split(1)])

    model = PtychoModel("unrolled", SMALL, 32)
    model.generator = Alone()
    images = [reconstruct(model, scan, config(batch_size=size)) for size in (1, 3, 16, None)]
    for image in images[1:]:
        np.testing.assert_array_equal(image.object, images[0].object)
        np.testing.assert_array_equal(image.weights, images[0].weights)


def test_several_processes_have_the_memory_guard(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process alone that believes it is one of several; test_distributed.py runs two."""
    model = model_of(scan, 3)
    expected = reconstruct(model, scan, config(coverage=2))
    stored = []
    monkeypatch.setattr("ptychopinn.inference.predict.distributed", lambda: True)
    monkeypatch.setattr("ptychopinn.inference.predict.fits_in_memory", lambda _: False)
    write = CanvasesOnDisk.write
    monkeypatch.setattr(CanvasesOnDisk, "write", lambda *parts: (stored.append(len(parts[2])), write(*parts))[1])
    got = reconstruct(model, scan, config(coverage=2))
    assert sum(stored) > 0
    np.testing.assert_allclose(got.object, expected.object, atol=3e-6 * np.abs(expected.object).max())


@pytest.mark.parametrize("modes", [1, 3])
def test_batches_on_a_gpu_follow_its_memory(scan: Scan, monkeypatch: pytest.MonkeyPatch, modes: int) -> None:
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4), 4)
    gpu, sizes = torch.device("cuda"), []
    for free in (0, 1 << 25, 1 << 40):
        monkeypatch.setattr("ptychopinn.runtime.batching.free_memory", lambda _, free=free: free)
        sizes.append(batch_groups(Config(), dataset, 5000, gpu, modes))
    assert sizes[0] == 1 and 1 < sizes[1] < sizes[2] == 1000, "5000 groups are five batches of 1000, at most 1024 each"
    assert batch_groups(Config(), dataset, 5000, torch.device("cpu"), modes) == 16
    assert batch_groups(config(batch_size=7), dataset, 5000, gpu, modes) == 7


# Weighting and cropping.


@pytest.mark.parametrize("rule", ["probe", "centre", "uniform"])
def test_weights_are_those_of_the_rule(scan: Scan, rule: str) -> None:
    model = model_of(scan)
    found = predict(model, scan, config(weighting=rule))
    (first,) = torch.nonzero((found.origins == found.origins[0]).all(1))[:1]
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4))
    members, total = dataset.groups[int(first)], np.zeros(found.weights.shape[1:])
    illumination = np.square(np.abs(scan.probe)).sum(0)
    window = {"probe": illumination, "uniform": np.ones((32, 32)), "centre": np.pad(np.ones((16, 16)), 8)}[rule]
    for position in scan.positions[members] - found.origins[int(first)].numpy():
        alone = np.pad(window, ((0, total.shape[0] - 32), (0, total.shape[1] - 32)))
        total += ndimage.shift(alone, position, order=1, mode="grid-constant")
    np.testing.assert_allclose(found.weights[int(first)].numpy(), total, atol=1e-4 * total.max())


def test_weightings_give_different_results(scan: Scan) -> None:
    images = {
        rule: reconstruct(model_of(scan), scan, config(weighting=rule)) for rule in ("probe", "centre", "uniform")
    }
    illuminated = images["centre"].weights > 0
    assert 0 < illuminated.sum() < (images["probe"].weights > 0).sum()
    assert not np.allclose(images["probe"].object[illuminated], images["uniform"].object[illuminated])
    assert np.all(images["centre"].object[~illuminated] == 0)


def test_crop_is_the_covered_part_at_its_origin(scan: Scan) -> None:
    full, crop = (
        reconstruct(model_of(scan), scan, config(crop=crop, uncertainty="overlaps")) for crop in (False, True)
    )
    assert crop.shape < full.shape and crop.uncertainty is not None
    y, x = (int(a - b) for a, b in zip(crop.origin, full.origin, strict=True))
    part = np.s_[y : y + crop.shape[0], x : x + crop.shape[1]]
    np.testing.assert_array_equal(crop.object, full.object[part])
    outside = full.covered()
    outside[part] = False
    assert not outside.any()
    assert full.covered()[part].any(0).all() and full.covered()[part].any(1).all()
