# SPDX-License-Identifier: BSD-3-Clause
"""Simulated experiments beyond the plain model, against analytic fields, direct sums and the plain simulator."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from ptychopinn.acquisition import wavelength_of
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.simulate import MARGIN, ObjectSource, diffract, predict_counts, simulate
from ptychopinn.physics.simulate_experiments import (
    as_variations,
    drifting_probe,
    line_exposure,
    make_slices,
    smooth_background,
    snake_directions,
)
from ptychopinn.physics.simulate_waves import Optics, blurred, free_space

SIZE = 32
POSITIONS = np.array([[3.3, 8.0], [10.0, 2.75], [7.45, 12.2]])


@cache
def sample() -> np.ndarray:
    return OBJECTS["dead_leaves"]((60, 66), np.random.default_rng(0))


@cache
def probe_of(modes: int = 1) -> np.ndarray:
    """A probe without symmetry, of 1e4 counts."""
    return 100 * np.roll(PROBES["defocused"](SIZE, modes), (1, -2), (-2, -1))


def spread_gaussian(y: np.ndarray, x: np.ndarray, widths: tuple[float, float], inverse: float) -> np.ndarray:
    """A Gaussian exp(-y^2 / 2 wy^2 - x^2 / 2 wx^2) after paraxial free space of 1 / F = inverse."""
    field = np.ones(np.broadcast(y, x).shape, complex)
    for axis, width in zip((y, x), widths, strict=True):
        q = width**2 + 1j * inverse / (2 * np.pi)
        field = field * width / np.sqrt(q) * np.exp(-(axis**2) / (2 * q))
    return field


@pytest.mark.parametrize("fresnel", [0.05, -0.08])
def test_near_field_of_a_gaussian_absorber_in_a_plane_wave(fresnel: float) -> None:
    size, centre, widths = 64, np.array([38.2, 45.7]), (3.0, 4.5)
    y, x = np.mgrid[:90, :100].astype(float)
    image = 1 - (0.4 + 0.3j) * np.exp(
        -((y - centre[0]) ** 2) / (2 * widths[0] ** 2) - (x - centre[1]) ** 2 / (2 * widths[1] ** 2)
    )
    positions = np.array([[5.0, 12.0], [6.4, 13.7], [7.75, 10.5]])
    made = diffract(image, np.ones((1, size, size)), positions, Experiment(fresnel_number=fresnel))
    i, j = np.mgrid[:size, :size].astype(float)
    for pattern, position in zip(made, positions, strict=True):
        y0, x0 = centre - position
        expected = np.abs(1 - (0.4 + 0.3j) * spread_gaussian(i - y0, j - x0, widths, 1 / fresnel)) ** 2
        np.testing.assert_allclose(pattern, expected, atol=2e-4)
    assert np.ptp(made[0]) > 0.3


def test_a_gaussian_beam_spreads_and_stays_while_an_empty_sample_moves() -> None:
    i, j = np.mgrid[:64, :64].astype(float)
    beam = spread_gaussian(i - 30, j - 34, (3.0, 4.0), 0.0)[np.newaxis]
    made = diffract(np.ones((80, 80)), beam, np.array([[3.0, 2.0], [4.4, 5.3]]), Experiment(fresnel_number=0.02))
    expected = np.abs(spread_gaussian(i - 30, j - 34, (3.0, 4.0), 50.0)) ** 2
    np.testing.assert_allclose(made, np.stack([expected, expected]), atol=1e-6)
    assert expected.max() < 0.8
    np.testing.assert_allclose(made.sum((1, 2)), np.sum(np.abs(beam) ** 2), rtol=1e-10)


def test_paraxial_limit_and_reciprocity_of_free_space() -> None:
    np.testing.assert_allclose(free_space(32, 0.3, 1e-4), free_space(32, 0.3), atol=1e-7)
    wide = free_space(32, 0.3, 0.5)
    f = np.fft.fftfreq(32)
    s = 0.25 * (f[:, None] ** 2 + f**2)
    np.testing.assert_allclose(wide, np.exp(2j * np.pi / (0.25 * 0.3) * (np.sqrt(1 - s) - 1)), atol=1e-12)
    assert np.abs(wide - free_space(32, 0.3)).max() > 0.1
    np.testing.assert_allclose(free_space(32, 0.3, 0.5) * free_space(32, -0.3, 0.5), 1, atol=1e-12)


def thick(distance: float, **values: Any) -> tuple[Experiment, dict[str, float], np.ndarray]:
    """A two-slice experiment, its lengths, and its transfer function without a tilt."""
    lengths = {"pixel_size": 20e-9, "energy": 8000.0}
    wavelength = wavelength_of(8000.0)
    transfer = free_space(SIZE, 20e-9**2 / (wavelength * distance), wavelength / 20e-9)
    return Experiment(slice_distances=(distance,), **values), lengths, transfer


def test_an_empty_first_slice_is_free_space() -> None:
    experiment, lengths, transfer = thick(8e-6)
    image, probe = sample(), probe_of(2)
    slices = np.stack([np.ones_like(image), image])
    propagated = np.fft.ifft2(np.fft.fft2(probe) * transfer)
    made = diffract(slices, probe, POSITIONS, experiment, **lengths)
    np.testing.assert_allclose(made, diffract(image, propagated, POSITIONS), rtol=1e-6, atol=1e-6)
    assert np.abs(made - diffract(image, probe, POSITIONS)).sum() > 0.05 * made.sum()
    back = diffract(slices[::-1], probe, POSITIONS, experiment, **lengths)
    np.testing.assert_allclose(back, diffract(image, probe, POSITIONS), rtol=1e-6, atol=1e-6)


def test_a_tilted_beam_displaces_the_wave_along_the_tilt() -> None:
    distance, tilt = 8e-6, (0.004, -0.0075)
    experiment, lengths, transfer = thick(distance, tilt=tilt)
    y, x = distance * np.tan(tilt) / 20e-9  # 1.6 and -3 px
    f = np.fft.fftfreq(SIZE)
    moved = np.exp(-2j * np.pi * (y * f[:, None] + x * f))
    probe = probe_of()
    propagated = np.fft.ifft2(np.fft.fft2(probe) * transfer * moved)
    slices = np.stack([np.ones((60, 66), np.complex64), sample()])
    made = diffract(slices, probe, POSITIONS, experiment, **lengths)
    np.testing.assert_allclose(made, diffract(sample(), propagated, POSITIONS), rtol=1e-6, atol=1e-6)


def test_slices_and_the_near_field_add_their_distances() -> None:
    experiment, lengths, _ = thick(8e-6, fresnel_number=0.4)
    empty = np.stack([sample(), np.ones_like(sample())])
    first = 20e-9**2 / (wavelength_of(8000.0) * 8e-6)
    single = Experiment(fresnel_number=1 / (1 / first + 1 / 0.4))
    made = diffract(empty, probe_of(), POSITIONS, experiment, **lengths)
    np.testing.assert_allclose(made, diffract(sample(), probe_of(), POSITIONS, single, **lengths), rtol=1e-6, atol=1e-6)


def test_electrons_have_another_wavelength() -> None:
    assert Optics(energy=300e3).wavelength("electron") == pytest.approx(1.9687e-12, rel=1e-4)
    assert Optics(energy=8000.0).wavelength("photon") == wavelength_of(8000.0)
    assert Optics().wavelength("photon") is None


def test_one_point_of_an_exposure_is_the_plain_model() -> None:
    plain = diffract(sample(), probe_of(2), POSITIONS)
    still = diffract(sample(), probe_of(2), POSITIONS, Experiment(exposure=np.zeros((1, 2))))
    np.testing.assert_allclose(still, plain, rtol=1e-9, atol=1e-9)
    moved = diffract(sample(), probe_of(2), POSITIONS, Experiment(exposure=np.array([[0.5, -1.25]])))
    np.testing.assert_allclose(
        moved, diffract(sample(), probe_of(2), POSITIONS + np.array([0.5, -1.25])), rtol=1e-9, atol=1e-9
    )


def test_an_exposure_is_the_mean_over_its_points() -> None:
    directions = snake_directions(3, 2)
    paths = line_exposure((0.6, 4.0), 5, 0.0, directions)
    assert paths.shape == (3, 5, 2) and directions.tolist() == [1, 1, -1]
    np.testing.assert_allclose(paths[2], -paths[0])
    np.testing.assert_allclose(paths[0].mean(axis=0), (0.3, 2.0))
    made = diffract(sample(), probe_of(), POSITIONS, Experiment(exposure=paths))
    direct = np.mean([diffract(sample(), probe_of(), POSITIONS + paths[:, j]) for j in range(5)], axis=0)
    np.testing.assert_allclose(made, direct, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(line_exposure(4.0, 4)[:, 1], [-1.5, -0.5, 0.5, 1.5])


def test_a_source_is_a_normal_distribution_of_positions() -> None:
    made = diffract(sample(), probe_of(), POSITIONS, Experiment(source_size=(0.8, 0.3)))
    grid = np.linspace(-3.5, 3.5, 15)
    weights = np.exp(-(grid**2) / 2)
    direct, total = np.zeros_like(made), 0.0
    for y, wy in zip(grid, weights, strict=True):
        for x, wx in zip(grid, weights, strict=True):
            direct += wy * wx * diffract(sample(), probe_of(), POSITIONS + np.array([0.8 * y, 0.3 * x]))
            total += wy * wx
    assert np.abs(made - direct / total).sum() < 5e-3 * made.sum()
    assert np.abs(made - diffract(sample(), probe_of(), POSITIONS)).sum() > 0.05 * made.sum()


def test_the_point_spread_is_a_gaussian_that_conserves_counts() -> None:
    image = np.zeros((16, 24))
    image[3, 20] = 1000.0
    spread = blurred(image, 1.5)
    y, x = np.mgrid[:16, :24]
    near = np.exp(-(((y - 3 + 8) % 16 - 8) ** 2 + ((x - 20 + 12) % 24 - 12) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(spread, 1000 * near / (2 * np.pi * 1.5**2), atol=0.05)
    plain = diffract(sample(), probe_of(), POSITIONS)
    made = diffract(sample(), probe_of(), POSITIONS, Experiment(point_spread=1.2))
    np.testing.assert_allclose(made.sum((1, 2)), plain.sum((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(made, blurred(plain, 1.2), rtol=1e-9)


def test_backgrounds_are_added_with_their_factors_after_the_point_spread() -> None:
    background = smooth_background(SIZE, 3.0, seed=2)
    assert background.mean() == pytest.approx(3.0, rel=1e-5) and background.min() > 0
    for mirrored in (background[::-1], background[:, ::-1], background.T):
        assert np.abs(mirrored - background).mean() > 0.05
    values = {"background": background, "background_factors": np.array([0.0, 1.0, 2.5])}
    made = diffract(sample(), probe_of(), POSITIONS, Experiment(point_spread=1.2, **values))
    without = diffract(sample(), probe_of(), POSITIONS, Experiment(point_spread=1.2))
    for extra, factor in zip(made - without, (0.0, 1.0, 2.5), strict=True):
        np.testing.assert_allclose(extra, factor * background, atol=1e-4)


def test_a_saturated_detector_clips_counts() -> None:
    arguments: dict[str, Any] = {"object": "siemens", "patterns": 12, "size": SIZE, "photons": 1e5, "seed": 3}
    plain = simulate(**arguments)
    made = simulate(**arguments, experiment=Experiment(saturation=200.5))
    np.testing.assert_array_equal(made.counts, np.minimum(plain.counts, 201))
    assert 0 < np.sum(made.counts >= 200.5) < made.counts.size and made.counts.dtype.kind == "u"
    np.testing.assert_array_equal(predict_counts(made), predict_counts(plain))
    smooth = simulate(**arguments, noise=False, experiment=Experiment(saturation=200.5))
    assert smooth.counts.max() == 200.5 and smooth.counts.dtype == np.float32


def test_a_drifting_probe_is_simulated_exactly() -> None:
    probe, n = probe_of(2), 14
    probes = drifting_probe(probe, n, amount=1.5, seed=4)
    shapes, coefficients = as_variations(probes, probe)
    rebuilt = probe[0] + np.tensordot(coefficients, shapes, 1)
    np.testing.assert_allclose(rebuilt, probes, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.mean(coefficients**2, axis=0)), 1)
    experiment = Experiment(probe_variations=shapes, variation_coefficients=coefficients)
    positions = np.tile(POSITIONS, (5, 1))[:n]
    made = diffract(sample(), probe, positions, experiment)
    for k in range(n):
        own = np.stack([probes[k], probe[1]])
        np.testing.assert_allclose(made[k], diffract(sample(), own, positions[k : k + 1])[0], rtol=1e-4, atol=2e-3)
    few, _ = as_variations(probes, probe, 3)
    np.testing.assert_array_equal(few, shapes[:3])
    power = np.sum(np.abs(shapes) ** 2, axis=(1, 2))
    assert (np.diff(power) <= 0).all() and 0.03 < power.sum() / 1e4 < 0.3


def test_the_parts_of_a_drift() -> None:
    probe = probe_of()
    still: dict[str, float] = dict.fromkeys(("position", "defocus", "astigmatism", "pointing", "intensity"), 0.0)

    def drift(**parts: float) -> np.ndarray:
        return drifting_probe(probe, 40, seed=1, **still | parts)

    np.testing.assert_allclose(drift(), np.repeat(probe.astype(complex), 40, axis=0), atol=1e-4)
    axis = np.arange(SIZE)

    def centres(power: np.ndarray) -> np.ndarray:
        return np.stack([power.sum(2) @ axis, power.sum(1) @ axis], 1) / power.sum((1, 2))[:, None]

    moved = centres(np.abs(drift(position=0.5)) ** 2)
    np.testing.assert_allclose(moved.std(axis=0), 0.5, rtol=0.02)
    np.testing.assert_allclose(moved.mean(axis=0), centres(np.abs(probe) ** 2)[0], atol=0.02)
    pointed = np.fft.fftshift(np.abs(np.fft.fft2(drift(pointing=0.7))) ** 2, axes=(1, 2))
    np.testing.assert_allclose(centres(pointed).std(axis=0), 0.7, rtol=0.05)
    bright = np.sum(np.abs(drift(intensity=0.05)) ** 2, axis=(1, 2))
    assert bright.std() / bright.mean() == pytest.approx(0.05, rel=1e-3)
    assert np.abs(np.diff(bright)).max() < 0.3 * np.ptp(bright)  # smooth
    for part in ("defocus", "astigmatism"):
        changed = drift(**{part: 0.3})
        np.testing.assert_allclose(np.abs(np.fft.fft2(changed)), np.abs(np.fft.fft2(probe.repeat(40, 0))), atol=1e-2)
        assert np.abs(changed - probe).max() > 1


def test_variations_scale_with_the_probe_of_a_simulation() -> None:
    probe = PROBES["defocused"](SIZE, 1)
    shapes, coefficients = as_variations(drifting_probe(probe, 9, seed=2), probe)
    experiment = Experiment(probe_variations=shapes, variation_coefficients=coefficients)
    named = simulate("lines", patterns=9, size=SIZE, photons=1e4, experiment=experiment)
    larger = replace(experiment, probe_variations=7 * shapes)
    array = simulate("lines", 7 * probe, patterns=9, photons=1e4, experiment=larger)
    found, expected = named.experiment.probe_variations, 100 * shapes
    assert found is not None and array.experiment.probe_variations is not None
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(array.experiment.probe_variations, expected, rtol=1e-4)
    np.testing.assert_array_equal(named.counts, array.counts)


def everything(n: int) -> Experiment:
    probe = PROBES["defocused"](SIZE, 2)
    shapes, coefficients = as_variations(drifting_probe(probe, n, seed=2), probe)
    return Experiment(
        exposure=line_exposure(3.0, 3, 0.0, snake_directions(n, 4)),
        source_size=(0.2, 0.4),
        probe_variations=shapes,
        variation_coefficients=coefficients,
        background=smooth_background(SIZE, 0.5),
        background_factors=np.linspace(0.5, 1.5, n),
        point_spread=0.9,
        slice_distances=(4e-6, 6e-6),
        tilt=(0.002, -0.001),
    )


def test_all_effects_have_poisson_noise_about_its_prediction() -> None:
    lengths: dict[str, Any] = {"pixel_size": 20e-9, "energy": 8000.0}
    slices = make_slices(["dead_leaves", "siemens", "lines"], (90, 90), seed=1)
    made = simulate(slices, patterns=16, size=SIZE, photons=1e5, modes=2, experiment=everything(16), **lengths)
    assert made.truth is not None and made.pixel_size == 20e-9
    np.testing.assert_allclose(made.truth, slices[0] * slices[1] * slices[2], atol=1e-6)
    expected = predict_counts(made, slices)
    bright = expected > 20
    chi2 = np.square(made.counts - expected)[bright] / expected[bright]
    assert chi2.mean() == pytest.approx(1, abs=5 * np.sqrt(2.2 / chi2.size))
    parts = predict_counts(made.subset([7, 2]), slices)
    np.testing.assert_allclose(parts, expected[[7, 2]], rtol=1e-9)
    with pytest.raises(InputError, match="object must be the 3 slices of the thick sample"):
        predict_counts(made)


def test_the_margin_contains_long_exposures() -> None:
    made = simulate("lines", patterns=16, size=SIZE, experiment=Experiment(exposure=line_exposure((2.0, 40.0), 2)))
    assert made.truth is not None
    assert MARGIN + 9 <= made.positions.min() < MARGIN + 12 and made.truth.shape < (90, 90)


@pytest.mark.parametrize("name", [["photos"] * 3, ["siemens", "dead_leaves", "photos"]])
def test_slices_differ_and_their_product_has_the_contrast_of_one(name: list[str]) -> None:
    slices = make_slices(name, (70, 80), seed=2)
    assert slices.dtype == np.complex64 and slices.shape == (3, 70, 80)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(slices[a] - slices[b]).mean() > 0.05
    np.testing.assert_array_equal(slices, make_slices(name, (70, 80), seed=2))
    np.testing.assert_allclose(np.abs(make_slices(name, (70, 80), 2, strength=0.0)), 1, atol=1e-6)
    assert 0.1 < np.angle(np.prod(slices, axis=0)).std() < 0.9


@pytest.mark.parametrize(
    ("object", "experiment", "message"),
    [
        ("lines", Experiment(slice_distances=(1e-6,)), "a thick sample must have pixel_size and energy"),
        (np.ones((2, 90, 90), complex), None, r"the object must have the shape \(H, W\), got \(2, 90, 90\)"),
        (np.ones((90, 90), complex), Experiment(slice_distances=(1e-6,)), r"the shape \(2, H, W\), one for each"),
        ("lines", Experiment(background=np.ones((8, 8), np.float32)), "simulate.experiment.background must be"),
        ("lines", Experiment(exposure=np.zeros((4, 2, 2))), r"exposure must be float64 of shape \(9, K, 2\)"),
    ],
)
def test_experiments_that_do_not_fit_are_errors(object: ObjectSource, experiment: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(object, patterns=9, size=SIZE, experiment=experiment)


def test_wrong_arguments_of_the_makers_are_errors() -> None:
    probe = probe_of()
    for call, message in (
        (lambda: line_exposure(3.0, 0), "line_exposure: points must be 1 or more"),
        (lambda: line_exposure(3.0, 2, 1.5), "recorded_at from 0 to 1, got 2 and 1.5"),
        (lambda: drifting_probe(probe, 5, -1.0), "amount must be 0 or more, got -1.0"),
        (lambda: as_variations(probe.repeat(5, 0), probe), "probes must differ from the probe"),
        (lambda: as_variations(drifting_probe(probe, 5), probe, 0), "variations must be 1 or more, got 0"),
        (lambda: smooth_background(8, 0.0), "mean must be above 0, got 0.0"),
        (lambda: make_slices(["cat"], (9, 9)), r"objects must be names of photos, .*, got \['cat'\]"),
    ):
        with pytest.raises(InputError, match=message):
            call()
