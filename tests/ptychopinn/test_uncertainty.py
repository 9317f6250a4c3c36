# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of amplitude and phase: errors of replicas, maps, coverage of a truth, files and pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_refinements import QUICK, small_scan

from ptychopinn.config import Config, RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.first_image import reconstruct as first_image
from ptychopinn.inference.large import reconstruct_to_file
from ptychopinn.inference.predict import reconstruct
from ptychopinn.inference.repeated import predictor
from ptychopinn.metrics.align import phasor
from ptychopinn.metrics.deviations import (
    LARGEST_PHASE,
    Image,
    Replicas,
    ambiguities_removed,
    make_replicas,
    weight_of_second,
    with_deviations,
)
from ptychopinn.metrics.evaluate import align_to_scan
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.reconstruction import MAPS, Reconstruction
from ptychopinn.refinement.uncertainty import simulated_counts
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

CPU = torch.device("cpu")
BOOTSTRAP = dataclasses.replace(QUICK, uncertainty="bootstrap", replicas=2)


def smooth_object(shape: tuple[int, int] = (60, 76), seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    amplitude, phase = (ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(2))
    return np.asarray((1 + 2 * amplitude) * np.exp(6j * phase))


def noise(shape: tuple[int, ...], seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))


def result_of(image: Image, weights: np.ndarray | None = None) -> Reconstruction:
    return Reconstruction(image, np.ones(image.shape, np.float32) if weights is None else weights, (0.0, 0.0))


def replicas_of(
    first: list[Image], second: list[Image] | None = None, losses: tuple[float, float] = (1, 1)
) -> Replicas:
    second = second or []
    return Replicas((first, second), ([losses[0]] * len(first), [losses[1]] * len(second)))


def coverage(result: Reconstruction, scan: Scan) -> dict[str, tuple[float, float]]:
    """Fractions of the truth within one and within 1.96 standard deviations."""
    assert result.amplitude_uncertainty is not None and result.phase_uncertainty is not None
    aligned = align_to_scan(result, scan, border=4)
    amplitude = np.abs(np.abs(aligned.image) - np.abs(aligned.truth)) / abs(aligned.scale)
    phase = np.abs(np.angle(aligned.image * aligned.truth.conj()))
    pairs = {"amplitude": (amplitude, result.amplitude_uncertainty), "phase": (phase, result.phase_uncertainty)}
    return {
        name: (float(np.mean(error <= map_[aligned.region])), float(np.mean(error <= 1.96 * map_[aligned.region])))
        for name, (error, map_) in pairs.items()
    }


# Errors and maps.


def test_ambiguities_are_no_errors_and_others_are() -> None:
    known = smooth_object()
    weight = np.ones(known.shape)
    weight[:9] = 0
    ambiguous = 0.7j * known * phasor(known.shape, np.array([0.02, -0.013]))
    moved = [ndimage.shift(part, (0.02, -0.03), order=5, mode="nearest") for part in (ambiguous.real, ambiguous.imag)]
    ambiguous = moved[0] + 1j * moved[1]
    left = ambiguities_removed(ambiguous, known, weight)[10:-2, 2:-2]
    assert np.abs(left).max() < 3e-3 < np.abs(np.roll(known, 1, 0) - known).max()
    error = 0.01 * noise(known.shape)
    found = ambiguities_removed(known + error, known, weight)
    assert np.linalg.norm((found - error)[9:]) < 0.1 * np.linalg.norm(error[9:])


def test_maps_have_the_deviations_along_and_across_the_object() -> None:
    image = smooth_object()
    unit = image / np.abs(image)
    errors = [(0.02 * noise(image.shape, k).real + 0.05j * noise(image.shape, k).imag) * unit for k in range(8)]
    result = with_deviations(result_of(image), replicas_of(errors), 1.0)
    assert result.amplitude_uncertainty is not None and result.phase_uncertainty is not None
    assert np.abs(result.amplitude_uncertainty / 0.02 - 1).max() < 0.45
    np.testing.assert_allclose(np.sqrt(np.mean(result.amplitude_uncertainty**2)), 0.02, rtol=0.02)
    across = result.phase_uncertainty * np.abs(image)
    np.testing.assert_allclose(np.sqrt(np.mean(across**2)), 0.05, rtol=0.02)
    assert result.uncertainty is not None
    np.testing.assert_allclose(result.uncertainty, np.hypot(result.amplitude_uncertainty, across), rtol=1e-5)
    doubled = with_deviations(result_of(image), replicas_of(errors), 4.0)
    np.testing.assert_allclose(doubled.amplitude_uncertainty, 2 * result.amplitude_uncertainty, rtol=1e-5)


def test_nothing_is_known_where_nothing_was_measured_or_without_amplitude() -> None:
    image, weights = smooth_object(), np.ones((60, 76), np.float32)
    weights[:, 50:] = 0
    image[30, 20] = 0
    result = with_deviations(result_of(image, weights), replicas_of([0.1 * noise(image.shape)]), 1.0)
    assert result.amplitude_uncertainty is not None and result.phase_uncertainty is not None
    np.testing.assert_allclose(result.phase_uncertainty[:, 50:], LARGEST_PHASE, rtol=1e-6)
    np.testing.assert_allclose(result.phase_uncertainty[30, 20], LARGEST_PHASE, rtol=1e-6)
    assert result.phase_uncertainty.max() <= LARGEST_PHASE * (1 + 1e-6)
    assert (result.amplitude_uncertainty[:, 50:] > 0.5).all() and (result.amplitude_uncertainty[:, :50] < 0.5).all()


def test_a_pair_measures_what_smoothing_costs() -> None:
    """A method that halves every detail: of its result it leaves a quarter, and a pair finds three quarters of it."""
    truth = smooth_object() - 1
    truth -= truth.mean()

    def halved(known: Image) -> tuple[Image, float]:
        return known.mean() + 0.5 * (known - known.mean()), 1.0

    found = 1 + 0.5 * truth
    made = make_replicas(result_of(found), 2, halved)
    assert made.losses == ([1.0, 1.0], [1.0, 1.0])
    for errors, expected in zip(made.errors, (0.25, 0.375), strict=True):
        # Without what a scale, a ramp and a shift explain of it.
        size = np.linalg.norm(errors[-1]) / np.linalg.norm(truth)
        assert 0.6 * expected < size < 1.02 * expected
    alone = make_replicas(result_of(found), 1, halved, pairs=False)
    assert [len(errors) for errors in alone.errors] == [1, 0]
    assert np.array_equal(alone.errors[0][0], made.errors[0][0])


def test_the_second_kind_counts_unless_the_result_fits_better_than_the_first() -> None:
    one = smooth_object()
    made = replicas_of([one, one], [2 * one], (2.0, 4.0))
    measured = np.ones(one.shape, bool)
    for loss, expected in ((2.5, 1.0), (2.0, 1.0), (1.5, 0.75), (1.0, 0.5), (-1.0, 0.0)):
        assert weight_of_second(made, loss, measured) == expected
        assert weight_of_second(made, np.full(one.shape, loss), measured) == expected
    assert weight_of_second(replicas_of([one]), 1.0, measured) == 0
    assert weight_of_second(replicas_of([one], [one], (2.0, 1.0)), 0.5, measured) == 1
    mixed = with_deviations(result_of(one), made, 1.0)
    plain = with_deviations(result_of(one), replicas_of([one]), 1.0)
    np.testing.assert_allclose(mixed.amplitude_uncertainty, np.sqrt(2.5) * plain.amplitude_uncertainty, rtol=1e-5)


# Refinement.


@pytest.fixture(scope="module")
def scan() -> Scan:
    return small_scan(patterns=144, photons=1e5)


@pytest.fixture(scope="module")
def refined(scan: Scan) -> Reconstruction:
    return refine(scan, None, BOOTSTRAP, "cpu")


def test_a_refinement_covers_the_truth_and_is_otherwise_the_same(scan: Scan, refined: Reconstruction) -> None:
    for one, two in coverage(refined, scan).values():
        assert 0.55 < one < 0.82 and 0.88 < two < 0.995
    plain = refine(scan, None, QUICK, "cpu")
    assert plain.uncertainty is None and plain.phase_uncertainty is None
    for name in ("object", "probe", "weights", "positions", "residuals", "error_map"):
        assert np.array_equal(getattr(plain, name), getattr(refined, name)), name


def test_fewer_photons_have_larger_deviations(scan: Scan, refined: Reconstruction) -> None:
    inside = refined.covered()
    bright = small_scan(patterns=144, photons=4e6)
    sharper = refine(bright, None, BOOTSTRAP, "cpu")
    # In so few passes the slow parts of the phase converge no better with more photons.
    for name, least in (("amplitude_uncertainty", 2.0), ("phase_uncertainty", 1.2)):
        ratio = np.median(getattr(refined, name)[inside]) / np.median(getattr(sharper, name)[sharper.covered()])
        assert ratio > least, name


def test_replicas_are_deterministic_and_seeded(scan: Scan, refined: Reconstruction) -> None:
    config = dataclasses.replace(BOOTSTRAP, replicas=1, iterations=8)
    first, second = (refine(scan, None, config, "cpu") for _ in range(2))
    assert np.array_equal(first.uncertainty, second.uncertainty)
    other = refine(scan, None, dataclasses.replace(config, seed=1), "cpu")
    assert not np.array_equal(first.uncertainty, other.uncertainty)


def test_simulated_counts_are_those_that_the_result_predicts(scan: Scan) -> None:
    assert scan.truth is not None
    factors = np.linspace(0.5, 1.5, scan.n).astype(np.float32)
    truth = Reconstruction(
        scan.truth, np.ones(scan.truth.shape), (0.0, 0.0), scan.probe, positions=scan.positions, intensities=factors
    )
    counts = simulated_counts(scan, truth, RefineConfig(), CPU, np.random.default_rng(0))
    assert counts.shape == scan.counts.shape and counts.dtype.kind == "u"
    expected = factors * scan.counts.sum((1, 2))
    deviation = (counts.sum((1, 2)) - expected) / np.sqrt(expected * (1 + factors))
    assert np.abs(deviation).max() < 5 and 0.8 < deviation.std() < 1.2
    centre = np.asarray(scan.counts, np.float64).mean(0), (counts / factors[:, None, None]).mean(0)
    assert np.corrcoef(centre[0].ravel(), centre[1].ravel())[0, 1] > 0.999


def test_a_refinement_with_positions_and_modes_has_maps() -> None:
    scan = small_scan(patterns=49, photons=1e5)
    config = dataclasses.replace(
        BOOTSTRAP, iterations=6, replicas=1, learn_positions=True, learn_intensities=True, modes=2, find_defocus=False
    )
    result = refine(scan, None, config, "cpu")
    assert all(getattr(result, name) is not None for name in MAPS)


# Networks.


def inference(**options: object) -> Config:
    values = {"uncertainty": "bootstrap", "replicas": 2, **options}
    return Config.from_dict({"inference": values, "execution": {"progress": False, "threads": 1}})


def test_the_network_of_the_package_covers_the_truth() -> None:
    scan = small_scan(patterns=144, photons=1e6, object="siemens")
    result = reconstruct(None, scan, inference(), "cpu")
    for one, two in coverage(result, scan).values():
        assert 0.5 < one < 0.85 and 0.85 < two < 0.999
    plain = reconstruct(None, scan, inference(uncertainty="none"), "cpu")
    assert plain.uncertainty is None and np.array_equal(plain.object, result.object)
    cropped = reconstruct(None, scan, inference(crop=True, replicas=1), "cpu")
    assert cropped.phase_uncertainty is not None and cropped.phase_uncertainty.shape == cropped.shape < result.shape


def test_an_image_in_parts_has_no_replicas(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"overlaps or ensemble for an image in parts.*--clusters 1 --n 10000"):
        reconstruct_to_file(None, scan, tmp_path / "a.h5", inference(), "cpu")
    assert not list(tmp_path.iterdir())


# A network's image that is refined.


def test_a_refined_first_image_covers_the_truth_and_is_otherwise_the_same() -> None:
    scan = small_scan(patterns=144, photons=1e6, object="siemens")
    result = first_image(None, scan, inference(replicas=1), "cpu", refine=12)
    for one, two in coverage(result, scan).values():
        assert 0.5 < one < 0.85 and 0.85 < two < 0.999
    plain = first_image(None, scan, inference(uncertainty="none"), "cpu", refine=12)
    assert plain.uncertainty is None and "network" in result.metadata
    for name in ("object", "probe", "weights", "error_map"):
        assert np.array_equal(getattr(plain, name), getattr(result, name)), name


def test_replicas_start_with_the_images_of_their_own_counts(scan: Scan) -> None:
    """A start that is wrong in its own way for every replica is an error; one that all replicas share is none."""
    config = dataclasses.replace(QUICK, iterations=1, uncertainty="bootstrap", replicas=1)
    start = refine(scan, None, QUICK, "cpu")
    given: list[Scan] = []

    def remake(replica: Scan) -> Reconstruction:
        given.append(replica)
        wrong = start.object * np.exp(0.5j * smooth_object(start.shape, len(given)).real).astype(np.complex64)
        return dataclasses.replace(start, object=wrong)

    shared, made = (refine(scan, start, config, "cpu", remake=one) for one in (None, remake))
    assert len(given) == 2 and not any(np.array_equal(one.counts, scan.counts) for one in given)
    assert shared.phase_uncertainty is not None and made.phase_uncertainty is not None
    inside = made.covered()
    assert np.median(made.phase_uncertainty[inside]) > 2 * np.median(shared.phase_uncertainty[inside])
    assert np.array_equal(shared.object, made.object)


def test_predictions_of_replicas_are_those_of_the_network(scan: Scan) -> None:
    for crop in (False, True):
        config = inference(uncertainty="none", crop=crop)
        image = reconstruct(None, scan, config, "cpu")
        again = predictor(None, scan, image, config, CPU)(dataclasses.replace(scan, name="again"))
        assert np.array_equal(image.object, again.object) and image.origin == again.origin
        assert np.array_equal(image.weights, again.weights)


def test_an_uncertainty_of_the_network_alone_is_not_of_the_refined_image(
    scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    result = first_image(None, scan, inference(uncertainty="overlaps"), "cpu", refine=1)
    assert result.uncertainty is None
    assert "no map of uncertainty, since that by overlaps is of the network's image, which is refined" in caplog.text


# Files and pictures.


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_maps_are_in_files(refined: Reconstruction, tmp_path: Path, suffix: str) -> None:
    again = Reconstruction.load(refined.save(tmp_path / f"a{suffix}"))
    for name in MAPS:
        assert np.array_equal(getattr(again, name), getattr(refined, name)), name
    assert refined.cropped().phase_uncertainty.shape == refined.cropped().shape


def test_maps_are_in_the_file_for_other_programs(refined: Reconstruction, tmp_path: Path) -> None:
    path = dataclasses.replace(refined, pixel_size=1e-8).save(tmp_path / "a.nxs", "nexus")
    with h5py.File(path) as file:
        assert file["entry/phase_uncertainty/data"].attrs["units"] == "rad"
        assert np.array_equal(file["entry/amplitude_uncertainty/data"], refined.amplitude_uncertainty)


def test_pictures_are_of_amplitude_and_phase(refined: Reconstruction, tmp_path: Path) -> None:
    names = {path.name for path in plot_reconstruction(refined, tmp_path)}
    assert {"amplitude_uncertainty.png", "phase_uncertainty.png"} <= names and "uncertainty.png" not in names


def test_maps_must_fit_the_object() -> None:
    image = smooth_object()
    with pytest.raises(InputError, match=r"phase_uncertainty must be >= 0 and have the shape of object"):
        dataclasses.replace(result_of(image), phase_uncertainty=np.ones((3, 4)))
