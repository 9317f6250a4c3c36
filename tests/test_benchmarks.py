# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks run, and compare equal results, on the tiny case; times are not asserted."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEYS = {"case", "op", "dtype", "threads", "ours_ms", "copy_ms", "best_torch_ms", "best_torch_name"}


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """benchmarks/run.py, with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import run

    return run


def test_script_lists_its_cases_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    listed = dict(line.split(": ") for line in done.stdout.splitlines())
    assert {"small-5000x64-1000", "large-20000x64-4096", "translate-2048x64", "tiny"} <= set(listed)
    assert listed["translate-2048x64"] == "translate"


def test_tiny_case_end_to_end(run: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert run.main(["--case", "tiny", "--threads", "1", "--repeats", "2", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert {(row["op"], row["dtype"]) for row in rows} == {(op, t) for op in run.OPS for t in ("float32", "complex64")}
    for row in rows:
        assert row.keys() >= KEYS
        assert (row["case"], row["threads"], row["rounds"]) == ("tiny", 1, 2)
        assert min(row["ours_ms"], row["copy_ms"], row["best_torch_ms"]) > 0
        assert row["ways"][row["best_torch_name"]]["error"] <= run.TOLERANCE
    assert run.format_csv(rows).splitlines()[0].split(",")[:4] == ["case", "op", "dtype", "threads"]
    assert run.format_markdown(rows, 0.0).count("| tiny") == len(rows)


def test_row_with_other_programs_running_is_marked(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: {0, 1})
    row = run.measure(run.CASES["tiny"], "translate", torch.float32, repeats=1)
    alone, beside = row | {"threads": 2, "other_cores": 0.1}, row | {"threads": 2, "other_cores": 0.9}
    assert "| tiny |" in run.format_markdown([alone], 0.0)
    assert "| tiny † |" in run.format_markdown([beside], 0.0)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_every_method_agrees_with_ours(run: ModuleType, groups: int, dtype: torch.dtype) -> None:
    ops = run.OPS if groups == 1 else sys.modules["cases"].GROUP_OPS
    problem = run.make_problem(run.Case("some", 7, 8, 19, groups=groups), dtype, seed=4)
    for op in ops:
        want = run.ours(op, problem, run.make_plan(op, problem)[0])()
        for name, way in run.WAYS[op].items():
            error = run.relative_error(way.prepare(problem)(), want)
            assert error < 2e-5, f"{op}, {name}"


def test_wrong_method_is_never_the_best(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from peers import Way

    wrong = Way(lambda problem: lambda: torch.zeros_like(problem.patches))
    monkeypatch.setitem(run.WAYS["extract"], "zeros", wrong)
    row = run.measure(run.CASES["tiny"], "extract", torch.float32, repeats=1)
    assert row["ways"]["zeros"]["error"] == 1.0
    assert row["best_torch_name"] != "zeros"
    assert "zeros" in run.format_markdown([row], 0.0) and "inexact" in run.format_markdown([row], 0.0)


def test_every_patch_is_inside_its_canvas(run: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    for case in run.CASES.values():
        if "extract" in case.ops:
            positions = sys.modules["cases"].raster(case, generator)
            assert positions.min() >= 0
            assert positions.max() + case.patch <= case.canvas - 1


def test_part_of_a_problem_is_its_first_items(run: ModuleType) -> None:
    scan = run.make_problem(run.Case("scan", 7, 8, 19), torch.float32)
    assert torch.equal(scan.part(3).patches, scan.patches[:3]) and scan.part(3).canvas is scan.canvas
    groups = run.make_problem(run.Case("groups", 4, 8, 19, groups=5), torch.float32)
    assert torch.equal(groups.part(2).canvas, groups.canvas[:2]) and groups.part(2).items == 2
    assert groups.part(9) is groups


def test_operator_without_a_case_is_reported(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--case", "translate-2048x64", "--op", "extract", "--threads", "1"]) == 2
    assert "No case" in capsys.readouterr().out


def test_likelihood_script_compares_equal_results(run: ModuleType, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import likelihood
    file = tmp_path / "rows.json"
    small = ["--patterns", "3", "--modes", "1", "2", "--threads", "1", "--repeats", "1"]
    assert likelihood.main([*small, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert len(rows) == 12 and all(row["error"] < 1e-4 and row["ours_ms"] > 0 for row in rows)


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """benchmarks/gpu.py, with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import gpu

    return gpu


def test_variants_of_the_kernels_are_lines_of_the_sources(tmp_path: Path) -> None:
    """A variant whose line was changed meanwhile would be timed as what it is not."""
    script = FOLDER / "gpu_variants.sh"
    environment = {**os.environ, "DRY_RUN": "1", "PYTHON": sys.executable}
    done = subprocess.run([script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": differs") > 5


def test_gpu_script_measures_and_writes_tables(tmp_path: Path) -> None:
    """Run all code on the CPU; its times are not those of a GPU."""
    arguments = ["--repeats", "2", "--case", "tiny", "--device", "cpu", "--backend", "eager", "--out", tmp_path]
    subprocess.run([sys.executable, FOLDER / "gpu.py", *arguments], capture_output=True, text=True, check=True)
    with (tmp_path / "cpu.csv").open() as sheet:
        rows = list(csv.DictReader(sheet))
    ours = [row for row in rows if row["way"] == "ours"]
    ops = ("extract", "adjoint", "reassemble", "grad_positions", "overlap", "translate")
    ops += ("exit_waves", "exit_waves_adjoint", "exit_waves_adjoint_probe")
    assert [(row["op"], row["dtype"]) for row in ours] == [(op, t) for t in ("float32", "complex64") for op in ops]
    for row in ours:
        assert float(row["error"]) < 1e-5
        assert float(row["ceiling_us"]) == min(float(row["copy_us"]), float(row["neg_us"]))
        assert row["ceiling"] in ("copy", "neg") and float(row[f"{row['ceiling']}_us"]) == float(row["ceiling_us"])
        at_ceiling = float(row["bytes"]) / (1e6 * float(row["ceiling_tb_per_s"]))
        assert float(row["share"]) == pytest.approx(at_ceiling / float(row["us"]), rel=1e-5)
    host = [row for row in rows if row["way"].startswith("host")]
    assert {(row["op"], row["way"]) for row in host} >= {("extract", "host, public"), ("extract", "host, torch.ops")}
    assert all(float(row["us"]) > 0 and not row["note"] for row in host)
    (memset,) = [row for row in rows if row["way"] == "memset, torch"]
    assert float(memset["us"]) > 0
    others = [row for row in rows if row not in ours and row not in host and row != memset]
    assert len(others) == 2 * 4
    for row in others:
        if row["note"].startswith("n/a: "):
            assert row["way"] == "pty-chi" and not row["us"]  # it runs on a GPU only
        else:
            assert float(row["error"]) < 1e-5 and float(row["us"]) > 0 and float(row["ours_us"]) > 0
    page = (tmp_path / "cpu.md").read_text()
    assert page.count("| tiny |") == len(ours) + len(others) and page.count("| host-") == len(host)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_bytes_moved_by_an_operator(gpu: ModuleType, dtype: torch.dtype) -> None:
    problem = gpu.make_problem(gpu.CASES["tiny"], dtype)
    stack, canvas = 12 * 8 * 8 * dtype.itemsize, 24 * 24 * dtype.itemsize
    moved = {name: op.bytes(problem) for name, op in gpu.OPS.items()}
    sums = canvas if dtype == torch.float32 else canvas // 2
    assert moved == {
        "extract": stack + canvas,
        "adjoint": stack + canvas,
        "reassemble": stack + canvas + sums,
        "grad_positions": stack + canvas,
        "overlap": 2 * stack,
        "translate": 2 * stack,
        **{
            name: 2 * stack + 2 * 8 * 8 * dtype.itemsize + canvas
            for name in ("exit_waves", "exit_waves_adjoint", "exit_waves_adjoint_probe")
        },
    }


def test_ceiling_is_the_faster_of_copy_and_neg(gpu: ModuleType) -> None:
    slow_copy, slow_neg = gpu.Ceiling(1180.0, 770.0, 1_600_000), gpu.Ceiling(80.0, 82.0, 160_000)
    assert (slow_copy.name, slow_copy.us) == ("neg", 770.0) and (slow_neg.name, slow_neg.us) == ("copy", 80.0)
    assert slow_neg.columns(160_000, 50.0)["share"] == pytest.approx(0.8)  # 40 us at 4,000 bytes a microsecond


@pytest.mark.parametrize("fault", ["backend", "result"])
def test_failing_method_is_reported_and_not_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "result":
        zeros = lambda inputs, _: [lambda i=i: torch.zeros_like(i.patches) for i in inputs]  # noqa: E731
        wrong = replace(gpu.PEERS["extract"]["compiled gather"], make=zeros)
        monkeypatch.setattr(gpu, "PEERS", {"extract": {"zeros": wrong}})
    else:
        monkeypatch.setattr(gpu, "PEERS", {"extract": {"compiled": gpu.PEERS["extract"]["compiled gather"]}})
    (row,) = gpu.measure_peers(gpu.Device("cpu"), gpu.CASES["tiny"], torch.float32, 1, "no such backend")
    assert row["note"].startswith("n/a: ") and "us" not in row
    assert ("differs from ours" if fault == "result" else "no such backend") in row["note"]
    assert row["note"] in gpu.format_row(row)


def test_gpu_script_writes_each_row_when_it_is_measured(gpu: ModuleType, tmp_path: Path) -> None:
    table = gpu.Table(tmp_path, gpu.Device("cpu"))
    for lines in (2, 3):
        table.add({"case": "some", "op": "extract", "dtype": "float32", "way": "host, public", "us": 1.0})
        assert len((tmp_path / "cpu.csv").read_text().splitlines()) == lines
        assert (tmp_path / "cpu.md").read_text().count("| some |") == lines - 1


@pytest.mark.parametrize("op", ["extract", "adjoint", "reassemble", "grad_positions"])
def test_gpu_script_detects_a_wrong_result(gpu: ModuleType, op: str) -> None:
    problem = gpu.make_problem(gpu.CASES["tiny"], torch.complex64)
    patches, canvas = torch.empty_like(problem.patches), torch.empty_like(problem.canvas)
    got = gpu.OPS[op].make(gpu.Inputs(problem, None, patches, canvas))().clone()
    assert gpu.check(op, problem, None, got, patches) < gpu.ERROR
    assert gpu.check(op, problem, None, got.roll(1, -1), patches) > 10 * gpu.ERROR
    assert not gpu.check(op, problem, None, got * torch.nan, patches) < gpu.ERROR
