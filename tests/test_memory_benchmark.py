# SPDX-License-Identifier: BSD-3-Clause
"""The memory benchmark runs, and measures memory correctly; times are not asserted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ptychopinn.models.registry import GENERATORS

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.delitem(GENERATORS, "level", raising=False)  # registered by every import
        patch.delitem(sys.modules, "memory", raising=False)
        import memory

        patch.setattr(memory, "SIZE", 32)
        patch.setattr(memory, "STEP", 7)
        patch.setattr(memory, "TILE", 5)
        yield memory
        GENERATORS.pop("level", None)


def test_virtual_scan_has_a_periodic_object(bench: ModuleType) -> None:
    scan = bench.virtual_scan(12, 11)
    assert scan.n == 132 and scan.counts.dtype == np.uint16
    moved = scan.positions.reshape(12, 11, 2)
    np.testing.assert_allclose(moved[5:] - moved[:-5], np.broadcast_to([35, 0], (7, 11, 2)), atol=1e-9)
    np.testing.assert_allclose(moved[:, 5:] - moved[:, :-5], np.broadcast_to([0, 35], (12, 6, 2)), atol=1e-9)
    counts = scan.counts[:].reshape(12, 11, 32, 32)
    assert np.array_equal(counts[5:, 5:], counts[:-5, :-5]) and not np.array_equal(counts[0, 0], counts[0, 1])


def test_peak_includes_the_process_and_its_workers(bench: ModuleType, tmp_path: Path) -> None:
    watch = bench.Peak()
    with subprocess.Popen([sys.executable, "-c", 'x = b"x" * (300 << 20); input()'], stdin=subprocess.PIPE) as child:
        until = time.monotonic() + 20
        while watch.figures()["workers_gb"] < 0.3 and time.monotonic() < until:
            time.sleep(0.05)
        child.communicate(b"\n")
    # Before it starts its program, a child has the size of this process.
    assert watch.figures()["workers_gb"] > 0.3 and watch.figures()["peak_gb"] > 0.1
    found = bench.peak("pass", 0.001, 0, tmp_path, 1.0)
    assert found["what"] == "pass" and found["used"] == found["patterns"] >= 24
    assert found["per_s"] > 0 and (tmp_path / "r.h5").exists()
    assert set(found) <= set(bench.FIELDS)
