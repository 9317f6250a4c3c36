# SPDX-License-Identifier: BSD-3-Clause
"""The quality benchmark runs; its scans and scores have the documented properties. Results are not asserted."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from ptychopinn.metrics.align import Aligned, align
from ptychopinn.metrics.scores import matched_phases, pearson, remove_plane
from ptychopinn.persistence.bundle import save_bundle
from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.simulate import predict_counts
from ptychopinn.scan import Scan

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/quality.py and scans.py, imported with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import quality
        import scans

        yield quality, scans


@pytest.fixture
def quality(modules: tuple[ModuleType, ModuleType]) -> ModuleType:
    return modules[0]


@pytest.fixture
def scans(modules: tuple[ModuleType, ModuleType]) -> ModuleType:
    return modules[1]


def small(scans: ModuleType) -> Scan:
    scan: Scan = scans.default_scan(side=9, true_probe=True)
    return scan


def test_default_scan_is_that_of_the_published_comparison(scans: ModuleType) -> None:
    """Values of the simulator of the published comparison, with the same seed."""
    scan = scans.default_scan()
    assert scan.counts.shape == (1089, 64, 64) and scan.truth is not None and scan.truth.shape == (400, 400)
    assert float(scan.counts.sum((1, 2)).mean()) == pytest.approx(672729.75, rel=1e-3)
    np.testing.assert_allclose(scan.positions[[0, -1]], [[13.3292, 12.516825], [321.852212, 321.823955]], atol=1e-5)


def test_true_probe_predicts_the_counts_and_the_initial_probe_does_not(scans: ModuleType) -> None:
    chi2 = []
    for true_probe in (True, False):
        scan = scans.default_scan(side=9, true_probe=true_probe)
        expected = predict_counts(scan)
        chi2.append(float(((scan.counts - expected) ** 2).sum() / expected.sum()))
    assert chi2[0] == pytest.approx(1, abs=0.02) and chi2[1] > 10


def test_position_errors_have_the_requested_size(scans: ModuleType) -> None:
    true, wrong = (scans.default_scan(side=20, position_error=error) for error in (0.0, 3.0))
    assert np.array_equal(true.counts, wrong.counts)
    assert (wrong.positions - true.positions).std(0) == pytest.approx([3, 3], rel=0.15)


def test_left_and_right_have_no_common_pattern(scans: ModuleType) -> None:
    scan = small(scans)
    left, right = scans.split_left_right(scan)
    assert left.n + right.n == scan.n and left.positions[:, 1].max() < right.positions[:, 1].min()


def test_case_writes_table_figure_and_settings(
    quality: ModuleType, scans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = dataclasses.replace(small(scans), name="tiny")
    monkeypatch.setattr(sys.modules["quality_cases"], "default_scan", lambda *_, **__: scan)
    arguments = ["quality.py", "probe", "--threads", "1", "--scale", "0.003", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert quality.main() == 0
    with (tmp_path / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["probe"] for row in rows] == ["refined", "kept", "true", "refined", "true"]
    assert all(0 <= float(row["mean_frc"]) <= 1 for row in rows)
    assert (tmp_path / "probe.png").stat().st_size > 10_000
    settings = json.loads((tmp_path / "probe.json").read_text())
    assert settings["threads"] == 1 and settings["seeds"] == [0]


def test_unknown_case_is_an_error(quality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "phantom"])
    with pytest.raises(SystemExit):
        quality.main()


def run(quality: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quality.py", *arguments])
    status: int = quality.main()
    return status


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def named(quality: ModuleType) -> SimpleNamespace:
    """The modules of the benchmark by name."""
    names = ["quality_bench", "quality_lists", "quality_scores", "quality_trainings", "shared_table"]
    names += ["step_costs", "tables"]
    return SimpleNamespace(**{name: sys.modules[name] for name in names})


def test_list_of_trainings_is_written_row_by_row_and_resumed(
    quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("--case", "phi", "--patterns", "196", "--epochs", "1", "--threads", "1", "--out", str(tmp_path))
    assert run(quality, monkeypatch, *tiny, "--rows", "0:1") == 0
    first = rows_of(tmp_path / "phi.csv")
    facts = [(row["C"], row["object"], row["minutes"], row["epochs"]) for row in first]
    assert facts == [("1", "1", "", "1"), ("1", "2", "", "1")]
    for row in first:
        assert all(row[name] for name in ("amplitude_ssim", "phase_ssim", "phase_ssim_strict", "mean_frc", "step_ms"))
        assert float(row["expected_h200_s"]) > 0 and int(row["kernels"]) > 100
        assert int(row["steps"]) * int(row["step_patterns"]) == pytest.approx(2 * 196, rel=0.1)
    assert len(list((tmp_path / "pictures" / "phi").glob("*.png"))) == 2
    assert "expected and not measured" in json.loads((tmp_path / "phi.json").read_text())["expected_h200_s"]

    zero = ("--rows", "3:4", "--resume")
    assert run(quality, monkeypatch, *tiny, *zero) == 0
    after = rows_of(tmp_path / "phi.csv")
    assert after[:2] == first and [row["sample"] for row in after] == ["phi"] * 2 + ["zero"] * 2
    assert all(row["phase_ssim_strict"] == "" and float(row["phase_ssim_constant"]) == 1 for row in after[2:])
    monkeypatch.setattr("quality_bench.Bench.train", lambda *_, **__: pytest.fail("it was trained again"))
    assert run(quality, monkeypatch, *tiny, *zero) == 0 and rows_of(tmp_path / "phi.csv") == after
    capsys.readouterr()
    assert run(quality, monkeypatch, "--table", "phi", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| sample | amplitude SSIM") and [line[:6] for line in printed[4:]] == [
        "| phi ",
        "| zero",
    ]


def test_epochs_replace_the_time(named: SimpleNamespace) -> None:
    for options, minutes, epochs in (({}, 1.0, 100_000), ({"given": 2.5}, 2.5, 100_000), ({"epochs": 40}, None, 40)):
        settings = bench(named, **options)
        training = named.quality_lists.phi(settings)[0]
        config = settings.config(training.minutes, 0, training.sections).training
        assert (config.minutes, config.epochs) == (minutes, epochs)
        (row, _) = training.rows(settings)
        assert (row["minutes"], row["epochs"]) == (minutes, options.get("epochs"))


@pytest.mark.parametrize(
    "arguments",
    [["probe", "--minutes", "1"], ["phi", "--rows", "4"], ["phi", "--rows", "a:b"], ["start", "--epochs", "4"]],
)
def test_options_that_a_case_has_not_are_errors(
    quality: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        run(quality, monkeypatch, *arguments)


def bench(named: SimpleNamespace, **options: Any) -> Any:
    return named.quality_bench.Bench(False, (0, 1), 1, 1.0, **options)


def test_lists_of_trainings(named: SimpleNamespace) -> None:
    for name, make in named.quality_lists.LISTS.items():
        trainings = make(bench(named))
        rows = [tuple(facts.items()) for training in trainings for facts in training.rows(bench(named))]
        assert len(rows) == len(set(rows)), name
        parts = [named.quality_trainings.chosen(trainings, part) for part in (":5", "5:8", "8:")]
        assert [training for part in parts for training in part] == list(trainings)
        half = len(trainings) // 2
        assert {training.seed for training in trainings[:half]} == {0}, name
        assert {len(training.scans) for training in trainings} == {1 if name in ("start", "uncertain") else 2}
    lines = named.quality_lists.lines128(bench(named))
    assert {(t.facts["sample"], t.facts["C"]) for t in lines} == {
        (sample, size) for sample in ("phi", "zero", "siemens") for size in (1, 4, 16)
    }
    assert {test["test_step"] for training in lines for test, _ in training.tests} == {8, 20}


def test_training_begins_with_a_bundle(
    named: SimpleNamespace, quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench(named).config(1.0, 0)
    scan = named.quality_lists._photos(7, 64)
    training = named.quality_trainings.Training({}, [lambda: scan], [], 0.0, 7)
    network, _ = training.run(bench(named))
    with torch.no_grad():
        network.model.generator.gain.fill_(0.123)
    save_bundle(network.model, source, tmp_path / "start.zip", {})
    seen = []
    for row in named.quality_lists.start(bench(named, start=tmp_path / "start.zip", patterns=64)):
        if row.minutes == 0 and row.seed == 0 and row.facts["scan"] == "photos":
            began, _ = row.run(bench(named))
            seen.append((row.facts["start"], round(began.model.generator.gain.item(), 4)))
    assert seen == [("nothing", 0.3), ("pretrained", 0.123)]


def test_scans_of_128_pixels_fill_the_object(scans: ModuleType) -> None:
    fine, coarse = scans.scan_128("lines_phase", 3, patterns=None, photons=1e4), scans.scan_128("siemens", 3, step=20)
    assert (fine.n, coarse.n) == (1024, 169) and fine.counts.shape[1:] == (128, 128)
    assert fine.truth is not None and fine.truth.shape == (392, 392)
    assert np.allclose(fine.positions.min(0), 8) and np.allclose(fine.positions.max(0), 392 - 128 - 8)
    padded = np.abs(fine.probe[0])
    assert padded[32:96, 32:96].any() and not padded[:32].any() and not padded[:, 96:].any()
    assert np.abs(scans.scan_128("siemens", 3, patterns=4, probe="defocused").probe[0])[:32].any()


SAMPLES = ("lines_phase", "lines_amplitude", "siemens")


@pytest.mark.parametrize("sample", SAMPLES)
def test_similarities_ignore_ambiguities_and_find_errors(named: SimpleNamespace, sample: str) -> None:
    truth = OBJECTS[sample]((160, 150), np.random.default_rng(2)).astype(np.complex128)
    ramp = np.exp(0.01j * np.arange(150))
    exact = named.quality_scores.similarities(align(1.7 * np.exp(0.4j) * truth * ramp, truth))
    strict = exact.pop("phase_ssim_strict")
    assert exact == pytest.approx({"amplitude_ssim": 1, "phase_ssim": 1, "phase_ssim_mapped": 1}, abs=1e-4)
    assert np.isnan(strict) if sample == "lines_amplitude" else strict == pytest.approx(1, abs=1e-4)
    if sample != "lines_amplitude":
        aligned = align(truth.conj(), truth)
        conjugate = named.quality_scores.similarities(aligned)
        assert conjugate["phase_ssim"] < 0.2 and conjugate["phase_ssim_mapped"] < 0.5
        assert conjugate["phase_ssim_strict"] > 0.5  # of which its description warns:
        assert pearson(*(remove_plane(part) for part in matched_phases(aligned.image, truth[12:-12, 12:-12]))) < -0.9
    noise = np.random.default_rng(0).normal(size=truth.shape)
    noisy = named.quality_scores.similarities(align(truth * np.exp(0.5j * noise), truth))
    assert noisy["phase_ssim"] < 0.7  # where the true phase is zero, noise of the phase lowers theirs too


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_constant_image_has_low_similarities(named: SimpleNamespace, sample: str) -> None:
    truth = OBJECTS[sample]((300, 300), np.random.default_rng(2)).astype(np.complex128)
    scored = named.quality_scores.constant_similarities(truth)
    assert scored["amplitude_ssim_constant"] < 0.6
    if sample == "lines_amplitude":
        assert scored["phase_ssim_constant"] == 1 and np.isnan(scored["phase_ssim_strict_constant"])
    else:
        assert scored["phase_ssim_constant"] < 0.3 and scored["phase_ssim_strict_constant"] < 0.05
        assert scored["phase_ssim_mapped_constant"] > 0.5  # of which its description warns


def test_a_constant_image_of_a_weak_phase_has_a_low_strict_similarity_only(named: SimpleNamespace) -> None:
    truth = OBJECTS["lines"]((300, 300), np.random.default_rng(2)).astype(np.complex128)
    weak = np.abs(truth) * np.exp(0.1j * np.angle(truth))
    scored = named.quality_scores.constant_similarities(weak)
    assert scored["phase_ssim_constant"] > 0.9 and scored["phase_ssim_strict_constant"] < 0.05


def _add_rows(folder: str, path: str, name: str) -> None:
    sys.path.insert(0, folder)
    from shared_table import Table

    for index in range(20):
        facts = {"name": name, "index": index}
        Table(Path(path)).add(facts, {**facts, "value": 0.5, name: 1})


def test_published_phase_similarity_is_the_mapped_one(named: SimpleNamespace) -> None:
    """SRU-Net of the published table: 0.0883 rad rms, SSIM 0.9947, which smooth errors reach with the map alone."""
    truth = OBJECTS["lines_phase"]((270, 270), np.random.default_rng(0)).astype(np.complex128)
    error = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=truth.shape), 10)
    image = truth * np.exp(0.0883j * error / error.std())
    everywhere = (slice(None), slice(None))
    scored = named.quality_scores.similarities(Aligned(image, truth, (0, 0), (0, 0), 1 + 0j, everywhere, True))
    assert scored["phase_ssim_mapped"] == pytest.approx(0.9947, abs=0.004) and scored["phase_ssim"] < 0.9


def test_processes_write_one_table(tmp_path: Path) -> None:
    """With columns that the other has not; rows are replaced by their facts."""
    path = str(tmp_path / "table.csv")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_rows, args=(str(FOLDER), path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows = rows_of(Path(path))
    assert sorted((row["name"], int(row["index"])) for row in rows) == [(n, i) for n in "ab" for i in range(20)]
    assert all((row["a"], row["b"]) == (("1", "") if row["name"] == "a" else ("", "1")) for row in rows)
    _add_rows(str(FOLDER), path, "a")
    assert len(rows_of(Path(path))) == 40


def test_expected_time_of_a_step(named: SimpleNamespace) -> None:
    costs = named.step_costs
    a, b = torch.randn(64, 32), torch.randn(32, 128, requires_grad=True)
    with costs.Recorder() as recorded:
        (a @ b).relu().view(-1).sum().backward()
    product = recorded.kernels[0]
    assert (product.kind, product.operations) == ("product", 2 * 64 * 32 * 128)
    assert len(recorded.kernels) < 12  # without views
    once, twice = (costs.expected_step(recorded.kernels, batch) for batch in (1.0, 2.0))
    assert once < twice < 1.1 * once  # small kernels take their launch
    large = [product._replace(nbytes=4e9, tiled=0.0)]
    assert costs.expected_step(large, 2.0) == pytest.approx(2 * costs.expected_step(large), rel=0.02)


def test_table_has_published_rows_beside_ours(named: SimpleNamespace, tmp_path: Path) -> None:
    training = named.quality_lists.lines128(bench(named))[0]
    table = named.shared_table.Table(tmp_path / "lines128.csv")
    for value, facts in zip((0.9, 0.8, 0.7, 0.6), training.rows(bench(named)), strict=True):
        scored = {name: None for name in named.quality_trainings.COLUMNS} | {"amplitude_ssim": value}
        table.add(facts, {**facts, **scored})
    page = named.tables.table_of("lines128", tmp_path)
    assert "| 0.850 ± 0.071 |" in page and "0.988" in page and "0.264" in page and "RTX 3090" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 3 + 6
    assert named.tables.table_of("start", tmp_path).startswith("start: no rows")
    results = FOLDER / "results" / "quality"
    assert named.tables.table_of("throughput", results).startswith("| C | threads |")
