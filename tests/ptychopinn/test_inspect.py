# SPDX-License-Identifier: BSD-3-Clause
"""Findings of an inspection, with and without each fault; statistics of known scans; the command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ptychopinn.cli import main
from ptychopinn.decisions import Decision, Decisions
from ptychopinn.experiment import Experiment
from ptychopinn.findings.gate import KEYS
from ptychopinn.findings.measure import FORMER_NAMES
from ptychopinn.inspection import Inspection, inspect_scan, oriented
from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.probes import PROBES, disk
from ptychopinn.physics.simulate import simulate
from ptychopinn.physics.simulate_experiments import smooth_background
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns


@pytest.fixture(scope="module")
def good() -> Scan:
    scan = simulate("dead_leaves", patterns=36, size=32, step=(4, 5), photons=1e5, seed=2)
    return dataclasses.replace(scan, energy=8e3, pixel_size=2e-8)


def with_counts(change: Callable[[NDArray[Any]], NDArray[Any] | None]) -> Callable[[Scan], Scan]:
    def changed(scan: Scan) -> Scan:
        counts = scan.counts.copy()
        replaced = change(counts)
        return dataclasses.replace(scan, counts=counts if replaced is None else replaced)

    return changed


def put(index: Any, value: float) -> Callable[[Scan], Scan]:
    def change(counts: NDArray[Any]) -> None:
        counts[index] = value

    return with_counts(change)


def bright_hot_pixel(counts: NDArray[Any]) -> None:
    counts[:, 6, 9] = 900 + np.arange(len(counts))


def thinned(counts: NDArray[Any], fraction: Any) -> NDArray[Any]:
    """The counts of a shorter exposure."""
    return np.random.default_rng(1).binomial(counts, fraction).astype(counts.dtype)


def with_pedestal(counts: NDArray[Any]) -> NDArray[Any]:
    noise = np.random.default_rng(1).normal(60, 2, counts.shape)
    return np.rint(counts + noise).astype(np.uint16)


def with_background(counts: NDArray[Any]) -> NDArray[Any]:
    mean = smooth_background(counts.shape[-1], 3.0, seed=1)
    return (counts + np.random.default_rng(1).poisson(mean, counts.shape)).astype(np.uint16)


def with_shared_charge(counts: NDArray[Any]) -> NDArray[Any]:
    return ndimage.gaussian_filter(counts.astype(np.float32), (0, 0.7, 0.7), mode="wrap")


def near_field(scan: Scan) -> Scan:
    """A scan of a detector in the near field of a speckled beam that fills it, read as one in the far field."""
    waves = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(2, 32, 32)), (0, 3, 3), mode="wrap")
    beam = (1 + 3 * waves[0]) * np.exp(12j * waves[1])
    near = simulate(
        "dead_leaves", beam.astype(np.complex64), patterns=36, step=(4, 5), photons=1e6, seed=2,
        experiment=Experiment(fresnel_number=0.1),
    )  # fmt: skip
    return dataclasses.replace(near, experiment=Experiment())


def positions(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Scan], Scan]:
    return lambda scan: dataclasses.replace(scan, positions=change(scan.positions))


def duplicated(points: NDArray[np.float64]) -> NDArray[np.float64]:
    points = points.copy()
    points[[20, 21]] = points[3]
    return points


def probe(change: Callable[[NDArray[np.complex64]], NDArray[np.complex64]]) -> Callable[[Scan], Scan]:
    return lambda scan: dataclasses.replace(scan, probe=np.ascontiguousarray(change(scan.probe)))


def wide_disk(field: NDArray[np.complex64]) -> NDArray[np.complex64]:
    wide = disk(32, diameter=0.95) * np.linalg.norm(field)
    return wide.astype(np.complex64)


def undecided(scan: Scan) -> Scan:
    decision = Decision("amplitude", "the contract's default, since neither the values nor ...", by_default=True)
    return dataclasses.replace(scan, decisions=Decisions(measurement=decision))


#: Key of the finding -> fault of a scan, severity, and words of the sentence and the advice.
FINDINGS: dict[str, tuple[Callable[[Scan], Scan], str, tuple[str, ...]]] = {
    "measurement": (undecided, "warning", ("read as amplitude", "--measurement")),
    "fractional_counts": (with_counts(lambda c: (c * 1.5).astype(np.float32)), "note", ("not integers",)),
    "fft_order": (
        with_counts(lambda c: np.fft.fftshift(c, axes=(1, 2))), "problem",
        ("in the corner", "roll the patterns by 16", "--centre"),
    ),
    "centre": (
        with_counts(lambda c: np.roll(c, (2, -1), (1, 2))), "warning",
        ("at pixel (18.", "expected (16, 16)", "roll the patterns by (-2, 1) px"),
    ),
    "dead_pixels": (put(np.s_[:, 14, 19], 0), "warning", ("1 pixel is without counts", "--mask-faulty")),
    "stuck_pixels": (put(np.s_[:, 5, 8:10], 7), "warning", ("2 pixels are constant in all patterns",)),
    "hot_pixels": (with_counts(bright_hot_pixel), "warning", ("1 pixel is far above", "--bad-pixels")),
    "intermittent_pixels": (put(np.s_[::12, 20, 12], 30_000), "warning", ("1 pixel is far above", "in some patterns")),
    "empty_patterns": (put(np.s_[[4, 9]], 0), "problem", ("2 patterns without counts: 4, 9",)),
    "faint_patterns": (with_counts(lambda c: np.where(np.arange(36)[:, None, None] == 5, c // 400, c)), "warning",
                       ("1 pattern with less than 1% of the median counts: 5",)),
    "glaring_patterns": (with_counts(lambda c: np.where(np.arange(36)[:, None, None] == 5, 9 * c, c)), "warning",
                         ("1 pattern with more than 5 times the median counts: 5",)),
    "repeated_patterns": (with_counts(lambda c: c[np.maximum(np.arange(36), 3)]), "warning", ("equal to the one be",)),
    "saturated": (with_counts(lambda c: np.minimum(c, 250)), "problem",
                  ("36 patterns saturated at 250", "0 to 35", "--saturation 250 uses them")),
    "beamstop": (put(np.s_[:, 14:18, 15:19], 0), "problem", ("16 pixels in the middle are dark", "--mask-faulty")),
    "gain": (with_counts(lambda c: 8 * c.astype(np.uint32)), "warning", ("multiples of 8", "--gain 8 divides")),
    "offset": (with_counts(with_pedestal), "warning", ("the darkest pixels have 59.", "--offset 59.")),
    "smooth_background": (with_counts(with_background), "warning",
                          ("do not depend on the sample", "--refine.learn_background true", "--background FILE")),
    "correlated_noise": (with_counts(with_shared_charge), "warning", ("is correlated", "--point-spread PX")),
    "near_field": (near_field, "warning", ("patterns are images that move with the positions", "--near-field")),
    "dose_spread": (with_counts(lambda c: thinned(c, np.random.default_rng(0).uniform(0.2, 1, (36, 1, 1)))), "problem",
                    ("the exposure varies", "--even-dose")),
    "background": (with_counts(lambda c: c + 5), "warning", ("all pixels have 5 counts or more", "--subtract 5")),
    "mask": (lambda scan: dataclasses.replace(scan, bad_pixels=np.hypot(*np.mgrid[-16:16, -16:16]) < 15), "problem",
             ("the mask hides", "--invert-mask")),
    "line": (positions(lambda p: p * (1, 0) + (np.arange(36) * (3.0, 0.0)[0])[:, None] * (1, 0)), "warning",
             ("all positions are on one line",)),
    "few_photons": (with_counts(lambda c: thinned(c, 1e-3)), "warning", ("counts on average",)),
    "duplicates": (positions(duplicated), "warning", ("2 patterns at the position of an earlier one: 20, 21",)),
    "positions": (positions(lambda p: 0 * p), "problem", ("all 36 patterns have the same position",)),
    "units_of_positions": (positions(lambda p: p * 2e-8), "problem", ("all positions are within", "are in metres")),
    "outlying_positions": (positions(lambda p: p + 5e4 * (np.arange(36) == 7)[:, None]), "problem",
                           ("px from all others: 7", "--drop-outliers")),
    "overlap": (positions(lambda p: p * 6), "problem", ("hardly any overlap",)),
    "probe_centre": (probe(lambda p: np.fft.fftshift(p, axes=(1, 2))), "warning", ("(-16.0, ", "fftshift")),
    "probe_edge": (probe(lambda p: p + np.float32(0.2 * abs(p).max())), "warning", ("at the border of its patch",)),
    "probe_patterns": (probe(lambda p: np.abs(p).astype(np.complex64)), "warning", ("a real probe has no phase",)),
    "oversampling": (probe(wide_disk), "warning", ("times as wide as the probe",)),
    "transmission": (probe(lambda p: p * np.float32(0.1)), "warning", ("times the power of the probe", "scale")),
    "orientation": (lambda scan: oriented(scan, "flip_x"), "problem", ("with x reversed", "--orientation flip_x")),
}  # fmt: skip


def keys(found: Inspection) -> set[str]:
    return {finding.key for finding in found.findings}


def test_patterns_on_disk_give_the_same_inspection(good: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.storage.arrays._BLOCK_ELEMENTS", 10 * 32 * 32)
    scan = with_counts(bright_hot_pixel)(good)
    stored = dataclasses.replace(scan, counts=StoredPatterns.virtual(scan.counts, np.arange(scan.n)))
    expected, found = inspect_scan(scan), inspect_scan(stored)
    assert expected.patterns.hot == 1
    assert found.to_dict() == expected.to_dict()


@pytest.mark.parametrize("key", FINDINGS)
def test_every_fault_is_found(good: Scan, key: str) -> None:
    change, severity, phrases = FINDINGS[key]
    found = inspect_scan(change(good), orientation=key == "orientation")
    (finding,) = (finding for finding in found.findings if finding.key == key)
    assert finding.severity == severity
    for phrase in phrases:
        assert phrase in str(finding)
    assert found.problems == sum(other.severity == "problem" for other in found.findings)
    assert " ".join(str(finding).split()) in " ".join(str(found).split())


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("sample", OBJECTS)
def test_simulated_scans_have_no_findings(sample: str, kind: str) -> None:
    for photons, size in ((1e4, 32), (1e7, 64)):
        scan = simulate(sample, probe=kind, patterns=36, size=size, photons=photons, seed=5)
        assert inspect_scan(scan, orientation=False).findings == ()


def test_report_of_a_good_scan(good: Scan) -> None:
    found = inspect_scan(good)
    assert found.findings == () and found.orientation is not None and found.orientation.sure
    assert str(found).endswith("no findings")
    for words in ("36 of 32 x 32 px", "8 keV", "20 nm", "best fit              given"):
        assert words in str(found)


def test_faulty_pixels_are_distinguished_and_masked_ones_ignored(good: Scan) -> None:
    counts = good.counts.copy()
    counts[:, 14, 19], counts[:, 6, 9] = 0, 900 + np.arange(36)
    found = inspect_scan(dataclasses.replace(good, counts=counts), orientation=False)
    assert (found.patterns.dead, found.patterns.constant, found.patterns.hot) == (1, 0, 1)
    assert np.argwhere(found.bad_pixels).tolist() == [[6, 9], [14, 19]]
    masked = dataclasses.replace(good, counts=counts, bad_pixels=found.bad_pixels)
    again = inspect_scan(masked, orientation=False)
    assert again.findings == () and np.array_equal(again.bad_pixels, found.bad_pixels)
    assert again.patterns.mean_total < found.patterns.mean_total


def test_gap_between_detector_modules_is_dead(good: Scan) -> None:
    found = inspect_scan(put(np.s_[:, :, 13:16], 0)(good), orientation=False)
    assert found.bad_pixels[16, 13:16].all() and not found.bad_pixels[16, 12] and found.patterns.hot == 0


def test_statistics_of_a_known_scan() -> None:
    flat = simulate(
        np.ones((120, 140), np.complex64), probe=disk(64, diameter=0.5, edge=0.3), patterns=30, step=(6, 9), jitter=0,
        photons=1e5,
    )  # fmt: skip
    found = inspect_scan(flat, orientation=False)
    geometry, patterns = found.geometry, found.patterns
    assert patterns.mean_total == pytest.approx(1e5, rel=0.01) and geometry.transmission == pytest.approx(1, rel=0.01)
    # 90 % of a uniform disk of 32 px are within sqrt(0.9) of its radius.
    assert geometry.diameter == pytest.approx(32 * np.sqrt(0.9), rel=0.05)
    assert geometry.step == 6 and geometry.overlap == pytest.approx(1 - 6 / geometry.diameter)
    assert geometry.oversampling == pytest.approx(64 / geometry.diameter)
    assert geometry.extent == (24, 45) and geometry.canvas == (88, 109)
    assert geometry.dose * geometry.illuminated == pytest.approx(patterns.totals.sum())
    assert 30 * 6 * 9 < geometry.illuminated < 88 * 109


def test_centre_of_a_probe_across_the_border_is_found() -> None:
    scan = simulate("dead_leaves", patterns=9, size=32, photons=1e5, seed=2)
    rolled = dataclasses.replace(scan, probe=np.roll(scan.probe, (0, 13), (1, 2)))
    first, second = (inspect_scan(s, orientation=False).geometry for s in (scan, rolled))
    assert second.diameter == pytest.approx(first.diameter, rel=0.02)
    assert second.probe_offset[1] - first.probe_offset[1] == pytest.approx(13, abs=0.01)


@pytest.mark.parametrize(("part", "names"), [("patterns", ("integer", "bright")), ("geometry", ("illuminated",))])
def test_former_names_of_statistics(good: Scan, part: str, names: tuple[str, ...]) -> None:
    found = inspect_scan(good, orientation=False)
    statistics = getattr(found, part)
    for name in names:
        with pytest.warns(DeprecationWarning, match=f"is now {name}"):
            assert getattr(statistics, FORMER_NAMES[name]) == getattr(statistics, name)
        assert FORMER_NAMES[name] in found.to_dict()[part] and name not in found.to_dict()[part]
    assert not hasattr(statistics, "other")


def test_every_key_of_the_check_has_a_fault() -> None:
    assert set(FINDINGS) - {"orientation"} == set(KEYS)


def test_single_pattern_is_inspected() -> None:
    found = inspect_scan(simulate("dead_leaves", patterns=1, size=32, photons=1e5))
    assert found.orientation is None and found.problems == 0


def test_command_writes_the_requested_files(
    good: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(np.s_[:, 14, 19], 0)(good).save("scan.npz")
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["inspect", "scan.npz", "--no-orientation"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == before
    assert "not checked" in capsys.readouterr().out

    files = ("--json", "found.json", "--mask", "bad.npy", "--picture", "found.png")
    assert main(["inspect", "scan.npz", *files]) == 0
    printed = capsys.readouterr().out
    assert "1 warning\n" in printed and printed.count("wrote ") == 3
    values = json.loads(Path("found.json").read_text())
    assert values["patterns"]["number"] == 36 and values["patterns"]["suspects"] == [[14, 19]]
    assert values["orientation"]["best"] == "given" and values["findings"][0]["key"] == "dead_pixels"
    assert np.argwhere(np.load("bad.npy")).tolist() == [[14, 19]]
    assert Path("found.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", "scan.npz", "--no-orientation", *files]) == 2
    assert "found.json: expected a new file, found an earlier one" in capsys.readouterr().err


def test_exit_code_1_with_a_problem(good: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "wrong.npz")
    oriented(good, "swap").save(path)
    assert main(["inspect", path]) == 1
    assert "use --orientation swap with train" in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", path, "--orientation", "swap"]) == 0
    assert main(["inspect", path, "--no-orientation"]) == 0


def test_nan_is_refused_by_the_reader(good: Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.save(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as file:
        values = dict(file)
    values["diff3d"][3, 4, 5] = np.nan
    np.savez(tmp_path / "nan.npz", **values)
    assert main(["inspect", str(tmp_path / "nan.npz")]) == 2
    assert "nan.npz: key 'diff3d': expected finite values, found 1 NaN" in capsys.readouterr().err
