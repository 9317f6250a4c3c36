# SPDX-License-Identifier: BSD-3-Clause
"""What `ptychopinn doctor` reports of GPUs and of operators that crash, for builds and machines other than this one."""

from __future__ import annotations

import pytest
import torch

import ptycho_ext
from ptychopinn.runtime import doctor
from ptychopinn.runtime.float32 import float32_precision


@pytest.mark.parametrize(
    ("of_operators", "of_torch", "problem"),
    [
        ("13.0.88", "13.0", None),
        ("", "13.0", "the operators were built without CUDA"),
        ("13.0.88", "12.8", "the operators were built with CUDA 13.0.88 and torch with 12.8"),
    ],
)
def test_gpu_that_the_operators_do_not_support_is_reported(
    monkeypatch: pytest.MonkeyPatch, of_operators: str, of_torch: str, problem: str | None
) -> None:
    monkeypatch.setattr(ptycho_ext, "build_info", lambda: {"cuda": of_operators})
    monkeypatch.setattr(torch.version, "cuda", of_torch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    facts, problems = doctor._cuda()
    assert facts == [("cuda", f"torch built for CUDA {of_torch}: H100")]
    assert [p.startswith(str(problem)) for p in problems] == ([] if problem is None else [True])


def test_operators_pass_their_self_test() -> None:
    assert doctor.operator_devices()[0] == "cpu"
    assert doctor.operators_problem("cpu") is None


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the operators crash on cpu (signal 11): rebuild them with the system compiler: "
            "CXX=/usr/bin/g++ pip install --no-build-isolation --no-deps --force-reinstall .",
        ),
        (
            "import sys; sys.exit('computes wrong values')",
            "the operators fail on cpu (computes wrong values): rebuild them: "
            "CXX=/usr/bin/g++ pip install --no-build-isolation --no-deps --force-reinstall .",
        ),
    ],
)
def test_operators_that_crash_are_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], child: str, problem: str
) -> None:
    monkeypatch.setattr(doctor, "_SELF_TEST", child)
    monkeypatch.setattr(doctor, "operator_devices", lambda: ["cpu"])
    assert doctor._operators() == ([("operators", "self-test: cpu failed")], [problem])
    assert doctor.check_operators() == 1
    assert capsys.readouterr().out == f"self-test: cpu failed\n{problem}\n"


def test_device_that_auto_takes_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._device()[0][0][1].startswith("the CPU, ")
    monkeypatch.setattr(doctor, "resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(doctor, "free_memory", lambda device: 1.5e9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert doctor._device() == ([("device auto", "cuda:0, H100, 1.5 GB of memory free")], [])


def test_tf32_of_torch_is_reported() -> None:
    with float32_precision("32"):
        ((_, value),), _ = doctor._precision()
    assert value.startswith("torch: off for convolutions, off for matrix products; ptychopinn: off, unless")


@pytest.mark.parametrize(
    ("child", "result"),
    [
        ("", "captured"),
        ("import sys; print('a warning', file=sys.stderr); sys.exit(1)", "not captured: a warning"),
        ("import sys; sys.exit('computes wrong values')", "not captured: computes wrong values"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "not captured: exit code -11"),
    ],
)
def test_captures_are_tried_on_every_gpu(monkeypatch: pytest.MonkeyPatch, child: str, result: str) -> None:
    assert doctor._graphs() == ([("cuda graphs", "none without a GPU")], [])
    monkeypatch.setattr(doctor, "_CAPTURE", child)
    monkeypatch.setattr(doctor, "operator_devices", lambda: ["cpu", "cuda:0"])
    assert doctor._graphs() == ([("cuda graphs", f"cuda:0 {result}")], [])


def test_script_of_the_capture_runs_on_the_cpu_where_nothing_is_captured() -> None:
    done = doctor._in_own_process(doctor._CAPTURE, "cpu")
    assert done is not None and (done.returncode, done.stderr) == (1, "")
