# SPDX-License-Identifier: BSD-3-Clause
"""The unrolled generator: without training it is the physical iteration; the network is applied between its steps."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_groups import batch_of, illuminated, relative, run, scan_of_groups

from ptycho_ext import extract_patches
from ptychopinn.models import PtychoModel, UnrolledGenerator, build_generator
from ptychopinn.physics.likelihood import amplitude_loss, poisson_loss
from ptychopinn.physics.propagation import diffract
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan


@pytest.fixture(scope="module")
def scan() -> Scan:
    return scan_of_groups()


def physics(steps: int) -> UnrolledGenerator:
    return UnrolledGenerator(steps=steps, width=8, state=2)


def test_more_untrained_steps_lower_the_loss(scan: Scan) -> None:
    probe, batch = torch.from_numpy(scan.probe), batch_of(scan, 9)
    losses = []
    for steps in (1, 2, 4, 8, 16):
        with torch.no_grad():
            canvas = run(physics(steps), batch, probe)
        losses.append(
            amplitude_loss(diffract(extract_patches(canvas, batch.positions, 32), probe), batch.counts).item()
        )
    assert all(later < earlier for earlier, later in itertools.pairwise(losses)), losses
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize("modes", [1, 2])
def test_untrained_steps_reconstruct_the_object(modes: int) -> None:
    scan = simulate("dead_leaves", patterns=36, size=32, step=(3, 4), photons=1e5, modes=modes, seed=2)
    probe, batch = torch.from_numpy(scan.probe), batch_of(scan, 16, groups=1)
    with torch.no_grad():
        canvas = run(physics(24), batch, probe)[0]
    top, left = batch.origins[0].tolist()
    height, width = batch.canvas_size
    truth = torch.from_numpy(scan.truth)[top : top + height, left : left + width]
    mask = illuminated(batch, probe)[0]
    found, true = canvas[mask], truth[mask]
    correlation = (torch.vdot(found, true).abs() / (found.norm() * true.norm())).item()
    wrong = torch.vdot(found, true.conj().resolve_conj()).abs().item() / (found.norm() * true.norm()).item()
    assert correlation > 0.9 and wrong < correlation - 0.3, (correlation, wrong)


def test_true_canvas_is_a_fixed_point_of_the_untrained_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and at integer positions."""
    scan = simulate("dead_leaves", patterns=16, size=32, step=(5, 4), jitter=0, photons=1e5, noise=False, seed=1)
    probe, batch = torch.from_numpy(scan.probe), batch_of(scan, 4, groups=1)
    top, left = batch.origins[0].tolist()
    truth = torch.from_numpy(scan.truth)[top:, left:][: batch.canvas_size[0], : batch.canvas_size[1]][None]
    strongest = probe[0]
    exact = extract_patches(truth.contiguous(), batch.positions, 32) * strongest
    monkeypatch.setattr("ptychopinn.models.unrolled.initial_waves", lambda counts, probe: (exact, strongest))
    with torch.no_grad():
        one_step, six_steps = (run(UnrolledGenerator(steps=n, regularisation=1e-4), batch, probe) for n in (1, 6))
    mask = illuminated(batch, probe, 0.1)
    assert relative(one_step[mask], truth[mask]) < 1e-2 and relative(six_steps[mask], truth[mask]) < 1e-2


def test_phase_0_gives_no_phase_before_training_and_can_learn_one(scan: Scan) -> None:
    options = {"steps": 2, "every": 1, "width": 8, "state": 2, "phase": 0.0}
    generator = build_generator("unrolled", 32, options)
    probe = torch.from_numpy(scan.probe)
    canvas = run(generator, batch_of(scan, 4), probe)
    assert (canvas.imag.abs() < 1e-6 * canvas.abs().max()).all() and (canvas.real > 0).float().mean() > 0.9
    model = PtychoModel("unrolled", options, 32)
    model.illumination.set_probe(probe)
    batch = batch_of(scan, 4)
    predicted = model.predict_counts(model(batch.counts, batch.positions, batch.canvas_size), batch.positions)
    poisson_loss(predicted, batch.counts).backward()
    assert (model.generator.step_size.grad != 0).all() and model.generator.start_phase.grad != 0


@pytest.mark.parametrize("every", [1, 2, 3, 9])
def test_network_is_applied_every_so_many_steps_and_after_the_last(scan: Scan, every: int) -> None:
    generator = build_generator("unrolled", 32, {"steps": 5, "every": every, "width": 8, "state": 2})
    calls = []
    for network in generator.networks:
        network.register_forward_hook(lambda *_: calls.append(1))
    run(generator, batch_of(scan, 4), torch.from_numpy(scan.probe))
    assert len(calls) == len(generator.networks) == len(range(4, -1, -every))


@pytest.mark.parametrize("missing", [1, 2], ids=["level", "dose and level"])
@pytest.mark.parametrize("shared", [True, False], ids=["one network", "several"])
def test_weights_of_earlier_versions_are_read(scan: Scan, missing: int, shared: bool) -> None:
    """They had one network for all steps, without the dose or the level as an input: they are the same function."""
    options = {"steps": 4, "every": 2, "width": 8, "state": 2}
    generator = build_generator("unrolled", 32, options)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    known = 22 - missing  # the first inputs are the same
    with torch.no_grad():
        for network in generator.networks:
            network.enter.weight[:, known:22] = 0
    if shared:
        parts = generator.networks[1].state_dict()
        parts.update({name: value for name, value in generator.networks[0].state_dict().items()})
        generator.networks[0].load_state_dict(parts)
        generator.networks[1].load_state_dict({name: parts[name] for name in generator.networks[1].state_dict()})
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe)
    expected = run(generator, batch, probe)
    earlier = {}
    for name, value in generator.state_dict().items():
        if name.endswith("enter.weight"):
            value = torch.cat([value[:, :known], value[:, 22:]], 1)
        if shared and name.startswith("networks."):
            if name.startswith("networks.1."):
                continue
            name = name.replace("networks.0.", "network.")
        earlier[name] = value
    other = build_generator("unrolled", 32, options)
    other.load_state_dict(earlier)
    assert torch.equal(run(other, batch, probe), expected)
    with torch.no_grad():
        other.networks[0].enter.weight[:, known] += 0.1
    assert not torch.equal(run(other, batch, probe), expected)


def test_a_network_sees_the_mean_transmission(scan: Scan) -> None:
    """The steps and the network's other inputs do not change with it: a weaker sample gives the same object, weaker."""
    generator = build_generator("unrolled", 32, {"steps": 2, "every": 2, "width": 8}).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch, probe = batch_of(scan, 4), torch.from_numpy(scan.probe) * 1e3
    counts = batch.counts * 1e6
    with torch.no_grad():
        canvas = run(generator, batch._replace(counts=counts), probe)
        weaker = run(generator, batch._replace(counts=counts / 4), probe)
        assert (weaker - canvas / 2).abs().max() > 1e-3 * canvas.abs().max()
        generator.networks[0].enter.weight[:, 21] = 0
        canvas = run(generator, batch._replace(counts=counts), probe)
        weaker = run(generator, batch._replace(counts=counts / 4), probe)
    assert (weaker - canvas / 2).abs().max() < 1e-3 * canvas.abs().max()
