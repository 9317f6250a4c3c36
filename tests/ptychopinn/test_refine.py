# SPDX-License-Identifier: BSD-3-Clause
"""Refinements of small scans: initial states, results, several processes, the command line."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_refinements import QUICK, small_scan, true_start, with_wrong_probe

from ptycho_ext import translate_images
from ptychopinn.cli import main
from ptychopinn.config import RefineConfig
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.metrics.split_half import split_half_frc as split_half_frc
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.workflow import refine


@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_refinement_from_scratch_corrects_a_wrong_probe(engine: str) -> None:
    scan = with_wrong_probe(small_scan())
    config = dataclasses.replace(QUICK, engine=engine, iterations=40)
    figures = evaluate(refine(scan, None, config), scan)
    assert figures["frc"]["mean"] > 0.75
    assert figures["phase"]["pearson_high_pass"] > 0.9


@pytest.mark.parametrize("loss", ["poisson", "amplitude"])
@pytest.mark.parametrize("engine", ["lbfgs", "pie"])
def test_truth_is_a_fixed_point(engine: str, loss: str) -> None:
    scan = small_scan(photons=1e9)
    state = refine(scan, true_start(scan), dataclasses.replace(QUICK, engine=engine, loss=loss, iterations=1))
    assert scan.truth is not None
    first = -np.array(state.origin).astype(int)
    part = tuple(slice(f, f + side) for f, side in zip(first, scan.truth.shape, strict=True))
    covered = state.covered()[part]
    change = (state.object[part] - scan.truth)[covered]
    assert np.linalg.norm(change) < 1e-3 * np.linalg.norm(scan.truth[covered])


def test_an_initial_object_saves_passes() -> None:
    scan = small_scan()
    continued = refine(scan, true_start(scan), dataclasses.replace(QUICK, iterations=3))
    scratch = refine(scan, None, dataclasses.replace(QUICK, iterations=8))
    assert evaluate(continued, scan)["frc"]["mean"] > evaluate(scratch, scan)["frc"]["mean"] + 0.02


def test_a_refinement_continues_from_a_result() -> None:
    scan = with_wrong_probe(small_scan())
    moved = dataclasses.replace(scan, probe=np.roll(scan.probe, (2, -1), (1, 2)))
    once = refine(moved, None, dataclasses.replace(QUICK, iterations=40))
    values: list[float] = []
    refine(moved, once, dataclasses.replace(QUICK, iterations=3), every=1, progress=lambda p: values.append(p.deviance))
    assert values[0] <= 1.01 * once.refinement.deviance[-1]


def test_fractional_origin_of_the_initial_object_is_used() -> None:
    scan = small_scan()
    truth = torch.from_numpy(true_start(scan).object)
    moved = translate_images(truth, torch.tensor([-0.4, 0.3]), mode="fourier").numpy()
    deviance = []
    for origin in ((0.4, -0.3), (0.0, 0.0)):
        start = dataclasses.replace(true_start(scan), object=moved, origin=origin)
        found = refine(scan, start, dataclasses.replace(QUICK, iterations=1))
        deviance.append(found.refinement.deviance[0])
    assert deviance[0] < 0.8 * deviance[1]


@pytest.mark.parametrize("interpolation", ["fourier", "bilinear"])
def test_positions_are_found_in_the_coordinates_of_the_scan(interpolation: str) -> None:
    scan = small_scan(patterns=144)
    rng = np.random.default_rng(0)
    displaced = dataclasses.replace(scan, positions=scan.positions + rng.normal(0, 0.7, scan.positions.shape))
    config = dataclasses.replace(
        QUICK, learn_positions=True, find_defocus=False, iterations=90, interpolation=interpolation
    )
    found = refine(displaced, None, config)
    assert found.positions is not None

    def error(positions: np.ndarray) -> float:
        terms = np.column_stack([scan.positions, np.ones(scan.n)])
        moves = positions - scan.positions
        rest = moves - terms @ np.linalg.lstsq(terms, moves, rcond=None)[0]
        return float(np.median(np.hypot(*rest.T)))

    assert error(found.positions) < 0.35 * error(displaced.positions)
    np.testing.assert_allclose(found.refinement.affine_matrix, np.eye(2), atol=1e-6)
    without = refine(displaced, None, dataclasses.replace(QUICK, iterations=40))
    assert evaluate(found, scan)["frc"]["mean"] > evaluate(without, scan)["frc"]["mean"] + 0.1


def test_a_common_shift_of_initial_object_and_positions_is_kept() -> None:
    scan = small_scan(patterns=100)
    start = dataclasses.replace(
        true_start(scan), origin=(5.0, 5.0), positions=scan.positions + 5, weights=np.ones_like(scan.truth, np.float32)
    )
    config = dataclasses.replace(QUICK, learn_positions=True, iterations=34)
    deviance = refine(scan, start, config).refinement.deviance
    assert deviance[31] < 1.1 * deviance[29]


def test_the_defocus_search_keeps_the_power_of_the_probe() -> None:
    scan = small_scan(patterns=100)
    config = dataclasses.replace(QUICK, learn_positions=True, iterations=35)
    ends = []
    for factor in (1, 10):
        scaled = dataclasses.replace(scan, probe=scan.probe * np.float32(factor))
        found = refine(scaled, None, config)
        assert found.probe is not None
        assert np.linalg.norm(found.probe) == pytest.approx(np.linalg.norm(scaled.probe), rel=1e-3)
        ends.append(found.refinement.deviance[-1])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_a_hot_pixel_without_a_mask_makes_no_nan() -> None:
    scan = small_scan(patterns=49)
    counts = scan.counts.astype(np.uint32)
    counts[7, 3, 4] = 2**32 - 1
    for engine in ("lbfgs", "pie"):
        found = refine(
            dataclasses.replace(scan, counts=counts), None, dataclasses.replace(QUICK, engine=engine), accept="all"
        )
        assert np.isfinite(found.object).all()


def test_the_deviance_excludes_regularisers() -> None:
    scan = small_scan(patterns=49)
    found = refine(scan, None, dataclasses.replace(QUICK, total_variation=5.0))
    assert found.residuals is not None
    assert found.refinement.deviance[-1] == pytest.approx(found.residuals.mean(), rel=1e-3)


def test_correct_positions_are_kept() -> None:
    scan = small_scan(patterns=144)
    config = dataclasses.replace(QUICK, learn_positions=True, find_defocus=False, iterations=90)
    found = refine(scan, None, config)
    assert found.positions is not None
    moves = np.hypot(*(found.positions - scan.positions).T)
    assert np.median(moves) < 0.1


def test_intensities_of_patterns_are_found() -> None:
    scan = small_scan(noise=False, photons=1e5)
    factors = np.random.default_rng(0).uniform(0.7, 1.3, scan.n).astype(np.float32)
    factors /= factors.mean()
    uneven = dataclasses.replace(scan, counts=scan.counts * factors[:, None, None])
    config = dataclasses.replace(QUICK, learn_intensities=True, iterations=60)
    found = refine(uneven, None, config)
    assert found.intensities is not None
    assert np.corrcoef(found.intensities, factors)[0, 1] > 0.95
    assert refine(uneven, None, QUICK).intensities is None


def test_modes_are_found_orthogonal_and_sorted() -> None:
    scan = small_scan(modes=2, photons=1e7)
    one = dataclasses.replace(scan, probe=scan.probe[:1] / np.float32(np.sqrt(0.7)))
    found = refine(one, None, dataclasses.replace(QUICK, modes=2, iterations=80))
    single = refine(one, None, dataclasses.replace(QUICK, iterations=80))
    assert found.probe is not None
    assert abs(np.vdot(found.probe[0], found.probe[1])) < 1e-3 * np.vdot(found.probe[0], found.probe[0]).real
    powers = found.refinement.mode_powers
    true = np.square(np.abs(scan.probe)).sum((1, 2))
    np.testing.assert_allclose(powers, true / true.sum(), atol=0.08)
    assert found.refinement.deviance[-1] < 0.5 * single.refinement.deviance[-1]


def test_power_and_centre_of_the_probe_are_kept() -> None:
    scan = small_scan()
    shifted = dataclasses.replace(scan, probe=np.roll(scan.probe, 3, 1) * np.float32(1.1))
    found = refine(shifted, None, QUICK)
    assert found.probe is not None
    power = np.square(np.abs(found.probe)).sum()
    assert power == pytest.approx(np.square(np.abs(shifted.probe)).sum(), rel=1e-4)
    assert evaluate(found, scan)["frc"]["mean"] > 0.7


def test_bad_pixels_are_ignored() -> None:
    scan = small_scan()
    bad = np.zeros((32, 32), bool)
    bad[10:13, 20] = True
    corrupt = np.where(bad, 2**32 - 1, scan.counts.astype(np.int64)).astype(np.uint32)
    found = refine(dataclasses.replace(scan, counts=corrupt, bad_pixels=bad), None, QUICK)
    reference = refine(scan, None, QUICK)
    assert evaluate(found, scan)["frc"]["mean"] > evaluate(reference, scan)["frc"]["mean"] - 0.03


def test_total_variation_improves_a_low_dose() -> None:
    scan = small_scan(photons=3e3)
    without, regularised = (
        refine(scan, None, dataclasses.replace(QUICK, total_variation=weight, iterations=40)) for weight in (0.0, 0.3)
    )
    assert evaluate(regularised, scan)["frc"]["mean"] > evaluate(without, scan)["frc"]["mean"] + 0.02


def test_smoothness_lowers_the_gradient() -> None:
    scan = small_scan(photons=3e3)
    steps = []
    for weight in (0.0, 3.0):
        config = dataclasses.replace(QUICK, total_variation=0.0, smoothness=weight)
        image = refine(scan, None, config).object[24:-24, 24:-24]
        steps.append(np.square(np.abs(np.diff(image))).mean() / np.square(np.abs(image)).mean())
    assert steps[1] < 0.8 * steps[0]


def test_stopping_rule_ends_a_converged_refinement() -> None:
    scan = small_scan()
    found = refine(scan, None, RefineConfig(iterations=1000, split_half=False, tolerance=0.02))
    assert found.refinement.passes < 100


def test_empty_patterns_make_no_nan() -> None:
    scan = small_scan()
    counts = scan.counts.copy()
    counts[::3] = 0
    for engine in ("lbfgs", "pie"):
        settings = dataclasses.replace(QUICK, engine=engine)
        found = refine(dataclasses.replace(scan, counts=counts), None, settings, accept="empty_patterns")
        assert np.isfinite(found.object).all()


def test_the_same_seed_gives_the_same_result() -> None:
    scan = small_scan(patterns=49)
    one, two = (refine(scan, None, QUICK) for _ in range(2))
    assert np.array_equal(one.object, two.object)


def test_the_split_half_resolution_follows_the_dose() -> None:
    found = {}
    for photons in (3e3, 1e7):
        scan = small_scan(photons=photons, patterns=196)
        result = refine(scan, None, dataclasses.replace(QUICK, split_half=True, iterations=30))
        found[photons] = result.refinement.split_half
    assert found[1e7]["mean"] > found[3e3]["mean"] + 0.2
    assert found[1e7]["crossing_0.5"] > found[3e3]["crossing_0.5"]
    noise = np.random.default_rng(0).normal(size=(2, 2, 80, 80))
    independent = [Reconstruction(1 + n[0] + 1j * n[1], np.ones((80, 80)), (0.0, 0.0)) for n in noise]
    assert split_half_frc(*independent)["mean"] < 0.2


_WORKER = """
import sys, torch
from pathlib import Path
from ptychopinn.config import RefineConfig
from ptychopinn.scan import Scan
from ptychopinn.runtime.processes import processes
from ptychopinn.refinement.files import refine_to_files
torch.set_num_threads(1)
with processes(torch.device("cpu")) as device:
    config = RefineConfig(iterations=16, split_half=False, batch_size=16, learn_positions=True, find_defocus=False)
    refine_to_files(Scan.load(sys.argv[1]), None, Path(sys.argv[2]), config, device)
"""


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    small_scan(patterns=49).save(tmp_path / "scan.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def start(out: str, rank: int, size: int) -> subprocess.Popen[str]:
        more = {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path / "scan.npz"), str(tmp_path / out)],
            env={**os.environ, **more}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    started = [start("two.h5", rank, 2) for rank in range(2)] + [start("one.h5", 0, 1)]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    one, two = (Reconstruction.load(tmp_path / f"{name}.h5") for name in ("one", "two"))
    # Sums have another order, and sixteen passes amplify the rounding.
    for first, second in zip(*(r.refinement.deviance for r in (one, two)), strict=True):
        assert second == pytest.approx(first, rel=0.02)
    covered = one.covered()
    assert np.linalg.norm((one.object - two.object)[covered]) < 0.02 * np.linalg.norm(one.object[covered])


def test_refine_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ptychopinn")
    scan, out = tmp_path / "scan.npz", tmp_path / "refined.h5"
    small_scan(patterns=196).save(scan)
    quick = ["--iterations", "12", "--device", "cpu"]
    assert main(["refine", "--from-scratch", str(scan), "--out", str(out), *quick]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"12 passes over 196 patterns in \d+ s; the image explains them within \d\.\d+ times", printed)
    assert printed.count("split halves: FRC 0.5 at") == 1
    begins = [message.partition(",")[0] for message in caplog.messages if message.startswith("half")]
    assert begins == [f"half {number} of 2: pass 10 of 12" for number in (1, 2)]
    assert "refine: pass 10 of 12" in caplog.text and "two halves of the patterns" in caplog.text
    figures = {path.name for path in (tmp_path / "refined").iterdir()}
    assert figures == {
        "amplitude.png", "phase.png", "error_map.png", "probe.png", "refinement.png", "split_half.png",
        "refinement.ckpt", "findings.json",
    }  # fmt: skip
    assert main(["refine", "--from-scratch", str(scan), "--out", str(out), *quick]) == 2
    assert "expected a new file" in capsys.readouterr().err
    again = ["--iterations", "14", "--refine.split_half", "false", "--device", "cpu"]
    assert main(["refine", "--from-scratch", str(scan), "--out", str(out), "--resume", *again]) == 0
    assert "14 passes" in capsys.readouterr().out
    more = tmp_path / "more.npz"
    assert main(["refine", str(out), str(scan), "--out", str(more), *again]) == 0
    first, second = (Reconstruction.load(path) for path in (out, more))
    assert second.refinement.deviance[-1] < first.refinement.deviance[-1]
    assert second.residuals is not None
    assert second.residuals.shape == (196,)
    json.dumps(second.record().to_json(), allow_nan=False)
    assert main(["refine", str(scan), "--out", str(tmp_path / "x.h5")]) == 2
    assert "expected what to begin with" in capsys.readouterr().err
