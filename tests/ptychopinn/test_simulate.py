# SPDX-License-Identifier: BSD-3-Clause
"""Simulated scans: conventions against direct evaluations, noise against Poisson statistics, and seeds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ptychopinn.errors import InputError
from ptychopinn.physics.objects import OBJECTS, PHOTOGRAPHS, photos
from ptychopinn.physics.probes import PROBES, add_modes
from ptychopinn.physics.simulate import MARGIN, diffract, predict_counts, scan_positions, simulate
from ptychopinn.scan import Scan

RANGES = {
    "photos": ((0.7, 1.0), (-0.8, 0.8)),
    "lines": ((0.5, 1.0), (-0.6, 0.6)),
    "lines_amplitude": ((0.0, 1.0), (0.0, 0.0)),
    "lines_phase": ((0.0, 1.0), (-1.05, 1.05)),
    "siemens": ((0.75, 1.0), (-0.8, 0.0)),
    "dead_leaves": ((0.6, 1.1), (-np.pi / 2, np.pi / 2)),
}


def smooth_object(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A transmission defined between pixels, without symmetry."""
    amplitude = 0.8 + 0.1 * np.sin(0.21 * y - 0.34 * x) + 0.1 * np.cos(0.3 * x + 1)
    return amplitude * np.exp(1j * (0.5 * np.cos(0.27 * y + 0.11 * x) + 0.4 * np.sin(0.4 * y + 0.3)))


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_span_their_range_without_symmetry(name: str) -> None:
    made = OBJECTS[name]((120, 150), np.random.default_rng(3))
    assert made.shape == (120, 150) and made.dtype == np.complex64
    np.testing.assert_array_equal(made, OBJECTS[name]((120, 150), np.random.default_rng(3)))
    for values, (low, high) in zip((np.abs(made), np.angle(made)), RANGES[name], strict=True):
        assert values.min() >= low - 1e-5 and values.max() <= high + 1e-5
        assert np.ptp(values) >= 0.9 * (high - low)
    square = made[:, 15:135]
    for mirrored in (square[::-1], square[:, ::-1], square.T, square[::-1, ::-1]):
        assert np.abs(mirrored - square).mean() > 0.01
    if name != "photos":
        assert np.abs(made - OBJECTS[name]((120, 150), np.random.default_rng(4))).mean() > 0.01


@pytest.mark.parametrize("name", ["photos", "lines", "dead_leaves"])
def test_amplitude_and_phase_are_independent(name: str) -> None:
    made = OBJECTS[name]((200, 200), np.random.default_rng(0))
    assert abs(np.corrcoef(np.abs(made).ravel(), np.angle(made).ravel())[0, 1]) < 0.5


def test_phase_of_lines_follows_their_amplitude() -> None:
    made, real = (OBJECTS[name]((200, 150), np.random.default_rng(1)) for name in ("lines_phase", "lines_amplitude"))
    y = np.abs(real).astype(np.float64)
    np.testing.assert_allclose(np.abs(made), y, atol=1e-6)
    expected = np.exp(1j * np.pi * np.tanh((y - y.max() / 2) / (3 * y.mean())))
    np.testing.assert_allclose(made, y * expected, atol=1e-6)


def test_line_density_does_not_depend_on_the_size() -> None:
    small, large = (
        np.abs(OBJECTS["lines_amplitude"](shape, np.random.default_rng(1))) for shape in ((150, 150), (450, 450))
    )
    assert 0.5 < small.mean() / large.mean() < 1.6


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_need_no_download(name: str) -> None:
    made = photos((40, 60), np.random.default_rng(0), amplitude_photo=name, phase_photo="brick")
    assert np.abs(made).std() > 0.01


def test_unknown_photograph_is_refused() -> None:
    with pytest.raises(InputError, match=r"a photograph must be one of astronaut, .*, got 'lena'"):
        photos((40, 60), np.random.default_rng(0), phase_photo="lena")


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("name", PROBES)
def test_probes_are_normalised_and_confined(name: str, size: int) -> None:
    probe = PROBES[name](size, 1)
    assert probe.shape == (1, size, size) and probe.dtype == np.complex64
    power = np.abs(probe[0].astype(np.complex128)) ** 2
    assert power.sum() == pytest.approx(1, abs=1e-5)
    axis = np.arange(size) - size // 2
    assert abs(power.sum(axis=1) @ axis) < 0.01 * size and abs(power.sum(axis=0) @ axis) < 0.01 * size
    radius = np.hypot(axis[:, np.newaxis], axis)
    assert power[radius < 0.3 * size].sum() > 0.95  # about half of N wide
    assert power[radius < 0.15 * size].sum() < 0.6  # larger than a point
    assert power[radius > 0.45 * size].sum() < 1e-3  # a shift does not wrap around


def test_defocused_probe_is_curved_and_the_disk_is_flat() -> None:
    disk, curved = PROBES["disk"](64, 1)[0], PROBES["defocused"](64, 1)[0]
    assert np.ptp(np.angle(disk[np.abs(disk) > 1e-4])) < 1e-6
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(curved)))
    assert spectrum[32, 32] < 0.4 * spectrum[32, 40] and spectrum[32, 56] < 0.02 * spectrum[32, 40]
    assert np.abs(np.diff(np.unwrap(np.angle(curved[32, 32:48])))).sum() > 5


@pytest.mark.parametrize("modes", [1, 2, 3, 6])
@pytest.mark.parametrize("name", PROBES)
def test_modes_are_orthogonal_with_falling_powers(name: str, modes: int) -> None:
    stack = PROBES[name](64, modes).reshape(modes, -1).astype(np.complex128)
    gram = stack.conj() @ stack.T
    expected = 0.4 ** np.arange(modes)
    np.testing.assert_allclose(gram, np.diag(expected / expected.sum()), atol=2e-6)
    first = PROBES[name](64, 1)[0].ravel()
    np.testing.assert_allclose(
        stack[0] / np.linalg.norm(stack[0]), first, atol=1e-6
    )  # the probe itself, with its phase


def test_modes_and_decay_out_of_range_are_errors() -> None:
    for modes, decay in ((0, 0.4), (2, 0.0), (2, 1.5)):
        with pytest.raises(InputError, match="modes must be 1 or more and decay above 0"):
            add_modes(np.ones((8, 8)), modes, decay)


def test_patterns_at_integer_positions_match_the_formula() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 50)) + 1j * rng.normal(size=(40, 50))
    probe = rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16))
    positions = np.array([[0, 0], [24, 34], [3, 20]])
    for intensity, (y, x) in zip(diffract(truth, probe, positions.astype(float)), positions, strict=True):
        waves = np.fft.fft2(probe * truth[y : y + 16, x : x + 16]) / 16
        np.testing.assert_allclose(intensity, np.fft.fftshift((np.abs(waves) ** 2).sum(0)), rtol=1e-10, atol=1e-12)


def test_patterns_at_subpixel_positions_match_an_analytic_object() -> None:
    y, x = np.mgrid[:90, :100].astype(float)
    positions = np.array([[10.3, 20.0], [8.0, 15.7], [12.45, 9.9], [11.5, 11.5]])
    probe = PROBES["defocused"](64, 1)
    i, j = np.mgrid[:64, :64]
    for intensity, (top, left) in zip(diffract(smooth_object(y, x), probe, positions), positions, strict=True):
        errors = []
        for sign in (1, -1):  # the wrong sign of the fraction must fail clearly
            shift = np.array([top, left])
            shift = np.round(shift) + sign * (shift - np.round(shift))
            wave = np.fft.fft2(probe[0] * smooth_object(i + shift[0], j + shift[1]), norm="ortho")
            direct = np.fft.fftshift(np.abs(wave) ** 2)
            errors.append(np.linalg.norm(intensity - direct) / np.linalg.norm(direct))
        assert errors[0] < 2e-3
        assert errors[1] > 10 * errors[0]


def test_mean_counts_are_photons_times_transmission() -> None:
    transparent = simulate(np.ones((150, 150), complex), patterns=30, size=32, photons=3e4, seed=2)
    assert transparent.counts.sum() / 30 == pytest.approx(3e4, rel=0.01)
    assert np.sum(np.abs(transparent.probe) ** 2) == pytest.approx(3e4, rel=1e-4)
    half = simulate(np.full((150, 150), 0.5j), patterns=30, size=32, photons=3e4, seed=2)
    assert half.counts.sum() / 30 == pytest.approx(3e4 / 4, rel=0.01)


@pytest.mark.parametrize(
    ("object", "probe", "scan", "modes"),
    [("photos", "defocused", "raster", 1), ("dead_leaves", "defocused", "spiral", 3), ("lines", "disk", "raster", 2)],
)
def test_counts_are_poisson_about_the_prediction(object: str, probe: str, scan: str, modes: int) -> None:
    made = simulate(object, probe, scan, patterns=60, size=32, photons=1e6, modes=modes, seed=5)
    expected = predict_counts(made)
    bright = expected > 20
    chi2 = np.square(made.counts - expected)[bright] / expected[bright]
    assert chi2.mean() == pytest.approx(1, abs=5 * np.sqrt(2.2 / chi2.size))
    assert made.truth is not None
    wrong = predict_counts(made, np.roll(made.truth, 1, axis=0))
    assert (np.square(made.counts - wrong)[bright] / expected[bright]).mean() > 3


def test_without_noise_the_counts_are_the_prediction() -> None:
    made = simulate("siemens", patterns=20, size=32, noise=False)
    assert made.counts.dtype == np.float32
    np.testing.assert_allclose(made.counts, predict_counts(made), rtol=1e-4, atol=0.1)


def test_scan_depends_on_the_seed_only() -> None:
    arguments: dict[str, Any] = {"object": "dead_leaves", "patterns": 16, "size": 32}
    first, again, other = (simulate(**arguments, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.counts, again.counts)
    np.testing.assert_array_equal(first.truth, again.truth)
    assert (first.positions != other.positions).any()
    assert first.truth is not None and other.truth is not None
    assert first.truth.shape != other.truth.shape or (first.truth != other.truth).any()
    dim = simulate(**arguments, seed=1, photons=1e3)
    np.testing.assert_array_equal(dim.truth, first.truth)  # the dose changes neither object nor positions
    np.testing.assert_array_equal(dim.positions, first.positions)
    assert dim.counts.dtype == np.uint8 and first.counts.dtype == np.uint16


@pytest.mark.parametrize(("scan", "step"), [("raster", None), ("raster", (3.0, 7.5)), ("spiral", 5.0)])
def test_object_contains_all_patches_with_a_margin(scan: str, step: Any) -> None:
    made = simulate("lines", scan=scan, patterns=70, size=32, step=step)
    assert made.truth is not None
    assert made.positions.min() >= MARGIN - 1
    assert (made.positions + 32 <= np.array(made.truth.shape) - MARGIN + 1).all()


def test_raster_positions() -> None:
    positions = scan_positions("raster", 23, (2, 3))
    np.testing.assert_array_equal(positions[[0, 1, 5, 22]], [[0, 0], [0, 3], [2, 0], [8, 6]])
    jittered = scan_positions("raster", 23, (2, 3), 0.5, np.random.default_rng(0)) - positions
    assert 0.4 < np.abs(jittered).max() <= 0.5 and (jittered.std(axis=0) > 0.2).all()


def test_spiral_has_uniform_density() -> None:
    positions = scan_positions("spiral", 800, (4.0, 6.0)) / (4.0, 6.0)
    radius = np.hypot(*positions.T)
    edges = np.sqrt(np.linspace(0, 800 / np.pi, 9))  # rings of 100 unit areas
    for low, high in pairwise(edges):
        assert np.sum((radius >= low) & (radius < high)) == pytest.approx(100, abs=1)
    nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
    assert nearest.min() > 0.7 and nearest.max() < 1.2


def test_probe_and_object_as_arrays() -> None:
    truth = np.exp(1j * np.random.default_rng(0).random((90, 110)))
    made = simulate(truth, np.ones((2, 16, 16)), patterns=9, size=64, photons=500)
    assert made.patch_size == 16 and made.modes == 2 and made.metadata["simulation"]["object"] == "custom"
    np.testing.assert_array_equal(made.truth, truth.astype(np.complex64))
    np.testing.assert_allclose((made.positions.min(0) + made.positions.max(0)) / 2, [(90 - 16) / 2, (110 - 16) / 2])


def test_simulated_scan_is_saved_and_loaded(tmp_path: Path) -> None:
    made = simulate("siemens", patterns=12, size=32, modes=2)
    made.save(tmp_path / "a.npz")
    back = Scan.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(back.counts, made.counts)
    np.testing.assert_array_equal(back.probe, made.probe)
    assert back.name == "simulated-siemens" and back.metadata["simulation"] == made.metadata["simulation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"object": "cat"}, "object must be one of photos, .* a function or an array, got 'cat'"),
        ({"probe": "cat"}, "probe must be one of disk, defocused or an array, got 'cat'"),
        ({"probe": np.zeros((16, 16))}, "a probe array must be .* and not all zero"),
        ({"probe": np.ones((16, 18))}, r"a probe array must be .*, got \(16, 18\)"),
        ({"scan": "line"}, "scan must be raster or spiral, got 'line'"),
        ({"patterns": 0}, "patterns must be 1 or more and photons above 0, got 0"),
        ({"photons": 0.0}, "patterns must be 1 or more and photons above 0"),
        ({"step": 0.0}, "step must be above 0 and jitter 0 or more"),
        ({"jitter": -1.0}, "step must be above 0 and jitter 0 or more"),
        ({"object": np.ones((40, 60))}, r"the object must be at least \d+ x \d+ px, got shape \(40, 60\)"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"simulate: {message}"):
        simulate(**{"patterns": 9, "size": 32, **arguments})


def test_prediction_without_an_object_or_beyond_it_is_an_error() -> None:
    made = simulate("siemens", patterns=4, size=32)
    with pytest.raises(InputError, match="all patches must lie within the object"):
        predict_counts(made, np.ones((40, 40), complex))
    bare = Scan(made.counts, made.positions, made.probe)
    with pytest.raises(InputError, match="object must be an array for a scan without a truth, got None"):
        predict_counts(bare)
