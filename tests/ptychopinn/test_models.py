# SPDX-License-Identifier: BSD-3-Clause
"""Contract of all generators in the registry, the registry, and the model of a generator and an illumination.

Contract: any size, group and number of modes with one set of weights; the result does not depend on the order of groups
and members; every parameter learns; empty and extreme patterns give finite results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_groups import batch_of, illuminated, relative, run, scan_of_groups
from torch import Tensor, nn

from ptycho_ext import extract_patches
from ptychopinn.errors import InputError
from ptychopinn.models import GENERATORS, Generator, PtychoModel, UnrolledGenerator, build_generator, register_generator
from ptychopinn.physics.likelihood import poisson_loss
from ptychopinn.physics.probes import defocused
from ptychopinn.physics.propagation import diffract, mode_intensity
from ptychopinn.scan import Scan

#: Small versions of every generator: the name, and options that make it fast.
SMALL: dict[str, dict[str, Any]] = {
    "unrolled": {"steps": 2, "every": 1, "width": 8, "state": 2},
    "unet": {"width": 4},
    "cnn": {"width": 1, "object_big": False},
    "ffno": {"width": 8, "layers": 2, "modes": 6},
    "sru_net": {"width": 4, "units": 2, "modes": 4},
}
EACH = pytest.mark.parametrize("name", sorted(GENERATORS))


def small(name: str, size: int = 32, *, trained: bool = True, seed: int = 0) -> Generator:
    """Return a generator; ``trained`` sets the weights of its last layer, which are initially zero."""
    torch.manual_seed(seed)
    generator = build_generator(name, size, SMALL.get(name))
    if trained:
        for parameter in generator.parameters():
            if parameter.dim() > 0 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return generator


@pytest.fixture(scope="module")
def scan() -> Scan:
    return scan_of_groups()


# Contract.


@EACH
@pytest.mark.parametrize("size", [32, 48, 64])
def test_group_size_and_modes_are_free_with_one_set_of_weights(name: str, size: int) -> None:
    generator = small(name, size)
    for members in (1, 2, 4, 9):
        for modes in (1, 3):
            probe = torch.from_numpy(defocused(size, modes)) * 100
            counts = torch.poisson(torch.rand(2, members, size, size) * 20)
            canvas = (size + 8, size + 16)
            positions = torch.rand(2, members, 2, dtype=torch.float64) * torch.tensor([8.0, 16.0])
            result = generator(counts, positions, canvas, probe)
            assert result.shape == (2, *canvas) and result.dtype == torch.complex64
            assert torch.isfinite(result.abs()).all() and result.abs().max() > 0


@EACH
def test_largest_patterns_are_accepted(name: str) -> None:
    probe = torch.from_numpy(defocused(256, 1)) * 1e3
    generator = build_generator(name, 256, {**SMALL.get(name, {}), **({"steps": 1} if name == "unrolled" else {})})
    with torch.no_grad():
        result = generator(torch.rand(1, 1, 256, 256), torch.zeros(1, 1, 2, dtype=torch.float64), (256, 256), probe)
    assert result.shape == (1, 256, 256) and torch.isfinite(result.abs()).all()


@EACH
@pytest.mark.parametrize("counts", [0.0, 1e-3, 1e9])
def test_extreme_patterns_give_finite_losses_and_gradients(name: str, counts: float) -> None:
    """Zero, like frames taken with the shutter closed, and very bright patterns."""
    generator = small(name)
    patterns = torch.full((1, 2, 32, 32), counts)
    model = PtychoModel(name, SMALL.get(name), 32, learn_probe=True)
    model.generator = generator
    positions = torch.tensor([[[0.0, 0.0], [3.5, 2.5]]], dtype=torch.float64)
    model.illumination.set_probe(torch.from_numpy(defocused(32)) * 100)
    canvas = model(patterns, positions, (36, 36))
    loss = poisson_loss(model.predict_counts(canvas, positions), patterns)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter, gradient in ((key, p.grad) for key, p in model.named_parameters() if p.requires_grad):
        assert torch.isfinite(gradient).all(), parameter


@EACH
def test_every_parameter_has_a_gradient_and_learns(name: str, scan: Scan) -> None:
    model = PtychoModel(name, SMALL.get(name), 32, learn_probe=True, learn_scale=True)
    model.generator = small(name)
    model.illumination.set_probe(torch.from_numpy(scan.probe) * 0.9)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    batch = batch_of(scan, 4)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    canvas = model(batch.counts, batch.positions, batch.canvas_size)
    loss = poisson_loss(model.predict_counts(canvas, batch.positions), batch.counts)
    loss.backward()
    optimiser.step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0 and not torch.equal(parameter, before[key]), key


@EACH
@pytest.mark.parametrize("modes", [1, 2])
def test_gradients_are_derivatives(name: str, modes: int, scan: Scan) -> None:
    """Of the loss along a random direction of all parameters, in float64, against a central difference."""
    model = PtychoModel(name, SMALL.get(name), 32, modes, learn_probe=True, learn_scale=True)
    model.generator = small(name)
    model.illumination.set_probe(torch.from_numpy(defocused(32, modes)) * 300)
    # Smooth activations, because a difference across a kink is no derivative.
    replaced = {nn.ReLU: nn.SiLU, nn.MaxPool2d: nn.AvgPool2d}
    for module in list(model.modules()):
        for key, child in module.named_children():
            if type(child) in replaced:
                setattr(module, key, replaced[type(child)](2) if isinstance(child, nn.MaxPool2d) else nn.SiLU())
    model = model.double()
    batch = batch_of(scan, 4)
    counts = batch.counts.double()
    # The initial estimate does not differentiate the phase of the probe.
    parameters = [p for n, p in model.named_parameters() if n != "illumination.lanes"]
    torch.manual_seed(1)
    directions = [torch.randn_like(p) * p.abs().mean().clamp_min(1e-3) for p in parameters]

    def loss() -> Tensor:
        predicted = model.predict_counts(model(counts, batch.positions, batch.canvas_size), batch.positions)
        return poisson_loss(predicted, counts)

    @torch.no_grad()
    def loss_beside(step: float) -> float:
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter += step * direction
        value = loss().item()
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter -= step * direction
        return value

    with relu_as_silu():
        gradients = torch.autograd.grad(loss(), parameters)
        derivative = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        difference = (loss_beside(1e-5) - loss_beside(-1e-5)) / 2e-5
    assert difference == pytest.approx(derivative, rel=1e-3)


@contextmanager
def relu_as_silu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "relu", F.silu)
        patch.setattr(F, "max_pool2d", F.avg_pool2d)
        yield


@EACH
def test_training_lowers_the_loss_without_labels(name: str, scan: Scan) -> None:
    torch.manual_seed(0)
    model = PtychoModel(name, SMALL.get(name), 32)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    batch = batch_of(scan, 4)
    optimiser = torch.optim.Adam(model.generator.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        canvas = model(batch.counts, batch.positions, batch.canvas_size)
        loss = poisson_loss(model.predict_counts(canvas, batch.positions), batch.counts)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@EACH
def test_result_does_not_depend_on_the_order_of_members_or_on_other_groups(name: str, scan: Scan) -> None:
    generator, probe, batch = small(name), torch.from_numpy(scan.probe), batch_of(scan, 4, groups=3)
    with torch.no_grad():
        result = run(generator, batch, probe)
        order = torch.tensor([2, 0, 3, 1])
        permuted = generator(batch.counts[:, order], batch.positions[:, order], batch.canvas_size, probe)
        assert relative(permuted, result) < 2e-5
        for row in range(3):
            alone = generator(batch.counts[row : row + 1], batch.positions[row : row + 1], batch.canvas_size, probe)
            assert relative(alone[0], result[row]) < 2e-5
        mixed = batch.positions[[1, 0, 2]]
        assert relative(generator(batch.counts, mixed, batch.canvas_size, probe)[0], result[0]) > 1e-2


@EACH
@pytest.mark.parametrize(("shift", "trained"), [((3, 6), False), ((5, 1), False), ((8, 4), True)])
def test_shifted_positions_shift_the_canvas(name: str, scan: Scan, shift: tuple[int, int], trained: bool) -> None:
    """By any integer shift for the physics, and by multiples of 4 px for a network on the canvas."""
    generator, probe, batch = small(name, trained=trained), torch.from_numpy(scan.probe), batch_of(scan, 4)
    height, width = batch.canvas_size
    canvas, (down, right) = (height + 56, width + 56), shift
    with torch.no_grad():
        here = generator(batch.counts, batch.positions + 24, canvas, probe)
        there = generator(batch.counts, batch.positions + 24 + torch.tensor(shift), canvas, probe)
    window = np.s_[:, 24 : 24 + height, 24 : 24 + width]
    moved = np.s_[:, 24 + down : 24 + down + height, 24 + right : 24 + right + width]
    assert relative(there[moved], here[window]) < 1e-4
    assert relative(there[window], here[window]) > 1e-2


@EACH
@pytest.mark.parametrize("scale", [4.0, 16.0])
def test_dose_does_not_change_the_object(name: str, scan: Scan, scale: float) -> None:
    """Far above the background of 0.1 counts, which reduces the step of dark pixels at low dose."""
    generator, probe, batch = small(name, trained=False), 10 * torch.from_numpy(scan.probe), batch_of(scan, 4)
    batch = batch._replace(counts=100 * batch.counts)
    with torch.no_grad():
        one = run(generator, batch, probe)
        other = generator(batch.counts * scale, batch.positions, batch.canvas_size, probe * scale**0.5)
    assert relative(other, one) < 2e-2
    # The same probe with more counts: a more transparent object.
    with torch.no_grad():
        brighter = generator(batch.counts * scale, batch.positions, batch.canvas_size, probe)
    mask = illuminated(batch, probe)
    assert (brighter[mask].abs().mean() / one[mask].abs().mean()).item() == pytest.approx(scale**0.5, rel=0.05)


# Registry.


@pytest.mark.parametrize("name", sorted(set(GENERATORS) - {"cnn"}))
def test_a_network_sees_the_mean_transmission(name: str, scan: Scan) -> None:
    """An object that is weaker throughout is not the same one, scaled: phase and amplitude are related differently."""
    torch.manual_seed(0)
    generator = small(name, 32)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe) * 1e3
    with torch.no_grad():
        canvas, weaker = (
            run(generator.eval(), batch._replace(counts=batch.counts * scale), probe) for scale in (1e6, 1e6 / 4)
        )
    assert (weaker - canvas / 2).abs().max() > 1e-2 * canvas.abs().max()


def test_weights_of_a_unet_without_the_mean_transmission_are_read(scan: Scan) -> None:
    unet = small("unet")
    first = "down.0.0.weight"
    with torch.no_grad():
        unet.get_parameter(first)[:, 4] = 0
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe)
    other = small("unet", seed=1)
    other.load_state_dict({k: v[:, :4] if k == first else v for k, v in unet.state_dict().items()})
    assert torch.equal(run(other, batch, probe), run(unet, batch, probe))


@pytest.mark.parametrize("size", [20, 40, 16, 272, 0])
@EACH
def test_unsupported_sizes_are_errors(name: str, size: int) -> None:
    with pytest.raises(
        InputError, match=rf"model.generator: '{name}' takes patterns of 32 to 256 pixels in .* 16, got"
    ):
        build_generator(name, size)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: build_generator("resnet", 64),
            "model.generator: must be one of cnn, ffno, sru_net, unet, unrolled, got 'resnet'",
        ),
        (lambda: build_generator("unet", 64, {"steps": 3}), "model.options: 'unet' takes width, got steps"),
        (
            lambda: build_generator("unrolled", 64, {"depth": 3, "step": 4, "width": 8}),
            "model.options: 'unrolled' takes steps, every, width, state, regularisation, phase, got depth, step",
        ),
        (lambda: build_generator("unrolled", 64, {"steps": 0}), "model.options: steps must be at least 1, got 0"),
        (lambda: build_generator("unrolled", 64, {"every": 0}), "model.options: every must be at least 1, got 0"),
        (lambda: build_generator("unrolled", 64, {"phase": 2}), "model.options: phase must be between 0 and 1, got 2"),
        (lambda: build_generator("cnn", 64, {"width": 0}), "model.options: width must be at least 1, got 0"),
        (lambda: build_generator("ffno", 64, {"layers": 0}), "model.options: layers must be at least 1, got 0"),
        (lambda: build_generator("ffno", 64, {"block": 3}), "model.options: block must be 1, 2 or 4, got 3"),
        (lambda: build_generator("sru_net", 64, {"modes": 0}), "model.options: modes must be at least 1, got 0"),
        (
            lambda: build_generator("sru_net", 64, {"output": "amplitude"}),
            "model.options: output must be one of complex, polar, got 'amplitude'",
        ),
    ],
)
def test_unknown_names_and_options_are_errors(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_options_are_passed_to_the_generator_and_names_are_unique() -> None:
    assert build_generator("unrolled", 64, {"steps": 7}).steps == 7
    assert build_generator("unrolled", 64).steps == build_generator("unrolled", 64, {}).steps
    with pytest.raises(ValueError, match="'unet' is taken by UNetGenerator"):
        register_generator("unet")(UnrolledGenerator)


def test_example_generator_of_the_documentation_works(scan: Scan) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    try:
        exec(compile(code, "docs/training.md", "exec"), {})
        batch = batch_of(scan, 4)
        generator = build_generator("initial", 32, {"regularisation": 0.1})
        canvas = run(generator, batch, torch.from_numpy(scan.probe))
        assert canvas.shape == (2, *batch.canvas_size) and canvas.abs().max() > 0
    finally:
        GENERATORS.pop("initial", None)


# Model.


def test_model_predicts_counts_of_its_canvas(scan: Scan) -> None:
    model = PtychoModel("unrolled", SMALL["unrolled"], 32, modes=2)
    probe = torch.from_numpy(defocused(32, 2)) * 200
    model.illumination.set_probe(probe)
    assert model.patch_size == 32 and model.modes == 2
    canvases = torch.randn(2, 40, 44, dtype=torch.complex64)
    positions = torch.rand(2, 3, 2, dtype=torch.float64) * 8
    counts = model.predict_counts(canvases, positions)
    assert counts.shape == (2, 3, 32, 32)
    torch.testing.assert_close(counts, diffract(extract_patches(canvases, positions, 32), probe), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mode_intensity(model.predict_fields(canvases, positions)), counts, rtol=1e-4, atol=1e-3)


def test_model_reconstructs_with_its_probe_or_another(scan: Scan) -> None:
    model = PtychoModel("unrolled", SMALL["unrolled"], 32)
    probe, batch = torch.from_numpy(scan.probe), batch_of(scan, 4)
    with torch.no_grad():
        by_argument = model(batch.counts, batch.positions, batch.canvas_size, probe)
        flat = model(batch.counts, batch.positions, batch.canvas_size)
        model.illumination.set_probe(probe)
        own = model(batch.counts, batch.positions, batch.canvas_size)
    assert relative(own, by_argument) < 1e-4 and relative(flat, by_argument) > 0.1


def test_state_dict_contains_probe_scale_and_mask() -> None:
    model = PtychoModel("unet", SMALL["unet"], 32, learn_scale=True)
    model.illumination.set_probe(torch.from_numpy(defocused(32)) * 50)
    model.good[3, 4] = False
    with torch.no_grad():
        model.illumination.log_scale.fill_(0.3)
    other = PtychoModel("unet", SMALL["unet"], 32)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.illumination.probe, model.illumination.probe) and torch.equal(other.good, model.good)
