# SPDX-License-Identifier: BSD-3-Clause
"""The orientation benchmark runs, and its rows are consistent; results of the check are not asserted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ptychopinn.inspection.orientation import compose

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import orientation

        yield orientation


def row(group: str, **changes: Any) -> dict[str, Any]:
    return {
        "group": group, "mends": "swap", "twin": "", "margin": 20.0, "sure": True, "right": True, "refused": True,
        "size": 32, "off_y": 0, "off_x": 0, "found_y": 0.1, "found_x": 0.0, "photons": 1e5, "cpu_seconds": 1.0,
    } | changes  # fmt: skip


def test_scans_depend_on_the_seed_and_half_have_a_wrong_probe(bench: ModuleType) -> None:
    (first, drawn), (again, _), (other, _) = (bench.scan_of(seed) for seed in (4, 4, 5))
    assert np.array_equal(first.counts, again.counts) and not drawn["guess"]
    assert other.modes == 1 and bench.scan_of(5)[1]["guess"]
    shuffled, _ = bench.without_orientation(4)
    assert sorted(shuffled.positions.tolist()) == sorted(first.positions.tolist())
    assert not np.array_equal(shuffled.positions, first.positions)


def test_row_has_the_orientation_that_corrects_the_error(bench: ModuleType) -> None:
    found = bench.check("wrong", 4)
    assert compose(found["mends"], found["error"]) == "given" != found["error"]
    assert found["right"] == (found["mends"] in (found["best"], found["twin"]))


def test_summary_counts_each_kind_of_answer(bench: ModuleType) -> None:
    rows = [
        row("wrong"), row("wrong", right=False), row("wrong", twin="swap", mends="rotate_180", refused=False),
        row("right", refused=False), row("right", right=False), row("none", sure=False, refused=False, margin=1.0),
    ]  # fmt: skip
    text = "\n".join(bench.summary(rows))
    assert "with an error: right on 2 of 3, sure of 2; 1 as a pair" in text and "surely wrong on 1" in text
    assert "refused: 2 of 3; 1 cannot be told" in text
    assert "false alarms 1 of 2, sure of 1" in text and "sure of 0 of 1" in text
    assert "off by at most 0.10 px" in text
