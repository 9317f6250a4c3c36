# SPDX-License-Identifier: BSD-3-Clause
"""A sample of the benchmark of the diagnosis: two faults are named after a short training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ptychopinn.diagnosis.causes import CAUSES

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import diagnose

        yield diagnose


def test_faults_have_every_cause_and_a_set_is_of_thirty(bench: ModuleType) -> None:
    # The other two causes have rates of their own, in tests/ptychopinn/test_effects.py.
    assert set(bench.FAULTS.values()) == set(CAUSES) - {"none", "fly_scan", "probe_varies"}
    assert len(bench.cases()) == 30 and len(bench.FAULTS) == 20


def test_scans_depend_on_the_seed_of_the_set(bench: ModuleType) -> None:
    (first, _, _), (again, _, _), (other, _, _) = (bench.draw(seed, 7, "random positions") for seed in (3, 3, 4))
    assert np.array_equal(first.counts, again.counts) and np.array_equal(first.positions, again.positions)
    assert first.counts.shape != other.counts.shape or not np.array_equal(first.counts, other.counts)


@pytest.mark.parametrize("fault", ["swapped axes", "detector units"])
def test_fault_is_named_after_a_short_training(bench: ModuleType, fault: str, tmp_path: Path) -> None:
    seed, index = 3, list(bench.FAULTS).index(fault)
    row = bench.check(seed, index, fault, tmp_path, effort=0.1)
    assert row["size"] == 32, "a seed of a quick case"
    assert row["found"] == bench.FAULTS[fault] and row["right"]
