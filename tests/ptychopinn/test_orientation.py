# SPDX-License-Identifier: BSD-3-Clause
"""The orientation check: all wrong orientations, cases that patterns do not determine, the commands.

Its success rate over objects, probes and doses is measured by benchmarks/orientation.py.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from ptychopinn.acquisition import ORIENTATION_NAMES, Acquisition
from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import centre_offset, in_fft_order, probe_far_field
from ptychopinn.inspection.orientation import (
    FEWEST,
    ORIENTATIONS,
    check_orientation,
    compose,
    oriented,
    require_orientation,
)
from ptychopinn.inspection.trials import margin, select_sample, twin_similarity
from ptychopinn.physics.probes import defocused, disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.search import select_trial_patterns
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions

TRAIN = ("--epochs", "1", "--model.options", '{"steps": 2, "width": 8, "state": 2}', "--data.group_size", "4",
         "--execution.progress", "false", "--execution.threads", "1", "--execution.accelerator", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def scan() -> Scan:
    """A scan in the correct orientation, with different steps along the axes."""
    return simulate("dead_leaves", patterns=36, size=32, step=(4, 5), photons=1e5, seed=2)


@pytest.mark.parametrize("error", ORIENTATIONS)
def test_every_wrong_orientation_is_found_and_corrected(scan: Scan, error: str) -> None:
    wrong = oriented(scan, error)
    report = check_orientation(wrong)
    assert report.sure and report.twin is None
    assert report.given_is_best == (error == "given")
    assert compose(report.best, error) == "given"
    assert report.scores[report.best] == min(report.scores.values()) and set(report.scores) == set(ORIENTATIONS)
    corrected = oriented(wrong, report.best)
    np.testing.assert_allclose(corrected.positions, scan.positions, atol=1e-9)
    assert corrected.orientation == "given"
    assert ("as they are" in report.sentence) == (error == "given")


def test_patterns_on_disk_give_the_same_report(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.storage.arrays._BLOCK_ELEMENTS", 10 * 32 * 32)
    bad = np.zeros((32, 32), np.bool_)
    bad[5, 17] = True
    scan = dataclasses.replace(oriented(scan, "swap"), bad_pixels=bad)
    stored = dataclasses.replace(scan, counts=StoredPatterns.virtual(scan.counts, np.arange(scan.n)))
    assert check_orientation(stored) == check_orientation(scan)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_extent_in_world_coordinates_is_kept_or_swapped(scan: Scan, name: str) -> None:
    scan = dataclasses.replace(scan, pixel_size=1e-8, acquisition=Acquisition(2.0, world_origin=(1e-6, -3e-6)))
    order = slice(None, None, -1 if name.startswith("swap") else None)
    before, after = world_positions(scan), world_positions(oriented(scan, name))
    for end in (np.min, np.max):
        np.testing.assert_allclose(end(after, axis=0), end(before, axis=0)[order], rtol=0, atol=1e-14)
    assert oriented(scan, name).acquisition.distance == 2.0
    assert scan.acquisition.world_origin == (1e-6, -3e-6)


def test_bad_pixels_do_not_affect_the_choice_of_patterns_off_centre(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = np.zeros((32, 32), np.bool_)
    bad[20, 9] = True
    counts = np.roll(scan.counts, (3, -2), (1, 2))
    counts[:, bad] = 60000
    sampled = []

    def record(counts: Tensor, *others: Any) -> Tensor:
        sampled.append(counts)
        return select_trial_patterns(counts, *others)

    monkeypatch.setattr("ptychopinn.inspection.trials.select_trial_patterns", record)
    sample = select_sample(dataclasses.replace(scan, counts=counts, bad_pixels=bad))
    assert np.rint(sample.offset).tolist() == [3, -2]
    np.testing.assert_array_equal(sampled[0].numpy(), np.where(bad, 0, counts))


def test_the_same_arguments_give_the_same_report(scan: Scan) -> None:
    assert check_orientation(scan, seed=3) == check_orientation(scan, seed=3)


def test_orientation_is_found_with_a_poor_probe(scan: Scan) -> None:
    guess = defocused(32, diameter=0.42)
    guess = (guess * np.linalg.norm(scan.probe)).astype(np.complex64)
    report = check_orientation(oriented(dataclasses.replace(scan, probe=guess), "flip_x"))
    assert report.sure and report.best == "flip_x"


def test_scale_of_the_probe_does_not_matter(scan: Scan) -> None:
    scaled = dataclasses.replace(scan, probe=scan.probe * np.float32(1e-3))
    assert check_orientation(oriented(scaled, "swap")).best == "swap"


def test_a_reversed_defocus_is_reported_with_negated_positions(scan: Scan) -> None:
    twin = np.conj(np.roll(scan.probe[:, ::-1, ::-1], (1, 1), (1, 2)))
    report = check_orientation(dataclasses.replace(scan, probe=np.ascontiguousarray(twin)))
    assert report.sure and report.best == "rotate_180"
    assert "a probe with the wrong sign of its phase (defocus)" in report.sentence


@pytest.mark.parametrize(("error", "best"), [("given", "given"), ("rotate_180", "given"), ("swap", "swap")])
def test_a_flat_probe_cannot_distinguish_negated_positions(error: str, best: str) -> None:
    flat = simulate("dead_leaves", probe="disk", patterns=36, size=32, step=(4, 5), photons=1e6, seed=2)
    report = check_orientation(oriented(flat, error))
    assert report.sure and report.twin is not None
    assert {report.best, report.twin} == {best, compose("rotate_180", best)}
    assert report.given_is_best == (best == "given")
    assert "fit" in report.sentence and "equally well" in report.sentence


def test_the_orientation_of_an_empty_sample_is_uncertain(caplog: pytest.LogCaptureFixture) -> None:
    empty = simulate(np.ones((90, 90), np.complex64), patterns=36, size=32, step=(4, 5), photons=1e5, seed=2)
    with caplog.at_level(logging.WARNING):
        report = require_orientation(empty)
    assert report is not None and not report.sure
    assert "the orientation of the positions is uncertain" in caplog.text


def test_the_orientation_of_shuffled_positions_is_uncertain(scan: Scan) -> None:
    shuffled = np.random.default_rng(0).permutation(scan.positions)
    assert not check_orientation(dataclasses.replace(scan, positions=shuffled)).sure


def test_patterns_off_centre_with_bad_pixels_and_empty_ones(scan: Scan) -> None:
    counts = np.roll(scan.counts, (3, -2), (1, 2))
    counts[:, 4, 5] = 60_000
    counts[[0, 30]] = 0
    bad = np.zeros((32, 32), np.bool_)
    bad[4, 5] = True
    report = check_orientation(oriented(dataclasses.replace(scan, counts=counts, bad_pixels=bad), "flip_y"))
    assert report.sure and report.best == "flip_y"
    np.testing.assert_allclose(report.offset, (3, -2), atol=0.3)


def test_patterns_in_fft_order_are_recognised(scan: Scan) -> None:
    corner = dataclasses.replace(scan, counts=np.fft.fftshift(scan.counts, axes=(1, 2)))
    report = check_orientation(oriented(corner, "swap"))
    assert report.sure and report.best == "swap" and in_fft_order(report.offset, 32)
    assert not in_fft_order((16.0, 2.0), 32)


def test_large_patterns_are_cropped() -> None:
    size = 96
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(k[:, np.newaxis], k)
    field = np.exp(-((radius / 12) ** 4) + 0.05j * radius**2)
    probe = np.fft.fftshift(np.fft.ifft2(field))
    large = simulate("dead_leaves", probe=probe, patterns=36, step=(10, 13), photons=1e6, seed=2)
    sample = select_sample(large)
    assert sample.counts.shape[-1] == sample.probe.shape[-1] == 64
    assert float(sample.probe.abs().square().sum()) == pytest.approx(float(sample.counts.mean(0).sum()), rel=0.2)
    report = check_orientation(oriented(large, "swap_flip_y"))
    assert report.sure and report.best == "swap_flip_x"


def test_orientations_are_a_group_and_act_as_named(scan: Scan) -> None:
    assert all(compose(a, b) in ORIENTATIONS for a in ORIENTATIONS for b in ORIENTATIONS)
    y, x = scan.positions.T
    np.testing.assert_allclose(oriented(scan, "swap").positions.T, (x, y))
    np.testing.assert_allclose(oriented(scan, "flip_y").positions.T, (y.min() + y.max() - y, x))
    np.testing.assert_allclose(oriented(scan, "swap_flip_y").positions.T, (x.min() + x.max() - x, y))
    for name in ORIENTATIONS:
        turned = oriented(scan, name)
        extent = np.ptp(scan.positions, axis=0)
        np.testing.assert_allclose(np.ptp(turned.positions, axis=0), extent[::-1] if "swap" in name else extent)
        assert turned.counts is scan.counts and turned.probe is scan.probe


def test_the_truth_is_dropped_and_the_orientation_recorded(scan: Scan) -> None:
    assert oriented(scan, "given") is scan and scan.truth is not None
    once = oriented(scan, "swap")
    assert once.truth is None and once.orientation == "swap"
    assert oriented(once, "flip_y").orientation == "swap_flip_y"
    assert scan.orientation == "given" and tuple(ORIENTATIONS) == ORIENTATION_NAMES


def test_unknown_names_and_single_patterns_are_refused(scan: Scan) -> None:
    with pytest.raises(InputError, match=r"orientation must be one of given, flip_y, .*, got 'mirror'"):
        oriented(scan, "mirror")
    with pytest.raises(InputError, match="expected two patterns or more to find their orientation, found 1"):
        check_orientation(scan.subset([0]))


def test_a_required_orientation_is_refused_with_a_remedy(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        InputError, match=r"y and x swapped, by .* use --orientation swap, or --orientation given to keep the positions"
    ):
        require_orientation(oriented(scan, "swap"))
    assert require_orientation(scan) is not None and caplog.text == ""
    with caplog.at_level(logging.INFO):
        assert require_orientation(oriented(scan, "swap").subset(np.arange(FEWEST - 1))) is None
    assert f"orientation not checked, {FEWEST - 1} patterns are fewer than {FEWEST}" in caplog.text


def test_a_required_orientation_warns_of_patterns_off_centre(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    require_orientation(dataclasses.replace(scan, counts=np.roll(scan.counts, 2, 1)))
    assert "the zero frequency of the patterns is (2." in caplog.text and "expect a phase ramp" in caplog.text


def test_margin_twin_and_centre_are_reported() -> None:
    better, worse = np.array([1.0, 2.0, 4.0]), np.array([2.0, 5.0, 7.0])
    assert margin(better, worse) == -margin(worse, better) > 0
    assert margin(better, better) == 0
    assert twin_similarity(disk(32)) > 0.99 > 0.6 > twin_similarity(defocused(32))
    assert twin_similarity(np.roll(disk(32), 3, 1)) > 0.99
    mean = np.roll(probe_far_field(defocused(64)), (-5, 1), (0, 1))
    assert centre_offset(mean, defocused(64, diameter=0.4)) == pytest.approx((-5, 1), abs=0.1)


def test_train_refuses_a_wrong_orientation_and_accepts_a_stated_one(
    scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataclasses.replace(oriented(scan, "swap_flip_y"), orientation="given").save("wrong.npz")
    assert main(["train", "wrong.npz", "--out", "run", *TRAIN]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ptychopinn train: ") and "use --orientation swap_flip_x" in line
    assert not (tmp_path / "run").exists()
    assert main(["train", "wrong.npz", "--out", "run", "--orientation", "mirror", *TRAIN]) == 2
    assert "orientation must be one of given" in capsys.readouterr().err
    assert main(["train", "wrong.npz", "--out", "run", "--orientation", "swap_flip_x", *TRAIN]) == 0

    assert main(["reconstruct", "run", "wrong.npz", "--out", "recon.h5", "--device", "cpu"]) == 2
    assert (
        "run: trained with --orientation swap_flip_x: expected --orientation for this scan" in capsys.readouterr().err
    )
    name = ("--orientation", "swap_flip_x")
    assert main(["reconstruct", "run", "wrong.npz", "--out", "recon.h5", "--device", "cpu", *name]) == 0
    small = ("--refine.split_half", "false", "--iterations", "3", "--device", "cpu", "--refine.find_defocus", "false")
    assert main(["refine", "--from-scratch", "wrong.npz", "--out", "refined.h5", *small, *name]) == 0
    extent = np.ptp(scan.positions, axis=0)
    for path in ("recon.h5", "refined.h5"):
        height, width = Reconstruction.load(path).shape
        assert (width > height) == (extent[1] > extent[0]), path
    positions = Reconstruction.load("refined.h5").positions
    assert positions is not None
    np.testing.assert_allclose(positions, scan.positions, atol=1e-6)


def test_of_several_scans_the_wrong_one_is_named_and_can_be_converted(
    scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scan.save("right.npz")
    oriented(scan, "swap").save("wrong.npz")
    assert main(["train", "right.npz", "wrong.npz", "--out", "run", *TRAIN]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ptychopinn train: wrong.npz: ")
    assert "convert this scan with 'ptychopinn convert wrong.npz OUT --orientation swap'" in line
    assert main(["convert", "wrong.npz", "converted.npz", "--orientation", "swap"]) == 0
    np.testing.assert_allclose(Scan.load("converted.npz").positions, scan.positions)


def test_inspect_checks_its_files_before_it_writes(
    scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scan.save("scan.npz")
    for options, message in (
        (("--json", "a.json", "--picture", "a.jpgx"), "--picture: expected a file ending in .png, found a.jpgx"),
        (("--json", "a", "--mask", "a"), "--json, --write-mask, --picture: expected files of different names"),
    ):
        assert main(["inspect", "scan.npz", "--no-orientation", *options]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]


def test_the_mask_of_inspect_is_accepted_by_other_commands(
    scan: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts, known = scan.counts[:].copy(), np.zeros(scan.counts.shape[1:], np.bool_)
    counts[:, 3, 5], known[0, 0] = 60000, True  # one hot, one masked in the file
    dataclasses.replace(scan, counts=counts, bad_pixels=known).save("hot.npz")
    main(["inspect", "hot.npz", "--no-orientation", "--mask", "mask.npy"])
    assert main(["convert", "hot.npz", "masked.npz", "--bad-pixels", "mask.npy"]) == 0
    mask = Scan.load("masked.npz").bad_pixels
    assert mask is not None and mask[3, 5] and mask[0, 0] and mask.sum() == 2
    capsys.readouterr()
    for wrong, message in (
        (np.ones((4, 4), np.bool_), "expected a mask of shape"),
        (np.ones(mask.shape), "expected a mask of shape"),
        (np.ones(mask.shape, np.bool_), "expected at least one good pixel"),
    ):
        np.save("wrong.npy", wrong)
        assert main(["convert", "hot.npz", "not.npz", "--bad-pixels", "wrong.npy"]) == 2
        assert f"wrong.npy: {message}" in capsys.readouterr().err
    assert main(["convert", "hot.npz", "not.npz", "--bad-pixels", "hot.npz"]) == 2
