# SPDX-License-Identifier: BSD-3-Clause
"""Sound scans have no problem in the check before training: those of benchmarks and tests, and a measured one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ptychopinn.findings.finding import Finding
from ptychopinn.findings.gate import require_sound
from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from orientation import scan_of  # noqa: E402
from scans import OTHER_PICTURES, PICTURES, default_scan, lines_scan  # noqa: E402


def findings(scan: Scan) -> tuple[Finding, ...]:
    return require_sound(scan).findings


@pytest.mark.parametrize("pictures", PICTURES + OTHER_PICTURES, ids="-".join)
def test_scans_of_the_quality_benchmark(pictures: tuple[str, str]) -> None:
    for options in ({}, {"photons": 1e4}, {"step": 5.0, "side": 20}, {"position_error": 2.0}):
        assert findings(default_scan(pictures, **{"side": 16, **options})) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("probe", PROBES)
def test_scans_of_lines(probe: str) -> None:
    assert findings(lines_scan(probe, 1, patterns=144)) == ()


@pytest.mark.parametrize("photons", [1e3, 1e5, 1e9])
@pytest.mark.parametrize("sample", OBJECTS)
def test_simulated_scans(sample: str, photons: float) -> None:
    for probe in PROBES:
        for path in ("raster", "spiral"):
            assert findings(simulate(sample, probe, path, patterns=64, size=32, photons=photons, seed=7)) == ()


def test_scans_of_the_orientation_benchmark_that_are_centred() -> None:
    """With wrong guesses of the probe; those that are off centre by more than the limit are refused for that alone."""
    for seed in range(20):
        scan, _ = scan_of(seed)
        problems = {f.key for f in require_sound(scan, accept="all").findings if f.severity == "problem"}
        assert problems <= {"centre"}, seed


@pytest.mark.parametrize("name", ["product.h5", "training_data.h5"])
def test_scans_of_ptychodus(name: str) -> None:
    assert findings(Scan.load(ROOT / "tests" / "data" / "ptychodus" / name)) == ()


@pytest.mark.skipif("PTYCHO_MEASURED_SCAN" not in os.environ, reason="PTYCHO_MEASURED_SCAN names no measured scan")
def test_measured_scan() -> None:
    require_sound(Scan.load(os.environ["PTYCHO_MEASURED_SCAN"]))
