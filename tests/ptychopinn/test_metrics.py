# SPDX-License-Identifier: BSD-3-Clause
"""Metrics on objects whose scores are known: the truth scores 1, ambiguities change no score, a constant scores 0.

The object is neither square nor symmetric nor centred, so that a swapped axis, a flipped sign or a wrong canvas origin
changes the scores.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ptychopinn.errors import InputError
from ptychopinn.metrics import Aligned, align, align_to_scan, evaluate, scores, write_metrics
from ptychopinn.metrics.align import fit_ramp, largest_rectangle
from ptychopinn.probe_size import probe_diameter
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

HEIGHT, WIDTH = 150, 190


def texture(seed: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Band-limited noise at two scales in [0, 1], smooth enough to be shifted exactly."""
    rng = np.random.default_rng(seed)
    image = sum(s * ndimage.gaussian_filter(rng.normal(size=shape), s, mode="wrap") for s in (1.3, 6.0))
    return (image - image.min()) / np.ptp(image)


TRUTH = ((0.6 + 0.4 * texture(1)) * np.exp(1j * (1.8 * texture(2) - 0.9))).astype(np.complex64)


def make_scan(truth: np.ndarray | None = TRUTH) -> Scan:
    y, x = np.indices((16, 16)) - 8
    probe = np.exp(-(y**2 + x**2) / (4 * 2.5**2))[None].astype(np.complex64)
    positions = np.array([[0.0, 0.0], [5.0, 3.0]])
    return Scan(np.ones((2, 16, 16), np.uint16), positions, probe, truth=truth, name="made-up")


def reconstruction(image: np.ndarray, origin: tuple[float, float] = (0, 0), rim: int = 6) -> Reconstruction:
    weights = np.zeros(image.shape)
    weights[rim:-rim, rim:-rim] = 1
    return Reconstruction(image, weights, origin)


def moved(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    return np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(image), shift))


def ramp(shape: tuple[int, int], down: float, right: float) -> np.ndarray:
    """Phase ramp in rad per pixel along y and x."""
    return np.exp(1j * np.add.outer(down * np.arange(shape[0]), right * np.arange(shape[1])))


def test_truth_scores_one() -> None:
    m = evaluate(reconstruction(TRUTH), make_scan())
    for part in ("amplitude", "phase"):
        assert m[part]["pearson"] == pytest.approx(1, abs=1e-9)
        assert m[part]["pearson_high_pass"] == pytest.approx(1, abs=1e-9)
        assert m[part]["ssim"] == pytest.approx(1, abs=1e-6)
        assert m[part]["rmse"] < 1e-6
        assert m[part]["psnr_db"] > 100
    assert m["frc"]["mean"] == pytest.approx(1, abs=1e-9)
    assert m["frc"]["crossing_0.5"] == m["frc"]["crossing_1_7"] == 1.0
    assert m["complex"]["nmse"] < 1e-12
    assert m["alignment"]["registered"] and m["alignment"]["shift_px"] == [0, 0]
    assert m["region"] == {"canvas_rows": [18, HEIGHT - 18], "canvas_columns": [18, WIDTH - 18]}


def test_ambiguities_change_no_score_and_are_reported() -> None:
    image = 2.5 * np.exp(0.8j) * moved(TRUTH, (-1.3, 0.7)) * ramp(TRUTH.shape, 0.021, -0.043)
    m = evaluate(reconstruction(image), make_scan())
    for part in ("amplitude", "phase"):
        assert m[part]["pearson"] > 0.9995
        assert m[part]["ssim"] > 0.995
    assert m["frc"]["mean"] > 0.98
    assert m["complex"]["nmse"] < 1e-5
    found = m["alignment"]
    assert found["shift_px"] == pytest.approx([1.3, -0.7], abs=0.011)
    assert found["ramp_rad_per_px"] == pytest.approx([-0.021, 0.043], abs=1e-5)
    assert found["scale_modulus"] == pytest.approx(1 / 2.5, rel=1e-4)


def test_aligned_image_follows_from_its_parameters() -> None:
    image = 0.4j * TRUTH[3:, :-5] * ramp(TRUTH[3:, :-5].shape, 0.3, -0.2)
    a = align(image, TRUTH[3:, :-5], border=9)
    assert a.region == (slice(9, HEIGHT - 12), slice(9, WIDTH - 14))
    by_hand = a.scale * ramp(a.image.shape, *a.ramp) * image[a.region]
    np.testing.assert_allclose(a.image, by_hand, atol=1e-5)
    np.testing.assert_array_equal(a.truth, TRUTH[3:, :-5][a.region])
    shifted = align(moved(TRUTH, (-2, 3)) * ramp(TRUTH.shape, 0.3, -0.2), TRUTH)
    source = tuple(slice(r.start - s, r.stop - s) for r, s in zip(shifted.region, (2, -3), strict=True))
    by_hand = shifted.scale * ramp(shifted.image.shape, *shifted.ramp)
    by_hand = by_hand * (moved(TRUTH, (-2, 3)) * ramp(TRUTH.shape, 0.3, -0.2))[source]
    assert shifted.shift == pytest.approx((2, -3), abs=0.011)
    np.testing.assert_allclose(shifted.image, by_hand, atol=0.01)


@pytest.mark.parametrize("origin", [(0, 0), (-9, 14), (12, -21), (31, 40), (4.4, -3.7)])
def test_canvas_origin_is_used(origin: tuple[float, float]) -> None:
    """The canvas may begin before the truth, inside it, or between pixels; no shift may remain."""
    first = np.round(origin).astype(int)
    fraction = np.asarray(origin) - first
    padded = np.pad(moved(TRUTH, tuple(-fraction)), 40, constant_values=1)
    canvas = padded[40 + first[0] : 40 + first[0] + 130, 40 + first[1] : 40 + first[1] + 140]
    rec = reconstruction(canvas, origin)
    m = evaluate(rec, make_scan())
    assert m["alignment"]["shift_px"] == pytest.approx([0, 0], abs=0.02)
    assert m["phase"]["pearson"] > 0.999 and m["amplitude"]["pearson"] > 0.999
    (top, bottom), (left, right) = m["region"]["canvas_rows"], m["region"]["canvas_columns"]
    assert top >= -first[0] and left >= -first[1] and bottom <= 130 and right <= 140
    a = align_to_scan(rec, make_scan())
    here = TRUTH[top + first[0] : bottom + first[0], left + first[1] : right + first[1]]
    np.testing.assert_array_equal(a.truth, here)


def test_wrong_origin_is_reported_as_a_shift() -> None:
    m = evaluate(reconstruction(TRUTH[20:, 30:], (23, 28)), make_scan())
    assert m["alignment"]["shift_px"] == pytest.approx([-3, 2], abs=0.011)
    swapped = evaluate(reconstruction(TRUTH[20:, 45:], (45, 20)), make_scan())
    assert not swapped["alignment"]["registered"] or max(map(abs, swapped["alignment"]["shift_px"])) > 5
    assert swapped["phase"]["pearson"] < 0.5


@pytest.mark.parametrize("value", [1.0, 0.3 - 2j, 0.0])
@pytest.mark.parametrize("gradient", [0.0, 0.02])
def test_constant_scores_zero(value: complex, gradient: float) -> None:
    """Also where the truth has a phase ramp, with which the fitted ramp would correlate."""
    scan = make_scan((TRUTH * ramp(TRUTH.shape, gradient, -gradient)).astype(np.complex64))
    m = evaluate(reconstruction(np.full(TRUTH.shape, value)), scan)
    for part in ("amplitude", "phase"):
        assert m[part]["pearson"] == pytest.approx(0, abs=1e-6)
        assert m[part]["pearson_high_pass"] == pytest.approx(0, abs=1e-6)
        assert m[part]["ssim"] < 0.6
    assert m["frc"]["mean"] == pytest.approx(0, abs=1e-6)
    json.dumps(m, allow_nan=False)


def test_unrelated_noise_scores_near_zero() -> None:
    rng = np.random.default_rng(5)
    noise = 1 + 0.2 * (rng.normal(size=TRUTH.shape) + 1j * rng.normal(size=TRUTH.shape))
    m = evaluate(reconstruction(noise), make_scan())
    assert abs(m["amplitude"]["pearson"]) < 0.1 and abs(m["phase"]["pearson"]) < 0.1
    assert m["frc"]["mean"] < 0.12


def test_more_noise_lowers_every_score() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=TRUTH.shape) + 1j * rng.normal(size=TRUTH.shape)
    runs = [evaluate(reconstruction(TRUTH + level * noise), make_scan()) for level in (0.01, 0.05, 0.2)]
    for part in ("amplitude", "phase"):
        for figure in ("pearson", "pearson_high_pass", "psnr_db", "ssim"):
            first, second, third = (run[part][figure] for run in runs)
            assert first > second > third, (part, figure)
    assert runs[0]["frc"]["mean"] > runs[1]["frc"]["mean"] > runs[2]["frc"]["mean"]
    assert runs[0]["amplitude"]["rmse"] == pytest.approx(0.01, rel=0.05)
    assert runs[0]["complex"]["nmse"] == pytest.approx(2e-4 / np.mean(np.abs(TRUTH) ** 2), rel=0.05)


def test_conjugate_and_transpose_score_low() -> None:
    conjugate = evaluate(reconstruction(TRUTH.conj()), make_scan())
    assert conjugate["phase"]["pearson"] < -0.9
    assert conjugate["frc"]["mean"] < 0.7 and conjugate["complex"]["nmse"] > 0.1
    square = TRUTH[:, :HEIGHT]
    transposed = evaluate(reconstruction(square.T), make_scan(square.copy()))
    assert abs(transposed["phase"]["pearson"]) < 0.4 and abs(transposed["amplitude"]["pearson"]) < 0.4
    assert transposed["frc"]["mean"] < 0.3


def test_slow_phase_error_does_not_change_the_high_passed_scores() -> None:
    slow = 0.4 * np.sin(2 * np.pi * np.arange(WIDTH) / WIDTH)
    m = evaluate(reconstruction(TRUTH * np.exp(1j * slow)), make_scan())
    assert m["phase"]["rmse"] > 0.1
    assert m["phase"]["rmse_high_pass"] < 0.1 * m["phase"]["rmse"]
    assert m["phase"]["pearson_high_pass"] > 0.99 > 0.95 > m["phase"]["pearson"]


def test_phase_beyond_2_pi_is_unwrapped_and_a_constant_scores_zero() -> None:
    wide = np.exp(9j * texture(7)).astype(np.complex64)
    noisy = wide * np.exp(0.1j * np.random.default_rng(0).normal(size=wide.shape))
    m = evaluate(reconstruction(noisy), make_scan(wide))
    assert m["phase"]["pearson"] > 0.99 and m["phase"]["rmse"] == pytest.approx(0.1, rel=0.05)
    assert m["phase"]["peak"] > 2 * np.pi * 0.7
    flat = evaluate(reconstruction(np.ones_like(wide)), make_scan(wide))
    assert abs(flat["phase"]["pearson"]) < 1e-6


def test_region_is_the_covered_rectangle() -> None:
    weights = np.zeros(TRUTH.shape)
    weights[10:130, 20:150] = 1
    weights[10:40, 20:60] = 0.05
    weights[80, 100] = 0
    m = evaluate(Reconstruction(TRUTH, weights, (0, 0)), make_scan(), border=4)
    assert m["region"] == {"canvas_rows": [44, 126], "canvas_columns": [24, 146]}


def test_largest_rectangle_matches_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = ndimage.binary_fill_holes(rng.random((7, 9)) < 0.75)
        rows, columns = largest_rectangle(mask)
        assert mask[rows, columns].all()
        areas = [
            (b - a) * (d - c)
            for a in range(7)
            for b in range(a + 1, 8)
            for c in range(9)
            for d in range(c + 1, 10)
            if mask[a:b, c:d].all()
        ]
        assert (rows.stop - rows.start) * (columns.stop - columns.start) == max(areas)
    big = np.zeros((700, 1000), bool)
    big[101:603, 52:951] = True
    rows, columns = largest_rectangle(big)
    assert big[rows, columns].all() and (rows.stop - rows.start) * (columns.stop - columns.start) > 0.97 * big.sum()


def test_input_errors() -> None:
    with pytest.raises(InputError, match=r"made-up: evaluation needs a truth.*objectGuess"):
        evaluate(reconstruction(TRUTH), make_scan(None))
    with pytest.raises(InputError, match="do not overlap"):
        evaluate(reconstruction(TRUTH, (500, 0)), make_scan())
    with pytest.raises(InputError, match=r"only 20 x 30 well-illuminated pixels .* border of 12"):
        evaluate(reconstruction(TRUTH[:56, :66]), make_scan())
    with pytest.raises(InputError, match="only 0 x 0 well-illuminated"):
        evaluate(Reconstruction(TRUTH, np.zeros(TRUTH.shape), (0, 0)), make_scan())
    with pytest.raises(InputError, match=r"one \(H, W\) shape"):
        align(TRUTH, TRUTH.T)


@pytest.mark.parametrize("gradient", [(0.0, 0.0), (0.0123, -0.4), (2.9, -3.0)])
def test_fit_ramp_is_exact(gradient: tuple[float, float]) -> None:
    image = TRUTH[:61, :100]
    np.testing.assert_allclose(fit_ramp(image, image * ramp(image.shape, *gradient)), gradient, atol=1e-9)
    assert fit_ramp(np.zeros((40, 40)), np.ones((40, 40))).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(64, 160), (160, 64)])
@pytest.mark.parametrize("axis", [0, 1])
def test_frc_rings_have_one_frequency_on_a_rectangle(shape: tuple[int, int], axis: int) -> None:
    """A common fringe of period 4 pixels is at half of Nyquist along either axis of a rectangle."""
    rng = np.random.default_rng(2)
    fringe = np.cos(np.pi / 2 * np.indices(shape)[axis])
    a, b = (rng.normal(size=shape) + 3 * fringe for _ in range(2))
    frequency, correlation = scores.frc(a, b)
    assert len(frequency) == 32 and frequency[np.argmax(correlation)] == pytest.approx(0.5)
    assert correlation.max() > 0.9 and np.median(correlation) < 0.3


def test_frc_of_noisy_copies_has_the_closed_form() -> None:
    """Signal-to-noise s per ring on one side gives sqrt(s / (1 + s))."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(200, 200)) + 1j * rng.normal(size=(200, 200))
    noise = rng.normal(size=(200, 200)) + 1j * rng.normal(size=(200, 200))
    _, correlation = scores.frc(signal + 0.5 * noise, signal)
    assert correlation[20:].mean() == pytest.approx(math.sqrt(4 / 5), abs=0.01)


def test_crossing_interpolates_between_rings() -> None:
    frequency, correlation = np.arange(5) / 5, np.array([0.0, 0.9, 0.6, 0.2, 0.7])
    assert scores.crossing(frequency, correlation, 0.5) == pytest.approx(0.4 + 0.2 * 0.25)
    assert scores.crossing(frequency, correlation, 1 / 7) == 1.0
    assert scores.crossing(frequency, np.zeros(5), 0.5) == pytest.approx(0.2)


def test_scores_of_constants_are_defined() -> None:
    a, flat = np.random.default_rng(0).normal(size=(20, 30)), np.full((20, 30), 0.1)
    assert scores.pearson(flat, a) == scores.pearson(a, flat) == scores.pearson(flat, flat) == 0.0
    assert scores.pearson(scores.high_pass(flat, 3.0), scores.high_pass(a, 3.0)) == 0.0
    assert scores.mean_frc(flat, a) == 0.0
    assert math.isnan(scores.psnr(a, flat, 0.0)) and math.isnan(scores.ssim(a, flat, 0.0))
    assert scores.psnr(a, a, 1.0) == math.inf
    assert scores.pearson(-a, a) == pytest.approx(-1)


def test_high_pass_attenuates_the_documented_period_by_half() -> None:
    sigma = 4.0
    x = np.arange(1060)
    wave = np.broadcast_to(np.sin(2 * np.pi * x / (5.33 * sigma)), (8, 1060))
    assert np.abs(scores.high_pass(wave, sigma)[:, 200:-200]).max() == pytest.approx(0.5, abs=0.01)


def test_probe_diameter() -> None:
    y, x = np.indices((64, 64)) - 32
    gaussian = np.exp(-(y**2 + x**2) / (4 * 5.0**2)).astype(complex)  # intensity of sigma 5
    assert probe_diameter(gaussian[None]) == pytest.approx(20, rel=1e-3)
    modes = np.stack([gaussian * (x < 0), gaussian * (x >= 0)]) * 7j
    assert probe_diameter(modes) == pytest.approx(20, rel=1e-3)
    m = evaluate(reconstruction(TRUTH), make_scan())
    assert m["high_pass"] == {"sigma_px": pytest.approx(5, rel=0.01), "probe_diameter_px": pytest.approx(10, rel=0.01)}


def test_write_metrics_writes_json_atomically(tmp_path: Path) -> None:
    rec = Reconstruction(TRUTH, np.ones(TRUTH.shape), (0, 0), pixel_size=2e-8)
    m = evaluate(rec, make_scan(), aligned=align_to_scan(rec, make_scan(), border=20))
    assert m["region"]["canvas_rows"] == [20, HEIGHT - 20]
    assert m["frc"]["half_period_0.5_m"] == 2e-8
    path = write_metrics(m, tmp_path / "a" / "metrics.json")
    assert json.loads(path.read_text()) == m
    write_metrics({"x": np.float32(1.5), "y": math.inf, "z": (np.int64(2), math.nan)}, path)
    assert json.loads(path.read_text()) == {"x": 1.5, "y": None, "z": [2, None]}
    with pytest.raises(TypeError):
        write_metrics({"x": object()}, path)
    assert json.loads(path.read_text())["x"] == 1.5
    assert list(path.parent.iterdir()) == [path]


def test_levelled_removes_the_common_ramp() -> None:
    image = TRUTH[:64, :80] * ramp((64, 80), 0.1, 0.2)
    a = Aligned(image, image, (0, 0), (0, 0), 1, (slice(0, 64), slice(0, 80)), True)
    level, truth = a.levelled()
    np.testing.assert_array_equal(level, truth)
    np.testing.assert_allclose(fit_ramp(np.ones((64, 80)), truth), 0, atol=1e-9)
