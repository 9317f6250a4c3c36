# SPDX-License-Identifier: BSD-3-Clause
"""Mends as functions: exact counts, probe and positions in closed loops, patterns on disk, notes in every format."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ptychopinn as pp
from ptychopinn.acquisition import Acquisition, object_pixel_size
from ptychopinn.errors import InputError
from ptychopinn.findings.geometry import outlying_positions
from ptychopinn.findings.measure import measure_patterns
from ptychopinn.inspection import inspect_scan
from ptychopinn.mending import Mends, apply_mends, mend
from ptychopinn.mending.patterns import find_outliers
from ptychopinn.mending.pixels import find_faulty
from ptychopinn.mending.positions import convert_positions, fitting_unit
from ptychopinn.physics.simulate import predict_counts, simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions


@pytest.fixture(scope="module")
def sound() -> Scan:
    scan = simulate("lines", "defocused", patterns=64, size=32, photons=1e5, seed=3)
    return replace(scan, pixel_size=2e-8, energy=8800.0, acquisition=Acquisition(distance=2.0))


def with_patterns(scan: Scan, counts: np.ndarray) -> Scan:
    return replace(scan, counts=np.asarray(counts, np.uint16))


def resampled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A periodic image, band-limited to both grids, on another grid of the same field of view."""
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    out = np.zeros(shape, complex)
    common = [min(one, other) for one, other in zip(image.shape, shape, strict=True)]
    source, target = (
        tuple(slice(side // 2 - c // 2, side // 2 - c // 2 + c) for side, c in zip(sides, common, strict=True))
        for sides in (image.shape, shape)
    )
    out[target] = spectrum[source]
    return np.fft.ifft2(np.fft.ifftshift(out)) * (np.prod(shape) / np.prod(image.shape))


def band_limited_scan(size: int, shape: tuple[int, int]) -> Scan:
    """A scan without noise, whose waves are small and have no frequencies beyond a quarter of 64 / size per pixel."""
    rng = np.random.default_rng(5)
    spectrum = np.fft.fft2(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    y, x = (np.abs(np.fft.fftfreq(side)) < 4 / size for side in shape)
    truth = 1 + 0.5 * np.fft.ifft2(spectrum * y[:, np.newaxis] * x)
    axis = (np.arange(size) - size // 2) / (5 * size / 64)
    y, x = axis[:, np.newaxis] - 0.2, axis + 0.1
    wave = np.exp(-(y**2 + x**2) / 2)
    probe = np.stack([wave * (1 + 0.5j * x - 0.3 * y), 0.4 * wave * (y + 1j * x * y)]).astype(np.complex64) * 30
    positions = 2.0 * np.array([[1, 3], [5, 0], [0, 8], [7, 9]])
    scan = Scan(
        np.ones((4, size, size), np.float32), positions, probe, truth.astype(np.complex64), pixel_size=1e-8,
        energy=8000.0, acquisition=Acquisition(3.0, object_pixel_size(8000.0, 3.0, 1e-8, size), (1e-6, -2e-6)),
    )  # fmt: skip
    return replace(scan, counts=predict_counts(scan).astype(np.float32))


@pytest.mark.parametrize(("size", "option", "new", "shape"), [(64, "crop", 32, (96, 112)), (32, "pad", 64, (56, 64))])
def test_the_forward_model_predicts_cropped_and_padded_patterns(
    size: int, option: str, new: int, shape: tuple[int, int]
) -> None:
    scan = band_limited_scan(size, shape)
    mended = pp.mend(scan, **{option: new})
    edge = abs(new - size) // 2
    inner = slice(edge, edge + min(size, new))
    if option == "crop":
        np.testing.assert_array_equal(mended.counts, scan.counts[:, inner, inner])
    else:
        np.testing.assert_array_equal(mended.counts[:, inner, inner], scan.counts)
        assert mended.bad_pixels is not None and mended.bad_pixels.sum() == new**2 - size**2
    truth = resampled(scan.truth, tuple(side * new // size for side in shape))  # type: ignore[arg-type]
    predicted = predict_counts(mended, truth)
    np.testing.assert_allclose(predicted, mended.counts, atol=1e-4 * float(scan.counts.max()))
    assert mended.truth is None and mended.decisions.truth is not None
    # The geometry stays consistent, and the beam where it was.
    assert mended.pixel_size == pytest.approx(1e-8 * size / new)
    side = mended.acquisition.detector_pixel_size
    assert side is not None and object_pixel_size(8000.0, 3.0, side, new) == pytest.approx(mended.pixel_size)
    np.testing.assert_allclose(world_positions(mended), world_positions(scan), atol=1e-15)


@pytest.mark.parametrize(("size", "factor"), [(64, 2), (96, 3)])
def test_the_forward_model_predicts_bins(size: int, factor: int) -> None:
    rng = np.random.default_rng(2)
    r = np.arange(size) - size // 2
    y, x = r[:, np.newaxis] - 0.7, r[np.newaxis, :] + 0.4
    probe = 50 * np.exp(-(y**2 / 5 + x**2 / 8)) * np.exp(1j * (0.3 * y + 0.1 * x * y))
    truth = np.exp(1j * rng.normal(size=(size + 30, size + 24)) * 0.5)
    scan = Scan(
        np.ones((3, size, size), np.float32), np.array([[2.0, 11.0], [20.25, 3.0], [9.0, 17.5]]),
        probe[np.newaxis].astype(np.complex64), truth.astype(np.complex64), pixel_size=1e-8, energy=8000.0,
        acquisition=Acquisition(3.0, object_pixel_size(8000.0, 3.0, 1e-8, size), (1e-6, -2e-6)),
    )  # fmt: skip
    scan = replace(scan, counts=predict_counts(scan).astype(np.float32))
    mended = pp.mend(scan, bin=factor)
    new = size // factor
    sums = scan.counts.reshape(3, new, factor, new, factor).sum((2, 4))
    np.testing.assert_allclose(mended.counts, sums, rtol=1e-6)

    def error(other: Scan) -> float:
        return float(np.abs(predict_counts(other) - sums).sum() / sums.sum())

    assert error(mended) < 0.02
    centred = np.arange(new) - new // 2
    ramp = np.exp(1j * np.pi * (factor - 1) / size * centred)  # takes the middle of the bins back to their first pixel
    others = [replace(mended, probe=(mended.probe * ramp).astype(np.complex64))]
    others += [replace(mended, positions=mended.positions + step) for step in ([1.0, 0], [0, -1.0])]
    assert all(error(other) > 4 * error(mended) for other in others)
    assert mended.pixel_size == scan.pixel_size and mended.truth is scan.truth
    side = mended.acquisition.detector_pixel_size
    assert side is not None and object_pixel_size(8000.0, 3.0, side, new) == pytest.approx(1e-8)
    np.testing.assert_allclose(world_positions(mended), world_positions(scan), atol=1e-15)


def test_bins_of_counts_are_integers_and_bad_with_one_bad_pixel(sound: Scan) -> None:
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 8] = True
    scan = replace(sound, counts=np.full((64, 32, 32), 250, np.uint8), bad_pixels=bad)
    mended = pp.mend(scan, bin=2)
    assert mended.counts.dtype == np.uint16 and (mended.counts[:] == 1000).all()
    assert mended.bad_pixels is not None and np.argwhere(mended.bad_pixels).tolist() == [[1, 4]]


@pytest.mark.parametrize("offset", [(3, -2), (16, 16), (-15, 16), (0, 5)])
def test_centred_patterns_keep_their_counts_and_mask_what_wrapped_around(sound: Scan, offset: tuple[int, int]) -> None:
    bad = np.zeros((32, 32), np.bool_)
    bad[9, 14] = True
    rolled = replace(
        sound, counts=np.roll(sound.counts, offset, (1, 2)), bad_pixels=np.roll(bad, offset, (0, 1))
    )  # fmt: skip
    mended = pp.mend(rolled, centre=True)
    assert mended.counts.dtype == sound.counts.dtype
    np.testing.assert_array_equal(mended.counts, sound.counts)
    assert mended.bad_pixels is not None
    rest = [(step + 16) % 32 - 16 if abs(step) < 14 else (step + 16 + 16) % 32 - 16 for step in offset]
    expected = bad.copy()
    for axis, step in enumerate(rest):  # rolled back by -step
        lines = np.arange(32)
        wrapped = lines >= 32 - step if step > 0 else lines < -step
        expected |= wrapped[:, np.newaxis] if axis == 0 else wrapped
    np.testing.assert_array_equal(mended.bad_pixels, expected)


def test_faulty_pixels_of_every_kind_are_found_behind_each_other(sound: Scan) -> None:
    counts = np.asarray(sound.counts, np.uint16).copy()
    ceiling = 400
    counts = np.minimum(counts, ceiling).astype(np.uint16)
    counts[:, :, 20:22] = 65535
    counts[:, 17] = 0
    counts[:, 4, 27] = 700 + np.arange(64)
    counts[50:] = 0
    found = find_faulty(with_patterns(sound, counts))
    expected = np.zeros((32, 32), np.bool_)
    expected[:, 20:22] = expected[17] = expected[4, 27] = True
    expected |= (counts == ceiling).any(0)
    np.testing.assert_array_equal(found.mask, expected)
    assert found.saturated_at == ceiling
    assert sum(found.kinds.values()) == expected.sum()
    assert (
        inspect_scan(pp.mend(with_patterns(sound, counts[:50].repeat(2, 0)[:64]), mask_faulty=True), False).problems
        == 0
    )


def test_a_sound_scan_has_nothing_to_mend(sound: Scan) -> None:
    done = apply_mends(sound, Mends(), all=True, check_orientation=False)
    assert done.notes == () and not done.mends and done.scan.counts is sound.counts
    assert not find_faulty(sound).mask.any() and find_outliers(sound).rows == []


def test_clipped_counts_become_those_of_their_neighbours(sound: Scan) -> None:
    counts = np.full((64, 32, 32), 7, np.uint16)
    counts[5, 0, 0], counts[5, 10, 10:12], counts[9, 31, 4] = 60000, 50000, 40000
    counts[3, 20, 20] = 30000  # a bad pixel, which keeps it
    bad = np.zeros((32, 32), np.bool_)
    bad[20, 20] = True
    scan = replace(sound, counts=counts, bad_pixels=bad)
    mended = pp.mend(scan, clip=1000)
    expected = np.full_like(counts, 7)
    expected[3, 20, 20] = 30000
    np.testing.assert_array_equal(mended.counts, expected)
    assert scan.counts[5, 0, 0] == 60000 and mended.counts.dtype == np.uint16
    note = mended.metadata["mended"][0]
    assert (note["mend"], note["counts"], note["patterns"]) == ("clip", 4, 2)
    everything = pp.mend(replace(sound, counts=np.full((64, 32, 32), 7, np.uint16)), clip=5.5)
    assert (everything.counts[:] == 5).all()  # no neighbour is below the limit


def test_dropped_patterns_keep_their_frame_indexes(sound: Scan) -> None:
    mended = pp.mend(sound, drop=[0, 5])
    assert mended.frame_indexes is not None
    np.testing.assert_array_equal(mended.frame_indexes, np.delete(np.arange(64), [0, 5]))
    np.testing.assert_array_equal(mended.counts, np.delete(sound.counts, [0, 5], 0))
    np.testing.assert_array_equal(pp.mend(mended, drop=[0]).frame_indexes, np.delete(np.arange(64), [0, 1, 5]))
    indexed = replace(sound, frame_indexes=np.arange(64)[::-1] * 3 + 7)
    assert pp.mend(indexed, drop=[63]).frame_indexes.tolist() == (np.arange(64)[::-1] * 3 + 7)[:63].tolist()
    assert pp.mend(sound, drop=[63]).frame_indexes is None  # 0 to 62, in order
    with pytest.raises(InputError, match="at least one pattern"):
        pp.mend(sound, drop=range(64))


def test_outliers_of_every_kind_with_indices_of_the_input(sound: Scan) -> None:
    counts, positions = np.asarray(sound.counts, np.uint16).copy(), sound.positions.copy()
    counts[10:13] = 0
    counts[20] = np.minimum(counts[20], 1) * (np.arange(32) == 16)
    counts[30] *= 7
    positions[40] += 3e4
    counts[:, 5, 5] = 65535  # a stuck pixel with more counts than any pattern
    done = apply_mends(replace(sound, counts=counts, positions=positions), Mends(drop_outliers=True, drop=(1,)))
    assert done.notes[1].values["patterns"] == {"empty": [10, 11, 12], "faint": [20], "bright": [30], "far": [40]}
    np.testing.assert_array_equal(done.scan.frame_indexes, np.delete(np.arange(64), [1, 10, 11, 12, 20, 30, 40]))


def test_the_dose_is_evened_by_the_neighbours(sound: Scan) -> None:
    exposure = np.random.default_rng(1).uniform(0.4, 1.6, 64)
    scan = with_patterns(sound, np.random.default_rng(2).poisson(sound.counts * exposure[:, np.newaxis, np.newaxis]))
    mended = pp.mend(scan, even_dose=True)
    assert mended.counts.dtype == np.float32

    def spread(scan: Scan) -> float:
        return float(np.std(np.log(scan.counts[:].sum((1, 2)) / sound.counts.sum((1, 2)))))

    assert spread(mended) < 0.5 * spread(scan)
    with pytest.raises(InputError, match="at least 10 patterns"):
        pp.mend(scan.subset(range(9)), even_dose=True)


def test_two_fields_are_not_outliers() -> None:
    field = np.random.default_rng(0).uniform(0, 100, (40, 2))
    assert outlying_positions(np.concatenate([field, field + 5000]), 32) == ([], 0.0)
    assert len(outlying_positions(np.concatenate([field, field[:2] + 5000]), 32)[0]) == 2


@pytest.mark.parametrize(
    ("unit", "taken"), [("m", "px"), ("um", "px"), ("nm", "px"), ("um", "m"), ("mm", "m"), ("px", "m")]
)
def test_units_are_found_and_converted(sound: Scan, unit: str, taken: str) -> None:
    lengths = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "px": 2e-8}
    origin = (3e-6, -5e-6) if taken == "m" else None
    scan = replace(sound, acquisition=replace(sound.acquisition, world_origin=origin))
    factor = lengths[taken] / lengths[unit]  # of the coordinates that were read, to those of the right unit
    middle = 16 if taken == "px" else 15.5
    moved = None if origin is None else (origin[0] * factor, origin[1] * factor)
    wrong = replace(
        scan, positions=(scan.positions + middle) * factor - middle, truth=None,
        acquisition=replace(scan.acquisition, world_origin=moved),
    )  # fmt: skip
    diameter = inspect_scan(scan, False).geometry.diameter
    assert fitting_unit(scan, diameter) is None
    assert fitting_unit(wrong, diameter) == unit
    mended, note = convert_positions(wrong, unit)
    np.testing.assert_allclose(mended.positions, scan.positions, atol=1e-6)
    assert note.values["unit"] == unit
    if origin is not None:
        np.testing.assert_allclose(world_positions(mended), world_positions(scan), rtol=1e-9)


def test_the_power_of_the_probe_follows_the_good_pixels(sound: Scan) -> None:
    counts = np.asarray(sound.counts, np.uint16).copy()
    counts[:, :, 20:22] = 65535
    scan = with_patterns(sound, counts)
    mended = pp.mend(replace(scan, probe=scan.probe * np.float32(1000)), mask_faulty=True, scale_probe=True)
    power = np.square(np.abs(mended.probe)).sum()
    assert power == pytest.approx(sound.counts.sum() / 64, rel=0.02)
    assert mended.decisions.probe_scale is not None


def test_a_probe_that_the_reader_scaled_is_scaled_again(sound: Scan, tmp_path: Path) -> None:
    counts = np.asarray(sound.counts, np.uint16).copy()
    counts[:, :, 20:22] = 65535
    y, x = (sound.positions + 16).T
    np.savez(tmp_path / "a.npz", diff3d=counts, xcoords=x, ycoords=y, probeGuess=sound.probe[0])
    mended = pp.mend(Scan.load(tmp_path / "a.npz"), mask_faulty=True)
    assert np.square(np.abs(mended.probe)).sum() == pytest.approx(sound.counts.sum() / 64, rel=0.02)
    assert [note["mend"] for note in mended.metadata["mended"]] == ["mask_faulty", "scale_probe"]
    assert [note["mend"] for note in pp.mend(with_patterns(sound, counts), mask_faulty=True).metadata["mended"]] == [
        "mask_faulty"
    ]


def test_a_centred_probe_illuminates_the_same_object(sound: Scan) -> None:
    rolled = replace(sound, probe=np.roll(sound.probe, (6, -4), (1, 2)), positions=sound.positions - [6, -4])
    mended = pp.mend(rolled, centre_probe=True)
    offset = np.array(inspect_scan(mended, False).geometry.probe_offset)
    assert np.abs(offset).max() <= 0.5
    by = np.rint(mended.positions[0] - rolled.positions[0]).astype(int)
    np.testing.assert_array_equal(mended.probe, np.roll(rolled.probe, -by, (1, 2)))
    np.testing.assert_allclose(predict_counts(mended), predict_counts(replace(
        sound, probe=np.roll(sound.probe, np.array([6, -4]) - by, (1, 2)), positions=sound.positions - [6, -4] + by
    )), rtol=1e-6)  # fmt: skip
    assert pp.mend(mended, centre_probe=True).probe is mended.probe
    corner = replace(sound, probe=np.fft.fftshift(sound.probe, axes=(1, 2)))
    np.testing.assert_array_equal(pp.mend(corner, centre_probe=True).positions, sound.positions)


def test_the_orientation_is_mended_where_it_is_sure(sound: Scan) -> None:
    from ptychopinn.inspection import oriented

    done = apply_mends(oriented(sound, "swap_flip_x"), Mends(), all=True)
    assert done.mends.options() == ["--orientation", "swap_flip_y"] and done.scan.orientation == "given"
    np.testing.assert_allclose(done.scan.positions, sound.positions, atol=1e-9)


EVERYTHING = dict(
    mask_faulty=True, mask_above=60000, clip=3000, shift=(3, -2), drop=[2, 3], drop_outliers=True, scale_positions=0.9,
    scale_probe=True, centre_probe=True, even_dose=True, crop=28, pad=32, bin=2, orientation="flip_y",
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["npz", "cxi"])
def test_patterns_on_disk_are_mended_as_in_memory(sound: Scan, suffix: str, tmp_path: Path) -> None:
    counts = np.asarray(sound.counts, np.uint16).copy()
    counts[:, 4, 27], counts[9], counts[11, 3, 3] = 65535, 0, 5000
    with_patterns(sound, counts).save(tmp_path / f"scan.{suffix}")
    stored = Scan.load(tmp_path / f"scan.{suffix}", memory="stored")
    mended, loaded = pp.mend(stored, **EVERYTHING), pp.mend(Scan.load(tmp_path / f"scan.{suffix}"), **EVERYTHING)  # type: ignore[arg-type]
    assert isinstance(mended.counts, StoredPatterns) and mended.n == 61
    np.testing.assert_array_equal(mended.counts[:], loaded.counts[:])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mended.counts))[[5, 2]], loaded.counts[[5, 2]])
    for name in ("positions", "probe", "bad_pixels", "frame_indexes"):
        np.testing.assert_array_equal(getattr(mended, name), getattr(loaded, name))
    mended.save(tmp_path / f"out.{suffix}")
    np.testing.assert_allclose(Scan.load(tmp_path / f"out.{suffix}").counts, loaded.counts[:], rtol=3e-7)


def test_patterns_on_disk_are_handled_in_blocks(sound: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    stored = StoredPatterns.virtual(
        rng.poisson(sound.counts[:, :, :].mean(0), (4, 32, 32)).astype(np.uint16), np.arange(6000) % 4
    )
    largest = 0
    read = type(stored._source).read

    def watched(self: object, rows: np.ndarray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(rows))
        return read(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(type(stored._source), "read", watched)
    scan = replace(sound, counts=stored, positions=rng.uniform(0, 200, (6000, 2)), truth=None)
    mended = pp.mend(scan, mask_faulty=True, clip=3000, shift=(1, 0), drop_outliers=True, drop=[7])
    mended.save(tmp_path / "out.npz")
    assert 0 < largest <= (1 << 22) // 32**2 < 5999
    assert Scan.load(tmp_path / "out.npz", memory="stored").n == 5999


@pytest.mark.parametrize("name", ["npz", "cxi", "ptyd", "nexus", "ptychodus"])
def test_notes_and_frame_indexes_survive_in_every_format(sound: Scan, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{'' if name == 'ptychodus' else '.h5' if name == 'nexus' else '.' + name}"
    first = apply_mends(sound, Mends(drop=(4,), mask_above=300), origin="raw.cxi").scan
    first.save(path, format=name)
    loaded = Scan.load(path)
    assert [(note["mend"], note["file"]) for note in loaded.metadata["mended"]] == [
        ("drop", "raw.cxi"), ("mask_above", "raw.cxi"),
    ]  # fmt: skip
    assert loaded.metadata["mended"][0]["patterns"] == [4]
    assert loaded.frame_indexes is not None and loaded.frame_indexes.tolist() == [*range(4), *range(5, 64)]
    np.testing.assert_array_equal(loaded.bad_pixels, first.bad_pixels)
    assert [note["mend"] for note in pp.mend(loaded, clip=9000).metadata["mended"]] == ["drop", "mask_above", "clip"]


def test_statements_that_exclude_each_other_are_refused(sound: Scan) -> None:
    with pytest.raises(InputError, match="centre and shift must not both"):
        pp.mend(sound, centre=True, shift=(1, 1))
    with pytest.raises(InputError, match="position_unit and scale_positions"):
        pp.mend(sound, position_unit="um", scale_positions=2.0)
    with pytest.raises(InputError, match="shift must be less than the 32 px"):
        pp.mend(sound, shift=(32, 0))
    with pytest.raises(InputError, match="shift must be integer pixels"):
        pp.mend(sound, shift=(1.5, 0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pad must be an even number of pixels from the 32"):
        pp.mend(sound, pad=30)
    with pytest.raises(InputError, match="found none there"):
        counts = np.zeros((64, 32, 32), np.uint16)
        counts[:, 0, 0] = 5
        pp.mend(with_patterns(sound, counts), crop=16)


def test_the_input_is_not_changed(sound: Scan) -> None:
    before = {name: np.copy(getattr(sound, name)) for name in ("counts", "positions", "probe")}
    pp.mend(sound, **EVERYTHING)  # type: ignore[arg-type]
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(sound, name), value)
    assert "mended" not in sound.metadata and mend is pp.mend
    assert measure_patterns(sound).offset == pytest.approx((0, 0), abs=0.3)
