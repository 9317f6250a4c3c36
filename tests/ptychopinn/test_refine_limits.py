# SPDX-License-Identifier: BSD-3-Clause
"""Support of the probe, limits of the object's amplitude and phase, and parts that are refined later."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_refinements import QUICK, small_scan, with_wrong_probe

from ptychopinn.cli.app import run as main
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.physics.probes import disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.limits import Limits, amplitude_excess, phase_excess
from ptychopinn.refinement.run import Refinement
from ptychopinn.refinement.schedule import config_at, last_begin
from ptychopinn.refinement.several import refine_several
from ptychopinn.refinement.state import State
from ptychopinn.refinement.support import confined, disc, shrunk
from ptychopinn.refinement.workflow import Progress, refine
from ptychopinn.scan import Scan

CPU = torch.device("cpu")


def pinhole_scan(guess: float = 1.2, **options: Any) -> Scan:
    """A scan with a curved wave behind a pinhole of 26 px, off centre, and an initial probe of another curvature."""
    axis = np.arange(64) - 32

    def wave(curvature: float, y: int, x: int) -> np.ndarray:
        v, u = (axis[:, None] - y) / 13, (axis - x) / 13
        probe = np.roll(disk(64, diameter=26 / 64)[0], (y, x), (0, 1))
        return np.asarray(probe * np.exp(1j * (curvature * (1.2 * v**2 + u**2) + 0.5 * u**3)), np.complex64)[None]

    scan = simulate("photos", probe=wave(2.5, 1, -2), **{"patterns": 16, "step": 16, "photons": 1e5, **options})
    initial = wave(guess, 0, 0)
    initial *= np.sqrt((np.abs(scan.probe) ** 2).sum() / (np.abs(initial) ** 2).sum())
    return dataclasses.replace(scan, probe=initial)


def refined(scan: Scan, **options: Any) -> Reconstruction:
    config = RefineConfig(**{"split_half": False, "iterations": 100, **options})
    return refine(scan, None, config, "cpu", accept="all")


def frc(found: Reconstruction, scan: Scan) -> float:
    return float(evaluate(found, scan, border=8, threshold=0.1)["frc"]["mean"])


def outside(found: Reconstruction, diameter: float) -> np.ndarray:
    assert found.probe is not None
    return found.probe[:, disc(found.probe.shape[-1], diameter, CPU).numpy() == 0]


def random_state(shape: tuple[int, ...], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    image, probe = (torch.randn(part, dtype=torch.complex128, generator=generator) for part in (shape, (2, 6, 6)))
    empty = torch.zeros(3, 2, dtype=torch.float64)
    return State(image, probe, empty, empty[:, 0])


def test_disc_is_about_the_middle_sample() -> None:
    mask = disc(8, 4, CPU)
    assert mask[4, 4] == mask[6, 4] == mask[4, 2] == 1 and mask[7, 4] == mask[4, 1] == mask[6, 6] == 0
    assert mask.sum() == 13


@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_probe_is_zero_outside_of_its_support(engine: str) -> None:
    scan = small_scan(patterns=49, probe="disk")
    options = {"engine": engine, "modes": 2, "learn_positions": True, "iterations": 32, "probe_support": 22.0}
    found = refined(scan, **options)
    assert not outside(found, 22.0).any()
    assert found.probe is not None and (np.abs(found.probe).max((1, 2)) > 0).all()
    power = (np.abs(found.probe) ** 2).sum(), (np.abs(scan.probe) ** 2).sum()
    assert power[0] == pytest.approx(power[1], rel=1e-4)


def test_variations_are_zero_outside_of_the_support() -> None:
    scan = small_scan(patterns=64, probe="disk")
    found = refined(scan, probe_support=24.0, probe_variations=2, iterations=30)
    variations = found.experiment.probe_variations
    assert variations is not None and np.abs(variations).max() > 0
    assert not variations[:, disc(32, 24.0, CPU).numpy() == 0].any() and not outside(found, 24.0).any()


def test_support_helps_with_few_patterns() -> None:
    scan = pinhole_scan()
    assert frc(refined(scan, probe_support=38.0), scan) > frc(refined(scan), scan) + 0.02


def test_support_in_a_coarse_beginning() -> None:
    scan = pinhole_scan(patterns=36, step=10)
    found = refined(scan, probe_support=38.0, coarse=2, iterations=20)
    assert not outside(found, 38.0).any() and frc(found, scan) > 0.5


def test_support_without_the_probe_is_refused() -> None:
    scan = pinhole_scan()
    shifted = dataclasses.replace(scan, probe=np.roll(scan.probe, 32, 1))
    with pytest.raises(InputError, match=r"expected an initial probe within refine.probe_support, found 0.0% of its"):
        refined(shifted, probe_support=20.0)


def test_a_confined_state_keeps_its_power() -> None:
    state = random_state((9, 8))
    state.variations = state.probe[:1].clone()
    support = disc(6, 4, CPU)
    found = confined(state, support, "scan")
    assert found.probe.abs().square().sum() == pytest.approx(float(state.probe.abs().square().sum()))
    assert not (found.probe * (1 - support)).any() and not (found.variations * (1 - support)).any()
    assert confined(state, None, "scan") is state


def test_small_values_leave_the_support_and_zeros_inside_do_not() -> None:
    probe = torch.zeros(1, 16, 16, dtype=torch.complex64)
    probe[0, 4:11, 5:12] = 1.0
    probe[0, 7, 8] = 0.0
    probe += 0.01
    empty = torch.zeros(3, 2, dtype=torch.float64)
    state = State(torch.ones(20, 20, dtype=torch.complex64), probe, empty, empty[:, 0])
    support = shrunk(state, None, 0.1)
    assert support[4:11, 5:12].all() and support.sum() == 81 - 0 and not support[0].any()
    assert shrunk(confined(state, support, "scan"), support, 0.1) is support


@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_support_shrinks_to_the_pinhole(engine: str) -> None:
    scan = pinhole_scan(photons=1e6, patterns=25, step=10)
    found = refined(scan, probe_threshold=0.05, iterations=65, engine=engine)
    assert found.probe is not None and found.refinement is not None
    inside = (found.probe[0] != 0).sum()
    assert np.pi * 12**2 < inside < np.pi * 18**2
    assert found.refinement.passes > 40  # the search for an end begins again


@pytest.mark.parametrize("shape", [(9, 8), (2, 9, 8)])
@pytest.mark.parametrize("keep_power", [True, False])
def test_gradient_of_the_limits_against_finite_differences(shape: tuple[int, ...], keep_power: bool) -> None:
    config = RefineConfig(amplitude_limit=0.8, phase_limits=(-0.9, 0.4), limit_weight=0.7, keep_power=keep_power)
    limits = Limits(config, pixels=100)
    state, step = random_state(shape), random_state(shape, seed=1)
    limits.set_power(2 * state.probe)
    weight = torch.rand(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight /= weight.sum()
    gradient = state.map(torch.zeros_like)
    limits(state, weight, gradient)
    for name in ("object", "probe"):
        move = state.map(torch.zeros_like)
        setattr(move, name, getattr(step, name))
        ends = [float(limits(state.plus(sign * 1e-6, move), weight, state.map(torch.zeros_like))) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-6
        assert 2 * float(gradient.dot(move)) == pytest.approx(expected, rel=1e-6, abs=1e-7), name


def test_limits_are_zero_within_and_quadratic_beyond() -> None:
    weight, one = torch.full((2, 3), 1 / 6, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    image = torch.polar(torch.full_like(weight, 0.9), torch.full_like(weight, 0.5))
    assert amplitude_excess(image, weight, one, 0.91)[0] == 0 == phase_excess(image, weight, -0.1, 0.51)[0]
    assert amplitude_excess(image, weight, 2 * one, 1.0)[0] == pytest.approx(0.8**2)
    assert phase_excess(image, weight, -1.0, 0.2)[0] == pytest.approx(0.3**2)
    # The phase is that within pi of the middle of the limits.
    assert phase_excess(image, weight, 6.5, 6.6)[0] == pytest.approx((0.5 + 2 * np.pi - 6.6) ** 2)


def particles(shape: tuple[int, int], rng: np.random.Generator, *_: object) -> np.ndarray:
    """Particles in vacuum that retard the phase by up to 0.9 rad and absorb little."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    depth = np.zeros(shape)
    for _number in range(shape[0] * shape[1] // 500):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 9)
        depth = np.maximum(depth, (np.hypot((y - cy) / 1.3, x - cx) < radius) * rng.uniform(0.3, 1))
    return np.exp((-0.15 - 0.9j) * gaussian_filter(depth, 0.7)).astype(np.complex64)


def test_amplitude_limit_improves_a_transparent_sample() -> None:
    scan = simulate(particles, patterns=100, step=8, photons=1e5, seed=1)
    without, limited = refined(scan, iterations=60), refined(scan, iterations=60, amplitude_limit=1.0)
    assert frc(limited, scan) > frc(without, scan) + 0.005
    excess = [np.maximum(np.abs(found.object[found.covered(0.2)]) - 1, 0).mean() for found in (without, limited)]
    assert excess[1] < 0.55 * excess[0]


@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_limits_of_the_phase_choose_its_constant(engine: str) -> None:
    scan = with_wrong_probe(small_scan(patterns=100, object=particles, photons=3e4, step=5))
    without, limited = (
        refined(scan, engine=engine, iterations=40, phase_limits=limits) for limits in (None, (-0.9, 0.0))
    )
    excess = []
    for found in (without, limited):
        phase = np.angle(found.object[found.covered(0.2)])
        excess.append(np.maximum(np.abs(phase + 0.45) - 0.45, 0).mean())
    assert excess[1] < 0.25 * excess[0]
    assert frc(limited, scan) > frc(without, scan) - 0.03


def test_limits_of_a_weak_dose_do_not_make_steps_of_pie_too_long() -> None:
    scan = small_scan(patterns=64, photons=300, object=particles)
    found = refined(scan, engine="pie", iterations=10, amplitude_limit=1.0, limit_weight=1000.0)
    assert found.refinement is not None
    assert found.refinement.deviance[-1] < found.refinement.deviance[0]
    assert np.abs(found.object[found.covered(0.2)]).max() < 1.2


def test_what_is_refined_later_is_fixed_until_then() -> None:
    scan = with_wrong_probe(small_scan(patterns=49))
    seen: list[tuple[int, bool, bool]] = []

    def note(progress: Progress) -> None:
        found = progress.result()
        assert found.probe is not None and found.positions is not None
        moved = bool((found.positions != scan.positions).any())
        seen.append((progress.passes, bool((found.probe != scan.probe).any()), moved))

    options = {"learn_positions": True, "find_defocus": False, "centre_probe": False, "keep_power": False}
    config = dataclasses.replace(QUICK, iterations=14, probe_from=4, positions_from=9, **options)  # type: ignore[arg-type]
    refine(scan, None, config, "cpu", progress=note, every=1)
    assert seen == [(n, n > 4, n > 9) for n in range(1, 15)]
    assert last_begin(config) == 9 and config_at(config, 9) is config


def test_refinement_does_not_end_before_everything_is_refined() -> None:
    scan = small_scan(patterns=49)
    config = dataclasses.replace(QUICK, iterations=60, probe_from=40, tolerance=0.5)
    run = Refinement(scan, None, config, CPU, None, 10)
    with torch.no_grad():
        run.iterate()
    assert 50 < run.passes < 60


@pytest.mark.parametrize(
    "options",
    [
        {"probe_from": 3, "positions_from": 31, "learn_positions": True, "affine": "refine"},
        {"probe_support": 20.0, "probe_threshold": 0.2, "amplitude_limit": 1.0, "phase_limits": (-1.0, 0.5)},
        {"engine": "pie", "probe_from": 31, "probe_threshold": 0.2, "probe_support": 20.0, "amplitude_limit": 0.9},
    ],
    ids=["later", "limits", "pie"],
)
def test_a_resumed_refinement_equals_an_uninterrupted_one(options: dict[str, Any], tmp_path: Path) -> None:
    scan = with_wrong_probe(small_scan(patterns=36))
    config = dataclasses.replace(QUICK, iterations=66, tolerance=0.0, find_defocus=False, **options)

    def save(progress: Progress) -> None:
        if progress.passes in (3, 30, 31, 61):
            progress.save(tmp_path / f"{progress.passes}.ckpt")

    uninterrupted = refine(scan, None, config, progress=save, every=1)
    for passes in (3, 30, 31, 61):
        resumed = refine(scan, None, config, resume=tmp_path / f"{passes}.ckpt")
        for name in ("object", "probe", "positions"):
            assert np.array_equal(getattr(uninterrupted, name), getattr(resumed, name)), (passes, name)
        assert uninterrupted.refinement.deviance == resumed.refinement.deviance


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probe_support": 0.0}, "refine.probe_support must be positive, got 0.0"),
        ({"probe_threshold": 1.0}, r"refine.probe_threshold must be in \[0, 1\), got 1.0"),
        ({"amplitude_limit": -1.0}, "refine.amplitude_limit must be positive, got -1.0"),
        ({"phase_limits": [0.5, 0.5]}, r"must be two phases, low < high < low \+ 2 pi, got \(0.5, 0.5\)"),
        ({"phase_limits": [0.5]}, "refine.phase_limits must be two phases"),
        ({"positions_from": -1}, "refine.positions_from must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        RefineConfig(**options)
    assert RefineConfig(phase_limits=[-1, 0.5]).phase_limits == (-1, 0.5)  # type: ignore[arg-type]


def test_several_scans_with_a_support_and_a_later_start() -> None:
    scans = [small_scan(patterns=25, probe="disk", seed=seed) for seed in (0, 1)]
    config = dataclasses.replace(QUICK, iterations=8, probe_support=22.0, probe_from=3, amplitude_limit=1.0)
    for found, scan in zip(refine_several(scans, "probe", None, config, "cpu"), scans, strict=True):
        assert not outside(found, 22.0).any()
        assert found.probe is not None and (found.probe != scan.probe)[:, 16, 16].any()


def test_options_of_the_command_line(tmp_path: Path) -> None:
    scan, out = tmp_path / "scan.npz", tmp_path / "refined.h5"
    small_scan(patterns=25, probe="disk").save(scan)
    (tmp_path / "options.yaml").write_text("refine:\n  phase_limits: [-1.0, 0.5]\n  probe_threshold: 0.1\n")
    options = ["--refine.split_half", "false", "--refine.probe_support", "22", "--refine.amplitude_limit", "1"]
    options += ["--refine.limit_weight", "10", "--refine.probe_from", "2", "--refine.positions_from", "3"]
    common = ["refine", "--from-scratch", str(scan), "--out", str(out), "--iterations", "4", "--device", "cpu"]
    assert main([*common, "--config", str(tmp_path / "options.yaml"), *options]) == 0
    found = Reconstruction.load(out)
    assert found.refinement is not None and not outside(found, 22.0).any()
    assert found.refinement.config["phase_limits"] == [-1.0, 0.5] and found.refinement.config["probe_threshold"] == 0.1
