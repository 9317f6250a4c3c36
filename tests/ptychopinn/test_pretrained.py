# SPDX-License-Identifier: BSD-3-Clause
"""The network in the package: images without a training, and what is stated about them.

The tests hold for any weights of the default network that improve on none.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import ptychopinn as pp
from ptycho_ext import CanvasGeometry
from ptychopinn.cli import app
from ptychopinn.config import Config, ModelConfig
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import require_sound
from ptychopinn.first_image import FIRST_PASSES, refined_image
from ptychopinn.inference.fit import fit_of
from ptychopinn.inference.pretrained import first_network, outside_of, unexplained
from ptychopinn.inspection.orientation import oriented
from ptychopinn.persistence import pretrained
from ptychopinn.persistence.bundle import bundle_info, save_bundle
from ptychopinn.persistence.pretrained import PRETRAINED, load_pretrained
from ptychopinn.physics.probes import disk
from ptychopinn.physics.simulate import predict_counts, simulate
from ptychopinn.scan import Scan

QUIET = Config.from_dict({"execution": {"progress": False, "threads": 1, "accelerator": "cpu"}})


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("siemens", patterns=144, size=64, seed=5)


@pytest.fixture(scope="module")
def result(scan: Scan) -> pp.Reconstruction:
    """The image of the network alone."""
    return pp.reconstruct(None, scan, QUIET, refine=0)


def test_the_bundle_of_the_package_is_small_and_of_the_default_network() -> None:
    """Otherwise `make pretrained` makes it again."""
    network = load_pretrained()
    assert PRETRAINED.stat().st_size < 2e6
    assert network.config.model.generator == ModelConfig().generator
    assert network.config.model.options == ModelConfig().options
    assert network.config.data.group_size == 16 and network.model.generator.group_size is None


def test_its_facts_are_beside_it() -> None:
    facts = load_pretrained().facts
    assert json.loads(PRETRAINED.with_suffix(".json").read_text()) == facts == bundle_info(PRETRAINED)
    assert {"seed", "minutes", "seconds", "loss", "ranges", "version", "scores", "patterns", "training"} <= set(facts)
    assert {"photons", "diameter", "overlap", "sizes", "groups"} <= set(facts["ranges"])
    assert facts["scores"]["median_frc"] > 0.3  # a constant image has 0


def test_an_image_at_once(scan: Scan, result: pp.Reconstruction) -> None:
    scores = pp.evaluate(result, scan)
    assert scores["frc"]["mean"] > 0.7 and scores["phase"]["pearson"] > 0.7 and scores["amplitude"]["pearson"] > 0.7
    constant = replace(result, object=np.ones_like(result.object))
    assert pp.evaluate(constant, scan)["frc"]["mean"] < 0.1
    assert result.probe is not None and np.allclose(result.probe, scan.probe)


def test_it_is_refined_by_default(scan: Scan, result: pp.Reconstruction, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ptychopinn"):
        refined = pp.reconstruct(None, scan, QUIET)
    assert "refined against the counts in 20 passes" in caplog.text
    before, after = (pp.evaluate(one, scan) for one in (result, refined))
    assert after["frc"]["mean"] > before["frc"]["mean"] + 0.02
    assert refined.refinement is not None and refined.metadata["network"] == result.metadata["network"]
    # A trained model's image stays as it is, unless asked for.
    trained = pp.reconstruct(load_pretrained().for_scan(scan), scan, QUIET)
    assert trained.refinement is None
    asked = pp.reconstruct(load_pretrained().for_scan(scan), scan, QUIET, refine=2)
    assert asked.refinement is not None


def test_an_image_that_does_not_explain_is_not_refined(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong probe: refined from nothing, the image is better than refined from what the network makes of it."""
    probe = disk(64, 1) * np.sqrt((np.abs(scan.probe) ** 2).sum())
    wrong = replace(scan, probe=probe.astype(np.complex64))
    with caplog.at_level(logging.INFO, "ptychopinn"):
        refined = pp.reconstruct(None, wrong, QUIET, accept="all")
    assert "the refinement begins with nothing" in caplog.text
    assert [finding["key"] for finding in refined.metadata["network"]["findings"]] == ["unexplained"]
    network = pp.reconstruct(None, wrong, QUIET, accept="all", refine=0)
    continued = refined_image(wrong, network, FIRST_PASSES, "cpu", "all")
    better, worse = (pp.evaluate(one, scan)["frc"]["mean"] for one in (refined, continued))
    assert better > worse


@pytest.mark.parametrize(("size", "patterns", "modes"), [(32, 5, 1), (48, 1, 2), (96, 40, 1)])
def test_scans_of_all_sizes(size: int, patterns: int, modes: int) -> None:
    small = simulate("dead_leaves", patterns=patterns, size=size, modes=modes, seed=1)
    made = pp.reconstruct(None, small, QUIET, accept="all")
    assert made.metadata["config"]["data"]["group_size"] == min(16, patterns)
    assert np.isfinite(made.object).all() and made.object.shape[0] >= size


def test_a_group_size_that_is_stated_is_used(scan: Scan) -> None:
    config = replace(QUIET, inference=replace(QUIET.inference, group_size=9))
    assert first_network(scan, config).config.data.group_size == 9
    with pytest.raises(InputError, match="has 5 patterns, fewer than a group of 9"):
        pp.reconstruct(None, scan.subset(np.arange(5)), config, accept="all")


def test_which_network_is_stated_once(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ptychopinn"):
        pp.reconstruct(None, scan, QUIET)
    (line,) = [record.getMessage() for record in caplog.records if "pretrained network" in record.getMessage()]
    facts = load_pretrained().facts
    assert f"trained for {facts['seconds'] / 60:.3g} minutes on random simulated scans" in line
    assert "a training on the scan improves the image: ptychopinn train SCAN --out RUN" in line
    (fit,) = [record.getMessage() for record in caplog.records if "the image explains" in record.getMessage()]
    assert "times shot noise" in fit
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_the_result_knows_its_network(result: pp.Reconstruction, tmp_path: Path) -> None:
    result.save(tmp_path / "recon.h5")
    network = pp.Reconstruction.load(tmp_path / "recon.h5").metadata["network"]
    assert network["name"] == "pretrained" and network["findings"] == []
    assert network["fit"]["patterns"] == 144 and 0 < network["fit"]["loss"] < network["fit"]["empty"]


def test_a_large_image_is_the_same(scan: Scan, result: pp.Reconstruction, tmp_path: Path) -> None:
    shape = pp.reconstruct_to_file(None, scan, tmp_path / "large.h5", QUIET)
    made = pp.Reconstruction.load(tmp_path / "large.h5")
    assert shape == result.object.shape
    covered = result.weights > 1e-3 * result.weights.max()
    np.testing.assert_allclose(made.object[covered], result.object[covered], atol=2e-3)
    one, other = (m.metadata["network"]["fit"] for m in (made, result))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
    assert "network" in made.metadata and one["patterns"] == 144


def test_refinement_continues_from_it(scan: Scan, result: pp.Reconstruction) -> None:
    refined = pp.refine(scan, result, pp.RefineConfig(iterations=5, split_half=False), "cpu")
    assert pp.evaluate(refined, scan)["phase"]["pearson"] > pp.evaluate(result, scan)["phase"]["pearson"] - 0.05


def test_the_command_needs_no_run(scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan.save(tmp_path / "scan.npz")
    arguments = ["reconstruct", str(tmp_path / "scan.npz"), "--out", str(tmp_path / "recon.h5")]
    arguments += ["--execution.progress", "false", "--execution.accelerator", "cpu", "--inference.augment", "2"]
    with caplog.at_level(logging.INFO, "ptychopinn"):
        assert app.run(arguments) == 0
    assert sum("pretrained network" in record.getMessage() for record in caplog.records) == 1
    with h5py.File(tmp_path / "recon.h5") as file:
        assert "object" in file
    made = pp.Reconstruction.load(tmp_path / "recon.h5")
    assert made.metadata["config"]["inference"]["augment"] == 2
    pictures = {"amplitude.png", "phase.png", "error_map.png"}
    assert {path.name for path in (tmp_path / "recon").iterdir()} == {*pictures, "findings.json"}


@pytest.mark.parametrize(
    ("files", "more", "sentence"),
    [
        (["a", "b", "scan.npz"], [], "expected a run and the scan, or the scan alone, found a b scan.npz"),
        (["scan.npz"], ["--ensemble", "run"], "--ensemble averages with the model of a run"),
    ],
)
def test_files_of_the_command(
    files: list[str], more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["reconstruct", *files, "--out", str(tmp_path / "recon.h5"), *more]) == 2
    assert sentence in capsys.readouterr().err


RANGES: dict[str, Any] = {
    "photons": [1e5, 1e7], "sizes": [32, 64], "diameter": [0.3, 0.7], "overlap": [0.5, 0.85], "modes": [1, 2],
}  # fmt: skip


def test_scans_inside_of_the_ranges_are_not_named(scan: Scan) -> None:
    assert outside_of(RANGES, require_sound(scan)) is None
    assert outside_of({}, require_sound(scan)) is None
    assert outside_of(load_pretrained().facts["ranges"], require_sound(scan)) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"photons": 2e3}, "2.0e+03 photons per pattern behind an empty sample (trained on 1.0e+05 to 1.0e+07)"),
        ({"photons": 1e9}, "1.0e+09 photons per pattern behind an empty sample (trained on 1.0e+05 to 1.0e+07)"),
        ({"size": 96}, "patterns of 96 px (trained on 32 to 64)"),
        ({"modes": 3}, "3 probe modes (trained on 1 to 2)"),
        ({"step": 2.0, "jitter": 0.1}, "a linear overlap of 94% (trained on 50% to 85%)"),
    ],
    ids=["dark", "bright", "size", "modes", "overlap"],
)
def test_what_is_outside_is_named_with_its_range(changed: dict[str, Any], words: str) -> None:
    settings = {"patterns": 25, "size": 64, "seed": 1, **changed}
    finding = outside_of(RANGES, require_sound(simulate("dead_leaves", **settings), "all"))
    assert finding is not None and finding.severity == "warning"
    assert words in finding.sentence and finding.sentence.count("trained on") == 2
    assert "train on the scan: `ptychopinn train SCAN --out RUN`" in finding.advice


def test_a_probe_outside_of_the_range_is_named(scan: Scan) -> None:
    ranges = {**RANGES, "diameter": [0.1, 0.2]}
    finding = outside_of(ranges, require_sound(scan))
    assert (
        finding is not None and "a probe over 49%" in finding.sentence and "(trained on 10% to 20%)" in finding.sentence
    )


def test_several_are_one_sentence() -> None:
    scan = simulate("dead_leaves", patterns=25, size=96, photons=1e9, modes=3, seed=1)
    finding = outside_of(RANGES, require_sound(scan, "all"))
    assert finding is not None and finding.sentence.count("(trained on") == 3


def test_it_is_a_warning_and_in_the_result(caplog: pytest.LogCaptureFixture) -> None:
    bright = simulate("dead_leaves", patterns=16, size=32, photons=1e11, seed=1)
    made = pp.reconstruct(None, bright, QUIET, accept="all")
    (finding,) = [f for f in made.metadata["network"]["findings"] if f["key"] == "outside_of_training"]
    assert "photons per pattern" in finding["sentence"]
    assert sum("outside of what the pretrained network" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize("orientation", ["flip_y", "flip_x", "swap", "swap_flip_x", "rotate_180"])
def test_a_wrong_orientation_is_named(orientation: str, scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    made = pp.reconstruct(None, oriented(scan, orientation), QUIET)
    (finding,) = made.metadata["network"]["findings"]
    assert finding["key"] == "unexplained" and "mirrored or swapped axis" in finding["sentence"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "`ptychopinn inspect SCAN` checks the orientation" in line


@pytest.mark.parametrize("photons", [10**4.7, 1e7, 1e9])
@pytest.mark.parametrize("sample", ["photos", "lines"])
def test_correct_scans_raise_no_alarm(sample: str, photons: float) -> None:
    correct = simulate(sample, patterns=100, size=64, photons=photons, seed=8)
    assert pp.reconstruct(None, correct, QUIET).metadata["network"]["findings"] == []


def test_the_fit_of_the_truth_is_photon_noise(scan: Scan) -> None:
    assert scan.truth is not None
    truth = torch.from_numpy(scan.truth)
    geometry = CanvasGeometry((0, 0), (scan.truth.shape[0], scan.truth.shape[1]))
    nearest = replace(scan, positions=np.round(scan.positions))
    exact = replace(nearest, counts=_counts_at(nearest))
    fit = fit_of(lambda box: truth[box], geometry, exact, torch.from_numpy(scan.probe))
    assert fit.ratio == pytest.approx(1, abs=0.05) and abs(fit.unexplained) < 0.01
    empty = torch.full_like(truth, float(truth.abs().mean()))
    poor = fit_of(lambda box: empty[box], geometry, exact, torch.from_numpy(scan.probe))
    assert poor.unexplained == pytest.approx(1, abs=0.1) and unexplained(poor) is not None


def _counts_at(scan: Scan) -> Any:
    return np.random.default_rng(0).poisson(predict_counts(scan)).astype(np.uint16)


def test_bad_pixels_do_not_count(scan: Scan) -> None:
    counts = np.array(scan.counts)
    mask = np.zeros((64, 64), bool)
    mask[10:12, 20:50] = True
    counts[:, mask] = 60000
    marked = replace(scan, counts=counts, bad_pixels=mask)
    made = pp.reconstruct(None, marked, QUIET, accept="all")
    clean = pp.reconstruct(None, scan, QUIET)
    one, other = (m.metadata["network"]["fit"]["loss"] for m in (made, clean))
    assert one == pytest.approx(other, rel=0.5)


def test_a_package_without_it_has_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the pretrained network of this package, found none; install"):
        load_pretrained(tmp_path / "none.zip")
    config = Config.from_dict({"model": {"generator": "cnn"}, "data": {"group_size": 4}})
    save_bundle(pretrained.build_model(config, 64, 1), config, tmp_path / "cnn.zip")
    with pytest.raises(InputError, match="expected a network for groups of any size, found one for 4; install"):
        load_pretrained(tmp_path / "cnn.zip")


def test_patterns_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="takes patterns of 32 to 256 pixels in multiples of 16, got 40"):
        pp.reconstruct(None, simulate("dead_leaves", patterns=16, size=40, seed=1), QUIET)
