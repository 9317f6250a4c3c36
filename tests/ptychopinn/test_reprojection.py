# SPDX-License-Identifier: BSD-3-Clause
"""Patterns of tilted and off-axis detectors, computed at the true frequency and solid angle of every pixel."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.io.reprojection import Reprojection, TiltedDetector, _area
from ptychopinn.mending import mend
from ptychopinn.physics.simulate import predict_counts, simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

SIZE, SIDE, DISTANCE = 96, 200e-6, 0.05  # angles up to 11 degrees
STEP = SIDE / DISTANCE


def intensity(sy: NDArray[np.float64], sx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return counts per pixel of the forward model, a smooth far field that has no symmetry."""
    y, x = sy / STEP, sx / STEP
    fringes = 1 + 0.6 * np.cos(0.35 * y - 0.5 * x + 0.2) + 0.3 * np.sin(0.25 * x + 0.15 * y)
    return np.asarray(900 * np.exp(-((y + 3) ** 2 / 800 + (x - 5) ** 2 / 500)) * fringes)


def recorded(detector: TiltedDetector) -> NDArray[np.float64]:
    """Return expected counts of a detector, by direction and solid angle of its pixels."""
    y, x = np.indices(detector.shape).astype(float)
    rows, columns = detector.axes()
    rays = (y - detector.beam[0])[..., None] * rows + (x - detector.beam[1])[..., None] * columns
    rays = rays * detector.pixel_size + np.array([0, 0, detector.distance])
    length = np.linalg.norm(rays, axis=-1)
    s = rays / length[..., None]
    solid_angle = detector.pixel_size**2 * np.abs(s @ np.cross(rows, columns)) / length**2
    return intensity(s[..., 0], s[..., 1]) * solid_angle * s[..., 2] / STEP**2  # d^2 s = cos(theta) d Omega


def flat() -> NDArray[np.float64]:
    across = (np.arange(SIZE) - SIZE // 2) * STEP
    return intensity(*np.meshgrid(across, across, indexing="ij"))


@pytest.mark.parametrize(
    ("tilt", "beam", "shape"),
    [
        ((0.0, 0.0), (48.0, 48.0), (96, 96)),  # the curvature of the Ewald sphere alone
        ((0.35, 0.0), (48.0, 48.0), (96, 96)),
        ((0.2, -0.45), (70.3, 51.6), (140, 120)),
        ((-0.3, 0.25), (-8.0, 30.5), (100, 110)),  # the beam passes beside the detector
    ],
)
def test_tilted_detector_becomes_flat(
    tilt: tuple[float, float], beam: tuple[float, float], shape: tuple[int, int]
) -> None:
    detector = TiltedDetector(shape, SIDE, DISTANCE, beam, tilt)
    values = recorded(detector)
    change = Reprojection(detector, SIZE)
    made, good = change(values[None])[0], ~change.bad_pixels
    assert good.sum() > 0.3 * SIZE**2 and not made[~good].any()
    assert np.abs(made - flat())[good].max() < 0.01 * flat().max()
    assert np.abs(made - flat())[good].sum() < 0.002 * flat()[good].sum()
    mirrored = Reprojection(TiltedDetector(shape, SIDE, DISTANCE, beam, (-tilt[0], -tilt[1])), SIZE)
    if any(tilt):
        assert np.abs(mirrored(values[None])[0] - flat())[~mirrored.bad_pixels].max() > 0.1 * flat().max()


def test_counts_are_conserved() -> None:
    detector = TiltedDetector((128, 128), SIDE, DISTANCE, (60.0, 66.0), (0.3, -0.2))
    values = recorded(detector)
    change = Reprojection(detector, 128)
    y, x = np.indices(values.shape).astype(float)
    s = detector.directions(y, x)
    points = [np.rint(s[..., axis] / STEP).astype(int) + 64 for axis in (0, 1)]
    inside = ((points[0] >= 0) & (points[0] < 128) & (points[1] >= 0) & (points[1] < 128)).nonzero()
    inside = tuple(index[~change.bad_pixels[points[0][inside], points[1][inside]]] for index in inside)
    assert change(values[None]).sum() == pytest.approx(values[inside].sum(), rel=0.005)
    assert values[inside].sum() > 0.9 * values.sum()


def test_pixels_and_directions_are_inverse() -> None:
    detector = TiltedDetector((40, 60), SIDE, DISTANCE, (10.5, 70.0), (0.6, 0.7))
    y, x = np.indices(detector.shape).astype(float)
    found = detector.pixels(detector.directions(y, x))
    np.testing.assert_allclose(found, (y, x), atol=1e-9)
    rows, columns = detector.axes()
    assert rows @ columns == pytest.approx(0, abs=1e-12) and np.linalg.norm(rows) == pytest.approx(1)
    assert np.isnan(detector.pixels(np.array([[0.0, 0.0, -1.0]]))[0]).all()


def test_bad_pixels_reach_the_pixels_that_need_them() -> None:
    bad = np.zeros((SIZE, SIZE), np.bool_)
    bad[30, 40] = True
    detector = TiltedDetector((SIZE, SIZE), SIDE, 100.0, (48.0, 48.0))  # no angles: every pixel stays
    change = Reprojection(detector, SIZE, bad)
    assert np.argwhere(change.bad_pixels).tolist() == [[30, 40]]
    pattern = np.random.default_rng(0).poisson(5, (3, SIZE, SIZE)).astype(np.uint16)
    expected = np.where(bad, 0, pattern)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(change))(pattern), expected, atol=1e-3)
    tilted = Reprojection(TiltedDetector((SIZE, SIZE), SIDE, DISTANCE, (48.3, 48.0), (0.2, 0.1)), SIZE, bad)
    clean = Reprojection(TiltedDetector((SIZE, SIZE), SIDE, DISTANCE, (48.3, 48.0), (0.2, 0.1)), SIZE)
    assert 8 <= (tilted.bad_pixels & ~clean.bad_pixels).sum() <= 25


def tilted_scan(folder: Path) -> tuple[Scan, Path]:
    """Write patterns of a detector with a pitch, at large angles, of the counts that the model has."""
    size, side, distance = 64, 1e-3, 0.08  # up to 22 degrees
    rng = np.random.default_rng(3)
    y, x = np.indices((size, size)) - size // 2
    probe = np.exp(-((y - 1) ** 2 + (x + 2) ** 2) / 70 + 0.03j * (y**2 - 0.4 * x * y))
    base = simulate("lines", probe, patterns=9, photons=3e6, seed=2, noise=False)
    fine = np.zeros((9, 16 * size, 16 * size), np.complex64)
    patches = [base.truth[i : i + size, j : j + size] for i, j in np.rint(base.positions).astype(int)]
    fine[:, :size, :size] = base.probe[0] * np.array(patches)
    detector = TiltedDetector((size, size), side, distance, (31.0, 34.0), (0.3, -0.1))
    s = detector.directions(*np.indices((size, size)).astype(float))
    step = side / distance
    far = np.abs(np.fft.fftshift(np.fft.fft2(fine, axes=(1, 2)), axes=(1, 2))) ** 2 / size**2
    points = [np.clip(np.rint(16 * (s[..., axis] / step + size // 2)).astype(int), 0, 16 * size - 1) for axis in (0, 1)]
    area = 1 / _area(detector, s, *np.indices((size, size)).astype(float))
    counts = rng.poisson(far[:, points[0], points[1]] * area)
    exact = replace(base, counts=compact_counts(counts), positions=np.rint(base.positions), pixel_size=1e-9)
    exact = replace(exact, acquisition=Acquisition(distance, side))
    exact.save(folder / "tilted.npz")
    return exact, folder / "tilted.npz"


def test_mend_makes_patterns_of_an_upright_detector(tmp_path: Path) -> None:
    scan, path = tilted_scan(tmp_path)
    words = ["--detector-tilt=0.3,-0.1", "--beam=31,34", "--no-orientation"]
    assert main(["mend", str(path), str(tmp_path / "flat.npz"), *words]) == 0
    mended = Scan.load(tmp_path / "flat.npz")
    assert mended.counts.dtype == np.float32 and mended.pixel_size == scan.pixel_size
    assert mended.bad_pixels is not None and 0.02 < mended.bad_pixels.mean() < 0.4
    good, predicted = ~mended.bad_pixels, predict_counts(scan)

    def difference(counts: NDArray[np.float32]) -> float:
        return float(np.abs(counts - predicted)[:, good].sum() / predicted[:, good].sum())

    noise = np.abs(np.random.default_rng(0).poisson(predicted) - predicted)[:, good].sum() / predicted[:, good].sum()
    assert difference(mended.counts[:]) < 0.03 + noise < 0.2 < difference(scan.counts[:])
    with pytest.raises(InputError, match=r"found no distance; state distance= \(--distance\)"):
        mend(replace(scan, acquisition=Acquisition(None, 1e-3)), detector_tilt=(0.1, 0.0))
    with pytest.raises(InputError, match="beam needs detector_tilt as well"):
        mend(scan, beam=(3, 4))


def test_wrong_detectors_are_refused() -> None:
    with pytest.raises(InputError, match=r"distance must be positive finite metres, got 0\.0"):
        TiltedDetector((8, 8), SIDE, 0.0, (4, 4))
    with pytest.raises(InputError, match=r"tilt must be \(pitch, yaw\) within 1\.4 rad"):
        TiltedDetector((8, 8), SIDE, DISTANCE, (4, 4), (0.0, math.pi / 2))
    with pytest.raises(InputError, match="found none; correct the tilt and the pixel of the beam"):
        Reprojection(TiltedDetector((8, 8), SIDE, DISTANCE, (500.0, 4.0)), 8)
