# SPDX-License-Identifier: BSD-3-Clause
"""Standard deviations of the slices of a thick sample: errors of replicas, maps, files and pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage
from tiny_refinements import QUICK

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.metrics.align import phasor
from ptychopinn.metrics.deviations import Image, make_replicas, with_deviations
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import make_slices
from ptychopinn.plotting.reconstructions import plot_reconstruction
from ptychopinn.reconstruction import SLICE_MAPS, Reconstruction
from ptychopinn.refinement.several import refine_several
from ptychopinn.refinement.uncertainty import exchanged
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan

SHAPE = (50, 66)
#: Metres per pixel, eV, and metres between slices: 25 times the depth of field.
PIXEL, ENERGY, DISTANCE = 2e-8, 8e3, 25 * 2e-8**2 / 1.55e-10


def smooth(seed: int) -> Image:
    rng = np.random.default_rng(seed)
    amplitude, phase = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 3) for _ in range(2))
    return np.asarray((1 + 2 * amplitude) * np.exp(6j * phase))


def result_of(slices: Image) -> Reconstruction:
    experiment = Experiment(slice_distances=(DISTANCE,) * (len(slices) - 1))
    weights = np.ones(SHAPE, np.float32)
    weights[:, 60:] = 0
    return Reconstruction(slices.prod(0), weights, (0.0, 0.0), slices=slices, experiment=experiment)


def thick_scan(patterns: int = 49, seed: int = 5) -> Scan:
    slices = make_slices(("photos", "dead_leaves"), (110, 100), seed=1)
    return simulate(
        slices, "defocused", experiment=Experiment(slice_distances=(DISTANCE,)), patterns=patterns, size=32,
        photons=1e5, step=4, jitter=1, seed=seed, pixel_size=PIXEL, energy=ENERGY,
    )  # fmt: skip


@pytest.fixture(scope="module")
def refined() -> Reconstruction:
    config = dataclasses.replace(QUICK, iterations=6, uncertainty="bootstrap", replicas=1)
    return refine(thick_scan(), None, config, "cpu", accept="all")


def test_slices_have_errors_and_ambiguities_of_their_own() -> None:
    slices = np.stack([smooth(1), smooth(2)])
    ramp = phasor(SHAPE, np.array([0.02, -0.013]))
    # A replica with another ramp, scale and noise in each slice, and less noise in the first.
    deviations = np.array([0.01, 0.04])
    rng = np.random.default_rng(0)

    def reconstruct(known: Image) -> tuple[Image, float]:
        noise = rng.normal(size=known.shape) + 1j * rng.normal(size=known.shape)
        moved = known + deviations[:, None, None] * noise
        return np.stack([2 * moved[0] * ramp, 0.5j * moved[1] / ramp]), 1.0

    result = result_of(slices)
    made = make_replicas(result, 4, reconstruct)
    assert [len(errors) for errors in made.slices] == [4, 4] and made.slices[0][0].shape == slices.shape
    found = with_deviations(result, made, 1.0)
    amplitude, phase = (getattr(found, name) for name in SLICE_MAPS)
    inside = found.covered()
    for index, deviation in enumerate(deviations):
        np.testing.assert_allclose(np.sqrt(np.mean(amplitude[index][inside] ** 2)), deviation, rtol=0.06)
        across = (phase[index] * np.abs(slices[index]))[inside]
        np.testing.assert_allclose(np.sqrt(np.mean(across**2)), deviation, rtol=0.06)
    assert (phase[:, ~inside] > 1.8).all()
    assert found.uncertainty is not None
    other = [np.sqrt(np.mean(np.abs(image[inside]) ** 2)) for image in slices[::-1]]
    total = np.sqrt(2) * np.hypot(*(deviations * other))
    np.testing.assert_allclose(np.sqrt(np.mean(found.uncertainty[inside] ** 2)), total, rtol=0.15)


def test_the_second_kind_of_replicas_has_other_slices() -> None:
    slices = np.stack([smooth(1), smooth(2)])
    given: list[Image] = []

    def halved(known: Image) -> tuple[Image, float]:
        given.append(known)
        return np.stack([known[0], known[1].mean() + 0.5 * (known[1] - known[1].mean())]), 1.0

    made = make_replicas(result_of(slices), 1, halved)
    assert np.abs(given[1][0] - given[0][0]).max() < 1e-6 < 0.01 < np.abs(given[1][1] - given[0][1]).max()
    np.testing.assert_allclose(given[1], given[0] - made.slices[0][0])


def test_replicas_begin_with_slow_parts_in_other_slices() -> None:
    result = result_of(np.stack([smooth(1), smooth(2), smooth(3)]))
    factors = exchanged(result, np.random.default_rng(0))
    np.testing.assert_allclose(factors.prod(0), 1, rtol=1e-10)
    assert factors.shape == (3, *SHAPE)
    # Of independent slices, the difference from their mean.
    assert 0.3 < np.std(np.log(np.abs(factors[0]))) / np.std(np.log(np.abs(result.object))) < 0.6
    assert np.abs(np.diff(factors[0], axis=1)).mean() < 0.5 * np.abs(np.diff(result.object, axis=1)).mean()


def test_a_thick_refinement_has_maps_of_its_slices_and_is_otherwise_the_same(refined: Reconstruction) -> None:
    config = dataclasses.replace(QUICK, iterations=6)
    plain = refine(thick_scan(), None, config, "cpu", accept="all")
    assert plain.slices is not None and plain.slices_phase_uncertainty is None
    for name in ("object", "slices", "probe", "error_map"):
        assert np.array_equal(getattr(plain, name), getattr(refined, name)), name
    assert refined.slices is not None
    for name in SLICE_MAPS:
        assert getattr(refined, name).shape == refined.slices.shape
        assert (getattr(refined, name)[:, refined.covered()] > 0).all()


def test_scans_of_several_samples_have_theirs() -> None:
    config = dataclasses.replace(QUICK, iterations=2, uncertainty="bootstrap", replicas=1)
    for result in refine_several([thick_scan(25), thick_scan(25, 6)], "probe", None, config, "cpu", accept="all"):
        assert result.slices is not None and result.slices_phase_uncertainty is not None
        assert result.slices_phase_uncertainty.shape == result.slices.shape


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_maps_are_in_files_and_follow_a_crop(refined: Reconstruction, tmp_path: Path, suffix: str) -> None:
    again = Reconstruction.load(refined.save(tmp_path / f"a{suffix}"))
    cropped = refined.cropped()
    for name in (*SLICE_MAPS, "slices"):
        assert np.array_equal(getattr(again, name), getattr(refined, name)), name
        assert getattr(cropped, name).shape == (2, *cropped.shape)


def test_maps_are_in_the_file_for_other_programs(refined: Reconstruction, tmp_path: Path) -> None:
    with h5py.File(refined.save(tmp_path / "a.nxs", "nexus")) as file:
        assert file["entry/slices_phase_uncertainty/data"].attrs["units"] == "rad"
        assert np.array_equal(file["entry/slices_amplitude_uncertainty/data"], refined.slices_amplitude_uncertainty)
        assert file["entry/slices_phase_uncertainty/z"].shape == (2,)


def test_pictures_are_of_every_slice(refined: Reconstruction, tmp_path: Path) -> None:
    names = {path.name for path in plot_reconstruction(refined, tmp_path)}
    assert {"slices.png", "slices_amplitude_uncertainty.png", "slices_phase_uncertainty.png"} <= names


def test_maps_need_slices_of_their_shape() -> None:
    result = result_of(np.stack([smooth(1), smooth(2)]))
    with pytest.raises(InputError, match=r"slices_phase_uncertainty must be >= 0 and have the shape of slices"):
        dataclasses.replace(result, slices_phase_uncertainty=np.ones((3, *SHAPE)))
    with pytest.raises(InputError, match=r"expected slices beside slices_amplitude_uncertainty .* found none"):
        Reconstruction(result.object, result.weights, (0.0, 0.0), slices_phase_uncertainty=np.ones((2, *SHAPE)))
