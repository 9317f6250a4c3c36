# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks of the whole pipeline run on a tiny scan, and compute correctly; times are not asserted."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ptychopinn as pp

FOLDER = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def import_path() -> Iterator[None]:
    """That of a script in benchmarks/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_as_they_are_added(tmp_path: Path) -> None:
    from rows import Rows

    rows = Rows(tmp_path / "new", "some", {"what": "", "seconds": ".2f", "note": ""}, "a machine")
    rows.add({"what": "read", "seconds": 1.234567})
    assert table(tmp_path / "new" / "some.csv") == [{"what": "read", "seconds": "1.23457", "note": ""}]
    rows.add({"what": "save", "note": "n/a: nothing to save"})
    page = (tmp_path / "new" / "some.md").read_text()
    assert "| read | 1.23 |  |\n| save |  | n/a: nothing to save |" in page and "a machine" in page
    rows.rows[0]["note"] = "later"
    rows.write()
    assert table(tmp_path / "new" / "some.csv")[0]["note"] == "later"
    rows.save_json(tmp_path / "some.json")
    assert json.loads((tmp_path / "some.json").read_text()) == rows.rows
    with pytest.raises(AssertionError):
        rows.add({"other": 1})


def test_parts_of_a_reconstruction_are_functions_of_the_library() -> None:
    from watches import PARTS, owner

    for paths in PARTS.values():
        for path in paths:
            place, name = owner(path)
            assert callable(getattr(place, name))
    with pytest.raises(AttributeError):
        owner("ptychopinn.stitching.phases.no_such_function")


def test_timed_parts_add_up_and_are_undone() -> None:
    from watches import timed_parts

    from ptychopinn.stitching import phases

    before = phases.agreeing_phases
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "agreeing_phases", lambda *_: time.sleep(0.02))
        with timed_parts(CPU) as seconds:
            for _ in range(2):
                phases.agreeing_phases(0, None, None)  # type: ignore[arg-type]
    assert 0.04 <= seconds["phases"] < 1 and seconds["mosaic"] == 0
    assert phases.agreeing_phases is before


def test_busy_time_is_that_of_the_union() -> None:
    from watches import busy_fraction, union

    assert union([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
    assert union([]) == 0
    assert busy_fraction(lambda: pytest.fail("profiled"), CPU) is None


@pytest.mark.slow
def test_pipeline_writes_all_parts(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "pipeline.py", "--quick", "--device", "cpu", "--threads", "1"]
    command += ["--out", tmp_path, "--json", tmp_path / "rows.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row.get("note", "") for row in rows if "n/a" in row.get("note", "")] == []
    path = {row["what"]: row for row in rows if row["part"] == "path"}
    expected = ("start Python and import", "read file", "upload counts", "train: before the first epoch")
    expected += ("train: epoch 1", "train: epoch 2", "train: save and draw", "load model", "group", "predict")
    expected += ("overlap products", "phases", "mosaic", "the rest of reconstruct", "save", "pictures", "total")
    assert tuple(path) == expected
    total = path.pop("total")["seconds"]
    assert sum(row["seconds"] for row in path.values()) == pytest.approx(total)
    assert sum(row["share"] for row in path.values()) == pytest.approx(1)
    assert min(path[name]["seconds"] for name in ("overlap products", "phases", "mosaic", "group", "predict")) > 0
    parts = list(dict.fromkeys(row["part"] for row in rows))
    assert parts[1:3] == ["inference 36", "train, 1 group a step"] and parts[-1] == "quality, mean FRC 0.89"
    (refined,) = [row for row in rows if row["part"] == "refine 196"]
    assert refined["frc"] > 0.5 and refined["patterns_per_s"] == pytest.approx(3 * 196 / refined["seconds"])
    assert len(table(tmp_path / "pipeline.csv")) == len(rows)
    assert (tmp_path / "pipeline.md").read_text().count("\n| ") == len(rows) + 1


def test_failing_part_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline
    from rows import Rows

    def failing(bench: pipeline.Bench) -> Iterator[dict[str, object]]:
        yield {"part": "path", "what": "read file", "seconds": 1.0}
        raise ValueError("no such file\nat all")

    monkeypatch.setattr(pipeline, "PARTS", {"path": failing, "train": lambda bench: iter([{"part": "train"}])})
    rows = Rows(tmp_path, "pipeline", pipeline.COLUMNS, "")
    bench = pipeline.Bench(CPU, True, tmp_path)
    assert not pipeline.measure(bench, ["path", "train"], rows, None)
    assert [(row["part"], row.get("note")) for row in rows.rows] == [
        ("path", None), ("path", "n/a: ValueError: no such file"), ("train", None),
    ]  # fmt: skip
    late = Rows(None, "pipeline", pipeline.COLUMNS, "")
    assert pipeline.measure(bench, ["train"], late, -1.0)
    assert "not begun" in late.rows[0]["note"]


def test_first_state_that_reaches_a_score() -> None:
    import race

    scores = [0.2, 0.5, 0.89, 0.91, 0.93]
    states = [(number + 1, 0.5 * number, scores[number]) for number in range(5)]
    for level, passes in ((0.1, 1), (0.9, 4), (0.92, 5), (0.89, 3)):
        found = race.first_reaching(states, level, float)
        assert found is not None and found[0] == passes
    assert race.first_reaching(states, 0.95, float) is None


def test_race_runs_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import race
    import refine_peer

    monkeypatch.setattr(refine_peer, "installed", lambda: False)
    monkeypatch.setattr(race.logging, "disable", lambda level: None)
    arguments = ["--quick", "--device", "cpu", "--threads", "1", "--passes", "6", "--out", str(tmp_path)]
    assert race.main(arguments) == 0
    rows = table(tmp_path / "race.csv")
    assert [row["engine"] for row in rows[:2]] == ["ours, fourier", "ours, bilinear"]
    for row in rows[:2]:
        assert float(row["frc"]) > 0.8 and row["passes"] == "6"
        assert float(row["patterns_per_s"]) == pytest.approx(6 * 196 / float(row["seconds"]), rel=1e-4)
    assert len(rows) == 2 + len(race.SETTINGS)
    assert {row["note"] for row in rows[2:]} == {"n/a: pty-chi is not installed"}


def test_engine_that_fails_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import race
    import refine_peer

    def broken(*_: object) -> Iterator[race.State]:
        raise RuntimeError("no kernel")
        yield

    monkeypatch.setattr(refine_peer, "installed", lambda: True)
    monkeypatch.setattr(race, "lsqml", broken)
    rows = list(race.race(race.SMALL, 2, CPU))
    assert [row.get("note") for row in rows] == [None] * 2 + ["n/a: RuntimeError: no kernel"] * len(race.SETTINGS)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "two_devices.py", "--device", "cpu", "--quick", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table(tmp_path / "two_devices.csv")
    assert [row["what"] for row in rows] == ["train", "reconstruct", "refine"]
    assert all(float(row["difference"]) <= float(row["limit"]) and not row["note"] for row in rows)


def test_difference_of_two_runs_is_noticed(tmp_path: Path) -> None:
    import two_devices

    image = np.ones((4, 4), np.complex64)
    for name, factor in (("one", 1.0), ("two", 1.1)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "objects.npz", reconstruct=factor * image, refine=image)
        figures = {"seconds": dict.fromkeys(two_devices.LIMITS, factor), "losses": {"train_loss": 2.0}}
        (tmp_path / name / "figures.json").write_text(json.dumps(figures))
    rows = two_devices.compare(tmp_path / "one", tmp_path / "two")
    assert [row["note"] for row in rows] == ["", "DIFFERS", ""]
    assert rows[1]["difference"] == pytest.approx(0.1, rel=1e-5)


def test_time_limits_of_the_gpu_check() -> None:
    steps = re.findall(r"step \"?(\$?[\w-]+)\"? (\d+)", (FOLDER / "gpu_check.sh").read_text())
    limits = {name: int(seconds) for name, seconds in steps if name != "NAME"}
    library = [limits.pop(name) for name in ("library", "pipeline", "race", "two-devices")]
    assert sum(library) <= 8 * 60
    limits["three tools"] = 3 * limits.pop("$tool")
    assert sum(limits.values()) <= 10 * 60 and {"build", "import", "tests", "benchmark"} < limits.keys()


def test_names_of_the_public_interface() -> None:
    import pipeline

    assert set(pipeline.NAMES) <= set(pp.__all__)
