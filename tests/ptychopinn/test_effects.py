# SPDX-License-Identifier: BSD-3-Clause
"""Effects of experiments in findings, fits, orientation and diagnosis: stated ones are used, others are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ptychopinn import InputError, RefineConfig, Scan, diagnose, refine, simulate
from ptychopinn.diagnosis import experiments, trials
from ptychopinn.diagnosis.effects import EFFECTS as EFFECTS_TRIED
from ptychopinn.diagnosis.effects import try_effects, without_saturated
from ptychopinn.diagnosis.residuals import measure_residuals
from ptychopinn.diagnosis.trials import SplitSample, fit, split
from ptychopinn.experiment import Experiment
from ptychopinn.findings.beamstop import beamstop_shadow
from ptychopinn.findings.centre import pattern_of_probe
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.findings.signs import measure_signs
from ptychopinn.inference.fit import experiment_of_result, fit_of_result
from ptychopinn.inspection import check_orientation, inspect_scan, oriented
from ptychopinn.inspection.picture import plot_inspection
from ptychopinn.inspection.trials import select_sample
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.physics.noise_floor import expected_terms, noise_floor, poisson_terms, up_to_saturation
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.simulate_experiments import as_variations, drifting_probe, line_exposure, smooth_background
from ptychopinn.reconstruction import Reconstruction

SIZE, PATTERNS = 32, 49


def beam() -> NDArray[np.complex64]:
    """A speckled beam that is narrower than the detector, and has no symmetry."""
    waves = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(2, SIZE, SIZE)), (0, 3, 3), mode="wrap")
    y, x = np.mgrid[-16:16, -16:16]
    envelope = np.exp(-((y / 7) ** 2 + (x / 9) ** 2) / 2)
    return (envelope * (1 + 2 * waves[0]) * np.exp(12j * waves[1])).astype(np.complex64)


def scan_with(effect: str, photons: float = 3e4, **changes: Any) -> Scan:
    probe: Any = beam() if effect == "near" else "defocused"
    varied = drifting_probe(PROBES["defocused"](SIZE, 1), PATTERNS, 1.2, seed=1)
    shapes, coefficients = as_variations(varied, PROBES["defocused"](SIZE, 1), 3)
    experiment = {
        "plain": Experiment(),
        "near": Experiment(fresnel_number=0.1),
        "path": Experiment(exposure=line_exposure(5.0, 4, 0.0)),
        "background": Experiment(background=smooth_background(SIZE, 3.0, seed=1)),
        "saturation": Experiment(saturation=120.0),
        "point_spread": Experiment(point_spread=0.7),
        "varying": Experiment(probe_variations=shapes, variation_coefficients=coefficients),
        "thick": Experiment(slice_distances=(2e-5,)),
    }[effect]
    return simulate(
        "dead_leaves", probe, patterns=PATTERNS, size=SIZE, step=(4, 5), jitter=0.5, photons=photons, seed=3,
        pixel_size=2e-8, energy=8e3, experiment=experiment, **changes,
    )  # fmt: skip


EFFECTS = ("near", "path", "background", "saturation", "point_spread", "varying", "thick")


def refined(scan: Scan, **options: Any) -> Reconstruction:
    return refine(scan, config=RefineConfig(iterations=30, split_half=False, **options), accept="all")


@pytest.mark.parametrize("effect", ["plain", *EFFECTS])
def test_stated_effects_are_no_findings(effect: str) -> None:
    scan = scan_with(effect)
    found = inspect_scan(scan, orientation=False)
    assert found.findings == ()
    assert ", ".join(scan.experiment.effects() or ["thin sample, still probe, far field"]) in str(found)


def test_scans_in_the_near_field_have_no_zero_frequency(tmp_path: Any) -> None:
    scan = scan_with("near")
    found = inspect_scan(scan, orientation=False)
    assert found.patterns.offset == (0, 0) and found.patterns.similarity > 0.9
    assert "none, in the near field" in str(found)
    assert plot_inspection(scan, found, tmp_path / "scan.png")[0].stat().st_size > 0
    empty = simulate(
        np.ones((80, 80), np.complex64), beam(), patterns=4, step=4, noise=False, experiment=scan.experiment
    )
    np.testing.assert_allclose(pattern_of_probe(empty), empty.counts[2], rtol=1e-3, atol=1e-3 * empty.counts.max())


def test_saturation_below_the_stated_one_is_found() -> None:
    scan = scan_with("saturation")
    lower = dataclasses.replace(scan, counts=np.minimum(scan.counts, 60))
    assert measure_patterns(scan).saturated_at is None and measure_patterns(lower).saturated_at == 60
    assert not measure_patterns(scan).saturated_pixels.any()


def test_pixel_that_is_saturated_in_all_patterns_is_not_stuck() -> None:
    scan = simulate("siemens", "disk", patterns=49, size=32, photons=1e6, seed=1)
    full = dataclasses.replace(scan, counts=np.minimum(scan.counts, scan.counts.max() // 3))
    found = measure_patterns(full)
    assert found.constant == 0 and len(found.saturated) == 49
    stuck = scan.counts.astype(np.uint32)
    stuck[:, 16, 16] = 50 * scan.counts.max()
    assert measure_patterns(dataclasses.replace(scan, counts=stuck)).constant == 1


def test_background_that_changes_from_pattern_to_pattern_is_told() -> None:
    factors = np.random.default_rng(1).uniform(0.3, 1.7, PATTERNS)
    background = Experiment(background=smooth_background(SIZE, 8.0), background_factors=factors)
    scan = dataclasses.replace(scan_with("plain"), experiment=background)
    counts = scan.counts + np.random.default_rng(2).poisson(background.background * factors[:, None, None])
    scan = dataclasses.replace(scan, counts=counts.astype(np.uint16))
    assert inspect_scan(scan, orientation=False).findings == ()
    finding, *_ = inspect_scan(dataclasses.replace(scan, experiment=Experiment()), orientation=False).findings
    assert finding.key == "smooth_background" and "from pattern to pattern" in finding.sentence
    assert "background_factors" in finding.advice


@pytest.mark.parametrize("unit", [0.37, 2.5, 100.0])
def test_unit_of_all_values_and_of_noisy_ones(unit: float) -> None:
    scan = simulate("dead_leaves", patterns=64, size=64, photons=1e5, seed=1)
    exact = dataclasses.replace(scan, counts=(scan.counts * unit).astype(np.float32))
    assert measure_signs(exact, measure_patterns(exact)).unit == pytest.approx(unit, rel=1e-4)
    noise = np.random.default_rng(1).normal(0, 0.2 * unit, scan.counts.shape)
    noisy = dataclasses.replace(scan, counts=np.maximum(scan.counts * unit + noise, 0).astype(np.float32))
    (advice,) = (f.advice for f in inspect_scan(noisy, orientation=False).findings if f.key == "gain")
    assert float(advice.split()[1]) == pytest.approx(unit, rel=0.15)


def test_shadow_is_compact_and_central() -> None:
    y, x = np.mgrid[-16:16, -16:16]
    aperture, good = (np.hypot(y, x) < 9).astype(float), np.ones((32, 32), np.bool_)
    for away, number in ((0, 13), (7, 0)):
        shadowed = aperture * (np.hypot(y, x - away) > 2)
        assert beamstop_shadow(shadowed, aperture, good, (0.0, 0.0)).sum() == number
    assert not beamstop_shadow(aperture * (abs(y) > 1), aperture, good, (0.0, 0.0)).any()


def test_loss_and_floor_of_saturated_pixels_agree() -> None:
    rng, saturation = np.random.default_rng(0), 200.0
    for intensity in (100.0, 180.0, 200.0, 220.0, 400.0):
        counts = torch.from_numpy(np.minimum(rng.poisson(intensity, 40_000), saturation))
        expected = torch.full((40_000,), intensity, dtype=torch.float64)
        loss = poisson_terms(expected, counts, saturation).mean()
        floor = expected_terms(expected[:1], "poisson", saturation)[0]
        assert float(loss) == pytest.approx(float(floor), rel=0.05, abs=1e-3)
    counts = torch.tensor([200.0, 200.0, 90.0], dtype=torch.float64)
    bright = torch.tensor([300.0, 150.0, 95.0], dtype=torch.float64)
    assert up_to_saturation(bright, counts, saturation).tolist() == [200.0, 150.0, 95.0]
    dark = torch.full((8, 8), 3.0, dtype=torch.float64)
    assert float(noise_floor(dark, "poisson", saturation=200.0)) == pytest.approx(float(noise_floor(dark, "poisson")))


@pytest.mark.parametrize("effect", EFFECTS)
def test_fit_by_the_model_of_the_experiment(effect: str) -> None:
    scan = scan_with(effect)
    result = refined(scan)
    for ratio in (measure_residuals(scan, result).ratio, fit_of_result(result, scan).ratio):
        assert 0.4 < ratio < 1.1
    plain = dataclasses.replace(result, experiment=Experiment(), slices=None)
    assert measure_residuals(dataclasses.replace(scan, experiment=Experiment()), plain).ratio > 1.25
    if effect not in (
        "thick",
        "varying",
    ):  # which have more than the scan states; a result of no experiment is judged by that of the scan
        assert measure_residuals(scan, plain).ratio < 1.25


def test_found_background_explains_the_scan_that_does_not_state_it() -> None:
    scan = dataclasses.replace(scan_with("background"), experiment=Experiment())
    result = refined(scan, learn_background=True)
    assert measure_residuals(scan, result).ratio < 1.1 and fit_of_result(result, scan).unexplained < 0.02
    other = dataclasses.replace(result, experiment=Experiment(background_factors=np.ones(PATTERNS)))
    assert experiment_of_result(other, scan.subset(np.arange(9))).plain


def test_product_of_the_slices_is_evaluated() -> None:
    scan = scan_with("thick", photons=1e6)
    result = refined(scan)
    assert result.slices is not None and len(result.slices) == 2
    np.testing.assert_allclose(result.slices.prod(0), result.object, atol=1e-4)
    assert evaluate(result, scan, threshold=0.05, border=2)["phase"]["pearson"] > 0.5


@pytest.mark.parametrize("effect", ["near", "path", "background", "saturation"])
def test_orientation_of_experiments(effect: str) -> None:
    scan = scan_with(effect)
    report = check_orientation(oriented(scan, "swap_flip_x"))
    assert report.best == "swap_flip_y" and report.sure
    assert report.offset == (0, 0) if effect == "near" else True


@pytest.fixture(scope="module")
def sample_of() -> Callable[[str], tuple[Scan, SplitSample]]:
    def made(effect: str) -> tuple[Scan, SplitSample]:
        scan = dataclasses.replace(scan_with(effect, photons=1e5), experiment=Experiment())
        return scan, split(select_sample(scan, shape_probe=False, all_points=True))

    return made


@pytest.mark.parametrize(
    ("effect", "key"), [("path", "fly_scan"), ("point_spread", "blur"), ("varying", "probe_varies")]
)
def test_trial_with_the_effect_explains_most(effect: str, key: str, sample_of: Any) -> None:
    scan, sample = sample_of(effect)
    reference, advanced = fit(sample), list[int]()
    tried = try_effects(scan, sample, sample.probe, reference, advanced.append)
    losses = {name: float(trial.terms.sum()) for name, trial in tried.items()}
    assert set(losses) == set(EFFECTS_TRIED) and sum(advanced) == len(EFFECTS_TRIED)
    assert min(losses, key=losses.__getitem__) == key and losses[key] < 0.9 * float(reference.terms.sum())


def test_effects_that_a_scan_states_are_not_tried(sample_of: Any) -> None:
    scan, sample = sample_of("plain")
    stated = dataclasses.replace(
        scan_with("varying").experiment, exposure=line_exposure(3.0, 2), source_size=(0.5, 0.5)
    )
    sample = dataclasses.replace(sample, experiment=stated.subset(sample.members))
    assert not try_effects(scan, sample, sample.probe, fit(sample, passes=1), lambda number: None)


def test_saturated_pixels_are_omitted_in_trials() -> None:
    scan = scan_with("saturation")
    sample = without_saturated(select_sample(scan, shape_probe=False, all_points=True))
    assert sample.good is not None and sample.experiment.saturation is None
    assert float(sample.counts[:, sample.good].max()) < 120 and 0.3 < float(sample.good.float().mean()) < 1
    full = dataclasses.replace(sample, experiment=Experiment(saturation=1e-3), counts=sample.counts + 1)
    with pytest.raises(InputError, match="not saturated in some neighbouring patterns"):
        without_saturated(full)


def test_diagnosis_in_the_near_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "DEFOCUS", (0.0,))
    monkeypatch.setattr(experiments, "SCALINGS", (1.0,))
    monkeypatch.setattr(trials, "_MOST_PASSES", 0)
    scan = scan_with("near").subset(np.arange(18))
    found = diagnose(refined(scan), scan)
    assert "probe" not in [cause.key for cause in found.causes] and found.experiments.noise == 1 and found.ratio < 1.1
