# SPDX-License-Identifier: BSD-3-Clause
"""Wavelengths of photons and electrons, detectors in the near field, and frames that change with their probe.

Closed loops: what is read after crop, padding or bins explains the counts, with an object that is evaluated at any
pixel size, and is symmetric in no axis.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn.acquisition import (
    energy_in_words,
    energy_of_wavelength,
    near_field,
    object_pixel_size,
    wavelength_of,
)
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.simulate import diffract, simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.frames import fit_frames, fit_probe, resample_probe
from ptychopinn.world import known_detector_pixel_size, photon_energy

ENERGY, PIXEL, FRESNEL = 17e3, 4e-7, 0.02
DISTANCE = PIXEL**2 / (wavelength_of(ENERGY) * FRESNEL)
N = 64
#: Plane waves (y, x) of the object, in cycles per pixel, and their amplitudes.
WAVES = ((0.021, -0.013, 0.2), (-0.008, 0.031, 0.15j), (0.017, 0.024, -0.1 + 0.1j))


def sample(shape: tuple[int, int], scale: float = 1.0, first: float = 0.0) -> NDArray[np.complex64]:
    """Return an object at the coordinates first + scale * index."""
    y, x = (first + scale * index for index in np.indices(shape))
    waves = (amplitude * np.exp(2j * np.pi * (fy * y + fx * x)) for fy, fx, amplitude in WAVES)
    return np.asarray(1 + sum(waves), np.complex64)


def beam(width: float) -> NDArray[np.complex64]:
    """Return a curved probe of this standard deviation, off the middle."""
    y, x = np.indices((N, N)) - N / 2
    field = np.exp(-((y - 2) ** 2 + (x + 1.5) ** 2) / (4 * width**2) + 0.004j * (y**2 + 0.5 * x**2 - y * x))
    return np.asarray(field, np.complex64)


def near(folder: Path, width: float = 6.0, **settings: Any) -> tuple[Scan, Path]:
    """Write the expected counts of a scan in the near field as plain arrays; the file does not state the geometry."""
    settings = {"experiment": Experiment(fresnel_number=FRESNEL), "pixel_size": PIXEL, "energy": ENERGY} | settings
    scan = simulate(sample((112, 112)), beam(width), patterns=6, photons=1e6, step=(6, 5), noise=False, **settings)
    np.save(folder / "patterns.npy", scan.counts)
    np.savetxt(folder / "positions.csv", (scan.positions + (N - 1) / 2) * PIXEL, delimiter=",")
    np.save(folder / "probe.npy", scan.probe)
    return scan, folder / "patterns.npy"


def difference(scan: Scan, predicted: NDArray[np.float64]) -> float:
    """Return the sum of differences of counts on good pixels, relative to that of counts, for a probe of any scale."""
    good = np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels
    counts = scan.counts[:][:, good]
    found = predicted[:, good]
    return float(np.abs(found * (counts.sum() / found.sum()) - counts).sum() / counts.sum())


# Electrons.


@pytest.mark.parametrize(("kev", "picometres"), [(60, 4.8661), (80, 4.1757), (200, 2.5079), (300, 1.9687)])
def test_wavelength_of_electrons(kev: float, picometres: float) -> None:
    assert wavelength_of(kev * 1e3, "electron") * 1e12 == pytest.approx(picometres, abs=6e-5)
    for radiation in ("electron", "photon"):
        energy = energy_of_wavelength(wavelength_of(kev * 1e3, radiation), radiation)
        assert energy == pytest.approx(kev * 1e3, rel=1e-12)
    assert object_pixel_size(kev * 1e3, 0.5, 1e-4, 32, "electron") == pytest.approx(
        wavelength_of(kev * 1e3, "electron") * 0.5 / (32 * 1e-4)
    )
    assert energy_in_words(None, "photon") == ("photon energy", "unknown")


def electrons(folder: Path) -> Scan:
    base = simulate("lines", patterns=9, size=16, seed=1)
    base.save(folder / "base.npz")
    return Scan.load(folder / "base.npz", radiation="electron", energy=80e3, distance=0.4, detector_pixel_size=1e-4)


@pytest.mark.parametrize("name", ["a.npz", "a.cxi", "a.nxs", "a.ptyd", "a"])
def test_formats_keep_electrons_and_their_wavelength(tmp_path: Path, name: str) -> None:
    scan = electrons(tmp_path)
    assert scan.pixel_size == pytest.approx(wavelength_of(80e3, "electron") * 0.4 / (16 * 1e-4))
    assert known_detector_pixel_size(scan) == 1e-4
    assert wavelength_of(photon_energy(scan) or 0.0) == pytest.approx(wavelength_of(80e3, "electron"))
    scan.save(tmp_path / name, format="ptychodus" if name == "a" else "auto")
    again = Scan.load(tmp_path / name)
    assert again.experiment.radiation == "electron" and again.energy == pytest.approx(80e3, rel=1e-9)
    assert again.pixel_size == pytest.approx(scan.pixel_size)


def test_energies_are_those_of_the_radiation(tmp_path: Path) -> None:
    scan = electrons(tmp_path)
    replace(scan, energy=500.0).save(tmp_path / "slow.npz")
    with pytest.raises(InputError, match=r"between 1000 and 1e\+08 eV of electrons .* found what reads as 500 eV"):
        Scan.load(tmp_path / "slow.npz")
    assert Scan.load(tmp_path / "slow.npz", radiation="photon").energy == 500.0
    with pytest.raises(InputError, match="radiation must be one of photon, electron, got 'neutron'"):
        Scan.load(tmp_path / "slow.npz", radiation="neutron")


# Near field.


def test_fresnel_scaling() -> None:
    wavelength, z1, z2, side = 7e-11, 0.05, 1.2, 3e-6
    found = near_field(wavelength, z2, side, z1)
    assert found.magnification == pytest.approx(25) and found.pixel_size == pytest.approx(side / 25)
    assert 1 / found.distance == pytest.approx(1 / z1 + 1 / z2)
    assert found.fresnel_number == pytest.approx(found.pixel_size**2 / (wavelength * found.distance))
    parallel = near_field(wavelength, z2, side)
    assert (parallel.magnification, parallel.distance, parallel.pixel_size) == (1, z2, side)
    far_focus = near_field(wavelength, z2, side, 1e9)
    assert far_focus.fresnel_number == pytest.approx(parallel.fresnel_number)
    assert near_field(wavelength, z2, side, -2.4).magnification == pytest.approx(0.5)
    with pytest.raises(InputError, match=r"no focus .*, got -0\.6 m and 1\.2 m"):
        near_field(wavelength, z2, side, -0.6)
    with pytest.raises(InputError, match="source_distance must be finite metres other than 0"):
        near_field(wavelength, z2, side, 0.0)
    with pytest.raises(InputError, match=r"detector_pixel_size must be .*, got -1\.0"):
        near_field(wavelength, z2, -1.0)


def test_cone_beam_is_the_parallel_beam_of_scaled_lengths(tmp_path: Path) -> None:
    scan, path = near(tmp_path)
    z1 = 0.5  # of the lengths z1, z2 with the effective distance and a pixel of 0.4 um behind M
    z2 = DISTANCE * z1 / (z1 - DISTANCE)
    magnification = (z1 + z2) / z1
    read = Scan.load(
        path,
        near_field=True,
        energy=ENERGY,
        distance=z2,
        source_distance=z1,
        detector_pixel_size=PIXEL * magnification,
    )
    assert read.experiment.fresnel_number == pytest.approx(FRESNEL) and read.pixel_size == pytest.approx(PIXEL)
    assert read.acquisition.distance == z2 and read.acquisition.detector_pixel_size == PIXEL * magnification
    np.testing.assert_allclose(np.diff(read.positions, axis=0), np.diff(scan.positions, axis=0), atol=1e-9)


def cone(z1: float) -> dict[str, float]:
    """Lengths of a cone beam from a focus at z1 with the pattern of the parallel beam of the other tests."""
    z2 = DISTANCE * z1 / (z1 - DISTANCE)
    return {"distance": z2, "source_distance": z1, "detector_pixel_size": PIXEL * (z1 + z2) / z1}


@pytest.mark.parametrize("z1", [0.5, -0.3])
@pytest.mark.parametrize("name", ["a.npz", "a.cxi", "a.nxs", "a.ptyd", "a"])
def test_formats_keep_the_geometry_of_a_cone_beam(tmp_path: Path, name: str, z1: float) -> None:
    _, path = near(tmp_path)
    lengths = cone(z1)
    scan = Scan.load(path, near_field=True, energy=ENERGY, **lengths)
    scan.save(tmp_path / name, format="ptychodus" if name == "a" else "auto")
    for options in ({}, {"near_field": True}):  # as stored, and computed again from the stored lengths
        again = Scan.load(tmp_path / name, **options)
        for key, value in lengths.items():
            assert getattr(again.acquisition, key) == pytest.approx(value, rel=1e-9), key
        assert again.experiment.fresnel_number == pytest.approx(FRESNEL, rel=1e-6)
        assert again.pixel_size == pytest.approx(PIXEL, rel=1e-6)
    parallel = Scan.load(tmp_path / name, near_field=True, source_distance=math.inf)
    assert parallel.acquisition.source_distance is None
    assert parallel.experiment.fresnel_number == pytest.approx(
        near_field(wavelength_of(ENERGY), lengths["distance"], lengths["detector_pixel_size"]).fresnel_number
    )


@pytest.mark.parametrize("name", ["r.h5", "r.npz", "p.h5"])
def test_results_keep_the_focus_of_a_cone_beam(tmp_path: Path, name: str) -> None:
    _, path = near(tmp_path)
    scan = Scan.load(path, near_field=True, energy=ENERGY, **cone(0.5))
    image = np.ones((112, 112), np.complex64)
    result = Reconstruction(
        image,
        np.ones(image.shape, np.float32),
        (0.0, 0.0),
        scan.probe,
        positions=scan.positions,
        pixel_size=scan.pixel_size,
        acquisition=scan.acquisition,
        experiment=scan.experiment,
    )
    result.save(tmp_path / name, format="ptychodus" if name == "p.h5" else "auto", scan=scan)
    assert Reconstruction.load(tmp_path / name).acquisition.source_distance == 0.5


def test_programs_of_parallel_beams_get_the_equivalent_one(tmp_path: Path) -> None:
    """In a .ptyd file the lengths are effective, as ptypy has them; a far field has no focus."""
    _, path = near(tmp_path)
    Scan.load(path, near_field=True, energy=ENERGY, **cone(0.5)).save(tmp_path / "a.ptyd")
    with h5py.File(tmp_path / "a.ptyd") as file:
        assert file["meta/distance"][()] == pytest.approx(DISTANCE)
        assert file["meta/psize"][()] == pytest.approx(PIXEL)
    scan = electrons(tmp_path)
    far = replace(scan, acquisition=replace(scan.acquisition, source_distance=0.4))
    far.save(tmp_path / "far.npz")
    assert Scan.load(tmp_path / "far.npz").acquisition.source_distance is None
    with pytest.raises(InputError, match=r"acquisition\.source_distance must be finite metres other than 0"):
        replace(scan, acquisition=replace(scan.acquisition, source_distance=0.0))


def stated(**settings: Any) -> dict[str, Any]:
    lengths = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": PIXEL}
    return {"near_field": True, **lengths, **settings}


@pytest.mark.parametrize("options", [{}, {"crop": 48}, {"pad": 80}])
def test_near_field_counts_are_explained_on_the_same_pixels(tmp_path: Path, options: dict[str, int]) -> None:
    scan, path = near(tmp_path, width=4.0)
    read = Scan.load(path, **stated(**options))
    assert read.pixel_size == pytest.approx(PIXEL) and read.experiment.fresnel_number == pytest.approx(FRESNEL)
    moved = read.positions - scan.positions
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    # The middle of the patch stays where it is: positions on the object of the simulation.
    own = scan.positions + (N - read.patch_size) / 2 + 12
    image = sample((140, 140), 1.0, -12.0)
    predicted = diffract(image, read.probe, own, read.experiment, read.pixel_size, read.energy)
    assert difference(read, predicted) < 0.002
    wrong = diffract(image, read.probe[:, ::-1, :].copy(), own, read.experiment, read.pixel_size, read.energy)
    assert difference(read, wrong) > 0.1


@pytest.mark.parametrize("factor", [2, 4])
def test_near_field_bins_enlarge_the_object_pixels(tmp_path: Path, factor: int) -> None:
    scan, path = near(tmp_path, width=9.0)
    read = Scan.load(path, **stated(bin=factor))
    assert read.pixel_size == pytest.approx(factor * PIXEL)
    assert read.experiment.fresnel_number == pytest.approx(factor**2 * FRESNEL)
    # The middle of a patch, divided by the bins, is the middle of the new patch; bin J begins at K J on the object.
    positions = (scan.positions + (N - 1) / 2) / factor - (read.patch_size - 1) / 2
    image = sample((112 // factor, 112 // factor), factor)

    def unexplained(probe: NDArray[np.complex64]) -> float:
        return difference(read, diffract(image, probe, positions, read.experiment, read.pixel_size, read.energy))

    assert unexplained(read.probe) < 0.02 * factor
    assert unexplained(np.roll(read.probe, 1, axis=2)) > 4 * unexplained(read.probe)


def test_guess_and_scale_of_a_probe_in_the_near_field(tmp_path: Path) -> None:
    scan, path = near(tmp_path, width=9.0)
    (tmp_path / "probe.npy").unlink()
    bad = np.zeros((N, N), np.bool_)
    bad[:20] = True
    guess = Scan.load(path, **stated()).probe
    overlap = np.abs(np.vdot(guess[0], scan.probe[0])) / np.linalg.norm(guess) / np.linalg.norm(scan.probe)
    assert overlap > 0.75  # what is propagated back to the sample, without the phase at the detector
    scaled = Scan.load(path, probe=0.1 * scan.probe, bad_pixels=bad, **stated()).probe
    empty = diffract(np.ones((N, N)), scan.probe, np.zeros((1, 2)), scan.experiment, PIXEL, ENERGY)
    ratio = scan.counts[:, ~bad].sum() / scan.n / empty[0, ~bad].sum()
    np.testing.assert_allclose(scaled, scan.probe * np.sqrt(ratio), rtol=1e-4, atol=1e-4)


def test_near_field_needs_its_lengths(tmp_path: Path) -> None:
    _, path = near(tmp_path)
    with pytest.raises(InputError, match=r"lengths of a near field, found no distance; state distance= \(on the"):
        Scan.load(path, near_field=True, energy=ENERGY, detector_pixel_size=PIXEL)
    with pytest.raises(InputError, match=r"needs near_field= \(--near-field\) as well"):
        Scan.load(path, source_distance=1.0, **{key: value for key, value in stated().items() if key != "near_field"})
    number = Scan.load(path, experiment={"fresnel_number": 0.5}, pixel_size=PIXEL)
    assert number.experiment.fresnel_number == 0.5 and number.pixel_size == PIXEL


# Far field: what crop and padding do to probe, pixels and positions.


@pytest.mark.parametrize(("option", "size"), [("crop", 40), ("pad", 96)])
def test_far_field_counts_are_explained_after_crop_and_padding(tmp_path: Path, option: str, size: int) -> None:
    experiment = Experiment(source_size=(0.8, 0.4), exposure=np.array([[0.0, -0.6], [0.0, 0.6]]), point_spread=0.7)
    scan = simulate(
        sample((112, 112)), beam(4.0), patterns=6, photons=1e6, step=(6, 5), noise=False, experiment=experiment
    )
    scan.save(tmp_path / "a.npz")
    read = Scan.load(tmp_path / "a.npz", **{option: size})
    ratio = N / size
    assert read.experiment.source_size == pytest.approx((0.8 / ratio, 0.4 / ratio))
    np.testing.assert_allclose(read.experiment.exposure, experiment.exposure / ratio)
    # Fourier cropping keeps pixel N//2, positions the middle: an offset of the object that all patterns have.
    length = math.ceil(112 / ratio)
    image = sample((length, length), ratio, (1 - ratio) / 2)
    predicted = diffract(image, read.probe, read.positions, read.experiment)
    assert difference(read, predicted) < 0.01
    shifted = diffract(image, read.probe, read.positions[::-1].copy(), read.experiment)
    assert difference(read, shifted) > 0.05


@pytest.mark.parametrize("name", ["result.h5", "result.npz", "scan.npz", "product.h5"])
def test_probe_of_another_size_in_a_file_is_resampled(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = simulate(sample((112, 112)), beam(4.0), patterns=6, step=(6, 5), noise=False, pixel_size=PIXEL)
    scan.save(tmp_path / "a.npz")
    other = Reconstruction(
        np.ones((8, 8), np.complex64),
        np.ones((8, 8), np.float32),
        (0.0, 0.0),
        probe=fit_probe(scan.probe, 80)[:, 8:-8, 8:-8].copy(),
        pixel_size=PIXEL * N / 80,
    )
    if name == "scan.npz":
        simulate(patterns=4, probe=other.probe, pixel_size=other.pixel_size).save(tmp_path / name)
    elif name == "product.h5":
        other.save(tmp_path / name, format="ptychodus", scan=replace(scan, pixel_size=other.pixel_size))
    else:
        other.save(tmp_path / name)
    with caplog.at_level("WARNING"):
        same = Scan.load(tmp_path / "a.npz", probe=tmp_path / name)  # of 64 px: as it is
    assert "its pixels are 320 nm, those of the scan 400 nm" in caplog.text
    assert np.abs(np.vdot(same.probe, other.probe)) > 0.999 * np.linalg.norm(same.probe) * np.linalg.norm(other.probe)
    read = Scan.load(tmp_path / "a.npz", probe=tmp_path / name, crop=48)
    expected = fit_probe(scan.probe, 48)
    overlap = np.abs(np.vdot(read.probe, expected)) / np.linalg.norm(read.probe) / np.linalg.norm(expected)
    assert overlap > 0.9999


@pytest.mark.parametrize(("ratio", "size"), [(1.0, 48), (1.0, 80), (64 / 80, 80), (64 / 40, 40), (0.73, 52)])
def test_resampling_includes_crop_and_padding(ratio: float, size: int) -> None:
    probe = beam(4.0)[np.newaxis]
    made = resample_probe(probe, ratio, size)
    assert np.linalg.norm(made) == pytest.approx(np.linalg.norm(probe), rel=1e-3)
    expected = fit_probe(probe, size) if ratio * size == N else fit_frames(probe, size)
    if ratio != 0.73:
        np.testing.assert_allclose(made, expected, atol=2e-3)
    y, x = ((np.indices((size, size)) - size // 2) * ratio).reshape(2, -1)
    centre = [np.average(axis, weights=np.abs(made).ravel() ** 2) for axis in (y, x)]
    np.testing.assert_allclose(centre, [2, -1.5], atol=0.02)


def test_experiment_of_the_detector_is_binned(tmp_path: Path) -> None:
    background = np.random.default_rng(3).uniform(1, 2, (N, N)).astype(np.float32)
    scan = simulate("lines", patterns=6, size=N, experiment=Experiment(background=background, saturation=4e4))
    scan.save(tmp_path / "a.npz")
    read = Scan.load(tmp_path / "a.npz", bin=2, experiment=Experiment(point_spread=1.0))
    expected = background.reshape(N // 2, 2, N // 2, 2).sum(axis=(1, 3))
    np.testing.assert_allclose(read.experiment.background, expected, rtol=1e-6)
    assert (read.experiment.point_spread, read.experiment.saturation) == (0.5, 4e4)
    small = Scan.load(tmp_path / "a.npz", crop=32, experiment=Experiment(background=background[:32, :32]))
    np.testing.assert_array_equal(small.experiment.background, background[:32, :32])
