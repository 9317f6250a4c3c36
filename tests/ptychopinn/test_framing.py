# SPDX-License-Identifier: BSD-3-Clause
"""Crop, padding, bins and repair of frames as they are read: patterns, masks, probes, sizes and positions agree."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import COUNTS, DETECTOR, DISTANCE, ENERGY, PATTERNS, PIXEL, WORLD, N, detector_intensity, pair

from ptychopinn.acquisition import object_pixel_size
from ptychopinn.errors import InputError
from ptychopinn.physics.simulate import predict_counts, simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.frames import bin_frames, bin_mask, bin_probe, fit_frames, fit_mask, fit_probe
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions

STATED = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": DETECTOR}


def plain(folder: Path, patterns: np.ndarray, bad: np.ndarray | None = None, world: np.ndarray = WORLD) -> Path:
    """Write patterns with positions and a mask beside them."""
    np.save(folder / "raw_patterns.npy", patterns)
    np.savetxt(folder / "raw_positions.csv", world, delimiter=",")
    if bad is not None:
        np.save(folder / "raw_bad_pixels.npy", bad)
    return folder / "raw_patterns.npy"


def probe_of(size: int, seed: int = 0) -> np.ndarray:
    """Return two smooth modes in the middle quarter, not symmetric."""
    y, x = (np.indices((size, size)) - size // 2) / size
    rng = np.random.default_rng(seed)
    modes = [
        np.exp(-((y - a) ** 2 + (x - b) ** 2) * 500 + 40j * (a * y + b * x)) for a, b in rng.normal(0, 0.02, (2, 2))
    ]
    return np.asarray(modes, np.complex64)


# Pure functions.


@pytest.mark.parametrize(("shape", "size"), [((12, 10), 8), ((12, 10), 16), ((7, 12), 10), ((9, 9), 8), ((15, 15), 16)])
def test_zero_frequency_stays_at_the_middle(shape: tuple[int, int], size: int) -> None:
    frames = np.zeros((2, *shape), np.uint16)
    frames[:, shape[0] // 2, shape[1] // 2] = 7
    fitted = fit_frames(frames, size)
    assert fitted.shape == (2, size, size) and fitted[1, size // 2, size // 2] == 7 and fitted.sum() == 14
    mask = fit_mask(None, shape, size)
    assert (mask is None) == (min(shape) >= size)
    if mask is not None:
        assert not mask[size // 2, size // 2] and (~mask).sum() == min(shape[0], size) * min(shape[1], size)


@pytest.mark.parametrize("size", [16, 24, 32, 48])
def test_far_field_of_a_probe_is_cropped_and_padded(size: int) -> None:
    probe = probe_of(32)
    expected = fit_frames(detector_intensity(probe), size)
    np.testing.assert_allclose(detector_intensity(fit_probe(probe, size)), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_far_field_of_a_probe_is_binned(factor: int) -> None:
    probe = probe_of(96)
    expected = bin_frames(detector_intensity(probe), factor, np.dtype(np.float64))
    np.testing.assert_allclose(detector_intensity(bin_probe(probe, factor)), expected, atol=0.1 * expected.max())
    shifted = detector_intensity(bin_probe(probe, factor) * 1.0)
    centre = [np.average(np.arange(len(shifted)), weights=shifted.sum(axis)) for axis in (1, 0)]
    wanted = [np.average(np.arange(len(shifted)), weights=expected.sum(axis)) for axis in (1, 0)]
    np.testing.assert_allclose(centre, wanted, atol=0.02)


def test_bad_pixels_make_bad_bins_and_do_not_count() -> None:
    bad = np.zeros((8, 8), np.bool_)
    bad[2, 3] = True
    counts = np.full((1, 8, 8), 3, np.uint32)
    counts[0, 2, 3] = 2**32 - 1
    assert bin_frames(counts, 2, np.dtype(np.uint8), bad)[0, 1, 1] == 9
    mask = bin_mask(bad, 2)
    assert mask is not None and np.argwhere(mask).tolist() == [[1, 1]] and bin_mask(None, 2) is None


# Reading.


@pytest.mark.parametrize("memory", ["load", "stored"])
@pytest.mark.parametrize(
    ("options", "size", "factor"),
    [({"crop": 8}, 8, 1), ({"pad": 20}, 20, 1), ({"bin": 2}, 16, 2), ({"crop": 12, "pad": 24, "bin": 3}, 24, 3)],
)
def test_frames_masks_and_sizes_agree(
    tmp_path: Path, options: dict[str, int], size: int, factor: int, memory: str
) -> None:
    bad = np.zeros((N, N), np.bool_)
    bad[7, 9] = True
    frames = COUNTS if "crop" not in options or size != 24 else COUNTS[:, 2:14, 2:14]
    if frames is not COUNTS:
        bad = bad[2:14, 2:14]
    scan = Scan.load(plain(tmp_path, frames, bad), memory=memory, **STATED, **options)
    fitted = fit_frames(frames, size)
    mask = fit_mask(bad, frames.shape[1:], size)
    expected = fitted if factor == 1 else bin_frames(fitted, factor, np.dtype(np.uint64), mask)
    assert isinstance(scan.counts, StoredPatterns) == (memory == "stored")
    np.testing.assert_array_equal(scan.counts[:], expected)
    np.testing.assert_array_equal(scan.bad_pixels, mask if factor == 1 else bin_mask(mask, factor))
    assert scan.counts.dtype.kind == "u" and scan.acquisition.detector_pixel_size == pytest.approx(DETECTOR * factor)
    pixel = object_pixel_size(ENERGY, DISTANCE, DETECTOR * factor, size // factor)
    assert scan.pixel_size == pytest.approx(pixel)
    np.testing.assert_allclose(world_positions(scan), WORLD, atol=1e-12)
    assert scan.counts[[3, 1]].shape[1:] == (size // factor, size // factor)


def test_amplitudes_are_squared_before_they_are_binned(tmp_path: Path) -> None:
    amplitudes = np.sqrt(COUNTS.astype(np.float32))
    for memory in ("load", "stored"):
        scan = Scan.load(plain(tmp_path, amplitudes), memory=memory, bin=2, **STATED)
        np.testing.assert_array_equal(scan.counts[:], bin_frames(COUNTS, 2, np.dtype(np.uint64)))


def test_probe_of_the_file_and_of_the_caller_follow(tmp_path: Path) -> None:
    base = simulate("lines", "defocused", patterns=9, size=32, photons=1e5, seed=3)
    base.save(tmp_path / "a.npz")
    scan = Scan.load(tmp_path / "a.npz", crop=16)
    np.testing.assert_allclose(scan.probe, fit_probe(base.probe, 16), atol=1e-5 * np.abs(base.probe).max())
    scaled = (base.positions + 15.5) / 2 - 7.5
    np.testing.assert_allclose(scan.positions, scaled, atol=1e-9)
    assert scan.truth is None and scan.decisions.truth is not None and "2 times" in scan.decisions.truth.reason
    binned = Scan.load(tmp_path / "a.npz", bin=2)
    assert binned.truth is not None and binned.probe.shape == (1, 16, 16)
    np.testing.assert_allclose(binned.positions, base.positions + 8, atol=1e-9)
    stated = Scan.load(plain(tmp_path, COUNTS), probe=probe_of(N), pad=32, **STATED)
    direction = stated.probe / np.linalg.norm(stated.probe)
    wanted = fit_probe(probe_of(N), 32)
    np.testing.assert_allclose(direction, wanted / np.linalg.norm(wanted), atol=1e-5)
    with pytest.raises(InputError, match=r"expected a probe of shape \(M, 8, 8\),.* found"):
        Scan.load(plain(tmp_path, COUNTS), probe=probe_of(24), crop=8, **STATED)


def test_object_and_probe_predict_the_binned_counts(tmp_path: Path) -> None:
    y, x = np.indices((64, 64)) - 32
    narrow = np.exp(-(y**2 + x**2) / 60 + 0.02j * (y**2 - x) - 0.01j * (x - 3) ** 2)  # in the middle half of the patch
    base = simulate("lines", narrow, patterns=9, photons=1e6, seed=3, noise=False)
    base.save(tmp_path / "a.npz")
    scan = Scan.load(tmp_path / "a.npz", bin=2)
    total = base.counts.sum()

    def difference(probe: np.ndarray) -> float:
        return float(np.abs(predict_counts(replace(scan, probe=probe)) - scan.counts).sum() / total)

    ramp = bin_probe(base.probe, 2) / np.where(scan.probe == 0, 1, fit_frames(base.probe, 32))
    assert difference(scan.probe) < 0.15 < difference(fit_frames(base.probe, 32).copy())
    wrong = (fit_frames(base.probe, 32) * ramp.conj()).astype(np.complex64)
    assert difference(wrong) > 2 * difference(scan.probe)


def test_sizes_that_a_file_states_are_scaled(tmp_path: Path) -> None:
    scan = Scan.load(pair(tmp_path), crop=8)
    assert scan.pixel_size == pytest.approx(2 * PIXEL)
    assert Scan.load(pair(tmp_path), crop=8, pixel_size=1e-8).pixel_size == pytest.approx(2e-8)
    assert Scan.load(pair(tmp_path), bin=2).pixel_size == pytest.approx(PIXEL)


def test_rectangular_detector_of_any_size_is_read(tmp_path: Path) -> None:
    wide = np.random.default_rng(5).poisson(20, (PATTERNS, 13, 22)).astype(np.uint16)
    bad = np.zeros((13, 22), np.bool_)
    bad[6, 11] = True
    path = plain(tmp_path, wide, bad)
    square = Scan.load(path, **STATED)
    assert square.patch_size == 22 and square.bad_pixels is not None and square.bad_pixels.sum() == 9 * 22 + 1
    np.testing.assert_array_equal(square.counts, fit_frames(wide, 22))
    assert square.pixel_size == pytest.approx(object_pixel_size(ENERGY, DISTANCE, DETECTOR, 22))
    assert square.decisions.frames is not None and "13 x 22 px: filled up to 22 px" in square.decisions.frames.reason
    assert Scan.load(path, bin=3, **STATED).patch_size == 8  # 24 px
    long = plain(tmp_path, np.ones((PATTERNS, 12, 50), np.uint16), np.zeros((12, 50), np.bool_))
    with pytest.raises(InputError, match=r"square patterns.*12, 50\); crop=12 \(--crop 12\).*pad=50 \(--pad 50\)"):
        Scan.load(long, **STATED)
    path = plain(tmp_path, wide, bad)
    scan = Scan.load(path, crop=12, **STATED)
    assert scan.bad_pixels is not None and scan.bad_pixels[6, 6] and scan.bad_pixels.sum() == 1
    assert Scan.load(path, crop=16, pad=16, **STATED).bad_pixels.sum() == 3 * 16 + 1
    with pytest.raises(InputError, match=r"13 px or more|16 px or more to crop.*state pad=16 \(--pad 16\) as well"):
        Scan.load(path, crop=16, **STATED)
    with pytest.raises(InputError, match=r"16 px or less to pad.*state crop=16"):
        Scan.load(path, pad=16, **STATED)
    with pytest.raises(InputError, match=r"a multiple of 10 px, for bin=5, found 44 px; state crop=40"):
        Scan.load(path, pad=44, bin=5, **STATED)


def test_mask_of_the_caller_is_of_the_detector_or_of_the_patterns(tmp_path: Path) -> None:
    path = plain(tmp_path, COUNTS)
    full, small = np.zeros((N, N), np.bool_), np.zeros((8, 8), np.bool_)
    full[8, 8] = small[4, 4] = True
    for mask in (full, small):
        np.testing.assert_array_equal(Scan.load(path, crop=8, bad_pixels=mask, **STATED).bad_pixels, small)
    with pytest.raises(InputError, match=r"a mask of shape \(16, 16\) or \(8, 8\), found"):
        Scan.load(path, crop=8, bad_pixels=np.zeros((4, 4), np.bool_), **STATED)


# Values that are no counts.


def damaged(kind: str) -> np.ndarray:
    values = COUNTS.astype({"nan": np.float32, "negative": np.int32, "marker": np.uint32}[kind])
    values[:, 3, 4] = {"nan": np.nan, "negative": -1, "marker": 2**32 - 1}[kind]
    values[2, 5, 6] = values[2, 3, 4]
    return values


@pytest.mark.parametrize("memory", ["load", "stored"])
@pytest.mark.parametrize("kind", ["nan", "negative", "marker"])
def test_invalid_pixels_are_masked(tmp_path: Path, kind: str, memory: str) -> None:
    path = plain(tmp_path, damaged(kind))
    with pytest.raises(InputError, match=r"; mask_invalid= \(--mask-invalid\) masks"):
        Scan.load(path, memory=memory, **STATED)
    scan = Scan.load(path, memory=memory, mask_invalid=True, **STATED)
    assert scan.bad_pixels is not None and np.argwhere(scan.bad_pixels).tolist() == [[3, 4], [5, 6]]
    np.testing.assert_array_equal(scan.counts[:][:, ~scan.bad_pixels], COUNTS[:, ~scan.bad_pixels])
    assert not scan.counts[:][:, 3, 4].any()


def test_negative_floats_are_clipped_and_gaps_of_minus_one_masked(tmp_path: Path) -> None:
    values = COUNTS.astype(np.float32)
    values[::2, 1:9, :] = -0.25
    values[:, 0, 0] = -1
    path = plain(tmp_path, values)
    with pytest.raises(InputError, match=r"--mask-invalid.*, clip_negative= \(--clip-negative\) makes them 0"):
        Scan.load(path, **STATED)
    clipped = Scan.load(path, clip_negative=True, **STATED)
    assert clipped.bad_pixels is None
    np.testing.assert_array_equal(clipped.counts, np.maximum(values, 0))
    both = Scan.load(path, clip_negative=True, mask_invalid=True, **STATED)
    assert both.bad_pixels is not None and np.argwhere(both.bad_pixels).tolist() == [[0, 0]]
    with pytest.raises(InputError, match=r"most pixels of 7 of 13 frames; clip_negative=.*--crop"):
        Scan.load(path, mask_invalid=True, **STATED)


def test_invalid_values_that_come_and_go_do_not_mask_the_detector(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    values = rng.poisson(60, (400, N, N)).astype(np.float32)
    y, x = np.unravel_index(rng.permutation(N * N)[:100], (N, N))
    values[np.arange(100), y, x] = np.nan
    values[:, 3, 4] = np.nan
    values[7] = np.nan
    path = plain(tmp_path, values, world=rng.uniform(0, 1e-5, (400, 2)))
    with caplog.at_level(logging.WARNING):
        scan = Scan.load(path, mask_invalid=True, **STATED)
    assert scan.bad_pixels is not None and np.argwhere(scan.bad_pixels).tolist() == [[3, 4]]
    assert "other values are read as 0" in caplog.text and "in most of 1 frames" in caplog.text
    assert not scan.counts[7].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 7}, "crop must be an even number"),
        ({"pad": 6}, "pad must be an even number"),
        ({"crop": 8.0}, "crop must be an even number"),
        ({"bin": 0}, "bin must be a positive number"),
        ({"scan_step": 0.0}, "scan_step must be metres"),
        ({"scan_step": (1.0, 2.0, 3.0)}, "scan_step must be metres"),
        ({"scan_shape": (0, 3)}, "scan_shape must be two positive"),
        ({"position_unit": "furlong"}, "position_unit must be one of m, mm"),
        ({"position_columns": ("y",)}, "position_columns must be two"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Scan.load(plain(tmp_path, COUNTS), **STATED, **options)
