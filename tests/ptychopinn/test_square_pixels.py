# SPDX-License-Identifier: BSD-3-Clause
"""Detectors whose pixels are not square: counts, noise, probe and sizes of the square pixels, and a closed loop.

The loop integrates the intensity of a simulation on a fine grid over rectangular pixels, reads them from a file that
states their sides, and refines.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scan_files import COUNTS, DETECTOR, DISTANCE, ENERGY, PATTERNS, WORLD, cxi, eiger, nexus, pair, ptyd

from ptychopinn import RefineConfig, refine
from ptychopinn.acquisition import object_pixel_size
from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.options import ReadOptions, option_words
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.square_pixels import SquarePixels
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_origin

SIZE, FINE, SIDE = 32, 16, 8e-5  # pixels of the simulation, parts of one, metres


@pytest.fixture(scope="module")
def base() -> Scan:
    return simulate("lines", patterns=25, size=SIZE, photons=1e6, seed=3, noise=False, pixel_size=2e-8, energy=8000.0)


@pytest.fixture(scope="module")
def fine(base: Scan) -> NDArray[np.float64]:
    """Intensities (n, 512, 512) of the patterns, with 16 x 16 values for each detector pixel of the simulation."""
    assert base.truth is not None
    corners = np.rint(base.positions).astype(int)
    patches = np.array([base.truth[y : y + SIZE, x : x + SIZE] for y, x in corners])
    waves = np.zeros((len(patches), FINE * SIZE, FINE * SIZE), np.complex64)
    waves[:, :SIZE, :SIZE] = base.probe[0] * patches
    far = np.fft.fftshift(np.fft.fft2(waves, axes=(1, 2)), axes=(1, 2))
    return np.square(np.abs(far)) / SIZE**2 / FINE**2


def recorded(fine: NDArray[np.float64], shape: tuple[int, int], sides: tuple[float, float]) -> NDArray[np.float64]:
    """Sums over pixels with these sides (y, x), in those of the simulation, the zero frequency in (h//2, w//2)."""
    for axis in (0, 1):
        length = fine.shape[axis + 1]
        edges = length // 2 + 0.5 + (np.arange(shape[axis] + 1) - shape[axis] // 2 - 0.5) * sides[axis] * FINE
        total = np.insert(np.cumsum(fine, axis=axis + 1), 0, 0.0, axis=axis + 1)
        edges = np.clip(edges, 0, length)
        index = np.minimum(np.floor(edges).astype(int), length - 1)
        part = (edges - index).reshape((-1, 1) if axis == 0 else (1, -1))
        low, high = np.take(total, index, axis + 1), np.take(total, index + 1, axis + 1)
        fine = np.diff(low * (1 - part) + high * part, axis=axis + 1)
    return fine


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((32, 50), (1, 1 / 1.6)), ((44, 32), (1 / 1.4, 1.0)), ((32, 96), (1, 1 / 3)), ((32, 40), (1, 0.8))],
)
def test_counts_are_those_of_square_pixels(
    fine: NDArray[np.float64], shape: tuple[int, int], sides: tuple[float, float]
) -> None:
    few = fine[:4]
    change = SquarePixels(shape, sides)
    made, good = change(recorded(few, shape, sides)), np.ones((change.size,) * 2, np.bool_)
    if change.bad_pixels is not None:
        good = ~change.bad_pixels
    expected = recorded(few, (change.size,) * 2, (1.0, 1.0))
    assert change.size == SIZE and change.side == 1 and good.mean() > 0.85

    def error(found: NDArray[Any]) -> float:  # in units of the shot noise
        difference = np.square(found - expected) / np.maximum(expected, 0.5)
        return float(np.sqrt(difference[:, good].mean()))

    if change.offset == 0:
        assert error(made) < 0.12
    assert error(np.roll(made, 1, axis=1 + change.axis)) > 3
    wrong = SquarePixels(shape, tuple(side * (1.05 if axis == change.axis else 1) for axis, side in enumerate(sides)))
    assert wrong.size != SIZE or error(wrong(recorded(few, shape, sides))) > 1


@pytest.mark.parametrize("sides", [(1.0, 0.61), (0.5, 1.0), (1 / 3, 1.0), (1.0, 0.93), (0.25, 1.0)])
@pytest.mark.parametrize("near", [False, True])
def test_sums_are_conserved_and_no_count_is_negative(sides: tuple[float, float], near: bool) -> None:
    rng = np.random.default_rng(2)
    shape = (48, 80) if sides[0] > sides[1] else (80, 48)
    change = pickle.loads(pickle.dumps(SquarePixels(shape, sides, near=near)))
    patterns = np.zeros((5, *shape), np.uint16)
    along = slice(8, -8)
    patterns[:, along, along] = rng.poisson(rng.uniform(0, 3, patterns[:, along, along].shape))
    made = change(patterns)
    assert made.shape[1] % 2 == 0 and made.min() >= 0
    np.testing.assert_allclose(made.sum((1, 2), dtype=np.float64), patterns.sum((1, 2)), rtol=1e-6)
    assert made.dtype == (np.uint32 if change.summed else np.float32)
    y = np.arange(shape[change.axis]) - shape[change.axis] // 2
    x = np.arange(change.size) - change.size // 2
    other = 2 - change.axis
    centres = [
        (values.sum((0, other), dtype=np.float64) * index).sum() / values.sum()
        for values, index in ((patterns, y), (made, x))
    ]
    assert centres[1] * change.ratio + change.offset == pytest.approx(centres[0], abs=0.02 * change.ratio)


def test_the_noise_is_as_stated() -> None:
    rng = np.random.default_rng(0)
    for sides, mean in (((1.0, 0.7), 200.0), ((1.0, 0.5), 3.0)):
        change = SquarePixels((16, 48), sides)
        made = change(rng.poisson(mean, (4000, 16, 48)).astype(np.uint16)).astype(np.float64)
        good = ~change.bad_pixels if change.bad_pixels is not None else np.ones((change.size,) * 2, np.bool_)
        columns = np.flatnonzero(good.any(0))[1:-1]
        rows = np.flatnonzero(good.any(1))
        values = made[:, rows][:, :, columns] - mean * change.ratio
        assert abs(values.mean()) < 5 * np.sqrt(mean) / np.sqrt(values.size)
        variance = np.square(values).mean() / (mean * change.ratio)
        shared = (values[..., 1:] * values[..., :-1]).mean() / np.square(values).mean()
        stated = change.noise()
        assert stated == ((1.0, 0.0) if change.summed else pytest.approx((variance, shared), abs=0.02))
        assert variance == pytest.approx(stated[0], abs=0.02) and shared == pytest.approx(stated[1], abs=0.02)
        assert change.summed or (0.75 < stated[0] < 0.95 and 0.03 < stated[1] < 0.15)


def test_bad_pixels_reach_only_what_they_are_part_of() -> None:
    bad = np.zeros((16, 40), np.bool_)
    bad[5, 20] = True
    change, clean = SquarePixels((16, 40), (1.0, 0.625), bad), SquarePixels((16, 40), (1.0, 0.625))
    assert change.bad_pixels is not None and clean.bad_pixels is not None
    spread = change.bad_pixels & ~clean.bad_pixels
    assert spread[spread.any(1)].sum() in (1, 2)
    patterns = np.random.default_rng(1).poisson(20, (2, 16, 40)).astype(np.float64)
    broken = patterns.copy()
    broken[:, 5, 20] = 1e9
    np.testing.assert_array_equal(change(broken)[:, ~change.bad_pixels], change(patterns)[:, ~change.bad_pixels])
    assert not change(patterns)[:, clean.bad_pixels].any()


def rectangular(path: Path, base: Scan, counts: NDArray[Any], sides: tuple[float, float]) -> Path:
    """Write counts as a NeXus file in which the detector's pixels have these sides (y, x), in metres."""
    distance = base.pixel_size * SIZE * SIDE / (object_pixel_size(8000.0, 1.0, 1.0, 1) or 1.0)
    replace(base, counts=np.maximum(base.counts, 1)).save(path)
    with h5py.File(path, "a") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        for key in ("data", "x_pixel_size", "y_pixel_size", "distance"):
            if key in detector:
                del detector[key]
        detector["data"] = counts
        for key, value in (("y_pixel_size", sides[0]), ("x_pixel_size", sides[1]), ("distance", distance)):
            detector[key] = value
            detector[key].attrs["units"] = "m"
        package = file["entry_1/ptychopinn"]
        del package["pixel_size"], package["probe"], package["truth"]
    return path


@pytest.mark.parametrize("ratio", [1.6, 2.0])
def test_closed_loop_of_rectangular_pixels(tmp_path: Path, base: Scan, fine: NDArray[np.float64], ratio: float) -> None:
    """Refined from the file with sides that differ, as well as from square pixels of the same photons."""
    rng = np.random.default_rng(1)
    shape, sides = (SIZE, round(SIZE * ratio / 2) * 2), (1.0, 1 / ratio)
    path = rectangular(
        tmp_path / "a.nxs",
        base,
        rng.poisson(recorded(fine, shape, sides)).astype(np.uint16),
        (SIDE, SIDE / ratio),
    )
    corners = np.rint(base.positions)
    world = world_origin(base) + (corners + (SIZE - 1) / 2) * base.pixel_size
    with h5py.File(path, "a") as file:
        for axis, column in (("y", 0), ("x", 1)):
            file[f"entry_1/sample_1/transformations/{axis}"][...] = world[:, column]
    with pytest.raises(InputError, match=r"square pixels, found .*; square_pixels='file' \(--square-pixels file\)"):
        Scan.load(path)
    # The middle of a sum of two pixels is a quarter of a pixel beyond the zero frequency: a ramp of the probe.
    ramp = np.exp(-2j * np.pi * (0.25 if ratio == 2 else 0.0) * (np.arange(SIZE) - SIZE // 2) / SIZE)
    initial = (base.probe * ramp).astype(np.complex64)
    scan = Scan.load(path, square_pixels="file", probe=initial)
    assert scan.patch_size == SIZE and scan.acquisition.detector_pixel_size == SIDE
    assert scan.pixel_size == pytest.approx(base.pixel_size, rel=1e-6)
    assert scan.decisions.frames is not None and scan.decisions.frames.value == "square pixels"
    assert ("variance of a count" in scan.decisions.frames.reason) == (ratio == 1.6)
    plain = replace(
        base, counts=rng.poisson(recorded(fine, (SIZE, SIZE), (1, 1))).astype(np.uint16), positions=corners, truth=None
    )
    config = RefineConfig(iterations=40, split_half=False)

    def phase_error(scan: Scan) -> float:
        """In rad, without the constant and the ramp that the patterns do not determine."""
        found = refine(scan, config=config)
        assert base.truth is not None
        offset = scan.positions[0] - corners[0]
        y, x = (round(-first + place) for first, place in zip(found.origin, offset, strict=True))
        part = found.object[y:, x:][: base.truth.shape[0], : base.truth.shape[1]]
        weights = found.weights[y:, x:][: base.truth.shape[0], : base.truth.shape[1]]
        product = part * base.truth[: part.shape[0], : part.shape[1]].conj() * (weights > 0.3 * weights.max())
        spectrum = np.fft.fft2(product, s=(1024, 1024))
        peak = np.unravel_index(np.abs(spectrum).argmax(), spectrum.shape)
        rows, columns = np.indices(product.shape)
        flat = product * np.exp(-2j * np.pi * (peak[0] * rows + peak[1] * columns) / 1024)
        illuminated = flat != 0
        plane = np.stack([np.ones(illuminated.sum()), rows[illuminated], columns[illuminated]], axis=1)
        angles = np.angle(flat / flat.sum())[illuminated]
        return float((angles - plane @ np.linalg.lstsq(plane, angles, rcond=None)[0]).std())

    of_squares, of_rectangles = phase_error(plain), phase_error(scan)
    assert of_rectangles < 1.15 * of_squares < 0.012


def sided(name: str, path: Path) -> None:
    """Make the pixels in a file twice as high as wide."""
    keys = {
        "nexus": ("run/beamline/eiger/x_pixel_size", DETECTOR * 0.5e6),
        "cxi": ("entry_1/instrument_1/detector_1/x_pixel_size", DETECTOR / 2),
        "eiger": ("entry/instrument/detector/x_pixel_size", DETECTOR / 2),
        "ptyd": ("meta/psize", [DETECTOR, DETECTOR / 2]),
    }
    with h5py.File(path, "a") as file:
        if name == "pair":
            file["patterns"].attrs["detector_pixel_width_m"] = DETECTOR / 2
        else:
            key, value = keys[name]
            units = file[key].attrs.get("units")
            del file[key]
            file[key] = value
            if units is not None:
                file[key].attrs["units"] = units


@pytest.mark.parametrize(
    ("name", "make"), [("nexus", nexus), ("cxi", cxi), ("eiger", eiger), ("ptyd", ptyd), ("pair", pair)]
)
def test_formats_with_two_sides(tmp_path: Path, name: str, make: Any) -> None:
    path = make(tmp_path)
    sided(name, path)
    with pytest.raises(InputError, match=r"found .* wide and .* high; .*--square-pixels file\) resamples"):
        Scan.load(path)
    with pytest.raises(InputError, match="got detector_pixel_size="):
        Scan.load(path, square_pixels="file", detector_pixel_size=DETECTOR)
    scan = Scan.load(path, square_pixels="file", pad=None)
    stated = Scan.load(path, square_pixels=(DETECTOR, DETECTOR / 2))
    for one in (scan, stated):
        assert one.acquisition.detector_pixel_size == pytest.approx(DETECTOR)
    np.testing.assert_array_equal(scan.counts[:], stated.counts[:])
    expected = np.zeros((PATTERNS, 16, 16))
    expected[:, :, 4:12] = COUNTS.reshape(PATTERNS, 16, 8, 2).sum(-1)
    good = ~scan.bad_pixels
    np.testing.assert_array_equal(scan.counts[:, good], expected[:, good])
    assert good[:, 4:12].sum() == 16 * 8 - 1 and not good[2, 5] and not good[:, :4].any()
    np.testing.assert_allclose(np.diff(scan.positions, axis=0) * scan.pixel_size, np.diff(WORLD, axis=0), atol=1e-12)
    assert scan.pixel_size == pytest.approx(object_pixel_size(ENERGY, DISTANCE, DETECTOR, 16)) and scan.truth is None
    assert Scan.load(path, square_pixels="file", crop=8).patch_size == 8


@pytest.mark.parametrize("sides", [(1.0, 0.5), (0.4, 1.0), (1.0, 0.7)])
@pytest.mark.parametrize("near", [False, True])
def test_a_probe_of_the_detector_follows(tmp_path: Path, sides: tuple[float, float], near: bool) -> None:
    """Its pattern without an object is that of the new pixels."""
    size = 64
    y, x = np.indices((size, size)) - size / 2
    narrow = (3.0, 4.0) if not near else (8.0, 9.0)
    probe = np.exp(
        -((y - 1) ** 2) / narrow[0] ** 2 - (x + 2) ** 2 / narrow[1] ** 2 + 0.01j * (y**2 - 0.4 * x * y + 0.7 * x**2)
    )
    probe = probe[np.newaxis].astype(np.complex64)

    def pattern(waves: NDArray[Any]) -> NDArray[np.float64]:
        if near:
            return np.square(np.abs(waves[0])).astype(np.float64)
        return np.square(np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves[0]), norm="ortho"))))

    counts = np.repeat(pattern(probe)[np.newaxis], 3, axis=0) * 1e4
    np.save(tmp_path / "patterns.npy", counts)
    np.savetxt(tmp_path / "positions.csv", np.array([[0, 0], [0, 1e-7], [1e-7, 0.5e-7]]), delimiter=",")
    options: dict[str, Any] = {"pixel_size": 1e-8, "measurement": "counts", "square_pixels": sides}
    if near:
        options["experiment"] = Experiment(fresnel_number=1e4)
    np.savez(tmp_path / "a.npz", diff3d=counts, probeGuess=100 * probe, xcoords=np.arange(3.0), ycoords=np.arange(3.0))
    path = tmp_path / "a.npz"
    scan = Scan.load(path, scan_step=1e-7, scan_shape=(1, 3), **options)
    good = np.ones(scan.counts.shape[1:], np.bool_) if scan.bad_pixels is None else ~scan.bad_pixels
    found, measured = pattern(scan.probe)[good], np.asarray(scan.counts[0], np.float64)[good]
    assert np.abs(found - measured).sum() < 0.02 * measured.sum()
    rolled = pattern(np.roll(scan.probe, 1, axis=1 if sides[0] < sides[1] else 2))[good]
    assert not near or np.abs(rolled - measured).sum() > 0.04 * measured.sum()


def test_files_on_disk_repairs_masks_and_background(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(9, (6, 24, 40)).astype(np.uint16)
    np.save(tmp_path / "patterns.npy", counts)
    np.savetxt(tmp_path / "positions.csv", rng.uniform(0, 1e-6, (6, 2)), delimiter=",")
    background = rng.uniform(0, 1, (24, 40)).astype(np.float32)
    mask = np.zeros((24, 40), np.bool_)
    mask[3, 17] = True
    options: dict[str, Any] = {"square_pixels": (1.0, 0.6), "pixel_size": 1e-8, "bad_pixels": mask}
    options["experiment"] = {"background": background, "saturation": 30.0}
    scan = Scan.load(tmp_path / "patterns.npy", **options)
    stored = Scan.load(tmp_path / "patterns.npy", memory="stored", **options)
    assert isinstance(stored.counts, StoredPatterns)
    change = SquarePixels((24, 40), (1.0, 0.6), mask)
    np.testing.assert_array_equal(scan.counts, change(counts))
    np.testing.assert_array_equal(stored.counts[:], scan.counts)
    np.testing.assert_array_equal(scan.bad_pixels, change.bad_pixels)
    plain = SquarePixels((24, 40), (1.0, 0.6))(background[np.newaxis])[0]
    np.testing.assert_allclose(scan.experiment.background, plain, rtol=1e-6)
    assert scan.experiment.saturation is None
    floats = counts.astype(np.float32)
    floats[0, 5, 5] = np.nan
    np.save(tmp_path / "patterns.npy", floats)
    del options["bad_pixels"], options["experiment"]
    np.savez(tmp_path / "a.npz", diff3d=floats, probeGuess=np.ones((24, 24)), xcoords=np.ones(6), ycoords=np.ones(6))
    with pytest.raises(InputError, match=r"counts or amplitudes, as stated, .*; state measurement="):
        Scan.load(tmp_path / "a.npz", **options)
    with pytest.raises(InputError, match=r"found 1 values that are none; mask_invalid= \(--mask-invalid\)"):
        Scan.load(tmp_path / "patterns.npy", **options)
    repaired = Scan.load(tmp_path / "patterns.npy", mask_invalid=True, **options)
    assert repaired.bad_pixels is not None and repaired.bad_pixels.any()
    floats[0, 5, 5] = 0
    np.save(tmp_path / "patterns.npy", np.sqrt(floats))
    squares = Scan.load(tmp_path / "patterns.npy", measurement="amplitude", **options)
    np.testing.assert_allclose(squares.counts, SquarePixels((24, 40), (1.0, 0.6))(floats), rtol=1e-5, atol=1e-4)


def test_options_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ((1.0,), (0.0, 1.0), "both", (1.0, np.nan)):
        with pytest.raises(InputError, match=r"square_pixels must be metres \(y, x\), or 'file', got"):
            ReadOptions(square_pixels=wrong)  # type: ignore[arg-type]
    assert option_words({"square_pixels": (2e-5, 1e-5)}) == ["--square-pixels", "2e-05,1e-05"]
    simulate(patterns=9, size=32).save(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"the detector's pixels in the file, found none; state square_pixels="):
        Scan.load(tmp_path / "a.npz", square_pixels="file")
    with pytest.raises(InputError, match=r"found pixels; state positions= \(--positions TABLE\) in metres"):
        Scan.load(tmp_path / "a.npz", square_pixels=(2.0, 1.0))
    path = nexus(tmp_path)
    square = Scan.load(path, square_pixels="file")  # they are square: nothing to do
    np.testing.assert_array_equal(square.counts, COUNTS)
    sided("nexus", path)
    assert main(["convert", str(path), str(tmp_path / "b.npz"), "--square-pixels", "file"]) == 0
    back = Scan.load(tmp_path / "b.npz")
    assert back.acquisition.detector_pixel_size == pytest.approx(DETECTOR) and back.decisions.frames is not None
    assert main(["convert", str(path), str(tmp_path / "c.npz"), "--square-pixels", "wide"]) == 2
    assert "--square-pixels must be Y,X in metres, or file, got 'wide'" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "c.npz")]) == 2
    assert "--square-pixels file" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"must leave 8 pixels or more along each axis, got \d+ and 16"):
        Scan.load(path, square_pixels=(8.0, 1.0))
