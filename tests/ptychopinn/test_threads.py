# SPDX-License-Identifier: BSD-3-Clause
"""Calls from worker threads, and two at once: same results, no handler installed, and the process as before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_flags import caller, flags
from tiny_runs import tiny, tiny_scan

import ptychopinn
from ptychopinn.config import RefineConfig
from ptychopinn.inference.predict import reconstruct
from ptychopinn.inspection import inspect_scan
from ptychopinn.models import PtychoModel
from ptychopinn.physics.simulate import simulate
from ptychopinn.refinement.workflow import refine
from ptychopinn.scan import Scan


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [simulate("dead_leaves", patterns=36, size=32, photons=1e5, seed=seed) for seed in (3, 4)]


@pytest.fixture(scope="module")
def model() -> PtychoModel:
    return PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, 32)


def of_process() -> dict[str, Any]:
    """All but what torch has for each thread."""
    return {key: value for key, value in flags().items() if key not in ("device", "gradients")}


def two_at_once(call: Callable[[Scan], Any], scans: list[Scan]) -> list[Any]:
    """Results of a call for each scan, begun together in threads of a pool."""
    ready = threading.Barrier(len(scans))

    def work(scan: Scan) -> Any:
        ready.wait(60)
        return call(scan)

    with ThreadPoolExecutor(len(scans)) as pool:
        return list(pool.map(work, scans))


def test_reconstructions_at_once(scans: list[Scan], model: PtychoModel) -> None:
    config = tiny()
    expected = [reconstruct(model, scan, config).object for scan in scans]
    for got, want in zip(
        two_at_once(lambda scan: reconstruct(model, scan, config).object, scans), expected, strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_inspections_at_once(scans: list[Scan]) -> None:
    expected = [inspect_scan(scan) for scan in scans]
    before = of_process()
    for got, want in zip(two_at_once(inspect_scan, scans), expected, strict=True):
        assert got.orientation == want.orientation and got.findings == want.findings
    assert of_process() == before


def test_refinements_at_once(scans: list[Scan]) -> None:
    config = RefineConfig(iterations=3)
    expected = [refine(scan, None, config).object for scan in scans]
    for got, want in zip(two_at_once(lambda scan: refine(scan, None, config).object, scans), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_run_in_a_thread_installs_no_handler_and_restores_the_process(scans: list[Scan]) -> None:
    config, installed = tiny(execution={"threads": 1}), list[int]()
    original = signal.signal

    def watch(number: int, handler: Any) -> Any:
        installed.append(number)
        return original(number, handler)

    expected = ptychopinn.run(scans[0], config=config)[0]
    before = of_process()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", watch)
        (got,) = two_at_once(lambda scan: ptychopinn.run(scan, config=config)[0], scans[:1])
    np.testing.assert_array_equal(got, expected)
    assert of_process() == before and not installed


def test_run_restores_the_process(tmp_path: Path) -> None:
    ptychopinn.run(tiny_scan(), config=tiny())  # imports, which add filters of warnings
    with caller():
        before = flags()
        ptychopinn.run(tiny_scan(), config=tiny(execution={"deterministic": True}), out=tmp_path / "run")
        assert flags() == before


def test_run_that_fails_restores_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with caller():
        before = flags()
        with pytest.raises(ptychopinn.InputError):
            ptychopinn.run(tiny_scan(), config=tiny(execution={"threads": 1}), out=tmp_path / "file" / "run")
        assert flags() == before
